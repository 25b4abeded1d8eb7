"""What contexts share whose rows are vectors, one per picture of a player, that need no weights.

@dataclass(frozen=True)
class Skeleton(PlayerVectors): ...    # adds where its vectors are from, their width and their norm
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vimss.config import Config
from vimss.model.contexts.refusals import misfit, shape_of
from vimss.shards.manifest import Manifest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PlayerVectors(ABC):
    """One row of vectors per player."""

    config: Config
    labels: tuple[str, ...]

    Settings: ClassVar[type[Config]] = Config
    idle: ClassVar[tuple[str, ...]] = ()
    computed: ClassVar[bool] = False
    uses_players: ClassVar[bool] = True
    dtype: ClassVar[type[np.generic]] = np.float32
    plural: ClassVar[str]
    """What a row holds, in errors."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers per picture."""

    @property
    def view_shape(self) -> tuple[int, ...]:
        """The shape of a row, "v d"."""
        return (-1, self.width)

    def prepare(self, manifest: Manifest, folder: str = "") -> str:
        """Nothing: the shards hold what it reads."""
        return ""

    def modules(self) -> dict[str, Any]:
        """None: a row is a sequence of vectors."""
        return {}

    def encode(
        self, array: "torch.Tensor", players: "torch.Tensor | None", modules: Mapping[str, Any], dtype: "torch.dtype"
    ) -> "torch.Tensor":
        """Rows "b p v d" as they are."""
        if array.ndim != 4 or array.shape[-1] != self.width:
            rule = f"{self.plural} as batch x players x frames x {self.width}"
            raise misfit(rule, shape_of(tuple(array.shape)))
        return array.to(dtype)
