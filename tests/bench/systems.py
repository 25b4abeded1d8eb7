"""What each network of experiments/systems.yaml costs on one thread, and the audio seconds that equal compute gives it.

    platform/local/run python tests/bench/systems.py [--core-minutes 5] [VARIANT ...]

Seconds are CPU time, medians of steps on noise, each network in a process of its own. GMAC are of the forward pass of
one query, without Fourier transforms; memory is what a step adds at most, beyond libraries and weights. The last column
is what the YAML holds as `training.audio_seconds`: what training steps reach in the given time, rounded.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from vimss.api import experiment_recipe
from vimss.experiment import Experiment
from vimss.model.apply import separate_all
from vimss.model.cost import gmac_per_second, num_weights
from vimss.model.separator import Separator
from vimss.search.consistency import load_experiment
from vimss.train.measure import training_steps

STEPS = 5
RECORDING = 10.0
"""Seconds of audio that are separated."""

COLUMNS = (
    "network", "weights", "GMAC per s of audio", "training s per s", "separation s per s", "MB of a step",
    "audio_seconds",
)  # fmt: skip


def measure(experiment: Experiment, variant: str) -> dict[str, float]:
    """The figures of one network, in this process."""
    torch.set_num_threads(1)
    recipe = experiment_recipe(experiment)
    settings = experiment.settings(experiment.variants[variant])
    torch.manual_seed(0)
    separator = Separator(settings.model, recipe.labels, recipe.sample_rate).eval()
    window = settings.training.output_samples
    asked = torch.eye(len(recipe.labels))[:1]
    gmac = gmac_per_second(separator, window)
    with torch.inference_mode():
        recording = 0.1 * torch.randn(1, int(RECORDING * recipe.sample_rate))
        begin = time.process_time()
        separate_all(separator, recording, asked)
        separated = time.process_time() - begin
    before = _megabytes("VmRSS")
    steps, taken = training_steps(settings, recipe), []
    for _ in range(1 + STEPS):
        begin = time.process_time()
        next(steps)
        taken.append(time.process_time() - begin)
    audio = settings.training.batch_size * window / recipe.sample_rate
    return {
        "weights": num_weights(separator),
        "gmac": gmac,
        "training": statistics.median(taken[1:]) / audio,
        "separation": separated / RECORDING,
        "megabytes": _megabytes("VmHWM") - before,
    }


def _megabytes(name: str) -> float:
    """Of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="of experiments/systems.yaml; all where none")
    parser.add_argument("--core-minutes", type=float, default=5.0)
    parser.add_argument("--json", action="store_true", help="print the figures of one variant, as the table asks for")
    arguments = parser.parse_args()
    experiment = load_experiment("systems")
    if arguments.json:
        print(json.dumps(measure(experiment, arguments.variants[0])))
        return
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for variant in arguments.variants or experiment.variants:
        command = [sys.executable, __file__, "--json", variant]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        audio_seconds = float(f"{60 * arguments.core_minutes / found['training']:.2g}")
        print(
            f"| {variant} | {found['weights'] / 1e6:.2f} M | {found['gmac']:.2f} | {found['training']:.4f} "
            f"| {found['separation']:.4f} | {found['megabytes']:.0f} | {audio_seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
