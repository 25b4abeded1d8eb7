"""Samples as one of 256 levels that lie closer together near 0: mu-law, as telephones have it (ITU-T G.711).

    levels = level_of(torch.tensor([0.0, 0.5]))       # 128, 239
    values = values_of_levels()                       # "256", -1 to 1
    expected(log_odds)                                # "*b 256" -> "*b": the mean of the values under these odds

Van den Oord et al. (2016, WaveNet) predict such levels: f(x) = sign(x) ln(1 + mu |x|) / ln(1 + mu) with mu = 255.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

LEVELS = 256
MU = LEVELS - 1


def level_of(signal: Float[Tensor, "*b"]) -> Int64[Tensor, "*b"]:
    """The nearest level of each sample; what lies beyond -1 to 1 has the first or the last."""
    x = signal.clamp(-1, 1)
    compressed = x.sign() * torch.log1p(MU * x.abs()) / math.log1p(MU)
    return torch.floor((compressed + 1) / 2 * MU + 0.5).long()


def values_of_levels() -> Float[Tensor, " k"]:
    """The sample that each level stands for."""
    compressed = torch.linspace(-1, 1, LEVELS, dtype=torch.float64)
    return (compressed.sign() * torch.expm1(compressed.abs() * math.log1p(MU)) / MU).float()


def expected(log_odds: Float[Tensor, "*b k"]) -> Float[Tensor, "*b"]:
    """The sample that has the least mean square error under the levels' probabilities: their mean."""
    return log_odds.softmax(-1) @ values_of_levels().to(log_odds)
