"""Settings of Looking to Listen, its windows and its site; without torch.

    LookingToListenConfig().geometry.input_samples(16384)     # 18432
    LookingToListenConfig().sites()                           # {"none": {}, "bottleneck": {"joint": 32}}

Its recurrent layer runs over a whole excerpt in both directions, so a mixture is cut into segments with margins.

The published size, for 16 kHz, excerpts of 3 s and 1024 features of a face at 25 pictures a second, is {n_fft: 512,
hop_length: 160, kernel_size: 5, dilations: 6, filters: 96, last_filters: 8, visual_filters: 256, lstm_size: 200,
hidden_size: 600, segment_samples: 48000, margin_samples: 640}, with {context: features, outputs: queries, site:
bottleneck}. One of its layers takes 17.6 billion multiplications for 3 s: it is for GPUs.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from vimss.config import Rule
from vimss.model.config import Op, Site
from vimss.model.networks.segments import SegmentConfig
from vimss.model.networks.spectra.config import check_invertible


def _looks(config: "LookingToListenConfig") -> bool:
    return config.site != "none"


class LookingToListenConfig(SegmentConfig):
    """The defaults are small enough for a CPU, with STFT windows of 64 ms and segments of 2 s at 8 kHz."""

    network: Literal["looking_to_listen"] = Field(
        "looking_to_listen", description="a stream per player, joined in time with spectra: Ephrat et al. (2018)"
    )
    op: Op = Field("concat", description="how the player's stream joins that of the sound: concat, as in the paper")
    segment_samples: int = Field(
        16384, ge=16, le=2**24, description="audio samples that the network separates at a time: windows are multiples"
    )
    margin_samples: int = Field(
        1024, ge=0, le=2**22, description="audio samples on either side of a segment that the network sees too"
    )
    n_fft: int = Field(512, ge=16, le=16384, description="samples of an STFT window (Hann), even")
    hop_length: int = Field(256, ge=2, le=8192, description="samples between two STFT frames, even")
    kernel_size: int = Field(
        3, ge=3, le=15, description="taps of the dilated convolutions in time and in frequency, odd"
    )
    dilations: int = Field(
        4, ge=1, le=10, description="layers in which the dilation doubles: first that in time alone, then that in both"
    )
    filters: int = Field(8, ge=1, le=512, description="channels of the convolutions on the spectrum")
    last_filters: int = Field(4, ge=1, le=512, description="channels of the last of them")
    visual_filters: int = Field(32, ge=1, le=4096, description="channels of the convolutions on a player's stream")
    lstm_size: int = Field(64, ge=1, le=4096, description="width of the recurrent layer in each direction")
    hidden_size: int = Field(128, ge=1, le=4096, description="width of the three fully connected layers after it")

    ops: ClassVar[tuple[Op, ...]] = ("concat",)
    idle_rules: ClassVar[Mapping[str, Rule]] = {
        "visual_filters": Rule("a model.site other than none", ("site",), _looks)
    }

    @model_validator(mode="after")
    def _can_be_built(self) -> "LookingToListenConfig":
        check_invertible(self.n_fft, self.hop_length, "segments")
        if self.kernel_size % 2 == 0:
            raise ValueError("kernel_size must be odd: an even kernel moves every frame by half a frame")
        if self.margin_samples < self.n_fft:
            raise ValueError(
                f"margin_samples must be at least n_fft, {self.n_fft}: the frames around a segment are needed to "
                "invert the STFT"
            )
        return self

    @property
    def step_samples(self) -> int:
        """Of the frames."""
        return self.hop_length

    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """Where the paper has its joint, before the recurrent layer; what is joined is the player's stream."""
        return {"none": {}, "bottleneck": {"joint": self.visual_filters}}

    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """A LookingToListen with new weights."""
        from vimss.model.networks.looking_to_listen.network import LookingToListen  # loads torch

        return LookingToListen(self, outputs, context_size, context_scale)
