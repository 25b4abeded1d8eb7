"""Training losses, all means, and the objective of every search.

Shapes: estimates and targets "b s c u", present "b s" (false where the target is silence).

    snr       10 log10((|e|^2 + 1e-3 |t|^2) / |t|^2) / 10 of present sources: -SNR in units of 10 dB, floored at -30 dB,
              plus `absent_weight` times the energy of absent outputs relative to that of the batch's mixtures
    si_sdr    the same with the target scaled to the estimate (Le Roux et al. 2019)
    l1, mse   over everything
    l1_stft   l1 plus multi-resolution STFT (Yamamoto et al. 2020), by auraloss
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vimss.train.config import TrainingConfig

FLOOR = 1e-3
"""-30 dB: a source separated better than that has no more to gain, so others are heard."""

TINY = 1e-8
"""Energy below which a signal counts as silence; keeps logarithms and quotients finite."""

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def make_loss(config: TrainingConfig) -> Loss:
    """The loss of the settings, as a function of (estimates, targets, present, mixture "b c u")."""
    if config.loss == "l1":
        return lambda estimates, targets, _present, _mixture: (estimates - targets).abs().mean()
    if config.loss == "mse":
        return lambda estimates, targets, _present, _mixture: ((estimates - targets) ** 2).mean()
    if config.loss == "l1_stft":
        return _l1_stft()
    ratio = negative_snr if config.loss == "snr" else negative_si_sdr

    def by_presence(estimates: Tensor, targets: Tensor, present: Tensor, mixture: Tensor) -> Tensor:
        wanted = _mean(ratio(estimates, targets) / 10, present)
        # Of the whole batch: in the window of one mixture there may be next to nothing, and a quotient without bound.
        level = estimates.square().mean((2, 3)) / (mixture.square().mean() + TINY)
        return wanted + config.absent_weight * _mean(level, ~present)

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
    """The estimates in the order in which their summed error is least: permutation invariance for `slots`."""
    pairwise = (estimates[:, :, None] - targets[:, None]).square().sum((3, 4)).detach().cpu().numpy()
    orders = [linear_sum_assignment(errors.T)[1] for errors in pairwise]
    index = torch.as_tensor([list(order) for order in orders], device=estimates.device)
    return torch.take_along_dim(estimates, index[:, :, None, None], dim=1)


def _mean(values: Float[Tensor, "b s"], chosen: Bool[Tensor, "b s"]) -> Tensor:
    """Mean over the chosen ones; zero, with gradients, where there are none."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def _l1_stft() -> Loss:
    from auraloss.freq import MultiResolutionSTFTLoss

    spectral = MultiResolutionSTFTLoss(
        fft_sizes=[512, 1024, 256], hop_sizes=[128, 256, 64], win_lengths=[512, 1024, 256]
    )

    def loss(estimates: Tensor, targets: Tensor, present: Tensor, _mixture: Tensor) -> Tensor:
        # The spectral convergence divides by the target's norm: absent sources have none.
        wanted = spectral(estimates[present], targets[present]) if present.any() else estimates.sum() * 0
        return (estimates - targets).abs().mean() + wanted

    return loss
