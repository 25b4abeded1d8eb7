"""The pictures and the page of each trial of a study, for MLflow: curves, a spectrogram, an excerpt to listen to.

for path, content in run_files(experiment, manifest, study):
    path.write_bytes(content)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from vimss.console import decibel, figure_text
from vimss.evaluate import Evaluation
from vimss.evaluate.figures import FigureEvaluation
from vimss.experiment import Experiment
from vimss.media import encode_audio, fitting_gain, quantise
from vimss.metrics import CONVENTIONS, si_sdr_improvement
from vimss.pages.charts import bars_png, curves_png, spectrogram_png
from vimss.pages.listening import Page, Track, listening_page
from vimss.search.study import FILES, RECORD, Study, TrialRecord, best_of_cell, cell_folder
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.manifest import Manifest
from vimss.stream.scene import Scene, pieces_of
from vimss.systems import System, model_system
from vimss.train.objectives import figure_of

EXCERPT_SECONDS = 10.0
"""Length of the excerpt on a trial's page: long enough to judge, and small enough for a hundred runs."""


LAST = "curve.png"
"""The file of a trial that is written after its others."""


def run_files(
    experiment: Experiment, manifest: Manifest, study: Study, on_progress: Callable[[str], None] = lambda progress: None
) -> Iterator[tuple[Path, bytes]]:
    """Files with their contents: curves of every cell, and of every finished trial its curve, a spectrogram and a page.

    A cell without a finished trial gets those of its best trial with weights. Each trial takes about a second; one that
    has them since its record was last written is left out.
    """
    done: set[Path] = set()
    excerpts: dict[tuple[tuple[str, ...], str, float], Scene | None] = {}
    rate, cells = manifest.recipe.sample_rate, experiment.cells()
    for number, cell in enumerate(cells, start=1):
        on_progress(f"cell {number} of {len(cells)}")
        records = study.of_cell(cell.name)
        best = best_of_cell(study, cell.name)
        if not records:
            continue
        curves = figure_curves({record.trial: record for record in records})
        yield study.folder / cell_folder(experiment, cell) / FILES / "curves.png", curves
        for record in records:
            if record.folder in done or _is_newer(record.folder / FILES / LAST, record.folder / RECORD):
                continue
            if not (record is best or (record.state == "finished" and (record.folder / "model").is_dir())):
                continue
            system = model_system(record.folder / "model", manifest, record.trial)
            shown = (system.views.members, system.views.features, system.views.example_seconds)
            if shown not in excerpts:
                # Of some there may be no example.
                pieces = (piece for piece in pieces_of(manifest, "valid", system.views) if piece.references)
                piece = next(pieces, None)
                excerpts[shown] = piece.beginning(round(EXCERPT_SECONDS * rate)) if piece is not None else None
            excerpt = excerpts[shown]
            # A corpus of solos has nothing to separate.
            files: dict[str, bytes] = {}
            if excerpt is not None and excerpt.references:
                files = excerpt_files(experiment, record, system, excerpt, rate)
            files[LAST] = figure_curves({record.trial: record})
            done.add(record.folder)
            yield from ((record.folder / FILES / name, content) for name, content in files.items())


def _is_newer(path: Path, other: Path) -> bool:
    return path.exists() and path.stat().st_mtime_ns >= other.stat().st_mtime_ns


def figure_curves(records: Mapping[str, TrialRecord]) -> bytes:
    """The figure of trials, by name, against audio seconds."""
    figure = next((record.figure for record in records.values()), figure_of())
    series = {
        name: (
            [report["audio_seconds"] for report in record.reports],
            [report[record.figure.name] for report in record.reports],
        )
        for name, record in records.items()
        if record.reports
    }
    return curves_png(
        series, "audio seconds seen", figure.heading, f"{'Lower' if figure.direction == 'min' else 'Higher'} is better"
    )


def excerpt_files(
    experiment: Experiment, record: TrialRecord, system: System, excerpt: Scene, rate: int
) -> dict[str, bytes]:
    """A spectrogram of the first estimate, a page with mixture, estimates and references, and the same as WAV files."""
    labels = sorted(excerpt.references)
    names = {label: INSTRUMENTS.get(label, label) for label in labels}
    estimates = dict(zip(labels, system(excerpt, labels), strict=True))
    tracks = [Track("mixture", excerpt.mixture, "mix")]
    for label, estimate in estimates.items():
        gain = si_sdr_improvement(excerpt.mixture, excerpt.references[label], estimate, rate)
        tracks.append(Track(names[label], estimate, "estimate", f"{decibel(gain)} dB SI-SDR improvement"))
        tracks.append(Track(names[label], excerpt.references[label], "reference"))
    sounds = {"mixture": excerpt.mixture, **estimates}
    sounds |= {f"{label}-reference": excerpt.references[label] for label in labels}
    level = fitting_gain(*sounds.values())
    facts = {
        "experiment": experiment.name,
        "cell": record.cell,
        "trial": record.trial,
        record.figure.title: figure_text(record, with_unit=True),
    }
    if not system.ordered:
        facts["slots"] = CONVENTIONS["slots"]
    page = Page(f"{experiment.name}: {record.cell}", experiment.question, tracks, rate, facts)
    title = f"{excerpt.name}: {names[labels[0]]}"
    return {
        "spectrogram.png": spectrogram_png(estimates[labels[0]], rate, title),
        "listen.html": listening_page(page).encode(),
        **{f"audio/{name}.wav": encode_audio(quantise(level * sound), rate) for name, sound in sounds.items()},
    }


def evaluation_bars(evaluations: Sequence[Evaluation]) -> bytes:
    """SI-SDR improvement of whole pieces by number of sources."""
    counts = sorted({score.sources for evaluation in evaluations for score in evaluation.scores})
    groups = {
        evaluation.system: {
            f"{count} sources": evaluation.median("si_sdr_improvement", sources=count) for count in counts
        }
        for evaluation in evaluations
        if evaluation.scores
    }
    return bars_png(groups, "SI-SDR improvement, dB", "Whole pieces")


def figure_bars(evaluations: Sequence[FigureEvaluation]) -> bytes:
    """The figure of networks that do not separate, and that of each label that has one."""
    groups = {evaluation.system: {"all": evaluation.value, **evaluation.labels} for evaluation in evaluations}
    return bars_png(groups, evaluations[0].figure.heading, "Fixed mixtures")
