"""The power ratio mask of the true stems: nearly an upper bound for masks on a spectrogram."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from vimss.baselines.spectrogram import masked, spectrum_of
from vimss.baselines.train_stems import ConditionedOn, TrainStems
from vimss.stream.scene import Scene


class OracleMask:
    """An oracle, which reads the true stems."""

    conditioned_on: ClassVar[ConditionedOn] = "stems"
    fitted: ClassVar[bool] = False

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    @classmethod
    def fit(cls, train: TrainStems) -> "OracleMask":
        """At the sample rate of the shards."""
        return cls(train.sample_rate)

    def __call__(self, scene: Scene, labels: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """A share of the mixture for each label that sounds; a label that does not sound gets silence."""
        stems = {**scene.references, **scene.unscored}
        power = np.stack([np.abs(spectrum_of(stems[label], self.sample_rate)) ** 2 for label in sorted(stems)])
        estimates = dict(zip(sorted(stems), masked(scene.mixture, power, self.sample_rate), strict=True))
        return np.stack([estimates.get(label, np.zeros_like(scene.mixture)) for label in labels])
