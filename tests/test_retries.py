"""Trials that were lost are started again in the same call; those that failed are not."""

import functools
import tempfile
from pathlib import Path

import pytest
from test_search_resume import MANIFEST, REPORT_SECONDS, SmallTune, disk, restore, small

from vimss.experiment import Experiment
from vimss.runtime import Place
from vimss.search.cells import FixedCells, PrunedCell, TopKCell
from vimss.search.failures import lost_message
from vimss.search.running import RunningStudy
from vimss.search.study import TrialRecord, read_study, write_record


@functools.cache
def whole(scheduler: str) -> dict[Path, str]:
    """The records of a search of four trials that is over."""
    with tempfile.TemporaryDirectory() as folder:
        SmallTune(small("random", scheduler), Path(folder), 1, lambda: None).search([])
        return disk(Path(folder))


def searched(by: Experiment, folder, reports: int) -> tuple[RunningStudy, PrunedCell | TopKCell]:
    """A study whose search is over but for one trial, which was lost after so many reports."""
    restore(whole(by.search.scheduler), folder)
    able = (each for each in read_study(folder).of_cell("search") if each.state in {"finished", "pruned"})
    lost = max(able, key=lambda record: len(record.reports))
    change = {"state": "interrupted", "ended_at": 0, "rung": None, "reports": lost.reports[:reports]}
    write_record(lost.model_copy(update=change))
    running = RunningStudy(by, MANIFEST, Place(name="test", max_retries=2), folder)
    (cell,) = by.cells()
    return running, (TopKCell if by.search.scheduler == "top_k" else PrunedCell)(running, cell)


def in_state(running: RunningStudy, state: str) -> list[TrialRecord]:
    return [record for record in running.study().of_cell("search") if record.state == state]


def test_a_study_is_read_again_only_after_a_record_was_written(tmp_path):
    running, _ = searched(small("random", "none"), tmp_path, 1)
    assert running.study() is running.study()
    (lost,) = in_state(running, "interrupted")
    write_record(lost.model_copy(update={"message": "again"}))
    assert in_state(running, "interrupted")[0].message == "again"


def test_a_trial_that_was_lost_is_started_again_and_one_that_failed_is_not(tmp_path):
    running, cell = searched(small("random", "none"), tmp_path, 1)
    (lost,), failed = in_state(running, "interrupted"), in_state(running, "failed")
    assert running.retry([cell.cell]) and any(record.counts for record in failed)
    searcher, most = cell.searcher()
    assert [record.trial for record in searcher.resumed] == [lost.trial] and most == 1
    assert searcher.resumed[0].retries == 1


def test_the_first_search_of_a_call_tries_again_what_failed(tmp_path):
    running, cell = searched(small("random", "none"), tmp_path, 1)
    searcher, _ = cell.searcher()
    assert {record.state for record in searcher.resumed} == {"interrupted", "failed"}
    assert len(searcher.resumed) > len(in_state(running, "interrupted"))


@pytest.mark.slow
def test_a_trial_is_started_again_as_often_as_the_place_says_and_anew_in_the_next_call(tmp_path):
    by = small("random", "none")
    running, cell = searched(by, tmp_path, 1)
    assert [running.retry([cell.cell]) for _ in range(4)] == [True, True, False, False]
    assert cell.searcher()[1] == 0
    (lost,) = in_state(running, "interrupted")
    assert lost.retries == 2
    again = RunningStudy(by, MANIFEST, running.place, tmp_path)
    assert in_state(again, "interrupted")[0].retries == 0 and again.retry([cell.cell])


def test_of_a_continued_trial_only_its_own_loss_counts(tmp_path):
    running, cell = searched(small("random", "none"), tmp_path, 1)
    (lost,) = in_state(running, "interrupted")
    other = in_state(running, "failed")[0]
    assert not running.retry([cell.cell], other.trial) and in_state(running, "interrupted")[0].retries == 0
    assert running.retry([cell.cell], lost.trial) and in_state(running, "interrupted")[0].retries == 1


def test_a_place_without_retries_leaves_what_was_lost_to_the_same_command(tmp_path):
    running, cell = searched(small("random", "none"), tmp_path, 1)
    running.place = Place(name="test", max_retries=0)
    assert not running.retry([cell.cell]) and cell.searcher()[1] == 0
    assert in_state(running, "interrupted")


def test_a_search_in_which_nothing_was_lost_is_over(tmp_path):
    by = small("random", "none")
    restore(whole("none"), tmp_path)
    assert not RunningStudy(by, MANIFEST, Place(name="test"), tmp_path).retry(by.cells())


@pytest.mark.parametrize("lost", [0, 2], ids=["before the rung", "beyond the rung"])
@pytest.mark.slow
def test_with_top_k_a_trial_that_was_lost_continues_to_where_it_was_going(tmp_path, lost):
    running, cell = searched(small("random", "top_k"), tmp_path, lost)
    (record,) = in_state(running, "interrupted")
    assert running.retry([cell.cell])
    searcher, _ = cell.searcher()
    suggested = searcher.suggest("a")
    assert {key: value for key, value in suggested.items() if key != "rung"} == record.chosen
    assert suggested.get("rung") == (None if record.reports else REPORT_SECONDS)


def test_with_top_k_the_others_wait_for_a_trial_that_was_lost_too_often_before_the_rung(tmp_path):
    running, cell = searched(small("random", "top_k"), tmp_path, 0)
    other = next(record for record in in_state(running, "finished") + in_state(running, "pruned"))
    waits = {"state": "waiting", "ended_at": 0, "rung": None, "reports": other.reports[:1]}
    write_record(other.model_copy(update=waits))
    running.over |= {record.folder for record in in_state(running, "interrupted")}
    assert cell.searcher()[0] is None
    assert [record.trial for record in in_state(running, "waiting")] == [other.trial]


def test_with_top_k_a_trial_that_was_lost_too_often_beyond_the_rung_is_left(tmp_path):
    running, cell = searched(small("random", "top_k"), tmp_path, 2)
    running.over |= {record.folder for record in in_state(running, "interrupted")}
    assert cell.searcher()[0] is None and in_state(running, "interrupted")


def test_a_cell_without_axes_is_started_again_only_where_its_trial_was_lost(tmp_path):
    by = small("random", "none").model_copy(update={"tune": {}})
    cells = by.cells()
    running = RunningStudy(by, MANIFEST, Place(name="test", max_retries=1), tmp_path)
    fixed = FixedCells(running, cells)
    assert fixed._is_left(cells[0])
    record = TrialRecord(
        cell=cells[0].name, trial="a", state="failed", chosen={}, settings=by.settings(cells[0].fixes), begun=0.0,
        folder=tmp_path / "search-a" / "a",
    )  # fmt: skip
    write_record(record)
    assert fixed._is_left(cells[0]), "a new call tries again what failed"
    assert not running.retry(cells) and not fixed._is_left(cells[0])
    write_record(record.model_copy(update={"state": "interrupted"}))
    running.over.clear()
    assert running.retry(cells) and fixed._is_left(cells[0])
    assert not running.retry(cells) and not fixed._is_left(cells[0])


def test_the_message_of_a_lost_trial_says_what_happens_next():
    assert lost_message("its node is gone", 0, 3) == "its node is gone; this search resumes it, retry 1 of 3"
    assert lost_message("its node is gone", 3, 3) == (
        "its node is gone; started again 3 times already, max_retries of the place: see what ends it in the logs in "
        "its folder, then the same command resumes it"
    )
    assert lost_message("its node is gone", 0, 0) == "its node is gone; the same command resumes it"
