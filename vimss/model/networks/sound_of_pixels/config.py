"""Settings of The Sound of Pixels, its windows and its site; without torch.

    SoundOfPixelsConfig().geometry.input_samples(4096)     # 12800
    SoundOfPixelsConfig().sites()                          # {"none": {}, "output": {"maps": 16}}

The published size, for 6 s at 11.025 kHz and three pictures of 224 pixels, is {n_fft: 1022, hop_length: 256, bins: 256,
depth: 7, filters: 64, kernel_size: 3, maps: 32, masks: binary}, with {context: frames, outputs: queries, site: output,
vision: {network: resnet18, frozen: false}}.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from vimss.model.config import Op, Site
from vimss.model.networks.spectra import UNetConfig


class SoundOfPixelsConfig(UNetConfig):
    """The defaults are small enough for a CPU, with STFT windows of 64 ms at 8 kHz."""

    network: Literal["sound_of_pixels"] = Field(
        "sound_of_pixels", description="masks as inner products of maps with a picture's values: Zhao et al. (2018)"
    )
    op: Op = Field("multiply", description="how the values of a query meet the maps: multiply, as in the paper")
    n_fft: int = Field(512, ge=16, le=16384, description="samples of an STFT window (Hann), even")
    hop_length: int = Field(128, ge=2, le=8192, description="samples between two STFT frames, even")
    frequency: Literal["linear", "log"] = Field(
        "log", description="log: the U-Net works on `bins` bands, whose masks are interpolated back"
    )
    bins: int = Field(
        128,
        ge=4,
        le=8193,
        description="frequency bands of `frequency: log`: as wide as a bin at the bottom, then at equal distances on a "
        "logarithmic scale",
    )
    depth: int = Field(4, ge=2, le=8, description="number of times that time and frequency are halved and doubled")
    filters: int = Field(12, ge=1, le=512, description="channels of the first level; each level has twice as many")
    kernel_size: int = Field(3, ge=3, le=15, description="taps of the convolutions in time and in frequency, odd")
    maps: int = Field(16, ge=1, le=1024, description="maps of the mixture, and values of a query (the paper's K)")
    masks: Literal["ratio", "binary"] = Field(
        "ratio",
        description="binary: in separation and validation, masks are 1 where they would be above a half, and 0 "
        "elsewhere; in training they are ratio masks",
    )

    ops: ClassVar[tuple[Op, ...]] = ("multiply",)

    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """The maps: no other layer sees a query, so that the maps serve all queries, and all places of a picture."""
        return {"none": {}, "output": {"maps": self.maps}}

    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """A SoundOfPixels with new weights."""
        from vimss.model.networks.sound_of_pixels.network import SoundOfPixels  # loads torch

        return SoundOfPixels(self, outputs, context_size, context_scale)
