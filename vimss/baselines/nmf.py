"""Supervised NMF: each label's sounds as a small dictionary of spectra, and a mixture as a sum of their entries.

    dictionaries = fit_dictionaries([("vn", stem), ("vc", other)], sample_rate)
    estimates = InformedNMF(dictionaries)(scene, ["vn", "vc"])

Unlike a Wiener filter's, its masks follow the notes. The dictionaries are learned by the multiplicative updates of Lee
and Seung 2000 for the Kullback-Leibler divergence of magnitudes, and stay fixed while a mixture is explained by them
(Smaragdis, Raj and Shashanka 2007).

It is strong if test and train share their instruments, as in the embedded corpus, whose sound bank has one sample per
note. On the quickstart's two-source mixtures, its SI-SDR improvement is 12.4 dB (median of three seeds); the Wiener
filter with the same information reaches 3.5. On unseen timbres, 3.1 and 1.5 (`tests/golden/baselines.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32

from vimss.baselines.spectrogram import masked, spectrum_of
from vimss.baselines.train_stems import ConditionedOn, TrainStems
from vimss.errors import DataError
from vimss.metrics import active_mask
from vimss.stream.scene import Scene

SPECTRA = 24
"""Entries of a label's dictionary."""
MOST_FRAMES = 600
"""Frames that a label's dictionary is learned from, drawn from the whole train split."""
LEARNING_STEPS = 60
SEPARATION_STEPS = 20
"""Updates: of a dictionary, and of a mixture's activations."""


@dataclass(frozen=True, eq=False)
class Dictionaries:
    """The spectra of labels."""

    sample_rate: int
    spectra: Mapping[str, Float32[np.ndarray, "k f"]]
    """Of each label that some stem had, magnitudes that sum to 1."""

    def of(self, label: str) -> Float32[np.ndarray, "k f"]:
        """The spectra of a label; for one without stems, the mean spectrum of each other label as the best guess."""
        if label in self.spectra:
            return self.spectra[label]
        return np.stack([known.mean(axis=0) for known in self.spectra.values()])


def fit_dictionaries(stems: Iterable[tuple[str, Float[np.ndarray, "_ _"]]], sample_rate: int) -> Dictionaries:
    """Dictionaries from (label, stem) pairs, one pair in memory at a time; DataError where no stem sounds."""
    rng = np.random.default_rng(0)
    drawn: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for label, stem in stems:
        sounding = stem[:, active_mask(stem, sample_rate)]
        if not sounding.shape[1]:
            continue
        frames = magnitudes(sounding, sample_rate)
        # Keeping the frames with the smallest random numbers draws fairly from any number of frames.
        numbers, kept = drawn.get(label, (np.empty(0), frames[:0]))
        numbers, kept = np.concatenate([numbers, rng.random(len(frames))]), np.concatenate([kept, frames])
        smallest = np.argsort(numbers)[:MOST_FRAMES]
        drawn[label] = numbers[smallest], kept[smallest]
    if not drawn:
        raise DataError(
            "NMF needs stems that sound", got="none", fix="fit it on the train split of a corpus with stems"
        )
    return Dictionaries(sample_rate, {label: learn_spectra(frames) for label, (_, frames) in drawn.items()})


class InformedNMF:
    """A mixture is a sum of the dictionaries of all labels that sound; each label gets its part as a mask."""

    conditioned_on: ClassVar[ConditionedOn] = "all_labels"
    fitted: ClassVar[bool] = True

    def __init__(self, dictionaries: Dictionaries) -> None:
        self.dictionaries = dictionaries

    @classmethod
    def fit(cls, train: TrainStems) -> "InformedNMF":
        """From the stems of the train split."""
        return cls(train.learned(fit_dictionaries))

    def __call__(self, scene: Scene, labels: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """A share of the mixture for each label that sounds; a label that does not sound gets silence."""
        sounding = sorted(scene.references)
        spectra = [self.dictionaries.of(label) for label in sounding]
        frames = magnitudes(scene.mixture, self.dictionaries.sample_rate)
        activations = activations_of(frames, np.concatenate(spectra))
        ends = np.cumsum([len(each) for each in spectra])[:-1]
        parts = [part @ each for part, each in zip(np.split(activations, ends, axis=1), spectra, strict=True)]
        estimates = dict(
            zip(sounding, masked_by_parts(scene.mixture, parts, self.dictionaries.sample_rate), strict=True)
        )
        return np.stack([estimates.get(label, np.zeros_like(scene.mixture)) for label in labels])


def magnitudes(sound: Float[np.ndarray, "c t"], sample_rate: int) -> Float32[np.ndarray, "n f"]:
    """The frames of all channels, one after the other, about 1 on average."""
    found = np.abs(spectrum_of(sound, sample_rate)).astype(np.float32)
    level = float(found.mean())
    return np.concatenate(list(found.swapaxes(1, 2))) / (level if level > 0 else 1.0)


def masked_by_parts(
    mixture: Float[np.ndarray, "c t"], parts: Sequence[Float[np.ndarray, "n f"]], sample_rate: int
) -> Float[np.ndarray, "s c t"]:
    """The mixture through the ratio masks of these parts of its `magnitudes`."""
    power = np.square(np.stack(parts)).reshape(len(parts), len(mixture), -1, parts[0].shape[1])
    return masked(mixture, power.swapaxes(2, 3), sample_rate)


def learn_spectra(frames: Float32[np.ndarray, "n f"], count: int = SPECTRA) -> Float32[np.ndarray, "k f"]:
    """So many spectra, each with a sum of 1, of which all frames are nearly sums."""
    from sklearn.decomposition import NMF  # takes a second to load

    model = NMF(
        count,
        init="random",
        solver="mu",
        beta_loss="kullback-leibler",
        tol=0,
        max_iter=LEARNING_STEPS,
        random_state=0,
    )
    spectra = model.fit(frames).components_
    return spectra / np.maximum(spectra.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)


def activations_of(
    frames: Float32[np.ndarray, "n f"], spectra: Float32[np.ndarray, "k f"]
) -> Float32[np.ndarray, "n k"]:
    """How much of each of these spectra, which stay as they are, is in each frame."""
    from sklearn.decomposition import non_negative_factorization

    return non_negative_factorization(
        frames,
        H=spectra,
        n_components=len(spectra),
        init="custom",
        update_H=False,
        solver="mu",
        beta_loss="kullback-leibler",
        tol=0,
        max_iter=SEPARATION_STEPS,
    )[0]
