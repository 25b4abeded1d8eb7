"""The mixture as the estimate of every source: 0 dB improvement by definition."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from vimss.baselines.train_stems import ConditionedOn, TrainStems
from vimss.stream.scene import Scene


class MixtureBaseline:
    """As many copies of the mixture as labels."""

    conditioned_on: ClassVar[ConditionedOn] = "nothing"
    fitted: ClassVar[bool] = False

    @classmethod
    def fit(cls, train: TrainStems) -> "MixtureBaseline":
        """Nothing is fitted."""
        return cls()

    def __call__(self, scene: Scene, labels: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """The mixture, once per label."""
        return np.repeat(scene.mixture[None], len(labels), axis=0)
