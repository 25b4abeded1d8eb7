"""The objective `separation`: the stems of a mixture, by a Separator.

    objective = Separation(settings, recipe)
    share = objective.loss(objective.build(), batch, totals)

Its figure is the mean floored -SNR in dB over the present sources of the validation mixtures, whatever the training
loss; beside it stands their mean SI-SDR improvement, as evaluation has it. A network answers each excerpt by one
window, the shortest that is long enough, with the excerpt in its middle; only the excerpt is scored.

Losses are means. Shapes: estimates and targets "b s c u", present "b s" (false where the target is silence).

    snr       10 log10((|e|^2 + 1e-3 |t|^2) / |t|^2) / 10 of present sources: -SNR in units of 10 dB, floored at -30 dB,
              plus `absent_weight` times the energy of absent outputs relative to that of the batch's mixtures
    si_sdr    the same with the target scaled to the estimate (Le Roux et al. 2019)
    l1, mse   over everything; from mse, `dissimilarity_weight` times the squared error of each output to the other
              targets that sound is taken away (Huang et al. 2014, Chandna et al. 2017)
    l1_stft   l1 plus multi-resolution STFT (Yamamoto et al. 2020) of present sources, by auraloss
    cross_entropy  of the target's mu-law levels, over everything (van den Oord et al. 2016); of networks that give the
              log-odds of levels for each sample

Slots have no order of their own: `training.slot_order` says which target each is trained on. They are always scored in
their best order.

A batch may be spread over workers and parts. Each of them divides by the counts of the whole batch, so that the shares
add up to the loss of the batch, whatever the parts.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from vimss.metrics import si_sdr_improvement
from vimss.model.interface import Interface
from vimss.model.mu_law import expected, level_of
from vimss.model.separator import Separator, load_separator, save_separator
from vimss.shards.recipe import Recipe
from vimss.stream.batch import Batch
from vimss.stream.mix import Window
from vimss.stream.pitch import height
from vimss.train.config import Settings, TrainingConfig
from vimss.train.device import context_of, to_device

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


class Separation:
    """One output per label, query or slot."""

    def __init__(self, settings: Settings, recipe: Recipe, features: str = "") -> None:
        self.settings = settings
        self.recipe = recipe
        self.interface = Interface(settings.model, recipe.labels, features)

    @property
    def validation_interface(self) -> Interface:
        """The same as in training."""
        return self.interface

    def window(self) -> Window:
        """As wide as the network asks for."""
        output = self.settings.training.output_samples
        return Window(self.settings.model.geometry.input_samples(output), output, self.recipe.sample_rate)

    def window_around(self, samples: int) -> Window:
        """Around the excerpt lies what the network sees of an output window that is long enough for it."""
        shape = self.settings.model.geometry
        return Window(shape.input_samples(shape.window_at_least(samples)), samples, self.recipe.sample_rate)

    def build(self) -> nn.Module:
        """A Separator."""
        return Separator(self.settings.model, self.recipe.labels, self.recipe.sample_rate)

    def save(self, folder: Path, network: nn.Module, card: dict[str, Any]) -> None:
        """As `load_separator` reads it."""
        assert isinstance(network, Separator), "the network of this objective"  # noqa: S101
        save_separator(folder, network, card)

    def load(self, folder: Path) -> nn.Module:
        """A Separator with the settings of this training."""
        return load_separator(folder, self.settings.model)

    def totals(self, batch: Batch) -> Float64[np.ndarray, " n"]:
        """Those of `count`, over the output window."""
        answered = batch.targets.shape[-1]
        first = (batch.mixture.shape[-1] - answered) // 2
        return count(batch.targets, batch.present, batch.mixture[:, :, first : first + answered])

    @functools.cached_property
    def _loss_of(self) -> Loss:
        return make_loss(self.settings.training)

    def loss(self, network: Callable[..., Tensor], batch: Batch, totals: Tensor) -> Tensor:
        """That of `training.loss`; slots are compared with the targets in the order of `training.slot_order`."""
        device = totals.device
        targets, present = to_device(batch.targets, device), to_device(batch.present, device)
        by_levels = self.settings.training.loss == "cross_entropy"
        more = {"log_odds": True} if by_levels else {}
        estimates = network(to_device(batch.mixture, device), *context_of(batch, device), **more).float()
        if self.interface.any_order:
            index = _least_error(expected(estimates) if by_levels else estimates, targets)
            if self.settings.training.slot_order == "pitch":
                by_pitch, known = order_by_pitch(batch.targets, self.recipe.sample_rate)
                index[to_device(known, device)] = to_device(by_pitch[known], device)
            estimates = _in_order(estimates, index)
        return self._loss_of(estimates, targets, present, Totals(*totals))

    def examine(self, network: nn.Module, batch: Batch, device: torch.device) -> Tensor:
        """The sum of the floored -SNR over the present sources, and their number; then both sums for each label.

        After them the same of SI-SDR improvements, of the sources that have one.
        """
        targets, present = to_device(batch.targets, device), to_device(batch.present, device)
        estimates = network(to_device(batch.mixture, device), *context_of(batch, device))
        first = (estimates.shape[-1] - targets.shape[-1]) // 2
        estimates = estimates[..., first : first + targets.shape[-1]]
        if self.interface.any_order:
            estimates = best_order(estimates, targets)
        values = negative_snr(estimates, targets)[present]
        whole = torch.tensor([float(values.sum()), float(values.numel())], dtype=torch.float64)
        assert batch.labels is not None, "its interface names targets"  # noqa: S101
        labels = torch.from_numpy(batch.labels[batch.present])
        gains = self._improvements_of(batch, estimates[0].float().cpu().numpy())
        known = gains.isfinite()
        gained = torch.stack([gains[known].sum(), known.sum().double()])
        of_gains = self._label_sums(gains[known], labels[known])
        return torch.cat([whole, self._label_sums(values.double().cpu(), labels), gained, of_gains])

    def _label_sums(self, values: Float64[Tensor, " n"], labels: Int64[Tensor, " n"]) -> Float64[Tensor, " k"]:
        """The sum of the values of each label, and then how many each has."""
        sums = torch.zeros(2, len(self.recipe.labels), dtype=torch.float64)
        sums.index_add_(1, labels, torch.stack([values, values.new_ones(values.shape)]))
        return sums.flatten()

    def _improvements_of(self, batch: Batch, estimates: Float32[np.ndarray, "s c u"]) -> Float64[Tensor, " n"]:
        """The SI-SDR improvement of each present source of a batch of one, NaN of a silent one."""
        samples, rate = batch.targets.shape[-1], self.recipe.sample_rate
        first = self.window_around(samples).margin
        mixture = batch.mixture[0, :, first : first + samples]
        gains = [
            si_sdr_improvement(mixture, batch.targets[0, place], estimates[place], rate)
            for place in np.flatnonzero(batch.present[0])
        ]
        return torch.tensor(gains, dtype=torch.float64)

    def value(self, kept: Tensor) -> float:
        """The mean over all present sources; NaN where there are none."""
        total, count = 0.0, 0.0
        # One after the other, as they always were: a sum in another order has other last bits.
        for each, number in kept[:, :2].tolist():
            total, count = total + each, count + number
        return total / count if count else math.nan

    def by_label(self, kept: Float64[Tensor, "m k"]) -> dict[str, float]:
        """The mean over the present sources of each label; empty for an objective whose `examine` keeps other sums."""
        if kept.shape[1] not in (self._width, 2 * self._width):
            return {}
        totals, counts = kept[:, 2 : self._width].sum(0).tensor_split(2)
        found = zip(self.recipe.labels, totals.tolist(), counts.tolist(), strict=True)
        return {label: total / count for label, total, count in found if count}

    def improvements(self, kept: Float64[Tensor, "m k"]) -> Float64[Tensor, "m l"] | None:
        """The SI-SDR improvements among `kept`, for `value` and `by_label` to average; None where none are kept."""
        return kept[:, self._width :] if kept.shape[1] == 2 * self._width else None

    @property
    def _width(self) -> int:
        """Sums and numbers of one figure: of all sources, and of those of each label."""
        return 2 + 2 * len(self.recipe.labels)


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
        return functools.partial(_mse, config.dissimilarity_weight)
    if config.loss == "l1_stft":
        return _l1_stft()
    if config.loss == "cross_entropy":
        return _cross_entropy
    ratio = negative_snr if config.loss == "snr" else negative_si_sdr

    def by_presence(estimates: Tensor, targets: Tensor, present: Tensor, totals: Totals) -> Tensor:
        wanted = (ratio(estimates, targets) * present).sum() / 10 / totals.present.clamp(min=1)
        # Of the whole batch: in the window of one mixture there may be next to nothing, and a quotient without bound.
        level = estimates.square().mean((2, 3)) / (totals.energy / totals.samples + TINY)
        return wanted + config.absent_weight * (level * ~present).sum() / totals.absent.clamp(min=1)

    return by_presence


def negative_snr(estimates: Float[Tensor, "b s c u"], targets: Float[Tensor, "b s c u"]) -> Float[Tensor, "b s"]:
    """-SNR in dB, floored at -30: the figure of separation is its mean over present sources."""
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
    return _in_order(estimates, _least_error(estimates, targets))


def _in_order(estimates: Float[Tensor, "b s *n"], index: Int64[Tensor, "b s"]) -> Float[Tensor, "b s *n"]:
    """The estimate of each target, whose number is in `index`."""
    return torch.take_along_dim(estimates, index.reshape(*index.shape, *[1] * (estimates.ndim - 2)), dim=1)


def _least_error(estimates: Float[Tensor, "b s c u"], targets: Float[Tensor, "b s c u"]) -> Int64[Tensor, "b s"]:
    """The slot of each target in the best order.

    Where estimates are not finite there is no such order; any will do, and whoever takes their loss will see it.
    """
    pairwise = (estimates[:, :, None] - targets[:, None]).square().sum((3, 4)).detach().cpu().numpy()
    orders = [linear_sum_assignment(np.nan_to_num(errors.T, posinf=0.0))[1] for errors in pairwise]
    return torch.as_tensor(np.stack(orders), device=estimates.device)


def order_by_pitch(
    targets: Float32[np.ndarray, "b s c u"], sample_rate: int
) -> tuple[Int64[np.ndarray, "b s"], Bool[np.ndarray, " b"]]:
    """The slot of each target where the highest is in the first slot, and in which examples all have a pitch."""
    heights = np.array([[height(stem, sample_rate) for stem in stems] for stems in targets])
    return np.argsort(np.argsort(-heights, axis=1), axis=1), np.isfinite(heights).all(axis=1)


def _l1(estimates: Tensor, targets: Tensor, _present: Tensor, totals: Totals) -> Tensor:
    return (estimates - targets).abs().sum() / totals.values


def _mse(dissimilarity_weight: float, estimates: Tensor, targets: Tensor, present: Tensor, totals: Totals) -> Tensor:
    wanted = (estimates - targets).square().sum() / totals.values
    if not dissimilarity_weight:
        return wanted
    return wanted - dissimilarity_weight * _error_to_others(estimates, targets, present) / totals.values


def _error_to_others(
    estimates: Float[Tensor, "b s c u"], targets: Float[Tensor, "b s c u"], present: Bool[Tensor, "b s"]
) -> Float[Tensor, ""]:
    """The sum of |e_i - t_j|^2 over outputs i and other targets j that sound."""
    energy, others_energy = estimates.square().sum((2, 3)), targets.square().sum((2, 3))
    products = torch.einsum("bicu,bjcu->bij", estimates, targets)
    errors = energy[:, :, None] + others_energy[:, None] - 2 * products
    same = torch.eye(errors.shape[1], dtype=torch.bool, device=errors.device)
    return (errors * (present[:, None] & ~same)).sum()


def _cross_entropy(log_odds: Tensor, targets: Tensor, _present: Tensor, totals: Totals) -> Tensor:
    return F.cross_entropy(log_odds.flatten(0, 3), level_of(targets).flatten(), reduction="sum") / totals.values


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
