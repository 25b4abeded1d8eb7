"""Readers of corpora: one module or package per corpus, named like its recipe's `corpus`.

Each has

    Options                                      the settings under `options:` of the recipe (a Config)
    pieces(recipe, options, source)              the pieces, cheaply: name, split, composition, seconds
    read(piece, recipe, options, source)         the clips of one piece, in order

`source` is the folder with the corpus on disk, None for a corpus that is generated.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from vimss.shards.recipe import Recipe


@dataclass(frozen=True)
class Piece:
    """One piece of a corpus, before anything of it is read."""

    name: str
    """Unique in the corpus; letters, digits, `-` and `_`."""
    split: str
    """One of vimss.shards.recipe.SPLITS."""
    composition: str
    """What must not stand in two splits: the work, not its arrangement."""
    seconds: float


def stretches(samples: int, frames: int, recipe: Recipe) -> Iterator[tuple[slice, slice]]:
    """Samples and pictures of a piece's clips: as few as can be, of nearly one length; each begins with a picture."""
    rate, frame_rate = recipe.sample_rate, recipe.picture.frame_rate
    longest = max(1, int(recipe.clip_seconds * frame_rate + 1e-9))
    count = -(-frames // longest)
    cuts = [round(number * frames / count) for number in range(count + 1)]
    offsets = [int(cut * rate / frame_rate) for cut in cuts[:-1]] + [samples]
    for number in range(count):
        yield slice(offsets[number], offsets[number + 1]), slice(cuts[number], cuts[number + 1])


def reader_of(corpus: str) -> ModuleType:
    """The reader's module. It is imported only now, because readers need heavy libraries."""
    return importlib.import_module(f"{__name__}.{corpus}")
