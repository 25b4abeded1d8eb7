"""The objective `instruments`: which instruments play in a window, seen in the pictures of all players.

    objective = Instruments(settings, recipe)
    logits = objective.build()(pictures, players)      # "b i", one number per label

Pre-training for networks that are conditioned on pictures. The players of a mixture and one who rests in it are shown;
a vision network looks at each picture, its features are averaged over the window, a linear layer gives a number per
label for each player, and the highest of all players counts: an instrument plays where somebody plays it. What is
learned is that number, by binary cross entropy, each label by itself.

Its figure is mean average precision (mAP, that of AudioSet: Gemmeke et al. 2017; Hershey et al. 2017): of each label
that plays somewhere in the validation set, the precision at each of its mixtures when all are ordered by its number,
averaged; then the mean over labels. A constant guess has the share of the mixtures in which a label plays.

The vision network goes on in others: `training.start_from` with model.context: frames, or `vision.weights` with the
path of weights.safetensors, for `vimss features` and model.context: features.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vimss.errors import ModelError
from vimss.model.card import CARD, WEIGHTS
from vimss.model.interface import Interface
from vimss.model.separator import read_card
from vimss.model.vision import Vision
from vimss.model.vision_config import VisionConfig
from vimss.shards.clip import Clip, Player
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import Recipe
from vimss.storage import atomic_write, sha256
from vimss.stream.batch import Batch
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Mixture, Source, Window
from vimss.train.config import Settings
from vimss.train.device import context_of, to_device

NAME = "instruments"


class InstrumentsByPicture(nn.Module):
    """Pictures of players in, a number per label out."""

    def __init__(self, config: VisionConfig, labels: tuple[str, ...]) -> None:
        """ModelError where weights of the vision network cannot be had."""
        super().__init__()
        self.config = config
        self.labels = labels
        self.vision = Vision(config)
        self.head = nn.Linear(config.feature_size, len(labels))

    def forward(self, pictures: UInt8[Tensor, "b p v h w 3"], players: Bool[Tensor, "b p"]) -> Float[Tensor, "b i"]:
        """Log-odds that each label plays; players who are not real are not looked at."""
        real = self.vision(pictures[players].unsqueeze(0))[0].mean(1)
        logits = self.head(real)
        padded = logits.new_full((*players.shape, len(self.labels)), -torch.inf).index_put((players,), logits)
        return padded.amax(1)

    def matrices(self) -> list[nn.Parameter]:
        """The linear layer's."""
        return [weight for weight in self.head.parameters() if weight.ndim == 2]


class PlayersShown:
    """Shows all players, also one who rests, and asks which labels sound."""

    def __init__(self, settings: Settings, labels: tuple[str, ...]) -> None:
        looking = {"context": "frames", "site": "decoder", "outputs": "instruments"}
        self.inner = Interface(settings.model.model_copy(update=looking), labels)
        self.features = ""
        self.uses_players = True

    @property
    def members(self) -> tuple[str, ...]:
        """Stems, which say who sounds, and pictures."""
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
        views = [*views, *(player.view for player in mixture.distractors if player.view is not None)]
        return targets, [views[index] for index in rng.permutation(len(views))]

    def join(
        self, contexts: Sequence[Sequence[np.ndarray]]
    ) -> tuple[np.ndarray | None, Bool[np.ndarray, "b p"] | None]:
        """Pictures "b p v h w 3", and which players are real."""
        return self.inner.join(contexts)


class Instruments:
    """Multi-label recognition of instruments by their players' pictures."""

    def __init__(self, settings: Settings, recipe: Recipe, features: str = "") -> None:
        self.chosen = settings
        self.recipe = recipe
        self.interface = PlayersShown(settings, recipe.labels)

    def window(self) -> Window:
        """Pictures and stems of the same time."""
        return self.window_around(self.chosen.training.output_samples)

    def window_around(self, samples: int) -> Window:
        """The excerpt alone."""
        return Window(samples, samples, self.recipe.sample_rate)

    def build(self) -> nn.Module:
        """The vision network of the settings, with a linear layer."""
        return InstrumentsByPicture(self.chosen.model.vision, self.recipe.labels)

    def save(self, folder: Path, network: nn.Module, card: dict[str, Any]) -> None:
        """As a separator is saved, with the objective's name, by which others refuse it."""
        assert isinstance(network, InstrumentsByPicture), "the network of this objective"  # noqa: S101
        with atomic_write(folder) as temporary:
            temporary.mkdir()
            state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
            save_file(state, temporary / WEIGHTS)
            description = {
                "objective": NAME,
                "config": network.config.model_dump(mode="json"),
                "labels": list(network.labels),
                "sample_rate": self.recipe.sample_rate,
                "sha256": sha256(temporary / WEIGHTS),
                "card": card,
            }
            (temporary / CARD).write_text(json.dumps(description, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> nn.Module:
        """The network with the labels of these shards, after a check of its digest."""
        about, path = read_card(folder), folder / WEIGHTS
        wanted = {
            "objective": NAME,
            "labels": list(self.recipe.labels),
            "sha256": sha256(path) if path.is_file() else "",
        }
        for key, value in wanted.items():
            if about.get(key) != value:
                raise ModelError(
                    f"the model in {folder} must have {key}: {value}",
                    got=f"{key}: {about.get(key)} in {CARD}",
                    fix="choose another model, or copy this one again",
                )
        # Everything is in the file: nothing may be downloaded again, nor read from a path of another machine.
        config = self.chosen.model.vision.model_copy(update={"weights": "random"})
        network = InstrumentsByPicture(config, self.recipe.labels)
        network.load_state_dict(load_file(path))
        network.config = self.chosen.model.vision
        return network.eval()

    def totals(self, batch: Batch) -> Float64[np.ndarray, " n"]:
        """Labels of all examples."""
        return np.array([batch.present.size], np.float64)

    def loss(self, network: Callable[..., Tensor], batch: Batch, totals: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Binary cross entropy, a mean over examples and labels."""
        logits = network(*context_of(batch, totals.device)).float()
        present = to_device(batch.present, totals.device).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, present, reduction="sum") / totals[0]

    def examine(self, network: nn.Module, batch: Batch, device: torch.device) -> Float64[Tensor, " k"]:
        """The number of each label, then whether it plays."""
        logits = network(*context_of(batch, device))[0].double().cpu()
        return torch.cat([logits, torch.from_numpy(batch.present[0]).double()])

    def value(self, kept: Float64[Tensor, "m k"]) -> float:
        """The mean average precision."""
        scores, present = (part.numpy() for part in kept.chunk(2, dim=1))
        found = [average_precision(scores[:, i], present[:, i] > 0) for i in np.flatnonzero(present.any(0))]
        return float(np.mean(found))


def average_precision(scores: Float64[np.ndarray, " m"], present: Bool[np.ndarray, " m"]) -> float:
    """The mean, over the mixtures where a label plays, of the precision among all with a number as high.

    Mixtures of equal numbers count as one step, so that a constant gives the share in which the label plays.
    """
    if not np.isfinite(scores).all():
        return float("nan")
    return float(np.mean([present[scores >= score].mean() for score in scores[present]]))
