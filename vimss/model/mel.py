"""Sound to log energies in mel bands, the input of networks that recognise what they hear.

    mel = MelSpectrogram(sample_rate=8000, bands=64)
    mel(sound)                  # "b f n", a spectrum every quarter of an STFT window
    mel.spread(sound, 50)       # "b f n", 50 spectra, spread evenly over the sound

Its arrays are no weights, so that no model's file holds them.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

WINDOW_SECONDS = 0.064
"""Longest STFT window; it is the next lower power of two in samples: low notes lie close together."""

QUIET = 1e-5
"""Added to the energy in a band before the logarithm."""


def fft_samples(sample_rate: int) -> int:
    """Length of the STFT window."""
    return 1 << (round(WINDOW_SECONDS * sample_rate).bit_length() - 1)


class MelSpectrogram(nn.Module):
    """Log energies in mel bands; channels are mixed, and no gradient reaches the sound."""

    filters: Tensor
    taper: Tensor

    def __init__(self, sample_rate: int, bands: int) -> None:
        super().__init__()
        self.samples = fft_samples(sample_rate)
        # On the CPU also where only shapes are wanted: torchaudio looks at the values.
        with torch.device("cpu"):
            filters = melscale_fbanks(self.samples // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate)
            taper = torch.hann_window(self.samples)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("taper", taper, persistent=False)

    def forward(self, sound: Float[Tensor, "b c t"]) -> Float[Tensor, "b f n"]:
        """A spectrum every quarter of a window, the first around the first sample."""
        with torch.no_grad(), torch.autocast(sound.device.type, enabled=False):
            spectrum = torch.stft(
                sound.mean(1),
                self.samples,
                self.samples // 4,
                window=self.taper,
                pad_mode="constant",
                return_complex=True,
            )
            energy = spectrum.real.square() + spectrum.imag.square()
            return torch.log(torch.einsum("bfn,fm->bmn", energy, self.filters) + QUIET)

    def spread(self, sound: Float[Tensor, "b c t"], count: int) -> Float[Tensor, "b f n"]:
        """`count` spectra, around the middles of as many equal parts of the sound."""
        with torch.no_grad(), torch.autocast(sound.device.type, enabled=False):
            middles = (torch.arange(count, device=sound.device) + 0.5) * (sound.shape[-1] / count)
            places = middles.long()[:, None] + torch.arange(self.samples, device=sound.device)
            frames = F.pad(sound.mean(1), (self.samples // 2, self.samples // 2))[:, places] * self.taper
            spectrum = torch.fft.rfft(frames)
            energy = spectrum.real.square() + spectrum.imag.square()
            return torch.log(energy @ self.filters + QUIET).transpose(1, 2)
