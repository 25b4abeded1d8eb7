"""The context `labels`: the names of the instruments that are to be separated.

Labels(config, ("vn", "vc")).of_recording(Recording(file, ("vc", "vc")))    # [[0, 1]]
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float32

from vimss.model.contexts.recording import Recording
from vimss.model.contexts.refusals import misfit, shape_of
from vimss.model.contexts.vectors import Vectors
from vimss.shards.clip import Clip, Player

if TYPE_CHECKING:
    import torch


def one_hot(names: Iterable[str], labels: tuple[str, ...]) -> Float32[np.ndarray, "q i"]:
    """A row per name, with a 1 at its label; of zeros where it is none of them."""
    rows = [[label == name for label in labels] for name in names]
    return np.array(rows, np.float32).reshape(len(rows), len(labels))


@dataclass(frozen=True)
class Labels(Vectors):
    """The labels of instruments."""

    members: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    uses_players: ClassVar[bool] = False

    @property
    def view_shape(self) -> tuple[int, ...]:
        """The shape of a row, "i"."""
        return (len(self.labels),)

    @property
    def width(self) -> int:
        """One number per label."""
        return len(self.labels)

    @property
    def norm(self) -> float:
        """A single 1."""
        return 1.0

    def of_player(self, clip: Clip, player: Player) -> Float32[np.ndarray, " i"]:
        """The row of the player's instrument."""
        return one_hot([player.instrument], self.labels)[0]

    def of_recording(self, recording: Recording) -> Float32[np.ndarray, "q i"]:
        """One row per label, however many players have it."""
        return one_hot(dict.fromkeys(recording.players), self.labels)

    def encode(
        self, array: "torch.Tensor", players: "torch.Tensor | None", modules: Mapping[str, Any], dtype: "torch.dtype"
    ) -> "torch.Tensor":
        """Rows "b q i" as vectors "b q 1 i"."""
        if array.ndim != 3 or array.shape[-1] != self.width:
            raise misfit(f"labels as batch x queries x {self.width}", shape_of(tuple(array.shape)))
        return array.unsqueeze(2).to(dtype)
