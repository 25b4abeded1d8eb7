"""MLflow's server cannot be reached, at the start or in the middle of a search: said once, and nothing is lost."""

import logging
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from test_search import experiment
from test_track import EVENTS, STUDY

from vimss import api
from vimss.runtime import Place, ray_running
from vimss.search.events import Event, TrialReported, TrialStarted
from vimss.session import Session
from vimss.storage import Store
from vimss.track import Tracker, Tracking, delivery
from vimss.track.spool import Spool
from vimss.track.store import ui_command

START_SECONDS = 120.0


@pytest.fixture
def warnings(monkeypatch, caplog) -> Callable[[], list[str]]:
    """The warnings of deliveries so far."""
    monkeypatch.setattr(logging.getLogger("vimss"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records if record.name == delivery.__name__]


@pytest.fixture
def address(request) -> Iterator[str]:
    """Of a server that cannot be reached: nothing listens, no such host, or one that accepts and never answers."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = server.getsockname()[1]
        if request.param == "refused":
            server.close()
        yield f"http://mlflow.invalid:{port}" if request.param == "unknown" else f"http://127.0.0.1:{port}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "reason"),
    [("refused", "Connection refused"), ("unknown", "not known|resolution"), ("silent", "timed out")],
    indirect=["address"],
)
def test_a_server_that_cannot_be_reached_at_the_start_is_said_once(tmp_path, monkeypatch, warnings, address, reason):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(delivery, "INTERVAL_SECONDS", 0.1)
    tracking = Tracking(Store(tmp_path), address)
    begin = time.monotonic()
    tracker = Tracker(tracking, STUDY)
    for event in EVENTS:
        tracker(event)
    assert time.monotonic() - begin < 1.0
    while tracker._delivery._attempts < 3:
        time.sleep(0.05)
    left = tracker.close()
    assert left.pending == 19
    (said,) = warnings()
    assert said.startswith(f"MLflow at {address} must accept data; got ") and re.search(reason, said)
    assert said.endswith(
        f". To fix: check that it runs, and read its log. The search goes on; its data waits in {tracking.spool} and "
        "is sent by this or a later command"
    )


class Server:
    """MLflow's own server in a process; it can be killed, and started again at the same address."""

    def __init__(self, tracking: Tracking) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.command = ui_command(tracking, port)
        self.address = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wait(self) -> None:
        """Until it answers."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=2):  # noqa: S310 - our own server
                    return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < end
                time.sleep(0.2)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.mark.rare
def test_a_server_that_is_killed_during_a_search_gets_later_what_it_missed(
    small_manifest, tracking, tmp_path, warnings
):
    server, place = Server(tracking), Place(name="test", max_concurrent_trials=1)
    session = Session(place, Store(tmp_path / "searched"), Tracking(Store(tmp_path / "searched"), server.address))
    seen: Counter[type[Event]] = Counter()

    def outage(event: Event) -> None:
        seen[type(event)] += 1
        if isinstance(event, TrialReported) and seen[TrialReported] == 2:
            server.kill()
        elif isinstance(event, TrialStarted) and seen[TrialStarted] == 2:
            server.start()

    server.start()
    try:
        server.wait()
        with ray_running(place, num_cpus=2):
            study, tracker = api.run_search(
                session, experiment(search={"trials": 2, "scheduler": "none"}, controls={}), small_manifest, [outage]
            )
        server.wait()
        left = tracker.flush(START_SECONDS)
        assert not left, str(left)
        tracker.close()
        client = session.tracking.client()
        found = client.search_runs([client.get_experiment_by_name("small").experiment_id])
        runs = {run.data.tags["trial"]: run for run in found if "trial" in run.data.tags}
        assert runs.keys() == {record.trial for record in study.records} and len(found) == 1 + len(runs)
        for record in study.records:
            points = client.get_metric_history(runs[record.trial].info.run_id, "valid_loss")
            reports = [(round(report["audio_seconds"]), report["valid_loss"]) for report in record.reports]
            assert [(point.step, point.value) for point in points] == reports
            assert runs[record.trial].info.status == "FINISHED"
    finally:
        server.kill()
    # A request that the kill meets is one that was not accepted; a later one is not answered. Either is said once.
    (said,) = warnings()
    assert said.startswith((f"MLflow at {server.address} must answer", f"MLflow at {server.address} must accept data"))
    assert Path(session.tracking.spool, "files").is_dir() and not list(session.tracking.spool.glob("*.jsonl"))


def test_segments_keep_their_order_where_the_clock_is_set_back(tmp_path, monkeypatch):
    clock = time.time_ns
    for day in (2, 1, 0):
        monkeypatch.setattr(time, "time_ns", lambda day=day: clock() + day * 86_400 * 10**9)
        spool = Spool(tmp_path)
        spool.append({"do": "end", "day": day})
        for segment in spool.segments():
            segment.release()
    left = Spool(tmp_path)
    assert [entry["day"] for segment in left.segments() for entry, _ in segment.pending()] == [2, 1, 0]


@pytest.mark.slow
def test_a_clock_that_is_set_back_during_a_search_loses_nothing(tracking, monkeypatch):
    clock = time.time_ns
    with Tracker(tracking, STUDY) as tracker:
        for number, event in enumerate(EVENTS):
            monkeypatch.setattr(time, "time_ns", lambda day=number % 2: clock() - day * 86_400 * 10**9)
            tracker(event)
        assert not tracker.flush()
    client = tracking.client()
    found = client.search_runs([client.get_experiment_by_name("quickstart").experiment_id])
    runs = {run.data.tags.get("trial", ""): run for run in found}
    assert {trial: run.info.status for trial, run in runs.items()} == {
        "": "FINISHED", "a1": "FINISHED", "b2": "KILLED", "c3": "FAILED"
    }  # fmt: skip
    points = client.get_metric_history(runs["a1"].info.run_id, "objective")
    assert sorted((point.step, point.value) for point in points) == [(30, 1.0), (60, 2.0)]
