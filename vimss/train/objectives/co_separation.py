"""The objective `co_separation`: stems from videos of several players whose own stems are never compared.

    objective = CoSeparation(settings, recipe)
    share = objective.loss(objective.build(), batch, totals)

After Gao and Grauman (2019), "Co-separating sounds of visual objects". The sound of two videos is mixed, and every
player of both is queried. What is compared is the sum of the estimates of a video's players with that video's sound:
masks weigh one spectrum, so that the estimates sum as the masks do. A classifier that is trained along must name each
player's instrument from the estimate alone, so that each becomes the sound of its own player:

    loss = `training.loss` of the sums + `consistency_weight` times the cross-entropy of the classifier

The default weight is 1, as in the options of their code (github.com/rhgao/co-separation); the command in their README
sets 0.05.

Their network is `{network: spectrogram_u_net, frequency: log, site: bottleneck, op: concat}`: the vector of a player is
laid beside the U-Net's deepest layer, at every time and frequency, and masks are ratio masks. Any other network with
queries may be trained by it.

Two videos are the two halves of the players of a mixture, in the order in which they were drawn: their stems are used
for the sums alone, and their order is random. Corpora of videos without any stems are not read yet.

Its figure is that of `separation`, which looks at single stems, so that both objectives can be compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Num
from torch import Tensor, nn

from vimss.model.conditioning import FrameGrid
from vimss.model.interface import Interface, shown_views
from vimss.model.networks.spectra.transform import Stft, log_frequency
from vimss.model.networks.spectra.u_net import COMPRESSION
from vimss.model.separator import Separator, save_separator
from vimss.shards.recipe import Recipe
from vimss.stream.batch import Batch
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Mixture, Source
from vimss.train.config import Settings
from vimss.train.device import context_of, to_device
from vimss.train.objectives.separation import Separation, Totals

CLASSIFIER = "classifier"
"""Name of the classifier's weights in training; a saved model has none."""

N_FFT, HOP, BANDS = 512, 128, 64
"""Of the spectrogram that the classifier sees."""

WIDTHS = (16, 32, 64, 64)
"""Channels of its convolutions, each of which halves time and frequency."""

QUIET = 1e-2
"""Added to the deviation of a spectrogram: of silence, nothing is amplified."""


@dataclass(frozen=True)
class PlayersQueried(Interface):
    """Queries every player of a mixture once, those of the first video first, and says what they play."""

    def query(
        self, mixture: Mixture, mixing: MixingConfig, rng: np.random.Generator
    ) -> tuple[list[Sequence[Source]], list[np.ndarray]]:
        """The stem and the view of each player, in the order of the mixture."""
        players = mixture.sources[: mixing.queries]
        return [(player,) for player in players], shown_views(players)

    def labels_shown(self, mixture: Mixture) -> list[int]:
        """The number of each player's label."""
        return [self.labels.index(player.label) for player in mixture.sources]


class SoundClassifier(nn.Module):
    """Sound in, a number per label out; unlike that of `instruments`, gradients pass through its spectrogram."""

    to_bands: Float[Tensor, "k f"]

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.stft = Stft(N_FFT, HOP)
        self.register_buffer("to_bands", log_frequency(N_FFT // 2 + 1, BANDS)[0], persistent=False)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, width, 3, stride=2, padding=1)
            for before, width in zip((1, *WIDTHS), WIDTHS, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in WIDTHS)
        self.head = nn.Linear(WIDTHS[-1], labels)

    def forward(self, sound: Float[Tensor, "n c u"]) -> Float[Tensor, "n i"]:
        """Log-odds of the labels; channels are mixed."""
        mono = F.pad(sound.mean(1), (0, -sound.shape[-1] % HOP))
        x = torch.log1p(COMPRESSION * (self.stft(mono).abs() @ self.to_bands.T))[:, None]
        # How loud an estimate is says nothing about who plays.
        x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + QUIET)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        return self.head(x.mean((2, 3)))


class CoSeparator(Separator):
    """A Separator with the classifier that trains it."""

    def __init__(self, settings: Settings, recipe: Recipe) -> None:
        super().__init__(settings.model, recipe.labels, recipe.sample_rate)
        self.classifier = SoundClassifier(len(recipe.labels))

    def forward(
        self,
        mixture: Float[Tensor, "b c t"],
        context: Num[Tensor, "..."] | None = None,
        players: Bool[Tensor, "b p"] | None = None,
        frames_at: FrameGrid | None = None,
        classify: bool = False,
    ) -> Float[Tensor, "b s *n"]:
        """The estimates "b s c u"; to `classify`, "b s n": after the samples of each, a number per label."""
        estimates = super().forward(mixture, context, players, frames_at).float()
        if not classify:
            return estimates
        odds = self.classifier(estimates.flatten(0, 1)).float()
        return torch.cat([estimates.flatten(2), odds.unflatten(0, estimates.shape[:2])], dim=2)


class CoSeparation(Separation):
    """One output per player; sums of them are compared."""

    def __init__(self, settings: Settings, recipe: Recipe, features: str = "") -> None:
        super().__init__(settings, recipe, features)
        self.interface = PlayersQueried(settings.model, recipe.labels, features)

    def build(self) -> nn.Module:
        """A Separator with a classifier."""
        return CoSeparator(self.settings, self.recipe)

    def save(self, folder: Path, network: nn.Module, card: dict[str, Any]) -> None:
        """As a Separator, without the classifier."""
        assert isinstance(network, Separator), "the network of this objective"  # noqa: S101
        save_separator(folder, network, card, left_out=CLASSIFIER)

    def totals(self, batch: Batch) -> Float64[np.ndarray, " n"]:
        """Those of `separation`, of the sounds of the videos; and the number of players to name."""
        return np.append(super().totals(_of_videos(batch)), float(batch.present.sum()))

    def loss(self, network: Callable[..., Tensor], batch: Batch, totals: Tensor) -> Tensor:
        """That of `training.loss` for the sums over each video's players, and the cross-entropy of who plays."""
        device, videos = totals.device, _of_videos(batch)
        shape = batch.targets.shape
        found = network(to_device(batch.mixture, device), *context_of(batch, device), classify=True)
        estimates, odds = found[..., : shape[2] * shape[3]].reshape(shape), found[..., shape[2] * shape[3] :]
        targets, present = to_device(videos.targets, device), to_device(videos.present, device)
        sums = torch.stack([part.sum(1) for part in _halves(estimates)], dim=1)
        share = self._loss_of(sums, targets, present, Totals(*totals[:-1]))
        assert batch.shown is not None, "its interface names players"  # noqa: S101
        heard = to_device(batch.present, device)
        named = F.cross_entropy(odds.flatten(0, 1), to_device(batch.shown, device).flatten(), reduction="none")
        # Of all players, also those whose share is 0: every weight of the classifier has a gradient.
        wrong = (named * heard.flatten()).sum() / totals[-1].clamp(min=1)
        return share + self.settings.training.consistency_weight * wrong


def _halves(players: Any) -> list[Any]:
    """The players of both videos, along the second axis of an array or a tensor; the first may have one more."""
    first = -(-players.shape[1] // 2)
    return [players[:, :first], players[:, first:]]


def _of_videos(batch: Batch) -> Batch:
    """The batch with the sounds of both videos as its targets."""
    targets: list[Float32[np.ndarray, "b c u"]] = [part.sum(1) for part in _halves(batch.targets)]
    present: list[Bool[np.ndarray, " b"]] = [part.any(1) for part in _halves(batch.present)]
    # A video has the labels of several players.
    return replace(batch, targets=np.stack(targets, 1), present=np.stack(present, 1), labels=None)
