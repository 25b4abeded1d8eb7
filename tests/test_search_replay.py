"""Policies that are played over stored learning curves cost, prune and find what a search would."""

import math

import pytest
from bench.replay import by_sampler, in_order, play
from test_search import experiment

from vimss.experiment import SearchConfig
from vimss.search.sampler import Space
from vimss.train.objectives import figure_of

BUDGET = 9.0
POINTS = [{"training.learning_rate": rate} for rate in (0.3, 0.1, 0.2, 0.4)]


def train(chosen, until):
    """A curve with nine reports, which falls the faster the lower the rate."""
    rate = chosen["training.learning_rate"]
    reports = [
        {"audio_seconds": float(seconds), "steps": float(seconds), "valid_loss": -seconds * (1 - rate)}
        for seconds in range(1, 10)
    ]
    return tuple(report for report in reports if report["audio_seconds"] <= math.ceil(until))


def played(scheduler: str, **more):
    pruning = {} if scheduler == "none" else {"grace_seconds": 3}
    search = SearchConfig(trials=4, sampler="random", scheduler=scheduler, **pruning, **more)
    return play(search, in_order(POINTS), train, figure_of(), BUDGET)


def test_whole_trainings_cost_their_budgets():
    assert played("none").total == 4 * BUDGET
    assert played("none").until(-7.2) == BUDGET + 8  # the second one's last report but one
    assert played("none").until(-9.0) == math.inf


def test_top_k_trains_all_to_the_rung_and_the_best_on():
    one = played("top_k", keep=1)
    assert one.total == 4 * 3 + 6
    assert one.values[-1] == pytest.approx(-8.1)


def test_asha_prunes_at_its_rungs_what_is_worse_than_those_before():
    # The first has nobody before it, the second is better, the others are worse.
    assert played("asha").total == 2 * BUDGET + 2 * 3


def test_the_median_rule_prunes_at_a_report():
    # It needs three others: the last one is worse than all of them.
    assert played("median").total == 3 * BUDGET + 3


def test_a_policy_asks_only_for_what_it_uses():
    asked = []

    def watched(chosen, until):
        asked.append((chosen["training.learning_rate"], until))
        return train(chosen, until)

    search = SearchConfig(trials=4, sampler="random", scheduler="asha", grace_seconds=3)
    play(search, in_order(POINTS), watched, figure_of(), BUDGET)
    assert asked == [(0.3, 3.0), (0.3, 9.0), (0.1, 3.0), (0.1, 9.0), (0.2, 3.0), (0.4, 3.0)]


def test_a_sampler_proposes_from_the_records_of_the_search_that_is_played():
    axes = experiment(tune={"training.learning_rate": {"low": 0.01, "high": 1.0, "log": True}}).tune

    def best(sampler: str) -> float:
        search = SearchConfig(trials=20, sampler=sampler, scheduler="none")
        return play(search, by_sampler(Space(axes, figure_of(), search, 0)), train, figure_of(), BUDGET).best

    assert best("tpe") < best("random")
