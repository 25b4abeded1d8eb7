"""Batches for the loop, made ahead of it by processes of their own where there are some.

    for made in load(examples, batch_size=16, position=Position(), rank=0, world_size=1, workers=2, pinned=False):
        made.batch, made.position

The order of batches is the same for any number of processes: each makes every n-th batch. All of them read all shards,
which costs little beside mixing, and send arrays through shared memory (torch's DataLoader).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vimss.errors import VimssError
from vimss.stream.batch import Batch, Examples, Position

PREFETCH = 4
"""Batches that each process keeps ready."""

_PLACE = "place"
"""Key of the numbers that travel with the arrays of a batch."""

Sent = dict[str, torch.Tensor] | VimssError
"""What comes from a process."""


@dataclass(frozen=True)
class Made:
    """A batch and what belongs to it."""

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
) -> Iterator[Made]:
    """The endless sequence of batches of one rank from a position on.

    Args:
        examples: where they come from.
        batch_size: mixtures in a batch, of this rank.
        position: where to begin.
        rank: of this worker.
        world_size: number of workers.
        workers: processes that make batches ahead; 0 makes each when it is asked for.
        pinned: into pinned memory, from which a GPU copies without waiting.

    Raises:
        VimssError: as reading and mixing raise it, in whichever process it happens.

    """
    stream = _Stream(examples, batch_size, position, rank, world_size)
    loader: DataLoader[Sent] = DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        pin_memory=pinned,
        prefetch_factor=PREFETCH if workers else None,
        # The loop's own random numbers stay as they are.
        generator=torch.Generator(),
        # A forked process would inherit threads and connections of Ray and CUDA, in any state.
        multiprocessing_context="spawn" if workers else None,
    )
    for sent in loader:
        if isinstance(sent, VimssError):
            raise sent
        yield _made(sent)


class _Stream(IterableDataset[Sent]):
    def __init__(self, examples: Examples, batch_size: int, position: Position, rank: int, world_size: int) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.position = position
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[Sent]:
        worker = get_worker_info()
        share = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        batches = self.examples.batches(self.batch_size, self.position, self.rank, self.world_size, share)
        try:
            for batch, position in batches:
                yield _tensors(batch) | {_PLACE: torch.tensor([position.epoch, position.batch, self._lost()])}
        except VimssError as error:
            # DataLoader would make an error of its own of it, whose text is a traceback.
            yield error

    def _lost(self) -> int:
        return self.examples.damage.count


def _tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """Arrays as tensors, which travel through shared memory and can be pinned."""
    arrays = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: torch.from_numpy(array) for name, array in arrays.items() if array is not None}


def _made(sent: dict[str, torch.Tensor]) -> Made:
    epoch, number, lost = sent.pop(_PLACE).tolist()
    arrays: dict[str, np.ndarray | None] = dict.fromkeys(field.name for field in fields(Batch))
    arrays |= {name: tensor.numpy() for name, tensor in sent.items()}
    return Made(Batch(**arrays), Position(epoch, number), lost)  # type: ignore[arg-type]  # fields by their names
