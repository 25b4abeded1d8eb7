"""Sums between two reports of a training: losses, gradient norms, throughput, waiting time and memory.

losses, clock = Losses(config, (rank, world_size), device), Clock(device)
with clock.waiting():
    batch = next(batches)
losses.add(loss, norm, "step 1")
losses.mean(), losses.mean_norm(), clock.metrics(seconds_per_step)
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil
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
        self.norms = 0.0
        """Sum of the gradient norms, which are equal on all workers."""
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

    def mean_norm(self) -> float:
        """The mean norm of the gradient before it is clipped; after `mean`, which looks at the remaining steps."""
        return self.norms / max(self.steps, 1)

    def sums(self) -> dict[str, float]:
        """The number of steps, and the sums of their losses over all workers and of their norms, for `restore`."""
        self._look()
        total = self.total.clone()  # the sum over the workers replaces it
        if self.world_size > 1:
            torch.distributed.all_reduce(total)
        return {"loss": float(total), "steps": self.steps, "norm": self.norms}

    def restore(self, sums: Mapping[str, float]) -> None:
        """Restore the sums of an interrupted training on rank 0; they already hold the other ranks' losses."""
        self.steps = int(sums["steps"])
        self.total += sums["loss"] if self.rank == 0 else 0.0
        self.norms += sums.get("norm", 0.0)  # checkpoints of an earlier version have none

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
            self.norms += norm
        self.unseen = []


class Clock:
    """Measures throughput, waiting time and memory between two reports."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.process = psutil.Process()
        self.most_bytes = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
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

    def look(self) -> None:
        """Note the memory after a step: of a GPU the allocated peak, else all that the process holds."""
        on_gpu = self.device.type == "cuda"
        now = torch.cuda.max_memory_allocated(self.device) if on_gpu else self.process.memory_info().rss
        self.most_bytes = max(self.most_bytes, now)

    def metrics(self, seconds_per_step: float) -> dict[str, float]:
        """Audio seconds per second, given those of a step, the share of the time spent waiting for batches, and GiB."""
        passed = max(time.monotonic() - self.begin, 1e-9)
        rate = self.steps * seconds_per_step / passed
        waited = self.waited / passed
        return {"audio_seconds_per_second": rate, "loader_wait": waited, "peak_memory_gib": self.most_bytes / 2**30}
