"""Settings of the Wave-U-Net, its windows, and where the samples of each of its layers lie in time; without torch.

    WaveUNetConfig().geometry.input_samples(16389)     # 147443
    layers(WaveUNetConfig(), 16389)["up0"]             # Layer(first=61433, stride=2048, samples=13)

The rule behind all of it: decimation keeps the even samples, interpolation puts one sample between two neighbours,
so the samples of a layer lie on a regular grid of input samples. With valid convolutions a window of n samples at the
bottleneck gives (n - k) 2^L + k output samples, k the decoder's kernel: few windows are possible.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from vimss.config import Rule
from vimss.errors import ConfigError
from vimss.model.config import Gain, ModelConfig, Site
from vimss.model.geometry import Geometry, Layer

MOST_FILTERS = 1024
"""Default of `max_filters`."""


def _limits_width(config: "WaveUNetConfig") -> bool:
    return config.widths() != config.model_copy(update={"max_filters": MOST_FILTERS}).widths()


class WaveUNetConfig(ModelConfig):
    """The defaults are the network of the paper with input context (its model M3)."""

    network: Literal["wave_u_net"] = Field("wave_u_net", description="the Wave-U-Net of Stoller et al. (2018)")
    levels: int = Field(12, ge=1, le=16, description="number of times the signal is halved and doubled")
    filters: int = Field(24, ge=1, le=512, description="channels of the first level, and how many each level adds")
    max_filters: int = Field(MOST_FILTERS, ge=1, le=4096, description="no level has more channels than this")
    down_kernel: int = Field(
        15, ge=3, le=63, description="taps of the encoder's and the bottleneck's convolutions, odd"
    )
    up_kernel: int = Field(5, ge=3, le=31, description="taps of the decoder's convolutions, odd")
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
    gain: Gain = 1.0
    form: Literal["fast", "plain"] = Field(
        "fast",
        description="plain: computed as it is written in network.py, for who changes the network there; fast: the same "
        "outputs and gradients but for rounding, in less than half the time",
    )

    window_keys: ClassVar[tuple[str, ...]] = ("levels", "down_kernel", "up_kernel", "padding")
    label_keys: ClassVar[tuple[str, ...]] = ("output_type",)
    idle_rules: ClassVar[Mapping[str, Rule]] = {
        "max_filters": Rule("layers that would have more channels", ("filters", "levels"), _limits_width)
    }

    @model_validator(mode="after")
    def _can_be_built(self) -> "WaveUNetConfig":
        for name in ("down_kernel", "up_kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd: an even kernel moves every sample by half a sample")
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

    @property
    def geometry(self) -> Geometry:
        """Steps of the bottleneck's samples; with valid convolutions, a margin of what the layers cut off."""
        stride = 2**self.levels
        sight = (2 * self.down_kernel + self.up_kernel - 3) * stride
        padded = self.padding == "same"
        return Geometry(
            stride=stride,
            context=0 if padded else sight - self.down_kernel - self.up_kernel + 2,
            reach=sight // 2,
            rest=0 if padded else self.up_kernel,
            border=-(-(sight // 2 + self.up_kernel) // stride) * stride if padded else 0,
            size=f"{self.levels} levels",
            smaller="fewer levels",
        )

    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """`down0` and deeper, `bottleneck`, `up0` (the deepest) and higher, and `output`, a hidden layer of its own."""
        widths = self.widths()
        down = {f"down{level}": widths[level] for level in range(self.levels)}
        up = {f"up{level}": widths[-2 - level] for level in range(self.levels)}
        bottleneck = {"bottleneck": widths[-1]}
        return {
            "none": {},
            "every_layer": {**up, **bottleneck, **down},
            "decoder": {**up, **bottleneck},
            "bottleneck": bottleneck,
            "output": {"output": widths[0]},
        }

    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """A WaveUNet with new weights."""
        from vimss.model.networks.wave_u_net.network import WaveUNet  # loads torch

        return WaveUNet(self, outputs, context_size, context_scale)

    @property
    def sums_to_mixture(self) -> bool:
        """Of the type `difference`."""
        return self.output_type == "difference"

    def check_labels(self, labels: Sequence[str], corpus: str) -> None:
        """ConfigError if the only output would be the difference of the mixture and no others."""
        if self.sums_to_mixture and self.outputs == "instruments" and len(labels) == 1:
            raise ConfigError(
                f"model.output_type: difference needs shards with several labels, unlike '{corpus}': the one output "
                "would be the mixture",
                got=f"the label {labels[0]}",
                fix="remove model.output_type",
            )

    def canonical(self) -> dict[str, Any]:
        """Equal widths by the smallest values that give them."""
        filters = min(self.filters, self.max_filters)
        widest = filters * (self.levels + 1)
        found = {"filters": filters} if filters != self.filters else {}
        return found | ({"max_filters": widest} if MOST_FILTERS < widest < self.max_filters else {})


def layers(config: WaveUNetConfig, output_samples: int) -> dict[str, Layer]:
    """Each layer's grid: `down0` (before decimation) and deeper, `bottleneck`, `up0` (deepest) and higher."""
    samples, first, stride = config.geometry.input_samples(output_samples), 0, 1
    shrink_down = config.down_kernel - 1 if config.padding == "valid" else 0
    shrink_up = config.up_kernel - 1 if config.padding == "valid" else 0
    found = {}
    for level in range(config.levels):
        first, samples = first + stride * (shrink_down // 2), samples - shrink_down
        found[f"down{level}"] = Layer(first, stride, samples)
        stride, samples = 2 * stride, (samples + 1) // 2
    first, samples = first + stride * (shrink_down // 2), samples - shrink_down
    found["bottleneck"] = Layer(first, stride, samples)
    for level in range(config.levels):
        samples = 2 * samples - 1 if config.padding == "valid" else 2 * samples
        stride //= 2
        first, samples = first + stride * (shrink_up // 2), samples - shrink_up
        found[f"up{level}"] = Layer(first, stride, samples)
    return found
