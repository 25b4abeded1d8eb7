"""Seconds of a training step on this machine, and the bytes of a checkpoint.

    measure_step(experiment.settings(), recipe).seconds    # 0.08

Measured like a step of the loop (forward, loss, backward, optimiser) on noise, so no shards are needed.
"""

import copy
import math
import statistics
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from vimss.model.interface import Interface
from vimss.model.separator import Separator
from vimss.shards.recipe import Recipe
from vimss.stream.batch import Batch
from vimss.stream.mix import Window
from vimss.train.config import Settings
from vimss.train.gradients import Gradients
from vimss.train.loader import pin_batch
from vimss.train.loop import update_ema
from vimss.train.objectives.separation import Separation
from vimss.train.optimize import make_optimizers

AT_MOST_SECONDS = 2.0

LONG_STEP_SECONDS = 10.0
"""Of a batch that takes longer, one mixture is measured."""

STEPS = 9
"""Maximum number of timed steps."""


@dataclass(frozen=True)
class MeasuredStep:
    """What a training step takes, and what a checkpoint after it holds."""

    seconds: float
    weights_bytes: int
    """Of the weights for use."""
    checkpoint_bytes: int
    """Of the weights for use, the raw ones, their moving average and the optimizers."""


def measure_step(
    settings: Settings, recipe: Recipe, threads: int = 1, at_most: float = AT_MOST_SECONDS
) -> MeasuredStep:
    """The median of training steps on the CPU; measuring takes about `at_most` seconds.

    A network that is conditioned by pictures is measured without them. Of a batch that takes long, one mixture is
    measured: all of them might not even fit into memory.
    """
    begin = time.monotonic()
    uses_players = Interface(settings.model, recipe.labels).uses_players
    blind = {"site": "none", "outputs": "instruments"} if uses_players else {}
    model = settings.model.model_copy(update={**blind, "channels": recipe.channels})
    # Compiling takes longer than this measurement may.
    training, size = settings.training.model_copy(update={"compile": "off"}), settings.training.batch_size
    measured = settings.model_copy(update={"model": model, "training": training})
    alone = measured.model_copy(update={"training": training.model_copy(update={"batch_size": 1})})
    with _threads(threads):
        if size > 1:
            steps = training_steps(alone, recipe)
            one = next(steps)
            if size * one.seconds > LONG_STEP_SECONDS:
                one = next(steps)  # without the allocations of the first one
            if size * one.seconds > LONG_STEP_SECONDS:
                return replace(one, seconds=size * one.seconds)
            del steps
        steps = training_steps(measured, recipe)
        # The first one allocates memory.
        taken = [next(steps)]
        while len(taken) <= STEPS and time.monotonic() - begin + taken[-1].seconds < at_most:
            taken.append(next(steps))
    return replace(taken[-1], seconds=statistics.median(step.seconds for step in taken[1:] or taken))


def training_steps(
    settings: Settings,
    recipe: Recipe,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - a constant
) -> Generator[MeasuredStep, None, None]:
    """Train on noise forever; yield what each step took, which on a GPU is only the time until it was queued."""
    config = settings.training
    window = Window(settings.model.geometry.input_samples(config.output_samples), config.output_samples, 1)
    # Leave the global generator unchanged.
    with torch.random.fork_rng(devices=()):
        separator = Separator(settings.model, recipe.labels, recipe.sample_rate).to(device)
    average = copy.deepcopy(separator).requires_grad_(False) if config.ema else None
    optimizers = make_optimizers(separator, config, device)
    gradients = Gradients(separator, Separation(settings, recipe), config, device, micro_batch=config.batch_size)
    batch = _noise(settings, recipe, window)
    if device.type == "cuda":
        batch = pin_batch(batch)
    while True:
        begin = time.monotonic()
        gradients(batch)
        nn.utils.clip_grad_norm_(separator.parameters(), config.gradient_clip or math.inf)
        for optimizer in optimizers:
            optimizer.step()
        if average is not None:
            update_ema(average, separator, config.ema)
        seconds = time.monotonic() - begin
        weights = _bytes(separator.state_dict().values())
        state = weights * (2 if average is None else 3)
        state += sum(_bytes(values.values()) for optimizer in optimizers for values in optimizer.state.values())
        yield MeasuredStep(seconds, weights, state)


def _bytes(values: Iterable[object]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def _noise(settings: Settings, recipe: Recipe, window: Window) -> Batch:
    """A batch of the shapes of the settings, in which half of the outputs sound."""
    interface, size, labels = Interface(settings.model, recipe.labels), settings.training.batch_size, recipe.labels
    outputs = interface.num_outputs(settings.mixing.queries)
    rng = np.random.default_rng(0)
    rows = interface.context_of([labels[number % len(labels)] for number in range(outputs)])
    context, players = interface.join([[] if rows is None else list(rows)] * size)
    present = np.arange(size * outputs).reshape(size, outputs) % 2 == 0
    targets = rng.standard_normal((size, outputs, recipe.channels, window.output_samples), np.float32) / 10
    return Batch(
        mixture=rng.standard_normal((size, recipe.channels, window.input_samples), np.float32) / 10,
        targets=targets * present[:, :, None, None],
        present=present,
        context=context,
        players=players,
        peak_limited=np.zeros(size, bool),
    )


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
