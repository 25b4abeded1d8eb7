"""Settings of the network that looks at pictures (`vimss.model.vision`), checked before torch is loaded.

VisionConfig(network="resnet50").feature_size    # 2048
"""

from typing import Literal

from pydantic import Field, model_validator

from vimss.config import Config

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
        description="torchvision: its ImageNet weights, downloaded once; random; or a path (.safetensors or .pth)",
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
            raise ValueError("torchvision has no weights of compact: set weights to random or the path of a file")
        return self

    @property
    def feature_size(self) -> int:
        """Numbers per picture."""
        return VISION_FEATURES[self.network]


class VisionSettings(Config):
    """The key `vision` of a model's settings, which contexts and objectives that look at pictures share."""

    vision: VisionConfig = VisionConfig()
