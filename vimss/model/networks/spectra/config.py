"""Settings of a U-Net on spectra, its windows and its layers; without torch.

    config.geometry.input_samples(16384)     # with the defaults 147456
    config.widths()                          # (16, 32, 64, 128, 256, 512)

The window is cut into stretches of hop_length samples with one STFT frame around each, and each of `depth` levels keeps
every second frame. So the output moves along with the input in steps of hop_length * 2^depth samples, and an output
frame depends on 2 (2^depth - 1) (kernel_size // 2) frames to either side of it: encoder and decoder, kernel by kernel.
The papers fill those with zeros at the borders of an excerpt. Here they are a margin of the mixture, half of `context`
on either side, so that an excerpt in training, a block of a recording and a whole recording give the same samples.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from vimss.config import Rule
from vimss.model.config import ModelConfig
from vimss.model.geometry import Geometry

MOST_FILTERS = 512
"""Default of `max_filters`."""


def _limits_width(config: "UNetConfig") -> bool:
    return config.widths() != config.model_copy(update={"max_filters": MOST_FILTERS}).widths()


def check_centred(n_fft: int, hop_length: int) -> None:
    """ValueError unless the frames of an STFT of that window and step are centred on whole stretches of samples."""
    if n_fft % 2 or hop_length % 2:
        raise ValueError("n_fft and hop_length must be even: a frame is centred on the samples that it stands for")


def check_invertible(n_fft: int, hop_length: int, ends: str) -> None:
    """ValueError unless, besides, such an STFT can be inverted up to where these `ends`: windows or segments."""
    check_centred(n_fft, hop_length)
    if 4 * hop_length > 3 * n_fft:
        raise ValueError(f"hop_length must be at most 3/4 of n_fft: the STFT could not be inverted where {ends} end")


class UNetConfig(ModelConfig):
    """The defaults have the window of 1024 samples and the layers of Jansson et al. (2017)."""

    n_fft: int = Field(1024, ge=16, le=16384, description="samples of an STFT window (Hann), even")
    hop_length: int = Field(256, ge=2, le=8192, description="samples between two STFT frames, even")
    frequency: Literal["linear", "log"] = Field(
        "linear", description="log: the U-Net works on `bins` bands, whose masks or magnitudes are interpolated back"
    )
    bins: int = Field(
        256,
        ge=4,
        le=8193,
        description="frequency bands of `frequency: log`: as wide as a bin at the bottom, then at equal distances on a "
        "logarithmic scale",
    )
    depth: int = Field(6, ge=2, le=8, description="number of times that time and frequency are halved and doubled")
    filters: int = Field(16, ge=1, le=512, description="channels of the first level; each level has twice as many")
    max_filters: int = Field(MOST_FILTERS, ge=1, le=4096, description="no level has more channels than this")
    kernel_size: int = Field(5, ge=3, le=15, description="taps of the convolutions in time and in frequency, odd")
    window_keys: ClassVar[tuple[str, ...]] = ("n_fft", "hop_length", "depth", "kernel_size")
    idle_rules: ClassVar[Mapping[str, Rule]] = {
        "bins": Rule("model.frequency: log", ("frequency",), lambda config: config.frequency == "log"),
        "max_filters": Rule("layers that would have more channels", ("filters", "depth"), _limits_width),
    }

    @model_validator(mode="after")
    def _can_be_built(self) -> "UNetConfig":
        check_invertible(self.n_fft, self.hop_length, "windows")
        if self.kernel_size % 2 == 0:
            raise ValueError("kernel_size must be odd: an even kernel moves every frame by half a frame")
        if self.frequency == "log" and self.bins > self.n_fft // 2 + 1:
            raise ValueError(f"bins must be at most n_fft / 2 + 1 = {self.n_fft // 2 + 1}, the bins of the STFT")
        if self.bands < 2**self.depth:
            raise ValueError(f"depth halves {self.bands} frequencies: at most {self.bands.bit_length() - 1} times")
        return self

    @property
    def bands(self) -> int:
        """Frequencies that the U-Net sees."""
        return self.bins if self.frequency == "log" else self.n_fft // 2 + 1

    def widths(self) -> tuple[int, ...]:
        """Channels of the encoder levels; the last one is the bottleneck."""
        return tuple(min(self.filters * 2**level, self.max_filters) for level in range(self.depth))

    @property
    def reach_frames(self) -> int:
        """How many frames to either side change an output frame: every level's kernel, there and back."""
        return 2 * (self.kernel_size // 2) * (2**self.depth - 1)

    @property
    def geometry(self) -> Geometry:
        """Steps of the bottleneck's frames; a margin of the frames that an output frame depends on."""
        # Half a window for the STFT and half a window for its inverse.
        reach = self.reach_frames * self.hop_length + self.n_fft
        return Geometry(
            stride=self.hop_length * 2**self.depth,
            context=-(-reach // self.hop_length) * self.hop_length * 2,
            reach=reach,
            size=f"depth {self.depth} and hop_length {self.hop_length}",
            smaller="less depth",
        )

    def canonical(self) -> dict[str, Any]:
        """Equal widths by the smallest values that give them."""
        filters = min(self.filters, self.max_filters)
        widest = filters * 2 ** (self.depth - 1)
        found = {"filters": filters} if filters != self.filters else {}
        return found | ({"max_filters": widest} if MOST_FILTERS < widest < self.max_filters else {})
