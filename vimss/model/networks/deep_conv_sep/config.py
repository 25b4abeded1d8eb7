"""Settings of DeepConvSep, its windows and its sites; without torch.

    DeepConvSepConfig().frames                              # 32
    DeepConvSepConfig().geometry.input_samples(2 * 3072)    # 7168

Its layers are made for excerpts of a fixed number of frames, so a mixture is cut into segments. Those of the paper
overlap by 25 of 30 frames, and their estimates are averaged; these overlap by their margins alone.

The published size, for 44.1 kHz, is {n_fft: 1024, hop_length: 512, filters: 50, bottleneck_size: 128, segment_samples:
13312, margin_samples: 1024}: 30 frames of 513 bins.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from vimss.model.config import Site
from vimss.model.networks.segments import SegmentConfig
from vimss.model.networks.spectra.config import check_invertible


class DeepConvSepConfig(SegmentConfig):
    """The defaults have the published layers, and STFT windows of 64 ms at 8 kHz."""

    network: Literal["deep_conv_sep"] = Field(
        "deep_conv_sep", description="the shallow convolutional network of Chandna et al. (2017)"
    )
    segment_samples: int = Field(
        3072, ge=16, le=2**24, description="audio samples that the network separates at a time: windows are multiples"
    )
    margin_samples: int = Field(
        512, ge=0, le=2**22, description="audio samples on either side of a segment that the network sees too"
    )
    n_fft: int = Field(512, ge=16, le=16384, description="samples of an STFT window (Hann), even")
    hop_length: int = Field(128, ge=2, le=8192, description="samples between two STFT frames, even")
    filters: int = Field(50, ge=1, le=1024, description="spectra that are learned, and shapes of them in time")
    bottleneck_size: int = Field(128, ge=1, le=4096, description="numbers that describe an excerpt")

    @model_validator(mode="after")
    def _can_be_built(self) -> "DeepConvSepConfig":
        check_invertible(self.n_fft, self.hop_length, "segments")
        if self.margin_samples < self.n_fft:
            raise ValueError(
                f"margin_samples must be at least n_fft, {self.n_fft}: the frames around a segment are needed to "
                "invert the STFT"
            )
        if self.sums_to_mixture and self.outputs == "slots" and self.slots == 1:
            raise ValueError(f"network: {self.network} with one slot would return the mixture: its masks sum to 1")
        return self

    @property
    def frames(self) -> int:
        """STFT frames of an excerpt."""
        return self.seen_samples // self.hop_length

    @property
    def step_samples(self) -> int:
        """Of the frames."""
        return self.hop_length

    @property
    def sums_to_mixture(self) -> bool:
        """Masks are shares of all outputs; that of a query is its share of the query and the rest."""
        return self.outputs != "queries"

    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """Both convolutions and the bottleneck; what follows depends on the number of outputs."""
        bottleneck = {"bottleneck": self.bottleneck_size}
        convolutions = {"vertical": self.filters, "horizontal": self.filters}
        return {"none": {}, "every_layer": {**convolutions, **bottleneck}, "bottleneck": bottleneck}

    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """A DeepConvSep with new weights, on segments."""
        from vimss.model.networks.deep_conv_sep.network import DeepConvSep  # loads torch
        from vimss.model.networks.segments.network import SegmentNetwork

        return SegmentNetwork(
            self, DeepConvSep(self, outputs), context_size, context_scale, ends=("vertical",), mono=True
        )
