"""REPET-SIM: a background that comes back without a period, and what differs from it (Rafii and Pardo 2012).

    REPETSIM(sample_rate)(scene, labels)  # [2 c t]: background, foreground

The background of a frame is the median of the frames most similar to it, at most the mixture.
"""

from typing import ClassVar

import numpy as np
from jaxtyping import Float
from scipy.ndimage import maximum_filter1d

from vimss.baselines.two_source import TwoSourceBaseline

MOST_FRAMES = 100
"""Similar frames that a median is of."""
APART_SECONDS = 1.0
"""Least distance between them. Their least similarity, 0 in the paper, leaves none out."""
FRAMES_AT_ONCE = 256
"""Rows of the similarity matrix in memory."""


class REPETSIM(TwoSourceBaseline):
    """Background and foreground."""

    method: ClassVar[str] = "REPET-SIM"

    def shares(self, magnitude: Float[np.ndarray, "f n"]) -> Float[np.ndarray, "2 f n"]:
        """The part of the magnitudes that comes back, and the rest."""
        background = np.minimum(self._returning(magnitude), magnitude)
        return np.stack([background, magnitude - background])

    def _returning(self, magnitude: Float[np.ndarray, "f n"]) -> Float[np.ndarray, "f n"]:
        norms = np.linalg.norm(magnitude, axis=0)
        directions = magnitude / np.where(norms > 0, norms, 1)
        around = 2 * round(APART_SECONDS * self.frame_rate) + 1
        medians = np.empty_like(magnitude)
        for first in range(0, magnitude.shape[1], FRAMES_AT_ONCE):
            similar = directions[:, first : first + FRAMES_AT_ONCE].T @ directions
            # A frame is the most similar one within a second: so two that count lie a second apart.
            peaks = similar == maximum_filter1d(similar, around, axis=1)
            for row, (values, is_peak) in enumerate(zip(similar, peaks, strict=True)):
                places = np.flatnonzero(is_peak)
                chosen = places[np.argsort(-values[places], kind="stable")[:MOST_FRAMES]]
                medians[:, first + row] = np.median(magnitude[:, chosen], axis=1)
        return medians
