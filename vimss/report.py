"""Results for people: tables of cells and of evaluations, and the pictures and pages that hang on runs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from vimss.console import decibel, out, print_table
from vimss.evaluate import Evaluation, ModelSystem, pieces_of
from vimss.experiment import Experiment
from vimss.metrics import si_sdr_improvement
from vimss.model.separator import load_separator
from vimss.page import Page, Track, bars_png, curves_png, listening_page, spectrogram_png
from vimss.search import OBJECTIVE, Study, TrialRecord
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.manifest import Manifest
from vimss.track import Tracker

COMPARISON_COLUMNS = ("cell", "trials", "finished", "validation loss, dB", "chosen in the best trial")

EVALUATION_COLUMNS = (
    "",
    "SI-SDRi",
    "contrast",
    "absent",
    "pieces SI-SDRi",
    "SDR",
    "SIR",
    "SAR",
    "PES",
    "EPS",
)

BREAKDOWN_COLUMNS = ("", "sources", "pieces SI-SDRi", "SDR")

EXCERPT_SECONDS = 10.0
"""Length of what a run's listening page plays: enough to hear, small enough for a hundred runs."""


def comparison_rows(experiment: Experiment, study: Study) -> list[tuple[str, ...]]:
    """One row per cell under COMPARISON_COLUMNS."""
    rows: list[tuple[str, ...]] = []
    for cell in experiment.cells():
        records = study.of_cell(cell.name)
        best = min(records, key=lambda record: record.objective, default=None)
        chosen = (
            ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in best.chosen.items()) if best else ""
        )
        loss = f"{best.objective:.2f}" if best and math.isfinite(best.objective) else "-"
        finished = sum(record.state == "finished" for record in records)
        rows.append((cell.name, str(len(records)), str(finished), loss, chosen))
    return rows


def print_comparison(experiment: Experiment, study: Study) -> None:
    """The result table of an experiment."""
    caption = (
        "Validation loss: mean -SNR in dB, floored at -30, over present sources of the fixed set; lower is better."
    )
    print_table(experiment.question, COMPARISON_COLUMNS, comparison_rows(experiment, study), caption)


def evaluation_rows(evaluations: Sequence[Evaluation]) -> list[tuple[str, ...]]:
    """One row per system under EVALUATION_COLUMNS."""
    rows = []
    for evaluation in evaluations:
        two = evaluation.two_sources
        values = [two.si_sdr_improvement, two.label_contrast, two.absent_level]
        values += [evaluation.median(name) for name in ("si_sdr_improvement", "sdr", "sir", "sar", "pes", "eps")]
        rows.append((evaluation.system, *(decibel(value) for value in values)))
    return rows


def breakdown_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """SI-SDRi and SDR of whole pieces per number of sources and per instrument, under BREAKDOWN_COLUMNS."""
    counts = sorted({score.sources for score in evaluation.scores})
    labels = sorted({score.label for score in evaluation.scores})
    groups: list[tuple[str, dict[str, object]]] = [(f"{count} sources", {"sources": count}) for count in counts]
    groups += [(INSTRUMENTS.get(label, label), {"label": label}) for label in labels]
    return [
        (
            name,
            str(evaluation.count(**where)),
            decibel(evaluation.median("si_sdr_improvement", **where)),
            decibel(evaluation.median("sdr", **where)),
        )
        for name, where in groups
    ]


def print_evaluations(split: str, evaluations: Sequence[Evaluation]) -> None:
    """The table of all systems, what its columns mean, and the first system in detail."""
    print_table(
        f"Split {split}: two-source mixtures, then whole pieces; medians in dB",
        EVALUATION_COLUMNS,
        evaluation_rows(evaluations),
    )
    for name, meaning in evaluations[0].conventions.items():
        out.print(f"  {name}: {meaning}", soft_wrap=True)
    if evaluations[0].scores:
        print_table(f"{evaluations[0].system} on whole pieces", BREAKDOWN_COLUMNS, breakdown_rows(evaluations[0]))


def log_pictures(experiment: Experiment, manifest: Manifest, study: Study, tracker: Tracker) -> None:
    """Give every cell its curves, and the best trial of each a spectrogram and a page to listen to."""
    piece = next(pieces_of(manifest, "valid"))
    rate = manifest.recipe.sample_rate
    length = min(piece.mixture.shape[1], round(EXCERPT_SECONDS * rate))
    mixture = piece.mixture[:, :length]
    references = {label: stem[:, :length] for label, stem in piece.references.items() if stem[:, :length].any()}
    labels = sorted(references)
    for cell in experiment.cells():
        records = study.of_cell(cell.name)
        tracker.log_files(cell.name, "", {"curves.png": curves_picture({record.trial: record for record in records})})
        best = min(records, key=lambda record: record.objective, default=None)
        if best is None or not (best.folder / "model").is_dir():
            continue
        separator = load_separator(best.folder / "model")
        files: dict[str, bytes] = {"curve.png": curves_picture({best.trial: best})}
        if separator.config.outputs != "slots" and not separator.watches:
            estimates = ModelSystem(separator, best.trial)(mixture, references, labels)
            gains = [
                si_sdr_improvement(mixture, references[label], estimate, rate)
                for label, estimate in zip(labels, estimates, strict=True)
            ]
            files["spectrogram.png"] = spectrogram_png(
                estimates[0], rate, f"{piece.name}: {INSTRUMENTS.get(labels[0], labels[0])}"
            )
            files["listen.html"] = excerpt_page(experiment, best, mixture, references, estimates, gains, rate).encode()
        tracker.log_files(cell.name, best.trial, files)


def curves_picture(records: Mapping[str, TrialRecord]) -> bytes:
    """Validation loss against audio seconds."""
    series = {
        name: (
            [report["audio_seconds"] for report in record.reports],
            [report[OBJECTIVE] for report in record.reports],
        )
        for name, record in records.items()
        if record.reports
    }
    return curves_png(series, "audio seconds seen", "validation loss, dB", "Lower is better")


def excerpt_page(
    experiment: Experiment,
    record: TrialRecord,
    mixture: np.ndarray,
    references: Mapping[str, np.ndarray],
    estimates: np.ndarray,
    gains: Sequence[float],
    rate: int,
) -> str:
    """A page with mixture, estimates and true stems of one excerpt."""
    tracks = [Track("mixture", mixture, "mix")]
    for label, estimate, gain in zip(sorted(references), estimates, gains, strict=True):
        name = INSTRUMENTS.get(label, label)
        tracks.append(Track(name, estimate, "estimate", f"{decibel(gain)} dB SI-SDR improvement"))
        tracks.append(Track(name, references[label], "reference"))
    facts = {
        "experiment": experiment.name,
        "cell": record.cell,
        "trial": record.trial,
        "validation loss": f"{record.objective:.2f} dB",
    }
    return listening_page(Page(f"{experiment.name}: {record.cell}", experiment.question, tracks, rate, facts))


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
