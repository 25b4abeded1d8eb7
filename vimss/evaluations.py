"""Tables of several systems side by side on the cores of Ray, kept in the folder of their study.

    evaluations = evaluate_systems(manifest, {"best": folder}, "test")
    save_evaluations(study, "test", evaluations)

Models need not have been trained on the shards: `check_models` fits them to the shards of any recipe. Networks
that do not separate have a table of their own, of the figure of their objective: `evaluate_by_figure`. So have slots
models whose outputs an alignment model assigns to players: `evaluate_assigned`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vimss.assign import check_slots
from vimss.errors import DataError
from vimss.evaluate import (
    Evaluation,
    NamedBy,
    Row,
    Table,
    baseline_rows,
    check_sources,
    evaluation_tasks,
    joined,
    mixture_spec,
    run_evaluation,
    usable_baselines,
)
from vimss.evaluate.assigned import assigned_system
from vimss.evaluate.excerpts import Excerpt, ExcerptTask, separate_excerpt
from vimss.evaluate.figures import (
    FigureEvaluation,
    check_model,
    constant_guess,
    evaluation_by_figure,
    examine_mixtures,
    figure_spec,
    figure_tasks,
)
from vimss.evaluate.kept import AnyEvaluation, KeptRows, kept_file, read_kept, row_signature, write_kept
from vimss.evaluate.pictures import Trained, named_by, trained_as, trained_model, with_claims
from vimss.evaluate.players import PlayersEvaluation, check_pieces, evaluate_players, joined_players, players_tasks
from vimss.experiment import Experiment
from vimss.intervals import Source
from vimss.model.device import gpu_share
from vimss.model.fit import Fit, fit_models
from vimss.model.interface import Interface
from vimss.model.separator import load_separator, read_card
from vimss.namer import load_namer, namer_folder
from vimss.progress import SoundProgress
from vimss.runtime import parallel_map, start_ray
from vimss.search.study import Study, TrialRecord, best_of_cell
from vimss.shards.manifest import Manifest, with_manifests
from vimss.shards.written import check_split
from vimss.stream.fixed import fixed_set
from vimss.stream.read import check_holds
from vimss.systems import check_takes_labels, model_system
from vimss.yaml_files import yaml_in_a_line


def evaluate_systems(
    manifest: Manifest,
    models: Mapping[str, str | Path],
    split: str,
    *,
    baselines: Sequence[str] | None = None,
    whole_pieces: bool = True,
    on_progress: Callable[[SoundProgress], None] = lambda progress: None,
    fit: Fit | None = None,
    device: str = "cpu",
    named: Sequence[Row] = (),
    sources: Sequence[int] = (),
    kept: KeptRows[Evaluation] | None = None,
) -> list[Evaluation]:
    """Evaluate models (name to folder) and baselines, by name (all that are usable where not given), as tasks of Ray.

    With `fit`, from `fit_models`, the models need not have been trained on shards of this recipe; all rows are scored
    on the labels that the models know. `named`, from `named_rows` or `system_rows`, are rows of models that are
    conditioned on what pictures name. Mixtures of each number in `sources` are scored beside those of two. Rows of
    `kept` are taken over where they would be the same.

    Raises:
        ConfigError: There is no such split.
        DataError: The shards do not hold it or as many instruments as `sources` asks for, or a model needs vision
            features that are not beside the shards.
        ModelError: Without `fit`: a model works at another rate, or with other channels or labels, than the shards.

    """
    check_split(manifest, split)
    check_sources(manifest, split, sources)
    table = Table(manifest.folder, split, None if fit is None else fit.labels, tuple(sources))
    chosen = usable_baselines(manifest, split)[0] if baselines is None else baselines
    rows = [*model_rows(models, fit, device), *named, *(Row(name) for name in chosen)]
    signatures = [row_signature(row, table, manifest, whole_pieces) for row in rows]
    taken = kept.take(signatures) if kept else {}
    missing = [row for row, signature in zip(rows, signatures, strict=True) if signature not in taken]
    fitted = baseline_rows(manifest, [row.name for row in missing if row.model is None])
    new = evaluate_rows(
        [*(row for row in missing if row.model is not None), *fitted],
        table,
        manifest,
        whole_pieces=whole_pieces,
        on_progress=on_progress,
    )
    # The claim about pictures is made anew: it depends on the other rows of a table.
    plain = {signature: one.model_copy(update={"pictures": None}) for signature, one in taken.items()}
    return _in_order(rows, signatures, plain, new)


def _in_order(
    rows: Sequence[Row], signatures: Sequence[str], taken: Mapping[str, AnyEvaluation], new: Sequence[AnyEvaluation]
) -> list[AnyEvaluation]:
    """The evaluations of rows, under their names: those that were taken over, by signature, and the new ones."""
    others = iter(new)
    found = [taken[signature] if signature in taken else next(others) for signature in signatures]
    assert next(others, None) is None, "one new evaluation for each row that is not kept"  # noqa: S101
    return [
        one.model_copy(update={"system": row.name, "signature": signature})
        for row, signature, one in zip(rows, signatures, found, strict=True)
    ]


def evaluate_rows(
    rows: Sequence[Row],
    table: Table,
    manifest: Manifest,
    *,
    whole_pieces: bool = True,
    on_progress: Callable[[SoundProgress], None] = lambda progress: None,
) -> list[Evaluation]:
    """Evaluate the rows of a table as tasks of Ray; errors as of `evaluate_systems`."""
    if not rows:
        return []
    # Draw them once, before the tasks read them at the same time.
    for sources in (None, *table.sources):
        fixed_set(manifest, mixture_spec(manifest, table.split, sources))
    tasks = [evaluation_tasks(table, row, manifest, whole_pieces) for row in rows]
    return [joined(parts, table) for parts in _in_parallel(run_evaluation, tasks, on_progress)]


def separate_excerpts(
    rows: Sequence[Row],
    table: Table,
    sources: Sequence[Source],
    seconds: float,
    on_progress: Callable[[SoundProgress], None] = lambda progress: None,
) -> list[list[Excerpt]]:
    """The loudest stretch of each source (piece, label), separated by each row as tasks of Ray."""
    tasks = [[ExcerptTask(table, row, piece, label, seconds) for piece, label in sources] for row in rows]
    return _in_parallel(separate_excerpt, tasks, on_progress)


def model_rows(models: Mapping[str, str | Path], fit: Fit | None = None, device: str = "cpu") -> list[Row]:
    """The rows of models (name to folder), fitted to foreign shards where there is a fit."""
    names = {name: tuple(fit.names[name].items()) if fit is not None else () for name in models}
    return [Row(name, Path(folder).absolute(), names[name], device=device) for name, folder in models.items()]


def named_rows(rows: Sequence[Row], namers: Mapping[str, Path], manifest: Manifest, split: str) -> list[Row]:
    """The rows in which the models that are conditioned on labels get those that pictures name, from each namer.

    Raises:
        DataError: the split has no pictures.
        ModelError: no row is conditioned on labels, or a namer is of another kind or knows none of the labels.

    """
    if not namers:
        return []
    able = []
    for row in rows:
        assert row.model is not None, "rows of models"  # noqa: S101
        if load_separator(row.model).interface.takes_labels:
            able.append(row)
    for name, folder in namers.items():
        rule = f"the model '{name}' names players by their pictures, which the shards must hold"
        check_holds(manifest, split, "picture", rule, "leave --instruments-from out, or choose a recipe with pictures")
        for row in able:
            load_namer(folder, name).choices([label for label, _ in row.names] or manifest.recipe.labels)
    if not able:
        check_takes_labels(load_separator(rows[0].model or Path()), rows[0].name)
    return [
        replace(row, name=f"{row.name}, named by {name}", named_by=NamedBy(name, folder.absolute(), row.name))
        for row in able
        for name, folder in namers.items()
    ]


def system_rows(experiment: Experiment, study: Study, models: Mapping[str, Path]) -> list[Row]:
    """The rows under `systems` of an experiment; `models` (row to folder) are those of its trials in the same table.

    Raises:
        DataError: no trial of the cell, or none that is conditioned on labels, has weights.

    """
    names = {folder: name for name, folder in models.items()}
    rows = []
    for name, system in experiment.systems.items():
        trial = _trial_of_system(experiment, study, name, system.cell)
        folder = trial.folder / "model"
        named_by = system.instruments_from
        by = NamedBy(named_by, namer_folder(named_by).absolute(), names.get(folder, trial.cell))
        rows.append(Row(name, folder.absolute(), named_by=by))
    return rows


def _trial_of_system(experiment: Experiment, study: Study, system: str, cell: str) -> TrialRecord:
    """The trial whose network a system of an experiment is."""
    cells = [cell] if cell else [one.name for one in experiment.cells() if not one.is_control]
    best = [trial for name in cells if (trial := best_of_cell(study, name)) is not None]
    able = [trial for trial in best if trial.settings and Interface(trial.settings.model, ()).takes_labels]
    if not able:
        raise DataError(
            f"systems.{system} of experiment {experiment.name} needs a trained network that is conditioned on labels",
            got=f"none among the best trials of {', '.join(cells)}",
            fix=f"search again, or name another cell in systems.{system}.cell",
        )
    return min(able, key=lambda trial: experiment.figure.rank(trial.value))


def claims_of_experiment(
    evaluations: Sequence[Evaluation],
    experiment: Experiment,
    trials: Mapping[str, TrialRecord],
    named: Sequence[Row] = (),
) -> list[Evaluation]:
    """The table of an experiment's best trials, by row, with the claims about pictures."""
    cells = {cell.name: cell for cell in experiment.cells()}
    trained: dict[str, Trained] = {}
    for name, trial in trials.items():
        if trial.settings is not None:
            fixed = {**cells[trial.cell].overrides, "mixing.shuffle_pictures": True}
            listed = yaml_in_a_line(fixed)
            add = f"add `controls: {{shuffled pictures: {listed}}}` and search again"
            trained[name] = trained_as(trial.settings, experiment.tune, add)
    return with_claims(evaluations, _with_named(trained, named))


def claims_of_models(
    evaluations: Sequence[Evaluation], models: Mapping[str, str | Path], named: Sequence[Row] = ()
) -> list[Evaluation]:
    """The table of models (name to folder) with the claims about pictures."""
    trained = {name: trained_model(Path(folder)) for name, folder in models.items()}
    return with_claims(evaluations, _with_named(trained, named))


def _with_named(trained: Mapping[str, Trained], named: Sequence[Row]) -> dict[str, Trained]:
    by_pictures = {
        row.name: named_by(trained[by.row], by.row, by.folder)
        for row in named
        if (by := row.named_by) is not None and by.row in trained
    }
    return {**trained, **by_pictures}


@dataclass(frozen=True)
class ModelsOnSplit:
    """Models, by name, to evaluate on a split as tasks of Ray."""

    manifest: Manifest
    folders: Mapping[str, Path]
    split: str
    device: str = "cpu"
    """Of the models in the tasks."""
    on_progress: Callable[[SoundProgress], None] = lambda progress: None

    @property
    def table(self) -> Table:
        """What all rows share."""
        return Table(self.manifest.folder, self.split)

    @property
    def rows(self) -> list[Row]:
        """A row per model."""
        return [Row(name, folder.absolute(), device=self.device) for name, folder in self.folders.items()]


def evaluate_by_figure(
    models: ModelsOnSplit, objective: str, kept: KeptRows[FigureEvaluation] | None = None
) -> list[FigureEvaluation]:
    """Judge models of an objective that does not separate by its figure. The last row is the constant guess.

    Rows of `kept` are taken over where they would be the same.

    Raises:
        ConfigError: There is no such split.
        DataError: The shards do not hold it, or a model needs vision features that are not beside the shards.
        ModelError: A model is of another objective, or of other labels or another rate than the shards.

    """
    manifest, split = models.manifest, models.split
    check_split(manifest, split)
    signatures = [row_signature(row, models.table, manifest) for row in models.rows]
    taken = kept.take(signatures) if kept else {}
    missing = [row for row, signature in zip(models.rows, signatures, strict=True) if signature not in taken]
    for row in missing:
        check_model(models.folders[row.name], row.name, objective, manifest)
    # Draw it once, before the tasks read it at the same time.
    spec = figure_spec(manifest, split, objective)
    fixed_set(manifest, spec)
    seconds = spec.samples / manifest.recipe.sample_rate
    tasks = [figure_tasks(models.table, row, seconds) for row in missing]
    new = [
        evaluation_by_figure(parts, objective, manifest, split)
        for parts in _in_parallel(examine_mixtures, tasks, models.on_progress)
    ]
    found = _in_order(models.rows, signatures, taken, new)
    return [*found, constant_guess(found[0], manifest)]


def evaluate_assigned(models: ModelsOnSplit, alignment: Path) -> list[PlayersEvaluation]:
    """Evaluate slots models on whole pieces by player; `alignment` is the folder of the model that assigns the slots.

    Raises:
        ConfigError: There is no such split, or a model has fewer slots than a piece has players.
        DataError: The shards do not hold it or the motion of its players, or no piece has two players that sound.
        ModelError: A model has no slots, or is of another rate or other labels than the shards; or `alignment` is of
            another objective.

    """
    manifest, split = models.manifest, models.split
    check_split(manifest, split)
    players = check_pieces(manifest, split)
    for name, folder in models.folders.items():
        system = assigned_system(folder, alignment, manifest, name)
        check_slots(system.model.separator.config.slots, players)
    tasks = [players_tasks(models.table, row, alignment.absolute(), manifest) for row in models.rows]
    return [joined_players(parts, split) for parts in _in_parallel(evaluate_players, tasks, models.on_progress)]


def _in_parallel(
    run: Callable[[Any], Any], tasks: Sequence[Sequence[Any]], on_progress: Callable[[SoundProgress], None]
) -> list[list[Any]]:
    """The parts of each row from its tasks, which run on the cores of Ray."""
    if not tasks:
        return []
    # The first task of every row, then the second: rows score a piece one after the other, and share what they can.
    places = sorted((place, row) for row, of_row in enumerate(tasks) for place in range(len(of_row)))
    flat = [tasks[row][place] for place, row in places]
    total, done, seconds = sum(task.seconds for task in flat), 0, 0.0

    def count(part: Any) -> None:
        nonlocal done, seconds
        done, seconds = done + 1, seconds + part.seconds
        on_progress(SoundProgress(done, len(flat), seconds, seconds / total, part.system))

    start_ray()
    on_progress(SoundProgress(0, len(flat), 0.0, 0.0))
    there = with_manifests(run, {task.table.shards for task in flat})
    parts = parallel_map(there, flat, count, lambda task: gpu_share(task.row.device))
    found = dict(zip(places, parts, strict=True))
    return [[found[place, row] for place in range(len(of_row))] for row, of_row in enumerate(tasks)]


@dataclass(frozen=True)
class ModelsOnShards:
    """Checked models, to be scored on shards of any recipe."""

    manifest: Manifest
    split: str
    folders: Mapping[str, Path]
    fit: Fit
    baselines: tuple[str, ...]
    """Those of `usable_baselines`."""
    sentences: tuple[str, ...]
    """Sentences about what is adapted or left out."""
    named: tuple[Row, ...] = ()
    """Rows of the models that are conditioned on labels, with those that pictures name."""


def check_models(
    folders: Mapping[str, Path], manifest: Manifest, split: str, namers: Mapping[str, Path] | None = None
) -> ModelsOnShards:
    """Check models (name to folder) against a split; needs no Ray. `namers` are models (name to folder) that name
    players from pictures.

    Raises:
        ConfigError: There is no such split.
        DataError: The shards do not hold it, or lack what a model or a score needs.
        ModelError: A model has no label of the split.

    """
    check_split(manifest, split)
    fit = fit_models({model: load_separator(folder) for model, folder in folders.items()}, manifest, split)
    for model, folder in folders.items():
        model_system(folder, manifest, model, fit.names[model])
    baselines, left_out = usable_baselines(manifest, split)
    named = named_rows(model_rows(folders, fit), namers or {}, manifest, split)
    return ModelsOnShards(manifest, split, folders, fit, baselines, (*fit.sentences, *left_out), tuple(named))


def evaluate_models(
    models: ModelsOnShards,
    device: str,
    on_progress: Callable[[SoundProgress], None],
    sources: Sequence[int] = (),
) -> list[Evaluation]:
    """The table of `check_models`, with mixtures of each number in `sources`."""
    found = evaluate_systems(
        models.manifest,
        models.folders,
        models.split,
        baselines=models.baselines,
        on_progress=on_progress,
        fit=models.fit,
        device=device,
        named=models.named,
        sources=sources,
    )
    return claims_of_models(found, models.folders, models.named)


def save_evaluations(study: Study, split: str, evaluations: Sequence[Evaluation] | Sequence[FigureEvaluation]) -> Path:
    """Keep the table of a split in the study's folder."""
    path = kept_file(study.folder, split)
    write_kept(path, evaluations)
    return path


def load_evaluations(study: Study, split: str) -> list[Evaluation]:
    """The table that `save_evaluations` kept; empty where the split was not evaluated."""
    return [row for row in read_kept(kept_file(study.folder, split)) if isinstance(row, Evaluation)]


def load_figure_evaluations(study: Study, split: str) -> list[FigureEvaluation]:
    """The same of networks that do not separate."""
    return [row for row in read_kept(kept_file(study.folder, split)) if isinstance(row, FigureEvaluation)]


def evaluation_of(trial: TrialRecord, evaluations: Sequence[AnyEvaluation]) -> AnyEvaluation | None:
    """The evaluation of the trial's weights; None where they were not evaluated."""
    weights = read_card(trial.folder / "model")["sha256"]
    return next((evaluation for evaluation in evaluations if evaluation.weights == weights), None)
