"""Waveforms to spectra and back, and frequency bins to logarithmic bands and back.

    stft = Stft(n_fft=1024, hop_length=256)
    spectrum = stft(torch.randn(2, 1, 4096))     # "2 1 16 513", complex
    signal = stft.inverse(spectrum)              # "2 1 4096", equal but for the first and last n_fft samples
    phases = phase_of(spectrum)
    to_bands, to_bins = log_frequency(bins=513, bands=256)

Axis letters: t audio sample, n STFT frame, f frequency bin, k frequency band.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

WARP = 20
"""Band k of K lies at ((1 + WARP)^(k / (K - 1)) - 1) / WARP of the highest frequency: the grid of The Sound of Pixels,
nearly linear at the bottom, so that 0 Hz has a band too."""


SMALLEST = 1e-12
"""Smallest magnitude that is divided by."""


def phase_of(spectrum: Complex[Tensor, "*b"]) -> Complex[Tensor, "*b"]:
    """The spectrum with magnitudes of 1; of silence 0, so that it stays silent, with finite gradients."""
    return spectrum / spectrum.abs().clamp(min=SMALLEST)


class Stft(nn.Module):
    """Short-time Fourier transform with a Hann window w of n_fft samples; no weights.

    Frame j is centred on the j-th stretch of h = hop_length samples, with zeros beyond the ends of the signal:

        X[j, f] = 2 / sum(w) * sum over m of w[m] x[j h - (n_fft - h) / 2 + m] exp(-2 pi i f m / n_fft)

    So a sine of full scale has a magnitude of 1 at its frequency.
    """

    analysis: Float[Tensor, " m"]
    synthesis: Float[Tensor, " m"]

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.margin = (n_fft - hop_length) // 2
        window = torch.hann_window(n_fft, dtype=torch.float64)
        scale = 2 / window.sum()
        # The squares of all windows that cover a sample: the same for each stretch of hop_length samples.
        squares = F.pad(window.square(), (0, -n_fft % hop_length)).reshape(-1, hop_length)
        overlap = squares.sum(0).repeat(len(squares))[:n_fft]
        self.register_buffer("analysis", (scale * window).float(), persistent=False)
        self.register_buffer("synthesis", (window / (scale * overlap)).float(), persistent=False)

    def forward(self, signal: Float[Tensor, "*b t"]) -> Complex[Tensor, "*b n f"]:
        """The spectrum of t = n hop_length samples."""
        frames = F.pad(signal, (self.margin, self.margin)).unfold(-1, self.n_fft, self.hop_length)
        return torch.fft.rfft(frames * self.analysis)

    def inverse(self, spectrum: Complex[Tensor, "*b n f"]) -> Float[Tensor, "*b t"]:
        """The signal whose spectrum is nearest in the least squares (Griffin and Lim, 1984).

        The n_fft samples at either end miss the frames beyond.
        """
        frames = torch.fft.irfft(spectrum, n=self.n_fft) * self.synthesis
        samples = spectrum.shape[-2] * self.hop_length
        added = F.fold(
            frames.flatten(0, -3).transpose(1, 2),
            (1, samples + 2 * self.margin),
            (1, self.n_fft),
            stride=(1, self.hop_length),
        )
        return added[:, 0, 0, self.margin : self.margin + samples].unflatten(0, spectrum.shape[:-2])


def log_frequency(bins: int, bands: int) -> tuple[Float[Tensor, "k f"], Float[Tensor, "f k"]]:
    """Matrices from bins, linear in frequency, to bands, logarithmic in frequency, and back.

    A band is a triangle around its place that reaches to the next bands, or to the next bins where those are further:
    narrow bands interpolate, wide ones average. Back, a bin interpolates between its two bands. Rows sum to 1.
    """
    part = torch.arange(bands, dtype=torch.float64) / (bands - 1)
    # Places of the bands, in bins, and how they change from band to band.
    places = (bins - 1) * ((1 + WARP) ** part - 1) / WARP
    width = (places * math.log(1 + WARP) + (bins - 1) * math.log(1 + WARP) / WARP) / (bands - 1)
    each_bin = torch.arange(bins, dtype=torch.float64)
    to_bands = (1 - (each_bin - places[:, None]).abs() / width.clamp(min=1)[:, None]).clamp(min=0)
    where = torch.log1p(WARP * each_bin / (bins - 1)) / math.log(1 + WARP) * (bands - 1)
    to_bins = (1 - (torch.arange(bands) - where[:, None]).abs()).clamp(min=0)
    return (to_bands / to_bands.sum(1, keepdim=True)).float(), (to_bins / to_bins.sum(1, keepdim=True)).float()
