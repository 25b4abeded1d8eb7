"""Readers of corpora: one module or package per corpus, named like its recipe's `corpus`.

Each has

    Options                                      the settings under `options:` of the recipe (a Config)
    pieces(recipe, options, source)              the pieces, cheaply: name, split, composition, seconds
    read(piece, recipe, options, source)         the clips of one piece, in order

`source` is the folder with the corpus on disk, None for a corpus that is generated.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType


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


def reader_of(corpus: str) -> ModuleType:
    """The reader's module. It is imported only now, because readers need heavy libraries."""
    return importlib.import_module(f"{__name__}.{corpus}")
