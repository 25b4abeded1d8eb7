"""A figure that is to be maximised turns every choice around: of reports, of trials, at the rung, and Optuna's."""

import math
from pathlib import Path

import optuna
import pytest
from test_search import experiment

from vimss.console import SearchLines, figure_text
from vimss.experiment import SearchConfig
from vimss.report import comparison_columns, print_comparison, seed_columns
from vimss.search.events import CellEnded, TrialReported, TrialStarted
from vimss.search.sampler import Space, optuna_study
from vimss.search.study import Study, TrialRecord
from vimss.search.top_k import choose, value_at_rung
from vimss.train.config import Settings
from vimss.train.distribute import best_of_checkpoints
from vimss.train.figure import Figure
from vimss.train.objectives import OBJECTIVES, figure_of

RATE = Figure(name="accuracy", direction="max", title="accuracy")
LOSS = figure_of()
RECOGNITION = experiment(compare={"seed": (0, 1)}, objective="instruments", controls={}, tune={}, model={})


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


def test_a_report_without_a_figure_lacks_its_parts_and_that_of_the_raw_weights():
    report = {"steps": 2.0, "valid_loss": -1.0, "valid_loss_raw": -0.5, "valid_loss/vn": -2.0, "valid_lost": 3.0}
    assert LOSS.without(report) == {"steps": 2.0, "valid_lost": 3.0}


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


def instruments_study(folder: Path, *values: float) -> Study:
    """One finished trial for each of these mean average precisions, seeds 0, 1, ..."""
    figure = figure_of("instruments")
    records = []
    for seed, value in enumerate(values):
        path = folder / f"seed={seed}"
        (path / "model").mkdir(parents=True)
        records.append(
            TrialRecord(
                cell=path.name, trial="t", state="finished", chosen={}, settings=RECOGNITION.settings(), figure=figure,
                begun=0.0, reports=({figure.name: value, "audio_seconds": 1.0},), folder=path,
            )
        )  # fmt: skip
    return Study(folder, tuple(records))


def test_the_tables_of_pre_training_speak_of_its_figure_and_not_of_decibel(tmp_path, capsys):
    study = instruments_study(tmp_path, 0.5, 0.75)
    print_comparison(RECOGNITION, study)
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "Mean average precision: mean over the labels that play in the fixed set, 1 at most; higher is better." in shown
    )
    assert "Cells that differ in their seed alone: mean average precision of their best trials" in shown
    assert "dB" not in shown and "loss" not in shown
    assert seed_columns(RECOGNITION) == ("over seeds", "seeds", "mean", "lowest", "highest")
    assert seed_columns(experiment()) == ("over seeds", "seeds", "mean, dB", "lowest, dB", "highest, dB")


def test_the_figure_of_a_trial_is_written_with_the_unit_that_it_has(tmp_path):
    (trial,) = instruments_study(tmp_path, 0.5).records
    loss = TrialRecord(
        cell="c", trial="t", state="finished", chosen={}, settings=Settings(), begun=0.0,
        reports=({LOSS.name: -2.0, "audio_seconds": 1.0},),
    )  # fmt: skip
    assert figure_text(loss, with_unit=True) == "-2.00 dB" and figure_text(loss) == "-2.00"
    assert figure_text(trial, with_unit=True) == "0.50"


def test_the_progress_of_a_search_names_the_figure_of_its_objective(capsys):
    shown = []
    lines = SearchLines(shown.append, RECOGNITION)
    metrics = {"valid_map": 0.5, "audio_seconds_per_second": 10.0}
    for event in (
        TrialStarted("seed=0", "t", None, {}),
        TrialReported("seed=0", "t", 4.0, metrics),
        CellEnded("seed=0", "t", metrics),
    ):
        lines(event)
    assert "audio seconds, mean average precision 0.50 (best 0.50), 10 x real time" in shown[-1]
    assert capsys.readouterr().err.rstrip().endswith("best mean average precision 0.50")


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
