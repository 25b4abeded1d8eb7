"""The contexts that a network can be conditioned on: one file each, all behind one protocol.

    context = CONTEXTS["frames"](config, labels)
    view = context.of_player(clip, clip.players[0])     # "v h w 3": that player's pictures in the clip

To add a context, write a file with a class that has the members of `Context`, and name it in `CONTEXTS` and in the
`context` of ModelConfig. Nothing here imports torch before `modules` or `encode` is called: threads that load data,
and processes that only start others, use the rest.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from vimss.model.config import ModelConfig
from vimss.model.contexts.features import Features
from vimss.model.contexts.frames import Frames
from vimss.model.contexts.labels import Labels
from vimss.model.contexts.recording import Recording
from vimss.model.contexts.skeleton import Skeleton
from vimss.shards.clip import Clip, Player

if TYPE_CHECKING:
    import torch

__all__ = ["CONTEXTS", "Context", "Recording"]


@runtime_checkable
class Context(Protocol):
    """One kind of context.

    The array of an example has one row per player ("p ...") or, of labels, one per query ("q i"); a row has the shape
    `view_shape`. Axis letters: b batch, p player, q query, v video frame, h w pixels, i instrument (label), d feature.
    """

    members: ClassVar[tuple[str, ...]]
    """Members of a clip that it reads, beside the sound."""
    source: ClassVar[str]
    """The member that shards must hold for it, where they hold what it is computed from; empty where none is needed."""
    uses_players: ClassVar[bool]
    """Whether it shows players, so that resting ones are needed as distractors; else it names labels."""
    settings: ClassVar[tuple[str, ...]]
    """Keys of the model's settings that it depends on; where no context depends on one, it changes nothing."""
    dtype: ClassVar[type[np.generic]]
    """The number type of the array that a served model takes."""

    def __init__(self, config: ModelConfig, labels: tuple[str, ...]) -> None:
        """From the model's settings and its labels."""

    @property
    def view_shape(self) -> tuple[int, ...]:
        """The shape of one row of the array; -1 where any size is accepted."""

    @property
    def width(self) -> int:
        """Numbers per vector that the network is conditioned on: d of what `encode` gives."""

    @property
    def norm(self) -> float:
        """About how long such a vector is: first weights are divided by it."""

    def of_player(self, clip: Clip, player: Player) -> np.ndarray:
        """The player's row in a clip: "v ..." with one entry per picture, at the clip's frame rate; of labels "i".

        DataError where the clip does not hold what it needs.
        """

    def of_recording(self, recording: Recording) -> np.ndarray:
        """The rows of a recording that is to be separated: one per player, left to right, or one per label."""

    def modules(self) -> dict[str, Any]:
        """The torch modules of its weights, by their names in the separator; made once, in the separator's __init__."""

    def encode(
        self, array: "torch.Tensor", players: "torch.Tensor | None", modules: Mapping[str, Any], dtype: "torch.dtype"
    ) -> "torch.Tensor":
        """Arrays "b p ..." as vectors "b p v d", each row by itself.

        Args:
            array: what `join` of the interface gives, or one recording's rows as a batch of one.
            players: "b p", which rows are real, all where not given; of the others the result may be anything.
            modules: those of `modules`.
            dtype: of the network.

        Raises:
            ModelError: where the array does not have the shape.

        """


CONTEXTS: dict[str, type[Context]] = {
    "labels": Labels,
    "frames": Frames,
    "features": Features,
    "skeleton": Skeleton,
}
"""`context` of ModelConfig to the class."""
