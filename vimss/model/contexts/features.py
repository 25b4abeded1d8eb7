"""The context `features`: vectors that a vision network made of each player's pictures, before training.

    Features(config, labels).of_player(clip, player)      # Float16 "v d"

They lie in a folder beside the shards (see `vimss.shards.computed`), which `vimss.features` writes.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32
from pydantic import Field

from vimss.config import Config
from vimss.errors import ConfigError, DataError, ModelError
from vimss.model.contexts.recording import Recording, pictures_during_sound
from vimss.model.contexts.refusals import no_view
from vimss.model.contexts.vectors import PlayerVectors
from vimss.model.pretrained import PRETRAINED, vision_digest
from vimss.model.vision_config import KNOWN_WEIGHTS, VisionConfig, VisionSettings
from vimss.shards.clip import Clip, Player
from vimss.shards.computed import (
    ComputedEntry,
    available_features,
    features_command,
    middle_pictures,
    read_entry,
    rows_of_pictures,
)
from vimss.shards.manifest import Manifest


class FeaturesSettings(VisionSettings):
    """The vision network, and the size of its features."""

    feature_size: int = Field(
        default_factory=lambda settings: settings["vision"].feature_size,
        ge=1,
        le=16384,
        description="numbers per frame of a `features` context; those of the vision network where not given",
    )
    features_every: float = Field(
        0.0,
        ge=0,
        description="seconds between two rows of a `features` context, as in `vimss features --every`; 0: one row per "
        "picture",
    )


class FeatureEntry(ComputedEntry):
    """Contents of a folder of features."""

    network: str = Field(description="the vision network")
    weights_sha256: str = Field(description="of all weights of the network, in the order of their names")
    feature_size: int = Field(ge=1, description="numbers per frame")


def features_name(network: str, every: float) -> str:
    """The beginning of a folder's name: the network and, if rows have a rate of their own, the seconds between them."""
    return f"{network}-{every:g}s" if every else network


def read_features(manifest: Manifest, name: str, again: str = "") -> FeatureEntry:
    """The entry of a folder of features; DataError where it is not complete, or not of these very shards.

    `again` is the command that computes them, where more of it is known than the name tells.
    """
    network, _, _ = name.partition("-")
    return read_entry(manifest, name, FeatureEntry, again or features_command(manifest, f"--network {network}"))


def _digest_of(vision: VisionConfig) -> str:
    """That of a network whose weights are a file or come with VIMSS; empty for those that have only a name."""
    if vision.weights in PRETRAINED:
        return vision_digest(vision.weights)
    if vision.weights in KNOWN_WEIGHTS:
        return ""
    from vimss.model.vision import Vision, weights_digest  # loads torch

    return weights_digest(Vision(vision))


@dataclass(frozen=True)
class Features(PlayerVectors):
    """Features of these pictures, computed before."""

    config: FeaturesSettings

    Settings: ClassVar[type[Config]] = FeaturesSettings
    idle: ClassVar[tuple[str, ...]] = ("vision.frozen",)
    members: ClassVar[tuple[str, ...]] = ("features",)
    source: ClassVar[str] = "picture"
    computed: ClassVar[bool] = True
    plural: ClassVar[str] = "features"

    @property
    def width(self) -> int:
        """Numbers per picture."""
        return self.config.feature_size

    @property
    def norm(self) -> float:
        """Features are about 1 each."""
        return self.width**0.5

    def prepare(self, manifest: Manifest, folder: str = "") -> str:
        """The complete folder of features of this network, after a check of every file.

        Raises:
            DataError: where there is none, or more than one, or where it is damaged or of other shards or another
                network.
            ConfigError: where its features have another size.

        """
        network, every, weights = self.config.vision.network, self.config.features_every, self.config.vision.weights
        options = [f"--network {network}"]
        options += [f"--weights {weights}"] if weights != VisionConfig().weights else []
        options += [f"--every {every:g}"] if every else []
        write = features_command(manifest, " ".join(options))
        if folder:
            read_features(manifest, folder, write)
            return folder
        digest, wanted = _digest_of(self.config.vision), features_name(network, every)
        found = [name for name in available_features(manifest) if name.rpartition("-")[0] == wanted]
        others = [name for name in available_features(manifest) if name.startswith(f"{network}-")]
        other_rate = len(others) > len(found)
        if digest:
            wanted = f"{wanted}-{digest[:10]}"
            found = [name for name in found if name == wanted]
        if len(found) != 1:
            raise DataError(
                f"a `features` context needs one complete folder of {wanted} features beside {manifest.home}",
                got=", ".join(found or others) or "none",
                fix="delete all but one" if found else write + (", or set model.features_every to theirs" * other_rate),
            )
        entry = read_features(manifest, found[0], write)
        if entry.network != network:
            raise DataError(
                f"the features '{found[0]}' must be of {network}, as in their name",
                got=entry.network,
                fix=f"delete them and {write}",
            )
        if entry.feature_size != self.width:
            raise ConfigError(
                f"model.feature_size must be that of the features '{found[0]}'",
                got=f"{self.width} instead of {entry.feature_size}",
                fix=f"set model.feature_size: {entry.feature_size}, or leave it out",
            )
        return found[0]

    def of_player(self, clip: Clip, player: Player) -> Float[np.ndarray, "v d"]:
        """The features of the player's pictures."""
        if player.features is None:
            raise no_view("features", "features", clip, player, fix="run `vimss features` for this recipe")
        return player.features

    def of_recording(self, recording: Recording) -> Float32[np.ndarray, "p v d"]:
        """Features by the network whose features the model was trained on, where its card names it."""
        import torch

        from vimss.model.vision import Vision, weights_digest

        pictures = pictures_during_sound(recording)
        settings, card = self.config.vision, recording.card
        if settings.feature_size != self.width:
            raise ModelError(
                f"this model needs features of {self.width} numbers per picture",
                got=f"{settings.network}, which gives {settings.feature_size}",
                fix="train with vision.network set to the network of the features",
            )
        vision = Vision(settings).eval()
        name = f"{features_name(settings.network, self.config.features_every)}-{weights_digest(vision)[:10]}"
        if card.get("features", name) != name or settings.weights == "random":
            wanted = f", {card['features']}" if "features" in card else ""
            raise ModelError(
                f"this model needs the vision network of its features{wanted}",
                got=f"{name}, with vision.weights: {settings.weights}",
                fix="train with vision.weights set to the file of the network that made the features",
            )
        count, every = pictures.shape[1], self.config.features_every
        rows = np.arange(count, dtype=np.int32)
        if every:
            rows = rows_of_pictures(count, recording.picture.frame_rate, every)
        with torch.inference_mode():
            shown = torch.from_numpy(pictures[:, middle_pictures(rows)])
            return vision(shown[None])[0].numpy()[:, rows]
