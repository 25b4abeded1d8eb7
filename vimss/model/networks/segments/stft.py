"""Settings of models of libraries that work on spectra; without torch.

n_fft and hop_length are checked here, so that an STFT can be inverted and a segment has the frames that reach into it.
"""

from pydantic import Field, model_validator

from vimss.model.networks.segments.config import SegmentConfig
from vimss.model.networks.spectra.config import check_centred


class StftConfig(SegmentConfig):
    """The defaults are STFT windows of 128 ms at 8 kHz, which tell the harmonics of low notes apart."""

    n_fft: int = Field(1024, ge=16, le=8192, description="samples of an STFT window, even")
    hop_length: int = Field(256, ge=2, le=4096, description="samples between two STFT frames, even")

    @model_validator(mode="after")
    def _has_an_inverse(self) -> "StftConfig":
        check_centred(self.n_fft, self.hop_length)
        if 2 * self.hop_length > self.n_fft:
            raise ValueError(
                f"hop_length must be at most half of n_fft, or samples are lost between windows: hop_length "
                f"{self.n_fft // 4 * 2} or n_fft {2 * self.hop_length}"
            )
        if 2 * self.margin_samples < self.n_fft:
            needed = -(-self.n_fft // 2 // self.hop_length) * self.hop_length
            raise ValueError(
                f"margin_samples must be at least half of n_fft, so that a segment has all frames that reach into it: "
                f"{needed} or more"
            )
        return self

    @property
    def step_samples(self) -> int:
        """Of the frames."""
        return self.hop_length

    @property
    def bins(self) -> int:
        """Frequencies of a frame."""
        return self.n_fft // 2 + 1
