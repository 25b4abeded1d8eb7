"""Batches for the loop, made ahead of it by threads if there are any.

    with closing(load(examples, batch_size=16, position=Position(), workers=2)) as batches:
        for made in batches: made.batch, made.position

The order of batches is the same for any number of threads: each makes every n-th batch. All of them read all shards,
which costs little beside mixing. Threads suffice because numpy, soundfile and FFmpeg release the GIL;
processes took as long to hand over a batch of 30 MB as to make it.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import torch

from vimss.stream.batch import Batch, Examples, Position

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

    def share_of(number: int) -> Iterator[LoadedBatch]:
        share = (number, max(workers, 1))
        for batch, after in examples.batches(batch_size, position, rank, world_size, share):
            yield LoadedBatch(_pinned(batch) if pinned else batch, after, examples.damage.count)

    if not workers:
        yield from share_of(0)
        return
    shares = [share_of(number) for number in range(workers)]
    threads = [ThreadPoolExecutor(1, "loader") for _ in shares]
    turns = list(zip(threads, shares, strict=True))
    waiting = deque(thread.submit(next, share) for thread, share in turns * AHEAD)
    try:
        for thread, share in cycle(turns):
            yield waiting.popleft().result()
            waiting.append(thread.submit(next, share))
    finally:
        for thread in threads:
            thread.shutdown(cancel_futures=True)


def _pinned(batch: Batch) -> Batch:
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
