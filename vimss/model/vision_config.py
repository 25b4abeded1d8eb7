"""Settings of the network that looks at pictures (`vimss.model.vision`), checked before torch is loaded.

VisionConfig(network="resnet50").feature_size    # 2048
"""

from typing import Literal

from pydantic import Field, model_validator

from vimss.config import Config
from vimss.model.pretrained import PRETRAINED

KNOWN_WEIGHTS = ("torchvision", *PRETRAINED, "random")
"""Weights that have a name; others are files."""

VISION_FEATURES = {"resnet18": 512, "resnet50": 2048, "mobilenet_v2": 1280, "compact": 192}
"""Vision network to the width of the features it gives."""


class VisionConfig(Config):
    """The network that turns a player's pictures into features."""

    network: Literal["resnet18", "resnet50", "mobilenet_v2", "compact"] = Field(
        "resnet18", description="network of torchvision; or compact, a small one to be trained from scratch"
    )
    weights: str = Field(
        "torchvision",
        min_length=1,
        description="torchvision: its ImageNet weights, downloaded once; chamber: weights of compact that come with "
        "VIMSS; random; or a path (.safetensors or .pth)",
    )
    frozen: bool = Field(
        True, description="true: weights stay as they are; false: trained along, but for batch norm's statistics"
    )

    @model_validator(mode="after")
    def _sees_something(self) -> "VisionConfig":
        if self.network == "mobilenet_v2" and self.weights == "random":
            # Batch norm keeps its statistics, so training would not correct that.
            raise ValueError("random weights of mobilenet_v2 give features of 1e-10: use its own or a resnet")
        if self.network == "compact" and self.weights == "torchvision":
            raise ValueError(f"torchvision has no weights of compact: set weights to {known_weights('torchvision')}")
        if PRETRAINED.get(self.weights, self.network) != self.network:
            wanted = PRETRAINED[self.weights]
            raise ValueError(f"{self.weights} are weights of {wanted}, not of {self.network}: set network: {wanted}")
        return self

    @property
    def feature_size(self) -> int:
        """Numbers per picture."""
        return VISION_FEATURES[self.network]


def known_weights(*left_out: str) -> str:
    """What `weights` may be, for people: torchvision, chamber, random or the path of a file."""
    return f"{', '.join(name for name in KNOWN_WEIGHTS if name not in left_out)} or the path of a file"


class VisionSettings(Config):
    """The key `vision` of a model's settings, which contexts and objectives that look at pictures share."""

    vision: VisionConfig = VisionConfig()
