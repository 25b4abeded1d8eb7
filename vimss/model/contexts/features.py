"""The context `features`: vectors that a vision network made of each player's pictures, before training.

Features(config, labels).of_player(clip, player)      # Float16 "v d"
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32

from vimss.errors import ModelError
from vimss.model.config import ModelConfig
from vimss.model.contexts.recording import Recording, player_pictures
from vimss.model.contexts.refusals import misfit, no_view, shape_of
from vimss.shards.clip import Clip, Player

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Features:
    """One row of feature vectors per player."""

    config: ModelConfig
    labels: tuple[str, ...]

    members: ClassVar[tuple[str, ...]] = ("features",)
    source: ClassVar[str] = "picture"
    uses_players: ClassVar[bool] = True
    settings: ClassVar[tuple[str, ...]] = ("vision.network", "vision.weights", "feature_size")
    dtype: ClassVar[type[np.generic]] = np.float32

    @property
    def view_shape(self) -> tuple[int, ...]:
        """The shape of a row, "v d"."""
        return (-1, self.width)

    @property
    def width(self) -> int:
        """Numbers per picture."""
        return self.config.feature_size

    @property
    def norm(self) -> float:
        """Features are about 1 each."""
        return self.width**0.5

    def of_player(self, clip: Clip, player: Player) -> Float[np.ndarray, "v d"]:
        """The features of the player's pictures."""
        if player.features is None:
            raise no_view("features", "features", clip, player, fix="run `vimss features` for this recipe")
        return player.features

    def of_recording(self, recording: Recording) -> Float32[np.ndarray, "p v d"]:
        """Features by the network whose features the model was trained on, where its card names it."""
        import torch

        from vimss.model.vision import Vision, weights_digest

        pictures = player_pictures(recording)
        settings, card = self.config.vision, recording.card
        if settings.feature_size != self.width:
            raise ModelError(
                f"this model needs features of {self.width} numbers per picture",
                got=f"{settings.network}, which gives {settings.feature_size}",
                fix="train with vision.network set to the network of the features",
            )
        vision = Vision(settings).eval()
        name = f"{settings.network}-{weights_digest(vision)[:10]}"
        if card.get("features", name) != name or settings.weights == "random":
            wanted = f", {card['features']}" if "features" in card else ""
            raise ModelError(
                f"this model needs the vision network of its features{wanted}",
                got=f"{name}, with vision.weights: {settings.weights}",
                fix="train with vision.weights set to the file of the network that made the features",
            )
        with torch.inference_mode():
            return vision(torch.from_numpy(pictures)[None])[0].numpy()

    def modules(self) -> dict[str, Any]:
        """None: the vision network has done its work."""
        return {}

    def encode(
        self, array: "torch.Tensor", players: "torch.Tensor | None", modules: Mapping[str, Any], dtype: "torch.dtype"
    ) -> "torch.Tensor":
        """Features "b p v d" as they are."""
        if array.ndim != 4 or array.shape[-1] != self.width:
            rule = f"features as batch x players x frames x {self.width}"
            raise misfit(rule, shape_of(tuple(array.shape)))
        return array.to(dtype)
