"""The objective `correspondence`: whether a picture of a player belongs to a second of sound.

    objective = Correspondence(settings, recipe)
    log_odds = objective.build()(sound, pictures)      # "b p s": each picture with each sound of its example

The pre-training of Objects that Sound (Arandjelović and Zisserman 2018), by its networks AVE-Net and AVOL-Net (see
`correspondence_network`). No label is used. A picture is the middle one of the window, and its sound the player's stem.

A pair of a picture with its own sound is right. Wrong are the pairs with the stems of the other players of the same
mixture. With `mixing.aligned_probability: 0` these are players of other instruments, at any time of any piece of the
pool, as the paper takes other videos; aligned ones play in the same piece at the same time. Right and wrong pairs have
equal weight, by cross entropy of each pair. With `correspondence.loss: info_nce` the own sound is chosen among those of
the mixture, and the own picture among its pictures (van den Oord et al. 2018; EZ-VSL, Mo and Morgado 2022).

With `correspondence.inputs: features` a picture and a sound are those of the middle second of the window, by the
features that some corpora have in their place. The players of a video have the same ones, so that one of them counts.

Its figure is recall@1 among CANDIDATES players of different instruments: how often the own sound has the highest
log-odds of all for a picture, and the own picture for a sound, on average. Chance is 1 / CANDIDATES. Beside it stand
both ways alone and the two-alternative accuracy, right against wrong, whose chance is 0.5.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, UInt8
from torch import Tensor, nn

from vimss.errors import ConfigError, DataError
from vimss.model.interface import shown_views
from vimss.shards.clip import Clip, Player
from vimss.shards.recipe import Recipe
from vimss.stream.batch import Batch
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Mixture, Source, Window
from vimss.train.config import Settings
from vimss.train.device import to_device
from vimss.train.objectives.correspondence_network import PICTURE_FEATURES
from vimss.train.objectives.instruments_augment import augment
from vimss.train.objectives.predictor_objective import ObjectiveInterface, PredictorObjective
from vimss.train.objectives.weak_labels_network import SOUND_FEATURES

BESIDE = (
    "picture to sound, recall@1",
    "sound to picture, recall@1",
    "picture to sound, two-alternative accuracy",
    "sound to picture, two-alternative accuracy",
)


class PicturesInterface(ObjectiveInterface):
    """Shows a picture of each player who sounds, each with the player's own stem as the target."""

    def __init__(self, settings: Settings, recipe: Recipe) -> None:
        super().__init__(settings, recipe.labels, context="frames", site="decoder", outputs="queries")
        self.most = settings.mixing.max_sources

    def num_outputs(self, queries: int = 1) -> int:
        """One per player that a mixture may have."""
        return max(queries, self.most)

    def query(
        self, mixture: Mixture, mixing: MixingConfig, rng: np.random.Generator
    ) -> tuple[list[Sequence[Source]], list[np.ndarray]]:
        """The stems of all players, and of each the middle picture; more outputs than players are silent."""
        targets: list[Sequence[Source]] = [(source,) for source in mixture.sources]
        targets += [()] * (self.num_outputs(mixing.queries) - len(targets))
        return targets, [view[len(view) // 2] for view in shown_views(mixture.sources)]


class FeaturesInterface(PicturesInterface):
    """Shows the features of a picture of each video, beside those of its sound."""

    @property
    def members(self) -> tuple[str, ...]:
        """The features, and stems where there are some."""
        return ("audio", "features", "sound_features")

    def of_player(self, clip: Clip, player: Player) -> Float32[np.ndarray, "v d"]:
        """The features of each picture and, in the last columns, those of the sound."""
        both = player.features, player.sound_features
        sizes = [0 if one is None else one.shape[1] for one in both]
        if sizes != [PICTURE_FEATURES, SOUND_FEATURES]:
            raise DataError(
                f"correspondence.inputs: features needs {PICTURE_FEATURES} numbers of each picture and "
                f"{SOUND_FEATURES} of each second of sound",
                got=f"{sizes[0]} and {sizes[1]} of '{player.part}' in {clip.key}",
                fix="choose shards of youtube8m, or set correspondence.inputs: media",
            )
        return np.concatenate([one for one in both if one is not None], axis=1, dtype=np.float32)

    def query(
        self, mixture: Mixture, mixing: MixingConfig, rng: np.random.Generator
    ) -> tuple[list[Sequence[Source]], list[np.ndarray]]:
        """Of each video one player, as another one's sound would be no wrong one; stems are silent."""
        videos: dict[str, Source] = {}
        for source in mixture.sources:
            videos.setdefault(source.piece, source)
        return super().query(replace(mixture, sources=tuple(videos.values())), mixing, rng)


class Correspondence(PredictorObjective):
    """Which pictures belong to which sounds."""

    def __init__(self, settings: Settings, recipe: Recipe, features: str = "") -> None:
        self.takes_media = settings.correspondence.inputs == "media"
        super().__init__(
            settings, recipe, (PicturesInterface if self.takes_media else FeaturesInterface)(settings, recipe)
        )

    def window(self) -> Window:
        """Stems and pictures of the same time; ConfigError where some players have no wrong pair."""
        if self.settings.mixing.min_sources < 2:
            raise ConfigError(
                f"objective: {self.settings.objective} needs mixtures of several players: the others' sounds are those "
                "that a picture does not belong to",
                got=f"mixing.min_sources: {self.settings.mixing.min_sources}",
                fix="set mixing.min_sources and mixing.max_sources to 2 or more",
            )
        if not self.takes_media and self.settings.mixing.aligned_probability:
            raise ConfigError(
                "correspondence.inputs: features needs players of different videos, as one has the same for all",
                got=f"mixing.aligned_probability: {self.settings.mixing.aligned_probability:g}",
                fix="set mixing.aligned_probability: 0",
            )
        return super().window()

    def totals(self, batch: Batch) -> Float64[np.ndarray, " n"]:
        """Players who sound."""
        return np.array([self._sounding(batch).sum()], np.float64)

    def loss(self, network: Callable[..., Tensor], batch: Batch, totals: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """The mean over players who sound, of the right pair and of the wrong ones with the player's picture."""
        device = totals.device
        sound, pictures = self._compared(batch, device)
        if self.settings.correspondence.augment:
            pictures = self._augmented(pictures, batch)
        sounding = to_device(self._sounding(batch), device)
        log_odds = network(sound, pictures).float()
        own = torch.eye(log_odds.shape[1], dtype=torch.bool, device=device)
        if self.settings.correspondence.loss == "info_nce":
            losses = _of_choices(log_odds, sounding)
        else:
            wrong = sounding[:, None] & ~own
            of_wrong = (F.softplus(log_odds) * wrong).sum(2) / wrong.sum(2).clamp(min=1)
            losses = (F.softplus(-log_odds.diagonal(dim1=1, dim2=2)) + of_wrong) / 2
        return (losses * sounding).sum() / totals[0].clamp(min=1)

    def _sounding(self, batch: Batch) -> Bool[np.ndarray, "b p"]:
        """Which of the players who are shown sound; by features, all who are real."""
        assert batch.context is not None, "pictures are always shown"  # noqa: S101
        if self.takes_media:
            return batch.present[:, : batch.context.shape[1]]
        assert batch.players is not None, "features are of players"  # noqa: S101
        return batch.players

    def _compared(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """The sounds and the pictures of the players, or the features of both."""
        assert batch.context is not None, "pictures are always shown"  # noqa: S101
        shown = to_device(batch.context, device)
        if self.takes_media:
            return to_device(batch.targets[:, : shown.shape[1]], device), shown
        return shown[..., PICTURE_FEATURES:], shown[..., :PICTURE_FEATURES]

    def _augmented(self, pictures: UInt8[Tensor, "b p h w k"], batch: Batch) -> UInt8[Tensor, "b p h w k"]:
        """The pictures, changed at random; what is drawn depends on an example's own sound, and not on others."""
        changed = []
        for shown, mixture in zip(pictures, batch.mixture, strict=True):
            rng = np.random.default_rng((self.settings.seed, zlib.crc32(np.ascontiguousarray(mixture).tobytes())))
            changed.append(augment(shown, rng))
        return torch.stack(changed)

    def examine(self, network: nn.Module, batch: Batch, device: torch.device) -> Float64[Tensor, " k"]:
        """Sums over the players who sound: recall and accuracy both ways, as in BESIDE; chance; and their number."""
        players = torch.from_numpy(self._sounding(batch)[0])
        log_odds = network(*self._compared(batch, device))[0].double().cpu()[players][:, players]
        count = len(log_odds)
        if count < 2:
            return torch.zeros(len(BESIDE) + 2, dtype=torch.float64)
        ways = (log_odds, log_odds.T)
        sums = [*(_recall(way) for way in ways), *(_accuracy(way) for way in ways), 1.0, float(count)]
        return torch.tensor(sums, dtype=torch.float64)

    def value(self, kept: Float64[Tensor, "m k"]) -> float:
        """Recall@1, the mean of both ways; NaN where nobody sounds, or a number is not finite."""
        shares = _shares(kept)
        return (shares[0] + shares[1]) / 2

    def beside(self, kept: Float64[Tensor, "m k"]) -> dict[str, float]:
        """Both ways, and the accuracies."""
        return dict(zip(BESIDE, _shares(kept), strict=True))

    def guess(self, kept: Float64[Tensor, "m k"]) -> Float64[Tensor, "m k"]:
        """The same log-odds for all pairs."""
        chance, players = kept[:, -2], kept[:, -1]
        return torch.stack([chance, chance, players / 2, players / 2, chance, players], dim=1)


def _of_choices(log_odds: Float[Tensor, "b p p"], sounding: Bool[Tensor, "b p"]) -> Float[Tensor, "b p"]:
    """Cross entropy of the own sound among the sounds, and of the own picture among the pictures."""
    # A player who is silent chooses among all, since a choice among none has no gradient, and does not count.
    able = sounding[:, None] | ~sounding[:, :, None]
    right = torch.arange(log_odds.shape[1], device=log_odds.device).expand(len(log_odds), -1)
    ways = (log_odds, log_odds.transpose(1, 2))
    losses = [F.cross_entropy(way.masked_fill(~able, -torch.inf).mT, right, reduction="none") for way in ways]
    return (losses[0] + losses[1]) / 2


def _recall(log_odds: Float64[Tensor, "p p"]) -> float:
    """How many rows have their highest number on the diagonal; equal ones share it. NaN where one is not finite."""
    if not log_odds.isfinite().all():
        return float("nan")
    best = log_odds == log_odds.amax(1, keepdim=True)
    return float((best.diagonal() / best.sum(1)).sum())


def _accuracy(log_odds: Float64[Tensor, "p p"]) -> float:
    """The summed shares of the other numbers of a row that are below the one on the diagonal; equal ones count half."""
    if not log_odds.isfinite().all():
        return float("nan")
    right = log_odds.diagonal()[:, None]
    wins = (right > log_odds).double() + 0.5 * (right == log_odds)
    return float(((wins.sum(1) - 0.5) / (len(log_odds) - 1)).sum())


def _shares(kept: Float64[Tensor, "m k"]) -> list[float]:
    """The mean over players of each figure in BESIDE."""
    sums = kept.sum(0)
    return [float(total / sums[-1]) for total in sums[: len(BESIDE)]]
