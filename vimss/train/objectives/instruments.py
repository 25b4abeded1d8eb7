"""The objective `instruments`: which instruments play in a window, by the pictures of all players, the sound, or both.

    objective = Instruments(settings, recipe)
    logits = objective.build()(mixture, pictures, players)      # "b i", one number per label

Pre-training for networks that are conditioned on pictures. The players of a mixture and one who rests in it are shown,
and the mixture is what is heard; `instruments.inputs` says which of both the network gets (see `instruments_network`).
A label plays where it sounds. What is learned is a number per label, by binary cross entropy, each label by itself; or,
with `instruments.labels: players`, the instrument of each player, also of those who rest, by cross entropy.

Its figure is mean average precision (mAP, that of AudioSet: Gemmeke et al. 2017; Hershey et al. 2017): of each label
that plays somewhere in the validation set, the precision at each of its mixtures when all are ordered by its number,
averaged; then the mean over labels. A constant guess has the share of the mixtures in which a label plays. Beside it,
where pictures are the only input: the share of the players whose own label has the highest number of all.

The vision network goes on in others: `training.start_from` with model.context: frames, or `vision.weights` with the
path of weights.safetensors, for `vimss features` and model.context: features.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor, nn

from vimss.errors import DataError
from vimss.shards.clip import Clip, Player
from vimss.shards.recipe import Recipe
from vimss.stream.batch import Batch
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Mixture, Source
from vimss.train.config import Settings
from vimss.train.device import context_of, to_device
from vimss.train.objectives.instruments_augment import augment
from vimss.train.objectives.predictor_objective import ObjectiveInterface, PredictorObjective, evenly_spread

ACCURACY = "players named by their pictures"
"""Name of the figure beside the mAP."""

LOOKS = 0.5
"""Weight of where the network looks beside what it sees."""


class PlayersInterface(ObjectiveInterface):
    """Shows all players, also one who rests, where pictures are an input, and asks which labels sound."""

    def __init__(self, settings: Settings, recipe: Recipe) -> None:
        site = "decoder" if settings.instruments.sees else "none"
        super().__init__(settings, recipe.labels, context="frames", site=site, outputs="instruments")
        self.seconds = settings.training.output_samples / recipe.sample_rate
        self.every = settings.instruments.every
        self.shows_masks = settings.instruments.masks

    @property
    def members(self) -> tuple[str, ...]:
        """Stems, which say who sounds, and pictures where they are an input, with masks where those teach."""
        return (*self.inner.members, "masks") if self.shows_masks else self.inner.members

    def of_player(self, clip: Clip, player: Player) -> UInt8[np.ndarray, "v h w k"]:
        """The player's pictures; where masks teach, with a fourth channel that is 1 where the instrument is."""
        pictures = self.inner.of_player(clip, player)
        if not self.shows_masks:
            return pictures
        if player.masks is None:
            raise DataError(
                "instruments.masks: true needs shards with the masks of instruments",
                got=f"none of '{player.part}' in {clip.key}",
                fix="use a corpus that draws its players, or remove instruments.masks",
            )
        return np.concatenate([pictures, player.masks[1][..., None].astype(np.uint8)], axis=-1)

    def query(
        self, mixture: Mixture, mixing: MixingConfig, rng: np.random.Generator
    ) -> tuple[list[Sequence[Source]], list[np.ndarray]]:
        """Of each label what sounds of it; and the pictures of all players, those who rest last.

        The network takes the highest number of all players, so that their order says nothing.
        """
        targets, views = self.inner.query(mixture, mixing, rng)
        if not self.uses_players:
            return targets, []
        views = [*views, *(player.view for player in mixture.distractors if player.view is not None)]
        return targets, [self.spread(view) for view in views]

    def labels_shown(self, mixture: Mixture) -> list[int]:
        """The label of each player who is shown."""
        shown = [*mixture.sources, *mixture.distractors] if self.uses_players else []
        return [self.inner.labels.index(player.label) for player in shown]

    def spread(self, view: UInt8[np.ndarray, "v h w k"]) -> UInt8[np.ndarray, "n h w k"]:
        """A player's pictures, one in `instruments.every` seconds, evenly spread over the window."""
        return evenly_spread(view, self.seconds, self.every)


class Instruments(PredictorObjective):
    """Multi-label recognition of instruments by their players' pictures, their sound, or both."""

    def __init__(self, settings: Settings, recipe: Recipe, features: str = "") -> None:
        super().__init__(settings, recipe, PlayersInterface(settings, recipe))
        self.names_players = settings.instruments.labels == "players"
        # Pictures are the same at any rate.
        self.must_match = ("objective", "labels", *(("sample_rate",) if settings.instruments.hears else ()))

    def totals(self, batch: Batch) -> Float64[np.ndarray, " n"]:
        """Labels of all examples, or players where those are labelled."""
        if self.names_players:
            assert batch.players is not None, "pictures are an input"  # noqa: S101
            return np.array([batch.players.sum()], np.float64)
        return np.array([batch.present.size], np.float64)

    def loss(self, network: Callable[..., Tensor], batch: Batch, totals: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Binary cross entropy, a mean over examples and labels; or cross entropy, a mean over players."""
        pictures, players = context_of(batch, totals.device)
        if self.settings.instruments.augment and pictures is not None:
            pictures = self._augmented(pictures, batch)
        sound = to_device(batch.mixture, totals.device)
        if self.names_players:
            assert batch.shown is not None and players is not None and pictures is not None  # noqa: S101 - an input
            labels, masks = to_device(batch.shown, totals.device)[players], _masks_of(pictures)
            rows = network(sound, pictures[..., :3], players, each=True, masks=masks).float()
            count = len(self.recipe.labels)
            loss = F.cross_entropy(rows[:, :count], labels, reduction="sum") - LOOKS * rows[:, count:].sum()
            return loss / totals[0].clamp(min=1)
        logits = network(sound, pictures, players).float()
        present = to_device(batch.present, totals.device).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, present, reduction="sum") / totals[0]

    def _augmented(self, pictures: UInt8[Tensor, "b p v h w k"], batch: Batch) -> UInt8[Tensor, "b p v h w k"]:
        """The pictures, changed at random: what is drawn depends on an example's own sound, and not on other examples.

        All players of an example are changed, also those who fill it up, and each picture in its own way.
        """
        changed = []
        for shown, mixture in zip(pictures, batch.mixture, strict=True):
            rng = np.random.default_rng((self.settings.seed, zlib.crc32(np.ascontiguousarray(mixture).tobytes())))
            changed.append(augment(shown.flatten(0, 1), rng).reshape(shown.shape))
        return torch.stack(changed)

    def examine(self, network: nn.Module, batch: Batch, device: torch.device) -> Float64[Tensor, " k"]:
        """The number of each label, then whether it plays, then how many players were named rightly, and of how many.

        A player is named by the pictures alone, so there are none where the sound is an input.
        """
        sound, (pictures, players) = to_device(batch.mixture, device), context_of(batch, device)
        if pictures is not None:
            pictures = pictures[..., :3]
        found = network(sound, pictures, players)[0].cpu().double()
        named = torch.zeros(2, dtype=torch.float64)
        if self.settings.instruments.inputs == "pictures":
            assert batch.shown is not None and batch.players is not None, "pictures are an input"  # noqa: S101
            named_as = network(sound, pictures, players, each=True).argmax(1).cpu().numpy()
            labels = batch.shown[batch.players]
            named[:] = torch.tensor([(named_as == labels).sum(), len(labels)])
        return torch.cat([found, torch.from_numpy(batch.present[0]).double(), named])

    def value(self, kept: Float64[Tensor, "m k"]) -> float:
        """The mean average precision; NaN where no label plays, or a number is not finite."""
        scores, present, _ = self._parts(kept)
        found = average_precision(scores, present > 0)[present.any(axis=0)]
        return float(found.mean()) if found.size else float("nan")

    def beside(self, kept: Float64[Tensor, "m k"]) -> dict[str, float]:
        """The share of the players whose own label has the highest number, by their pictures; none without pictures."""
        counts = self._parts(kept)[2]
        right, players = counts.sum(axis=0) if counts.size else (0.0, 0.0)
        return {ACCURACY: float(right / players)} if players else {}

    def _parts(self, kept: Float64[Tensor, "m k"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of the labels, whether they play, and players named rightly and in all; old records lack the last."""
        labels = len(self.recipe.labels)
        rows = kept.numpy()
        return rows[:, :labels], rows[:, labels : 2 * labels], rows[:, 2 * labels :]

    def by_label(self, kept: Float64[Tensor, "m k"]) -> dict[str, float]:
        """The average precision of each label that plays somewhere."""
        scores, present, _ = self._parts(kept)
        found = average_precision(scores, present > 0)
        return {
            label: float(value)
            for label, value in zip(self.recipe.labels, found, strict=True)
            if value > 0 or np.isnan(value)
        }

    def guess(self, kept: Float64[Tensor, "m k"]) -> Float64[Tensor, "m k"]:
        """The same number everywhere; players are named with one label in turn, of all that there are."""
        labels = len(self.recipe.labels)
        guessed = kept.clone()
        guessed[:, :labels] = 0
        guessed[:, 2 * labels : -1] = guessed[:, 2 * labels + 1 :] / labels
        return guessed


def _masks_of(pictures: UInt8[Tensor, "b p v h w k"]) -> Bool[Tensor, "b p v h w"] | None:
    """The masks that are shown with pictures, if any."""
    return pictures[..., 3] > 0 if pictures.shape[-1] > 3 else None


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
