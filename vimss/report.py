"""Tables of results for the terminal: the cells of an experiment, and evaluations of several systems."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from vimss.comparison import blocks, caption, gathered
from vimss.console import decibel, figure_text, out, print_table, short
from vimss.evaluate import Evaluation
from vimss.evaluate.assigned import ORDERS
from vimss.evaluate.figures import FigureEvaluation
from vimss.evaluate.pictures import naming
from vimss.evaluate.players import ROWS, PlayersEvaluation
from vimss.evaluations import evaluation_of
from vimss.experiment import Experiment
from vimss.metrics import CONVENTIONS
from vimss.pages.of_comparison import ComparedStudy
from vimss.search.importance import Importance
from vimss.search.study import Study, TrialRecord, best_of_cell
from vimss.shards.instruments import INSTRUMENTS
from vimss.systems import Truth
from vimss.train.config import VALIDATION_SOURCES
from vimss.train.objectives import OBJECTIVES

MIXTURE_COLUMNS = {"SI-SDRi": "si_sdr_improvement", "contrast": "label_contrast", "absent": "absent_level"}

PIECE_COLUMNS = {"SI-SDRi": "si_sdr_improvement", "SDR": "sdr", "SIR": "sir", "SAR": "sar"}

SILENCE_COLUMNS = {"PES": "pes", "EPS": "eps"}

CLAIM_COLUMNS = ("SI-SDRi", "right picture", "another player's", "shuffled in training", "label", "right - shuffled")

TRUTHS: dict[Truth, str] = {
    "stems": "oracles, which read the true stems: ceilings for systems that do not",
    "notes": "told all notes of each player, which no model is",
    "order": "outputs without labels, which an oracle assigns by the true stems; untrained ones only of two sources",
}
"""What is said of systems that are given the truth, by what of it."""

BREAKDOWN_COLUMNS = ("", "sources", "pieces SI-SDRi", "SDR")


def comparison_columns(experiment: Experiment) -> tuple[str, ...]:
    """Of the table of an experiment's cells."""
    return "cell", "trials", "finished", experiment.figure.heading, "chosen in the best trial"


def comparison_rows(experiment: Experiment, study: Study, left_out: Collection[str] = ()) -> list[tuple[str, ...]]:
    """One row per cell under `comparison_columns`; figure and settings are those of the trial to be promoted.

    Of cells that are `left_out` on this machine, that is said in their place.
    """
    rows: list[tuple[str, ...]] = []
    for cell in experiment.cells():
        records = study.of_cell(cell.name)
        best = best_of_cell(study, cell.name)
        chosen = (
            ", ".join(f"{key.rpartition('.')[2]} {short(value)}" for key, value in best.chosen.items()) if best else ""
        )
        if cell.name in left_out:
            chosen = "left out on this machine"
        figure = figure_text(best) if best and math.isfinite(best.value) else "-"
        finished = sum(record.state == "finished" for record in records)
        rows.append((cell.name, str(len(records)), str(finished), figure, chosen))
    return rows


@dataclass(frozen=True)
class SeedSpread:
    """Cells that differ in their seed alone, as one group."""

    name: str
    cells: int
    values: tuple[float, ...]
    """The figure of each cell's best trial; cells without weights have none."""

    @property
    def figures(self) -> dict[str, int | float]:
        """For a script; if no cell has a figure, only the numbers of cells."""
        counts = {"cells": self.cells, "with_figure": len(self.values)}
        if not self.values:
            return {**counts}
        return {**counts, "mean": mean(self.values), "lowest": min(self.values), "highest": max(self.values)}


def seed_spreads(experiment: Experiment, study: Study) -> list[SeedSpread]:
    """The groups of two or more cells that differ in their seed alone; controls make groups of their own."""
    spreads = []
    for group in gathered(experiment):
        best = [best_of_cell(study, cell.name) for cell in group.cells]
        values = tuple(trial.value for trial in best if trial is not None and math.isfinite(trial.value))
        if len(group.cells) > 1:
            spreads.append(SeedSpread(group.name, len(group.cells), values))
    return spreads


def seed_columns(experiment: Experiment) -> tuple[str, ...]:
    """Of the table over seeds; the values are figures of the experiment's objective."""
    unit = f", {experiment.figure.unit}" if experiment.figure.unit else ""
    return "over seeds", "seeds", f"mean{unit}", f"lowest{unit}", f"highest{unit}"


def seed_rows(experiment: Experiment, study: Study) -> list[tuple[str, ...]]:
    """One row per group of cells that differ in their seed alone, under `seed_columns`."""
    rows: list[tuple[str, ...]] = []
    for spread in seed_spreads(experiment, study):
        found = [spread.figures.get(name) for name in ("mean", "lowest", "highest")]
        # Say if the mean is over fewer seeds than the experiment has.
        seeds = f"{len(spread.values)}" + (f" of {spread.cells}" if len(spread.values) < spread.cells else "")
        rows.append((spread.name, seeds, *("-" if value is None else f"{value:.2f}" for value in found)))
    return rows


def print_comparison(experiment: Experiment, study: Study, left_out: Collection[str] = ()) -> None:
    """The result table of an experiment; `left_out` are cells that this machine cannot train."""
    print_table(
        experiment.question,
        comparison_columns(experiment),
        comparison_rows(experiment, study, left_out),
        _caption(experiment, study),
    )
    over_seeds = seed_rows(experiment, study)
    if over_seeds:
        title = f"Cells that differ in their seed alone: {experiment.figure.title} of their best trials"
        print_table(title, seed_columns(experiment), over_seeds)


def _caption(experiment: Experiment, study: Study) -> str:
    """The figure of the cells, for people who read their table."""
    entry = OBJECTIVES[experiment.objective]
    better = "lower" if entry.figure.direction == "min" else "higher"
    title = entry.figure.title[0].upper() + entry.figure.title[1:]
    sentence = f"{title}: {entry.meaning}; {better} is better." if entry.meaning else f"{title}: {better} is better."
    if any(0 < record.scored_sources < max(VALIDATION_SOURCES) for record in study.records):
        sentence += " A network with K slots is scored on mixtures of at most K sources, which are easier."
    return sentence


def print_compared(compared: ComparedStudy) -> None:
    """The tables of `vimss compare`, its conventions, and what is missing or must not be claimed."""
    comparison = compared.comparison
    figures, *others = blocks(comparison)
    names = [row.name for row in comparison.rows]
    rows = [(name, *texts) for name, texts in zip(names, figures.rows, strict=True)]
    print_table(comparison.question, ("", *figures.headings), rows, caption(comparison))
    for block in others:
        # A baseline costs nothing, and a row may not be scored on all mixtures.
        known = [(name, *texts) for name, texts in zip(names, block.rows, strict=True) if set(texts) != {"-"}]
        print_table(block.title, ("", *block.headings), known)
    for name, meaning in comparison.conventions.items():
        out.print(f"  {name}: {meaning}")
    for sentence in comparison.sentences:
        # As it is: the square brackets and quotes of a setting are not markup.
        out.print(f"  {sentence}", markup=False)
    print_importances(compared.importances, compared.refused)


def compared_summary(compared: ComparedStudy) -> dict[str, Any]:
    """The same for a script; null stands for what is not known."""
    summary = asdict(compared.comparison)
    summary |= {name: getattr(compared.comparison, name).title for name in ("figure", "validation")}
    rated = [asdict(one) for one in compared.importances]
    files = [str(compared.folder / name) for name in compared.files]
    return {**summary, "importances": rated, "not_rated": compared.refused, "files": files}


def importance_rows(importances: Sequence[Importance], row: str) -> list[tuple[str, ...]]:
    """One line per axis: its share of the importance by each evaluator, with the range over searches and seeds."""
    of_row = [one for one in importances if one.row == row]
    axes = dict.fromkeys(axis for one in of_row for axis in one.shares)
    return [(axis, *(_shares(one.shares.get(axis, ())) for one in of_row)) for axis in axes]


def _shares(shares: Sequence[float]) -> str:
    if not shares:
        return "-"
    spread = f" ({min(shares):.2f} to {max(shares):.2f})" if len(shares) > 1 else ""
    return f"{mean(shares):.2f}{spread}"


def print_importances(importances: Sequence[Importance], refused: Sequence[str]) -> None:
    """A table for each row whose axes were rated, and a sentence for each that has too few trials."""
    for row in dict.fromkeys(one.row for one in importances):
        of_row = [one for one in importances if one.row == row]
        title = f"Importance of the axes of {row}: shares, mean and range over searches and seeds of the evaluator"
        basis = f"Over {of_row[0].trials} trials, by {of_row[0].basis}."
        print_table(title, ("", *(one.evaluator for one in of_row)), importance_rows(importances, row), basis)
    for sentence in refused:
        out.print(f"  {sentence}", markup=False)


def mixture_rows(evaluations: Sequence[Evaluation]) -> list[tuple[str, ...]]:
    """One row per system under MIXTURE_COLUMNS: medians with their intervals."""
    rows = []
    for evaluation in evaluations:
        two = evaluation.two_sources
        figures = [decibel(getattr(two, name), two.intervals.get(name)) for name in MIXTURE_COLUMNS.values()]
        rows.append((evaluation.system, *figures))
    return rows


def piece_rows(evaluations: Sequence[Evaluation], columns: Mapping[str, str]) -> list[tuple[str, ...]]:
    """One row per system under PIECE_COLUMNS or SILENCE_COLUMNS."""
    return [
        (
            evaluation.system,
            *(decibel(evaluation.median(name), evaluation.intervals.get(name)) for name in columns.values()),
        )
        for evaluation in evaluations
    ]


def breakdown_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """SI-SDRi and SDR of whole pieces per number of sources and per instrument, under BREAKDOWN_COLUMNS."""
    counts = sorted({score.sources for score in evaluation.scores})
    labels = sorted({score.label for score in evaluation.scores})
    groups: list[tuple[str, dict[str, object]]] = [(f"{count} sources", {"sources": count}) for count in counts]
    groups += [(INSTRUMENTS.get(label, label), {"label": label}) for label in labels]
    rows = []
    for name, where in groups:
        found = [evaluation.values(figure, **where) for figure in ("si_sdr_improvement", "sdr")]
        rows.append((name, str(evaluation.count(**where)), *(decibel(one.median, one.interval) for one in found)))
    return rows


def claim_rows(evaluations: Sequence[Evaluation]) -> list[tuple[str, ...]]:
    """One row per system that looks at players, under CLAIM_COLUMNS."""
    return [
        (
            evaluation.system,
            *(decibel(value) for value in (found.right, found.other, found.shuffled, found.label)),
            decibel(found.gain, found.interval),
        )
        for evaluation in evaluations
        if (found := evaluation.pictures) is not None
    ]


def print_claims(evaluations: Sequence[Evaluation]) -> None:
    """What pictures are worth to the systems that look at players; nothing where there is none."""
    rows = claim_rows(evaluations)
    if not rows:
        return
    print_table(
        "What pictures are worth, or examples: medians in dB on the same two-source mixtures", CLAIM_COLUMNS, rows
    )
    for evaluation in evaluations:
        if evaluation.pictures is not None:
            # As it is: the square brackets and quotes of a setting are not markup.
            out.print(f"  {evaluation.system}: {evaluation.pictures.sentence}", markup=False)
        named = naming(evaluation)
        if named:
            out.print(f"  {evaluation.system}: {named}", markup=False)


def print_source_counts(evaluations: Sequence[Evaluation]) -> None:
    """Mixtures of independent players by their number; nothing where none were asked for."""
    counts = {one.sources: one.mixtures for evaluation in evaluations for one in evaluation.source_counts}
    rows = []
    for evaluation in evaluations if counts else ():
        found = {one.sources: decibel(one.si_sdr_improvement, one.interval) for one in evaluation.source_counts}
        rows.append((evaluation.system, *(found.get(count, "-") for count in counts)))
    if rows:
        title = f"Mixtures of independent players, {max(counts.values())} of each number: SI-SDRi"
        print_table(title, ("", *(f"{count} sources" for count in counts)), rows)


def print_evaluations(split: str, evaluations: Sequence[Evaluation], best: TrialRecord | None = None) -> None:
    """The tables of all systems, the conventions, and details of the best trial, or else of every model."""
    two = evaluations[0].two_sources
    basis = f"{two.mixtures} mixtures, {_pieces(two.pieces)}"
    about = f"Split {split}, medians over sources in dB, with intervals over pieces"
    print_table(f"{about}: two-source mixtures ({basis})", ("", *MIXTURE_COLUMNS), mixture_rows(evaluations))
    print_source_counts(evaluations)
    print_claims(evaluations)
    scored = [evaluation for evaluation in evaluations if evaluation.scores]
    if scored:
        count = len({score.piece for score in scored[0].scores})
        basis = f"{scored[0].count()} sources, {_pieces(count)}"
        for title, columns in (("Whole pieces", PIECE_COLUMNS), ("Whole pieces at silence", SILENCE_COLUMNS)):
            print_table(f"{title} ({basis})", ("", *columns), piece_rows(scored, columns))
    else:
        out.print(f"No whole pieces: none of the split {split} has two labels that sound.")
    for truth, sentence in TRUTHS.items():
        names = [evaluation.system for evaluation in evaluations if evaluation.truth == truth]
        if names:
            out.print(f"  {sentence}: {'; '.join(names)}", markup=False)
    for name, meaning in CONVENTIONS.items():
        out.print(f"  {name}: {meaning}")
    detailed = [evaluation_of(best, evaluations)] if best is not None else [one for one in scored if one.weights]
    for found in detailed:
        if found is not None and found.scores:
            print_table(f"{found.system} on whole pieces", BREAKDOWN_COLUMNS, breakdown_rows(found))


def figure_rows(evaluations: Sequence[FigureEvaluation]) -> list[tuple[str, ...]]:
    """One row per system: the figure of its objective, and the interval."""
    return [
        (one.system, f"{one.value:.2f}", f"{one.interval[0]:.2f} to {one.interval[1]:.2f}" if one.interval else "-")
        for one in evaluations
    ]


def label_rows(evaluations: Sequence[FigureEvaluation]) -> list[tuple[str, ...]]:
    """One row per label that has a figure, one column per system."""
    labels = dict.fromkeys(label for one in evaluations for label in one.labels)
    return [
        (INSTRUMENTS.get(label, label), *(f"{one.labels.get(label, math.nan):.2f}" for one in evaluations))
        for label in labels
    ]


def print_figures(split: str, evaluations: Sequence[FigureEvaluation]) -> None:
    """The tables of networks that do not separate: the figure of each, and by label where it is of labels."""
    figure, first = evaluations[0].figure, evaluations[0]
    better = "Lower" if figure.direction == "min" else "Higher"
    basis = f"{len(first.rows)} mixtures, {_pieces(first.num_pieces)}"
    columns = ("", figure.heading, "95 % interval over pieces")
    print_table(f"Split {split} ({basis})", columns, figure_rows(evaluations), f"{better} is better.")
    by_label = label_rows(evaluations)
    if by_label:
        print_table(f"{figure.heading} of each label", ("", *(one.system for one in evaluations)), by_label)
    further = _further_rows(evaluations)
    if further:
        print_table(f"{figure.heading}, other conditions", ("", *(one.system for one in evaluations)), further)


COVERAGE_COLUMNS = ("confidence at least", "pieces assigned", "of those right", "SI-SDRi by the picture")


def player_rows(evaluations: Sequence[PlayersEvaluation]) -> list[tuple[str, ...]]:
    """Three rows per model: its slots ordered by an oracle, by the picture and by the swapped picture."""
    found = [(one.system, order, one.values(order)) for one in evaluations for order in ROWS]
    return [
        (f"{system}, ordered by {ORDERS[order]}", decibel(values.median, values.interval), f"{values.mean:.2f}")
        for system, order, values in found
    ]


def coverage_rows(evaluation: PlayersEvaluation) -> list[tuple[str, ...]]:
    """The risk-coverage curve of one model, under COVERAGE_COLUMNS."""
    return [
        (
            f"{one.least_confidence:g}",
            f"{one.coverage:.2f}",
            f"{one.right:.2f}" if one.coverage else "-",
            decibel(one.si_sdr_improvement, None),
        )
        for one in evaluation.risk_coverage
    ]


def print_players(split: str, evaluations: Sequence[PlayersEvaluation]) -> None:
    """The tables of slots models whose outputs are assigned to players."""
    first = evaluations[0]
    players = sum(len(piece.players) for piece in first.pieces)
    about = f"Split {split}, whole pieces ({players} players, {_pieces(len(first.pieces))})"
    print_table(
        f"{about}: players, in dB, with intervals over pieces", ("", "SI-SDRi", "mean"), player_rows(evaluations)
    )
    for one in evaluations:
        low, high = one.share_interval
        out.print(
            f"{one.system}: the picture gives every player the right slot in {one.share_right:.2f} of the pieces "
            f"({low:.2f} to {high:.2f}); right minus swapped picture: {one.swapped_contrast:.1f} dB"
        )
        print_table(f"{one.system}: where less certain pieces are left out", COVERAGE_COLUMNS, coverage_rows(one))


def _further_rows(evaluations: Sequence[FigureEvaluation]) -> list[tuple[str, ...]]:
    """One row per further figure, one column per system."""
    names = dict.fromkeys(name for one in evaluations for name in one.beside)
    return [(name, *(f"{one.beside.get(name, math.nan):.2f}" for one in evaluations)) for name in names]


def _pieces(count: int) -> str:
    """A number of pieces; one is too few for intervals."""
    return f"{count} pieces" if count > 1 else "1 piece: no intervals, which need two"
