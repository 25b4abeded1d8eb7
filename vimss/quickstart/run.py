"""The run of a quickstart: every stage, timed."""

import json
import shlex
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from vimss import api, named_models
from vimss.config import to_json
from vimss.console import SearchLines, ShowProgress, err, show_rate, stage
from vimss.evaluate import Evaluation
from vimss.evaluations import claims_of_experiment, evaluate_systems, save_evaluations, system_rows
from vimss.experiment import Experiment
from vimss.media import write_video, write_wav
from vimss.promote import promote_best
from vimss.quickstart.estimate import expected_time
from vimss.quickstart.result import BEST, ROWS, Result
from vimss.runtime import start_ray
from vimss.search.consistency import load_experiment
from vimss.search.study import Study
from vimss.separate import Reports
from vimss.session import open_session
from vimss.shards.manifest import Manifest
from vimss.storage import atomic_write
from vimss.stream.read import read_pieces
from vimss.stream.scene import mixture_of, references_of

EXPERIMENT = "quickstart"

HEAD_ADDRESS = "http://127.0.0.1:8265"
"""Address of the head of platform/cluster, which takes jobs."""


class Stages:
    """The seconds of each stage so far; the first stage is the imports since `began`."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.seconds = {"imports": self.total}

    @contextmanager
    def __call__(self, name: str) -> Iterator[ShowProgress]:
        """A stage line, and its seconds."""
        begin = time.monotonic()
        with stage(name) as show_progress:
            yield show_progress
        self.seconds[name] = round(time.monotonic() - begin, 1)

    @property
    def total(self) -> float:
        """Seconds since `began`."""
        return round(time.monotonic() - self.began, 1)


def run(
    seed: int | None = None,
    place: str = "local",
    experiment_name: str = EXPERIMENT,
    began: float | None = None,
    wait: bool = False,
) -> Result:
    """Run every stage, and write quickstart.json into the store; `seed` replaces that of the experiment and the recipe.

    `began` is what time.monotonic() said at the start: imports take seconds too.
    """
    stages = Stages(time.monotonic() if began is None else began)
    experiment = load_experiment(experiment_name, seed=seed)
    recipe = api.experiment_recipe(experiment)
    with open_session(place) as session:
        session.store.make()  # where it cannot be, that is said before Ray starts
        experiment = api.resolve_models(session, experiment)
        expected = expected_time(session, experiment, recipe)
        if expected:
            err.print(expected)
        with stages("start Ray"):
            start_ray()
        with stages("corpus and shards") as show_progress:
            on_progress = show_rate(show_progress, "pieces synthesised")
            manifest = api.write_shards(session, experiment.shards, recipe, on_progress=on_progress)
        with stages("search") as show_progress:
            lines = SearchLines(show_progress, experiment)
            study = api.run_search(session, experiment, manifest, [lines], wait=wait)
        with stages("evaluate") as show_progress:
            test, unseen = _evaluate(experiment, manifest, study, show_progress)
        with stages("track and promote"):
            api.write_pictures(experiment, manifest, study)
            promotion = promote_best(session, experiment, manifest, study)
        with stages("separate") as show_progress:
            model = f"models:/{experiment.name}/{promotion.version}"
            recording, references = write_recording(manifest, session.store.root / "quickstart")
            reports = Reports(show_progress)
            separated = named_models.separate_file(session, recording, model, references=references, reports=reports)
    root = session.store.root
    elsewhere = [] if place == "local" else ["--on", place]
    next_steps = {
        "stems and page": str(separated.page),
        "figures": str(root / "quickstart.json"),
        "runs and models": shlex.join(["platform/local/run", "vimss", "ui", *elsewhere]),
        "a cluster on this machine": "platform/local/run platform/cluster/head",
        "the same search as a job there": job_command(experiment_name, seed, root),
    }
    seconds = stages.total
    result = Result(experiment, study, test, unseen, promotion, separated.page, stages.seconds, seconds, next_steps)
    for name in ("quickstart", f"quickstart-seed{experiment.seed}"):
        with atomic_write(root / f"{name}.json") as temporary:
            temporary.write_text(to_json(result.summary), encoding="utf-8")
    return result


def _evaluate(
    experiment: Experiment, manifest: Manifest, study: Study, show_progress: ShowProgress
) -> tuple[list[Evaluation], Evaluation]:
    best = api.best_trials(experiment, study)
    trials = {BEST: api.best_trial(experiment, study)}
    trials |= {cell.name: best[cell.name] for cell in experiment.cells() if cell.name in best and cell.is_control}
    models = {row: trial.folder / "model" for row, trial in trials.items()}
    only_best = {BEST: models[BEST]}
    # Whole pieces would take most of a row's seconds.
    named = [replace(row, whole_pieces=False) for row in system_rows(experiment, study, models)]
    # At the same time: the cores of Ray would be idle while the Wiener filters are fitted here.
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(
            evaluate_systems, manifest, only_best, "test_unseen_timbres", baselines=(), whole_pieces=False
        )
        parts = show_rate(show_progress, "parts")
        test = evaluate_systems(manifest, models, "test", baselines=ROWS, on_progress=parts, named=named)
    (unseen,) = other.result()
    test = claims_of_experiment(test, experiment, trials, named)
    save_evaluations(study, "test", test)
    save_evaluations(study, "test_unseen_timbres", [unseen])
    return test, unseen


def write_recording(manifest: Manifest, folder: Path) -> tuple[Path, Path]:
    """Write a test piece like a filmed recording: an mp4 with the players side by side, and their labels as metadata.

    Returns the mp4, and the folder of its true stems, for the scores on the page.
    """
    pieces = read_pieces(manifest, "test", parts=("audio", "picture"))
    several = [clip for clip in pieces if len(references_of(clip)) > 1]
    # The first in which every player sounds: a silent stem is a poor first impression.
    clip = min(several, key=lambda clip: any(player.silent for player in clip.players))
    # Another recipe may have other music under the same name.
    recording = folder / manifest.signature / f"{clip.piece}.mp4"
    stems = recording.with_suffix("")
    rate = manifest.recipe.sample_rate
    if not recording.exists():
        for label, stem in references_of(clip).items():
            write_wav(stems / f"{label}.wav", stem, rate)
        players = [player for player in clip.players if player.picture is not None]
        # A label per column from left to right, also of those who rest.
        metadata = {"title": clip.piece, "instruments": ",".join(player.instrument for player in players)}
        pictures = np.concatenate([player.picture for player in players], axis=2)
        write_video(recording, pictures, clip.frame_rate, mixture_of(clip), rate, metadata)
    return recording, stems


def job_command(experiment_name: str, seed: int | None, store: Path) -> str:
    """A line for the shell that submits the search to the head of platform/cluster, from the root of the repository."""
    environment = json.dumps({"env_vars": {"VIMSS_STORE": str(store)}})
    submit = ["platform/local/run", "ray", "job", "submit", "--working-dir", ".", "--runtime-env-json", environment]
    search = ["python", "-m", "vimss", "search", experiment_name, "--on", "cluster"]
    search += [] if seed is None else ["--seed", str(seed)]
    return f"RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS={HEAD_ADDRESS} {shlex.join([*submit, '--', *search])}"
