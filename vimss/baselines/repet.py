"""REPET: a repeating background and what differs from it (Rafii and Pardo 2013).

    REPET(sample_rate)(scene, labels)     # [2 c t]: background, foreground

The beat spectrum, the autocorrelation of the power spectrogram along time, gives the period. The background is the
median over the periods, at most the mixture. The high-pass filter that the paper adds for voices is left out.
"""

from typing import ClassVar

import numpy as np
from jaxtyping import Float

from vimss.baselines.two_source import TwoSourceBaseline

LONGEST_LAG = 3 / 4
"""Of all lags: the paper's share, since few products make the others."""
DEVIATION = 2
"""Frames by which a peak may lie beside a multiple of the period."""


class REPET(TwoSourceBaseline):
    """Background and foreground."""

    method: ClassVar[str] = "REPET"

    def shares(self, magnitude: Float[np.ndarray, "f n"]) -> Float[np.ndarray, "2 f n"]:
        """The repeating part of the magnitudes, and the rest."""
        background = np.minimum(repeating(magnitude, period_of(beat_spectrum(magnitude**2))), magnitude)
        return np.stack([background, magnitude - background])


def beat_spectrum(power: Float[np.ndarray, "f n"]) -> Float[np.ndarray, " n"]:
    """Autocorrelation along time, divided by its number of products, mean over bins; 1 at lag 0, or all 0."""
    frames = power.shape[1]
    spectrum = np.abs(np.fft.rfft(power, 2 * frames)) ** 2
    products = np.fft.irfft(spectrum.mean(axis=0))[:frames] / np.arange(frames, 0, -1)
    return products / products[0] if products[0] > 0 else np.zeros(frames)


def period_of(beats: Float[np.ndarray, " n"]) -> int:
    """The period in frames, whose multiples have the highest peaks (algorithm 1 of the paper).

    A peak counts by its height above the mean around it, where it is the highest of three quarters of a period on
    either side. Every period fits at least three times into the lags.
    """
    lags = beats[1 : max(2, int(LONGEST_LAG * len(beats)))]
    scores = [_height_of_peaks(lags, period) for period in range(1, max(2, len(lags) // 3 + 1))]
    return 1 + int(np.argmax(scores))


def _height_of_peaks(lags: Float[np.ndarray, " n"], period: int) -> float:
    """Mean height over the multiples of a period; entry j of `lags` is lag j + 1."""
    width, total = 3 * period // 4, 0.0
    for multiple in range(period - 1, len(lags), period):
        first = max(0, multiple - width)
        around = lags[first : multiple + width + 1]
        highest = first + int(np.argmax(around))
        if abs(highest - multiple) <= DEVIATION:
            total += lags[highest] - around.mean()
    return total / (len(lags) // period) if period <= len(lags) else 0.0


def repeating(magnitude: Float[np.ndarray, "f n"], period: int) -> Float[np.ndarray, "f n"]:
    """The median over the frames that lie whole periods apart, for each frame of a period."""
    bins, frames = magnitude.shape
    periods, rest = divmod(frames, period)
    whole = magnitude[:, : periods * period].reshape(bins, periods, period)
    segment = np.median(whole, axis=1)
    if rest:
        last = magnitude[:, None, -rest:]
        segment[:, :rest] = np.median(np.concatenate([whole[:, :, :rest], last], axis=1), axis=1)
    return np.tile(segment, (1, periods + 1))[:, :frames]
