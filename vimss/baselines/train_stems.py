"""The stems of a train split, one at a time, and a cache of what baselines learn from them.

train = TrainStems(manifest)
for label, stem in train: ...                   # every stem that sounds, [c t] in [-1, 1]
spectra = train.learned(fit_spectra)            # computed by the first call, returned by later ones
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float32

from vimss.media import INT16_SCALE
from vimss.shards.manifest import Manifest
from vimss.stream.read import read_clips

ConditionedOn = Literal["nothing", "label", "all_labels", "notes", "order", "stems"]
"""The information that a baseline uses beside the mixture: nothing; the label of each estimate; all labels that sound;
the notes of all players that sound; the order of its two estimates, for which an oracle reads the true stems; or, as
an oracle, the true stems."""

LabelledStems = Iterable[tuple[str, Float32[np.ndarray, "c t"]]]

Learned = TypeVar("Learned")


class TrainStems:
    """The stems of the train split with their labels, read from the shards anew in every pass."""

    def __init__(self, manifest: Manifest) -> None:
        self.sample_rate = manifest.recipe.sample_rate
        self._manifest = manifest
        self._learned: dict[Callable[..., Any], Any] = {}

    def __iter__(self) -> Iterator[tuple[str, Float32[np.ndarray, "c t"]]]:
        for clip in read_clips(self._manifest, "train"):
            for player in clip.players:
                if player.audio is not None:
                    yield player.instrument, player.audio.astype(np.float32) / INT16_SCALE

    def learned(self, learn: Callable[[LabelledStems, int], Learned]) -> Learned:
        """`learn(stems, sample_rate)`, once for all baselines that share it: every pass decodes the split."""
        if learn not in self._learned:
            self._learned[learn] = learn(self, self.sample_rate)
        found: Learned = self._learned[learn]
        return found
