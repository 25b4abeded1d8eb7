"""What is drawn is a function of the seed, the trial's number and the records before it."""

import itertools
import math
from typing import get_args

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher
from test_search import experiment

from vimss.axes import Axis
from vimss.errors import ConfigError
from vimss.experiment import SearchConfig
from vimss.search.consistency import check_grid
from vimss.search.draws import DeduplicatingSearcher
from vimss.search.sampler import (
    SAMPLERS,
    Draw,
    Space,
    draws,
    for_optuna,
    free_number,
    optuna_study,
    startup_trials,
    still_to_try,
    suggest,
)
from vimss.search.study import TrialRecord
from vimss.train.objectives import figure_of

AXES = {
    "model.site": {"choices": ["decoder", "bottleneck", "output"]},
    "model.op": {"choices": ["film", "add"], "when": {"model.site": ["decoder"]}},
    "training.batch_size": {"low": 2, "high": 8},
    "training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
}
REST = {"training.batch_size": 2, "training.learning_rate": 1e-3}


def axes_of(content: dict) -> dict[str, Axis]:
    return experiment(tune=content).tune


def space_of(content: dict = AXES, seed: int = 0, **config) -> Space:
    return Space(
        axes_of(content), figure_of(), SearchConfig(**{"scheduler": "asha", "grace_seconds": 4.0, **config}), seed
    )


def record(number: int, chosen: dict, *losses: float, state: str = "finished", **more: object) -> TrialRecord:
    """A trial with a report every 4 audio seconds."""
    reports = [
        {"audio_seconds": 4.0 * step, "steps": step, "valid_loss": loss} for step, loss in enumerate(losses, start=1)
    ]
    content = {"number": number, "drawn_at": number + 1, "begun": float(number), **more}
    return TrialRecord(
        cell="search", trial=str(number), state=state, chosen=chosen, settings=None, reports=reports, **content
    )


KNOWN = [
    record(0, {"model.site": "decoder", "model.op": "add", **REST}, -1.0, -3.0, -2.0),
    record(1, {"model.site": "output", **REST}, -4.0, -4.5, -3.5, state="pruned", rung=12.0),
    record(2, {"model.site": "bottleneck", **REST}, state="failed"),
    record(3, {"model.site": "bottleneck", **REST}, -0.5, state="running"),
]


def test_every_sampler_of_the_configuration_has_its_function():
    assert set(SAMPLERS) == set(get_args(SearchConfig.model_fields["sampler"].annotation))


def test_conditional_axes_are_drawn_only_where_their_condition_holds():
    axes = experiment(
        tune={
            "model.op": {"choices": ["film", "add"], "when": {"model.site": ["decoder"]}},
            "model.site": {"choices": ["decoder", "bottleneck"]},
        }
    ).tune
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        suggest(trial, axes)
        assert ("model.op" in trial.params) == (trial.params["model.site"] == "decoder")


def test_a_range_of_an_integer_setting_is_drawn_as_integers():
    axes = experiment(
        tune={
            "training.batch_size": {"low": 2, "high": 16},
            "mixing.windows_per_clip": {"low": 1, "high": 64, "log": True},
            "mixing.gain_db": {"low": 2, "high": 16},
        }
    ).tune
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    suggest(trial, axes)
    assert {key: type(value) for key, value in trial.params.items()} == {
        "training.batch_size": int,
        "mixing.windows_per_clip": int,
        "mixing.gain_db": float,
    }


def test_tpe_has_its_turn_in_a_small_search():
    assert [startup_trials(trials) for trials in (1, 2, 4, 8, 100)] == [1, 1, 2, 4, 5]


def test_optuna_knows_finished_trials_by_their_best_value_and_all_others_by_their_state():
    found = optuna_study(space_of(), KNOWN).trials
    assert [(trial.state, trial.value) for trial in found] == [
        (TrialState.COMPLETE, -3.0), (TrialState.PRUNED, None), (TrialState.FAIL, None), (TrialState.RUNNING, None),
    ]  # fmt: skip
    assert [trial.params for trial in found] == [each.chosen for each in KNOWN]


def test_optuna_knows_pruned_and_running_trials_by_their_values_at_the_rungs():
    found = optuna_study(space_of(), KNOWN).trials
    # Rungs of asha at 4 and 12 audio seconds.
    assert [trial.intermediate_values for trial in found] == [{1: -1.0, 2: -2.0}, {1: -4.0, 2: -3.5}, {}, {1: -0.5}]
    # Multiples of the first rung.
    assert for_optuna(space_of(scheduler="median"), KNOWN[1]).intermediate_values == {1: -4.0, 2: -4.5, 3: -3.5}


def test_a_pruned_trial_that_was_scored_again_keeps_its_rung():
    again = KNOWN[1].moved_to("larger", [{"audio_seconds": 8.0, "steps": 2, "valid_loss": -4.0}])
    assert for_optuna(space_of(), again).intermediate_values == {2: -4.0}


def test_for_top_k_a_trial_at_the_rung_is_complete_whatever_became_of_it():
    space = space_of(scheduler="top_k", grace_seconds=8.0, trials=4)
    found = [for_optuna(space, each) for each in KNOWN]
    assert [(trial.state, trial.value) for trial in found[:2]] == [
        (TrialState.COMPLETE, -3.0), (TrialState.COMPLETE, -4.5),
    ]  # fmt: skip
    assert [trial.state for trial in found[2:]] == [TrialState.FAIL, TrialState.RUNNING]


def test_a_value_that_is_not_finite_is_a_failure_for_optuna():
    assert for_optuna(space_of(), record(0, {"model.site": "output", **REST}, math.inf)).state == TrialState.FAIL


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_draw_is_a_function_of_seed_number_and_records(sampler):
    content = {**AXES, "training.learning_rate": {"choices": [1e-4, 1e-3, 1e-2, 1e-1]}}
    space = space_of(content, sampler=sampler, trials=4)
    one, again = (next(draws(space, 4, KNOWN)) for _ in range(2))
    assert one == again
    others = [next(draws(space, number, KNOWN)).chosen for number in range(5, 9)]
    others += [next(draws(space_of(content, seed, sampler=sampler, trials=4), 4, KNOWN)).chosen for seed in range(1, 4)]
    assert any(other != one.chosen for other in others)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_sampler_that_learns_draws_near_the_best_of_the_records(sampler):
    space = space_of({"training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}, sampler=sampler, trials=8)
    rates = [10.0 ** (-4 + number / 5) for number in range(15)]
    losses = [(math.log10(rate) + 2) ** 2 for rate in rates]
    known = [
        record(n, {"training.learning_rate": rate}, loss)
        for n, (rate, loss) in enumerate(zip(rates, losses, strict=True))
    ]
    near = [next(draws(space, n, known)).chosen["training.learning_rate"] for n in range(15, 20)]
    assert all(10**-2.7 < rate < 10**-1.3 for rate in near)


def test_running_trials_keep_tpe_from_drawing_the_same_again():
    """The constant liar: what is in training counts as bad until its value is known."""
    content = {"training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
    space = space_of(content, trials=8)
    rates = [10.0 ** (-4 + number / 5) for number in range(15)]
    known = [record(n, {"training.learning_rate": rate}, (math.log10(rate) + 2) ** 2) for n, rate in enumerate(rates)]
    drawn = next(draws(space, 15, known))
    running = record(15, drawn.chosen, state="running")
    assert next(draws(space, 16, [*known, running])) != next(draws(space, 16, known))


def test_a_grid_draws_each_combination_once_also_of_conditional_axes():
    content = {key: AXES[key] for key in ("model.site", "model.op")}
    space, known = space_of(content, sampler="grid"), list[TrialRecord]()
    for number in range(4):
        known.append(record(number, next(draws(space, number, known)).chosen, -1.0))
    assert sorted(tuple(each.chosen.values()) for each in known) == [
        ("bottleneck",), ("decoder", "add"), ("decoder", "film"), ("output",),
    ]  # fmt: skip


def test_first_trials_that_began_are_not_begun_again_also_where_they_name_a_part():
    began = record(0, {"training.batch_size": 4, "training.learning_rate": 3e-3}, -1.0)
    part, whole = {"training.batch_size": 4}, {"training.batch_size": 2, "training.learning_rate": 3e-3}
    assert still_to_try([part, whole], [began]) == [whole]


def test_first_trials_are_tried_in_their_order_before_the_samplers_own_draws():
    firsts = [{"model.site": "output"}, {"model.site": "bottleneck", "training.batch_size": 8}]
    tried = draws(space_of(first_trials=firsts), 0, [])
    for first in firsts:
        assert first.items() <= next(tried).chosen.items()
    (again, *_) = draws(space_of(first_trials=firsts), 1, [record(0, {"model.site": "output", **REST})])
    assert firsts[1].items() <= again.chosen.items()


def test_the_next_number_is_the_first_free_one_and_older_records_have_the_first():
    assert free_number([]) == 0 and free_number(KNOWN) == 4
    assert free_number([KNOWN[0], KNOWN[2]]) == 1
    old = [record(number, {}, -1.0).model_copy(update={"number": None}) for number in range(2)]
    assert free_number(old) == 2 and free_number([*old, record(2, {}, -1.0)]) == 3
    refused = record(0, {}, state="failed", is_refused=True)
    assert free_number([refused]) == 0


def test_draws_that_were_refused_for_a_trial_are_refused_again_and_do_not_change_the_next():
    content = {key: AXES[key] for key in ("model.site", "model.op")}
    for sampler in ("grid", "tpe"):
        space = space_of(content, sampler=sampler)
        first, second, third = itertools.islice(draws(space, 0, []), 3)
        refused = record(0, second.chosen, state="failed", is_refused=True)
        assert list(itertools.islice(draws(space, 0, [refused]), 3)) == [first, second, third]
        assert next(draws(space, 1, [refused])).number == 1


class Cell:
    """A cell in memory, whose searcher admits draws as `is_new` says."""

    def __init__(self, choices: list[int], is_new) -> None:
        self.records: list[TrialRecord] = []
        self.is_new = is_new
        space = space_of({"model.levels": {"choices": choices}}, trials=2)
        self.searcher = DeduplicatingSearcher(space, lambda: self.records, self.admit)

    def admit(self, draw: Draw) -> bool:
        level = draw.chosen["model.levels"]
        admitted = self.is_new(level) and all(each.chosen["model.levels"] != level for each in self.records)
        if admitted:
            self.records.append(record(draw.number, draw.chosen, -float(level)))
        return admitted


def test_draws_that_are_not_admitted_are_drawn_anew_until_nothing_is_left():
    cell = Cell([1, 2, 3, 4], lambda level: level != 1)
    assert sorted(cell.searcher.suggest(name)["model.levels"] for name in "abc") == [2, 3, 4]
    assert [each.number for each in cell.records] == [0, 1, 2]
    assert cell.searcher.suggest("d") == Searcher.FINISHED


def test_trials_to_resume_come_before_new_draws():
    cell = Cell([1, 2, 3], lambda level: True)
    cell.records.append(record(0, {"model.levels": 2}, state="interrupted"))
    cell.searcher.resumed.append(cell.records[0])
    assert cell.searcher.suggest("a") == {"model.levels": 2}
    assert cell.searcher.suggest("b")["model.levels"] in {1, 3}


def test_a_grid_needs_axes_that_can_be_listed():
    rule = r"grid needs choices or whole numbers in tune\.training\.learning_rate; got a range from 0\.0001 to 0\.1\. "
    with pytest.raises(ConfigError, match=rule):
        check_grid(experiment(tune=AXES, search={"sampler": "grid"}))


def test_conditions_in_a_circle_are_refused():
    axes = experiment(
        tune={
            "model.op": {"choices": ["film"], "when": {"model.site": ["decoder"]}},
            "model.site": {"choices": ["decoder"], "when": {"model.op": ["film"]}},
        }
    ).tune
    with pytest.raises(ConfigError, match="must not run in a circle"):
        suggest(optuna.create_study().ask(), axes)
