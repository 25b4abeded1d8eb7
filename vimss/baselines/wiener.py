"""Time-invariant Wiener filters: separation with nothing but the average spectrum of each instrument.

    spectra = fit_spectra([("vn", stem), ("vc", other)], sample_rate)
    estimates = WienerPerLabel(spectra)(scene, ["vn", "vc"])

A network that does not beat them has learned a fixed equaliser. P is the mean power spectrum of a label's stems at
equal level, in the train split. The two filters differ in the labels that they know.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from vimss.baselines.spectrogram import masked, spectrum_of
from vimss.baselines.train_stems import ConditionedOn, TrainStems
from vimss.errors import DataError
from vimss.metrics import active_mask
from vimss.stream.scene import Scene


@dataclass(frozen=True, eq=False)
class LabelSpectra:
    """Mean power spectra of labels."""

    sample_rate: int
    power: Mapping[str, Float[np.ndarray, " f"]]
    """For each label with stems, the sum over its stems, each at level 1."""

    def of(self, label: str) -> Float[np.ndarray, " f"]:
        """The spectrum of a label at level 1; for one without stems, the mean of all others as the best guess."""
        if label in self.power:
            return self.power[label] / self.power[label].sum()
        return np.mean([self.of(known) for known in self.power], axis=0)


def fit_spectra(stems: Iterable[tuple[str, Float[np.ndarray, "_ _"]]], sample_rate: int) -> LabelSpectra:
    """Mean spectra from (label, stem) pairs, one pair in memory at a time; DataError if no stem sounds."""
    found: dict[str, Float[np.ndarray, " f"]] = {}
    for label, stem in stems:
        sounding = stem[:, active_mask(stem, sample_rate)]
        if sounding.shape[1]:
            power = np.mean(np.abs(spectrum_of(sounding, sample_rate)) ** 2, axis=(0, 2))
            found[label] = found.get(label, 0.0) + power / power.sum()
    if not found:
        raise DataError(
            "a Wiener filter needs stems that sound",
            got="none",
            fix="fit it on the train split of a corpus with stems",
        )
    return LabelSpectra(sample_rate, found)


class WienerPerLabel:
    """One fixed filter for each label, P_k / (P_k + mean of all other P), whatever else sounds."""

    conditioned_on: ClassVar[ConditionedOn] = "label"
    fitted: ClassVar[bool] = True

    def __init__(self, spectra: LabelSpectra) -> None:
        self.spectra = spectra

    @classmethod
    def fit(cls, train: TrainStems) -> "WienerPerLabel":
        """From the spectra of the train split."""
        return cls(train.learned(fit_spectra))

    def __call__(self, scene: Scene, labels: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """Each label by its own filter; the mixture itself if no other label is known."""
        estimates = []
        for label in labels:
            others = [self.spectra.of(other) for other in self.spectra.power if other != label]
            if not others:
                estimates.append(scene.mixture)
                continue
            both = np.stack([self.spectra.of(label), np.mean(others, axis=0)])[:, None, :, None]
            estimates.append(masked(scene.mixture, both, self.spectra.sample_rate)[0])
        return np.stack(estimates)


class InformedWiener:
    """Filters among the labels j that sound, P_k / sum of P_j: unlike a query, it knows all of them."""

    conditioned_on: ClassVar[ConditionedOn] = "all_labels"
    fitted: ClassVar[bool] = True

    def __init__(self, spectra: LabelSpectra) -> None:
        self.spectra = spectra

    @classmethod
    def fit(cls, train: TrainStems) -> "InformedWiener":
        """From the spectra of the train split."""
        return cls(train.learned(fit_spectra))

    def __call__(self, scene: Scene, labels: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """A share of the mixture for each label that sounds; a label that does not sound gets silence."""
        sounding = sorted(scene.references)
        power = np.stack([self.spectra.of(label) for label in sounding])[:, None, :, None]
        estimates = dict(zip(sounding, masked(scene.mixture, power, self.spectra.sample_rate), strict=True))
        return np.stack([estimates.get(label, np.zeros_like(scene.mixture)) for label in labels])
