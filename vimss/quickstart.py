"""From scores to stems in five minutes: the ordinary verbs in their order, with small settings.

    vimss quickstart    # shards/quickstart.yaml, experiments/quickstart.yaml, then a test piece as stems and a page

Everything is kept by signature: a second run finds what the first one made. `quickstart.json` in the store holds
the figures.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vimss import verbs
from vimss.config import to_json
from vimss.console import Say, SearchLines, err, out, print_table, stage
from vimss.evaluate import REFERENCES, Evaluation
from vimss.experiment import Experiment
from vimss.media import write_video, write_wav
from vimss.report import COMPARISON_COLUMNS, comparison_rows, log_pictures, print_evaluations
from vimss.search import Study
from vimss.shards.clip import Clip
from vimss.shards.manifest import Manifest
from vimss.storage import publish
from vimss.stream.read import read_pieces
from vimss.systems import mixture_of, references_of

NAME = "quickstart"

JOB = (
    'ray job submit --working-dir . --runtime-env-json \'{{"env_vars": {{"VIMSS_STORE": "{store}"}}}}\' '
    "-- python -m vimss search experiments/quickstart.yaml --on cluster"
)

BEST = "best trial"
"""Row of the searched model in the tables."""


class Stages:
    """The seconds of each stage, as they pass."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[Say]:
        """A stage line, and its seconds."""
        begin = time.monotonic()
        with stage(name) as say:
            yield say
        self.seconds[name] = round(time.monotonic() - begin, 1)

    @property
    def total(self) -> float:
        """Seconds since the beginning."""
        return round(time.monotonic() - self.begin, 1)


def run(seed: int = 0, place: str = "local") -> Path:
    """The whole flow; returns the path of quickstart.json."""
    stages = Stages()
    experiment = verbs.experiment_of(NAME, seed)
    with stages("start Ray"):
        work_at = verbs.at_place(place)
        work = work_at.__enter__()
    try:
        with stages("corpus and shards") as say:
            recipe = verbs.recipe_of(experiment.shards, seed)
            manifest = verbs.write(work, experiment.shards, recipe, on_progress=verbs.shard_news(say))
        with stages("search") as say:
            lines = SearchLines(say, experiment.settings().training.audio_seconds)
            study, tracker = verbs.run_search(work, experiment, manifest, [lines])
        with stages("evaluate") as say:
            test, unheard = _evaluate(experiment, manifest, study, say)
        with stages("track and promote"):
            log_pictures(experiment, manifest, study, tracker)
            promotion = verbs.promote_best(work, experiment, manifest, tracker, study)
            verbs.close_tracker(tracker, err.print)
        with stages("separate") as say:
            best = study.best(_searched(experiment))
            model = f"models:/{experiment.name}/{promotion.version}"
            recording, references = write_recording(manifest, work.store.root / NAME)
            separated = verbs.separate_file(work, recording, model, "", None, references, say)
    finally:
        work_at.__exit__(None, None, None)
    summary = {
        "seconds": stages.total,
        "stages": stages.seconds,
        "seed": seed,
        "trials": sum(not cell.baseline and len(study.of_cell(cell.name)) for cell in experiment.cells()),
        "baseline": {
            cell.name: _figures(evaluation)
            for cell in experiment.cells()
            for evaluation in test
            if cell.baseline and evaluation.system == cell.name
        },
        "references": {found.system: _figures(found) for found in test if found.system in REFERENCES},
        "best": {
            "cell": best.cell,
            "trial": best.trial,
            "config": best.settings.model_dump(mode="json"),
            "metrics": {**best.best_report, **_figures(test[0])},
            "unheard_timbres": unheard.two_sources.model_dump(),
        },
        "champion": {
            "name": promotion.name,
            "version": promotion.version,
            "promoted": promotion.is_champion,
            "sentence": promotion.decision.sentence,
        },
        "page": str(separated.page),
    }
    path = work.store.root / "quickstart.json"
    with publish(path) as temporary:
        temporary.write_text(to_json(summary), encoding="utf-8")
    _tell(experiment, study, test, unheard, summary, path)
    return path


def write_recording(manifest: Manifest, folder: Path) -> tuple[Path, Path]:
    """A test piece as somebody would have filmed it: an mp4 with the players side by side, named in its metadata.

    Returns the mp4 and the folder of its true stems, which only the scores on the page hear.
    """
    pieces = read_pieces(manifest, "test", parts=("audio", "picture"))
    clip = next(clip for clip in pieces if len(references_of(clip)) > 1)
    recording, stems = folder / f"{clip.piece}.mp4", folder / f"{clip.piece}-stems"
    rate = manifest.recipe.sample_rate
    references = references_of(clip)
    if not recording.exists():
        for label, stem in references.items():
            write_wav(stems / f"{label}.wav", stem, rate)
        metadata = {"title": clip.piece, "instruments": ",".join(sorted(references))}
        write_video(recording, _side_by_side(clip), clip.frame_rate, mixture_of(clip), rate, metadata)
    return recording, stems


def _side_by_side(clip: Clip) -> np.ndarray:
    return np.concatenate([player.picture for player in clip.players if player.picture is not None], axis=2)


def _evaluate(
    experiment: Experiment, manifest: Manifest, study: Study, say: Say
) -> tuple[list[Evaluation], Evaluation]:
    best = verbs.best_trials(experiment, study)
    searched = study.best(_searched(experiment))
    models = {BEST: searched.folder / "model"}
    models |= {
        cell.name: best[cell.name].folder / "model"
        for cell in experiment.cells()
        if cell.name in best and cell.baseline
    }
    test = verbs.evaluate_systems(manifest, models, "test", on_done=lambda done: say(f"{done.system} is scored"))
    verbs.save_evaluations(study, "test", test)
    only_best = {BEST: models[BEST]}
    (unheard,) = verbs.evaluate_systems(manifest, only_best, "test_unheard", references=False, whole_pieces=False)
    verbs.save_evaluations(study, "test_unheard", [unheard])
    return test, unheard


def _searched(experiment: Experiment) -> list[str]:
    return [cell.name for cell in experiment.cells() if not cell.baseline]


def _figures(evaluation: Evaluation) -> dict[str, float]:
    pieces = {
        f"pieces_{name}": evaluation.median(name) for name in ("si_sdr_improvement", "sdr", "sir", "sar", "pes", "eps")
    }
    return {**evaluation.two_sources.model_dump(), **pieces}


def _tell(
    experiment: Experiment,
    study: Study,
    test: list[Evaluation],
    unheard: Evaluation,
    summary: Mapping[str, Any],
    path: Path,
) -> None:
    print_table("Trials", COMPARISON_COLUMNS, comparison_rows(experiment, study))
    print_evaluations("test", test, verbs.best_trial(experiment, study))
    two = unheard.two_sources
    out.print(f"Unheard timbres: {two.si_sdr_improvement:+.1f} dB on two-source mixtures of the split test_unheard.")
    out.print(summary["champion"]["sentence"], soft_wrap=True)
    lines = {
        "stems and page": summary["page"],
        "runs and models": "vimss ui",
        "the same search on a cluster": JOB.format(store=path.parent),
        "figures": str(path),
    }
    for name, line in lines.items():
        out.print(f"{name}: {line}", soft_wrap=True)
    out.print(
        f"{summary['seconds']:.0f} s: "
        + ", ".join(f"{name} {seconds:.0f}" for name, seconds in summary["stages"].items())
    )
