"""Settings of the U-Net with several heads, its windows and its sites; without torch.

    MultiHeadUNetConfig().geometry.input_samples(8192)     # 24576
    MultiHeadUNetConfig().sites()["bottleneck"]            # {"bottleneck": 96}

Each of `depth` levels halves time and frequency exactly, so windows are whole frames of the bottleneck. An output frame
depends on 4 (2^depth - 1) frames to either side of it; instead of the paper's zeros at the borders of an excerpt, they
are a margin of the mixture, half of `context` on either side.

The published size, for 6 s at 11.025 kHz, is {n_fft: 1022, hop_length: 256, bins: 256, depth: 6, filters: 16} with 13
labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from vimss.config import Rule
from vimss.errors import ConfigError
from vimss.model.config import ModelConfig, Site
from vimss.model.geometry import Geometry
from vimss.model.networks.spectra.config import check_invertible


class MultiHeadUNetConfig(ModelConfig):
    """The defaults are small enough for a CPU."""

    network: Literal["multi_head_u_net"] = Field(
        "multi_head_u_net", description="a U-Net on spectrograms with a decoder per output: Slizovskaia et al. (2021)"
    )
    n_fft: int = Field(512, ge=16, le=16384, description="samples of an STFT window (Hann), even")
    hop_length: int = Field(128, ge=2, le=8192, description="samples between two STFT frames, even")
    bins: int = Field(128, ge=4, le=8192, description="frequency bands that the U-Net works on, logarithmic")
    depth: int = Field(4, ge=1, le=8, description="number of times that time and frequency are halved and doubled")
    filters: int = Field(12, ge=1, le=512, description="channels of the first level; each level has twice as many")
    masks: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="softmax: the masks of all outputs sum to 1 (the paper's `complementary`)"
    )

    window_keys: ClassVar[tuple[str, ...]] = ("n_fft", "hop_length", "depth")
    label_keys: ClassVar[tuple[str, ...]] = ("masks",)
    idle_rules: ClassVar[Mapping[str, Rule]] = {
        "masks": Rule(
            "model.outputs: instruments or slots, since the mask of a query depends on no other query",
            ("outputs",),
            lambda config: config.outputs != "queries",
        )
    }

    @model_validator(mode="after")
    def _can_be_built(self) -> "MultiHeadUNetConfig":
        check_invertible(self.n_fft, self.hop_length, "windows")
        if self.bins > self.n_fft // 2 + 1:
            raise ValueError(f"bins must be at most n_fft / 2 + 1 = {self.n_fft // 2 + 1}, the bins of the STFT")
        if self.bins % 2**self.depth:
            raise ValueError(f"bins must be a multiple of 2^depth = {2**self.depth}: each level halves them")
        if self.sums_to_mixture and self.outputs == "slots" and self.slots == 1:
            raise ValueError("masks: softmax with one slot would return the mixture")
        return self

    def widths(self) -> tuple[int, ...]:
        """Channels of the encoder levels; the last one is the bottleneck."""
        return tuple(self.filters * 2**level for level in range(self.depth))

    @property
    def geometry(self) -> Geometry:
        """Steps of the bottleneck's frames; a margin of the frames that an output frame depends on."""
        stride = self.hop_length * 2**self.depth
        # Half a window for the STFT and half a window for its inverse.
        reach = 4 * (2**self.depth - 1) * self.hop_length + self.n_fft
        return Geometry(
            stride=stride,
            context=-(-reach // stride) * stride * 2,
            reach=reach,
            size=f"depth {self.depth} and hop_length {self.hop_length}",
            smaller="less depth",
        )

    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """The paper's three: every_layer, of the encoder that all heads share; bottleneck; output, the last of heads.

        The heads have no weights of their own for the context: it changes the last layer of all heads alike.
        """
        *above, deepest = self.widths()
        bottleneck = {"bottleneck": deepest}
        return {
            "none": {},
            "every_layer": {**{f"down{level}": width for level, width in enumerate(above)}, **bottleneck},
            "bottleneck": bottleneck,
            "output": {"output": self.filters},
        }

    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """A MultiHeadUNet with new weights."""
        from vimss.model.networks.multi_head_u_net.network import MultiHeadUNet  # loads torch

        return MultiHeadUNet(self, outputs, context_size, context_scale)

    @property
    def sums_to_mixture(self) -> bool:
        """With masks that do."""
        return self.masks == "softmax" and self.outputs != "queries"

    def check_labels(self, labels: Sequence[str], corpus: str) -> None:
        """ConfigError if the only output would have the whole mask."""
        if self.sums_to_mixture and self.outputs == "instruments" and len(labels) == 1:
            raise ConfigError(
                f"model.masks: softmax needs shards with several labels, unlike '{corpus}': the one output would be "
                "the mixture",
                got=f"the label {labels[0]}",
                fix="set model.masks: sigmoid",
            )
