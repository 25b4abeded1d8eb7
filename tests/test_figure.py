"""A figure that is to be maximised turns every choice around: of reports, of trials, at the rung, and Optuna's."""

import math
from pathlib import Path

import optuna
import pytest
from test_search import experiment

from vimss.experiment import SearchConfig
from vimss.report import comparison_columns
from vimss.search.sampler import Space, optuna_study
from vimss.search.study import Study, TrialRecord
from vimss.search.top_k import choose, value_at_rung
from vimss.train.distribute import best_of_checkpoints
from vimss.train.figure import Figure
from vimss.train.objectives import OBJECTIVES, figure_of

RATE = Figure(name="accuracy", direction="max", title="accuracy")
LOSS = figure_of()


def record(trial: str, *values: float, state: str = "waiting", folder: Path = Path(), **more: object) -> TrialRecord:
    """A trial whose accuracy is reported every 4 audio seconds."""
    reports = [{"audio_seconds": 4.0 * number, RATE.name: value} for number, value in enumerate(values, start=1)]
    return TrialRecord(
        cell="search", trial=trial, state=state, chosen={}, settings=None, figure=RATE, reports=reports, begun=0.0,
        folder=folder / trial, **more,
    )  # fmt: skip


@pytest.mark.parametrize(("figure", "best", "worst"), [(LOSS, -3.0, math.inf), (RATE, 2.0, -math.inf)])
def test_the_best_of_some_values_is_the_one_that_is_better_than_all_others(figure, best, worst):
    values = [-3.0, 2.0, 0.5]
    assert figure.best(values) == best and figure.best([]) == figure.worst == worst
    assert all(figure.better(best, other) for other in {*values, worst} - {best})
    assert sorted(values, key=figure.rank)[0] == best
    assert not figure.better(best, best)


@pytest.mark.parametrize("figure", [LOSS, RATE])
def test_a_value_that_is_no_number_is_never_better(figure):
    assert not figure.better(math.nan, 0.0) and not figure.better(0.0, math.nan)


def test_the_figure_of_separation_is_the_validation_loss_of_all_records_so_far():
    assert OBJECTIVES["separation"].figure == LOSS == TrialRecord.model_fields["figure"].default
    assert (LOSS.name, LOSS.raw_name, LOSS.direction) == ("valid_loss", "valid_loss_raw", "min")


def test_the_best_report_and_the_best_trial_are_those_with_the_highest_figure(tmp_path):
    low, high = (record(name, *values, state="finished", folder=tmp_path) for name, values in
                 (("low", (0.1, 0.7)), ("high", (0.9, 0.8))))  # fmt: skip
    for each in (low, high):
        (each.folder / "model").mkdir(parents=True)
    assert high.best_report["audio_seconds"] == 4.0 and high.value == 0.9
    assert Study(tmp_path, (low, high)).best(["search"]) == high


def test_the_heading_of_a_table_is_the_title_of_the_figure_with_its_unit():
    assert LOSS.heading == "validation loss, dB" and RATE.heading == "accuracy"
    assert "mean average precision" in comparison_columns(experiment().model_copy(update={"objective": "instruments"}))


def test_a_trial_without_reports_is_no_better_than_any_other():
    assert not RATE.better(record("new").value, -1e9)


def test_at_the_rung_the_highest_counts_and_the_highest_go_on():
    assert value_at_rung(record("a", 0.4, 0.6, 0.9), 8.0) == 0.6
    going_on, pruned = choose([record("a", 0.4), record("b", 0.9), record("c", 0.6)], rung=4.0, keep=2)
    assert [each.trial for each in going_on] == ["b", "c"] and [each.trial for each in pruned] == ["a"]


def test_optuna_learns_that_high_is_good():
    space = Space({}, RATE, SearchConfig(), seed=0)
    study = optuna_study(space, [record("a", 0.4, state="finished"), record("b", 0.9, 0.8, state="finished")])
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE and study.best_value == 0.9


def test_the_best_checkpoint_on_the_set_of_the_newest_is_kept():
    values = {Path("1"): ("new", 0.9), Path("2"): ("new", 0.4), Path("3"): ("old", 1.0)}
    assert best_of_checkpoints(values, "new", RATE) == Path("1")
    assert best_of_checkpoints(values, "new", LOSS) == Path("2")
    assert best_of_checkpoints(values, "newer", RATE) is None
