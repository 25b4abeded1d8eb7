"""From a batch to gradients: forward, loss, backward, in as many parts as memory requires.

    gradients = Gradients(network, objective, settings.training, device, micro_batch=16)
    loss = gradients(batch)      # every weight of the network now has its gradient

Parts and workers divide by the counts of the whole batch, so their gradients add up to those of the batch at once.
If a part does not fit into memory, the whole batch starts over with parts of half the size.
"""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vimss.errors import TrainingError
from vimss.stream.batch import Batch
from vimss.train.config import TrainingConfig
from vimss.train.device import InFlight, autocast, compiled, to_device
from vimss.train.objectives.protocol import Objective

log = logging.getLogger(__name__)

REHEARSALS = 2
"""First batches of which several workers compute gradients once without exchanging them, to find parts that fit: at the
second one, the state of the optimizer, which the first step made, is in memory too."""


class Gradients:
    """Computes the gradients of a batch's loss."""

    def __init__(
        self, network: nn.Module, objective: Objective, config: TrainingConfig, device: torch.device, micro_batch: int
    ) -> None:
        """`network` may be a DistributedDataParallel; `micro_batch` is the largest part, in mixtures."""
        self.parallel = network if isinstance(network, DistributedDataParallel) else None
        self.workers = torch.distributed.get_world_size() if self.parallel is not None else 1
        self.network = compiled(network, config.compile, device)
        self.objective = objective
        self.config = config
        self.device = device
        self.micro_batch = micro_batch
        self.rehearsals = 0 if self.parallel is None else REHEARSALS
        self.in_flight = InFlight()

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        """The worker's share of the batch's loss, computed without waiting for a GPU.

        Raises:
            TrainingError: not even one mixture fits into memory.

        """
        totals = self._totals(batch)
        if self.rehearsals:
            # Workers must agree on the parts before they exchange gradients, or one that starts over waits forever.
            while not self._all(self._attempt(batch, totals, exchange=False) is not None):
                self._halve()
            self.rehearsals -= 1
        while (loss := self._attempt(batch, totals, exchange=True)) is None:
            if self.parallel is not None:
                raise TrainingError(
                    "a batch must fit into the memory of each worker as the first ones did",
                    got=f"out of memory with {self.micro_batch} mixtures at once",
                    fix="lower training.batch_size; the last checkpoint is kept",
                )
            self._halve()
        if self.device.type == "cuda":
            self.in_flight.keep(batch, torch.cuda.current_stream(self.device).record_event().query)
        return loss

    def _attempt(self, batch: Batch, totals: Float[Tensor, " n"], exchange: bool) -> Float[Tensor, ""] | None:
        """The share of the loss, or None if memory ran out; `exchange` averages the gradients over all workers."""
        try:
            return self._accumulate(batch, totals, exchange)
        except torch.OutOfMemoryError:
            return None

    def _accumulate(self, batch: Batch, totals: Float[Tensor, " n"], exchange: bool) -> Float[Tensor, ""]:
        self._clear()
        loss = torch.zeros((), device=self.device)
        parts = list(self._parts(batch))
        for number, part in enumerate(parts, start=1):
            silent = self.parallel is not None and not (exchange and number == len(parts))
            with self.parallel.no_sync() if silent and self.parallel is not None else nullcontext():
                share = self._share(part, totals)
                # Workers take the mean of their gradients; the loss is a sum of shares.
                (share * self.workers).backward()
            loss += share.detach()
        return loss

    def _share(self, part: Batch, totals: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """A part's share of the batch's loss."""
        if self.config.compile == "cuda_graphs":
            torch.compiler.cudagraph_mark_step_begin()
        return self.objective.loss(self._forward, part, totals)

    def _forward(self, *inputs: Tensor | None, **options: Any) -> Tensor:
        """The network in the precision of the settings."""
        with autocast(self.config.precision, self.device):
            return self.network(*inputs, **options)

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        for start in range(0, len(batch.mixture), self.micro_batch):
            yield batch.part(slice(start, start + self.micro_batch))

    def _totals(self, batch: Batch) -> Float[Tensor, " n"]:
        """Counts of the batch over all workers, computed on the CPU so that nothing waits for a GPU."""
        counts = to_device(self.objective.totals(batch), self.device)
        if self.parallel is not None:
            torch.distributed.all_reduce(counts)
        return counts.float()

    def _clear(self) -> None:
        if self.config.compile != "cuda_graphs":
            self.network.zero_grad(set_to_none=True)
            return
        # A CUDA graph's next run overwrites its gradients, so parts accumulate into our own.
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)

    def _halve(self) -> None:
        if self.micro_batch == 1:
            raise TrainingError(
                "one mixture must fit into memory",
                got="out of memory with a single one",
                fix="lower training.output_samples or the size of the network",
            )
        before, self.micro_batch = self.micro_batch, -(-self.micro_batch // 2)
        log.warning(
            "out of memory with %d mixtures at once: now %d, with the same batch per step", before, self.micro_batch
        )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _all(self, fits: bool) -> bool:
        """Whether it is true on every worker."""
        everywhere = torch.tensor(float(fits), device=self.device)
        torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
        return bool(everywhere)
