"""Changes of players' pictures in training, so that a network recognises instruments in drawings that it never saw.

    changed = augment(pictures, np.random.default_rng(0))

Each picture is zoomed, displaced, turned, sheared, stretched and mirrored by one affine map, and its colours are mixed
anew, up to grey ones and negatives, blurred and made noisy. What an instrument is does not change by any of these.
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
GREY, NEGATIVE = 0.2, 0.1
"""Probabilities."""
MIX = 0.4
"""Standard deviation of what each colour gets of each."""
NOISE = 0.03


def augment(pictures: UInt8[Tensor, "n h w k"], rng: np.random.Generator) -> UInt8[Tensor, "n h w k"]:
    """The pictures, each changed at random; a fourth channel, of zeros and ones, goes with them."""
    count, device = len(pictures), pictures.device
    given = pictures.movedim(-1, 1).float()
    grid = F.affine_grid(_maps(count, rng).to(device), list(given.shape), align_corners=False)
    mask = F.grid_sample(given[:, 3:], grid, align_corners=False)
    x = F.grid_sample(given[:, :3] / 255, grid, padding_mode="reflection", align_corners=False)
    x = _recoloured(x, rng)
    share = torch.from_numpy(rng.uniform(0, 1, (count, 1, 1, 1)).astype(np.float32)).to(device)
    x = x + share * (F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x)
    noise = NOISE * torch.from_numpy(rng.standard_normal(tuple(x.shape), np.float32)).to(device)
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
