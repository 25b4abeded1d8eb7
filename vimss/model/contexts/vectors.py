"""The members that contexts without weights share: their rows are the vectors themselves.

@dataclass(frozen=True)
class Labels(Vectors): ...            # one vector per query
@dataclass(frozen=True)
class Skeleton(PlayerVectors): ...    # one vector per picture of a player; adds its source, width and norm
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
class Vectors(ABC):
    """Rows of vectors, which need no weights, and by default nothing that is computed beforehand."""

    config: Config
    labels: tuple[str, ...]

    Settings: ClassVar[type[Config]] = Config
    idle: ClassVar[tuple[str, ...]] = ()
    computed: ClassVar[bool] = False
    dtype: ClassVar[type[np.generic]] = np.float32

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers per vector."""

    def prepare(self, manifest: Manifest, folder: str = "") -> str:
        """Nothing to prepare: the shards or their recipe hold what it reads."""
        return ""

    @property
    def example_seconds(self) -> float:
        """It shows no stems."""
        return 0.0

    def modules(self, sample_rate: int) -> dict[str, Any]:
        """No modules: a row is already vectors."""
        return {}


@dataclass(frozen=True)
class PlayerVectors(Vectors):
    """One row of vectors per player."""

    uses_players: ClassVar[bool] = True
    plural: ClassVar[str]
    """The content of a row, in errors."""

    @property
    def view_shape(self) -> tuple[int, ...]:
        """The shape of a row, "v d"."""
        return (-1, self.width)

    def encode(
        self, array: "torch.Tensor", players: "torch.Tensor | None", modules: Mapping[str, Any], dtype: "torch.dtype"
    ) -> "torch.Tensor":
        """Rows "b p v d" as they are."""
        if array.ndim != 4 or array.shape[-1] != self.width:
            rule = f"{self.plural} as batch x players x frames x {self.width}"
            raise misfit(rule, shape_of(tuple(array.shape)))
        return array.to(dtype)
