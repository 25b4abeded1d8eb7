"""The losses of 20 steps on fixed data, and the command that writes them anew, with a reason in the commit:

    platform/local/run python tests/golden/losses.py

On the machine and version of torch that the file names, they must be equal to the bit.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vimss.model.separator import Separator
from vimss.shards.recipe import load_recipe
from vimss.stream.batch import Batch
from vimss.stream.mix import Window
from vimss.train.config import Settings
from vimss.train.gradients import Gradients
from vimss.train.objectives.separation import Separation
from vimss.train.optimize import make_optimizers

LOSSES = Path(__file__).with_suffix(".json")
STEPS = 20
CPU = torch.device("cpu")
SMALL = {"levels": 4, "filters": 6, "max_filters": 16, "down_kernel": 9}
CASES: dict[str, dict[str, Any]] = {
    "paper": {"model": {"output_type": "difference"}, "training": {"loss": "mse"}},
    "labels": {"model": {"outputs": "queries", "site": "decoder"}, "training": {"optimizer": "muon"}},
    "features": {
        "model": {"context": "features", "feature_size": 5, "op": "attention", "site": "every_layer", "gain": 10.0},
        "training": {"loss": "l1"},
    },
    "slots": {"model": {"outputs": "slots", "channels": 2, "upsampling": "learned"}, "training": {"loss": "si_sdr"}},
    "output": {
        "model": {
            "outputs": "queries",
            "op": "concat",
            "site": "output",
            "padding": "same",
            "initial_output": "mixture",
        }
    },
}
"""Settings that differ in what they run through."""

TOLERANCE = dict.fromkeys(CASES, 1e-5) | {"labels": 2e-3}
"""Relative, on another machine or version: AVX2 and SSE sums differ from those of AVX-512 by up to 2e-6 after 20 steps,
and by 7e-4 with Muon, which works in bfloat16."""


def machine() -> dict[str, str]:
    """What the last bits depend on."""
    capabilities = torch.cpu.get_capabilities()
    units = sorted(name for name, present in capabilities.items() if present is True)
    return {"torch": torch.__version__, "cpu": f"{capabilities['cpu_name']}: {' '.join(units)}"}


def losses(case: str, device: torch.device = CPU, steps: int = STEPS, **training: Any) -> list[float]:
    """The loss of each step, on one thread; `training` changes the settings of the case."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = [float(loss) for _, loss in islice(trained(case, device, **training), steps)]
    torch.set_num_threads(threads)
    return found


def trained(case: str, device: torch.device = CPU, **training: Any) -> Iterator[tuple[Separator, Tensor]]:
    """Train without end on one device; the network and the loss after each step."""
    content = CASES[case]
    training = {"learning_rate": 1e-3, **content.get("training", {}), **training}
    settings = Settings.model_validate({"model": {**SMALL, **content["model"]}, "training": training})
    torch.manual_seed(0)
    separator = Separator(settings.model, ("fl", "va", "vc"), 8000)
    output = separator.geometry.window_at_least(500)
    window = Window(separator.input_samples(output), output, 8000)
    separator.to(device)
    objective = Separation(settings, load_recipe("quickstart"))
    gradients = Gradients(separator, objective, settings.training, device, micro_batch=2)
    optimizers = make_optimizers(separator, settings.training, device)
    rng = np.random.default_rng(0)
    while True:
        loss = gradients(_batch(separator, window, rng))
        for optimizer in optimizers:
            optimizer.step()
        yield separator, loss


def _batch(separator: Separator, window: Window, rng: np.random.Generator) -> Batch:
    """Three mixtures of two sounds, of which the last output hears none."""
    config = separator.config
    outputs = 2 if config.outputs == "queries" else separator.outputs
    stems = 0.1 * rng.standard_normal((3, outputs, config.channels, window.input_samples)).astype(np.float32)
    stems[-1, -1] = 0
    targets = stems[..., window.margin : window.margin + window.output_samples]
    context = players = None
    if config.site != "none" and config.context == "labels":
        context = np.tile(np.eye(3, dtype=np.float32)[:2], (3, 1, 1))
    elif config.site != "none":
        context = rng.standard_normal((3, 2, 4, separator.interface.context.width)).astype(np.float16)
        players = np.array([[True, True], [True, False], [True, True]])
    return Batch(stems.sum(1), targets, np.asarray(targets.any((2, 3))), context, players, np.zeros(3, bool))


if __name__ == "__main__":
    content = {"machine": machine(), "losses": {case: losses(case) for case in CASES}}
    LOSSES.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
