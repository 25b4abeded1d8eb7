"""The objective `alignment`: whether a player's motion and a sound are in step or shifted (Owens and Efros 2018).

    objective = Alignment(settings, recipe, "motion-1")
    scores = objective.build()(sound, motion)      # "n m s": every motion window, every sound window

Pre-training for what needs to know who plays what: of two violins the one whose bow moves with the notes. The pictures
are read as motion (see `vimss.model.contexts.motion`), and the sound is the player's stem, in training often with some
of the other players in it.

Training is a choice among windows of one excerpt, which is `training.output_samples` long: for the motion in a window
of `alignment.seconds` the sound of the same time must have a higher score than all that begin NEAR seconds or more
earlier or later (InfoNCE, van den Oord et al. 2018). All are cut from the same sound, so that augmentation, level and
room say nothing, and none is shifted around the end, where a seam would give it away.

Its figure is the two-alternative accuracy: how often the right sound of FIGURE_SECONDS has a higher score than one that
begins APART seconds or more away, over the windows in which the stem sounds for a fifth of the time. Chance is 0.5,
which a network without training need not have: its filters follow motion, or its opposite, as it happens.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor, nn

from vimss.errors import ConfigError
from vimss.model.interface import draw_queries, shown_views
from vimss.shards.recipe import Recipe
from vimss.stream.batch import Batch
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Mixture, Source, Window
from vimss.stream.stems import SILENCE_RMS
from vimss.train.config import Settings
from vimss.train.device import to_device
from vimss.train.objectives.alignment_network import STEP, AlignmentNetwork, lost_pictures
from vimss.train.objectives.predictor_objective import ObjectiveInterface, PredictorObjective

FIGURE_SECONDS = 5.0
"""Windows of the figure."""

MIXED, BACKWARDS = ", all players sound", ", motion backwards"

KINDS = ((FIGURE_SECONDS, ""), (2.0, ""), (10.0, ""), (FIGURE_SECONDS, MIXED), (FIGURE_SECONDS, BACKWARDS))
"""Windows of the accuracies that are kept, where a mixture is long enough for them: the figure; other lengths; with all
players of the mixture; with motion that goes backwards, which must be chance, or the sound alone gives it away."""

APART = 2.0
"""Seconds between the right window and a wrong one of the figure: more than a beat."""

NEAR = 0.5
"""Seconds around the right window in which training has no wrong one."""

SOUNDING = 0.2
"""Share of a window in which the stem must sound: silence is in step with nothing."""


class MotionInterface(ObjectiveInterface):
    """Shows the motion of the players that it asks for, each with the player's own stem as the target."""

    def __init__(self, settings: Settings, recipe: Recipe, features: str) -> None:
        super().__init__(settings, recipe.labels, features, context="motion", site="decoder", outputs="queries")

    def query(
        self, mixture: Mixture, mixing: MixingConfig, rng: np.random.Generator
    ) -> tuple[list[Sequence[Source]], list[np.ndarray]]:
        """The stems of players in random order, and their motion."""
        players = draw_queries(mixture.sources, (), mixing, rng)
        return [(player,) for player in players], shown_views(players)


class Alignment(PredictorObjective):
    """Which sound a player's motion is in step with."""

    def __init__(self, settings: Settings, recipe: Recipe, features: str = "") -> None:
        super().__init__(settings, recipe, MotionInterface(settings, recipe, features))

    def window(self) -> Window:
        """The excerpt that windows are cut from; ConfigError where it has no wrong window for some right one."""
        excerpt = self.window_around(self.settings.training.output_samples)
        rate, seconds = self.recipe.picture.frame_rate, self.settings.alignment.seconds
        pictures = max(1, round(excerpt.input_samples / excerpt.sample_rate * rate))
        lost = lost_pictures(excerpt.input_samples, pictures, excerpt.sample_rate)
        needed = round(seconds * rate) + 2 * (lost + round(NEAR * rate)) + 1
        if pictures < needed:
            least = round((needed + 1) / rate * excerpt.sample_rate)
            raise ConfigError(
                f"training.output_samples must have room for alignment.seconds, {seconds:g} s, and for windows "
                f"{NEAR:g} s earlier and later",
                got=f"{excerpt.input_samples} samples, {excerpt.input_samples / excerpt.sample_rate:.1f} s",
                fix=f"set training.output_samples: {least} or more, or shorten alignment.seconds",
            )
        return excerpt

    def totals(self, batch: Batch) -> Float64[np.ndarray, " n"]:
        """Players who sound."""
        return np.array([batch.present.sum()], np.float64)

    def loss(self, network: Callable[..., Tensor], batch: Batch, totals: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """InfoNCE: a mean over the windows of each player, then over the players who sound."""
        device = totals.device
        assert batch.context is not None, "motion is always shown"  # noqa: S101
        sound, motion = to_device(self._with_crosstalk(batch), device), to_device(batch.context, device)
        rate = motion.shape[2] * self.recipe.sample_rate / sound.shape[-1]
        length, step = round(self.settings.alignment.seconds * rate), round(STEP * rate)
        scores = network(sound.flatten(0, 1), motion.flatten(0, 1)).float()
        right = torch.arange(scores.shape[1], device=device) * step
        distance = (torch.arange(scores.shape[2], device=device) - right[:, None]).abs()
        left_out = (distance > 0) & (distance < round(NEAR * rate))
        chosen = right.expand(len(scores), -1)
        losses = F.cross_entropy(scores.masked_fill(left_out, -torch.inf).transpose(1, 2), chosen, reduction="none")
        heard = to_device(_sounds(batch.targets, motion.shape[2]), device).flatten(0, 1)
        lost = (motion.shape[2] - (scores.shape[2] + length - 1)) // 2
        weights = _windows_that_sound(heard[:, lost : heard.shape[1] - lost], length, step).to(losses.dtype)
        means = (losses * weights).sum(1) / weights.sum(1).clamp(min=1)
        return (means * to_device(batch.present, device).flatten()).sum() / totals[0].clamp(min=1)

    def _with_crosstalk(self, batch: Batch) -> Float32[np.ndarray, "b q c t"]:
        """The stem of each player, some with a share of the other players of the mixture.

        What is drawn depends on the example's own sound, so that its loss depends on no other example, nor on the part
        of the batch that it is in.
        """
        sound = batch.targets.copy()
        for row, (mixture, stems) in enumerate(zip(batch.mixture, batch.targets, strict=True)):
            rng = np.random.default_rng((self.settings.seed, zlib.crc32(np.ascontiguousarray(mixture).tobytes())))
            for player, stem in enumerate(stems):
                if rng.random() < self.settings.alignment.crosstalk_probability:
                    share = np.float32(rng.uniform(0, self.settings.alignment.crosstalk))
                    sound[row, player] += share * (mixture - stem)
        return sound

    def examine(self, network: nn.Module, batch: Batch, device: torch.device) -> Float64[Tensor, " k"]:
        """The summed accuracy of the players and their number, for each of KINDS."""
        assert isinstance(network, AlignmentNetwork), "the network of this objective"  # noqa: S101
        assert batch.context is not None, "motion is always shown"  # noqa: S101
        players = batch.targets.shape[1]
        motion = to_device(batch.context[0, :players], device)
        stems, mixture = to_device(batch.targets[0], device), to_device(batch.mixture, device)
        heard = torch.from_numpy(_sounds(batch.targets[0], motion.shape[1]))
        rate = motion.shape[1] * self.recipe.sample_rate / stems.shape[-1]
        of_stems = network.vectors(stems, motion)
        of_mixture = network.vectors(mixture.expand(players, -1, -1), motion)
        backwards = network.vectors(stems, motion.flip(1))
        vectors = {"": of_stems, MIXED: of_mixture, BACKWARDS: backwards}
        kept = [_accuracy(network, vectors[how], heard, seconds, rate) for seconds, how in KINDS]
        return torch.tensor(kept, dtype=torch.float64).flatten()

    def value(self, kept: Float64[Tensor, "m k"]) -> float:
        """The accuracy of FIGURE_SECONDS; NaN where no player sounds, or a score is not finite."""
        return _ratios(kept)[0]

    def beside(self, kept: Float64[Tensor, "m k"]) -> dict[str, float]:
        """The accuracies of the other kinds."""
        names = [f"{seconds:g} s{how}" for seconds, how in KINDS]
        return dict(zip(names[1:], _ratios(kept)[1:], strict=True))

    def guess(self, kept: Float64[Tensor, "m k"]) -> Float64[Tensor, "m k"]:
        """The same score for all windows."""
        counts = kept[:, 1::2]
        return torch.stack([0.5 * counts, counts], dim=2).flatten(1)


def _accuracy(
    network: AlignmentNetwork,
    vectors: tuple[Float[Tensor, "n e w"], Float[Tensor, "n e w"]],
    heard: Bool[Tensor, "n v"],
    seconds: float,
    rate: float,
) -> tuple[float, float]:
    """The summed accuracy of players and their number, for windows of so many seconds at `rate` pictures a second."""
    length, step, apart = round(seconds * rate), round(STEP * rate), round(APART * rate)
    width = vectors[0].shape[-1]
    if width < length + apart:
        return 0.0, 0.0
    scores = network.scores(*vectors, length, step).double().cpu()
    if not scores.isfinite().all():
        return float("nan"), float("nan")
    starts = torch.arange(scores.shape[1]) * step
    wrong = (torch.arange(scores.shape[2]) - starts[:, None]).abs() >= apart
    right = scores.take_along_dim(starts.expand(len(scores), -1)[:, :, None], 2)
    wins = (right > scores).double() + 0.5 * (right == scores).double()
    lost = (heard.shape[1] - width) // 2
    counted = _windows_that_sound(heard[:, lost : heard.shape[1] - lost], length, step) & wrong.any(1)
    shares = (wins * wrong).sum(2) / wrong.sum(1).clamp(min=1)
    players = counted.any(1)
    means = (shares * counted).sum(1) / counted.sum(1).clamp(min=1)
    return float(means[players].sum()), float(players.sum())


def _sounds(stems: Float32[np.ndarray, "*n c t"], pictures: int) -> Bool[np.ndarray, "*n v"]:
    """Whether each stem sounds during each picture."""
    edges = np.linspace(0, stems.shape[-1], pictures + 1).astype(int)
    energy = np.add.reduceat(np.square(stems).mean(-2), edges[:-1], axis=-1)
    return energy > SILENCE_RMS**2 * np.diff(edges)


def _windows_that_sound(heard: Bool[Tensor, "n w"], length: int, step: int) -> Bool[Tensor, "n m"]:
    """Whether a stem sounds in enough of each window."""
    return heard.unfold(1, length, step).float().mean(2) >= SOUNDING


def _ratios(kept: Float64[Tensor, "m k"]) -> list[float]:
    """The mean accuracy of each kind that was kept."""
    sums = kept.sum(0)
    return [float(total / count) for total, count in zip(sums[::2], sums[1::2], strict=True)]
