"""What one H100 (SXM) should need for a training step, by the step's operations and the shapes of their tensors.

    step = count_step(settings, recipe)
    step.seconds("tf32", cuda_graphs=False)

The slowest of 40 % of the peak of its arithmetic, 80 % of the bandwidth of its memory, with each operation reading its
inputs and writing its outputs there, and LAUNCH_SECONDS for each operation, which CUDA graphs save. Fourier transforms
count as memory alone; that the frames of an LSTM wait for each other does not count. Nothing is computed: a step is
that of the training itself, with its batch, its pictures and its objective, on tensors without values, so that no batch
is too large.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from systems import InverseTransforms
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vimss.model.cost import num_weights
from vimss.shards.recipe import Recipe
from vimss.stream.batch import Batch, make_batch
from vimss.stream.mix import Source, Window, mix, view_times
from vimss.train.config import Settings
from vimss.train.gradients import Gradients
from vimss.train.loop import update_ema
from vimss.train.objectives import OBJECTIVES
from vimss.train.objectives.protocol import Objective
from vimss.train.optimize import Trainable, make_optimizers

FLOPS = {"float32": 66.9e12, "tf32": 494.7e12, "bfloat16": 989.4e12}
"""Of an H100 SXM per second, without sparsity (NVIDIA's data sheet); tf32 is what training.precision: float32 means."""
BANDWIDTH = 3.35e12
"""Of its memory, bytes per second."""
OF_FLOPS, OF_BANDWIDTH = 0.4, 0.8
LAUNCH_SECONDS = 25e-6
"""Of Python and PyTorch on the CPU, for an operation that a GPU ends sooner: as measured beside an H100."""

META = torch.device("meta")


@dataclass(frozen=True)
class StepCount:
    """What a training step costs."""

    weights: int
    flops: float
    """Of the forward and the backward pass, two per multiplication of matrices or in convolutions."""
    bytes: int
    """Read and written, in float32."""
    operations: int
    kept: int
    """Bytes that the batch holds for the gradients, beside the weights, in float32."""

    def seconds(self, precision: str, cuda_graphs: bool) -> float:
        """What an H100 should need."""
        return max(
            self.flops / (OF_FLOPS * FLOPS[precision]),
            self.bytes * (0.5 if precision == "bfloat16" else 1) / (OF_BANDWIDTH * BANDWIDTH),
            0.0 if cuda_graphs else self.operations * LAUNCH_SECONDS,
        )


class _Traffic(TorchDispatchMode):
    """Counts operations, and the bytes that they would read and write if each ran by itself."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch gives this class no types
        self.bytes, self.operations = 0, 0

    def __torch_dispatch__(
        self, function: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.operations += 1
            self.bytes += sum(each.nbytes for each in tree_leaves((args, kwargs, found)) if isinstance(each, Tensor))
        return found


def count_step(settings: Settings, recipe: Recipe) -> StepCount:
    """A step of the whole batch; NotImplementedError or RuntimeError where the network looks at values."""
    objective, network = built(settings, recipe)
    config = settings.training.model_copy(update={"precision": "float32", "compile": "off"})
    batch = batch_of_noise(settings, recipe, objective)
    gradients = Gradients(network, objective, config, META, micro_batch=config.batch_size)
    optimizers = make_optimizers(cast(Trainable, network), config, META)
    average = built(settings, recipe)[1].requires_grad_(False) if config.ema else None
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    def step() -> None:
        gradients(batch)
        nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip or torch.inf)
        for optimizer in optimizers:
            optimizer.step()
        if average is not None:
            update_ema(average, network, config.ema)

    with InverseTransforms():
        step()  # the first one makes the state of the optimizers
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            _Traffic() as traffic,
            FlopCounterMode(display=False) as counter,
        ):
            step()
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in kept}
    for weight in network.parameters():
        storages.pop(weight.untyped_storage()._cdata, None)
    return StepCount(
        weights=num_weights(network),
        flops=counter.get_total_flops(),
        bytes=traffic.bytes,
        operations=traffic.operations,
        kept=sum(storages.values()),
    )


def _at_once(lstm: nn.LSTM, x: Tensor, _: object = None) -> tuple[Tensor, None]:
    """The products and gates of an LSTM for all frames, none of which waits for the one before; and no last state."""
    directions = ("", "_reverse") if lstm.bidirectional else ("",)
    for layer in range(lstm.num_layers):
        outputs = []
        for direction in directions:
            inputs, recurrent = (getattr(lstm, f"weight_{kind}_l{layer}{direction}") for kind in ("ih", "hh"))
            new = x @ inputs.T
            before = new[..., : lstm.hidden_size]
            enter, forget, cell, leave = (new + before @ recurrent.T).chunk(4, -1)
            outputs.append(leave.sigmoid() * torch.tanh(forget.sigmoid() + enter.sigmoid() * cell.tanh()))
        x = torch.cat(outputs, -1)
    return x, None


def built(settings: Settings, recipe: Recipe) -> tuple[Objective, nn.Module]:
    """The objective of these settings and its network, without values; no weights are read or downloaded.

    Its LSTMs compute all frames at once: otherwise each frame would count as operations of its own.
    """
    vision = settings.model.vision.model_copy(update={"weights": "random"})
    model = settings.model.model_copy(update={"vision": vision})
    objective = OBJECTIVES[settings.objective].make(settings.model_copy(update={"model": model}), recipe)
    with META:
        network = objective.build()
    for module in network.modules():
        if isinstance(module, nn.LSTM):
            setattr(module, "forward", partial(_at_once, module))  # noqa: B010 - mypy allows no other way
    return objective, network


def batch_of_noise(settings: Settings, recipe: Recipe, objective: Objective) -> Batch:
    """A batch of the shapes of this training: mixtures of as many players as there may be, each with pictures."""
    window, mixing, size = objective.window(), settings.mixing, settings.training.batch_size
    players = [_source(label, recipe, window) for label in recipe.labels]
    mixture = mix(players[: mixing.max_sources], players[mixing.max_sources :][:1], aligned=False)
    batch = make_batch([mixture] * size, size, window, objective.interface, mixing, np.random.default_rng(0))
    # All players are real; to look for those that are not needs values.
    return replace(batch, players=None)


def _source(label: str, recipe: Recipe, window: Window) -> Source:
    count = len(view_times(window, recipe.picture.frame_rate))
    pictures = np.zeros((count, recipe.picture.size, recipe.picture.size, 3), np.uint8)
    stem = np.full((recipe.channels, window.input_samples), 0.01, np.float32)
    return Source(label, pictures, label, label, "", stem)
