"""Batches for the loop, made ahead of it by threads if there are any.

    with closing(load(examples, batch_size=16, position=Position(), workers=2)) as batches:
        for made in batches: made.batch, made.position

One more thread plans the batches and reads shards; those that make batches decode each clip once, when a mixture first
needs it, and share one pool of clips. Threads suffice because numpy, soundfile and FFmpeg release the GIL; processes
took as long to hand over a batch of 30 MB as to make it.
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from vimss.stream.batch import Batch, Examples, PlannedBatch, Position

AHEAD = 2
"""Batches that each thread makes ahead."""


@dataclass(frozen=True)
class LoadedBatch:
    """A batch with its position."""

    batch: Batch
    position: Position
    """After it."""
    lost: int
    """Clips left out so far because they are damaged."""


def load(
    examples: Examples,
    batch_size: int,
    position: Position,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pinned: bool = False,
) -> Generator[LoadedBatch, None, None]:
    """The endless sequence of batches of one rank from a position on; closing it ends the threads.

    Args:
        examples: the source of the batches.
        batch_size: mixtures in a batch, of this rank.
        position: the first batch.
        rank: of this worker.
        world_size: number of workers.
        workers: threads that make batches ahead; 0 makes each one on demand.
        pinned: whether batches lie in pinned memory, from which copies to a GPU are asynchronous.

    Raises:
        VimssError: from reading and mixing.

    """
    plan = examples.plan(batch_size, position, rank, world_size)

    def make(planned: PlannedBatch) -> LoadedBatch:
        batch = examples.make(planned)
        return LoadedBatch(pin_batch(batch) if pinned else batch, planned.after, examples.damage.count)

    if not workers:
        yield from map(make, plan)
        return
    planner, makers = ThreadPoolExecutor(1, "planner"), ThreadPoolExecutor(workers, "loader")

    def submit() -> Future[LoadedBatch]:
        planned = planner.submit(next, plan)
        return makers.submit(lambda: make(planned.result()))

    waiting = deque(submit() for _ in range(workers * AHEAD))
    try:
        while True:
            yield waiting.popleft().result()
            waiting.append(submit())
    finally:
        # Those that make batches wait for the planner.
        makers.shutdown(cancel_futures=True)
        planner.shutdown(cancel_futures=True)


def pin_batch(batch: Batch) -> Batch:
    """The same batch in pinned memory."""
    return replace(
        batch,
        mixture=_pin(batch.mixture),
        targets=_pin(batch.targets),
        present=_pin(batch.present),
        context=None if batch.context is None else _pin(batch.context),
        players=None if batch.players is None else _pin(batch.players),
    )


def _pin(array: np.ndarray) -> np.ndarray:
    return torch.from_numpy(array).pin_memory().numpy()
