"""The network of the objective `weak_labels`: the bases of a mixture to a score of each label for each of them.

    network = WeakLabelsNetwork(settings, labels=("vn", "vc"), sample_rate=8000)
    bases = bases_of(mixture, 8, sample_rate=8000)          # "b m f"
    scores = network(bases)                                 # "b m f" -> "b m i"
    scores.amax(1)                                          # of the mixtures
    network.predict({"mixture": mixture})["vn"]             # the label's share of all scores, " b"

The multi-instance multi-label network of Gao, Feris and Grauman 2018 (section 3.3): one hidden layer for each basis
alone, MAPS scores for each label, of which the highest counts, and of a mixture's bases the one with the highest score.
Layer normalisation takes the place of batch normalisation, so that no example depends on others. A second one, with
ReLU, after the scores is left out: hinges between scores need no floor, and a score that is 0 has no gradient.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from vimss.baselines.nmf import learn_spectra, magnitudes
from vimss.baselines.spectrogram import window_of
from vimss.model.interface import Input
from vimss.train.config import Settings

HIDDEN = 1024
SOUND_FEATURES = 128
"""Numbers of a second of sound, as YouTube-8M has them."""
MAPS = 4
"""Scores of a label, for the different sounds that it has; both as in the paper."""


def bases_of(mixture: Float[np.ndarray, "b c t"], count: int, sample_rate: int) -> Float32[Tensor, "b m f"]:
    """So many bases of each mixture, by NMF of its magnitudes; on the CPU."""
    return torch.from_numpy(np.stack([learn_spectra(magnitudes(sound, sample_rate), count) for sound in mixture]))


class WeakLabelsNetwork(nn.Module):
    """Bases in, a score of each label for each of them out."""

    def __init__(self, settings: Settings, labels: tuple[str, ...], sample_rate: int) -> None:
        super().__init__()
        self.settings = settings
        self.labels = labels
        self.sample_rate = sample_rate
        self.hears = settings.weak_labels.inputs == "bases"
        self.hidden = nn.Linear(window_of(sample_rate) // 2 + 1 if self.hears else SOUND_FEATURES, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.scores = nn.Linear(HIDDEN, len(labels) * MAPS)

    def forward(self, bases: Float[Tensor, "b m f"]) -> Float[Tensor, "b m i"]:
        """The highest of the MAPS scores; spectra count by their shape alone."""
        if self.hears:
            bases = bases / bases.amax(2, keepdim=True).clamp(min=torch.finfo(bases.dtype).tiny)
        scores = self.scores(torch.relu(self.norm(self.hidden(bases))))
        return scores.unflatten(2, (len(self.labels), MAPS)).amax(3)

    def matrices(self) -> list[nn.Parameter]:
        """Those of both layers."""
        layers = (self.hidden, self.scores)
        return [weight for layer in layers for weight in layer.parameters() if weight.ndim == 2]

    # What a registered model of it takes and gives

    def inputs(self) -> tuple[Input, ...]:
        """Sound of any length, or the features of any number of seconds of it."""
        if self.hears:
            return (Input("mixture", np.float32, (-1, -1, -1)),)
        return (Input("sound_features", np.float32, (-1, -1, SOUND_FEATURES)),)

    def outputs(self) -> tuple[Input, ...]:
        """A number from 0 to 1 for each label."""
        return tuple(Input(label, np.float32, (-1,)) for label in self.labels)

    @torch.no_grad()
    def predict(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The share of each label, by softmax over the labels' highest scores."""
        if self.hears:
            bases = bases_of(arrays["mixture"], self.settings.weak_labels.bases, self.sample_rate)
        else:
            bases = torch.from_numpy(np.ascontiguousarray(arrays["sound_features"]))
        shares = self(bases).amax(1).softmax(1)
        return dict(zip(self.labels, shares.T.numpy(), strict=True))
