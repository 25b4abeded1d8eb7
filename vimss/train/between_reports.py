"""What is summed between two reports of a training: losses, and where the time goes.

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
"""Steps between two looks at the losses on a GPU: then its work is never waited for, and an error is soon seen."""


class Losses:
    """Losses and gradient norms since the last report: they must be finite, or nothing is reported any more.

    On a GPU they are looked at now and then, since a look waits for all that the GPU has to do. Weights that are lost
    in between are in no checkpoint.
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
        """Keep what a step gave; `where` it was is for the error."""
        self.steps += 1
        self.total += loss
        self.unseen.append((where, loss, norm))
        if len(self.unseen) >= self.look_every:
            self._look()

    def mean(self) -> float:
        """The mean loss per batch over all workers, after a look at what was not looked at."""
        return self.sums()["loss"] / max(self.steps, 1)

    def sums(self) -> dict[str, float]:
        """What `go_on` takes: the steps, and their losses over all workers."""
        self._look()
        if self.world_size > 1:
            torch.distributed.all_reduce(self.total)
        return {"loss": float(self.total), "steps": self.steps}

    def go_on(self, sums: Mapping[str, float]) -> None:
        """Begin with the sums of a training that was interrupted; the other workers' losses are in the first one's."""
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
                    fix=f"{self.remedy}; the checkpoint before it is kept",
                )
        self.unseen = []


class Clock:
    """Where the time goes between two reports."""

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
