"""The objective `weak_labels`: which part of a mixture is of which label, learned from the labels of whole mixtures.

    objective = WeakLabels(settings, recipe)
    scores = objective.build()(bases)                           # "b m i": each label for each basis of a mixture
    dictionaries = objective.dictionaries(network, batches)     # for vimss.baselines.nmf.InformedNMF

After Gao, Feris and Grauman 2018, "Learning to Separate Object Sounds by Watching Unlabeled Video". The magnitudes of a
mixture are a sum of few spectra, its bases (NMF by the Kullback-Leibler divergence). A network gives each basis a score
for each label; the highest score of all bases is that of the mixture, and the scores of the labels that it has must be
higher by 1 than those of all others (the multi-label hinge loss of the paper). No stem is used: the labels are what the
pictures of the players are named by the network that comes with VIMSS, where a class of probability NAMED or the most
likely one counts, as in the paper. So they are wrong where it is; `weak_labels.labels: corpus` has the true ones.

Whoever sounds is shown, and nobody who rests. Afterwards a label owns the bases that have its highest scores, among the
labels of their mixture. These are its dictionary, which stays as it is while other mixtures are separated.

With `weak_labels.network: two_stream` (Parekh et al. 2018 and 2019) the players' pictures are parts beside the bases.
Scores are from 0 to 1 there, half of their sum is that of the mixture, and the loss is its binary cross entropy. No
dictionary is needed: a mixture's own bases are shared out among the labels that sound, as masks that sum to 1 (see
`WeakLabelsNetwork.separate`).

With `weak_labels.inputs: sound_features` the seconds of a video take the place of bases, by the features that some
corpora have of them, and the video's labels are given. There is no sound then, and nothing to separate.

Its figure is the mean average precision of the true labels, as that of `instruments`. Beside it stand the share of the
energy of all bases that is truly of the label with the highest score, among those that play; its chance, the same
without scores; its ceiling, with the best label of each basis; and how many of the labels that were given are true.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor, nn

from vimss.baselines.nmf import MOST_FRAMES, SPECTRA, Dictionaries, activations_of, learn_spectra, magnitudes
from vimss.baselines.spectrogram import spectrum_of
from vimss.errors import ConfigError, DataError
from vimss.model.contexts.labels import one_hot
from vimss.model.pretrained import pretrained_folder
from vimss.model.separator import read_card
from vimss.shards.clip import Clip, Player
from vimss.shards.instruments import label_named
from vimss.shards.recipe import Recipe
from vimss.stream.batch import Batch
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Mixture, Source, Window
from vimss.train.config import Settings
from vimss.train.device import context_of, to_device
from vimss.train.objective_settings import InstrumentsConfig
from vimss.train.objectives.instruments import Instruments, PlayersInterface
from vimss.train.objectives.instruments_network import InstrumentsNetwork
from vimss.train.objectives.saved import load_network
from vimss.train.objectives.weak_labels_network import SOUND_FEATURES, bases_of, of_mixtures

NAMER = "chamber"
"""The model that comes with VIMSS and names the pictures."""

NAMED = 0.3
"""Probability at which a label is given."""

SURE = 1e-6
"""Least probability of a label, and of its absence."""

PICTURES = 2
"""Of each player, in a window: who holds which instrument does not change."""

BESIDE = (
    "energy of the bases that is of their label",
    "the same by chance",
    "the same at best",
    "given labels that are true",
)


class SoundingPlayers(PlayersInterface):
    """Shows those who sound, where their pictures give the labels or get scores, and nobody elsewhere."""

    def __init__(self, settings: Settings, recipe: Recipe) -> None:
        seconds = settings.training.output_samples / recipe.sample_rate
        given = settings.weak_labels
        shows = given.labels == "pictures" or given.inputs == "sound_features" or given.network == "two_stream"
        inputs = "pictures" if shows else "sound"
        shown = InstrumentsConfig.model_validate({"inputs": inputs, "every": seconds / PICTURES})
        super().__init__(settings.model_copy(update={"instruments": shown}), recipe)

    def query(
        self, mixture: Mixture, mixing: MixingConfig, rng: np.random.Generator
    ) -> tuple[list[Sequence[Source]], list[np.ndarray]]:
        """Of each label what sounds of it, and the pictures of the players who sound."""
        targets, views = super().query(mixture, mixing, rng)
        return targets, views[: len(mixture.sources)]

    def labels_shown(self, mixture: Mixture) -> list[int]:
        """The label of each player who is shown."""
        return super().labels_shown(mixture)[: len(mixture.sources)]


class SoundFeaturesInterface(SoundingPlayers):
    """Shows the features of the sound of each second of a player's video, each beside all labels of the video."""

    @property
    def members(self) -> tuple[str, ...]:
        """The features, and stems where there are some."""
        return ("audio", "sound_features")

    def of_player(self, clip: Clip, player: Player) -> Float32[np.ndarray, "v d"]:
        """The features and, in the last columns, 1 for each label."""
        features = player.sound_features
        if features is None or features.shape[1] != SOUND_FEATURES:
            raise DataError(
                f"weak_labels.inputs: sound_features needs {SOUND_FEATURES} numbers of each second of sound",
                got=f"{'none' if features is None else features.shape[1]} of '{player.part}' in {clip.key}",
                fix="choose shards of youtube8m, or set weak_labels.inputs: bases",
            )
        labels = one_hot([other.instrument for other in clip.players], self.inner.labels).max(axis=0)
        return np.concatenate([features, np.broadcast_to(labels, (len(features), len(labels)))], 1, dtype=np.float32)

    def spread(self, view: Float32[np.ndarray, "v d"]) -> Float32[np.ndarray, "v d"]:
        """All seconds."""
        return view


class WeakLabels(Instruments):
    """Multi-instance multi-label learning of the bases of mixtures."""

    def __init__(self, settings: Settings, recipe: Recipe, features: str = "") -> None:
        super().__init__(settings, recipe)
        self.hears = settings.weak_labels.inputs == "bases"
        self.two_stream = settings.weak_labels.network == "two_stream"
        self.interface = (SoundingPlayers if self.hears else SoundFeaturesInterface)(settings, recipe)
        self.must_match = ("objective", "labels", "sample_rate")

    @cached_property
    def namer(self) -> InstrumentsNetwork:
        """The network that names the pictures."""
        network = load_network(_namer_folder())
        assert isinstance(network, InstrumentsNetwork), "a model of PRETRAINED"  # noqa: S101
        return network.requires_grad_(False)

    @cached_property
    def known(self) -> dict[int, int]:
        """The number of each label that the pictures can be named, and that of the namer's output."""
        own = tuple(read_card(_namer_folder())["labels"])
        names = [label_named(label, own) for label in self.recipe.labels]
        return {number: own.index(name) for number, name in enumerate(names) if name is not None}

    def window(self) -> Window:
        """Stems and pictures of the same time; ConfigError where no picture can be named one of the labels."""
        if self.settings.weak_labels.labels == "pictures" and not self.known:
            raise ConfigError(
                "weak_labels.labels: pictures needs shards with an instrument that the pictures can be named",
                got=f"the labels {', '.join(self.recipe.labels)}",
                fix="set weak_labels.labels: corpus",
            )
        return super().window()

    def totals(self, batch: Batch) -> Float64[np.ndarray, " n"]:
        """Examples."""
        return np.array([len(batch.mixture)], np.float64)

    def loss(self, network: Callable[..., Tensor], batch: Batch, totals: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """The multi-label hinge loss, or of `two_stream` the binary cross entropy over labels; a mean over examples."""
        given = self.labels_given(batch, totals.device)
        parts = self._scores(network, self._bases(batch), batch, totals.device)
        scores = of_mixtures(parts, self.two_stream)
        if self.two_stream:
            # Rounding may bring a sum of probabilities above 1.
            odds = torch.logit(scores, eps=SURE)
            return F.binary_cross_entropy_with_logits(odds, given.to(odds.dtype), reduction="sum") / totals[0]
        hinges = torch.relu(1 - (scores[:, :, None] - scores[:, None, :]))
        pairs = given[:, :, None] & ~given[:, None, :]
        return (hinges * pairs).sum() / scores.shape[1] / totals[0]

    def _bases(self, batch: Batch) -> Float[Tensor, "b m f"]:
        """What gets scores: of each mixture its bases, or the features of all seconds of its videos."""
        if self.hears:
            return bases_of(batch.mixture, self.settings.weak_labels.bases, self.recipe.sample_rate)
        assert batch.context is not None, "features are shown"  # noqa: S101
        return torch.from_numpy(batch.context[..., :SOUND_FEATURES]).flatten(1, 2)

    def _scores(
        self, network: Callable[..., Tensor], bases: Float[Tensor, "b m f"], batch: Batch, device: torch.device
    ) -> Float[Tensor, "b k i"]:
        """The scores of all bases that are real: mixtures of few videos are filled up. Then those of the regions."""
        if self.two_stream:
            return network(bases.to(device), *context_of(batch, device)).float()
        scores = network(bases.to(device)).float()
        if self.hears:
            return scores
        assert batch.context is not None and batch.players is not None, "features are shown"  # noqa: S101
        real = to_device(batch.players, device).repeat_interleave(batch.context.shape[2], 1)
        return scores.masked_fill(~real[..., None], -torch.inf)

    def _playing(self, batch: Batch) -> Bool[np.ndarray, "b i"]:
        """The true labels: of what sounds, or of the videos."""
        if self.hears:
            return batch.present
        assert batch.context is not None, "features are shown"  # noqa: S101
        shown: Bool[np.ndarray, "b i"] = batch.context[:, :, 0, SOUND_FEATURES:].max(axis=1) > 0
        return shown

    @torch.no_grad()
    def labels_given(self, batch: Batch, device: torch.device) -> Bool[Tensor, "b i"]:
        """The labels that each mixture is trained with."""
        pictures, players = context_of(batch, device)
        if self.settings.weak_labels.labels == "corpus" or pictures is None or players is None:
            return to_device(self._playing(batch), device)
        rows = self.namer.to(device)(None, pictures, players, each=True).float()
        shares = rows[:, list(self.known.values())].softmax(1)
        named = (shares >= NAMED) | (shares == shares.amax(1, keepdim=True))
        given = torch.zeros(batch.present.shape, dtype=torch.bool, device=device)
        player, label = named.nonzero().T
        given[players.nonzero()[player, 0], torch.tensor(list(self.known), device=device)[label]] = True
        return given

    def examine(self, network: nn.Module, batch: Batch, device: torch.device) -> Float64[Tensor, " k"]:
        """The score of each label, whether it plays, the values of BESIDE and their weights.

        Mixtures are compared by it, and `miml` is taught to compare scores within a mixture alone, so of its scores it
        is the logarithm of the label's share.
        """
        present, given = self._playing(batch)[0], self.labels_given(batch, device)[0].cpu().numpy()
        bases = self._bases(batch)
        scores = self._scores(network, bases, batch, device)[0].double().cpu()
        several = self.hears and present.sum() > 1
        shares = (0.0, 0.0, 0.0)
        if several:
            shares = self._energy_shares(batch, bases[0].numpy(), scores[: bases.shape[1]].numpy())
        beside = [*shares, float((given & present).sum()), float(several), float(given.sum())]
        found = of_mixtures(scores[None], self.two_stream)[0]
        if not self.two_stream:
            found = found.log_softmax(0)
        return torch.cat([found, torch.from_numpy(present).double(), torch.tensor(beside, dtype=torch.float64)])

    def _energy_shares(
        self, batch: Batch, bases: Float[np.ndarray, "m f"], scores: Float64[np.ndarray, "m i"]
    ) -> tuple[float, float, float]:
        """Of the energy of all bases that of the label with the highest score; by chance; and at best."""
        playing = np.flatnonzero(batch.present[0])
        activations = activations_of(magnitudes(batch.mixture[0], self.recipe.sample_rate), bases)
        stems = [np.abs(spectrum_of(stem, self.recipe.sample_rate)) ** 2 for stem in batch.targets[0, playing]]
        power = np.stack([np.concatenate(list(stem.swapaxes(1, 2))) for stem in stems])
        total = np.maximum(activations @ bases, np.finfo(np.float32).tiny)
        # The part of each bin that is explained by a basis, m, is as much of the power of each stem, i.
        energy = np.einsum("nm,mf,inf->mi", activations, bases, power / total, optimize=True)
        own = np.take_along_axis(energy, scores[:, playing].argmax(1)[:, None], 1)
        return float(own.sum() / energy.sum()), 1 / len(playing), float(energy.max(1).sum() / energy.sum())

    def beside(self, kept: Float64[Tensor, "m k"]) -> dict[str, float]:
        """Means over mixtures of several labels, and over the labels that were given."""
        sums = self._parts(kept)[2].sum(axis=0)
        weights = (sums[4], sums[4], sums[4], sums[5])
        values = zip(sums[:4], weights, strict=True)
        return {name: float(v / w) if w else float("nan") for name, (v, w) in zip(BESIDE, values, strict=True)}

    def guess(self, kept: Float64[Tensor, "m k"]) -> Float64[Tensor, "m k"]:
        """The same score everywhere."""
        labels = len(self.recipe.labels)
        guessed = kept.clone()
        guessed[:, :labels] = 0
        guessed[:, 2 * labels] = guessed[:, 2 * labels + 1]
        return guessed

    @torch.no_grad()
    def dictionaries(self, network: nn.Module, batches: Iterable[Batch]) -> Dictionaries:
        """The spectra of each label: of the bases that it owns in these mixtures, the surest ones, as few spectra.

        Where a label owns none, `Dictionaries.of` gives those of the others. DataError where no label owns any.
        """
        assert self.hears and not self.two_stream, "features are no spectra, and two streams give masks"  # noqa: S101
        owned: dict[str, list[tuple[float, np.ndarray]]] = {}
        for batch in batches:
            bases, given = self._bases(batch), self.labels_given(batch, torch.device("cpu"))
            scores = network(bases).masked_fill(~given[:, None], -torch.inf)
            # A label alone owns all bases, and is as sure of each as it can be.
            best = F.pad(scores, (0, 1), value=-torch.inf).topk(2, dim=2)
            margins = best.values[..., 0] - best.values[..., 1]
            for example, number in itertools.product(given.any(1).nonzero()[:, 0].tolist(), range(bases.shape[1])):
                label = self.recipe.labels[int(best.indices[example, number, 0])]
                owned.setdefault(label, []).append((float(margins[example, number]), bases[example, number].numpy()))
        if not owned:
            raise DataError(
                "dictionaries need mixtures to which some label is given", got="none", fix="give more of them"
            )
        spectra = {}
        for label, found in owned.items():
            surest = sorted(found, key=lambda one: one[0], reverse=True)[:MOST_FRAMES]
            frames = np.stack([basis for _, basis in surest]).astype(np.float32)
            spectra[label] = learn_spectra(frames) if len(frames) > SPECTRA else frames
        return Dictionaries(self.recipe.sample_rate, spectra)


def _namer_folder() -> Path:
    folder = pretrained_folder(NAMER)
    assert folder is not None, "a name of PRETRAINED"  # noqa: S101
    return folder
