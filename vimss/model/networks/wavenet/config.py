"""Settings of the WaveNet, its windows and its sites; without torch.

    WaveNetConfig().geometry.input_samples(8192)     # 9218
    WaveNetConfig().sites()["output"]                # {"output": 64}

No layer keeps fewer samples than another and none pads its borders, so every window is possible, and an output sample
sees as many samples on either side as all dilations sum to.

The published size, for speech at 16 kHz, is {layers: 10, stacks: 3, filters: 128, skip_filters: 128, hidden_filters:
2048, output_filters: 256}: a sample sees 384 ms. Here the layers before and after the stacks see one sample more each.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from vimss.model.config import Gain, ModelConfig, Site
from vimss.model.geometry import Geometry


class WaveNetConfig(ModelConfig):
    """The defaults are small enough for a CPU: 0.14 million weights; a sample sees 64 ms at 8 kHz to either side."""

    network: Literal["wavenet"] = Field(
        "wavenet", description="the non-causal WaveNet of Rethage et al. (2018) and Lluís et al. (2019)"
    )
    layers: int = Field(8, ge=1, le=14, description="layers of a stack; each doubles the dilation of the one before it")
    stacks: int = Field(2, ge=1, le=8, description="stacks of layers; each begins with dilation 1")
    filters: int = Field(32, ge=1, le=4096, description="channels between the layers; gates have twice as many")
    skip_filters: int = Field(32, ge=1, le=4096, description="channels of the sum of what all layers found")
    hidden_filters: int = Field(64, ge=1, le=8192, description="channels of the first layer after that sum")
    output_filters: int = Field(32, ge=1, le=8192, description="channels of the second layer after that sum")
    gain: Gain = 1.0
    estimate: Literal["samples", "mu_law"] = Field(
        "samples",
        description="samples: a number per output sample; mu_law: the mean of 256 levels under their probabilities, "
        "which training.loss: cross_entropy trains",
    )

    window_keys: ClassVar[tuple[str, ...]] = ("layers", "stacks")

    def dilations(self) -> tuple[int, ...]:
        """Of each layer, from the first to the last."""
        return tuple(2**layer for _ in range(self.stacks) for layer in range(self.layers))

    @property
    def geometry(self) -> Geometry:
        """Steps of one sample; a margin of what the layers cut off."""
        # Kernels have three taps: the first layer, those of the stacks, and two after them.
        reach = 1 + sum(self.dilations()) + 2
        return Geometry(stride=1, context=2 * reach, reach=reach, size=f"{self.layers} layers", smaller="fewer layers")

    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """`layer0` and further, each before its gate, and `output`, the first layer after the stacks; no decoder."""
        gates = {f"layer{number}": 2 * self.filters for number in range(self.stacks * self.layers)}
        output = {"output": self.hidden_filters}
        return {"none": {}, "every_layer": {**gates, **output}, "output": output}

    @property
    def classifies_samples(self) -> bool:
        """With levels."""
        return self.estimate == "mu_law"

    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """A WaveNet with new weights."""
        from vimss.model.networks.wavenet.network import WaveNet  # loads torch

        return WaveNet(self, outputs, context_size, context_scale)
