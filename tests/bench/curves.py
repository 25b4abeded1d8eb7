"""Learning curves of a small network on the quickstart's shards, each trained once and kept as a line of JSON.

    curves = Curves(folder, manifest)
    curves.reports(settings, until=30.0)      # read, or trained as far as that

A training that has stopped at a rung keeps its checkpoint: a policy that wants more of it resumes it there. One thread
and no Ray: curves do not depend on what else the machine does.
"""

import fcntl
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from vimss.axes import Axis, Scalar
from vimss.config import differences
from vimss.experiment import Experiment, SearchConfig
from vimss.runtime import Place
from vimss.search.consistency import load_experiment
from vimss.search.sampler import Space, draws
from vimss.search.trial import trial_name
from vimss.shards.manifest import Manifest
from vimss.train.config import Settings, ValidationConfig, reaches
from vimss.train.distribute import Job, fit

TRIALS, SEEDS = 24, (0, 1, 2)
BUDGET = 270.0
RUNGS = (BUDGET / 9, BUDGET / 3)
"""Audio seconds: one in nine and one in three of the budget."""

DECAYS = {"over the whole length": 0.0, "in the last rung alone": RUNGS[1]}
"""Where the learning rate decays, to the audio seconds before it does."""

VALIDATION = ValidationConfig(mixtures=12)

LEARNING_RATES = Axis(low=3e-4, high=1e-2, log=True)
"""A fifth axis beside those of experiments/joint.yaml, for somebody who does not know the rate yet."""

SMALL = (
    "compare={}",
    "model.levels=4",
    "model.filters=8",
    "model.max_filters=32",
    "training.output_samples=4099",
    f"training.audio_seconds={BUDGET}",
    f"training.report_seconds={RUNGS[0]}",
    # Averages over as large a share of the training as the quickstart's.
    "training.ema=0.9",
    f"search={{trials: {TRIALS}, scheduler: none}}",
)
"""What makes a training of experiments/joint.yaml take some seconds instead of minutes."""

KEPT = ("audio_seconds", "steps", "valid_loss", "valid_loss_raw", "train_loss", "learning_rate")
"""Figures of a report that a curve keeps."""

Reports = tuple[dict[str, float], ...]
Task = TypeVar("Task")
Result = TypeVar("Result")


def small_experiment(constant_seconds: float, seed: int) -> Experiment:
    """The question of experiments/joint.yaml, asked of a small network."""
    experiment = load_experiment("joint", [*SMALL, f"training.constant_seconds={constant_seconds}"], seed)
    return experiment.model_copy(update={"tune": experiment.tune | {"training.learning_rate": LEARNING_RATES}})


def random_points(experiment: Experiment, seed: int) -> list[dict[str, Scalar]]:
    """What a random search draws, in its order."""
    space = Space(experiment.tune, experiment.figure, SearchConfig(trials=TRIALS, sampler="random"), seed)
    return [next(draws(space, number, [])).chosen for number in range(experiment.search.trials)]


class Curves:
    """The curves in a folder, and the trainings that add to them; several processes may use it at once."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.file = folder / f"curves-{manifest.digest[:10]}.jsonl"
        self.known: dict[str, Reports] = {}
        self.trained_seconds = 0.0
        """Audio seconds that had to be trained."""
        self._read()

    def reports(self, settings: Settings, until: float) -> Reports:
        """The reports of a training to the first that reaches `until`; what is missing is trained."""
        name = trial_name(settings)
        if not self.has(settings, until):
            folder = self.folder / "trainings" / name
            folder.parent.mkdir(parents=True, exist_ok=True)
            with folder.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._read()  # another process may have trained it meanwhile
                if not self.has(settings, until):
                    self._train(settings, until, folder)
        return tuple(_until(self.known[name], until))

    def has(self, settings: Settings, until: float) -> bool:
        """Whether a curve is stored as far as that."""
        reports = self.known.get(trial_name(settings), ())
        return any(reaches(report["audio_seconds"], min(until, BUDGET)) for report in reports[-1:])

    def _train(self, settings: Settings, until: float, folder: Path) -> None:
        name = trial_name(settings)
        before = self.known.get(name, ())
        found = {report["steps"]: report for report in before}

        def keep(metrics: dict[str, float]) -> None:
            found[metrics["steps"]] = {key: metrics[key] for key in KEPT if key in metrics}

        fit(Job(folder, settings, VALIDATION, self.manifest.folder, (), Place(name="bench"), until), keep)
        reports = tuple(found[steps] for steps in sorted(found))
        if len(reports) < round(reports[-1]["audio_seconds"] / RUNGS[0]):
            # It was interrupted between a checkpoint and its line here: train it from the start.
            shutil.rmtree(folder)
            self.known.pop(name, None)
            self._train(settings, until, folder)
            return
        self.trained_seconds += reports[-1]["audio_seconds"] - (before[-1]["audio_seconds"] if before else 0.0)
        self.known[name] = reports
        if reaches(reports[-1]["audio_seconds"], BUDGET):
            shutil.rmtree(folder)
        line = {"trial": name, "settings": differences(settings), "reports": reports}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _read(self) -> None:
        """All lines; of a training that was resumed, the longest."""
        for line in self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else ():
            curve = json.loads(line)
            if len(curve["reports"]) >= len(self.known.get(curve["trial"], ())):
                self.known[curve["trial"]] = tuple(curve["reports"])


def _until(reports: Reports, until: float) -> Iterator[dict[str, float]]:
    for report in reports:
        yield report
        if reaches(report["audio_seconds"], until):
            return


def side_by_side(function: Callable[[Task], Result], tasks: Iterable[Task], processes: int = 2) -> Sequence[Result]:
    """Apply a function to all tasks in two processes of their own, as torch's threads need."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.map(function, list(tasks), chunksize=1)
