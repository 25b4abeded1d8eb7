"""How fast a training runs under the platform, start-up aside: alone, two side by side, one on two workers.

    paces = Pace(manifest, seconds=60, batch_size=16).measure(folder)      # audio seconds per second

The network is the quickstart's. A pace counts between the first report and the last, so without start-up; that of
trainings side by side is their sum over the time that both run. The bare processes run without Ray beside them.
"""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vimss.config import parse_config
from vimss.experiment import Experiment
from vimss.runtime import Place
from vimss.search.consistency import load_experiment
from vimss.search.events import Event, TrialReported
from vimss.search.run import search
from vimss.shards.manifest import Manifest
from vimss.storage import Store

REPORTS = 6
STEPS = 12
"""At least so many of a training: two between two reports."""

RATES = (3.4e-3, 3.0e-3)
"""Learning rates of trainings side by side: two trials of a search cannot have equal settings."""

Moments = list[tuple[float, float]]
"""Time and audio seconds of each report."""

BARE = """
import json, sys, time
from pathlib import Path
import torch
from vimss.config import parse_config
from vimss.experiment import Experiment
from vimss.shards.manifest import open_manifest
from vimss.train.loop import Training, train
torch.set_num_threads(1)
experiment = parse_config(json.loads(sys.argv[1]), Experiment, "bench")
training = Training(experiment.settings(), open_manifest(Path(sys.argv[2])), experiment.validation)
train(training, lambda metrics, folder: print(json.dumps((time.time(), metrics["audio_seconds"])), flush=True))
"""


class Pace:
    """Trainings of one length, in all the ways that are compared."""

    def __init__(self, manifest: Manifest, seconds: float, batch_size: int) -> None:
        """`seconds` is how long the bare loop takes from its first report to its last; two workers share a batch."""
        self.manifest = manifest
        self.batch_size = batch_size
        output_seconds = load_experiment("quickstart").training["output_samples"] / manifest.recipe.sample_rate
        shortest = STEPS * batch_size * output_seconds
        self.audio_seconds = shortest
        speed = pace(self._bare(1))
        self.audio_seconds = max(shortest, speed * seconds * REPORTS / (REPORTS - 1))

    def measure(self, folder: Path) -> dict[str, float]:
        """The paces of one round, by name."""
        return {
            "one bare": pace(self._bare(1)),
            "one trial": pace(self._trials(folder / "one", 1)),
            "two bare": pace(self._bare(2)),
            "two trials": pace(self._trials(folder / "two", 2)),
            "two workers": pace(self._trials(folder / "workers", 1, workers=2)),
        }

    def _content(self, trials: int) -> dict[str, Any]:
        quickstart = load_experiment("quickstart")
        training = {
            **quickstart.training,
            "batch_size": self.batch_size,
            "learning_rate": RATES[0],
            "constant_seconds": 0,
            "audio_seconds": self.audio_seconds,
            "report_seconds": self.audio_seconds / REPORTS,
        }
        content = {"question": "q", "expected": "e", "shards": "quickstart", "name": "bench", "training": training}
        content |= {"model": quickstart.model, "mixing": quickstart.mixing}
        if trials > 1:
            content["tune"] = {"training.learning_rate": {"choices": list(RATES[:trials])}}
            content["search"] = {"trials": trials, "scheduler": "none"}
        return content

    def _bare(self, processes: int) -> list[Moments]:
        command = [sys.executable, "-c", BARE, json.dumps(self._content(1)), str(self.manifest.folder)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
        printed = [process.communicate()[0].splitlines() for process in running]
        if any(process.returncode for process in running):
            raise RuntimeError("a bare training failed: see its output above")
        return [[tuple(json.loads(line)) for line in lines] for lines in printed]

    def _trials(self, folder: Path, trials: int, workers: int = 1) -> list[Moments]:
        """The same as a search of so many trials."""
        place = Place(name="bench", max_concurrent_trials=trials, workers_per_trial=workers)
        moments: dict[str, Moments] = defaultdict(list)

        def note(event: Event) -> None:
            if isinstance(event, TrialReported):
                moments[event.trial].append((time.time(), event.audio_seconds))

        experiment = parse_config(self._content(trials), Experiment, "bench")
        search(experiment, self.manifest, place, Store(folder).make(), [note])
        return list(moments.values())


def pace(trainings: Sequence[Moments]) -> float:
    """Audio seconds per second of all trainings together, while all of them are between their first and last report."""
    begin = max(moments[0][0] for moments in trainings)
    end = min(moments[-1][0] for moments in trainings)
    seen = 0.0
    for moments in trainings:
        times, seconds = zip(*moments, strict=True)
        seen += float(np.diff(np.interp((begin, end), times, seconds))[0])
    return seen / (end - begin)
