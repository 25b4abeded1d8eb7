"""How long a trial takes to its first training step, beside a bare Python process that does that step.

The first trial counts from the call of `search` (Ray runs already), the later ones from the end of the one before.
"""

import subprocess
import sys
import time
from pathlib import Path

from vimss.config import parse_config
from vimss.experiment import Experiment
from vimss.runtime import Place, ray_running
from vimss.search.events import Event, TrialEnded
from vimss.search.run import search
from vimss.shards.manifest import Manifest
from vimss.storage import Store
from vimss.train.own_copy import PROGRESS

TRIALS = 6
PLACE = Place(name="bench", max_concurrent_trials=1)
EXPERIMENT = {
    "name": "bench",
    "question": "How long does a start take?",
    "expected": "a few seconds",
    "shards": "quickstart",
    "model": {"levels": 6, "filters": 8, "max_filters": 32, "down_kernel": 5, "site": "decoder", "outputs": "queries"},
    # Two seconds at most, so that the last sign of life is that of the first step.
    "training": {"output_samples": 2053, "audio_seconds": 2, "report_seconds": 2, "batch_size": 4},
    "tune": {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    "search": {"trials": TRIALS, "scheduler": "asha", "grace_seconds": 2},
    "validation": {"mixtures": 6, "seconds": 0.5},
}

BARE = """
import sys
from pathlib import Path
from vimss.config import parse_config
from vimss.experiment import Experiment
from vimss.runtime import Place
from vimss.train.distribute import Job, fit
experiment = parse_config({experiment!r}, Experiment, "bench")
storage, shards = map(Path, sys.argv[1:])
fit(Job(storage, experiment.settings(), experiment.validation, shards, (), Place(name="bench")), lambda metrics: None)
"""


def first_steps(manifest: Manifest, folder: Path, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds to the first step of bare processes, of the first trials of searches, and of their later ones."""
    bare, first, later = [], [], []
    for number in range(rounds):
        bare.append(_of_a_process(manifest, folder / f"bare{number}"))
        with ray_running(PLACE):
            trials = _of_trials(manifest, folder / f"search{number}")
        first.append(trials[0])
        later += trials[1:]
    return bare, first, later


def _of_trials(manifest: Manifest, folder: Path) -> list[float]:
    """Of each trial of a search, in their order."""
    began = [time.time()]

    def note(event: Event) -> None:
        if isinstance(event, TrialEnded):
            began.append(time.time())

    study = search(parse_config(EXPERIMENT, Experiment, "bench"), manifest, PLACE, Store(folder).make(), [note])
    steps = [(record.folder / PROGRESS).stat().st_mtime for record in study.of_cell("search")]
    return [step - begin for step, begin in zip(steps, began, strict=False)]


def _of_a_process(manifest: Manifest, folder: Path) -> float:
    """Of a Python process, from its start."""
    folder.mkdir()
    begin = time.time()
    code = BARE.format(experiment=EXPERIMENT)
    subprocess.run([sys.executable, "-c", code, str(folder), str(manifest.folder)], check=True)
    return (folder / PROGRESS).stat().st_mtime - begin
