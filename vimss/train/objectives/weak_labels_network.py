"""The network of the objective `weak_labels`: the bases of a mixture to a score of each label for each of them.

    network = WeakLabelsNetwork(settings, labels=("vn", "vc"), sample_rate=8000)
    bases = bases_of(mixture, 8, sample_rate=8000)          # "b m f"
    scores = network(bases)                                 # "b m f" -> "b m i"
    of_mixtures(scores, two_stream=False)                   # "b i"
    network.predict({"mixture": mixture})["vn"]             # the label's share of all scores, " b"

`miml` is the multi-instance multi-label network of Gao, Feris and Grauman 2018 (section 3.3): one hidden layer for each
basis alone, MAPS scores for each label, of which the highest counts, and of a mixture's bases the one with the highest
score. Layer normalisation takes the place of batch normalisation, so that no example depends on others. A second one,
with ReLU, after the scores is left out: hinges between scores need no floor, and a score that is 0 has no gradient.

`two_stream` is after Parekh et al. 2018, "Weakly Supervised Representation Learning for Unsynchronized Audio-Visual
Events", and 2019, "Identify, Locate and Separate": regions of the pictures and NMF components of the sound, each kind
with a network of its own, get scores as regions do in WSDDN (Bilen and Vedaldi 2016), and sums of them are those of the
recording. A region is a player's picture, and a component has its spectrum, where the papers have region proposals and
the component's sound by VGGish. What the components are said to be masks the mixture (`separate`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn

from vimss.baselines.nmf import activations_of, learn_spectra, magnitudes, masked_by_parts
from vimss.baselines.spectrogram import window_of
from vimss.model.interface import Input
from vimss.model.vision import Vision
from vimss.train.config import Settings

HIDDEN = 1024
SOUND_FEATURES = 128
"""Numbers of a second of sound, as YouTube-8M has them."""
MAPS = 4
"""Scores of a label, for the different sounds that it has; both as in the paper."""


def bases_of(mixture: Float[np.ndarray, "b c t"], count: int, sample_rate: int) -> Float32[Tensor, "b m f"]:
    """So many bases of each mixture, by NMF of its magnitudes; on the CPU."""
    return torch.from_numpy(np.stack([learn_spectra(magnitudes(sound, sample_rate), count) for sound in mixture]))


def _shapes(bases: Float[Tensor, "b m f"]) -> Float[Tensor, "b m f"]:
    """Spectra with a peak of 1: how much of each there is does not count."""
    return bases / bases.amax(2, keepdim=True).clamp(min=torch.finfo(bases.dtype).tiny)


def of_mixtures(scores: Float[Tensor, "b k i"], two_stream: bool) -> Float[Tensor, "b i"]:
    """The highest score of each label; of two streams the mean of what its components and its regions sum to."""
    return scores.sum(1) / 2 if two_stream else scores.amax(1)


class TwoStream(nn.Module):
    """Instances in, a score of each label for each of them out: 0 or more, and 1 at most in the sum over instances.

    The product of what each instance is, a softmax over labels, and of where each label is, a softmax over instances.
    """

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.classes = nn.Linear(HIDDEN, labels)
        self.localisation = nn.Linear(HIDDEN, labels)

    def forward(
        self, instances: Float[Tensor, "b m d"], real: Bool[Tensor, "b m"] | None = None
    ) -> Float[Tensor, "b m i"]:
        """The scores; those of instances that are not real are 0, and all are real where not given."""
        x = self._features(instances)
        where = self.localisation(x)
        if real is not None:
            where = where.masked_fill(~real[..., None], -torch.inf)
        return self.classes(x).softmax(2) * where.softmax(1)

    def what(self, instances: Float[Tensor, "b m d"]) -> Float[Tensor, "b m i"]:
        """What each instance is: the probabilities of the labels."""
        return self.classes(self._features(instances)).softmax(2)

    def _features(self, instances: Float[Tensor, "b m d"]) -> Float[Tensor, "b m w"]:
        return torch.relu(self.norm(self.hidden(instances)))


class WeakLabelsNetwork(nn.Module):
    """Bases in, for `two_stream` pictures too, a score of each label for each of them out."""

    def __init__(self, settings: Settings, labels: tuple[str, ...], sample_rate: int) -> None:
        super().__init__()
        self.settings = settings
        self.labels = labels
        self.sample_rate = sample_rate
        self.hears = settings.weak_labels.inputs == "bases"
        self.sees = settings.weak_labels.network == "two_stream"
        width = window_of(sample_rate) // 2 + 1 if self.hears else SOUND_FEATURES
        if self.sees:
            self.vision = Vision(settings.model.vision)
            self.regions = TwoStream(settings.model.vision.feature_size, len(labels))
            self.components = TwoStream(width, len(labels))
        else:
            self.hidden = nn.Linear(width, HIDDEN)
            self.norm = nn.LayerNorm(HIDDEN)
            self.scores = nn.Linear(HIDDEN, len(labels) * MAPS)

    def forward(
        self,
        bases: Float[Tensor, "b m f"],
        pictures: UInt8[Tensor, "b p v h w 3"] | None = None,
        players: Bool[Tensor, "b p"] | None = None,
    ) -> Float[Tensor, "b k i"]:
        """The scores of the bases; with `two_stream`, which needs pictures, those of the players' regions after them.

        Spectra count by their shape alone. Players who are not real have no region; all are real where not given.
        """
        if self.hears:
            bases = _shapes(bases)
        if self.sees:
            assert pictures is not None, "its interface shows players"  # noqa: S101
            features = self.vision(pictures).mean(2)
            return torch.cat([self.components(bases), self.regions(features, players)], dim=1)
        scores = self.scores(torch.relu(self.norm(self.hidden(bases))))
        return scores.unflatten(2, (len(self.labels), MAPS)).amax(3)

    @torch.no_grad()
    def separate(
        self, mixture: Float[np.ndarray, "c t"], labels: Sequence[str], bases: int
    ) -> Float[np.ndarray, "s c t"]:
        """The mixture, a sum of so many bases, through a ratio mask for each of these labels, those that sound.

        Of `two_stream`: each component is shared out in proportion to what it is, so that the masks sum to 1. By whole
        scores 64 mixtures of valid were separated worse by 0.4 dB (experiments/weak_labels.md): where a label is heard
        most easily does not say how much of it is there.
        """
        assert self.sees, "scores of miml are no shares"  # noqa: S101
        spectra = bases_of(mixture[None], bases, self.sample_rate)
        what = self.components.what(_shapes(spectra))[0][:, [self.labels.index(label) for label in labels]].numpy()
        shares = what / np.maximum(what.sum(1, keepdims=True), np.finfo(np.float32).tiny)
        activations = activations_of(magnitudes(mixture, self.sample_rate), spectra[0].numpy())
        parts = [(activations * share) @ spectra[0].numpy() for share in shares.T]
        return masked_by_parts(mixture, parts, self.sample_rate)

    def matrices(self) -> list[nn.Parameter]:
        """Those of all layers but the vision network's."""
        streams = (self.regions, self.components) if self.sees else (self.hidden, self.scores)
        return [weight for stream in streams for weight in stream.parameters() if weight.ndim == 2]

    # What a registered model of it takes and gives

    def inputs(self) -> tuple[Input, ...]:
        """Sound of any length, for `two_stream` pictures of players too; or the features of any number of seconds."""
        if self.hears:
            pictures = Input("frames", np.uint8, (-1, -1, -1, -1, -1, 3))
            return (Input("mixture", np.float32, (-1, -1, -1)), *((pictures,) if self.sees else ()))
        return (Input("sound_features", np.float32, (-1, -1, SOUND_FEATURES)),)

    def outputs(self) -> tuple[Input, ...]:
        """A number from 0 to 1 for each label."""
        return tuple(Input(label, np.float32, (-1,)) for label in self.labels)

    @torch.no_grad()
    def predict(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The share of each label, by softmax over the labels' highest scores; with `two_stream` its probability."""
        if self.hears:
            bases = bases_of(arrays["mixture"], self.settings.weak_labels.bases, self.sample_rate)
        else:
            bases = torch.from_numpy(np.ascontiguousarray(arrays["sound_features"]))
        pictures = torch.from_numpy(np.ascontiguousarray(arrays["frames"])) if self.sees else None
        found = of_mixtures(self(bases, pictures), self.sees)
        shares = found if self.sees else found.softmax(1)
        return dict(zip(self.labels, shares.T.numpy(), strict=True))
