"""A search that is told to end by Ctrl-C or SIGTERM lets its trainings write a checkpoint."""

import os
import signal
import threading

import pytest
from test_search import experiment
from test_trial import job

from vimss.errors import InterruptionError
from vimss.runtime import Place
from vimss.search.ending import SIGNALS, on_first_signal
from vimss.search.observer import INTERRUPTED, Observer
from vimss.search.trial import TrialPlan
from vimss.train.checkpoint import newest_valid
from vimss.train.distribute import fit
from vimss.train.own_copy import STOP


@pytest.fixture(params=SIGNALS, ids=lambda number: number.name)
def number(request):
    """A signal, in a process that ignores neither."""
    before = {each: signal.getsignal(each) for each in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield request.param
    for each, handler in before.items():
        signal.signal(each, handler)


def test_the_first_signal_calls_and_the_second_one_ends_the_block(number):
    called = []
    with pytest.raises(KeyboardInterrupt), on_first_signal(lambda: called.append(1)):
        os.kill(os.getpid(), number)
        assert called == [1]
        os.kill(os.getpid(), number)
    assert called == [1]


def test_after_the_block_the_handlers_are_those_of_before(number):
    before = signal.getsignal(number)
    with on_first_signal(lambda: None):
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_so(number):
    signal.signal(number, signal.SIG_IGN)
    with on_first_signal(lambda: None):
        assert signal.getsignal(number) == signal.SIG_IGN


def test_outside_the_main_thread_no_signal_is_handled(number):
    seen, before = [], signal.getsignal(number)

    def block():
        with on_first_signal(lambda: None):
            seen.append(signal.getsignal(number))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.slow
def test_a_training_that_is_asked_to_end_writes_a_checkpoint_and_the_same_job_ends(small_manifest, tmp_path):
    made, reports = job(small_manifest, tmp_path, audio_seconds=40, report_seconds=8), []
    thread = threading.Timer(0.0, lambda: (tmp_path / STOP).touch())

    def report(metrics):
        reports.append(metrics["steps"])
        if len(reports) == 1:
            thread.start()
            thread.join()

    with pytest.raises(InterruptionError):
        fit(made, report)
    assert newest_valid(sorted((tmp_path / "train").glob("step_*"), reverse=True)) is not None
    fit(made, reports.append)
    assert not (tmp_path / STOP).exists() and reports[-1]["audio_seconds"] >= 40


class Trial:
    """What Tune tells its callbacks of a trial."""

    trial_id, config, pickled_error_file, error_file = "a", {}, None, None


@pytest.fixture
def observer(tmp_path):
    """Of one trial that runs."""
    by = experiment(tune={}, controls={})
    place = Place(name="test", grace_seconds=0.2)
    plan = TrialPlan(by, {cell.name: cell for cell in by.cells()}, tmp_path, (), place, tmp_path)
    observer = Observer(plan, (), "a set", iter(range(1, 100)))
    observer.on_trial_start(0, [], Trial())
    return observer


def test_a_search_that_is_told_to_end_asks_its_trials_and_ends_when_they_have(observer):
    observer.end()
    observer.on_step_end(0, [])
    (record,) = observer.records.values()
    assert (record.folder / STOP).exists()
    observer._close("a", "interrupted", INTERRUPTED)
    assert not (record.folder / STOP).exists()
    with pytest.raises(KeyboardInterrupt):
        observer.on_step_end(0, [])


def test_a_trial_that_does_not_end_in_its_time_is_left_as_interrupted(observer):
    observer.end()
    observer.on_step_end(0, [])
    observer.give_up -= 1.0
    with pytest.raises(KeyboardInterrupt):
        observer.on_step_end(0, [])
    observer.interrupt()
    (record,) = observer.records.values()
    assert (record.state, record.message) == ("interrupted", "the search was interrupted; the same command resumes it")
