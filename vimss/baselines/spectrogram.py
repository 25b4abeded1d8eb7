"""Spectrograms, and separation by masks on them.

power = np.abs(spectrum_of(stem, sample_rate)) ** 2                   # [c f n]
estimates = masked(mixture, np.stack([power, other]), sample_rate)    # [s c t]
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Complex, Float
from scipy.signal import istft, stft

WINDOW_SECONDS = 0.064
HOP = 1 / 4
"""Of a window."""


def spectrum_of(signal: Float[np.ndarray, "c t"], sample_rate: int) -> Complex[np.ndarray, "c f n"]:
    """STFT with Hann windows of about 64 ms, a power of two, that overlap by three quarters."""
    window = window_of(sample_rate)
    padded = np.pad(signal, ((0, 0), (0, max(0, window - signal.shape[1]))))
    return stft(padded, nperseg=window, noverlap=window - round(HOP * window))[2]


def masked(
    mixture: Float[np.ndarray, "c t"], parts: Float[np.ndarray, "s k f n"], sample_rate: int
) -> Float[np.ndarray, "s c t"]:
    """The mixture through one ratio mask per source: the source's part, such as its power, over the sum of all parts.

    The channels k of `parts` are those of the mixture, or 1 for all of them; its frames n those of the mixture, or 1
    for all. Bins in which no source has a part are shared equally.
    """
    total = parts.sum(axis=0)
    spectrum = spectrum_of(mixture, sample_rate)
    masks = (np.divide(part, total, out=np.full_like(total, 1 / len(parts)), where=total > 0) for part in parts)
    return signals_of((spectrum * mask for mask in masks), mixture, sample_rate)


def signals_of(
    spectra: Iterable[Complex[np.ndarray, "c f n"]], mixture: Float[np.ndarray, "c t"], sample_rate: int
) -> Float[np.ndarray, "s c t"]:
    """The signals with these spectra, of the length of the mixture that they are parts of."""
    window = window_of(sample_rate)
    signals = [istft(spectrum, nperseg=window, noverlap=window - round(HOP * window))[1] for spectrum in spectra]
    return np.stack(signals)[:, :, : mixture.shape[1]].astype(mixture.dtype)


def window_of(sample_rate: int) -> int:
    """Length of a window in audio samples."""
    return 2 ** round(np.log2(WINDOW_SECONDS * sample_rate))
