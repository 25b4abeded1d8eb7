"""Blind separation of a mixture of two sources by its spectrogram alone: what such baselines have in common.

    class HPSS(TwoSourceBaseline):
        method = "HPSS"

        def shares(self, magnitude):            # [f n] -> [2 f n]
            ...

Their estimates have no labels: an oracle assigns them (`vimss.systems.BaselineSystem`), in the order that scores best.
That flatters them, and it is the only use that is made of the true stems.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from vimss.baselines.spectrogram import HOP, masked, spectrum_of, window_of
from vimss.baselines.train_stems import ConditionedOn, TrainStems
from vimss.errors import DataError
from vimss.stream.scene import Scene

MOST_SOURCES = 2


class TwoSourceBaseline(ABC):
    """Two ratio masks, the same for all channels, from the magnitudes of a mixture."""

    conditioned_on: ClassVar[ConditionedOn] = "order"
    fitted: ClassVar[bool] = False
    method: ClassVar[str]
    """Its name in errors."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    @classmethod
    def fit(cls, train: TrainStems) -> "TwoSourceBaseline":
        """At the sample rate of the shards."""
        return cls(train.sample_rate)

    @property
    def frame_rate(self) -> float:
        """STFT frames per second."""
        return self.sample_rate / (HOP * window_of(self.sample_rate))

    @property
    def bin_rate(self) -> float:
        """Frequency bins per hertz."""
        return window_of(self.sample_rate) / self.sample_rate

    @abstractmethod
    def shares(self, magnitude: Float[np.ndarray, "f n"]) -> Float[np.ndarray, "2 f n"]:
        """How much of each bin belongs to either source, at any scale."""

    def __call__(self, scene: Scene, labels: Sequence[str]) -> Float[np.ndarray, "2 c t"]:
        """Both estimates, in the method's own order, whatever the labels; DataError where more sources sound."""
        sounding = sorted({*scene.references, *scene.unscored})
        if len(sounding) > MOST_SOURCES:
            raise DataError(
                f"{self.method} separates mixtures of at most {MOST_SOURCES} sources",
                got=f"{len(sounding)} in {scene.name}: {', '.join(sounding)}",
                fix="score it on two-source mixtures",
            )
        magnitude = np.sqrt(np.mean(np.abs(spectrum_of(scene.mixture, self.sample_rate)) ** 2, axis=0))
        return masked(scene.mixture, self.shares(magnitude)[:, None], self.sample_rate)
