"""Oracles separate by the true stems: ceilings for systems that hear the mixture alone.

class OracleMask(Oracle):
    def separate(self, mixture, stems):     # [c t], [s c t] -> [s c t]
        ...
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from vimss.baselines.train_stems import ConditionedOn, TrainStems
from vimss.stream.scene import Scene


class Oracle(ABC):
    """A system that reads the stems of all that sounds."""

    conditioned_on: ClassVar[ConditionedOn] = "stems"
    fitted: ClassVar[bool] = False

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    @classmethod
    def fit(cls, train: TrainStems) -> "Oracle":
        """At the sample rate of the shards."""
        return cls(train.sample_rate)

    @abstractmethod
    def separate(
        self, mixture: Float[np.ndarray, "c t"], stems: Float[np.ndarray, "s c t"]
    ) -> Float[np.ndarray, "s c t"]:
        """An estimate of each stem, from the mixture."""

    def __call__(self, scene: Scene, labels: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """A share of the mixture for each label that sounds; a label that does not sound gets silence."""
        stems = {**scene.references, **scene.unscored}
        sounding = sorted(stems)
        estimates = self.separate(scene.mixture, np.stack([stems[label] for label in sounding]))
        found = dict(zip(sounding, estimates, strict=True))
        return np.stack([found.get(label, np.zeros_like(scene.mixture)) for label in labels])
