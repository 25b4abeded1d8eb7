"""MLflow's server cannot be reached, at the start or in the middle of a search: said once, and nothing is lost."""

import functools
import json
import logging
import re
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from free_ports import free_ports
from servers import START_SECONDS, MlflowServer
from test_search import experiment
from test_track import EXPERIMENT, three, trial

from vimss import api
from vimss.runtime import Place, ray_running
from vimss.search.consistency import load_experiment
from vimss.search.events import Event, TrialReported, TrialStarted
from vimss.search.study import study_folder, write_record
from vimss.session import Session
from vimss.storage import Store
from vimss.track import Tracking
from vimss.track.sync import LONGEST_PAUSE_SECONDS, _Syncing, sync, syncing
from vimss.track.ui import ui_command

SYNC = "vimss.track.sync"


@pytest.fixture
def warnings(monkeypatch, caplog) -> Callable[[], list[str]]:
    """The warnings of syncing so far."""
    monkeypatch.setattr(logging.getLogger("vimss"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records if record.name == SYNC and record.levelno > 20]


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
def test_a_server_that_cannot_be_reached_is_said_once(tmp_path, monkeypatch, warnings, small_manifest, address, reason):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(f"{SYNC}.INTERVAL_SECONDS", 0.05)
    attempts = Counter()
    study = three(tmp_path / "quickstart-3f9c2a1b07")
    monkeypatch.setattr(f"{SYNC}.is_searched", lambda folder: not attempts.update(["sync"]))
    with syncing(Tracking(Store(tmp_path), address), EXPERIMENT, small_manifest, study.folder):
        end = time.monotonic() + 30
        while attempts["sync"] < 3 and time.monotonic() < end:
            time.sleep(0.05)
    assert attempts["sync"] >= 3
    (said,) = warnings()
    assert said.startswith(f"MLflow at {address} must answer; got ") and re.search(reason, said)
    assert said.endswith(
        "The search goes on; its records are kept, and MLflow gets them from this or a later command, or by "
        "`vimss sync quickstart`"
    )


def test_an_outage_of_days_does_not_end_the_thread(tmp_path, small_manifest):
    study = three(tmp_path / "quickstart-3f9c2a1b07")
    thread = _Syncing(
        functools.partial(
            sync, Tracking(Store(tmp_path), "http://127.0.0.1:9"), EXPERIMENT, small_manifest, study.folder
        ),
        study.folder,
        "http://127.0.0.1:9",
        "quickstart",
    )
    thread._failures = 10_000
    assert thread._attempt() == LONGEST_PAUSE_SECONDS


@pytest.fixture
def servers(tracking) -> Iterator[MlflowServer]:
    """A server, killed at the end."""
    (port,) = free_ports(1)
    server = MlflowServer(ui_command(tracking, int(port)), port)
    yield server
    server.kill()


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_gets_everything_once(
    servers, tracking, vimss_says, tmp_path, small_manifest, small_recipe, monkeypatch, warnings
):
    """Killed in the middle and restarted, then killed again and away until long after the search."""
    (tmp_path / "small.yaml").write_text(json.dumps(small_recipe.model_dump(mode="json")))
    (tmp_path / "asked.yaml").write_text(f"question: q\nexpected: e\nshards: {tmp_path / 'small.yaml'}")
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "runtime.yaml").write_text(f"tracking_uri: {servers.address}\n")
    shutil.copytree(small_manifest.folder, tracking.store.shards.path / small_manifest.folder.name)
    loaded, remote = load_experiment(tmp_path / "asked.yaml"), Tracking(tracking.store, servers.address)
    folder = study_folder(loaded, small_manifest, tracking.store)
    record = trial(folder, "a1", "running", settings=loaded.settings())

    def reports(until: int) -> None:
        nonlocal record
        for step in range(len(record.reports) + 1, until + 1):
            metrics = {"audio_seconds": 10.0 * step, "steps": float(step), "valid_loss": -float(step)}
            record = record.with_report(metrics, step)
            write_record(record)

    def points() -> list[tuple[int, float]]:
        client = tracking.client()
        found = client.get_experiment_by_name("asked")
        runs = client.search_runs([found.experiment_id], "tags.trial = 'a1'") if found else []
        history = client.get_metric_history(runs[0].info.run_id, "valid_loss") if runs else []
        return sorted((point.step, point.value) for point in history)

    def wait_for(count: int) -> None:
        end = time.monotonic() + START_SECONDS
        while len(points()) < count:
            assert time.monotonic() < end
            time.sleep(0.5)

    monkeypatch.setattr(f"{SYNC}.INTERVAL_SECONDS", 0.2)
    servers.start()
    servers.wait()
    with syncing(remote, loaded, small_manifest, folder):
        reports(5)
        wait_for(5)
        servers.kill()
        reports(10)
        servers.start()
        wait_for(10)
        reports(150)
        servers.kill()
        reports(200)
        write_record(record.model_copy(update={"state": "finished", "ended": time.time()}))
        end = time.monotonic()
    assert time.monotonic() - end < 40
    assert len(points()) < 200 and len(warnings()) >= 2
    servers.start()
    servers.wait()
    words = ("sync", tmp_path / "asked.yaml", "--on", tmp_path / "away")
    code, out, err = vimss_says(*words)
    assert code == 0 and out.startswith("2 runs of asked are in MLflow; written: "), err
    assert points() == [(10 * step, -float(step)) for step in range(1, 201)]
    assert vimss_says(*words)[1] == "2 runs of asked are in MLflow; written: nothing new\n"
    assert "pictures and pages: " in err and "write runs: " in err
    runs = tracking.client().search_runs([tracking.client().get_experiment_by_name("asked").experiment_id])
    assert sorted(run.data.tags.get("trial", "") for run in runs) == ["", "a1"]
    assert {run.info.status for run in runs if "trial" in run.data.tags} == {"FINISHED"}


@pytest.mark.rare
def test_a_server_that_is_killed_during_a_search_gets_later_what_it_missed(servers, small_manifest, tmp_path, warnings):
    place, store = Place(name="test", max_concurrent_trials=1), Store(tmp_path / "searched")
    session = Session(place, store, Tracking(store, servers.address))
    seen: Counter[type[Event]] = Counter()

    def outage(event: Event) -> None:
        seen[type(event)] += 1
        if isinstance(event, TrialReported) and seen[TrialReported] == 2:
            servers.kill()
        elif isinstance(event, TrialStarted) and seen[TrialStarted] == 2:
            servers.start()

    servers.start()
    servers.wait()
    chosen = experiment(search={"trials": 2, "scheduler": "none"}, controls={})
    with ray_running(place, num_cpus=2):
        study = api.run_search(session, chosen, small_manifest, [outage])
    servers.wait()
    synced = sync(session.tracking, chosen, small_manifest, study.folder)
    client = session.tracking.client()
    found = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    runs = {run.data.tags["trial"]: run for run in found if "trial" in run.data.tags}
    assert runs.keys() == {record.trial for record in study.records}
    assert len(found) == len(synced.run_ids) == 1 + len(runs)
    for record in study.records:
        points = client.get_metric_history(runs[record.trial].info.run_id, "valid_loss")
        reports = [(round(report["audio_seconds"]), report["valid_loss"]) for report in record.reports]
        assert [(point.step, point.value) for point in points] == reports
        assert runs[record.trial].info.status == "FINISHED"
    assert len(warnings()) <= 1
