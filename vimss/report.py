"""Results for people: tables of cells and of evaluations, and the pictures and pages that hang on runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from vimss.config import signature
from vimss.console import decibel, out, print_table
from vimss.errors import TrainingError
from vimss.evaluate import Evaluation
from vimss.experiment import SEED, Cell, Experiment, cell_name
from vimss.metrics import CONVENTIONS, si_sdr_improvement
from vimss.model.separator import read_card
from vimss.page import Page, Track, bars_png, curves_png, listening_page, spectrogram_png
from vimss.search.study import Study, TrialRecord
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.manifest import Manifest
from vimss.stream.scene import Scene, pieces_of
from vimss.systems import System, model_system
from vimss.track import Tracker
from vimss.train.config import VALIDATION_SOURCES

COMPARISON_COLUMNS = ("cell", "trials", "finished", "validation loss, dB", "chosen in the best trial")

SEED_COLUMNS = ("over seeds", "seeds", "mean, dB", "lowest, dB", "highest, dB")

MIXTURE_COLUMNS = {"SI-SDRi": "si_sdr_improvement", "contrast": "label_contrast", "absent": "absent_level"}

PIECE_COLUMNS = {"SI-SDRi": "si_sdr_improvement", "SDR": "sdr", "SIR": "sir", "SAR": "sar"}

SILENCE_COLUMNS = {"PES": "pes", "EPS": "eps"}

BREAKDOWN_COLUMNS = ("", "sources", "pieces SI-SDRi", "SDR")

EXCERPT_SECONDS = 10.0
"""Length of what a run's listening page plays: enough to hear, small enough for a hundred runs."""


def comparison_rows(experiment: Experiment, study: Study) -> list[tuple[str, ...]]:
    """One row per cell under COMPARISON_COLUMNS; loss and settings are those of the trial that would be promoted."""
    rows: list[tuple[str, ...]] = []
    for cell in experiment.cells():
        records = study.of_cell(cell.name)
        best = best_of(study, cell.name)
        chosen = (
            ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in best.chosen.items()) if best else ""
        )
        loss = f"{best.objective:.2f}{_part(best)}" if best and math.isfinite(best.objective) else "-"
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
        best = [best_of(study, cell.name) for cell in cells]
        losses = tuple(trial.objective for trial in best if trial is not None and math.isfinite(trial.objective))
        name = " / ".join(cell.name for cell in cells) if control else cell_name(others)
        # Two controls may also change the very same, seed and all.
        if len({cell.overrides.get(SEED, experiment.seed) for cell in cells}) == len(cells) > 1:
            spreads.append(SeedSpread(name, len(cells), losses))
    return spreads


def seed_rows(experiment: Experiment, study: Study) -> list[tuple[str, ...]]:
    """One row per group of cells that differ in their seed alone, under SEED_COLUMNS."""
    rows: list[tuple[str, ...]] = []
    for spread in seed_spreads(experiment, study):
        found = [spread.figures.get(name) for name in ("mean", "lowest", "highest")]
        # A mean over fewer seeds than were asked for must say so.
        seeds = f"{len(spread.losses)}" + (f" of {spread.cells}" if len(spread.losses) < spread.cells else "")
        rows.append((spread.name, seeds, *("-" if value is None else f"{value:.2f}" for value in found)))
    return rows


def _part(trial: TrialRecord) -> str:
    """Which part of the validation set an objective is of, where that is not all of it."""
    return f" (up to {trial.scored_sources} sources)" if trial.scored_sources < max(VALIDATION_SOURCES) else ""


def best_of(study: Study, cell: str) -> TrialRecord | None:
    """The best trial of a cell; None where no trial has weights."""
    try:
        return study.best([cell])
    except TrainingError:
        return None


def evaluation_of(trial: TrialRecord, evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The evaluation of the trial's weights; None where they were not evaluated."""
    weights = read_card(trial.folder / "model")["sha256"]
    return next((evaluation for evaluation in evaluations if evaluation.weights == weights), None)


def print_comparison(experiment: Experiment, study: Study) -> None:
    """The result table of an experiment."""
    caption = (
        "Validation loss: mean -SNR in dB, floored at -30, over present sources of the fixed set; lower is better. "
        "Networks with fewer slots than its mixtures have sources answer only a part of it, which is easier."
    )
    print_table(experiment.question, COMPARISON_COLUMNS, comparison_rows(experiment, study), caption)
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
    """The tables of all systems, what their columns mean, and in detail the best trial; without one, every model."""
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
    """How many, and what follows of too few."""
    return f"{count} pieces" if count > 1 else "1 piece: no intervals, which need two"


def log_pictures(experiment: Experiment, manifest: Manifest, study: Study, tracker: Tracker) -> None:
    """Give every cell its curves, and every finished trial its curve, a spectrogram and a page to listen to.

    In a cell where no trial finished, the best of those with weights gets them. Each takes about a second.
    """
    excerpts: dict[tuple[tuple[str, ...], str], Scene | None] = {}
    rate = manifest.recipe.sample_rate
    for cell in experiment.cells():
        records = study.of_cell(cell.name)
        best = best_of(study, cell.name)
        tracker.log_files(cell.name, "", {"curves.png": curves_picture({record.trial: record for record in records})})
        for record in records:
            if not (record is best or (record.state == "finished" and (record.folder / "model").is_dir())):
                continue
            system = model_system(record.folder / "model", manifest, record.trial)
            shown = (system.views.members, system.views.features)
            if shown not in excerpts:
                piece = next(pieces_of(manifest, "valid", system.views), None)
                excerpts[shown] = piece.beginning(round(EXCERPT_SECONDS * rate)) if piece is not None else None
            files = {"curve.png": curves_picture({record.trial: record})}
            excerpt = excerpts[shown]
            # A corpus of solos has nothing to separate.
            if excerpt is not None and excerpt.references:
                files |= excerpt_files(experiment, record, system, excerpt, rate)
            tracker.log_files(cell.name, record.trial, files)


def curves_picture(records: Mapping[str, TrialRecord]) -> bytes:
    """Validation loss against audio seconds."""
    series = {
        name: (
            [report["audio_seconds"] for report in record.reports],
            [report[record.figure.name] for report in record.reports],
        )
        for name, record in records.items()
        if record.reports
    }
    return curves_png(series, "audio seconds seen", "validation loss, dB", "Lower is better")


def excerpt_files(
    experiment: Experiment, record: TrialRecord, system: System, excerpt: Scene, rate: int
) -> dict[str, bytes]:
    """A spectrogram of the first estimate, and a page with mixture, estimates and true stems."""
    labels = sorted(excerpt.references)
    names = {label: INSTRUMENTS.get(label, label) for label in labels}
    estimates = dict(zip(labels, system(excerpt, labels), strict=True))
    tracks = [Track("mixture", excerpt.mixture, "mix")]
    for label, estimate in estimates.items():
        gain = si_sdr_improvement(excerpt.mixture, excerpt.references[label], estimate, rate)
        tracks.append(Track(names[label], estimate, "estimate", f"{decibel(gain)} dB SI-SDR improvement"))
        tracks.append(Track(names[label], excerpt.references[label], "reference"))
    facts = {
        "experiment": experiment.name,
        "cell": record.cell,
        "trial": record.trial,
        "validation loss": f"{record.objective:.2f} dB{_part(record)}",
    }
    if not system.ordered:
        facts["slots"] = CONVENTIONS["slots"]
    page = Page(f"{experiment.name}: {record.cell}", experiment.question, tracks, rate, facts)
    title = f"{excerpt.name}: {names[labels[0]]}"
    return {
        "spectrogram.png": spectrogram_png(estimates[labels[0]], rate, title),
        "listen.html": listening_page(page).encode(),
    }


def evaluation_bars(evaluations: Sequence[Evaluation]) -> bytes:
    """SI-SDR improvement of whole pieces by number of sources."""
    counts = sorted({score.sources for evaluation in evaluations for score in evaluation.scores})
    groups = {
        evaluation.system: {
            f"{count} sources": evaluation.median("si_sdr_improvement", sources=count) for count in counts
        }
        for evaluation in evaluations
    }
    return bars_png(groups, "SI-SDR improvement, dB", "Whole pieces")


def _short(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
