"""The verbs as functions: what the command line, the quickstart and a notebook call.

    with at_place("local") as work:
        manifest = write(work, "quickstart", recipe_of("quickstart"))
        study, tracker = run_search(work, experiment_of("quickstart"), manifest)

Each stage's module does one thing and knows nothing of the others; here they are put together.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vimss.baselines import BASELINES
from vimss.config import parse_config
from vimss.console import err
from vimss.errors import ConfigError, DataError, TrainingError
from vimss.evaluate import (
    Evaluation,
    EvaluationTask,
    Part,
    Row,
    Table,
    baseline_rows,
    evaluation_tasks,
    joined,
    run_evaluation,
    two_source_spec,
)
from vimss.experiment import Experiment
from vimss.features import compute_features
from vimss.metrics import CONVENTIONS
from vimss.model.config import VisionConfig
from vimss.model.device import DeviceName, find_device, missing_device
from vimss.model.fit import Fit, fit_models
from vimss.model.separator import load_separator
from vimss.promote import CHAMPION, Decision, champion_to_beat, decide, promote
from vimss.report import best_of, evaluation_bars, evaluation_of
from vimss.runtime import (
    Place,
    cluster_gpus,
    git_commit,
    in_ray_job,
    load_place,
    open_store,
    parallel_map,
    ray_at_hand,
    start_ray,
)
from vimss.search.checks import check_experiment
from vimss.search.consistency import load_experiment
from vimss.search.events import Reporter
from vimss.search.run import search
from vimss.search.study import (
    Study,
    TrialRecord,
    cell_folder,
    in_cells,
    locked,
    read_study,
    study_folder,
)
from vimss.separate import DEFAULTS, Options, Reports, Separated, folder_name, separate
from vimss.shards.cache import FEATURES
from vimss.shards.manifest import Manifest, Shard, open_manifest, open_shards
from vimss.shards.recipe import Recipe, load_recipe, recipe_name
from vimss.shards.verify import ShardReport, check_shards
from vimss.shards.write import Progress, shards_folder, write_shards
from vimss.shards.written import check_split, written_shards
from vimss.show import show
from vimss.storage import Folder, Store, atomic_write, kept_beside
from vimss.stream.fixed import fixed_set
from vimss.stream.read import has_part
from vimss.systems import equally_informed, model_system
from vimss.track import Study as TrackedStudy
from vimss.track import Tracker, Tracking, find_alias, model_folder, newest_version, provenance, register


@dataclass(frozen=True)
class Work:
    """A place, its store and its tracking."""

    place: Place
    store: Store
    tracking: Tracking


@contextmanager
def at_place(name: str | Path = "local", shards: str | Path | None = None) -> Iterator[Work]:
    """The place called `name`, with Ray from when something needs it to the end; for verbs that compute.

    `shards` says where they lie.
    """
    work = known_place(name, shards)
    with ray_at_hand(work.place):
        yield work


def known_place(name: str | Path = "local", shards: str | Path | None = None) -> Work:
    """The place called `name`; enough for verbs that read the store. `shards` says where they lie."""
    place = load_place(name)
    store = open_store(place, shards)
    return Work(place, store, Tracking(store, place.tracking_uri))


def recipe_of(
    name: str | Path, seed: int | None = None, minutes: float | None = None, overrides: Sequence[str] = ()
) -> Recipe:
    """A recipe with the seed and length of the command line, where they are given."""
    extra = [] if seed is None else [f"seed={seed}"]
    extra += [] if minutes is None else [f"options.minutes={minutes:g}"]
    return load_recipe(name, [*extra, *overrides])


def write(
    work: Work,
    name: str | Path,
    recipe: Recipe,
    source: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Manifest:
    """The shards of a recipe, written now or before."""
    folder = None if source is None else Path(source)
    if folder is not None and not folder.is_dir():
        raise ConfigError(
            "--source must name the folder that a corpus lies in", got=f"no folder {folder}", fix="check the path"
        )
    return write_shards(recipe, recipe_name(name), work.store, folder, on_progress)


def check(
    work: Work, name: str | Path, recipe: Recipe, say: Callable[[str], None] = lambda _: None
) -> tuple[Folder, list[ShardReport]]:
    """Where the shards of a recipe lie, and what a look into each of them found."""
    folder = shards_folder(recipe, recipe_name(name), work.store)
    done = 0

    def count(found: ShardReport) -> None:
        nonlocal done
        done += 1
        say(f"{done} shards read" + (f"; {found.wrong[0]}" if found.wrong else ""))

    return folder, check_shards(folder, count)


def show_shards(work: Work, manifest: Manifest) -> list[Path]:
    """Pages to look at and listen to, one clip of each split; in the store."""
    return show(manifest, work.store.shows / f"{manifest.name}-{manifest.signature}")


def recipe_for(experiment: Experiment) -> Recipe:
    """The recipe that an experiment names, with what it changes there, and its seed where it gives one."""
    return recipe_of(experiment.shards, _given_seed(experiment), overrides=list(_key_values(experiment.recipe)))


def shards_of(work: Work, experiment: Experiment) -> Manifest:
    """The shards that an experiment names; DataError with the command that writes them where they are not there yet."""
    manifest = _written(work, experiment, experiment.shards, experiment.recipe)
    more = [(_written(work, experiment, name, {}), share) for name, share in experiment.more_shards.items()]
    return manifest.mixed_with(more)


def _written(work: Work, experiment: Experiment, name: str, recipe: Mapping[str, Any]) -> Manifest:
    """The shards of one recipe, with the differences that an experiment asks for."""
    seed, changes = _given_seed(experiment), list(_key_values(recipe))
    return written_shards(work.store, name, f"the shards of the experiment '{experiment.name}'", seed, changes)


def _given_seed(experiment: Experiment) -> int | None:
    """A recipe may have a seed of its own, which the default of an experiment must not replace."""
    return experiment.seed if "seed" in experiment.model_fields_set else None


def _key_values(content: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Nested settings as `key.path=value`."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _key_values(value, f"{path}{key}.")
        else:
            yield f"{path}{key}={json.dumps(value)}"


def run_search(
    work: Work, experiment: Experiment, manifest: Manifest, reporters: Sequence[Reporter] = (), *, wait: bool = False
) -> tuple[Study, Tracker]:
    """Search, and tell MLflow; the tracker stays open for what belongs to the runs.

    Where another process searches this study: StorageError, or with `wait` wait for its end.
    """
    check_experiment(experiment, manifest, work.place)
    with locked(study_folder(experiment, manifest, work.store), _print_lock_owner if wait else None):
        tracker = open_tracker(work, experiment, manifest)
        try:
            return search(experiment, manifest, work.place, work.store, (tracker, *reporters)), tracker
        except BaseException:
            tracker.close()
            raise


def _print_lock_owner(owner: str) -> None:
    err.print(f"waiting for {owner}, which searches this study")


def open_tracker(work: Work, experiment: Experiment, manifest: Manifest) -> Tracker:
    """MLflow's runs of an experiment."""
    tags = {
        "seed": str(experiment.seed),
        "workers_per_trial": str(work.place.workers_per_trial),
        "shards": ", ".join(f"{one.name} {one.digest}" for one in (manifest, *(other for other, _ in manifest.more))),
        "commit": git_commit(),
        **provenance(),
    }
    described = f"**{experiment.question}**\n\nExpected: {experiment.expected}"
    name = study_folder(experiment, manifest, work.store).name
    varied = (*experiment.compare, *experiment.tune)
    cells = {cell.name: cell_folder(experiment, cell) for cell in experiment.cells()}
    figures = (experiment.figure.name,)
    return Tracker(work.tracking, TrackedStudy(experiment.name, name, described, tags, figures, varied, cells))


def study_of(work: Work, experiment: Experiment, manifest: Manifest) -> Study:
    """The trials of an experiment that were run before; DataError where there are none."""
    folder = study_folder(experiment, manifest, work.store)
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


def earlier_studies(work: Work, experiment: Experiment, manifest: Manifest) -> str:
    """A sentence on studies of an experiment of this name that are others than this one; empty where there are none."""
    count = len(kept_beside(study_folder(experiment, manifest, work.store)))
    if not count:
        return ""
    studies, are, they = ("study", "is", "it was") if count == 1 else ("studies", "are", "they were")
    return (
        f"{count} earlier {studies} of {experiment.name} {are} kept in {work.store.studies}; {they} made with other "
        "data or by an earlier version"
    )


def experiment_of(name: str | Path, seed: int | None = None, overrides: Sequence[str] = ()) -> Experiment:
    """An experiment with the seed of the command line, where it is given."""
    return load_experiment(name, [*([] if seed is None else [f"seed={seed}"]), *overrides])


def check_finished(experiment: Experiment, study: Study) -> None:
    """TrainingError where a cell has no finished trial, or an interrupted one, with what became of its trials."""
    ends: list[str] = []
    for cell in experiment.cells():
        records = study.of_cell(cell.name)
        states = Counter(record.state for record in records)
        if not states["finished"] or states["interrupted"] or states["waiting"]:
            counts = ", ".join(f"{count} {state}" for state, count in states.items()) or "no trial"
            # What each of them should do was said when it ended.
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
    found = {cell.name: best_of(study, cell.name) for cell in experiment.cells()}
    return {cell: trial for cell, trial in found.items() if trial is not None}


def best_trial(experiment: Experiment, study: Study) -> TrialRecord:
    """The best trial of all cells but the controls: the one that is promoted. TrainingError where none has weights."""
    return study.best([cell.name for cell in experiment.cells() if not cell.is_control])


GPU_SHARE = 0.25
"""Of a GPU, for each task that uses one: several fill it better than one."""


def device_of_tasks(place: Place, name: DeviceName) -> str:
    """Where the networks of Ray's tasks run; ConfigError where such a device is not there."""
    if not place.ray_address and not in_ray_job():
        return find_device(name)
    # The GPUs of a cluster are those that Ray counts; the driver's own machine may have none.
    gpus = 0.0 if name == "cpu" else cluster_gpus()
    if name in {"cpu", "auto"} or (name == "cuda" and gpus):
        return "cuda" if gpus else "cpu"
    raise missing_device(name, f"a cluster of {gpus:g} GPUs")


@dataclass(frozen=True)
class EvaluationProgress:
    """How far an evaluation has come; the first one, with nothing done, tells that it begins."""

    system: str
    """Of which a part was scored last."""
    parts_done: int
    parts: int
    seconds_done: float
    """Of sound that was separated, of all systems together."""
    seconds: float


def evaluate_systems(
    manifest: Manifest,
    models: Mapping[str, str | Path],
    split: str,
    *,
    references: Sequence[str] = tuple(BASELINES),
    whole_pieces: bool = True,
    on_progress: Callable[[EvaluationProgress], None] = lambda progress: None,
    fit: Fit | None = None,
    device: str = "cpu",
) -> list[Evaluation]:
    """Models (name to folder) and rows that need no training, by name, side by side on the cores of Ray.

    With `fit`, from `fit_models`, the models need not have been trained on shards of this recipe; all rows are scored
    on the labels that the models know.

    Raises:
        ConfigError: There is no such split.
        DataError: The shards do not hold it, or a model needs vision features that are not beside the shards.
        ModelError: Without `fit`: a model works at another rate, or with other channels or labels, than the shards.

    """
    check_split(manifest, split)
    # Once, before the systems ask for them side by side.
    fixed_set(manifest, two_source_spec(manifest, split))
    table = Table(manifest.folder, split, None if fit is None else fit.labels)
    names = {name: tuple(fit.names[name].items()) if fit is not None else () for name in models}
    rows = [Row(name, Path(folder).absolute(), names[name], device=device) for name, folder in models.items()]
    rows += baseline_rows(manifest, references)
    tasks = [evaluation_tasks(table, row, manifest, whole_pieces) for row in rows]
    flat = [task for of_row in tasks for task in of_row]
    total, done, seconds = sum(task.seconds for task in flat), 0, 0.0

    def count(part: Part) -> None:
        nonlocal done, seconds
        done, seconds = done + 1, seconds + part.seconds
        on_progress(EvaluationProgress(part.system, done, len(flat), seconds, total))

    start_ray()
    on_progress(EvaluationProgress("", 0, len(flat), 0.0, total))
    parts = iter(parallel_map(run_evaluation, flat, count, _gpu_share))
    return [joined([next(parts) for _ in of_row], table) for of_row in tasks]


def _gpu_share(task: EvaluationTask) -> float:
    return GPU_SHARE if task.row.device == "cuda" else 0.0


@dataclass(frozen=True)
class ModelsOnShards:
    """Models that are to be scored on shards of any recipe, when all of it has been checked."""

    manifest: Manifest
    split: str
    folders: Mapping[str, Path]
    fit: Fit
    references: tuple[str, ...]
    """Rows that need no training, without those that these shards cannot give."""
    sentences: tuple[str, ...]
    """What is changed or left out."""


def models_on_shards(
    work: Work, models: Sequence[str], manifest: Manifest, split: str, note: Callable[[str], None] = lambda _: None
) -> ModelsOnShards:
    """Models, as models:/NAME, models:/NAME@ALIAS, models:/NAME/VERSION or folders, on a split; needs no Ray.

    Raises:
        ConfigError: There is no such split.
        DataError: The shards do not hold it, or not what a model needs or a score is made of.
        ModelError: There is no such model, or it knows no label of the split.

    """
    check_split(manifest, split)
    folders = {model: model_folder(model_in_use(work, model, note), work.tracking) for model in models}
    fit = fit_models({model: load_separator(folder) for model, folder in folders.items()}, manifest, split)
    for model, folder in folders.items():
        model_system(folder, manifest, model, fit.names[model])
    sentences, references = list(fit.sentences), tuple(BASELINES)
    if "train" not in manifest.splits or not has_part(manifest, "train", "audio"):
        references = tuple(name for name, baseline in BASELINES.items() if not baseline.fitted)
        left_out = " and ".join(f"'{name}'" for name, baseline in BASELINES.items() if baseline.fitted)
        sentences.append(f"no rows {left_out}: '{manifest.name}' has no train split with stems to fit them on")
    return ModelsOnShards(manifest, split, folders, fit, references, tuple(sentences))


def evaluate_models(
    asked: ModelsOnShards, device: str, on_progress: Callable[[EvaluationProgress], None]
) -> list[Evaluation]:
    """The table of `models_on_shards`."""
    return evaluate_systems(
        asked.manifest,
        asked.folders,
        asked.split,
        references=asked.references,
        on_progress=on_progress,
        fit=asked.fit,
        device=device,
    )


def piece_scores(evaluation: Evaluation) -> dict[tuple[str, str], float]:
    """What promotion compares: (piece, label) to SI-SDR improvement."""
    return {(score.piece, score.label): score.si_sdr_improvement for score in evaluation.scores}


@dataclass(frozen=True)
class Promotion:
    """What came of a challenger."""

    name: str
    version: int
    cell: str
    """Whose best trial it is."""
    decision: Decision
    is_champion: bool


def promote_best(
    work: Work,
    experiment: Experiment,
    manifest: Manifest,
    tracker: Tracker,
    study: Study,
) -> Promotion:
    """Register the best trial of all cells, and make it the champion where it is significantly better on `promote`.

    It is compared with the champion; where there is none, with the Wiener filter that is told as much as the model is.
    Where the study was evaluated on `test`, the registry shows the figures of the best trial and its run the table as
    bars.
    """
    best = study.best([cell.name for cell in experiment.cells()])
    tested = load_evaluations(study, "test")
    if evaluation_of(best, tested) is not None:
        tracker.log_files(best.cell, best.trial, {"test.png": evaluation_bars(tested)})
    version = register(
        work.tracking,
        experiment.name,
        best.folder / "model",
        tracker.run_id(best.cell, best.trial),
        registry_figures(best, tested),
        model_card(experiment, manifest),
    )
    models = {"challenger": best.folder / "model"}
    rows: tuple[str, ...] = ()
    champion = champion_to_beat(work.tracking, experiment.name, version)
    if champion is None:
        incumbent = equally_informed(load_separator(best.folder / "model").config)
        rows, against = (incumbent,), f"the row '{incumbent}'"
    else:
        incumbent, against = "champion", f"the champion, version {champion}"
        models[incumbent] = model_folder(f"models:/{experiment.name}/{champion}", work.tracking)
    found = {row.system: piece_scores(row) for row in evaluate_systems(manifest, models, "promote", references=rows)}
    decision = decide(found["challenger"], found[incumbent], against)
    is_champion = promote(work.tracking, experiment.name, version, decision)
    return Promotion(experiment.name, version, best.cell, decision, is_champion)


def model_card(experiment: Experiment, manifest: Manifest) -> dict[str, Any]:
    """What a user of the model must know."""
    recipe = manifest.recipe
    return {
        "experiment": experiment.name,
        "question": experiment.question,
        "data": f"{manifest.name}: {recipe.description}",
        "licence": recipe.licence,
        "sample_rate": recipe.sample_rate,
        "labels": ",".join(recipe.labels),
        "convention": CONVENTIONS["SI-SDRi"],
        "shards": manifest.digest,
        "commit": git_commit(),
    }


def save_evaluations(study: Study, split: str, evaluations: Sequence[Evaluation]) -> Path:
    """Keep the table of a split in the study's folder."""
    path = study.folder / f"evaluation-{split}.json"
    with atomic_write(path) as temporary:
        lines = ",\n".join(evaluation.model_dump_json(indent=1) for evaluation in evaluations)
        temporary.write_text(f"[{lines}]\n", encoding="utf-8")
    return path


def load_evaluations(study: Study, split: str) -> list[Evaluation]:
    """What `save_evaluations` kept; empty where the split was not evaluated."""
    path = study.folder / f"evaluation-{split}.json"
    if not path.exists():
        return []
    return [parse_config(content, Evaluation, str(path)) for content in json.loads(path.read_text(encoding="utf-8"))]


def shard_news(say: Callable[[str], None]) -> Callable[[Progress], None]:
    """How far writing has come, with rate and time left, for a stage line."""
    begin = time.monotonic()

    def tell(progress: Progress) -> None:
        passed = time.monotonic() - begin
        left = passed / progress.shards_done * (progress.shards - progress.shards_done)
        say(
            f"{progress.shards_done} of {progress.shards} shards, {progress.seconds / passed:.0f} x real time, "
            f"{left:.0f} s left"
        )

    return tell


def evaluation_news(say: Callable[[str], None]) -> Callable[[EvaluationProgress], None]:
    """The same of an evaluation."""
    begin = time.monotonic()

    def tell(progress: EvaluationProgress) -> None:
        nonlocal begin
        if not progress.parts_done:
            begin = time.monotonic()
            return
        passed = time.monotonic() - begin
        left = passed / progress.seconds_done * (progress.seconds - progress.seconds_done)
        say(
            f"{progress.parts_done} of {progress.parts} parts, {progress.seconds_done / passed:.0f} x real time, "
            f"{left:.0f} s left, last {progress.system}"
        )

    return tell


def write_features(
    work: Work, recipe: Recipe, name: str | Path, vision: VisionConfig, say: Callable[[str], None], device: str = "cpu"
) -> Folder:
    """Vision features of a recipe's shards, computed side by side; returns their folder."""
    manifest = open_shards(shards_folder(recipe, recipe_name(name), work.store), work.store)
    done = 0

    def count(_: str) -> None:
        nonlocal done
        done += 1
        say(f"{done} of {len(manifest.shards)} shards")

    tasks = [FeaturesTask(manifest.folder, vision, shard, device) for shard in manifest.shards]
    parallel_map(run_features, tasks, count, lambda task: GPU_SHARE if task.device == "cuda" else 0.0)
    return manifest.home / FEATURES / compute_features(manifest, vision)


def vision_of(network: str, weights: str | Path) -> VisionConfig:
    """The vision network of that name, checked; ConfigError where its weights are neither a known word nor a file."""
    vision = parse_config({"network": network, "weights": str(weights)}, VisionConfig, "vimss features")
    if vision.weights not in {"torchvision", "random"} and not Path(vision.weights).is_file():
        raise ConfigError(
            "--weights must be torchvision, random or the path of a file",
            got=f"no file {vision.weights}",
            fix="check the path",
        )
    return vision


@dataclass(frozen=True)
class FeaturesTask:
    """The features of one shard; plain values that travel to another process."""

    shards: Path
    vision: VisionConfig
    shard: Shard
    device: str


def run_features(task: FeaturesTask) -> str:
    """What a task of `write_features` does."""
    return compute_features(open_manifest(task.shards), task.vision, [task.shard], device=task.device)


def registry_figures(best: TrialRecord, tested: Sequence[Evaluation]) -> dict[str, float]:
    """What the registry shows of the best trial: its figures on the test split, where it was evaluated there.

    Those that are not defined for its network are NaN.
    """
    found = evaluation_of(best, tested)
    if found is None:
        return {}
    return {
        "test_si_sdr_improvement": found.two_sources.si_sdr_improvement,
        "test_label_contrast": found.two_sources.label_contrast,
        "test_pieces_si_sdr_improvement": found.median("si_sdr_improvement"),
        "test_pieces_sdr": found.median("sdr"),
    }


def model_in_use(work: Work, model: str, note: Callable[[str], None] = lambda sentence: None) -> str:
    """`models:/NAME` as its champion; where it has none, as its newest version, which `note` is told."""
    name = model.removeprefix("models:/")
    if name == model or set(name) & set("@/"):
        return model
    newest = newest_version(work.tracking, name)
    if newest is None or find_alias(work.tracking, name, CHAMPION) is not None:
        return f"{model}@{CHAMPION}"
    note(f"no version of '{name}' is the champion: its newest is used, version {newest}")
    return f"{model}/{newest}"


def separate_file(
    work: Work,
    file: Path,
    model: str,
    instruments: str,
    out_folder: Path | None,
    references: Path | None,
    say: Callable[[str], None],
    *,
    options: Options = DEFAULTS,
    note: Callable[[str], None] = lambda sentence: None,
) -> Separated:
    """One recording into stems and a page; without `out_folder`, into a folder of its own in the store."""
    folder = model_folder(model, work.tracking) if model.startswith("models:/") else Path(model)
    options = replace(options, model_name=model)
    if out_folder is None:
        out_folder, options = work.store.stems / folder_name(file), replace(options, numbered=True)
    return separate(file, folder, out_folder, instruments, references, options=options, reports=Reports(say, note))


@contextmanager
def delivered(tracker: Tracker, say: Callable[[str], None]) -> Iterator[None]:
    """Close the tracker when the block ends, well or not, and say what MLflow has not got yet."""
    try:
        yield
    finally:
        left = tracker.close()
        if left:
            say(str(left))
