"""The objective `instruments`: which instruments play in a window, by the pictures of all players, the sound, or both.

    objective = Instruments(settings, recipe)
    logits = objective.build()(mixture, pictures, players)      # "b i", one number per label

Pre-training for networks that are conditioned on pictures. The players of a mixture and one who rests in it are shown,
and the mixture is what is heard; `instruments.inputs` says which of both the network gets (see `instruments_network`).
A label plays where it sounds. What is learned is a number per label, by binary cross entropy, each label by itself.

Its figure is mean average precision (mAP, that of AudioSet: Gemmeke et al. 2017; Hershey et al. 2017): of each label
that plays somewhere in the validation set, the precision at each of its mixtures when all are ordered by its number,
averaged; then the mean over labels. A constant guess has the share of the mixtures in which a label plays.

The vision network goes on in others: `training.start_from` with model.context: frames, or `vision.weights` with the
path of weights.safetensors, for `vimss features` and model.context: features.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor, nn

from vimss.model.interface import Interface
from vimss.shards.clip import Clip, Player
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import Recipe
from vimss.stream.batch import Batch
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Mixture, Source, Window
from vimss.train.config import Settings
from vimss.train.device import context_of, to_device
from vimss.train.objectives.instruments_network import InstrumentsNetwork
from vimss.train.objectives.saved import check_model, load_network, save_network


class PlayersShown:
    """Shows all players, also one who rests, where pictures are an input, and asks which labels sound."""

    def __init__(self, settings: Settings, recipe: Recipe) -> None:
        site = "decoder" if settings.instruments.sees else "none"
        looking = {"context": "frames", "site": site, "outputs": "instruments"}
        self.inner = Interface(settings.model.model_copy(update=looking), recipe.labels)
        self.seconds = settings.training.output_samples / recipe.sample_rate
        self.every = settings.instruments.every
        self.features = ""
        self.uses_players = settings.instruments.sees

    @property
    def members(self) -> tuple[str, ...]:
        """Stems, which say who sounds, and pictures where they are an input."""
        return self.inner.members

    def of_player(self, clip: Clip, player: Player) -> UInt8[np.ndarray, "v h w 3"]:
        """The player's pictures."""
        return self.inner.of_player(clip, player)

    def prepare(self, manifest: Manifest, folder: str = "") -> str:
        """Nothing: the shards hold the pictures."""
        return self.inner.prepare(manifest, folder)

    def num_outputs(self, queries: int = 1) -> int:
        """One per label."""
        return self.inner.num_outputs(queries)

    def query(
        self, mixture: Mixture, mixing: MixingConfig, rng: np.random.Generator
    ) -> tuple[list[Sequence[Source]], list[np.ndarray]]:
        """Of each label what sounds of it; and the pictures of all players, in random order."""
        targets, views = self.inner.query(mixture, mixing, rng)
        if not self.uses_players:
            return targets, []
        views = [*views, *(player.view for player in mixture.distractors if player.view is not None)]
        return targets, [self.spread(views[index]) for index in rng.permutation(len(views))]

    def spread(self, view: UInt8[np.ndarray, "v h w 3"]) -> UInt8[np.ndarray, "n h w 3"]:
        """A player's pictures, one in `instruments.every` seconds, evenly spread over the window."""
        count = len(view) if not self.every else min(len(view), max(1, round(self.seconds / self.every)))
        return view[((np.arange(count) + 0.5) * len(view) / count).astype(int)]

    def join(
        self, contexts: Sequence[Sequence[np.ndarray]]
    ) -> tuple[np.ndarray | None, Bool[np.ndarray, "b p"] | None]:
        """Pictures "b p v h w 3", and which players are real; neither where the sound is the only input."""
        return self.inner.join(contexts)


class Instruments:
    """Multi-label recognition of instruments by their players' pictures, their sound, or both."""

    def __init__(self, settings: Settings, recipe: Recipe, features: str = "") -> None:
        self.chosen = settings
        self.recipe = recipe
        self.interface = PlayersShown(settings, recipe)

    def window(self) -> Window:
        """Pictures and stems of the same time."""
        return self.window_around(self.chosen.training.output_samples)

    def window_around(self, samples: int) -> Window:
        """The excerpt alone."""
        return Window(samples, samples, self.recipe.sample_rate)

    def build(self) -> nn.Module:
        """The network of the settings."""
        return InstrumentsNetwork(self.chosen, self.recipe.labels, self.recipe.sample_rate)

    def save(self, folder: Path, network: nn.Module, card: dict[str, Any]) -> None:
        """As `load_network` reads it."""
        assert isinstance(network, InstrumentsNetwork), "the network of this objective"  # noqa: S101
        save_network(folder, network, card)

    def load(self, folder: Path) -> nn.Module:
        """The network with the labels and the rate of these shards."""
        network = load_network(folder)
        wanted: dict[str, object] = {"objective": self.chosen.objective, "labels": self.recipe.labels}
        found: dict[str, object] = {"objective": network.settings.objective, "labels": network.labels}
        if self.chosen.instruments.hears:
            wanted["sample_rate"], found["sample_rate"] = self.recipe.sample_rate, network.sample_rate
        check_model(folder, found, wanted)
        assert isinstance(network, InstrumentsNetwork), "the network of this objective"  # noqa: S101
        return network

    def totals(self, batch: Batch) -> Float64[np.ndarray, " n"]:
        """Labels of all examples."""
        return np.array([batch.present.size], np.float64)

    def loss(self, network: Callable[..., Tensor], batch: Batch, totals: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Binary cross entropy, a mean over examples and labels."""
        logits = network(to_device(batch.mixture, totals.device), *context_of(batch, totals.device)).float()
        present = to_device(batch.present, totals.device).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, present, reduction="sum") / totals[0]

    def examine(self, network: nn.Module, batch: Batch, device: torch.device) -> Float64[Tensor, " k"]:
        """The number of each label, then whether it plays."""
        logits = network(to_device(batch.mixture, device), *context_of(batch, device))[0].cpu().double()
        return torch.cat([logits, torch.from_numpy(batch.present[0]).double()])

    def value(self, kept: Float64[Tensor, "m k"]) -> float:
        """The mean average precision; NaN where no label plays, or a number is not finite."""
        scores, present = (part.numpy() for part in kept.chunk(2, dim=1))
        found = average_precision(scores, present > 0)[present.any(axis=0)]
        return float(found.mean()) if found.size else float("nan")

    def by_label(self, kept: Float64[Tensor, "m k"]) -> dict[str, float]:
        """The average precision of each label that plays somewhere."""
        scores, present = (part.numpy() for part in kept.chunk(2, dim=1))
        found = average_precision(scores, present > 0)
        return {
            label: float(value)
            for label, value in zip(self.recipe.labels, found, strict=True)
            if value > 0 or np.isnan(value)
        }

    def guess(self, kept: Float64[Tensor, "m k"]) -> Float64[Tensor, "m k"]:
        """The same number everywhere."""
        scores, present = kept.chunk(2, dim=1)
        return torch.cat([torch.zeros_like(scores), present], dim=1)


def average_precision(
    scores: Float64[np.ndarray, "m i"], present: Bool[np.ndarray, "m i"]
) -> Float64[np.ndarray, " i"]:
    """Of each label the mean, over the mixtures where it plays, of the precision among all with a number as high.

    Mixtures of equal numbers count as one step, so that a constant gives the share in which the label plays. A label
    that plays nowhere has 0, and all have NaN where a number is not finite.
    """
    if not np.isfinite(scores).all():
        return np.full(scores.shape[1], np.nan)
    order = np.argsort(-scores, axis=0, kind="stable")
    scores, present = np.take_along_axis(scores, order, 0), np.take_along_axis(present, order, 0)
    places = np.arange(len(scores))[:, None]
    # The last place with the same number, looked for from the end.
    ends = np.concatenate([scores[1:] != scores[:-1], np.ones_like(present[:1])])
    last = np.minimum.accumulate(np.where(ends, places, len(scores))[::-1], axis=0)[::-1]
    precision = np.take_along_axis(present.cumsum(axis=0) / (places + 1), last, 0)
    return (precision * present).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
