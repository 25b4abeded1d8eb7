import logging
import resource
import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
from test_search import experiment
from test_trial import job

from vimss.console import show_warnings_of_workers
from vimss.errors import DataError
from vimss.runtime import LOG, Place, WarningReader, forward_warnings, log_to, parallel_map
from vimss.runtime.logs import LOGGERS, MOST_BYTES, is_forwarding, rank_log, with_warnings
from vimss.search.run import search
from vimss.storage import Store
from vimss.train.config import MUCH_WAITING
from vimss.train.distribute import fit

log = logging.getLogger("vimss.stream")


@pytest.fixture
def forwarding() -> Iterator[None]:
    forward_warnings()
    yield
    forward_warnings(False)


def warn(number: int) -> int:
    log.warning("left out clip %d", number)
    return number


def test_what_is_logged_inside_the_block_is_in_the_file_and_nothing_else(tmp_path):
    log.error("before")
    with log_to(tmp_path / LOG):
        log.info("begins")
        log.debug("details")
        logging.getLogger("other").error("of another library")
    log.error("after")
    (line,) = (tmp_path / LOG).read_text().splitlines()
    assert line.endswith(" INFO vimss.stream: begins")


def test_a_second_block_appends(tmp_path):
    for number in range(2):
        with log_to(tmp_path / LOG):
            log.info("%d", number)
    assert len((tmp_path / LOG).read_text().splitlines()) == 2


def test_the_file_has_the_traceback_of_an_error_which_is_raised_as_it_was(tmp_path):
    with pytest.raises(DataError, match="too short"), log_to(tmp_path / LOG):
        raise DataError("too short", got="1 s", fix="longer clips")
    text = (tmp_path / LOG).read_text()
    assert "ERROR" in text and "Traceback" in text and "DataError: too short; got 1 s. To fix: longer clips" in text


def test_on_a_full_disk_the_error_is_raised_as_it_was(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(DataError, match="too short"), log_to(tmp_path / LOG):
            log.info("begins")
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
            raise DataError("too short", got="1 s", fix="longer clips")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_warnings_of_python_are_in_the_file(tmp_path):
    with warnings.catch_warnings(), log_to(tmp_path / LOG):
        warnings.simplefilter("always")
        warnings.warn("slow on this CPU", UserWarning, stacklevel=1)
    assert "UserWarning: slow on this CPU" in (tmp_path / LOG).read_text()


def test_loggers_are_as_before_when_the_block_ends(tmp_path):
    before = [(logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in LOGGERS]
    with log_to(tmp_path / LOG):
        assert logging.getLogger("vimss").level == logging.INFO
    assert before == [(logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in LOGGERS]


def test_a_log_is_bounded(tmp_path):
    with log_to(tmp_path / LOG):
        for _ in range(25):
            log.info("%s", "x" * (MOST_BYTES // 10))
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2 and all(size <= MOST_BYTES for size in sizes)


def test_nothing_ends_because_a_log_cannot_be_written(tmp_path):
    (tmp_path / LOG).mkdir()
    with log_to(tmp_path / LOG):
        log.warning("lost")


def test_a_reader_gives_each_new_warning_once_and_no_other_line(tmp_path):
    with log_to(tmp_path / LOG):
        log.warning("from before")
        reader = WarningReader(tmp_path)
        assert reader.read() == []
        log.info("goes on")
        log.warning("left out a")
        assert reader.read() == ["left out a"] and reader.read() == []
        with log_to(tmp_path / rank_log(1)):
            log.warning("of both")
    assert reader.read() == ["of both", "of both"]


def test_a_line_that_is_half_written_is_read_when_it_is_whole(tmp_path):
    reader = WarningReader(tmp_path)
    line = "2026-01-31 10:00:00 WARNING vimss.stream: left out é\n".encode()
    (tmp_path / LOG).write_bytes(line[:-2])
    assert reader.read() == []
    (tmp_path / LOG).write_bytes(line)
    assert reader.read() == ["left out é"]


def test_a_file_that_began_anew_is_read_from_its_beginning(tmp_path):
    (tmp_path / LOG).write_text("x" * 1000 + "\n")
    reader = WarningReader(tmp_path)
    (tmp_path / LOG).write_text("2026-01-31 10:00:00 WARNING vimss.stream: new\n")
    assert reader.read() == ["new"]


def test_a_result_comes_with_the_warnings_of_its_making():
    assert with_warnings(warn, 3) == (3, ["left out clip 3"])


def test_verbose_prints_what_other_processes_warn_of(capsys, monkeypatch, forwarding):
    logger = logging.getLogger("vimss")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    forward_warnings(False)
    show_warnings_of_workers()
    assert is_forwarding()
    log.warning("left out a clip")
    assert capsys.readouterr().err == "warning: left out a clip\n"


def test_a_training_without_ray_writes_its_log_into_the_folder_of_the_trial(small_manifest, tmp_path):
    fit(job(small_manifest, tmp_path, audio_seconds=4, report_seconds=2), lambda metrics: None)
    lines = (tmp_path / LOG).read_text().splitlines()
    assert "begins after step 0" in lines[0]
    assert sum(" INFO vimss.train.loop: audio_seconds " in line and "valid_loss" in line for line in lines) == 2


def test_a_training_that_fails_leaves_its_traceback_in_the_folder_of_the_trial(small_manifest, tmp_path):
    broken = replace(job(small_manifest, tmp_path), shards=tmp_path / "none")
    with pytest.raises(DataError):
        fit(broken, lambda metrics: None)
    assert "Traceback" in (tmp_path / LOG).read_text()


@pytest.mark.slow
def test_warnings_of_tasks_reach_the_driver_where_they_are_asked_for(shared_ray, caplog, forwarding):
    def warn_there(number: int) -> int:
        # Ray's processes cannot import this module, but get a function inside a function as it is.
        logging.getLogger("vimss.stream").warning("left out clip %d", number)
        return number

    assert parallel_map(warn_there, [1, 2]) == [1, 2]
    assert sorted(text for text in caplog.messages if text.startswith("left out")) == [
        "left out clip 1",
        "left out clip 2",
    ]
    forward_warnings(False)
    caplog.clear()
    assert parallel_map(warn_there, [1, 2]) == [1, 2] and "left out" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.rare)])
def test_a_trial_writes_its_log_on_ray_and_its_warnings_reach_the_driver(
    shared_ray, small_manifest, tmp_path, caplog, forwarding, workers
):
    once = experiment(tune={}, controls={}, search={"trials": 1})
    place, store = Place(name="test", workers_per_trial=workers), Store(tmp_path / "store").make()
    (record,) = search(once, small_manifest, place, store).records
    names = {LOG} if workers == 1 else {LOG, rank_log(0), rank_log(1)}
    assert {path.name for path in record.folder.glob("log*.txt")} == names
    text = (record.folder / (LOG if workers == 1 else rank_log(0))).read_text()
    assert "vimss.train.loop: begins after step 0" in text
    # The first worker's waiting is that of the reports.
    warned = text.count(" WARNING vimss.train.loop: ")
    assert warned == sum(report["loader_wait"] > MUCH_WAITING for report in record.reports)
    assert sum(message.startswith(f"trial {record.trial}: ") for message in caplog.messages) >= warned
