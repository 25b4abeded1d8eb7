"""What is minimised."""

from typing import get_args

import numpy as np
import pytest
import torch
from test_train import one_thread  # noqa: F401 - a fixture that all use

from vimss.model.mu_law import level_of
from vimss.shards.recipe import load_recipe
from vimss.stream.batch import Batch
from vimss.train.config import Settings, TrainingConfig
from vimss.train.objectives.separation import (
    Separation,
    Totals,
    best_order,
    count,
    make_loss,
    negative_si_sdr,
    negative_snr,
)


def signals(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def totals_of(targets, present, mixture):
    counts = count(targets.numpy(), present.numpy(), mixture.numpy())
    return Totals(*torch.from_numpy(counts).float())


def whole_loss(config, estimates, targets, present):
    return make_loss(config)(estimates, targets, present, totals_of(targets, present, targets.sum(1)))


LOSSES = [name for name in get_args(TrainingConfig.model_fields["loss"].annotation) if name != "cross_entropy"]
"""Those that compare waveforms."""


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_a_finite_mean_with_silent_targets_and_estimates(name):
    estimates = signals(2, 3, 1, 2048).requires_grad_()
    targets = signals(2, 3, 1, 2048)
    targets[:, 2] = 0
    present = torch.tensor([[True, True, False]] * 2)
    loss = whole_loss(TrainingConfig(loss=name), estimates, targets, present)
    loss.backward()
    assert loss.isfinite() and estimates.grad.isfinite().all() and estimates.grad.any()
    silent = torch.zeros_like(estimates).requires_grad_()
    whole_loss(TrainingConfig(loss=name), silent, targets, present).backward()
    assert silent.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_twice_as_large_has_the_same_loss(name):
    estimates, targets = signals(1, 2, 1, 2048), signals(2, 2, 1, 2048)[1:]
    present = torch.tensor([[True, False]])
    once = whole_loss(TrainingConfig(loss=name), estimates, targets, present)
    twice = whole_loss(TrainingConfig(loss=name), *(torch.cat([x, x]) for x in (estimates, targets, present)))
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize("name", LOSSES)
def test_shares_of_unequal_parts_add_up_to_the_loss_of_the_batch(name):
    estimates, targets = signals(5, 3, 1, 2048), signals(10, 3, 1, 2048)[5:]
    present = torch.tensor([[True, False, False]] * 2 + [[True, True, False]] * 2 + [[False] * 3])
    targets = targets * present[:, :, None, None] * torch.arange(1, 6)[:, None, None, None]
    loss, totals = make_loss(TrainingConfig(loss=name)), totals_of(targets, present, targets.sum(1))
    whole = loss(estimates, targets, present, totals)
    parts = [loss(estimates[part], targets[part], present[part], totals) for part in (slice(0, 1), slice(1, 5))]
    torch.testing.assert_close(sum(parts), whole)


def test_every_source_counts_alike_in_the_spectral_loss():
    targets = signals(2, 1, 1, 4096) * torch.tensor([1.0, 0.01])[:, None, None, None]
    wrong, present = targets.clone(), torch.ones(2, 1, dtype=torch.bool)
    losses = []
    for example in (0, 1):
        wrong = targets.clone()
        wrong[example] = 0.5 * wrong[example]
        losses.append(whole_loss(TrainingConfig(loss="l1_stft"), wrong, targets, present))
    assert losses[0] - losses[1] == pytest.approx(0.25 * 0.8, rel=0.1)  # what is left is l1


def test_negative_snr_is_that_of_the_definition_and_floored():
    target = signals(1, 1, 1, 4000)
    noise = signals(2, 1, 1, 4000)[1:]
    expected = 10 * torch.log10(noise.square().sum() / target.square().sum() + 1e-3)
    torch.testing.assert_close(negative_snr(target + noise, target)[0, 0], expected)
    torch.testing.assert_close(negative_snr(target, target)[0, 0], torch.tensor(-30.0))


def test_si_sdr_does_not_care_for_the_level():
    target, estimate = signals(2, 1, 1, 4000).split(1)
    estimate = target + 0.3 * estimate
    torch.testing.assert_close(negative_si_sdr(estimate, target), negative_si_sdr(7 * estimate, target))


def test_cross_entropy_is_that_of_the_levels_of_the_targets():
    targets, present = 0.3 * signals(2, 2, 1, 50), torch.tensor([[True, False]] * 2)
    log_odds = torch.randn(2, 2, 1, 50, 256, generator=torch.Generator().manual_seed(1))
    found = whole_loss(TrainingConfig(loss="cross_entropy"), log_odds, targets, present)
    levels = level_of(targets)
    expected = -log_odds.log_softmax(-1).take_along_dim(levels[..., None], -1).mean()
    torch.testing.assert_close(found, expected)


def test_an_absent_output_costs_by_its_energy_and_weight():
    targets = torch.zeros(1, 1, 1, 100)
    mixture, present = torch.ones(1, 1, 100), torch.zeros(1, 1, dtype=torch.bool)
    loss, totals = make_loss(TrainingConfig(absent_weight=3.0)), totals_of(targets, present, mixture)
    torch.testing.assert_close(loss(torch.full_like(targets, 0.1), targets, present, totals), torch.tensor(0.03))


def test_slots_are_scored_in_their_best_order():
    targets = signals(2, 3, 1, 100)
    torch.testing.assert_close(best_order(targets[:, [2, 0, 1]], targets), targets)


def loss_of_slots(slot_order, slots, targets):
    """The loss of a network whose slots give these sounds."""
    settings = Settings.model_validate({"model": {"outputs": "slots"}, "training": {"slot_order": slot_order}})
    objective = Separation(settings, load_recipe("quickstart", [f"sample_rate={RATE}"]))
    sound, present = np.stack(targets)[None, :, None], np.array([[target.any() for target in targets]])
    batch = Batch(sound.sum(1), sound, present, None, None, np.zeros(1, bool))
    given = torch.from_numpy(np.stack(slots))[None, :, None]
    return float(objective.loss(lambda *inputs: given, batch, torch.from_numpy(objective.totals(batch)).float()))


RATE = 8000
HIGH, LOW = ((0.1 * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE) ** 3).astype(np.float32) for hertz in (440, 220))


def test_slots_are_trained_from_the_highest_target_to_the_lowest():
    for targets in ((HIGH, LOW), (LOW, HIGH)):
        assert loss_of_slots("pitch", (HIGH, LOW), targets) == pytest.approx(-3, abs=0.01)
        assert loss_of_slots("pitch", (LOW, HIGH), targets) > 0


def test_three_slots_are_trained_in_the_order_of_pitch_too():
    middle = (0.2 * np.sin(2 * np.pi * 330 * np.arange(RATE) / RATE)).astype(np.float32)
    assert loss_of_slots("pitch", (HIGH, middle, LOW), (middle, LOW, HIGH)) == pytest.approx(-3, abs=0.01)


def test_slots_are_trained_in_their_best_order_unless_told_otherwise_or_where_one_is_silent():
    for slots in ((HIGH, LOW), (LOW, HIGH)):
        assert loss_of_slots("best", slots, (HIGH, LOW)) == pytest.approx(-3, abs=0.01)
    silent = np.zeros_like(HIGH)
    for slots in ((silent, LOW), (LOW, silent)):
        assert loss_of_slots("pitch", slots, (LOW, silent)) == pytest.approx(-3, abs=0.01)


def test_a_loss_outside_the_list_is_refused():
    with pytest.raises(ValueError, match="'snr', 'l1', 'mse', 'si_sdr', 'l1_stft' or 'cross_entropy'"):
        TrainingConfig(loss="l2")


def test_estimates_that_are_equal_are_pushed_apart():
    targets, present = signals(1, 2, 1, 400), torch.ones(1, 2, dtype=torch.bool)
    estimates = (targets.sum(1, keepdim=True) / 2).repeat(1, 2, 1, 1).requires_grad_()
    steps = []
    for weight in (0.0, 0.2):
        estimates.grad = None
        config = TrainingConfig(loss="mse", dissimilarity_weight=weight)
        whole_loss(config, estimates, targets, present).backward()
        steps.append(-estimates.grad)
    # Beside what mse does, each moves away from the target of the other: their difference grows along the targets'.
    beside = steps[1] - steps[0]
    torch.testing.assert_close(beside[:, 0] - beside[:, 1], 0.2 * 2 / 800 * (targets[:, 0] - targets[:, 1]))


def test_an_output_is_compared_with_other_targets_that_sound_alone():
    targets, present = signals(2, 3, 1, 400), torch.tensor([[True, True, False]] * 2)
    targets[:, 2] = 0
    estimates = signals(4, 3, 1, 400)[2:]
    plain, lowered = (
        whole_loss(TrainingConfig(loss="mse", dissimilarity_weight=weight), estimates, targets, present)
        for weight in (0.0, 0.1)
    )
    pairs = [(0, 1), (1, 0), (2, 0), (2, 1)]
    errors = sum((estimates[:, one] - targets[:, other]).square().sum() for one, other in pairs)
    torch.testing.assert_close(plain - lowered, 0.1 * errors / targets.numel())


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"loss": "l1", "dissimilarity_weight": 0.1}, "training.dissimilarity_weight needs training.loss: mse; got"),
        (
            {"loss": "mse", "dissimilarity_weight": 0.25},
            "dissimilarity_weight times mixing.max_sources below 1, as the loss has no minimum otherwise; got",
        ),
    ],
)
def test_a_dissimilarity_that_no_minimum_comes_of_is_refused(training, message):
    with pytest.raises(ValueError, match=message):
        Settings.model_validate({"training": training, "mixing": {"max_sources": 4}})


def test_cross_entropy_needs_a_network_that_gives_levels():
    with pytest.raises(
        ValueError, match=r"gives levels for .*wavenet with model.estimate: mu_law; got .*: cross_entropy"
    ):
        Settings.model_validate({"model": {"network": "wavenet"}, "training": {"loss": "cross_entropy"}})
