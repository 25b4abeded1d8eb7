"""2DFT: a repeating background as peaks of the spectrogram's two-dimensional Fourier transform (Seetharaman,
Pishdadian and Pardo 2017).

    Fourier2D(sample_rate)(scene, labels) # [2 c t]: background, foreground

What repeats along time is a row of peaks, what does not is spread over all rates. The transforms of the peaks and of
the rest are inverted, and each bin of the spectrogram goes to the larger one.
"""

from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Complex, Float
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from vimss.baselines.two_source import TwoSourceBaseline

NEIGHBOURS = 25
"""Rates among which a peak is the largest value of its scale."""


class Fourier2D(TwoSourceBaseline):
    """Background and foreground."""

    method: ClassVar[str] = "2DFT"

    def shares(self, magnitude: Float[np.ndarray, "f n"]) -> Float[np.ndarray, "2 f n"]:
        """1 for the larger of the two."""
        transform = np.fft.fft2(magnitude)
        peaks = peaks_of(transform)
        background, foreground = (np.abs(np.fft.ifft2(transform * chosen)) for chosen in (peaks, ~peaks))
        return np.stack([background > foreground, background <= foreground]).astype(magnitude.dtype)


def peaks_of(transform: Complex[np.ndarray, "f n"]) -> Bool[np.ndarray, "f n"]:
    """Where a value is the largest of its neighbours along the rate, and they range over a standard deviation."""
    # The transform goes on from its last rate to its first.
    values = np.abs(transform)
    highest = maximum_filter1d(values, NEIGHBOURS, axis=1, mode="wrap")
    lowest = minimum_filter1d(values, NEIGHBOURS, axis=1, mode="wrap")
    peaks: Bool[np.ndarray, "f n"] = (values == highest) & (highest - lowest > values.std())
    return peaks
