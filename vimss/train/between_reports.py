"""Sums between two reports of a training: losses, throughput and waiting time.

losses, clock = Losses(config, (rank, world_size), device), Clock()
with clock.waiting():
    batch = next(batches)
losses.add(loss, norm, "step 1")
losses.mean(), clock.metrics(seconds_per_step)
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from vimss.errors import TrainingError
from vimss.train.config import TrainingConfig

LOOK_EVERY = 50
"""Steps between two checks of the losses on a GPU: rare enough not to stall it, frequent enough to stop soon."""


class Losses:
    """Losses and gradient norms since the last report; a value that is not finite ends the training.

    On a GPU they are checked only every LOOK_EVERY steps, because reading them waits for the GPU. They are checked
    before each report too, so broken weights never reach a checkpoint.
    """

    def __init__(self, config: TrainingConfig, rank_of: tuple[int, int], device: torch.device) -> None:
        self.rank, self.world_size = rank_of
        clip = config.gradient_clip
        self.remedy = f"lower training.learning_rate, or {'lower' if clip else 'set'} training.gradient_clip" + (
            f", now {clip:g}" if clip else ": 1"
        )
        self.look_every = LOOK_EVERY if device.type == "cuda" else 1
        self.steps = 0
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.unseen: list[tuple[str, Tensor, Tensor]] = []

    def add(self, loss: Float[Tensor, ""], norm: Float[Tensor, ""], where: str) -> None:
        """Add the values of a step; `where` names the step in an error."""
        self.steps += 1
        self.total += loss
        self.unseen.append((where, loss, norm))
        if len(self.unseen) >= self.look_every:
            self._look()

    def mean(self) -> float:
        """The mean loss per batch over all workers, after a check of the remaining steps."""
        return self.sums()["loss"] / max(self.steps, 1)

    def sums(self) -> dict[str, float]:
        """The number of steps and the sum of their losses over all workers, for `restore`."""
        self._look()
        if self.world_size > 1:
            torch.distributed.all_reduce(self.total)
        return {"loss": float(self.total), "steps": self.steps}

    def restore(self, sums: Mapping[str, float]) -> None:
        """Restore the sums of an interrupted training on rank 0; they already hold the other ranks' losses."""
        self.steps = int(sums["steps"])
        self.total += sums["loss"] if self.rank == 0 else 0.0

    def _look(self) -> None:
        if not self.unseen:
            return
        values = torch.stack([torch.stack([loss, norm]) for _, loss, norm in self.unseen]).tolist()
        for (where, _, _), (loss, norm) in zip(self.unseen, values, strict=True):
            if not math.isfinite(loss + norm):
                raise TrainingError(
                    "loss and gradient must be finite",
                    got=f"loss {loss:g} and gradient norm {norm:g} at {where}",
                    fix=f"{self.remedy}; the last checkpoint is kept",
                )
        self.unseen = []


class Clock:
    """Measures throughput and waiting time between two reports."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.waited = 0.0
        self.steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for the batch of a step."""
        self.steps += 1
        begin = time.monotonic()
        yield
        self.waited += time.monotonic() - begin

    def metrics(self, seconds_per_step: float) -> dict[str, float]:
        """Audio seconds per second, given those of a step, and the share of the time spent waiting for batches."""
        passed = max(time.monotonic() - self.begin, 1e-9)
        rate = self.steps * seconds_per_step / passed
        return {"audio_seconds_per_second": rate, "loader_wait": self.waited / passed}
