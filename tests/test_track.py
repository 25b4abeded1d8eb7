"""Tracking: what a search reports reaches MLflow once, whatever happens in between."""

import json
import math
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run
from werkzeug.serving import make_server

from vimss.errors import PlaceError, StorageError
from vimss.search.events import (
    CellEnded,
    CellStarted,
    Event,
    TrialContinues,
    TrialEnded,
    TrialReported,
    TrialsScoredAgain,
    TrialStarted,
    TrialWaits,
)
from vimss.storage import Store
from vimss.track import (
    TrackedStudy,
    Tracker,
    Tracking,
    provenance,
    register,
    runs_page,
)
from vimss.track.spool import Spool
from vimss.train.config import Settings

# MLflow's database is written in most of them.
pytestmark = pytest.mark.slow

STUDY = TrackedStudy(
    "quickstart", "3f9c2a1b07", "Which site?", {"manifest": "d1"}, ("objective",), ("training.batch_size",)
)
CARD = {"corpus": "chamber", "labels": ["vn", "vc"], "licence": "GPL-3.0-or-later"}
EVENTS: tuple[Event, ...] = (
    CellStarted("search", {"model.outputs": "queries"}, is_control=False),
    TrialStarted("search", "a1", Settings(seed=3), {"training.batch_size": 16, "training.learning_rate": 1 / 3}),
    TrialReported("search", "a1", 30.2, {"objective": 1.0, "train/loss": 0.9}),
    TrialReported("search", "a1", 60.0, {"objective": 2.0, "train/loss": 0.5}),
    TrialEnded("search", "a1", "finished", Path("/store/a1")),
    TrialStarted("search", "b2", Settings(), {}),
    TrialReported("search", "b2", 30.0, {"objective": 0.5}),
    TrialEnded("search", "b2", "pruned", Path("/store/b2")),
    TrialStarted("search", "c3", Settings(), {}),
    TrialEnded("search", "c3", "failed", Path("/store/c3"), "the loss is not finite at 12 s"),
    CellEnded("search", "a1", {"objective": 2.0, "si_sdr_improvement": 3.5}),
    TrialsScoredAgain(1, 1),  # of no run
)


def report(tracking: Tracking, events: tuple[Event, ...] = EVENTS, study: TrackedStudy = STUDY) -> None:
    with Tracker(tracking, study) as tracker:
        for event in events:
            tracker(event)
        assert not tracker.flush()


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Tracking:
    """A store that all events have reached, to be looked at."""
    tracking = Tracking(Store(tmp_path_factory.mktemp("reported")))
    shutil.copytree(empty_database, tracking.folder)
    report(tracking)
    return tracking


def runs_by_trial(tracking: Tracking) -> dict[str, Run]:
    client = tracking.client()
    found = client.get_experiment_by_name("quickstart")
    runs = client.search_runs([found.experiment_id]) if found else []
    named = {run.data.tags.get("trial", ""): run for run in runs}
    assert len(named) == len(runs), "a run was created twice"
    return named


def curve(tracking: Tracking, run: Run, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracking.client().get_metric_history(run.info.run_id, name)]


def test_trials_are_children_of_their_cell(reported: Tracking) -> None:
    runs = runs_by_trial(reported)
    assert set(runs) == {"", "a1", "b2", "c3"}
    assert {runs[trial].data.tags["mlflow.parentRunId"] for trial in ("a1", "b2", "c3")} == {runs[""].info.run_id}


def test_curves_have_audio_seconds_as_steps(reported: Tracking) -> None:
    assert curve(reported, runs_by_trial(reported)["a1"], "train/loss") == [(30, 0.9), (60, 0.5)]


def test_figures_that_are_not_finite_reach_mlflow_and_are_sent_once(tracking: Tracking) -> None:
    odd = {"objective": 1.0, "raw": math.nan, "norm": math.inf}
    events = (
        CellStarted("search", {}, is_control=False),
        TrialStarted("search", "a1", Settings(), {}),
        TrialReported("search", "a1", 30.0, odd),
        CellEnded("search", "a1", odd),
    )
    report(tracking, events)
    report(tracking, events)
    runs = runs_by_trial(tracking)
    assert math.isnan(runs["a1"].data.metrics["raw"]) and runs["a1"].data.metrics["norm"] == sys.float_info.max
    for name in odd:
        assert len(curve(tracking, runs["a1"], name)) == len(curve(tracking, runs[""], name)) == 1


def test_a_version_says_which_of_its_scores_are_not_defined(tracking: Tracking, small_model: Path) -> None:
    client = tracking.client()
    run_id = client.create_run(client.create_experiment("odd", str(tracking.artifacts))).info.run_id
    version = register(tracking, "odd", small_model, run_id, {"contrast": math.nan, "sdr": -math.inf}, CARD)
    description = client.get_model_version("odd", str(version)).description
    assert "| contrast | not defined |" in description and "| sdr | -inf |" in description


def test_a_trial_says_how_it_ended(reported: Tracking) -> None:
    runs = runs_by_trial(reported)
    status = {trial: run.info.status for trial, run in runs.items()}
    assert status == {"": "FINISHED", "a1": "FINISHED", "b2": "KILLED", "c3": "FAILED"}
    assert "not finite at 12 s" in runs["c3"].data.tags["mlflow.note.content"]


def test_a_trial_is_named_by_what_was_chosen(reported: Tracking) -> None:
    assert runs_by_trial(reported)["a1"].info.run_name == "a1 batch_size=16 learning_rate=0.333"


def test_a_trial_keeps_all_its_settings(reported: Tracking) -> None:
    run = runs_by_trial(reported)["a1"]
    path = reported.client().download_artifacts(run.info.run_id, "settings.json")
    assert Settings.model_validate(json.loads(Path(path).read_text())) == Settings(seed=3)
    assert run.data.params["seed"] == "3"
    assert run.data.params["model.vision.network"] == "resnet18"


def test_every_run_carries_signature_and_the_tags_of_the_study(reported: Tracking) -> None:
    tags = [run.data.tags for run in runs_by_trial(reported).values()]
    assert {(tag["signature"], tag["manifest"], tag["cell"]) for tag in tags} == {("3f9c2a1b07", "d1", "search")}


def test_a_cell_shows_params_and_metrics_of_its_best_trial(reported: Tracking) -> None:
    runs = runs_by_trial(reported)
    assert runs[""].data.params == runs["a1"].data.params
    assert runs[""].data.metrics == {"objective": 2.0, "train/loss": 0.5, "si_sdr_improvement": 3.5}
    assert runs[""].data.tags["best trial"] == "a1"


def test_a_cell_whose_trials_all_failed_has_failed(tracking: Tracking) -> None:
    report(tracking, (EVENTS[0], CellEnded("search", "")))
    assert runs_by_trial(tracking)[""].info.status == "FAILED"


def test_a_better_trial_after_a_resume_is_said_where_params_cannot_change(tracking: Tracking) -> None:
    report(tracking)
    report(tracking, (EVENTS[0], CellEnded("search", "b2", {"objective": 9.0})))
    cell = runs_by_trial(tracking)[""]
    assert (cell.data.tags["best trial"], cell.data.tags["params of trial"]) == ("b2", "a1")
    assert cell.data.metrics["objective"] == 9.0


def test_the_same_events_again_create_nothing_twice(tracking: Tracking) -> None:
    report(tracking)
    before = {trial: (run.info.run_id, run.data.to_dictionary()) for trial, run in runs_by_trial(tracking).items()}
    report(tracking)
    after = {trial: (run.info.run_id, run.data.to_dictionary()) for trial, run in runs_by_trial(tracking).items()}
    assert after == before
    assert curve(tracking, runs_by_trial(tracking)["a1"], "objective") == [(30, 1.0), (60, 2.0)]


def test_a_resumed_trial_runs_again(tracking: Tracking) -> None:
    report(tracking)
    report(tracking, EVENTS[:2])
    assert runs_by_trial(tracking)["a1"].info.status == "RUNNING"


def test_the_run_of_a_trial_that_waits_neither_ends_nor_begins_anew(tracking: Tracking) -> None:
    waits: tuple[Event, ...] = (*EVENTS[:3], TrialWaits("search", "a1"))
    report(tracking, waits)
    before = runs_by_trial(tracking)["a1"]
    assert (before.info.status, before.data.tags["state"]) == ("RUNNING", "waiting")
    report(tracking, (*waits, TrialContinues("search", "a1"), EVENTS[3]))
    after = runs_by_trial(tracking)["a1"]
    assert (after.info.run_id, after.info.start_time) == (before.info.run_id, before.info.start_time)
    assert (after.info.status, after.data.tags["state"]) == ("RUNNING", "running")
    report(tracking, EVENTS[4:5])
    ended = runs_by_trial(tracking)["a1"]
    assert (ended.info.status, ended.data.tags["state"]) == ("FINISHED", "finished")


def test_another_signature_is_another_study(tracking: Tracking) -> None:
    report(tracking)
    report(tracking, study=TrackedStudy("quickstart", "ffffffffff"))
    client = tracking.client()
    assert len(client.search_runs([client.get_experiment_by_name("quickstart").experiment_id])) == 8


def test_a_cell_of_another_budget_has_runs_of_its_own_though_it_has_the_same_name(tracking: Tracking) -> None:
    for folder in ("search-1", "search-2", "search-1"):
        report(tracking, study=replace(STUDY, cells={"search": folder}))
    runs = all_runs(tracking)
    assert len(runs) == 8 and {run.data.tags["cell"] for run in runs} == {"search"}


def test_the_run_of_a_cell_with_a_seed_of_its_own_says_so(tracking: Tracking) -> None:
    seeded = replace(STUDY, tags={"seed": "0"})
    report(tracking, (CellStarted("seed=3", {"seed": 3}, False), CellStarted("plain", {}, False)), seeded)
    assert {run.data.tags["cell"]: run.data.tags["seed"] for run in all_runs(tracking)} == {"seed=3": "3", "plain": "0"}


def all_runs(tracking: Tracking) -> list[Run]:
    client = tracking.client()
    return list(client.search_runs([client.get_experiment_by_name("quickstart").experiment_id]))


def test_an_experiment_deleted_in_the_pages_is_taken_up_again(tracking: Tracking) -> None:
    report(tracking)
    client = tracking.client()
    client.delete_experiment(client.get_experiment_by_name("quickstart").experiment_id)
    report(tracking)
    assert client.get_experiment_by_name("quickstart").lifecycle_stage == "active"


def test_files_are_kept_with_their_run(tracking: Tracking, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<h1>Stems</h1>")
    with Tracker(tracking, STUDY) as tracker:
        for event in EVENTS:
            tracker(event)
        tracker.log_files("search", "a1", {"audio/mix.wav": b"RIFF", "page.html": tmp_path / "page.html"})
        run_id = tracker.run_id("search", "a1")
    folder = Path(tracking.client().download_artifacts(run_id, ""))
    assert (folder / "audio/mix.wav").read_bytes() == b"RIFF"
    assert (folder / "page.html").read_text() == "<h1>Stems</h1>"
    assert not list((tracking.spool / "files").iterdir())


@pytest.mark.parametrize("name", ["../weights", "/etc/passwd", ""])
def test_a_file_stays_inside_its_run(tracking: Tracking, name: str) -> None:
    with Tracker(tracking, STUDY) as tracker, pytest.raises(StorageError, match="must be a path inside the run; got"):
        tracker.log_files("search", "a1", {name: b""})


def test_database_and_folders_are_the_owners_alone(tmp_path: Path) -> None:
    tracking = Tracking(Store(tmp_path / "store"))
    report(tracking)
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (tracking.folder, tracking.database, tracking.artifacts)
    }
    assert modes == {"mlflow": 0o700, "mlflow.db": 0o600, "artifacts": 0o700}


def test_what_a_dead_process_left_is_delivered_at_the_next_start(tracking: Tracking) -> None:
    unreachable = Tracking(tracking.store, "http://127.0.0.1:9")
    tracker = Tracker(unreachable, STUDY)
    for event in EVENTS:
        tracker(event)
    assert tracker.close().pending == 19
    shutil.copytree(unreachable.spool, tracking.spool)
    report(tracking, ())
    assert set(runs_by_trial(tracking)) == {"", "a1", "b2", "c3"}
    assert not [path for path in tracking.spool.iterdir() if path.name != "files"]


def test_a_server_that_is_down_costs_a_search_no_time(tmp_path: Path) -> None:
    tracker = Tracker(Tracking(Store(tmp_path), "http://127.0.0.1:9"), STUDY)
    begin = time.monotonic()
    for number in range(200):
        tracker(TrialReported("search", "a1", float(number), {"objective": 1.0}))
    assert time.monotonic() - begin < 2
    left = tracker.close(timeout_seconds=10.0)
    assert left.pending == 201
    assert "201 entries wait for MLflow and are sent at the next start" in str(left)
    assert "Connection refused" in left.reason


def test_asking_for_a_run_says_that_the_server_is_down(tmp_path: Path) -> None:
    with (
        Tracker(Tracking(Store(tmp_path), "http://127.0.0.1:9"), STUDY) as tracker,
        pytest.raises(
            PlaceError, match=r"MLflow at http://127.0.0.1:9 must hold the run of trial 'a1'.*start the tracking"
        ),
    ):
        tracker.run_id("search", "a1")


@contextmanager
def mlflow_server(tracking: Tracking, up: threading.Event, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """MLflow's own server on SQLite, which answers 503 until the event is set."""
    from mlflow.server import app, handlers

    patch.setenv("_MLFLOW_SERVER_FILE_STORE", tracking.address)
    patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", str(tracking.artifacts))
    patch.setattr(handlers, "_tracking_store", None)
    patch.setattr(handlers, "_model_registry_store", None)

    def gate(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if up.is_set():
            return app(environ, start)
        start("503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"not yet"]

    server = make_server("127.0.0.1", 0, gate, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        server.server_close()
        # Its handlers made their address this process' registry, where later tests would look for models.
        mlflow.set_registry_uri("")


def test_nothing_is_lost_while_a_server_refuses(tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    up = threading.Event()
    with (
        mlflow_server(tracking, up, monkeypatch) as address,
        Tracker(Tracking(tracking.store, address), STUDY) as tracker,
    ):
        for event in EVENTS[:7]:
            tracker(event)
        assert "503" in tracker.flush(timeout_seconds=5.0).reason
        up.set()
        for event in EVENTS[7:]:
            tracker(event)
        assert not tracker.flush(timeout_seconds=30.0)
    assert set(runs_by_trial(tracking)) == {"", "a1", "b2", "c3"}
    assert curve(tracking, runs_by_trial(tracking)["a1"], "objective") == [(30, 1.0), (60, 2.0)]


def test_a_locked_database_is_waited_for(tracking: Tracking) -> None:
    report(tracking, EVENTS[:2])
    other = sqlite3.connect(tracking.database, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    tracker = Tracker(tracking, STUDY)
    tracker(EVENTS[2])
    assert tracker.flush(timeout_seconds=0.5).pending
    other.execute("COMMIT")
    assert not tracker.flush(timeout_seconds=30.0)
    tracker.close()
    assert curve(tracking, runs_by_trial(tracking)["a1"], "objective") == [(30, 1.0)]


def test_an_entry_that_mlflow_refuses_holds_up_no_other(tracking: Tracking) -> None:
    tracker = Tracker(tracking, STUDY)
    for event in (*EVENTS[:3], TrialReported("search", "a1", 40.0, {"../x": 1.0}), *EVENTS[3:]):
        tracker(event)
    left = tracker.close()
    assert (left.pending, left.rejected) == (0, 1)
    assert "1 were refused and stand in" in str(left)
    assert "../x" in (tracking.spool / "rejected.log").read_text()
    assert curve(tracking, runs_by_trial(tracking)["a1"], "objective") == [(30, 1.0), (60, 2.0)]


def test_a_half_written_line_is_not_an_entry(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({"do": "end"})
    path = next(tmp_path.glob("*.jsonl"))
    with path.open("ab") as file:
        file.write(b'{"do": "tag')
    spool.close()
    assert [entry for segment in Spool(tmp_path).segments() for entry, _ in segment.pending()] == [{"do": "end"}]


def test_a_damaged_line_is_put_aside(tracking: Tracking) -> None:
    spool = Spool(tracking.spool)
    spool.append({"do": "end"})
    with next(tracking.spool.glob("*.jsonl")).open("ab") as file:
        file.write(b"\x00\xff\n[1]\n")
    spool.close()
    tracker = Tracker(tracking, STUDY)
    left = tracker.close()
    assert (left.pending, left.rejected) == (0, 3)


def test_what_was_acknowledged_is_not_pending_after_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number in range(3):
        spool.append({"do": "end", "number": number})
    segment = spool.segments()[-1]
    segment.acknowledge(segment.pending()[1][1])
    spool.close()
    assert [entry["number"] for entry, _ in Spool(tmp_path).segments()[0].pending()] == [2]


def test_the_spool_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    living = Spool(tmp_path)
    living.append({"do": "end"})
    other = Spool(tmp_path)
    assert other.num_pending() == 0
    other.close()
    assert living.num_pending() == 1


def test_provenance_names_versions() -> None:
    assert provenance()["version.mlflow"] == mlflow.__version__


def test_the_page_of_an_experiment_opens_with_its_columns(reported: Tracking) -> None:
    client = reported.client()
    experiment = client.get_experiment_by_name("quickstart")
    view = json.loads(experiment.tags["mlflow.sharedViewState.vimss"])
    assert view["selectedColumns"][:2] == ["metrics.`objective`", "params.`training.batch_size`"]
    page = runs_page(reported, "http://127.0.0.1:5000", "quickstart")
    assert f"/experiments/{experiment.experiment_id}/runs?viewStateShareKey=vimss" in page
    assert runs_page(reported, "http://x", "unknown") == "http://x/#/experiments?workflowType=machine_learning"
