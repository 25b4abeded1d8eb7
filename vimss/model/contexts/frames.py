"""The context `frames`: each player's pictures, through a vision network that may be trained along.

Frames(config, labels).of_player(clip, player)      # UInt8 "v h w 3"
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from vimss.config import Config
from vimss.model.contexts.recording import Recording, pictures_during_sound
from vimss.model.contexts.refusals import misfit, no_view, shape_of
from vimss.model.vision_config import VisionSettings
from vimss.shards.clip import Clip, Player
from vimss.shards.manifest import Manifest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Frames:
    """Pictures of the players."""

    config: VisionSettings
    labels: tuple[str, ...]

    Settings: ClassVar[type[Config]] = VisionSettings
    idle: ClassVar[tuple[str, ...]] = ()
    members: ClassVar[tuple[str, ...]] = ("picture",)
    source: ClassVar[str] = "picture"
    uses_players: ClassVar[bool] = True
    computed: ClassVar[bool] = False
    dtype: ClassVar[type[np.generic]] = np.uint8

    @property
    def view_shape(self) -> tuple[int, ...]:
        """The shape of a row, "v h w 3"."""
        return (-1, -1, -1, 3)

    @property
    def width(self) -> int:
        """That of the vision network."""
        return self.config.vision.feature_size

    @property
    def norm(self) -> float:
        """Features are about 1 each."""
        return self.width**0.5

    def of_player(self, clip: Clip, player: Player) -> UInt8[np.ndarray, "v h w 3"]:
        """The player's crop of the video."""
        if player.picture is None:
            raise no_view("frames", "a picture", clip, player, fix="leave this piece out, or condition on labels")
        return player.picture

    def of_recording(self, recording: Recording) -> UInt8[np.ndarray, "p v h w 3"]:
        """Pictures of the players, in equal columns of the video."""
        return pictures_during_sound(recording)

    def prepare(self, manifest: Manifest, folder: str = "") -> str:
        """Nothing: the shards hold the pictures."""
        return ""

    @property
    def example_seconds(self) -> float:
        """It shows no stems."""
        return 0.0

    def modules(self, sample_rate: int) -> dict[str, Any]:
        """The vision network; ModelError where its weights are not available."""
        from vimss.model.vision import Vision  # loads torch

        return {"vision": Vision(self.config.vision)}

    def encode(
        self, array: "torch.Tensor", players: "torch.Tensor | None", modules: Mapping[str, Any], dtype: "torch.dtype"
    ) -> "torch.Tensor":
        """Pictures "b p v h w 3" as features "b p v d"; those of players who are not real are not looked at."""
        import torch

        if array.ndim != 6 or array.shape[-1] != 3 or array.dtype != torch.uint8:
            rule = "pictures as batch x players x frames x height x width x 3 bytes"
            raise misfit(rule, shape_of(tuple(array.shape)))
        vision = modules["vision"]
        if players is None:
            features: torch.Tensor = vision(array)
            return features
        real = vision(array[players].unsqueeze(0))[0]
        padded: torch.Tensor = real.new_zeros(*players.shape, *real.shape[1:]).index_put((players,), real)
        return padded
