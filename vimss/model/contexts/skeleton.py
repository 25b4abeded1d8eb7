"""The context `skeleton`: where each player's joints are, as the shards hold them.

Skeleton(config, labels).of_player(clip, player)      # Float16 "v j"

A row has `skeleton_size` numbers per picture. Their order is the corpus's own: the embedded corpus has 16 joints (see
`vimss.shards.corpora.chamber.skeleton`), Solos 47; both give all x, then all y, then all confidences, relative to the
player's crop. No recording can be separated with it, because VIMSS has no pose estimator: it is for questions of what
posture and movement say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from vimss.errors import ConfigError, ModelError
from vimss.model.config import ModelConfig
from vimss.model.contexts.recording import Recording
from vimss.model.contexts.refusals import misfit, no_view, shape_of
from vimss.shards.clip import Clip, Player

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Skeleton:
    """One row of joints per player."""

    config: ModelConfig
    labels: tuple[str, ...]

    members: ClassVar[tuple[str, ...]] = ("skeleton",)
    source: ClassVar[str] = "skeleton"
    uses_players: ClassVar[bool] = True
    settings: ClassVar[tuple[str, ...]] = ("skeleton_size",)
    dtype: ClassVar[type[np.generic]] = np.float32

    @property
    def view_shape(self) -> tuple[int, ...]:
        """Of a row: "v j"."""
        return (-1, self.width)

    @property
    def width(self) -> int:
        """Numbers per picture."""
        return self.config.skeleton_size

    @property
    def norm(self) -> float:
        """Of numbers that are spread evenly between 0 and 1."""
        return (self.width / 3) ** 0.5

    def of_player(self, clip: Clip, player: Player) -> Float[np.ndarray, "v j"]:
        """The player's joints; ConfigError where the shards have another number of them."""
        if player.skeleton is None:
            fix = "use shards of a corpus that has them, such as chamber, or set model.context: labels"
            raise no_view("skeleton", "the skeleton", clip, player, fix=fix)
        found = player.skeleton.shape[1]
        if found != self.width:
            raise ConfigError(
                f"model.skeleton_size must be that of the skeletons in the shards, {found} numbers per picture",
                got=f"{self.width}, and {found} for {player.part} in {clip.key}",
                fix=f"set model.skeleton_size: {found}, or use shards of the corpus that the model is for",
            )
        return player.skeleton

    def of_recording(self, recording: Recording) -> Float[np.ndarray, "p v j"]:
        """Refused: nothing here finds joints in pictures."""
        raise ModelError(
            "a model whose context is skeleton needs the joints of every player, and VIMSS has no pose estimator",
            got=f"the recording {recording.file}",
            fix="separate it with a model whose context is labels, frames or features, or evaluate this one on shards "
            "that hold skeletons",
        )

    def modules(self) -> dict[str, Any]:
        """None: a row is a vector."""
        return {}

    def encode(
        self, array: "torch.Tensor", players: "torch.Tensor | None", modules: Mapping[str, Any], dtype: "torch.dtype"
    ) -> "torch.Tensor":
        """Joints "b p v j" as they are."""
        if array.ndim != 4 or array.shape[-1] != self.width:
            rule = f"skeletons as batch x players x frames x {self.width}"
            raise misfit(rule, shape_of(tuple(array.shape)))
        return array.to(dtype)
