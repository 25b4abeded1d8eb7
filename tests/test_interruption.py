"""A training that is told to end writes a checkpoint, and resumed it ends as if nothing had happened."""

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest
import torch
from safetensors.torch import load_file
from test_train import one_thread, settings  # noqa: F401 - a fixture that all use
from test_trial import job

from vimss.errors import InterruptionError, StorageError
from vimss.runtime import termination, termination_requested
from vimss.search.failures import was_interrupted, was_lost
from vimss.storage import atomic_write
from vimss.train.checkpoint import folder_for_checkpoint, newest_valid
from vimss.train.config import ValidationConfig
from vimss.train.distribute import DRAINED_EVERY, ToldToEnd, checkpoint_name, fit
from vimss.train.loop import Training, train

TIMES = {"audio_seconds_per_second", "loader_wait", "peak_memory_gib"}
"""Figures of a report that differ from run to run."""


def interrupted_at(manifest, folder, question, chosen=None, resume=None, **where):
    """Train until the question of that number whether to stop; all questions, reports, and the newest checkpoint."""
    asked, reports, kept = 0, [], resume

    def should_stop():
        nonlocal asked
        asked += 1
        return asked == question

    def report(metrics, checkpoint):
        nonlocal kept
        if checkpoint is not None:
            kept = folder / f"{len(list(folder.iterdir()))}"
            checkpoint.rename(kept)
            checkpoint.mkdir()
        if "valid_loss" in metrics:
            reports.append({name: value for name, value in metrics.items() if name not in TIMES})

    training = Training(chosen or settings(), manifest, ValidationConfig(mixtures=6, seconds=0.25), **where)
    if question:
        with pytest.raises(InterruptionError):
            train(training, report, resume, should_stop=should_stop)
    else:
        train(training, report, resume, should_stop=should_stop)
    return asked, reports, kept


@pytest.fixture(scope="module")
def undisturbed(small_manifest, tmp_path_factory):
    return interrupted_at(small_manifest, tmp_path_factory.mktemp("undisturbed"), 0)


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.rare)])
def test_a_training_that_was_interrupted_anywhere_ends_with_the_same_weights_and_reports(
    small_manifest, undisturbed, tmp_path, every
):
    asked, expected, end = undisturbed
    weights = load_file(end / "state.safetensors")
    for question in range(1, asked + 1, every):
        folder = tmp_path / str(question)
        folder.mkdir()
        _, before, kept = interrupted_at(small_manifest, folder, question)
        _, after, last = interrupted_at(small_manifest, folder, 0, resume=kept)
        # The last report before it comes a second time.
        assert [*before, *after[1 if before else 0 :]] == expected and after[: len(before)][-1:] == before[-1:]
        found = load_file(last / "state.safetensors")
        assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_checkpoint_between_two_reports_has_no_model(small_manifest, tmp_path):
    _, _, kept = interrupted_at(small_manifest, tmp_path, 1)
    assert sorted(path.name for path in kept.iterdir()) == ["state.json", "state.safetensors"]


def test_a_training_that_shall_pause_is_validated_there_though_it_was_interrupted_meanwhile(
    small_manifest, undisturbed, tmp_path
):
    expected = undisturbed[1][0]
    steps = int(expected["steps"])
    _, before, kept = interrupted_at(small_manifest, tmp_path, steps, pause_seconds=1.0)
    assert before == []
    _, after, _ = interrupted_at(small_manifest, tmp_path, 0, resume=kept, pause_seconds=1.0)
    assert after == [expected]


def test_reports_that_are_not_on_record_come_again_from_the_checkpoint(small_manifest, undisturbed, tmp_path):
    _, expected, end = undisturbed
    for known in (0.0, expected[0]["steps"]):
        _, again, _ = interrupted_at(small_manifest, tmp_path, 0, resume=end, reported_steps=known)
        assert len(expected) == 2 and again == [report for report in expected if report["steps"] > known]


def test_the_message_says_where_and_that_the_same_command_resumes(small_manifest, tmp_path):
    training = Training(settings(), small_manifest, ValidationConfig(mixtures=6, seconds=0.25))
    message = (
        r"training must not be interrupted; got SIGTERM or a preemption after step 1 of \d+, where it wrote a "
        "checkpoint. To fix: run the same command again, which resumes it"
    )
    with pytest.raises(InterruptionError, match=message):
        train(training, lambda metrics, folder: None, should_stop=lambda: True)


def test_an_interruption_is_neither_a_failure_nor_a_loss():
    error = InterruptionError("training must not be interrupted", got="SIGTERM", fix="resume")
    assert was_interrupted(error) and not was_lost(error) and not was_interrupted(ValueError())


# A process


SCRIPT = """
import sys
from pathlib import Path
from test_trial import job
from vimss.shards.manifest import open_manifest
from vimss.train import distribute
from vimss.train.distribute import fit
distribute.PROGRESS_SECONDS = 0.0
fit(job(open_manifest(Path({shards!r})), Path({folder!r}), audio_seconds=80, report_seconds=40), print)
"""


@pytest.mark.slow
def test_a_process_that_gets_sigterm_writes_a_checkpoint_of_its_last_step(small_manifest, tmp_path):
    long = {"audio_seconds": 80, "report_seconds": 40}
    script = SCRIPT.format(shards=str(small_manifest.folder), folder=str(tmp_path / "a"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), "tests"])}
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env=environment)
    progress = tmp_path / "a" / "progress"
    while not progress.exists() or progress.read_text(encoding="utf-8").split()[1:2] in ([], ["0.000"]):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "InterruptionError: training must not be interrupted" in errors
    step = float(errors.split("after step ")[1].split()[0])
    assert newest_valid((tmp_path / "a" / "train").iterdir()) == tmp_path / "a" / "train" / checkpoint_name(step)
    for folder in ("a", "undisturbed"):
        fit(job(small_manifest, tmp_path / folder, **long), lambda metrics: None)
    one, other = (
        load_file(newest_valid(sorted((tmp_path / name / "train").iterdir(), reverse=True)) / "state.safetensors")
        for name in ("a", "undisturbed")
    )
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.fixture
def no_request(monkeypatch):
    """This process was told nothing, before and after."""
    monkeypatch.setattr(termination, "_requested", threading.Event())


def test_sigterm_is_known_in_the_main_thread(no_request):
    before = signal.getsignal(signal.SIGTERM)
    with termination_requested(60.0) as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert should_stop()
    assert signal.getsignal(signal.SIGTERM) == before
    with termination_requested(60.0) as should_stop:
        assert should_stop()


def test_sigterm_is_known_in_a_thread_beside_a_busy_main_thread(no_request):
    found = []

    def work():
        with termination_requested(60.0) as should_stop:
            os.kill(os.getpid(), signal.SIGTERM)
            while not should_stop():
                time.sleep(0.01)
            found.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():  # as in the process of a trial, which waits for reports
        thread.join(0.05)
    assert found == [True]


def test_a_process_that_does_not_come_to_its_end_is_ended():
    script = """
import os, signal, time
from vimss.runtime import termination_requested
with termination_requested(0.2):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
"""
    begin = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and time.monotonic() - begin < 25
    assert "ends 0 s after SIGTERM, in the middle of its work" in ran.stderr


def test_what_a_killed_process_left_of_a_checkpoint_is_removed_by_the_next_one(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with folder_for_checkpoint() as folder:
        assert list(tmp_path.iterdir()) == [folder] and folder.stat().st_mode & 0o777 == 0o700
    if (child := os.fork()) == 0:
        try:
            with folder_for_checkpoint():
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0) == (child, 0)
    (left,) = tmp_path.iterdir()
    with folder_for_checkpoint() as folder:
        assert list(tmp_path.iterdir()) == [folder] != [left]


# A full disk


def test_a_checkpoint_that_does_not_fit_names_the_variable_of_the_folder_where_it_is_made(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(
            StorageError, match=r"model must fit on the disk; got No space left .* or set TMPDIR to a folder"
        ),
        folder_for_checkpoint() as folder,
        atomic_write(folder / "model"),
    ):
        raise full


def test_a_disk_that_is_full_while_training_destroys_nothing_and_the_same_job_goes_on(small_manifest, tmp_path):
    reports = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(metrics):
        reports.append(metrics)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))

    short = job(small_manifest, tmp_path, audio_seconds=4, report_seconds=2)
    try:
        with pytest.raises(StorageError, match=r"must fit on the disk; got File too large with \d+ MB free"):
            fit(short, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (kept,) = (tmp_path / "train").iterdir()
    assert newest_valid([kept]) == kept and len(reports) == 1
    fit(short, reports.append)
    assert reports[1] == reports[0] and len(reports) == 3


@pytest.mark.parametrize("told", [False, True])
def test_a_rank_asks_train_equally_often_whatever_else_it_was_told(told):
    asked = []
    is_told_to_end = ToldToEnd(lambda: told, lambda: bool(asked.append(None)))
    assert [is_told_to_end() for _ in range(3 * DRAINED_EVERY)] == [told] * (3 * DRAINED_EVERY)
    assert len(asked) == 3


def test_a_rank_ends_when_its_node_is_drained():
    drained = ToldToEnd(lambda: False, lambda: True)
    assert [drained() for _ in range(DRAINED_EVERY)] == [False] * (DRAINED_EVERY - 1) + [True]
