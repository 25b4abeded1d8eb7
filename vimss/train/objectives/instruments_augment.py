"""Changes of players' pictures in training, so that a network recognises instruments in drawings that it never saw.

    changed = augment(pictures, np.random.default_rng(0))

Things are drawn around the instrument. Then each picture is zoomed, displaced, turned, sheared, stretched and mirrored
by one affine map, and bent, which changes the proportions of player and instrument. Its colours are mixed anew, up to
grey ones and negatives, blurred and made noisy. What an instrument is does not change by any of these.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

ZOOM = (-0.35, 0.25)
"""Logarithm of the factor by which the picture grows."""
TURN = 0.22
"""Radians."""
SHEAR, STRETCH, DISPLACEMENT = 0.18, 0.2, 0.15
"""Share of the picture's half side; the stretch is the logarithm of width against height."""
BENDS, BEND = 5, 0.04
"""A bend is smooth between as many places across and down, each displaced by this standard deviation in half sides."""
THINGS, THING_PROBABILITY = 3, 0.4
"""Most things that are drawn, and the probability of each."""
THING_SIDES = (0.01, 0.3)
"""Width and height of a thing, as shares of the picture's side, even in their logarithm: bars, boxes, frames."""
GREY, NEGATIVE = 0.2, 0.1
"""Probabilities."""
MIX = 0.4
"""Standard deviation of what each colour gets of each."""
NOISE = 0.03
"""Standard deviation."""


def augment(pictures: UInt8[Tensor, "n h w k"], rng: np.random.Generator) -> UInt8[Tensor, "n h w k"]:
    """The pictures, each changed at random; more channels go with them, as a mask of zeros and ones does."""
    count, device = len(pictures), pictures.device
    given = with_things(pictures.cpu(), rng).to(device).movedim(-1, 1).float()
    grid = F.affine_grid(_maps(count, rng).to(device), list(given.shape), align_corners=False)
    grid = grid + _bends(count, (given.shape[2], given.shape[3]), rng).to(device)
    moved = F.grid_sample(given, grid, padding_mode="reflection", align_corners=False)
    mask = moved[:, 3:]
    x = _recoloured(moved[:, :3] / 255, rng)
    share = torch.from_numpy(rng.uniform(0, 1, (count, 1, 1, 1)).astype(np.float32)).to(device)
    x = x + share * (_blurred(x) - x)
    # Even noise is drawn faster than normal one.
    noise = NOISE * 12**0.5 * (torch.from_numpy(rng.random(tuple(x.shape), np.float32)).to(device) - 0.5)
    changed = torch.cat([(x + noise).clamp(0, 1) * 255, mask], dim=1)
    return changed.round().to(torch.uint8).movedim(1, -1)


def _maps(count: int, rng: np.random.Generator) -> Float32[Tensor, "n 2 3"]:
    """From places in the changed picture to those in the given one."""

    def drawn(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, count)

    smaller, turn = np.exp(-drawn(*ZOOM)), drawn(-TURN, TURN)
    stretch, shear = np.exp(drawn(-STRETCH, STRETCH)), drawn(-SHEAR, SHEAR)
    mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    across, down = np.cos(turn) * smaller, np.sin(turn) * smaller
    maps = np.empty((count, 2, 3), np.float32)
    maps[:, 0, 0], maps[:, 0, 1] = across * stretch * mirror, shear * across - down
    maps[:, 1, 0], maps[:, 1, 1] = down * mirror, (across + shear * down) / stretch
    maps[:, :, 2] = rng.uniform(-DISPLACEMENT, DISPLACEMENT, (count, 2))
    return torch.from_numpy(maps)


def _bends(count: int, size: tuple[int, int], rng: np.random.Generator) -> Float32[Tensor, "n h w 2"]:
    """Smooth displacements, as wide as a body: heads, arms and instruments become larger or smaller than each other."""
    drawn = torch.from_numpy((BEND * rng.standard_normal((count, 2, BENDS, BENDS))).astype(np.float32))
    down, across = (F.interpolate(torch.eye(BENDS)[None], n, mode="linear", align_corners=True)[0] for n in size)
    return torch.einsum("nkij,ih,jw->nhwk", drawn, down, across)


def with_things(pictures: UInt8[Tensor, "n h w k"], rng: np.random.Generator) -> UInt8[Tensor, "n h w k"]:
    """The pictures with boxes and bars of one colour, behind the instrument or player where more channels show it."""
    changed, (height, width) = pictures.clone(), pictures.shape[1:3]
    least, most = (float(side) for side in np.log(THING_SIDES))
    for picture in changed:
        for _ in range(rng.binomial(THINGS, THING_PROBABILITY)):
            down, across = np.exp(rng.uniform(least, most, 2)) / 2
            middle, centre = rng.random(2)
            rows = slice(max(0, round(height * (middle - down))), round(height * (middle + down)) + 1)
            columns = slice(max(0, round(width * (centre - across))), round(width * (centre + across)) + 1)
            place, colour = picture[rows, columns], torch.from_numpy(rng.integers(0, 256, 3, np.uint8))
            hidden = (place[..., 3:] > 0).any(-1, keepdim=True)
            place[..., :3] = torch.where(hidden, place[..., :3], colour)
    return changed


def _blurred(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Means of 3 x 3 pixels, by sums of slices."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    return (x[..., :-2] + x[..., 1:-1] + x[..., 2:]) / 9


def _recoloured(x: Float[Tensor, "n 3 h w"], rng: np.random.Generator) -> Float[Tensor, "n 3 h w"]:
    """Other colours of the same picture, about a mean of their own."""
    count = len(x)
    mix = MIX * np.eye(3) + MIX * rng.standard_normal((count, 3, 3))
    mix[rng.random(count) < GREY] = 1 / 3
    gain = np.exp(rng.uniform(-0.5, 0.5, count)) * np.where(rng.random(count) < NEGATIVE, -1, 1)
    mix *= gain[:, None, None]
    means = torch.from_numpy(rng.uniform(0.25, 0.75, (count, 3, 1, 1)).astype(np.float32)).to(x.device)
    given = x - x.mean((2, 3), keepdim=True)
    return torch.einsum("nij,njhw->nihw", torch.from_numpy(mix.astype(np.float32)).to(x.device), given) + means
