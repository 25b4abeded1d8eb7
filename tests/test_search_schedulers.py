"""The schedulers are rules over records, and decide as those of Ray, which hold their state in memory."""

import itertools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler
from test_search_resume import SmallTune, small
from test_search_sampler import record

from vimss.experiment import SearchConfig
from vimss.search.schedulers import MEDIAN_TRIALS, SCHEDULERS, asha, median
from vimss.search.study import TrialRecord, read_study

ASHA = SearchConfig(scheduler="asha", grace_seconds=4.0, reduction_factor=2)
MEDIAN = SearchConfig(grace_seconds=8.0, scheduler="median")


def trial(number: int, *losses: float, **more: object) -> TrialRecord:
    return record(number, {}, *losses, state="running", **more)


def test_every_scheduler_of_the_configuration_has_its_rule():
    assert set(SCHEDULERS) == set(get_args(SearchConfig.model_fields["scheduler"].annotation))


def test_at_a_rung_a_trial_continues_among_the_best_and_is_pruned_below():
    others = [trial(0, -1.0), trial(1, -3.0)]
    assert asha(trial(2, -2.5), others, ASHA) is None
    assert asha(trial(2, -1.5), others, ASHA) == 4.0


def test_the_first_at_a_rung_continues_and_between_rungs_nothing_is_decided():
    ahead = [trial(0, -9.0, -9.0, -9.0, -9.0), trial(1, -9.0, -9.0, -9.0, -9.0)]
    assert asha(trial(2, 9.0), [], ASHA) is None
    # At 12 audio seconds the last rung is that of 8, which was reached before.
    assert asha(trial(2, 9.0, 9.0, 9.0), ahead, ASHA) is None
    assert asha(trial(2, 9.0, 9.0, 9.0, 9.0), ahead, ASHA) == 16.0


def test_a_trial_that_was_scored_again_counts_at_the_rungs_that_it_reached():
    again = trial(0, -1.0, -9.0).moved_to("larger", [{"audio_seconds": 4.0, "steps": 1, "valid_loss": -3.0}])
    assert asha(trial(1, 0.0, -2.0), [again], ASHA) == 8.0
    # It decides nothing again at rungs that it has passed.
    assert asha(again, [trial(1, -9.0, -9.0)], ASHA) is None


def test_the_median_rule_compares_the_best_value_with_the_median_of_averages():
    others = [trial(number, 0.0, value, value - 1.0) for number, value in enumerate((-2.0, -4.0, -6.0))]
    # Averages up to 12 audio seconds, from 8 on: -2.5, -4.5 and -6.5.
    assert median(trial(3, 0.0, -4.4, 0.0), others, MEDIAN) == 12.0
    assert median(trial(3, 0.0, -4.6, 0.0), others, MEDIAN) is None
    assert median(trial(3, 9.0), others, MEDIAN) is None
    assert median(trial(3, 9.0, 9.0), others[: MEDIAN_TRIALS - 1], MEDIAN) is None


@pytest.mark.parametrize("name", ["top_k", "none"])
def test_other_schedulers_prune_nothing_at_a_report(name):
    assert SCHEDULERS[name](trial(9, 9.0), [trial(0, -9.0), trial(1, -8.0)], ASHA) is None


def test_without_a_scheduler_no_record_is_read_at_a_report(tmp_path):
    tune = SmallTune(small("random", "none"), tmp_path, 1, lambda: None)
    tune.search([])
    reported = read_study(tmp_path).of_cell("search")[-1]
    next(tmp_path.glob("*/*/trial.json")).write_text("no record")
    assert tune.cell.rung_of(reported) is None


@dataclass(frozen=True)
class TuneTrial:
    """What Ray's schedulers read of a trial."""

    trial_id: str
    status: str = "RUNNING"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", ["asha", "median"])
def test_the_rules_decide_as_the_schedulers_of_ray(name, seed):
    """Random losses of eight trials that report in a random order."""
    drawn = np.random.default_rng(seed)
    if name == "asha":
        config = ASHA
        theirs = ASHAScheduler("audio_seconds", "valid_loss", "min", max_t=10**9, grace_period=4, reduction_factor=2)
    else:
        config = MEDIAN
        theirs = MedianStoppingRule("audio_seconds", "valid_loss", "min", grace_period=8)
    controller = SimpleNamespace(get_live_trials=lambda: [])
    records = {number: trial(number) for number in range(8)}
    tune = {number: TuneTrial(str(number)) for number in records}
    for each in tune.values():
        theirs.on_trial_add(controller, each)
    pruned = 0
    for position in itertools.count(100):
        running = [number for number, each in records.items() if each.state == "running" and len(each.reports) < 9]
        if not running:
            break
        number = int(drawn.choice(running))
        steps = len(records[number].reports) + 1
        report = {"audio_seconds": 4.0 * steps, "steps": float(steps), "valid_loss": drawn.normal(number, 2.0)}
        records[number] = records[number].with_report(report, position)
        others = [each for other, each in records.items() if other != number and each.reports]
        rung = SCHEDULERS[name](records[number], others, config)
        decision = theirs.on_trial_result(controller, tune[number], report)
        assert (rung is not None) == (decision == TrialScheduler.STOP)
        if rung is not None:
            pruned += 1
            records[number] = records[number].model_copy(update={"state": "pruned"})
    assert pruned
