"""Tables of results for the terminal: the cells of an experiment, and evaluations of several systems."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from vimss.config import signature
from vimss.console import decibel, loss_text, out, print_table, short
from vimss.evaluate import Evaluation
from vimss.evaluations import evaluation_of
from vimss.experiment import SEED, Cell, Experiment, cell_name
from vimss.metrics import CONVENTIONS
from vimss.search.study import Study, TrialRecord, best_of_cell
from vimss.shards.instruments import INSTRUMENTS

SEED_COLUMNS = ("over seeds", "seeds", "mean, dB", "lowest, dB", "highest, dB")

MIXTURE_COLUMNS = {"SI-SDRi": "si_sdr_improvement", "contrast": "label_contrast", "absent": "absent_level"}

PIECE_COLUMNS = {"SI-SDRi": "si_sdr_improvement", "SDR": "sdr", "SIR": "sir", "SAR": "sar"}

SILENCE_COLUMNS = {"PES": "pes", "EPS": "eps"}

BREAKDOWN_COLUMNS = ("", "sources", "pieces SI-SDRi", "SDR")


def comparison_columns(experiment: Experiment) -> tuple[str, ...]:
    """Of the table of an experiment's cells."""
    return "cell", "trials", "finished", experiment.figure.heading, "chosen in the best trial"


def comparison_rows(experiment: Experiment, study: Study) -> list[tuple[str, ...]]:
    """One row per cell under `comparison_columns`; figure and settings are those of the trial to be promoted."""
    rows: list[tuple[str, ...]] = []
    for cell in experiment.cells():
        records = study.of_cell(cell.name)
        best = best_of_cell(study, cell.name)
        chosen = (
            ", ".join(f"{key.rpartition('.')[2]} {short(value)}" for key, value in best.chosen.items()) if best else ""
        )
        loss = loss_text(best) if best and math.isfinite(best.value) else "-"
        finished = sum(record.state == "finished" for record in records)
        rows.append((cell.name, str(len(records)), str(finished), loss, chosen))
    return rows


@dataclass(frozen=True)
class SeedSpread:
    """Cells that differ in their seed alone, as one group."""

    name: str
    cells: int
    losses: tuple[float, ...]
    """The validation loss of each cell's best trial; cells without weights have none."""

    @property
    def figures(self) -> dict[str, int | float]:
        """For a script; without any loss, there are only the numbers of cells."""
        counts = {"cells": self.cells, "with_loss": len(self.losses)}
        if not self.losses:
            return {**counts}
        return {**counts, "mean": mean(self.losses), "lowest": min(self.losses), "highest": max(self.losses)}


def seed_spreads(experiment: Experiment, study: Study) -> list[SeedSpread]:
    """The groups of two or more cells that differ in their seed alone; controls make groups of their own."""
    groups: dict[tuple[bool, str], list[Cell]] = {}
    for cell in experiment.cells():
        others = {key: value for key, value in cell.overrides.items() if key != SEED}
        groups.setdefault((cell.is_control, signature(others)), []).append(cell)
    spreads = []
    for (control, _), cells in groups.items():
        others = {key: value for key, value in cells[0].overrides.items() if key != SEED}
        best = [best_of_cell(study, cell.name) for cell in cells]
        losses = tuple(trial.value for trial in best if trial is not None and math.isfinite(trial.value))
        name = " / ".join(cell.name for cell in cells) if control else cell_name(others)
        # Two controls may change the same settings, the seed included.
        if len({cell.overrides.get(SEED, experiment.seed) for cell in cells}) == len(cells) > 1:
            spreads.append(SeedSpread(name, len(cells), losses))
    return spreads


def seed_rows(experiment: Experiment, study: Study) -> list[tuple[str, ...]]:
    """One row per group of cells that differ in their seed alone, under SEED_COLUMNS."""
    rows: list[tuple[str, ...]] = []
    for spread in seed_spreads(experiment, study):
        found = [spread.figures.get(name) for name in ("mean", "lowest", "highest")]
        # Say if the mean is over fewer seeds than the experiment has.
        seeds = f"{len(spread.losses)}" + (f" of {spread.cells}" if len(spread.losses) < spread.cells else "")
        rows.append((spread.name, seeds, *("-" if value is None else f"{value:.2f}" for value in found)))
    return rows


def print_comparison(experiment: Experiment, study: Study) -> None:
    """The result table of an experiment."""
    caption = (
        "Validation loss: mean -SNR in dB, floored at -30, over present sources of the fixed set; lower is better. "
        "Networks with fewer slots than its mixtures have sources answer only a part of it, which is easier."
    )
    print_table(experiment.question, comparison_columns(experiment), comparison_rows(experiment, study), caption)
    over_seeds = seed_rows(experiment, study)
    if over_seeds:
        print_table("Cells that differ in their seed alone: the losses of their best trials", SEED_COLUMNS, over_seeds)


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


def print_evaluations(split: str, evaluations: Sequence[Evaluation], best: TrialRecord | None = None) -> None:
    """The tables of all systems, the conventions, and details of the best trial, or else of every model."""
    two = evaluations[0].two_sources
    basis = f"{two.mixtures} mixtures, {_pieces(two.pieces)}"
    about = f"Split {split}, medians over sources in dB, with intervals over pieces"
    print_table(f"{about}: two-source mixtures ({basis})", ("", *MIXTURE_COLUMNS), mixture_rows(evaluations))
    scored = [evaluation for evaluation in evaluations if evaluation.scores]
    if scored:
        count = len({score.piece for score in scored[0].scores})
        basis = f"{scored[0].count()} sources, {_pieces(count)}"
        for title, columns in (("Whole pieces", PIECE_COLUMNS), ("Whole pieces at silence", SILENCE_COLUMNS)):
            print_table(f"{title} ({basis})", ("", *columns), piece_rows(scored, columns))
    else:
        out.print(f"No whole pieces: none of the split {split} has two labels that sound.")
    for name, meaning in CONVENTIONS.items():
        out.print(f"  {name}: {meaning}")
    detailed = [evaluation_of(best, evaluations)] if best is not None else [one for one in scored if one.weights]
    for found in detailed:
        if found is not None and found.scores:
            print_table(f"{found.system} on whole pieces", BREAKDOWN_COLUMNS, breakdown_rows(found))


def _pieces(count: int) -> str:
    """A number of pieces; one is too few for intervals."""
    return f"{count} pieces" if count > 1 else "1 piece: no intervals, which need two"
