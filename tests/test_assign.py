"""Which slot is which player's, on true stems of synthetic duos."""

import numpy as np
import pytest
import torch
from clapping_duos import RATE, duo, loudness_network
from small_separator import build

from vimss.assign import (
    LEAST_CONFIDENCE,
    STRETCH_SECONDS,
    Slots,
    alignment_scores,
    assign,
    check_slots,
    load_alignment,
)
from vimss.errors import ConfigError, ModelError
from vimss.evaluate.players import THRESHOLDS
from vimss.model.separator import save_separator


def scores_of(slots, motion, rate=RATE):
    return alignment_scores(loudness_network(), Slots.of(slots, rate), motion)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_true_stems_are_assigned_to_the_players_who_move_with_them(order):
    stems, motion = duo(12.0)
    found = assign(scores_of(stems[list(order)], motion).sum(0))
    assert found.slots == order and found.is_certain


def test_stems_with_most_of_the_other_player_in_them_are_assigned_too():
    stems, motion = duo(12.0)
    mixed = stems + 0.8 * stems[::-1]
    assert assign(scores_of(mixed, motion).sum(0)).slots == (0, 1)


def test_motion_of_another_piece_leaves_it_open():
    stems, _ = duo(12.0, seed=0)
    found = [assign(scores_of(stems, duo(12.0, seed=seed)[1]).sum(0)) for seed in range(1, 9)]
    right = [one.slots == (0, 1) for one in found]
    assert 0 < sum(right) < len(right)


def test_a_slot_that_nobody_plays_is_left_over():
    stems, motion = duo(12.0)
    slots = np.stack([stems[1], 0 * stems[0], stems[0]])
    assert assign(scores_of(slots, motion).sum(0)).slots == (2, 0)


def test_a_short_piece_has_the_scores_that_the_network_predicts_for_it():
    stems, motion = duo(8.0)
    network = loudness_network()
    expected = [network.predict({"mixture": slot[None], "motion": motion[None]})["alignment"][0] for slot in stems]
    np.testing.assert_allclose(scores_of(stems, motion)[0], expected, rtol=1e-4)


def test_a_long_piece_is_read_in_stretches():
    stems, motion = duo(42.0)
    read = []

    def reading(first, last):
        read.append(last - first)
        return stems[..., first:last]

    scores = alignment_scores(loudness_network(), Slots(reading, stems.shape[-1], RATE), motion)
    assert len(scores) == 4 and max(read) < 1.1 * STRETCH_SECONDS * RATE and sum(read) == stems.shape[-1]
    assert all(assign(one).slots == (0, 1) for one in scores)


def test_slots_of_another_rate_are_resampled():
    stems, motion = duo(12.0)
    twice = np.repeat(stems, 2, axis=2)
    found, expected = scores_of(twice, motion, 2 * RATE).sum(0), scores_of(stems, motion).sum(0)
    np.testing.assert_allclose(found, expected, rtol=0.2)


def test_confidence_is_half_without_a_difference_and_grows_with_the_margin():
    found = [assign(np.array([[margin, 0.0], [0.0, 0.0]])) for margin in (0.0, 5.0, 20.0, 80.0)]
    confidences = [one.confidence for one in found]
    assert confidences[0] == 0.5 and confidences == sorted(confidences) and confidences[-1] > 0.99
    assert [one.is_certain for one in found] == [False, False, True, True]


def test_confidence_of_three_players_is_that_over_the_second_best_order():
    scores = np.array([[30.0, 0, 0], [0, 40.0, 15.0], [0, 15.0, 10.0]])
    assert assign(scores).slots == (0, 1, 2)
    # The second-best order exchanges the last two players: 30 + 15 + 15 against 80.
    assert assign(scores).confidence == assign(np.array([[20.0, 0.0], [0.0, 0.0]])).confidence


def test_what_is_more_confident_is_more_often_right():
    rng, found = np.random.default_rng(0), []
    for seed in range(60):
        stems, motion = duo(6.0, seed=seed)
        blurred = stems + rng.uniform(0, 3) * np.abs(rng.standard_normal(stems.shape)).astype(np.float32)
        one = assign(scores_of(blurred, motion).sum(0))
        found.append((one.confidence, one.slots == (0, 1)))
    found.sort()
    thirds = [np.mean([right for _, right in found[first : first + 20]]) for first in (0, 20, 40)]
    assert thirds == sorted(thirds) and thirds[0] < thirds[2]


def test_one_player_is_not_assigned():
    with pytest.raises(
        ConfigError, match="are assigned to players where two or more of them play; got vn. To fix: name"
    ):
        check_slots(2, ("vn",))


def test_more_players_than_slots_are_refused():
    with pytest.raises(
        ConfigError, match="a model with 2 slots separates at most 2 players; got 3: vn, vn, va. To fix"
    ):
        check_slots(2, ("vn", "vn", "va"))


def test_a_separator_is_no_alignment_model(tmp_path):
    save_separator(tmp_path / "slots", build(torch.float32, outputs="slots"), {})
    with pytest.raises(ModelError, match="must be a model of the objective 'alignment', .*; got a separator in"):
        load_alignment(tmp_path / "slots")


def test_the_threshold_is_one_of_those_of_the_curve():
    assert LEAST_CONFIDENCE in THRESHOLDS and list(THRESHOLDS) == sorted(THRESHOLDS)
