"""How long a trial takes to its first training step, beside a bare Python process that does that step.

    platform/local/run python tests/bench/search.py

The first trial counts from the call of `search` (Ray runs already), the later ones from the end of the one before.
Wall time, so on an idle machine.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vimss.config import parse_config
from vimss.experiment import Experiment
from vimss.runtime import Place, ray_running
from vimss.search.events import Event, TrialEnded
from vimss.search.run import search
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.train.distribute import PROGRESS

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
    "search": {"trials": TRIALS, "grace_seconds": 2},
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


def first_steps_of_trials(manifest: Manifest, folder: Path) -> list[float]:
    """Seconds to the first step of each trial, in their order."""
    began = [time.time()]

    def note(event: Event) -> None:
        if isinstance(event, TrialEnded):
            began.append(time.time())

    study = search(parse_config(EXPERIMENT, Experiment, "bench"), manifest, PLACE, Store(folder).make(), [note])
    first_steps = [(record.folder / PROGRESS).stat().st_mtime for record in study.of_cell("search")]
    return [step - begin for step, begin in zip(first_steps, began, strict=False)]


def first_step_of_a_process(manifest: Manifest, folder: Path) -> float:
    """Seconds from the start of a Python process to its first step."""
    folder.mkdir()
    begin = time.time()
    code = BARE.format(experiment=EXPERIMENT)
    subprocess.run([sys.executable, "-c", code, str(folder), str(manifest.folder)], check=True)
    return (folder / PROGRESS).stat().st_mtime - begin


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = load_recipe("quickstart", ["options={minutes: 2, piece_seconds: 6}", "clip_seconds=6"])
        with ray_running(PLACE):
            manifest = write_shards(recipe, "quickstart", Store(folder / "store").make())
            bare, first, later = [], [], []
            for number in range(3):
                bare.append(first_step_of_a_process(manifest, folder / f"bare{number}"))
                starts = first_steps_of_trials(manifest, folder / f"search{number}")
                first.append(starts[0])
                later += starts[1:]
        reference = statistics.median(bare)
        for what, seconds in (("bare process", bare), ("first trial", first), ("later trials", later)):
            median = statistics.median(seconds)
            print(f"{what:14} {median:5.1f} s to the first step, {median / reference:.2f}x of a bare process")


if __name__ == "__main__":
    main()
