"""Training losses, all means, and the objective of every search.

Shapes: estimates and targets "b s c u", present "b s" (false where the target is silence).

    snr       10 log10((|e|^2 + 1e-3 |t|^2) / |t|^2) / 10 of present sources: -SNR in units of 10 dB, floored at -30 dB,
              plus `absent_weight` times the energy of absent outputs relative to that of the batch's mixtures
    si_sdr    the same with the target scaled to the estimate (Le Roux et al. 2019)
    l1, mse   over everything
    l1_stft   l1 plus multi-resolution STFT (Yamamoto et al. 2020) of present sources, by auraloss

A batch may be spread over workers and parts. Each of them divides by the counts of the whole batch, so that the shares
add up to the loss of the batch, whatever the parts:

    share = make_loss(config)(estimates, targets, present, Totals(*torch.from_numpy(count(...)).float()))
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vimss.train.config import TrainingConfig

FLOOR = 1e-3
"""-30 dB: a source separated better than that has no more to gain, so others are heard."""

TINY = 1e-8
"""Energy below which a signal counts as silence; keeps logarithms and quotients finite."""


class Totals(NamedTuple):
    """Of the whole batch, over all its parts and workers."""

    present: Float[Tensor, ""]
    """Outputs that sound."""
    absent: Float[Tensor, ""]
    """Outputs whose target is silence."""
    values: Float[Tensor, ""]
    """Numbers in the targets."""
    energy: Float[Tensor, ""]
    """Sum of the squares of the mixtures over the output window."""
    samples: Float[Tensor, ""]
    """Numbers in the mixtures over the output window."""


Loss = Callable[[Tensor, Tensor, Tensor, Totals], Tensor]


def count(
    targets: Float32[np.ndarray, "b s c u"], present: Bool[np.ndarray, "b s"], mixture: Float32[np.ndarray, "b c u"]
) -> Float64[np.ndarray, "5"]:
    """What Totals are made of; the numbers of parts and workers add up."""
    sounding, energy = present.sum(), np.square(mixture).sum(dtype=np.float64)
    return np.array([sounding, present.size - sounding, targets.size, energy, mixture.size], np.float64)


def make_loss(config: TrainingConfig) -> Loss:
    """The loss of the settings: the share that (estimates, targets, present) have in that of a batch of `totals`."""
    if config.loss == "l1":
        return _l1
    if config.loss == "mse":
        return lambda estimates, targets, _, totals: (estimates - targets).square().sum() / totals.values
    if config.loss == "l1_stft":
        return _l1_stft()
    ratio = negative_snr if config.loss == "snr" else negative_si_sdr

    def by_presence(estimates: Tensor, targets: Tensor, present: Tensor, totals: Totals) -> Tensor:
        wanted = (ratio(estimates, targets) * present).sum() / 10 / totals.present.clamp(min=1)
        # Of the whole batch: in the window of one mixture there may be next to nothing, and a quotient without bound.
        level = estimates.square().mean((2, 3)) / (totals.energy / totals.samples + TINY)
        return wanted + config.absent_weight * (level * ~present).sum() / totals.absent.clamp(min=1)

    return by_presence


def negative_snr(estimates: Float[Tensor, "b s c u"], targets: Float[Tensor, "b s c u"]) -> Float[Tensor, "b s"]:
    """-SNR in dB, floored at -30: the objective of every search is its mean over present sources."""
    error = (estimates - targets).square().sum((2, 3))
    energy = targets.square().sum((2, 3))
    return 10 * torch.log10((error + FLOOR * energy + TINY) / (energy + TINY))


def negative_si_sdr(estimates: Float[Tensor, "b s c u"], targets: Float[Tensor, "b s c u"]) -> Float[Tensor, "b s"]:
    """-SI-SDR in dB, floored at -30; finite for silent targets and estimates."""
    energy = targets.square().sum((2, 3))
    scale = (estimates * targets).sum((2, 3)) / (energy + TINY)
    projection = scale[:, :, None, None] * targets
    wanted = projection.square().sum((2, 3))
    error = (estimates - projection).square().sum((2, 3))
    return 10 * torch.log10((error + FLOOR * wanted + TINY) / (wanted + TINY))


def best_order(estimates: Float[Tensor, "b s c u"], targets: Float[Tensor, "b s c u"]) -> Float[Tensor, "b s c u"]:
    """The estimates in the order in which their summed error is least: permutation invariance for `slots`.

    Where estimates are not finite there is no such order; any will do, and whoever takes their loss will see it.
    """
    pairwise = (estimates[:, :, None] - targets[:, None]).square().sum((3, 4)).detach().cpu().numpy()
    orders = [linear_sum_assignment(np.nan_to_num(errors.T, posinf=0.0))[1] for errors in pairwise]
    index = torch.as_tensor(np.stack(orders), device=estimates.device)
    return torch.take_along_dim(estimates, index[:, :, None, None], dim=1)


def _l1(estimates: Tensor, targets: Tensor, _present: Tensor, totals: Totals) -> Tensor:
    return (estimates - targets).abs().sum() / totals.values


def _l1_stft() -> Loss:
    from auraloss.freq import MultiResolutionSTFTLoss

    spectral = MultiResolutionSTFTLoss(
        fft_sizes=[512, 1024, 256], hop_sizes=[128, 256, 64], win_lengths=[512, 1024, 256]
    )

    def loss(estimates: Tensor, targets: Tensor, present: Tensor, totals: Totals) -> Tensor:
        share = _l1(estimates, targets, present, totals)
        # One by one: the spectral convergence of several signals is no mean of theirs. It divides by the target's
        # norm, and absent sources have none.
        pairs = zip(estimates[present].split(1), targets[present].split(1), strict=True)
        for estimate, target in pairs:
            share = share + spectral(estimate, target) / totals.present
        return share

    return loss
