"""The public functions: called by the command line, the quickstart and notebooks; `vimss` exports most of them.

    with open_session("local") as session:
        manifest = write_shards(session, "quickstart", load_recipe("quickstart"))
        study = run_search(session, load_experiment("quickstart"), manifest)

Each stage has its own module, which does not know the later stages; these functions combine them.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from vimss import evaluations, features
from vimss.console import err, show_fetching
from vimss.errors import ConfigError, DataError, TrainingError
from vimss.evaluate import Evaluation
from vimss.evaluate.figures import FigureEvaluation
from vimss.evaluate.kept import KeptRows, kept_file
from vimss.experiment import Experiment
from vimss.model.card import WEIGHTS
from vimss.model.contexts import motion
from vimss.model.pretrained import pretrained_folder
from vimss.model.vision_config import KNOWN_WEIGHTS, VisionConfig
from vimss.pages.of_clip import write_clip_pages
from vimss.pages.of_trial import run_files
from vimss.progress import SoundProgress
from vimss.search import run
from vimss.search.checks import check_experiment
from vimss.search.estimate import Estimate, estimate_search
from vimss.search.events import Reporter
from vimss.search.left_out import left_out
from vimss.search.lock import locked
from vimss.search.remote import make_folders, mirrored, pull, push
from vimss.search.room import check_room
from vimss.search.run import search
from vimss.search.stopped import stopped_trial
from vimss.search.study import (
    Study,
    TrialRecord,
    best_of_cell,
    in_cells,
    read_study,
    study_folder,
)
from vimss.session import Session
from vimss.shards import verify, write
from vimss.shards.manifest import Manifest, open_shards
from vimss.shards.recipe import Recipe, load_recipe, recipe_name
from vimss.shards.written import written_shards
from vimss.storage import Folder, atomic_write, kept_beside
from vimss.track import model_folder
from vimss.track.sync import Synced, sync, syncing
from vimss.train.objectives import OBJECTIVES
from vimss.train.start_from import NEW


def write_shards(
    session: Session,
    name: str | Path,
    recipe: Recipe,
    source: str | Path | None = None,
    on_progress: Callable[[SoundProgress], None] | None = None,
) -> Manifest:
    """Write the shards of a recipe into the session's store, or open them if they exist.

    `name` is the recipe's; `source` is the folder of a corpus that is not generated.
    """
    folder = None if source is None else Path(source)
    if folder is not None and not folder.is_dir():
        raise ConfigError("--source must name the folder of a corpus", got=f"no folder {folder}", fix="check the path")
    return write.write_shards(recipe, recipe_name(name), session.store, folder, on_progress)


def check_shards(
    session: Session, name: str | Path, recipe: Recipe, show_progress: Callable[[str], None] = lambda _: None
) -> tuple[Folder, list[verify.ShardReport]]:
    """Read every shard of a recipe; return their folder and the findings for each."""
    folder = _shards_folder(session, name, recipe)
    done = 0

    def count(found: verify.ShardReport) -> None:
        nonlocal done
        done += 1
        show_progress(f"{done} shards read" + (f"; {found.wrong[0]}" if found.wrong else ""))

    return folder, verify.check_shards(folder, count)


def _shards_folder(session: Session, name: str | Path, recipe: Recipe) -> Folder:
    """Where the shards of a recipe must lie; ConfigError where it would be in a store that is not there."""
    if session.store.shards_at is None:
        session.store.check_exists()
    return write.shards_folder(recipe, recipe_name(name), session.store)


def show_shards(session: Session, manifest: Manifest) -> list[Path]:
    """Write a page to look at and listen to for one clip of each split; return their paths in the store."""
    return write_clip_pages(manifest, session.store.shows / f"{manifest.name}-{manifest.signature}")


def write_features(
    session: Session,
    name: str | Path,
    recipe: Recipe,
    vision: VisionConfig,
    device: str = "cpu",
    show_progress: Callable[[str], None] = lambda _: None,
    every: float = 0.0,
) -> Folder:
    """Compute the vision features of a recipe's shards, beside them; return their folder."""
    compute = functools.partial(features.write_features, vision=vision, device=device, every=every)
    return _write_computed(session, name, recipe, compute, show_progress)


def write_motion(
    session: Session, name: str | Path, recipe: Recipe, show_progress: Callable[[str], None] = lambda _: None
) -> Folder:
    """Compute the motion in the pictures of a recipe's shards, beside them; return its folder."""
    return _write_computed(session, name, recipe, motion.write_motion, show_progress)


def _write_computed(
    session: Session,
    name: str | Path,
    recipe: Recipe,
    compute: Callable[..., Folder],
    show_progress: Callable[[str], None],
) -> Folder:
    """Compute something beside a recipe's shards; `compute` takes them, and `on_done` for the number that are done."""
    folder = _shards_folder(session, name, recipe)
    manifest = open_shards(folder, session.store)
    total = len(manifest.shards)
    return compute(manifest, on_done=lambda done: show_progress(f"{done} of {total} shards"))


def experiment_recipe(experiment: Experiment) -> Recipe:
    """The recipe of an experiment's shards, with the experiment's changes, and its seed if it sets one."""
    return load_recipe(experiment.shards, list(_key_values(experiment.recipe)), _own_seed(experiment))


def resolve_models(session: Session, experiment: Experiment) -> Experiment:
    """The experiment with folders in place of models:/NAME, which only the registry knows, and with whole paths."""

    def folder_of(model: str) -> str:
        if model.startswith("models:/"):
            return str(model_folder(model, session.tracking))
        # The processes of trials may run in another folder.
        return model if model == NEW else str(pretrained_folder(model) or Path(model).expanduser().resolve())

    def file_of(model: str) -> str:
        if model.startswith("models:/"):
            return f"{folder_of(model)}/{WEIGHTS}"
        return model if model in KNOWN_WEIGHTS else str(Path(model).expanduser().resolve())

    resolved = experiment.with_values("training.start_from", folder_of)
    resolved = resolved.with_values("model.vision.weights", file_of)
    systems = {
        name: system.model_copy(update={"instruments_from": folder_of(system.instruments_from)})
        for name, system in experiment.systems.items()
    }
    return resolved.model_copy(update={"systems": systems})


def load_shards(session: Session, experiment: Experiment) -> Manifest:
    """The shards of an experiment; DataError with the command that writes them where they do not exist yet."""
    manifest = _written(session, experiment, experiment.shards, experiment.recipe)
    more = [(_written(session, experiment, name, {}), share) for name, share in experiment.more_shards.items()]
    return manifest.mixed_with(more)


def _written(session: Session, experiment: Experiment, name: str, recipe: Mapping[str, Any]) -> Manifest:
    """The shards of one recipe, with the experiment's changes to it."""
    seed, changes = _own_seed(experiment), list(_key_values(recipe))
    return written_shards(session.store, name, f"the shards of the experiment '{experiment.name}'", seed, changes)


def _own_seed(experiment: Experiment) -> int | None:
    """The seed that an experiment sets; its default must not replace the seed of a recipe."""
    return experiment.seed if "seed" in experiment.model_fields_set else None


def _key_values(content: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Nested settings as `key.path=value`."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _key_values(value, f"{path}{key}.")
        else:
            yield f"{path}{key}={json.dumps(value)}"


def run_search(
    session: Session,
    experiment: Experiment,
    manifest: Manifest,
    reporters: Sequence[Reporter] = (),
    *,
    wait: bool = False,
) -> Study:
    """Run all trials of an experiment and record them in MLflow; earlier trials are kept.

    If another process is searching this study: StorageError, or with `wait` wait until it has ended. If MLflow is away,
    `sync_runs` records later what it has missed.
    """
    check_experiment(experiment, manifest, session.place)
    check_room(session.place)
    with _open_study(session, experiment, manifest, wait):
        return search(experiment, manifest, session.place, session.store, reporters)


def continue_trial(
    session: Session,
    experiment: Experiment,
    manifest: Manifest,
    trial: str,
    reporters: Sequence[Reporter] = (),
    *,
    wait: bool = False,
) -> Study:
    """Train one trial that stopped to its whole budget, and record it in MLflow; otherwise as `run_search`.

    `trial` is its name or the beginning of it. TrainingError where it does not finish.
    """
    check_room(session.place)
    name = stopped_trial(experiment, load_study(session, experiment, manifest), trial).trial
    with _open_study(session, experiment, manifest, wait):
        study = run.continue_trial(experiment, manifest, session.place, session.store, name, reporters)
        (record,) = {record.folder: record for record in study.records if record.trial == name}.values()
        if record.state != "finished":
            raise TrainingError(
                f"trial {name} must be trained to its end",
                got=f"{record.state}: {record.message.partition('. To fix:')[0]}",
                fix="the same command continues it from its last checkpoint",
            )
        return study


@contextmanager
def _open_study(session: Session, experiment: Experiment, manifest: Manifest, wait: bool) -> Iterator[None]:
    """Hold the lock of a study for the block, and sync its runs; those that have ended once the lock is free again."""
    folder = study_folder(experiment, manifest, session.store)
    session.store.make()
    with ExitStack() as lock:
        lock.enter_context(locked(folder, _print_lock_owner if wait else None))
        lock.enter_context(mirrored(folder, show_fetching(folder.name)))
        with syncing(session.tracking, experiment, manifest, folder), closing(lock):
            yield


def estimate(session: Session, experiment: Experiment, manifest: Manifest) -> Estimate:
    """The estimated cost of `run_search` from its current state; starts no trial and writes nothing."""
    check_experiment(experiment, manifest, session.place)
    study = in_cells(experiment, read_study(_pulled(session, experiment, manifest)))
    left_out(experiment, study, session.place)  # an error where that is everything
    return estimate_search(experiment, manifest.recipe, session.place, study.records)


def _print_lock_owner(owner: str) -> None:
    err.print(f"waiting for {owner}, which is searching this study")


def sync_runs(session: Session, experiment: Experiment, manifest: Manifest) -> Synced:
    """Write what MLflow lacks of an experiment's runs, from the records on disk. PlaceError if it does not answer."""
    return sync(session.tracking, experiment, manifest, _pulled(session, experiment, manifest))


def write_pictures(
    experiment: Experiment, manifest: Manifest, study: Study, on_progress: Callable[[str], None] = lambda progress: None
) -> None:
    """Write curves, spectrograms and listening pages beside the trials of a study, where its networks separate.

    About a second for each trial; `on_progress` gets the number of the cell.
    """
    if not OBJECTIVES[experiment.objective].separates:
        return
    for path, content in run_files(experiment, manifest, study, on_progress):
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    push(study.folder)


def _pulled(session: Session, experiment: Experiment, manifest: Manifest) -> Path:
    """The folder of a study, which is brought up to date where it is the copy of one behind a URL."""
    folder = study_folder(experiment, manifest, session.store)
    pull(folder, show_fetching(folder.name))
    return folder


def load_study(session: Session, experiment: Experiment, manifest: Manifest) -> Study:
    """The trials of an earlier search; DataError where there are none."""
    folder = _pulled(session, experiment, manifest)
    everything = read_study(folder)
    study = in_cells(experiment, everything)
    if not study.records:
        others = len(everything.records)
        raise DataError(
            f"the experiment '{experiment.name}' must have been searched first",
            got=f"no trials in {folder}" + (f" with its settings, {others} with others" if others else ""),
            fix="run `vimss search` with the same experiment, --seed and --set",
        )
    return study


def earlier_studies(session: Session, experiment: Experiment, manifest: Manifest) -> str:
    """A sentence about other studies of an experiment of this name; empty where there are none."""
    make_folders(session.store.studies)
    count = len(kept_beside(study_folder(experiment, manifest, session.store)))
    if not count:
        return ""
    studies, are, they = ("study", "is", "it was") if count == 1 else ("studies", "are", "they were")
    return (
        f"{count} earlier {studies} of {experiment.name} {are} kept in {session.store.studies}; {they} made with other "
        "data or by an earlier version"
    )


def uncounted_trials(session: Session, experiment: Experiment, manifest: Manifest) -> str:
    """A sentence about trials of the same study that the experiment does not have any more; empty without any."""
    everything = read_study(_pulled(session, experiment, manifest))
    counted = {record.folder for record in in_cells(experiment, everything).records}
    count = sum(record.counts and record.folder not in counted for record in everything.records)
    if not count:
        return ""
    trials, are = ("trial", "it is") if count == 1 else ("trials", "they are")
    return (
        f"{everything.folder} also holds {count} {trials} of cells or axis values that the experiment no longer has; "
        f"{are} kept but not counted"
    )


def check_finished(experiment: Experiment, study: Study, without: Collection[str] = ()) -> None:
    """TrainingError, with the state of its trials, where a cell has no finished trial, or an interrupted one.

    The cells of these names need none: this machine cannot train them.
    """
    ends: list[str] = []
    for cell in (cell for cell in experiment.cells() if cell.name not in without):
        records = study.of_cell(cell.name)
        states = Counter(record.state for record in records)
        if not states["finished"] or states["interrupted"] or states["waiting"]:
            counts = ", ".join(f"{count} {state}" for state, count in states.items()) or "no trial"
            # How to fix each of them was printed when it ended.
            reasons = dict.fromkeys(record.message.partition(". To fix:")[0] for record in records if record.message)
            ends.append(f"cell '{cell.name}': {'; '.join([counts, *reasons])}")
    if ends:
        raise TrainingError(
            "every cell must have a finished trial, and none that was interrupted",
            got=". ".join(ends),
            fix="correct what made trials fail, or run the same command again to resume the interrupted ones",
        )


def best_trials(experiment: Experiment, study: Study) -> dict[str, TrialRecord]:
    """The best trial of each cell, by the cell's name; cells without weights are left out."""
    found = {cell.name: best_of_cell(study, cell.name) for cell in experiment.cells()}
    return {cell: trial for cell, trial in found.items() if trial is not None}


def best_trial(experiment: Experiment, study: Study) -> TrialRecord:
    """The best trial of all cells but the controls; TrainingError where none has weights."""
    return study.best([cell.name for cell in experiment.cells() if not cell.is_control])


def evaluate_experiment(
    experiment: Experiment,
    manifest: Manifest,
    study: Study,
    split: str,
    on_progress: Callable[[SoundProgress], None] = lambda progress: None,
    device: str = "cpu",
    namers: Mapping[str, Path] | None = None,
    sources: Sequence[int] = (),
    note: Callable[[str], None] = lambda sentence: None,
) -> list[Evaluation] | list[FigureEvaluation]:
    """Evaluate the best trial of each cell on a split, and keep the table in the study.

    Rows of the table that was kept before are taken over where they would be the same; `note` gets a sentence about it.

    Separators are evaluated by their stems, beside the untrained systems; networks that do not separate by the figure
    of their objective, beside a constant guess. `namers`, from `instrument_namers`, name players from pictures, for
    further rows of separators that are conditioned on labels, beside those under `systems` of the experiment. `sources`
    are further numbers of sources, of each of which separators are scored on mixtures.
    """
    best, path = best_trials(experiment, study), kept_file(study.folder, split)
    trained = {name: trial.folder / "model" for name, trial in best.items()}
    found: list[Evaluation] | list[FigureEvaluation]
    if OBJECTIVES[experiment.objective].separates:
        named = evaluations.named_rows(evaluations.model_rows(trained, device=device), namers or {}, manifest, split)
        named += evaluations.system_rows(experiment, study, trained)
        scored = evaluations.evaluate_systems(
            manifest,
            trained,
            split,
            on_progress=on_progress,
            device=device,
            named=named,
            sources=sources,
            kept=KeptRows.of(path, Evaluation, note),
        )
        found = evaluations.claims_of_experiment(scored, experiment, best, named)
    else:
        models = evaluations.ModelsOnSplit(manifest, trained, split, device, on_progress)
        kept = KeptRows.of(path, FigureEvaluation, note)
        found = evaluations.evaluate_by_figure(models, experiment.objective, kept)
    evaluations.save_evaluations(study, split, found)
    push(study.folder)
    return found
