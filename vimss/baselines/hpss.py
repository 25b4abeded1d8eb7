"""HPSS: harmonic and percussive parts by median filters (Fitzgerald 2010).

    HPSS(sample_rate)(scene, labels)      # [2 c t]: harmonic, percussive

A held note is a horizontal line of a spectrogram and a stroke a vertical one: a median along time keeps the lines and
removes the strokes, a median along frequency does the opposite. The masks are Wiener's, ratios of squares.
"""

from typing import ClassVar

import numpy as np
from jaxtyping import Float
from scipy.ndimage import median_filter

from vimss.baselines.two_source import TwoSourceBaseline

HARMONIC_SECONDS = 0.4
PERCUSSIVE_HERTZ = 180.0
"""Lengths of the medians: in the paper 17 frames and 17 bins, of windows of 93 ms that are a quarter apart."""


class HPSS(TwoSourceBaseline):
    """Harmonic and percussive sounds."""

    method: ClassVar[str] = "HPSS"

    def shares(self, magnitude: Float[np.ndarray, "f n"]) -> Float[np.ndarray, "2 f n"]:
        """Squares of the two medians."""
        frames, bins = _odd(HARMONIC_SECONDS * self.frame_rate), _odd(PERCUSSIVE_HERTZ * self.bin_rate)
        return np.stack([median_filter(magnitude, (1, frames)), median_filter(magnitude, (bins, 1))]) ** 2


def _odd(length: float) -> int:
    return 2 * round((length - 1) / 2) + 1
