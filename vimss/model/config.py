"""Settings that every network has, checked before torch is loaded.

    WaveUNetConfig(op="film", site="decoder", outputs="queries")    # a ModelConfig with the settings of one network

Combinations that cannot be built are refused here, with the reason.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from vimss.config import Config, Rule
from vimss.model.geometry import Geometry

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
            # Batch norm keeps its statistics, so training would not correct that.
            raise ValueError("random weights of mobilenet_v2 give features of 1e-10: use its own or a resnet")
        return self

    @property
    def feature_size(self) -> int:
        """Numbers per picture."""
        return VISION_FEATURES[self.network]


class ModelConfig(Config, ABC):
    """Settings that every network has; each network adds its own (see `vimss.model.networks`)."""

    network: str = Field(description="which network; the other settings of this group are its own")

    context: Literal["labels", "frames", "features", "skeleton"] = Field(
        "labels",
        description="what the network is conditioned on, where `site` is not none: labels, pictures, features of "
        "pictures, or skeletons",
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
    channels: Literal[1, 2] = Field(1, description="audio channels: 1 mono, 2 stereo")
    vision: VisionConfig = VisionConfig()
    feature_size: int = Field(
        default_factory=lambda settings: settings["vision"].feature_size,
        ge=1,
        le=16384,
        description="numbers per frame of a `features` context; those of the vision network where not given",
    )
    skeleton_size: int = Field(
        48,
        ge=1,
        le=16384,
        description="numbers per frame of a `skeleton` context: 48 are the 16 joints of the embedded corpus, Solos has "
        "141",
    )

    window_keys: ClassVar[tuple[str, ...]] = ()
    """Names of the settings that decide which windows the network allows."""
    label_keys: ClassVar[tuple[str, ...]] = ()
    """Names of the settings that `check_labels` looks at, beside `outputs`."""
    idle_rules: ClassVar[Mapping[str, Rule]] = {}
    """Settings of the network to when they change something, where they do not always."""

    @model_validator(mode="after")
    def _is_possible(self) -> "ModelConfig":
        if self.outputs == "queries" and self.site == "none":
            raise ValueError("outputs: queries needs a site: without one, every query would get the same answer")
        if self.outputs == "slots" and self.site != "none":
            raise ValueError("outputs: slots takes no context, so its site must be none")
        if self.site not in self.sites():
            raise ValueError(f"network: {self.network} has no such site: choose from {', '.join(self.sites())}")
        return self

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """Which windows the network allows and how far it looks."""

    @abstractmethod
    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """The layers that each site means, and how many channels they have; `none` means none of them."""

    @abstractmethod
    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """The network (a `vimss.model.networks.Network`), with new weights; this loads torch.

        `outputs` are those of a query; `context_size` numbers make a context vector, whose usual length is
        `context_scale`.
        """

    @property
    def sums_to_mixture(self) -> bool:
        """Whether the outputs sum to the mixture, as the last one is what the others leave of it."""
        return False

    def check_labels(self, labels: Sequence[str], corpus: str) -> None:
        """ConfigError where outputs for these labels, which are those of `corpus`, make no sense."""

    def canonical(self) -> dict[str, Any]:
        """Values to set in place of those that were set, where several spell the same network."""
        return {}
