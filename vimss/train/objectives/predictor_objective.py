"""What objectives that do not separate have in common: what they read of clips, their windows, and saved networks.

An objective derives from PredictorObjective and adds what it learns and its figure, the members of `FigureObjective`
that are not here. Its interface is an ObjectiveInterface, an Interface with another query.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor, nn

from vimss.errors import ModelError
from vimss.model.card import CARD
from vimss.model.interface import Interface
from vimss.shards.clip import Clip, Player
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import Recipe
from vimss.stream.batch import Batch
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Mixture, Source, Window
from vimss.train.config import Settings
from vimss.train.objectives.protocol import Predictor
from vimss.train.objectives.saved import load_network, new_network, save_network


class ObjectiveInterface(ABC):
    """A NetworkInterface that shows players as an Interface does, by a query of its own."""

    def __init__(self, settings: Settings, labels: tuple[str, ...], features: str = "", **changes: str) -> None:
        """`changes` are settings of the Interface in place of those of `model`."""
        self.inner = Interface(settings.model.model_copy(update=changes), labels, features)
        self.features = features
        self.uses_players = self.inner.uses_players
        self.example_seconds = self.inner.example_seconds

    @property
    def members(self) -> tuple[str, ...]:
        """Stems, which say who sounds, and what is shown of players."""
        return self.inner.members

    def of_player(self, clip: Clip, player: Player) -> np.ndarray:
        """The view of a player in a whole clip, an entry per picture."""
        return self.inner.of_player(clip, player)

    def prepare(self, manifest: Manifest, folder: str = "") -> str:
        """The folder beside the shards that is read, checked; empty where the shards hold all of it."""
        return self.inner.prepare(manifest, folder)

    def num_outputs(self, queries: int = 1) -> int:
        """One per label, or per query."""
        return self.inner.num_outputs(queries)

    @abstractmethod
    def query(
        self, mixture: Mixture, mixing: MixingConfig, rng: np.random.Generator
    ) -> tuple[list[Sequence[Source]], list[np.ndarray]]:
        """For each output, the sources whose sum is its target; and what is shown of each player."""

    def join(
        self, contexts: Sequence[Sequence[np.ndarray]]
    ) -> tuple[np.ndarray | None, Bool[np.ndarray, "b p"] | None]:
        """What is shown "b p ...", and which players are real; neither where nobody is shown."""
        return self.inner.join(contexts)


def evenly_spread(view: UInt8[np.ndarray, "v h w k"], seconds: float, every: float) -> UInt8[np.ndarray, "n h w k"]:
    """The pictures of a window of so many seconds, one in `every` and at least one; all of them where it is 0."""
    count = min(len(view), max(1, round(seconds / every))) if every else len(view)
    return view[((np.arange(count) + 0.5) * len(view) / count).astype(int)]


class PredictorObjective(ABC):
    """An objective that does not separate, but for what it learns and its figure."""

    must_match: tuple[str, ...] = ("objective", "sample_rate")
    """What a model that is loaded has in common with these settings and shards, of objective, labels, sample_rate."""

    def __init__(self, settings: Settings, recipe: Recipe, interface: ObjectiveInterface) -> None:
        self.settings = settings
        self.recipe = recipe
        self.interface = interface

    @property
    def validation_interface(self) -> ObjectiveInterface:
        """The same as in training."""
        return self.interface

    @abstractmethod
    def loss(self, network: Callable[..., Tensor], batch: Batch, totals: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """What it learns."""

    @abstractmethod
    def examine(self, network: nn.Module, batch: Batch, device: torch.device) -> Float64[Tensor, " k"]:
        """What its figure is made of."""

    def window(self) -> Window:
        """Stems and what is shown of the same time."""
        return self.window_around(self.settings.training.output_samples)

    def window_around(self, samples: int) -> Window:
        """The excerpt alone."""
        return Window(samples, samples, self.recipe.sample_rate)

    def build(self) -> nn.Module:
        """The network of the settings, with new weights."""
        return cast(nn.Module, new_network(self.settings, self.recipe.labels, self.recipe.sample_rate))

    def save(self, folder: Path, network: nn.Module, card: dict[str, Any]) -> None:
        """As `load_network` reads it."""
        assert isinstance(network, Predictor), "the network of this objective"  # noqa: S101
        save_network(folder, network, card)

    def load(self, folder: Path) -> nn.Module:
        """The network in a folder; ModelError where it does not match."""
        network = load_network(folder)
        has = {"objective": network.settings.objective, "labels": network.labels, "sample_rate": network.sample_rate}
        wanted = {
            "objective": self.settings.objective,
            "labels": self.recipe.labels,
            "sample_rate": self.recipe.sample_rate,
        }
        for key in self.must_match:
            if has[key] != wanted[key]:
                raise ModelError(
                    f"the model in {folder} must have {key}: {wanted[key]}",
                    got=f"{key}: {has[key]} in {CARD}",
                    fix="choose another model, or shards of the recipe that it was trained on",
                )
        return cast(nn.Module, network)

    def by_label(self, kept: Float64[Tensor, "m k"]) -> dict[str, float]:
        """None: the figure is of players."""
        return {}
