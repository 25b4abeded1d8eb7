"""The cells of an experiment whose seeds are gathered, and their rows: figure, spread, gain and cost.

    comparison = compare(experiment, manifest, study, "test", against="op=concat")
    for row in comparison.rows:
        row.name, row.value, row.interval, row.over_seeds, row.gain, row.cost

The figure is the one that `vimss evaluate` kept in the study, where the best trials were evaluated; else the one on the
validation set, which has no interval. Rows of systems that need no training follow, which give a decibel its meaning.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean

from vimss.comparison.figures import Figures, ObjectiveFigures, Separated, ValidationFigures
from vimss.config import signature
from vimss.errors import ConfigError, DataError
from vimss.evaluate.figures import check_model
from vimss.evaluate.kept import AnyEvaluation
from vimss.evaluations import evaluation_of, load_evaluations, load_figure_evaluations
from vimss.experiment import SEED, Cell, Experiment, cell_name
from vimss.intervals import Gain, Interval
from vimss.model.cost import gmac_per_second, num_weights
from vimss.model.separator import load_separator
from vimss.search.schedulers import audio_seconds_trained
from vimss.search.study import Study, TrialRecord, best_of_cell
from vimss.shards.manifest import Manifest
from vimss.train.figure import Figure
from vimss.train.objectives import OBJECTIVES


@dataclass(frozen=True)
class Gathered:
    """Cells that differ in their seed alone, or one cell."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Cost:
    """What the best trials of a row cost: means over the seeds."""

    audio_seconds: float
    """Of training."""
    wall_seconds: float
    """Of the steps of training and the wait for their batches, on the machine where they ran; no validation."""
    weights: float
    gmac_per_second: float
    """10^9 multiply-accumulates per second of audio: see `vimss.model.cost`. NaN of networks that do not separate."""


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    value: float
    """Of the comparison's figure; NaN where it is not known."""
    interval: Interval | None
    """95 %, over pieces; None where it is not defined."""
    over_seeds: tuple[float, ...]
    """The value of each seed alone."""
    gain: Gain | None
    """Over the row that the others are compared with, positive where this one is better; None of that row itself."""
    contrast: float = math.nan
    """Label contrast of two-source mixtures, dB; NaN where there is none."""
    contrast_interval: Interval | None = None
    by_sources: Mapping[int, tuple[float, Interval | None]] = field(default_factory=dict)
    """SI-SDR improvement, dB, on independent mixtures of each number of sources that was scored."""
    cells: int = 0
    """Cells that were gathered, one for each seed; 0 of a system that is no cell."""
    trials: int = 0
    finished: int = 0
    cost: Cost | None = None
    """None of a system that is no cell, and where there are no weights."""
    validation: tuple[float, ...] = ()
    """The figure on the validation set of the best trial of each seed."""


@dataclass(frozen=True)
class Comparison:
    """The rows, and what their numbers mean."""

    question: str
    figure: Figure
    basis: str
    """What the figure was measured on."""
    split: str
    """Empty where that is the validation set."""
    against: str
    """Name of the row that the others are compared with."""
    validation: Figure
    """The figure that steered the search."""
    rows: tuple[Row, ...]
    conventions: Mapping[str, str] = field(default_factory=dict)
    sentences: tuple[str, ...] = ()
    """What is missing, and what must not be claimed."""


def gathered(experiment: Experiment) -> list[Gathered]:
    """The cells of an experiment, those that differ in their seed alone as one; controls are rows of their own."""
    groups: dict[tuple[bool, str], list[Cell]] = {}
    for cell in experiment.cells():
        others = {key: value for key, value in cell.overrides.items() if key != SEED}
        groups.setdefault((cell.is_control, signature(others)), []).append(cell)
    found: list[Gathered] = []
    for (is_control, _), cells in groups.items():
        # Two controls may change the same settings, the seed included.
        if len({cell.overrides.get(SEED, experiment.seed) for cell in cells}) < len(cells) or len(cells) == 1:
            found += [Gathered(cell.name, (cell,)) for cell in cells]
            continue
        own = {SEED, *experiment.variants.get(cells[0].variant, {})}
        others = {key: value for key, value in cells[0].overrides.items() if key not in own}
        name = " / ".join(cell.name for cell in cells) if is_control else cell_name(others, cells[0].variant)
        found.append(Gathered(name, tuple(cells)))
    return found


def compare(experiment: Experiment, manifest: Manifest, study: Study, split: str, against: str = "") -> Comparison:
    """The table of an experiment; `against` names the row to compare the others with, the first where it is empty.

    Raises:
        ConfigError: There is no row of that name.
        DataError: Trials were validated on different sets, or systems evaluated on different pieces.

    """
    groups = {group.name: group for group in gathered(experiment)}
    trials = {
        name: [trial for cell in group.cells if (trial := best_of_cell(study, cell.name))]
        for name, group in groups.items()
    }
    check_validated_alike(study, [trial for found in trials.values() for trial in found])
    figures, others = _figures(experiment, manifest, study, split, trials)
    names = [*groups, *others]
    if against and against not in names:
        raise ConfigError(
            "--against must name a row of the table",
            got=repr(against),
            # In quotes: names of baselines have commas.
            fix=f"choose from {', '.join(map(repr, names))}",
        )
    against = against or names[0]
    rows = []
    for name in names:
        row = Row(
            name=name,
            value=figures.value(name),
            interval=figures.interval(name),
            over_seeds=figures.over_seeds(name),
            gain=None if name == against else figures.gain(name, against),
        )
        if isinstance(figures, Separated):
            contrast, interval = figures.contrast(name)
            row = replace(row, contrast=contrast, contrast_interval=interval, by_sources=figures.by_sources(name))
        rows.append(_with_trials(row, groups[name], study, trials[name], manifest) if name in groups else row)
    is_evaluated = not isinstance(figures, ValidationFigures)
    return Comparison(
        question=experiment.question,
        figure=figures.figure,
        basis=figures.basis,
        split=split if is_evaluated else "",
        against=against,
        validation=experiment.figure,
        rows=tuple(rows),
        conventions=figures.conventions,
        sentences=(*_missing(experiment, split, rows, is_evaluated), *_claims(experiment, study, split, trials)),
    )


def check_validated_alike(study: Study, trials: Sequence[TrialRecord]) -> None:
    """DataError where the figures of some trials are of different validation sets."""
    sets: dict[str, list[str]] = {}
    for trial in trials:
        if trial.reports:
            sets.setdefault(trial.validation or "an unknown one", []).append(trial.cell)
    if len(sets) > 1:
        raise DataError(
            f"the cells of {study.folder} must be validated on one set before they are compared",
            got="; ".join(f"{', '.join(dict.fromkeys(cells))} on {name}" for name, cells in sets.items()),
            fix="run `vimss search` with the same experiment again: it scores their weights on the set of now",
        )


def _figures(
    experiment: Experiment, manifest: Manifest, study: Study, split: str, trials: Mapping[str, Sequence[TrialRecord]]
) -> tuple[Figures, list[str]]:
    """The figures that `vimss evaluate` kept, and the systems among them that are no cells; else validation figures."""
    if OBJECTIVES[experiment.objective].separates:
        kept = load_evaluations(study, split)
        has_pieces = any(one.scores for one in kept)
        # Oracles, and systems whose outputs an oracle assigns, are no match for the cells; some know mixtures alone.
        left_out = {one.system for one in kept if one.truth != "nothing" or (has_pieces and not one.scores)}
        scored = _by_row(experiment, trials, kept, left_out)
        separated = Separated(scored)
        separated.check_same_sources()
        figures: Figures = separated
        names = list(scored)
    else:
        judged = _by_row(experiment, trials, load_figure_evaluations(study, split), set())
        figures = ObjectiveFigures(judged, experiment.figure, manifest)
        names = list(judged)
    if not set(names) & set(trials):
        return ValidationFigures(trials, experiment), []
    return figures, [name for name in names if name not in trials]


def _by_row(
    experiment: Experiment,
    trials: Mapping[str, Sequence[TrialRecord]],
    kept: Sequence[AnyEvaluation],
    left_out: Collection[str],
) -> dict[str, list[AnyEvaluation]]:
    """The evaluations of the best trials by row, in the order of their seeds; then one for each other system."""
    of_cells = {name: [found for one in of if (found := evaluation_of(one, kept))] for name, of in trials.items()}
    # A table that is older than the newest trials has rows of cells whose weights are no longer the best.
    known = {cell.name for cell in experiment.cells()} | set(trials) | set(left_out)
    others = {one.system: [one] for one in kept if one.system not in known}
    return {**{name: found for name, found in of_cells.items() if found}, **others}


def _with_trials(row: Row, group: Gathered, study: Study, best: Sequence[TrialRecord], manifest: Manifest) -> Row:
    """The row of cells, with what is known of their trials."""
    records = [record for cell in group.cells for record in study.of_cell(cell.name)]
    return replace(
        row,
        cells=len(group.cells),
        trials=len(records),
        finished=sum(record.state == "finished" for record in records),
        cost=_cost(best, manifest),
        validation=tuple(trial.value for trial in best if math.isfinite(trial.value)),
    )


def _cost(best: Sequence[TrialRecord], manifest: Manifest) -> Cost | None:
    """Means over the best trials of a row; None without one that has weights."""
    costs = [_cost_of(trial, manifest) for trial in best if trial.settings is not None]
    return Cost(*map(mean, zip(*costs, strict=True))) if costs else None


def _cost_of(trial: TrialRecord, manifest: Manifest) -> tuple[float, float, float, float]:
    """The numbers of a `Cost`, of one trial."""
    assert trial.settings is not None, "a trial that has weights has settings"  # noqa: S101
    folder, objective = trial.folder / "model", trial.settings.objective
    trained = audio_seconds_trained(trial), wall_seconds(trial)
    if not OBJECTIVES[objective].separates:
        _, network = check_model(folder, trial.cell, objective, manifest)
        return *trained, num_weights(network), math.nan
    separator = load_separator(folder)
    gmac = gmac_per_second(separator, trial.settings.training.output_samples)
    return *trained, num_weights(separator), gmac


def wall_seconds(trial: TrialRecord) -> float:
    """Seconds that the steps of a trial took, by its reports: audio seconds over audio seconds per second."""
    # A trial that was scored again has its reports on the earlier set.
    reports = max((trial.reports, *trial.earlier.values()), key=len)
    seconds, before = 0.0, 0.0
    for report in reports:
        rate = report.get("audio_seconds_per_second", math.nan)
        seconds, before = seconds + (report["audio_seconds"] - before) / rate, report["audio_seconds"]
    return seconds


def _missing(experiment: Experiment, split: str, rows: Sequence[Row], is_evaluated: bool) -> Iterator[str]:
    """What the table lacks, and the command that adds it."""
    command = f"run `vimss evaluate {experiment.name} --split {split}`"
    if not is_evaluated:
        yield f"the best trials are not evaluated on {split}: {command} for figures with intervals over pieces"
        return
    behind = [row.name for row in rows if len(row.over_seeds) < len(row.validation)]
    if behind:
        yield f"best trials that are not evaluated on {split} yet, in {', '.join(behind)}: {command} again"


def _claims(
    experiment: Experiment, study: Study, split: str, trials: Mapping[str, Sequence[TrialRecord]]
) -> Iterator[str]:
    """What `vimss evaluate` says of each cell: a gain over a row is none from pictures, an oracle flatters."""
    if not OBJECTIVES[experiment.objective].separates:
        return
    kept = load_evaluations(study, split)
    for trial in (trial for of in trials.values() for trial in of):
        found = evaluation_of(trial, kept)
        if found is not None and found.pictures is not None:
            yield f"what {trial.cell} is shown of players: {found.pictures.sentence}"
        if found is not None and found.truth == "order":
            yield f"{trial.cell}: an oracle assigns its outputs to the sources, which flatters it"
