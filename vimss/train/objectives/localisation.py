"""The objective `localisation`: where in the picture of all players a second of sound comes from.

    objective = Localisation(settings, recipe)
    maps = objective.build().maps(sound, scene)         # log-odds "b p s k l" of each place of a scene

Trained as `correspondence` is with AVOL-Net, on pictures of single players, and without boxes. It is judged on scenes:
the players of a piece, and one who rests, side by side in random order as one picture, with the stem of one of them.

The figure is pointing accuracy: how often the highest place of the map, brought to the size of the picture, lies in the
box of the player who sounds; chance is the box's share of the scene. Beside it stand, for the network and for maps that
do not listen (see `scenes`), the figures of the field: cIoU of the highest half of the pixels, as Senocak et al. 2018
and EZ-VSL (Mo and Morgado 2022) compute it, and cIoU of as many pixels as the box has, each also as the share of sounds
for which it is 0.5 or more (AP50). cIoU of half of the pixels is at most twice the box's share of the scene: below a
quarter AP50 is 0 for every method, and that is so with three or more players side by side.

With scenes from which the player who sounds was taken, the highest number of the map is a confidence: the largest F1
over thresholds, as SLAVC has it (Mo and Morgado 2022b), counts what is found there as wrong, and of the other scenes a
map as right whose cIoU at the box's share is 0.5 or more.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor, nn

from vimss.errors import DataError
from vimss.shards.clip import Clip, Player
from vimss.shards.recipe import Recipe
from vimss.stream.batch import Batch
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Mixture, Source
from vimss.train.config import Settings
from vimss.train.device import to_device
from vimss.train.objectives.correspondence import Correspondence, PicturesInterface
from vimss.train.objectives.correspondence_network import CorrespondenceNetwork
from vimss.train.objectives.scenes import (
    METHODS,
    SCORES,
    in_a_row,
    maps_of,
    max_f1,
    overlap_at_box_share,
    scores_of,
)

MOST = 4
"""Players of a validation mixture who sound: of each a row of FOUND is kept."""

FOUND = 3
"""Confidence of the whole scene, whether the player is found there, and confidence of the scene without the player."""

F1 = "F1 with scenes without the player"


class BoxesInterface(PicturesInterface):
    """Shows all players, also one who rests, with a fourth channel that is 1 in the box of the player."""

    @property
    def members(self) -> tuple[str, ...]:
        """Boxes beside them."""
        return (*self.inner.members, "masks")

    def of_player(self, clip: Clip, player: Player) -> UInt8[np.ndarray, "v h w 4"]:
        """The player's pictures and boxes."""
        pictures = self.inner.of_player(clip, player)
        if player.boxes is None:
            raise DataError(
                "objective: localisation needs the boxes of players in their pictures",
                got=f"none of '{player.part}' in {clip.key}",
                fix="use a corpus that draws its players, or objective: correspondence",
            )
        inside = np.zeros((*pictures.shape[:3], 1), np.uint8)
        for picture, (left, top, right, bottom) in zip(inside, player.boxes[0], strict=True):
            picture[top:bottom, left:right] = 1
        return np.concatenate([pictures, inside], axis=-1)

    def query(
        self, mixture: Mixture, mixing: MixingConfig, rng: np.random.Generator
    ) -> tuple[list[Sequence[Source]], list[np.ndarray]]:
        """The stems of the players who sound, and of all players the middle picture, those who rest last."""
        targets, rows = super().query(mixture, mixing, rng)
        resting = [player.view for player in mixture.distractors if player.view is not None]
        return targets, [*rows, *(view[len(view) // 2] for view in resting)]


class Localisation(Correspondence):
    """Where a sound comes from."""

    def __init__(self, settings: Settings, recipe: Recipe, features: str = "") -> None:
        super().__init__(settings, recipe, features)
        self.with_boxes = BoxesInterface(settings, recipe)

    @property
    def validation_interface(self) -> BoxesInterface:
        """With boxes, which no training reads, and resting players."""
        return self.with_boxes

    def examine(self, network: nn.Module, batch: Batch, device: torch.device) -> Float64[Tensor, " k"]:
        """Sums of SCORES for each of METHODS, the number of players, and FOUND of each player."""
        assert isinstance(network, CorrespondenceNetwork), "the network of this objective"  # noqa: S101
        assert batch.context is not None and batch.players is not None, "pictures are always shown"  # noqa: S101
        shown = torch.from_numpy(batch.context[0, batch.players[0]])
        rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(batch.mixture).tobytes()))
        order = rng.permutation(len(shown)).tolist()
        sounding = [player for player in range(len(batch.present[0])) if batch.present[0, player]]
        sums = torch.zeros(len(METHODS), len(SCORES), dtype=torch.float64)
        found = torch.full((MOST, FOUND), torch.nan, dtype=torch.float64)
        if sounding:
            sound = to_device(batch.targets[:, sounding], device)
            scene = in_a_row(shown, order)
            listened = network.maps(sound, scene[None, None, ..., :3].to(device))[0, 0].double().cpu()
            for row, player in enumerate(sounding):
                box = in_a_row(_alone(shown, player), order)[..., 3] > 0
                maps = maps_of(listened, row, box, rng)
                sums += torch.tensor([scores_of(maps[method], box) for method in METHODS], dtype=torch.float64)
                without = in_a_row(shown, [other for other in order if other != player])[None, None, ..., :3].to(device)
                empty = network.maps(sound[:, row : row + 1], without)
                hit = overlap_at_box_share(maps["network"], box) >= 0.5
                found[row] = torch.tensor([float(listened[row].max()), float(hit), float(empty.max())])
        count = torch.tensor([float(len(sounding))], dtype=torch.float64)
        return torch.cat([sums.flatten(), count, found.flatten()])

    def value(self, kept: Float64[Tensor, "m k"]) -> float:
        """Pointing accuracy; NaN where nobody sounds, or a number is not finite."""
        return _parts(kept).means["network"]["pointing"]

    def beside(self, kept: Float64[Tensor, "m k"]) -> dict[str, float]:
        """The other scores of the network, its F1, and all scores of the maps that do not listen."""
        parts = _parts(kept)
        own = {score: value for score, value in parts.means["network"].items() if score != "pointing"}
        others = {
            f"{score}, {method}": value
            for score in SCORES
            for method, scores in parts.means.items()
            if method != "network"
            for value in [scores[score]]
        }
        return {**own, F1: max_f1(parts.found), **others}

    def guess(self, kept: Float64[Tensor, "m k"]) -> Float64[Tensor, "m k"]:
        """The centre of the scene for every sound, with a confidence at which nothing is found."""
        width = len(METHODS) * len(SCORES)
        sums, players, found = kept[:, :width], kept[:, width : width + 1], kept[:, width + 1 :]
        table = sums.unflatten(1, (len(METHODS), len(SCORES))).clone()
        for method in ("network", "prior"):
            table[:, METHODS.index(method)] = table[:, METHODS.index("centre")]
        unsure = torch.where(found.isnan(), found, torch.zeros_like(found))
        return torch.cat([table.flatten(1), players, unsure], dim=1)


@dataclass(frozen=True)
class _Parts:
    """What was kept of a set of mixtures."""

    means: dict[str, dict[str, float]]
    """Of each method each score, over players."""
    found: Float64[Tensor, "n 3"]
    """FOUND of all players."""


def _parts(kept: Float64[Tensor, "m k"]) -> _Parts:
    width = len(METHODS) * len(SCORES)
    sums, players = kept[:, :width].sum(0), kept[:, width].sum()
    table = (sums / players).reshape(len(METHODS), len(SCORES)).tolist()
    means = {method: dict(zip(SCORES, row, strict=True)) for method, row in zip(METHODS, table, strict=True)}
    found = kept[:, width + 1 :].reshape(-1, FOUND)
    return _Parts(means, found[~found[:, 1].isnan()])


def _alone(shown: UInt8[Tensor, "p h w 4"], player: int) -> UInt8[Tensor, "p h w 4"]:
    """The players, of whom one alone has a box."""
    others = shown.clone()
    others[torch.arange(len(shown)) != player, ..., 3] = 0
    return others
