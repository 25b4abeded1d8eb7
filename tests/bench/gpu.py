"""What a GPU reaches beside what one H100 should: training steps, separation, and batches of the loader.

    platform/local/run python tests/bench/gpu.py [NETWORK ...]
    platform/local/run python tests/bench/gpu.py --expected     # the last column alone, which needs no GPU

NETWORK is `quickstart`, that of experiments/quickstart.yaml, or one of experiments/full/systems.yaml, at its published
size. Steps are those of a training, on noise in pinned memory. A step that does not fit is split, with a warning.

What an H100 (SXM) should reach is an estimate from one step's operations: see roofline.py.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import torch
from roofline import FLOPS, count_step

from vimss.api import experiment_recipe
from vimss.errors import VimssError
from vimss.model.apply import separate_all
from vimss.model.device import on_device
from vimss.model.interface import Interface
from vimss.model.separator import Separator
from vimss.search.consistency import load_experiment
from vimss.shards.manifest import open_manifest
from vimss.shards.recipe import Recipe
from vimss.stream.batch import Examples, Position
from vimss.stream.mix import Window
from vimss.train.config import Settings
from vimss.train.loader import load
from vimss.train.measure import training_steps

WARM_UP = 3
COLUMNS = (
    "network", "batch", "precision", "compile", "steps per s", "audio s per s", "GPU busy, %", "peak GiB",
    "separation, audio s per s", "loader, audio s per s", "an H100 should reach, audio s per s",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    network: str
    batch: int
    precision: str
    compile: str

    def opened(self) -> tuple[Settings, Recipe]:
        """Its settings, and the recipe of its shards."""
        own = self.network == "quickstart"
        experiment = load_experiment("experiments/quickstart.yaml" if own else "experiments/full/systems.yaml")
        settings = experiment.settings() if own else experiment.settings(experiment.variants[self.network])
        precision = "bfloat16" if self.precision == "bfloat16" else "float32"
        chosen = {"batch_size": self.batch, "precision": precision, "compile": self.compile}
        training = settings.training.model_copy(update=chosen)
        return settings.model_copy(update={"training": training}), experiment_recipe(experiment)


def expected(case: Case) -> float | None:
    """Audio seconds per second of training that an H100 should reach; None where a network looks at values."""
    settings, recipe = case.opened()
    try:
        step = count_step(settings, recipe)
    except (NotImplementedError, RuntimeError):  # PyTorch raises one or the other where meta tensors have no values
        return None
    return _audio_seconds(settings, recipe) / step.seconds(case.precision, case.compile == "cuda_graphs")


def _audio_seconds(settings: Settings, recipe: Recipe) -> float:
    """Of a batch."""
    return settings.training.batch_size * settings.training.output_samples / recipe.sample_rate


def measured(case: Case, device: torch.device, steps: int, recording: float) -> dict[str, float | None]:
    """Steps per second, audio seconds per second, share of the time the GPU is busy, GiB, and those of separation."""
    settings, recipe = case.opened()
    torch.backends.cudnn.allow_tf32 = case.precision != "float32"
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    training = training_steps(settings, recipe, device)
    for _ in islice(training, WARM_UP):
        pass
    _wait(device)
    with _busy(device) as busy:
        begin = time.perf_counter()
        for _ in islice(training, steps):
            pass
        _wait(device)
        seconds = (time.perf_counter() - begin) / steps
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    training.close()
    return {
        "steps": 1 / seconds,
        "audio": _audio_seconds(settings, recipe) / seconds,
        "busy": statistics.mean(busy) if busy else None,
        "peak": peak,
        "separation": _separation(settings, recipe, device, recording),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def _busy(device: torch.device) -> Iterator[list[float]]:
    """Percent of the time in which the GPU computed, several times a second by nvidia-smi; empty without it."""
    found: list[float] = []
    if device.type != "cuda":
        yield found
        return
    gpu = f"GPU-{torch.cuda.get_device_properties().uuid}"
    command = ["nvidia-smi", "-i", gpu, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        yield found
        return
    try:
        yield found
    finally:
        process.terminate()
        lines = process.communicate()[0].split()
        found.extend(float(line) for line in lines if line.isdigit())


def _separation(settings: Settings, recipe: Recipe, device: torch.device, recording: float) -> float:
    """Audio seconds per second, for one query where the network takes queries."""
    separator = on_device(Separator(settings.model, recipe.labels, recipe.sample_rate).eval(), device.type)
    query = torch.eye(len(recipe.labels))[:1] if separator.interface.is_conditioned else None
    sound = 0.1 * torch.randn(recipe.channels, round(recording * recipe.sample_rate))
    separate_all(separator, sound, query)
    begin = time.perf_counter()
    separate_all(separator, sound, query)
    return recording / (time.perf_counter() - begin)


def loader_ceiling(case: Case, shards: Path, workers: int, pinned: bool, batches: int = 20) -> float | None:
    """Audio seconds per second of the loader alone; None for shards of another rate, channels or labels."""
    settings, recipe = case.opened()
    manifest = open_manifest(shards)
    if any(getattr(manifest.recipe, name) != getattr(recipe, name) for name in ("sample_rate", "channels", "labels")):
        return None
    output, interface = settings.training.output_samples, Interface(settings.model, recipe.labels)
    window = Window(settings.model.geometry.input_samples(output), output, recipe.sample_rate)
    examples = Examples(manifest, "train", settings.mixing, window, interface, settings.seed)
    with closing(load(examples, case.batch, Position(), workers=workers, pinned=pinned)) as made:
        next(made)
        begin = time.perf_counter()
        for _ in islice(made, batches):
            pass
        return batches * _audio_seconds(settings, recipe) / (time.perf_counter() - begin)


def main(given: list[str] | None = None) -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = ("quickstart", *load_experiment("experiments/full/systems.yaml").variants)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(networks)}; all where none")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[4, 32])
    parser.add_argument("--precisions", nargs="+", choices=FLOPS, default=list(FLOPS))
    parser.add_argument("--compile", nargs="+", choices=["off", "compile", "cuda_graphs"], default=["off"])
    parser.add_argument("--steps", type=int, default=30, help="that are timed")
    parser.add_argument("--recording", type=float, default=30.0, help="seconds of audio to separate")
    parser.add_argument("--shards", type=Path, help="folder of shards, for the loader's rate")
    parser.add_argument("--loader-workers", type=int, default=4)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--expected", action="store_true", help="what an H100 should reach, and nothing measured")
    arguments = parser.parse_args(given)
    for name in set(arguments.networks) - set(networks):
        parser.error(f"NETWORK must be one of {', '.join(networks)}; got {name}")
    if arguments.device == "cuda" and not arguments.expected and not torch.cuda.is_available():
        print(
            f"this needs a GPU; PyTorch {torch.__version__} finds none. --expected prints what an H100 should reach",
            file=sys.stderr,
        )
        return 1
    device = torch.device(arguments.device)
    if not arguments.expected:
        print(f"on {torch.cuda.get_device_name() if device.type == 'cuda' else 'the CPU'}, PyTorch {torch.__version__}")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    chosen = (arguments.networks or networks, arguments.batch_sizes, arguments.precisions, arguments.compile)
    for case in map(Case, *zip(*product(*chosen), strict=True)):
        cells: list[float | str | None] = [None] * 6
        if not arguments.expected:
            shards, pinned = arguments.shards, device.type == "cuda"
            try:
                found = measured(case, device, arguments.steps, arguments.recording)
                ceiling = loader_ceiling(case, shards, arguments.loader_workers, pinned) if shards else None
                cells = [*found.values(), ceiling]
            except (VimssError, torch.OutOfMemoryError) as error:
                cells[0] = str(error).partition("; got")[0]
        row = [case.network, case.batch, case.precision, case.compile, *cells, expected(case)]
        print(f"| {' | '.join(map(_cell, row))} |", flush=True)
    return 0


def _cell(value: float | str | None) -> str:
    """A number with three digits, or a dash."""
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return "-" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
