"""What each network of experiments/systems.yaml costs on one thread, and the audio seconds that equal compute gives it.

    platform/local/run python tests/bench/systems.py [--core-minutes 5] [VARIANT ...]
    platform/local/run python tests/bench/systems.py --experiment full/systems --batch-size 1 --steps 1

Seconds are CPU time, medians of steps on noise, each network in a process of its own. GMAC are of the forward pass of
one query, without Fourier transforms. MB kept are what a forward pass holds for the gradients, computed from shapes
alone; MB of a step what a step adds at most, beyond libraries and weights. A network that keeps more than
--most-gigabytes is not run. The last column is what the YAML holds as `training.audio_seconds`: what training steps
reach in the given time, rounded.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from vimss.api import experiment_recipe
from vimss.experiment import Experiment
from vimss.model.apply import separate_all
from vimss.model.cost import gmac_per_second, num_weights
from vimss.model.separator import Separator
from vimss.search.consistency import load_experiment
from vimss.shards.recipe import Recipe
from vimss.train.config import Settings
from vimss.train.measure import training_steps

RECORDING = 10.0
"""Seconds of audio that are separated."""

COLUMNS = (
    "network", "weights", "GMAC per s of audio", "MB kept", "training s per s", "separation s per s", "MB of a step",
    "audio_seconds",
)  # fmt: skip


class InverseTransforms(TorchFunctionMode):
    """Signals of the right shape from `torch.istft`, which looks at values and so refuses tensors that have none."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if function is not torch.istft:
            return function(*args, **named)
        spectra, length = args[0], named.get("length")
        if length is None:
            length = named["hop_length"] * (spectra.shape[-1] - 1)
        # Of the spectra's values, so that gradients would flow.
        return spectra.real.flatten(-2)[..., :1].expand(*spectra.shape[:-2], length)


@dataclass(frozen=True)
class ShapesPass:
    """What a forward pass for one query gives and costs, by the shapes of all tensors."""

    outputs: tuple[int, ...]
    """Shape of the estimates."""
    weights: int
    gmac_per_second: float
    """See `vimss.model.cost`."""
    kept: int
    """Bytes that it holds for the gradients, beside the weights."""


def pass_of_shapes(settings: Settings, recipe: Recipe) -> ShapesPass:
    """A forward pass of the output window, as the CPU would compute it; no tensor has values, so none takes memory."""
    kept: list[Tensor] = []
    outputs: list[tuple[int, ...]] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    def note(module: nn.Module, arguments: object, found: Tensor) -> None:
        outputs.append(tuple(found.shape))

    with (
        FakeTensorMode(),
        InverseTransforms(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        separator = Separator(settings.model, recipe.labels, recipe.sample_rate)
        separator.unet.register_forward_hook(note)
        gmac = gmac_per_second(separator, settings.training.output_samples)
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in kept}
        for weight in separator.parameters():
            storages.pop(weight.untyped_storage()._cdata, None)
    return ShapesPass(outputs[0], num_weights(separator), gmac, sum(storages.values()))


def measure(experiment: Experiment, variant: str, steps: int, most_gigabytes: float) -> dict[str, float]:
    """The figures of one network, in this process; those of shapes alone where a step would keep too much."""
    torch.set_num_threads(1)
    recipe = experiment_recipe(experiment)
    settings = experiment.settings(experiment.variants[variant])
    batch, seconds = settings.training.batch_size, settings.training.output_samples / recipe.sample_rate
    shapes = pass_of_shapes(settings, recipe)
    found = {
        "weights": shapes.weights,
        "gmac": shapes.gmac_per_second,
        "kept": batch * shapes.kept / 2**20,
    }
    if found["kept"] > 1024 * most_gigabytes:
        return found
    torch.manual_seed(0)
    separator = Separator(settings.model, recipe.labels, recipe.sample_rate).eval()
    asked = torch.eye(len(recipe.labels))[:1]
    with torch.inference_mode():
        recording = 0.1 * torch.randn(recipe.channels, int(RECORDING * recipe.sample_rate))
        begin = time.process_time()
        separate_all(separator, recording, asked)
        separated = time.process_time() - begin
    before = _megabytes("VmRSS")
    training, taken = training_steps(settings, recipe), []
    # The first one allocates memory.
    for _ in range(1 + steps):
        begin = time.process_time()
        next(training)
        taken.append(time.process_time() - begin)
    return found | {
        "training": statistics.median(taken[1:]) / (batch * seconds),
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
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="of the experiment; all where none")
    parser.add_argument("--experiment", default="systems", help="experiments/NAME.yaml, whose variants are networks")
    parser.add_argument("--core-minutes", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=5, help="training steps that are timed, after one that is not")
    parser.add_argument("--batch-size", type=int, help="that of the experiment where none")
    parser.add_argument("--most-gigabytes", type=float, default=5.0)
    parser.add_argument("--json", action="store_true", help="print the figures of one variant, as the table asks for")
    arguments = parser.parse_args()
    changes = [] if arguments.batch_size is None else [f"training.batch_size={arguments.batch_size}"]
    experiment = load_experiment(f"experiments/{arguments.experiment}.yaml", changes)
    if arguments.json:
        print(json.dumps(measure(experiment, arguments.variants[0], arguments.steps, arguments.most_gigabytes)))
        return
    options = sys.argv[1:]
    for variant in arguments.variants:
        options.remove(variant)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for variant in arguments.variants or experiment.variants:
        command = [sys.executable, __file__, *options, "--json", variant]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(_row(variant, found, arguments.core_minutes), flush=True)


def _row(variant: str, found: Mapping[str, float], core_minutes: float) -> str:
    """The line of one network; dashes where it was not run."""
    cells = [variant, f"{found['weights'] / 1e6:.2f} M", f"{found['gmac']:.2f}", f"{found['kept']:.0f}"]
    if "training" not in found:
        return f"| {' | '.join([*cells, *'----'])} |"
    audio_seconds = float(f"{60 * core_minutes / found['training']:.2g}")
    cells += [f"{found['training']:.4f}", f"{found['separation']:.4f}", f"{found['megabytes']:.0f}"]
    return f"| {' | '.join(cells)} | {audio_seconds:.0f} |"


if __name__ == "__main__":
    main()
