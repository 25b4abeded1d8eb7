"""Settings of the network, checked before torch is loaded.

    ModelConfig(op="film", site="decoder", outputs="queries")

Combinations that cannot be built are refused here, with the reason.
"""

from typing import Literal

from pydantic import Field, model_validator

from vimss.config import Config

Op = Literal["concat", "add", "multiply", "film", "attention"]
Site = Literal["none", "every_layer", "decoder", "bottleneck", "output"]

VISION_FEATURES = {"resnet18": 512, "resnet50": 2048, "mobilenet_v2": 1280}
"""Network of torchvision to the width of the features it gives."""


class VisionConfig(Config):
    """The network that turns a player's pictures into features."""

    network: Literal["resnet18", "resnet50", "mobilenet_v2"] = Field("resnet18", description="network of torchvision")
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
            # Batch norm keeps its statistics, so training would not mend it.
            raise ValueError("random weights of mobilenet_v2 give features of 1e-10: use its own or a resnet")
        return self

    @property
    def feature_size(self) -> int:
        """Numbers per picture."""
        return VISION_FEATURES[self.network]


class ModelConfig(Config):
    """The network. The defaults are the Wave-U-Net of the paper with input context (its model M3)."""

    context: Literal["labels", "frames", "features"] = Field(
        "labels",
        description="what the network is conditioned on, where `site` is not none: labels, pictures, or features of "
        "pictures",
    )
    op: Op = Field("film", description="how the context changes a layer before its non-linearity")
    site: Site = Field(
        "none",
        description="which layers the context changes: none; every_layer; decoder (with the bottleneck); bottleneck; "
        "output (a hidden layer before the last one)",
    )
    outputs: Literal["instruments", "queries", "slots"] = Field(
        "instruments", description="one output per label, per query, or `slots` outputs in no order"
    )
    slots: int = Field(2, ge=1, le=32, description="number of outputs of a slots model")
    levels: int = Field(12, ge=1, le=16, description="number of times the signal is halved and doubled")
    filters: int = Field(24, ge=1, le=512, description="channels of the first level, and how many each level adds")
    max_filters: int = Field(1024, ge=1, le=4096, description="no level has more channels than this")
    down_kernel: int = Field(
        15, ge=3, le=63, description="taps of the encoder's and the bottleneck's convolutions, odd"
    )
    up_kernel: int = Field(5, ge=3, le=31, description="taps of the decoder's convolutions, odd")
    channels: Literal[1, 2] = Field(1, description="audio channels: 1 mono, 2 stereo (M4)")
    padding: Literal["valid", "same"] = Field(
        "valid", description="valid: the input window is longer than the output (M3); same: zeros at the borders (M1)"
    )
    output_type: Literal["direct", "difference"] = Field(
        "direct", description="difference: the last output is the mixture minus the others (M2)"
    )
    upsampling: Literal["linear", "learned"] = Field(
        "linear", description="learned: one weight per channel between two neighbours (M5)"
    )
    output_activation: Literal["tanh", "linear"] = Field(
        "tanh", description="of the last layer; tanh bounds outputs to full scale, whatever the gain; linear to nothing"
    )
    initial_output: Literal["random", "mixture"] = Field(
        "random", description="mixture: before training, every output is close to a share of the mixture"
    )
    gain: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="the mixture is multiplied by it before the first layer and the outputs divided by it: music has "
        "a level of about 0.1, and layers learn faster around 1; the paper's network has 1",
    )
    vision: VisionConfig = VisionConfig()
    feature_size: int = Field(
        default_factory=lambda settings: settings["vision"].feature_size,
        ge=1,
        le=16384,
        description="numbers per frame of a `features` context; those of the vision network where not given",
    )

    @model_validator(mode="after")
    def _is_possible(self) -> "ModelConfig":
        for name in ("down_kernel", "up_kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd: an even kernel moves every sample by half a sample")
        if self.outputs == "queries" and self.site == "none":
            raise ValueError("outputs: queries needs a site: without one, every query would get the same answer")
        if self.outputs == "slots" and self.site != "none":
            raise ValueError("outputs: slots takes no context, so its site must be none")
        if self.output_type == "difference" and self.outputs == "queries":
            raise ValueError(
                "output_type: difference needs a fixed set of outputs that sum to the mixture; queries name any players"
            )
        if self.output_type == "difference" and self.outputs == "slots" and self.slots == 1:
            raise ValueError("output_type: difference with one slot would return the mixture")
        return self

    def widths(self) -> tuple[int, ...]:
        """Channels of the encoder levels, then of the bottleneck."""
        return tuple(min(self.filters * (level + 1), self.max_filters) for level in range(self.levels + 1))
