"""The objective `segmentation`: which pixels show the player and which the instrument, and where the joints are.

    objective = Segmentation(settings, recipe)
    maps = objective.build()(pictures)              # "n k h w", see `segmentation_network`

Trained on what the renderer of drawn players knows: masks and skeletons, which the shards of the chamber corpus hold.
All players of a mixture and one who rests are shown, one picture in `instruments.every` seconds; nothing is heard. The
loss of a picture is the cross entropy of its pixels, plus 1 minus the soft IoU of each mask (Rahman and Wang 2016), by
which a small instrument counts as much as a player, plus the cross entropy of the places of the joints.

Its figure is the mean IoU of both masks, each the pixels that are right over those that are found or true, summed over
all pictures, as in PASCAL VOC (Everingham et al. 2010). Beside it: each IoU, and how far joints are from the true ones,
as a share of the player's height. A constant guess takes every pixel for both, and the middle for each joint.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor, nn

from vimss.errors import DataError
from vimss.model.interface import shown_views
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora.chamber.skeleton import JOINTS
from vimss.shards.recipe import Recipe
from vimss.stream.batch import Batch
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Mixture, Source
from vimss.train.config import Settings
from vimss.train.device import context_of
from vimss.train.objectives.instruments_augment import augment
from vimss.train.objectives.predictor_objective import ObjectiveInterface, PredictorObjective, evenly_spread
from vimss.train.objectives.segmentation_network import BODY, CLASSES, classes_of, places_of

STEPS = 254
"""Steps in which the place of a joint is written, 1 to 255: a third of a pixel in pictures of 80. 0: it is not seen."""

SPREAD = 0.025
"""Standard deviation of where a joint is taught to be, as a share of the picture: two pixels of 80."""

SEEN = 0.5
"""Share of its pixels that a joint must keep in a changed picture to be taught there."""

OF_JOINTS = 0.1
"""Weight of the joints; the logarithm of all places is 9, that of all classes 1."""

SUMS = (
    "right of player", "either of player", "right of instrument", "either of instrument",
    "pixels of player", "pixels of instrument", "pixels", "error of joints", "error of the middle", "joints",
)  # fmt: skip
"""What is kept of a mixture, summed over its pictures. `either`: found or true. Errors are in heights of the player."""

PLAYER, INSTRUMENT, JOINT = "IoU of the player", "IoU of the instrument", "error of a joint, heights of the player"
"""Names of the figures beside."""


class MasksInterface(ObjectiveInterface):
    """Shows all players, also one who rests, with a fourth channel of CLASSES and a fifth that holds the joints."""

    def __init__(self, settings: Settings, recipe: Recipe) -> None:
        super().__init__(settings, recipe.labels, context="frames", site="decoder", outputs="instruments")
        self.seconds = settings.training.output_samples / recipe.sample_rate
        self.every = settings.instruments.every

    @property
    def members(self) -> tuple[str, ...]:
        """Pictures, masks and skeletons; and stems, which say which players a window has."""
        return (*self.inner.members, "masks", "skeleton")

    def of_player(self, clip: Clip, player: Player) -> UInt8[np.ndarray, "v h w 5"]:
        """The player's pictures, what their pixels show, and their joints."""
        pictures = self.inner.of_player(clip, player)
        if player.masks is None or player.skeleton is None or player.skeleton.shape[1] != 3 * len(JOINTS):
            missing = "masks" if player.masks is None else "skeleton of a drawn player"
            raise DataError(
                "objective: segmentation needs masks and joints of players in their pictures",
                got=f"no {missing} of '{player.part}' in {clip.key}",
                fix="use a corpus that draws its players",
            )
        return with_truth(pictures, player.masks, player.skeleton)

    def query(
        self, mixture: Mixture, mixing: MixingConfig, rng: np.random.Generator
    ) -> tuple[list[Sequence[Source]], list[np.ndarray]]:
        """The pictures of all players, those who rest last, evenly spread over the window."""
        targets, _ = self.inner.query(mixture, mixing, rng)
        views = [*shown_views(mixture.sources), *shown_views(mixture.distractors)]
        return targets, [evenly_spread(view, self.seconds, self.every) for view in views]


@dataclass(frozen=True, eq=False)
class Truth:
    """What pictures show."""

    classes: Int64[Tensor, "n h w"]
    """Numbers of CLASSES."""
    joints: Float[Tensor, "n j 2"]
    """x and y of BODY, 0 to 1; NaN where a joint is not seen."""


def with_truth(
    pictures: UInt8[np.ndarray, "v h w 3"], masks: Bool[np.ndarray, "2 v h w"], skeleton: np.ndarray
) -> UInt8[np.ndarray, "v h w 5"]:
    """Pictures of at least 8 pixels with two more channels, which `truth_of` reads."""
    classes = np.where(masks[1], 2, masks[0].astype(np.uint8)).astype(np.uint8)
    x, y, seen = (part[:, : len(BODY)].astype(np.float32) for part in np.split(skeleton, 3, axis=1))
    joints = np.zeros_like(classes)
    # In the first two rows, a joint in each column.
    joints[:, 0, : len(BODY)] = np.where(seen > 0, 1 + np.rint(STEPS * x), 0)
    joints[:, 1, : len(BODY)] = np.where(seen > 0, 1 + np.rint(STEPS * y), 0)
    return np.concatenate([pictures, classes[..., None], joints[..., None]], axis=-1)


def truth_of(shown: UInt8[Tensor, "n h w 5"]) -> Truth:
    """What was written beside the pictures."""
    numbers = shown[:, :2, : len(BODY), 4].float().movedim(1, -1)
    joints = torch.where(numbers > 0, (numbers - 1) / STEPS, torch.nan)
    return Truth(shown[..., 3].long(), joints)


class Segmentation(PredictorObjective):
    """Which pixels show whom, and where the joints are."""

    def __init__(self, settings: Settings, recipe: Recipe, features: str = "") -> None:
        super().__init__(settings, recipe, MasksInterface(settings, recipe))

    def totals(self, batch: Batch) -> Float64[np.ndarray, " n"]:
        """Pictures of real players."""
        assert batch.context is not None and batch.players is not None, "pictures are always shown"  # noqa: S101
        return np.array([batch.players.sum() * batch.context.shape[2]], np.float64)

    def loss(self, network: Callable[..., Tensor], batch: Batch, totals: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """The mean over pictures."""
        shown, players = context_of(batch, totals.device)
        assert shown is not None and players is not None, "pictures are always shown"  # noqa: S101
        changed = []
        for views, real, mixture in zip(shown, players, batch.mixture, strict=True):
            taught = with_maps(views[real].flatten(0, 1))
            if self.settings.instruments.augment:
                # What is drawn depends on the example's own sound, and on no other example.
                rng = np.random.default_rng((self.settings.seed, zlib.crc32(np.ascontiguousarray(mixture).tobytes())))
                taught = augment(taught, rng)
            changed.append(taught)
        pictures = torch.cat(changed)
        return losses_of(network(pictures[..., :3]).float(), pictures).sum() / totals[0].clamp(min=1)

    def examine(self, network: nn.Module, batch: Batch, device: torch.device) -> Float64[Tensor, " k"]:
        """SUMS over the pictures of all players."""
        shown, players = context_of(batch, device)
        assert shown is not None and players is not None, "pictures are always shown"  # noqa: S101
        pictures = shown[players].flatten(0, 1)
        return sums_of(network(pictures[..., :3]).float(), truth_of(pictures)).sum(0)

    def value(self, kept: Float64[Tensor, "m k"]) -> float:
        """The mean IoU; NaN where no picture shows a player and an instrument, or a number is not finite."""
        parts = dict(zip(SUMS, kept.sum(0).tolist(), strict=True))
        return sum(_share(parts, mask) for mask in CLASSES[1:]) / len(CLASSES[1:])

    def beside(self, kept: Float64[Tensor, "m k"]) -> dict[str, float]:
        """The IoU of each mask, and the error of the joints."""
        parts = dict(zip(SUMS, kept.sum(0).tolist(), strict=True))
        error = parts["error of joints"] / parts["joints"] if parts["joints"] else float("nan")
        return {PLAYER: _share(parts, "player"), INSTRUMENT: _share(parts, "instrument"), JOINT: error}

    def guess(self, kept: Float64[Tensor, "m k"]) -> Float64[Tensor, "m k"]:
        """Every pixel is of both, and every joint in the middle."""
        guessed = kept.clone()
        for mask in CLASSES[1:]:
            guessed[:, SUMS.index(f"right of {mask}")] = kept[:, SUMS.index(f"pixels of {mask}")]
            guessed[:, SUMS.index(f"either of {mask}")] = kept[:, SUMS.index("pixels")]
        guessed[:, SUMS.index("error of joints")] = kept[:, SUMS.index("error of the middle")]
        return guessed


def _share(parts: dict[str, float], mask: str) -> float:
    """The IoU of a mask."""
    either = parts[f"either of {mask}"]
    return parts[f"right of {mask}"] / either if either else float("nan")


def with_maps(shown: UInt8[Tensor, "n h w 5"]) -> UInt8[Tensor, "n h w k"]:
    """Pictures with a channel for each mask, 0 or 1, and one for each joint: how near each pixel is, up to 255.

    So all of them can be moved and bent together.
    """
    truth = truth_of(shown)
    height, width = shown.shape[1:3]
    down = (torch.arange(height, device=shown.device) + 0.5) / height
    across = (torch.arange(width, device=shown.device) + 0.5) / width
    x, y = (truth.joints[..., None, None, axis] for axis in (0, 1))
    near = torch.exp(-((across - x).square() + (down[:, None] - y).square()) / (2 * SPREAD**2)).nan_to_num(0)
    masks = torch.stack([truth.classes == number for number in range(1, len(CLASSES))], dim=-1)
    maps = (255 * near).round().to(torch.uint8).movedim(1, -1)
    return torch.cat([shown[..., :3], masks.to(torch.uint8), maps], dim=-1)


def losses_of(found: Float[Tensor, "n c h w"], taught: UInt8[Tensor, "n h w k"]) -> Float[Tensor, " n"]:
    """The loss of each picture, from the network's maps and what `with_maps` shows, changed or not."""
    masks = (taught[..., 3:5] > 0).movedim(-1, 1)
    classes = torch.where(masks[:, 1], 2, masks[:, 0].long())
    given = found[:, : len(CLASSES)]
    of_pixels = F.cross_entropy(given, classes, reduction="none").mean((1, 2))
    shares = given.softmax(1)[:, 1:]
    true = torch.stack([classes == number for number in range(1, len(CLASSES))], dim=1).to(shares.dtype)
    right = (shares * true).sum((2, 3))
    # One pixel more of each: where there is nothing to be found, nothing found is right.
    overlap = (right + 1) / ((shares + true).sum((2, 3)) - right + 1)
    return of_pixels + (1 - overlap).sum(1) + OF_JOINTS * _of_joints(found[:, len(CLASSES) :], taught[..., 5:])


def _of_joints(found: Float[Tensor, "n j h w"], taught: UInt8[Tensor, "n h w j"]) -> Float[Tensor, " n"]:
    """The cross entropy of the places of the joints that are seen, a mean over those; 0 where none is."""
    near = _sides_by_place(taught.movedim(-1, 1).float())
    total = near.sum((2, 3))
    whole = 255 * 2 * torch.pi * SPREAD**2 * near.shape[2] * near.shape[3]
    seen = (total > SEEN * whole).to(found.dtype)
    there = near.flatten(2) / total.clamp(min=1)[..., None]
    losses = -(there * found.flatten(2).log_softmax(2)).sum(2)
    return (losses * seen).sum(1) / seen.sum(1).clamp(min=1)


def _sides_by_place(near: Float[Tensor, "n j h w"]) -> Float[Tensor, "n j h w"]:
    """The maps of joints, left and right exchanged where the picture was mirrored: right shoulders are at the left."""
    across = torch.arange(near.shape[3], device=near.device) + 0.5
    middle = (near.sum(2) * across).sum(2) / near.sum((2, 3)).clamp(min=1)
    mirrored = middle[:, BODY.index("right shoulder")] > middle[:, BODY.index("left shoulder")]
    return torch.where(mirrored[:, None, None, None], near[:, list(EXCHANGED)], near)


def _exchanged(joint: str) -> int:
    side, _, rest = joint.partition(" ")
    other = {"left": "right", "right": "left"}.get(side)
    return BODY.index(f"{other} {rest}" if other else joint)


EXCHANGED = tuple(_exchanged(joint) for joint in BODY)
"""Of each joint that of the other side."""


def sums_of(found: Float[Tensor, "n c h w"], truth: Truth) -> Float64[Tensor, "n k"]:
    """SUMS of each picture; NaN where the network's numbers are not finite."""
    if not found.isfinite().all():
        return torch.full((len(found), len(SUMS)), torch.nan, dtype=torch.float64)
    columns: list[Tensor] = []
    classes = classes_of(found)
    for number in range(1, len(CLASSES)):
        mine, true = classes == number, truth.classes == number
        columns += [(mine & true).sum((1, 2)), (mine | true).sum((1, 2))]
    columns += [(truth.classes == number).sum((1, 2)) for number in range(1, len(CLASSES))]
    height, width = truth.classes.shape[1:]
    columns.append(torch.full((len(found),), height * width, device=found.device))
    rows = (truth.classes == CLASSES.index("player")).any(2).int()
    # From the first to the last row, also where the instrument hides those between.
    tall = (height - rows.flip(1).argmax(1) - rows.argmax(1)) * rows.amax(1)
    size = torch.tensor([width, height], device=found.device)
    places = places_of(found[:, len(CLASSES) :])
    seen = ~truth.joints[..., 0].isnan() & (tall > 0)[:, None]
    for given in (places, torch.full_like(places, 0.5)):
        errors = ((given - truth.joints) * size).norm(dim=2) / tall.clamp(min=1)[:, None]
        columns.append(torch.where(seen, errors, 0).sum(1))
    columns.append(seen.sum(1))
    return torch.stack([column.double().cpu() for column in columns], dim=1)
