"""How high a stem is: its fundamental frequency over time, and one number for a whole window.

    height(stem, 8000)                      # 69.0: MIDI number of the median fundamental, an A of 440 Hz
    fundamentals(stem[0], 8000)             # Hz "n", one per HOP_SECONDS; NaN where no pitch is heard

By the normalised autocorrelation of McLeod and Wyvill (2005, "A smarter way to find pitch"): the first of its peaks
that is nearly as high as the highest is the period, and not a multiple of it.
"""

import numpy as np
import scipy.fft
from jaxtyping import Float, Float32, Float64

from vimss.stream.stems import SILENCE_RMS

LOWEST_HZ, HIGHEST_HZ = 27.0, 2500.0
"""Range of pitches: below it is nothing that a tuba plays, above it nothing that a violin plays in chamber music."""

FRAME_SECONDS, HOP_SECONDS = 0.128, 0.064

LAGS_PER_SAMPLE = 2
"""At 8 kHz, a period of the highest pitch has three samples."""

NEARLY = 0.85
"""Share of the highest peak that the peak of the period has at least; multiples of a period have equally high ones."""

CLEAR = 0.6
"""Least correlation at the period of a frame that has a pitch."""


def fundamentals(sound: Float[np.ndarray, " t"], sample_rate: int) -> Float64[np.ndarray, " n"]:
    """The fundamental frequency of each frame, in Hz; NaN where it is silent or noise."""
    length, hop = round(FRAME_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
    padded = np.pad(sound, (0, max(0, length - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop].astype(np.float32)
    correlation = _normalised_autocorrelation(frames)
    rate = LAGS_PER_SAMPLE * sample_rate
    shortest, longest = int(rate / HIGHEST_HZ), min(round(rate / LOWEST_HZ), correlation.shape[1] - 2)
    # Peaks, after the first minimum: at lag 0 the correlation is 1 whatever the sound.
    before, at, after = correlation[:, :-2], correlation[:, 1:-1], correlation[:, 2:]
    peaks = (at > before) & (at >= after) & (np.cumsum(at < 0, axis=1) > 0)
    peaks[:, : max(shortest - 1, 0)] = False
    peaks[:, longest:] = False
    # The top of the parabola through three lags: at high pitches a period has few of them.
    curve = np.where(peaks, before - 2 * at + after, -1)
    offset = np.where(peaks, 0.5 * (before - after) / curve, 0)
    heights = np.where(peaks, at - 0.25 * (before - after) * offset, -1)
    highest = heights.max(axis=1, keepdims=True)
    place = (heights >= NEARLY * highest).argmax(axis=1)
    period = place + 1 + offset[np.arange(len(place)), place]
    heard = (highest[:, 0] >= CLEAR) & (np.square(frames).mean(axis=1) > SILENCE_RMS**2)
    return np.where(heard, rate / period, np.nan)


def _normalised_autocorrelation(frames: Float32[np.ndarray, "n l"]) -> Float32[np.ndarray, "n k"]:
    """2 sum x[j] x[j + k] / sum (x[j]^2 + x[j + k]^2), between -1 and 1, for lags k up to half a frame.

    There are LAGS_PER_SAMPLE of them to a sample: the sums between two samples are those of interpolated sound.
    """
    length = frames.shape[1]
    size = scipy.fft.next_fast_len(length + length // 2, real=True)
    spectrum = scipy.fft.rfft(frames, size, axis=1)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    finer = scipy.fft.irfft(power, LAGS_PER_SAMPLE * size, axis=1) * LAGS_PER_SAMPLE
    products = finer[:, : LAGS_PER_SAMPLE * (length // 2)]
    energy = np.cumsum(np.square(frames, dtype=np.float64), axis=1)
    # Energy of the first and of the last length - k samples.
    lags = np.arange(products.shape[1]) // LAGS_PER_SAMPLE
    first = energy[:, length - 1 - lags]
    last = energy[:, -1:] - np.where(lags > 0, energy[:, lags - 1], 0)
    return (2 * products / np.maximum(first + last, 1e-12)).astype(np.float32)


def height(stem: Float[np.ndarray, "c t"], sample_rate: int) -> float:
    """The median pitch of a stem as a MIDI number; NaN where it has none."""
    found = fundamentals(stem.mean(axis=0), sample_rate)
    heard = found[np.isfinite(found)]
    return float(69 + 12 * np.log2(np.median(heard) / 440)) if len(heard) else float("nan")
