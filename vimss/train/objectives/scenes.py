"""Players side by side as one picture, maps of where a sound comes from, and how good such a map is.

    scene = in_a_row(pictures, order=[1, 0])                       # "h w k", w twice as wide
    maps = maps_of(log_odds, 0, box, rng)                          # by name: the network's, and those of METHODS
    scores_of(maps["network"], box)                                # pointing, cIoU, AP50, as SCORES names them

A map has the size of the scene; the places of a network are brought to it by linear interpolation, as in EZ-VSL (Mo and
Morgado 2022). METHODS beside the network know less or more than it: `centre`, the middle of the scene; `prior`, the
network's mean map over the sounds of the scene, which sees who could sound and does not know who does; `random`;
and `oracle`, the box on the network's own grid: what is lost to the grid and to the definition of a score.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64, Shaped
from torch import Tensor

METHODS = ("network", "centre", "prior", "random", "oracle")

SCORES = ("pointing", "cIoU of half", "AP50 of half", "cIoU at box share", "AP50 at box share")
"""`of half`: the map's highest half of the pixels, as is usual; `at box share`: as many pixels as the box has."""


def in_a_row(pictures: Shaped[Tensor, "p h w k"], order: Sequence[int]) -> Shaped[Tensor, "h wide k"]:
    """The pictures of these players side by side, from left to right."""
    chosen = pictures[torch.tensor(order, dtype=torch.long)]
    return chosen.movedim(0, 1).reshape(pictures.shape[1], -1, pictures.shape[3])


def maps_of(
    listened: Float64[Tensor, "s k l"], sound: int, box: Bool[Tensor, "h w"], rng: np.random.Generator
) -> dict[str, Float64[Tensor, "h w"]]:
    """The maps of METHODS for one of the sounds of a scene."""
    height, width = box.shape
    down, across = (torch.linspace(-1, 1, side, dtype=torch.float64) for side in (height, width))
    places = F.adaptive_avg_pool2d(box[None].double(), (listened.shape[1], listened.shape[2]))[0]
    beside = _distance_to(box)
    return {
        "network": _as_large(listened[sound], height, width),
        "centre": -(down[:, None].square() + across.square()),
        "prior": _as_large(listened.mean(0), height, width),
        "random": _as_large(torch.from_numpy(rng.random(places.shape)), height, width),
        # Outside the box all places would be equal, and no half of the pixels the highest.
        "oracle": _as_large(places, height, width) - 1e-3 * beside / beside.max(),
    }


def _distance_to(box: Bool[Tensor, "h w"]) -> Float64[Tensor, "h w"]:
    """The distance of each pixel to the middle of a box, in pixels."""
    rows, columns = (found.double() for found in box.nonzero(as_tuple=True))
    down, across = (torch.arange(side, dtype=torch.float64) for side in box.shape)
    return torch.hypot(down[:, None] - rows.mean(), across - columns.mean())


def _as_large(places: Float64[Tensor, "k l"], height: int, width: int) -> Float64[Tensor, "h w"]:
    return F.interpolate(places[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]


def scores_of(found: Float64[Tensor, "h w"], box: Bool[Tensor, "h w"]) -> list[float]:
    """The values of SCORES; NaN where a number of the map is not finite."""
    if not found.isfinite().all():
        return [float("nan")] * len(SCORES)
    highest = found == found.max()
    pointing = float(box[highest].double().mean())
    half = overlap(_highest(found, box.numel() // 2), box)
    share = overlap_at_box_share(found, box)
    return [pointing, half, float(half >= 0.5), share, float(share >= 0.5)]


def overlap_at_box_share(found: Float64[Tensor, "h w"], box: Bool[Tensor, "h w"]) -> float:
    """The overlap of as many of the highest pixels as the box has."""
    return overlap(_highest(found, int(box.sum())), box)


def _highest(found: Float64[Tensor, "h w"], count: int) -> Bool[Tensor, "h w"]:
    """So many of the highest pixels, and all that are equal to the lowest of them."""
    return found >= found.flatten().topk(max(1, count)).values[-1]


def overlap(found: Bool[Tensor, "h w"], box: Bool[Tensor, "h w"]) -> float:
    """The cIoU of Senocak et al. with one annotator: found pixels of the box over the box and what was beside."""
    return float((found & box).sum() / (box | found).sum().clamp(min=1))


def max_f1(found: Float64[Tensor, "n 3"]) -> float:
    """The largest F1 over all thresholds of the confidence, of rows of a scene's confidence, whether its player is
    found, and the confidence of the scene without the player. 0 without any row.
    """
    sure, right, empty = found.T
    best = 0.0
    for threshold in torch.cat([sure, empty]).unique().tolist():
        reported = sure >= threshold
        hits = float((reported & (right > 0)).sum())
        wrong = float((reported & (right == 0)).sum() + (empty >= threshold).sum())
        best = max(best, 2 * hits / (hits + wrong + len(found)))
    return best
