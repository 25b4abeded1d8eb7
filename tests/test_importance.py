"""Which axes matter: both evaluators find the axis that does, and refuse what they cannot know."""

import numpy as np
import pytest

from vimss.experiment import Experiment
from vimss.pages.of_comparison import interaction_files, levels_of
from vimss.search.importance import FORESTS, LEAST_TRIALS, importances
from vimss.search.study import TrialRecord

RATE, FILTERS, GAIN = "training.learning_rate", "model.filters", "mixing.gain_db"

ASKED = Experiment(
    name="asked", question="q", expected="x", shards="small", search={"grace_seconds": 20, "scheduler": "asha"},
    tune={RATE: {"low": 1e-4, "high": 1e-2, "log": True}, FILTERS: {"choices": (4, 8)}, GAIN: {"low": 0, "high": 9}},
)  # fmt: skip


def trials(count: int, seed: int = 0, depends_on: float = 3.0, without: str = "") -> list[TrialRecord]:
    """Of which the learning rate decides the loss at the first rung, and nothing the one at the end."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        rate = float(10 ** rng.uniform(-4, -2))
        chosen = {RATE: rate, FILTERS: int(rng.choice([4, 8])), GAIN: float(rng.uniform(0, 9))}
        chosen = {key: value for key, value in chosen.items() if key != without or number % 2}
        loss = depends_on * (np.log10(rate) + 3) ** 2 + 0.01 * rng.standard_normal() * bool(depends_on)
        reports = ({"audio_seconds": 20.0, "valid_loss": loss}, {"audio_seconds": 60.0, "valid_loss": -9.0})
        found.append(
            TrialRecord(
                cell="c", trial=str(number), state="finished" if number % 2 else "pruned", chosen=chosen, settings=None,
                reports=reports[: 1 + number % 2], begun=0.0,
            )
        )  # fmt: skip
    return found


RECORDS = [trials(30, 0), trials(30, 1)]


@pytest.fixture(scope="module")
def rated():
    return importances(ASKED, {"a/b": RECORDS, "few": [RECORDS[0][:3]]})


def test_both_evaluators_name_the_axis_that_decides(rated):
    found, _ = rated
    assert [one.evaluator for one in found] == ["PED-ANOVA", "fANOVA"]
    for one, ratings in zip(found, (2, 2 * FORESTS), strict=True):
        assert min(one.shares, key=lambda axis: -np.mean(one.shares[axis])) == RATE, one.shares
        assert {len(shares) for shares in one.shares.values()} == {ratings}
        assert np.sum(list(one.shares.values()), axis=0) == pytest.approx(1)
        assert (one.trials, one.basis) == (60, "validation loss at the first rung, 20 audio seconds")
    assert min(found[1].shares[RATE]) > 0.8
    assert len(set(found[1].shares[RATE])) > 2, "forests disagree"


def test_too_few_trials_are_refused_with_their_number():
    few = [trials(LEAST_TRIALS - 1), trials(3)]
    found, refused = importances(ASKED, {"row": few})
    assert found == [] and refused == [
        "no importance of the axes of row: a search needs 20 trials with a value, got 19, 3"
    ]


def test_trials_of_one_value_say_nothing():
    found, refused = importances(ASKED, {"row": [trials(30, depends_on=0.0)]})
    assert found == [] and refused == ["no importance of the axes of row: all of its trials have one value"]


def test_without_axes_there_is_nothing_to_rate():
    assert importances(ASKED.model_copy(update={"tune": {}}), {"row": [trials(30)]}) == ([], [])


def test_a_conditional_axis_is_rated_by_the_evaluator_that_can(monkeypatch):
    monkeypatch.setattr("vimss.search.importance.FORESTS", 1)
    ped, fanova = importances(ASKED, {"row": [trials(40, without=GAIN)]})[0]
    assert GAIN in ped.shares and GAIN not in fanova.shares and RATE in fanova.shares


def test_interactions_are_drawn_for_the_rows_that_are_rated(rated):
    files = interaction_files(ASKED, {"a/b": RECORDS[0] + RECORDS[1], "few": RECORDS[0][:3]}, rated[0])
    assert list(files) == ["interactions-a_b.png"] and files["interactions-a_b.png"].startswith(b"\x89PNG")


def test_a_range_has_three_levels_of_equally_many_trials_and_choices_are_levels():
    records = trials(30)
    rate, filters = (levels_of(key, ASKED.tune[key], records) for key in (RATE, FILTERS))
    assert np.bincount(rate.level_of).tolist() == [10, 10, 10] and rate.is_log and len(rate.levels) == 3
    assert rate.positions[rate.level_of == 0].max() < rate.positions[rate.level_of == 2].min()
    assert filters.levels == ("4", "8") and filters.is_choice
    assert [filters.levels[level] for level in filters.level_of] == [str(one.chosen[FILTERS]) for one in records]
