"""Tracking: what a search reports reaches MLflow once, whatever happens in between."""

import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import soxr
import torch
from alembic import command
from mlflow.entities import Run
from mlflow.store.db.utils import _get_alembic_config
from werkzeug.serving import make_server

from vimss.errors import ModelError, PlaceError, StorageError
from vimss.experiment import (
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
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, save_separator
from vimss.storage import Store
from vimss.track import (
    Study,
    Tracker,
    Tracking,
    find_version,
    model_folder,
    provenance,
    register,
    runs_page,
    serve_ui,
    set_alias,
    ui_command,
)
from vimss.track.names import check_registered
from vimss.track.spool import Spool
from vimss.train.config import Settings

STUDY = Study("quickstart", "3f9c2a1b07", "Which site?", {"manifest": "d1"}, ("objective",), ("training.batch_size",))
CARD = {"corpus": "chamber", "labels": ["vn", "vc"], "licence": "GPL-3.0-or-later"}
EVENTS: tuple[Event, ...] = (
    CellStarted("search", {"model.outputs": "queries"}, baseline=False),
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


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a migrated database: making one takes seconds."""
    tracking = Tracking(Store(tmp_path_factory.mktemp("migrated")))
    tracking.client()
    return tracking.folder


@pytest.fixture
def tracking(tmp_path: Path, empty_database: Path) -> Tracking:
    tracking = Tracking(Store(tmp_path / "store"))
    shutil.copytree(empty_database, tracking.folder)
    return tracking


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = WaveUNetConfig(levels=2, filters=2, down_kernel=5, site="decoder", outputs="queries", padding="same")
    folder = tmp_path_factory.mktemp("models") / "small"
    save_separator(folder, Separator(config, ("vn", "vc", "fl"), 8000), {})
    return folder


def report(tracking: Tracking, events: tuple[Event, ...] = EVENTS, study: Study = STUDY) -> None:
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
        CellStarted("search", {}, baseline=False),
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
    report(tracking, study=Study("quickstart", "ffffffffff"))
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


@pytest.fixture(scope="module")
def registry(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path, small_model: Path
) -> tuple[Tracking, str, int]:
    """A tracking store with version 1 of `quickstart`, the champion."""
    tracking = Tracking(Store(tmp_path_factory.mktemp("registry")))
    shutil.copytree(empty_database, tracking.folder)
    with Tracker(tracking, STUDY) as tracker:
        for event in EVENTS:
            tracker(event)
        run_id = tracker.run_id("search", "a1")
    version = register(tracking, "quickstart", small_model, run_id, {"si_sdr_improvement": 3.14159}, CARD)
    set_alias(tracking, "quickstart", "champion", version)
    return tracking, run_id, version


ODD_PATHS = ("a%20b", "100%", "a?b#c:{x}[y]", "é'\"\\;b&c=d")


@pytest.mark.parametrize("name", ODD_PATHS)
def test_runs_and_models_are_kept_in_a_store_at_any_path(
    tmp_path: Path, empty_database: Path, small_model: Path, name: str
) -> None:
    tracking = Tracking(Store(tmp_path / name))
    shutil.copytree(empty_database, tracking.folder)
    with Tracker(tracking, STUDY) as tracker:
        for event in EVENTS[:5]:
            tracker(event)
        tracker.log_files("search", "a1", {"page.html": b"page"})
        run_id = tracker.run_id("search", "a1")
    register(tracking, "quickstart", small_model, run_id, {}, CARD)
    assert (model_folder("models:/quickstart/1", tracking) / "weights.safetensors").is_file()
    # MLflow by itself finds them too.
    assert Path(tracking.client().download_artifacts(run_id, "page.html")).read_bytes() == b"page"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_empty_database_is_made_at_any_path(tmp_path: Path) -> None:
    tracking = Tracking(Store(tmp_path / "100%25 ?{x}"))
    assert tracking.client().search_experiments() and tracking.database.is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["100%25 ?{x}"]


@pytest.fixture
def copied(registry: tuple[Tracking, str, int], tmp_path: Path) -> Tracking:
    """A copy of the store at another path, beside the original, whose files it must not touch."""
    original = tmp_path / "original"
    shutil.copytree(registry[0].store.root, original)
    first = Tracking(Store(original))
    first.client()
    shutil.copytree(original, tmp_path / "a %copy" / "store")
    for file in ("model.json", "weights.safetensors", "settings.json", "MLmodel"):
        for path in first.artifacts.rglob(file):
            path.write_text("the original's", encoding="utf-8")
    return Tracking(Store(tmp_path / "a %copy" / "store"))


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_copied_or_moved_store_has_its_own_models(
    copied: Tracking, small_model: Path, tmp_path: Path, is_moved: bool
) -> None:
    if is_moved:
        shutil.rmtree(tmp_path / "original")
    folder = model_folder("models:/quickstart@champion", copied)
    assert folder.is_relative_to(copied.store.root)
    assert (folder / "model.json").read_bytes() == (small_model / "model.json").read_bytes()


@pytest.mark.parametrize("is_moved", [False, True])
def test_mlflow_finds_the_files_of_a_copied_or_moved_store(copied: Tracking, tmp_path: Path, is_moved: bool) -> None:
    if is_moved:
        shutil.rmtree(tmp_path / "original")
    client, run_id = copied.client(), runs_by_trial(copied)["a1"].info.run_id
    assert json.loads(Path(client.download_artifacts(run_id, "settings.json")).read_text())["seed"] == 3
    with sqlite3.connect(copied.database) as connection:
        named = [line for line in connection.iterdump() if "/mlflow/artifacts" in line]
    assert named and all(copied.artifacts.as_uri() in line for line in named)


def test_a_copied_store_grows_beside_its_original(copied: Tracking, small_model: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "original").rglob("*")}
    with Tracker(copied, STUDY) as tracker:
        for event in EVENTS:
            tracker(event)
        tracker.log_files("search", "b2", {"new.txt": b"new"})
        run_id = tracker.run_id("search", "b2")
    save_separator(
        tmp_path / "other",
        Separator(WaveUNetConfig(levels=2, filters=2, down_kernel=5, padding="same"), ("vn", "vc"), 8000),
        {},
    )
    assert register(copied, "quickstart", tmp_path / "other", run_id, {}, CARD) == 2
    assert model_folder("models:/quickstart/2", copied).is_relative_to(copied.artifacts)
    assert (copied.artifacts / run_id / "artifacts" / "new.txt").read_bytes() == b"new"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "original").rglob("*")} == before


def test_a_store_that_two_machines_mount_elsewhere_is_read_and_written_where_each_has_it(
    registry: tuple[Tracking, str, int], tmp_path: Path
) -> None:
    here, there = Tracking(Store(tmp_path / "here")), Tracking(Store(tmp_path / "there"))
    shutil.copytree(registry[0].store.root, here.store.root)
    there.store.root.symlink_to(here.store.root)
    with Tracker(here, STUDY) as tracker:
        tracker(EVENTS[0])
        assert not tracker.flush()
        assert model_folder("models:/quickstart/1", there).is_relative_to(there.artifacts)
        there.store.root.unlink()
        tracker.log_files("search", "a1", {"late.txt": b"late"})
        run_id = tracker.run_id("search", "a1")
    assert (here.artifacts / run_id / "artifacts" / "late.txt").read_bytes() == b"late"
    assert model_folder("models:/quickstart/1", here).is_relative_to(here.artifacts)
    assert not there.store.root.exists()


def test_a_model_is_found_in_a_store_that_is_mounted_to_be_read(
    registry: tuple[Tracking, str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = registry[0].folder / "lock"
    before = lock.rename(lock.with_name("gone"))
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != registry[0].folder)
    assert (model_folder("models:/quickstart/1", registry[0]) / "model.json").is_file()
    assert not lock.exists()
    before.rename(lock)


def test_a_store_stays_as_it_is_when_it_is_opened_where_it_was(registry: tuple[Tracking, str, int]) -> None:
    registry[0].client()
    before = registry[0].database.read_bytes()
    registry[0].client()
    assert registry[0].database.read_bytes() == before


def test_what_a_moved_store_still_had_to_send_is_sent(tracking: Tracking, tmp_path: Path) -> None:
    spool = Spool(tracking.spool)
    spool.append({"do": "experiment", "experiment": "late", "time": 1, "tags": {}})
    spool.close()
    moved = Tracking(Store(tmp_path / "moved"))
    tracking.store.root.rename(moved.store.root)
    report(moved, ())
    assert moved.client().get_experiment_by_name("late") is not None


def test_a_file_that_is_no_database_is_told_at_once(tracking: Tracking) -> None:
    tracking.database.write_bytes(b"no database" * 1000)
    with pytest.raises(
        PlaceError, match=r"mlflow.db must be MLflow's database, .* got file is not a database. To fix: end"
    ):
        tracking.client()


def test_the_same_weights_are_registered_once(registry: tuple[Tracking, str, int], small_model: Path) -> None:
    tracking, run_id, version = registry
    assert register(tracking, "quickstart", small_model, run_id, {}, CARD) == version == 1


def test_a_version_says_what_it_was_made_of(registry: tuple[Tracking, str, int]) -> None:
    tracking, run_id, _ = registry
    found = find_version(tracking, "quickstart", "champion")
    assert (found.version, found.run_id, found.aliases) == (1, run_id, ("champion",))
    assert found.tags["metric.si_sdr_improvement"] == "3.14159"
    assert found.tags["labels"] == "vn, vc"
    description = tracking.client().get_model_version("quickstart", "1").description
    assert "| si_sdr_improvement | 3.14 |" in description
    assert "- **licence**: GPL-3.0-or-later" in description


def test_registering_leaves_the_run_as_it_was(registry: tuple[Tracking, str, int]) -> None:
    tracking, run_id, _ = registry
    assert tracking.client().get_run(run_id).info.status == "FINISHED"


@pytest.mark.parametrize("uri", ["models:/quickstart@champion", "models:/quickstart/1"])
def test_a_registered_model_is_found(registry: tuple[Tracking, str, int], small_model: Path, uri: str) -> None:
    folder = model_folder(uri, registry[0])
    assert (folder / "model.json").read_bytes() == (small_model / "model.json").read_bytes()
    assert (folder / "weights.safetensors").is_file()


def test_a_folder_is_a_model(tracking: Tracking, small_model: Path) -> None:
    assert model_folder(str(small_model), tracking) == small_model


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/quickstart@best", r"version or alias 'best'; got versions 1; aliases champion \(version 1\)"),
        ("models:/quickstart/7", r"version or alias '7'; got versions 1; .* choose one of these"),
        ("models:/quick@champion", "got no model 'quick'. To fix: choose from quickstart"),
        ("models:/quickstart", "a model is models:/name@alias, models:/name/3 or a folder; got models:/quickstart"),
        ("/nowhere", r"/nowhere must hold model.json and weights.safetensors; got no model.json and no weights"),
    ],
)
def test_a_model_that_does_not_exist_is_refused(registry: tuple[Tracking, str, int], uri: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model_folder(uri, registry[0])


def test_an_empty_registry_says_so(tracking: Tracking) -> None:
    with pytest.raises(ModelError, match="run a search first: no model is registered"):
        model_folder("models:/quickstart@champion", tracking)


def test_a_model_is_fetched_from_a_server_once(
    registry: tuple[Tracking, str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = threading.Event()
    up.set()
    with mlflow_server(registry[0], up, monkeypatch) as address:
        remote = Tracking(Store(tmp_path), address)
        folder = model_folder("models:/quickstart@champion", remote)
        assert folder.is_relative_to(tmp_path)
        assert (folder / "weights.safetensors").is_file()
        made = (folder / "weights.safetensors").stat().st_mtime_ns
        assert model_folder("models:/quickstart/1", remote) == folder
        assert (folder / "weights.safetensors").stat().st_mtime_ns == made


@pytest.fixture
def served(registry: tuple[Tracking, str, int]) -> Iterator[mlflow.pyfunc.PyFuncModel]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registry[0].address)
    yield mlflow.pyfunc.load_model("models:/quickstart@champion")
    mlflow.set_tracking_uri(before)


def test_the_served_model_gives_what_the_separator_gives(served: mlflow.pyfunc.PyFuncModel, small_model: Path) -> None:
    from vimss.model.apply import separate_all
    from vimss.model.separator import load_separator

    separator = load_separator(small_model)
    mixture = np.random.default_rng(0).normal(0, 0.1, (1, 1, 4000)).astype(np.float32)
    expected = separate_all(separator, torch.from_numpy(mixture[0]), separator.label_context(["vc", "fl"])[0])
    stems = served.predict({"mixture": mixture}, params={"instruments": ["vc", "fl"]})
    assert list(stems) == ["vc", "fl"]
    np.testing.assert_allclose(np.stack([stems["vc"][0], stems["fl"][0]]), expected.numpy(), atol=1e-6)


def test_the_served_model_resamples(served: mlflow.pyfunc.PyFuncModel) -> None:
    mixture = np.random.default_rng(0).normal(0, 0.1, (2, 1, 44101)).astype(np.float32)
    at_8_khz = np.stack([soxr.resample(channels.T, 44100, 8000).T for channels in mixture])
    expected = served.predict({"mixture": at_8_khz}, params={"instruments": ["vn"]})["vn"]
    stems = served.predict({"mixture": mixture}, params={"instruments": ["vn"], "sample_rate": 44100})
    assert stems["vn"].shape == mixture.shape
    upsampled = np.stack([soxr.resample(channels.T, 8000, 44100).T for channels in expected])
    np.testing.assert_allclose(stems["vn"][:, :, :44000], upsampled[:, :, :44000], atol=1e-6)


@pytest.mark.parametrize(
    ("instruments", "message"),
    [([], "must be told which instruments play"), (["kazoo"], "got 'kazoo'. To fix: choose from vn, vc, fl")],
)
def test_the_served_model_lists_its_labels(
    served: mlflow.pyfunc.PyFuncModel, instruments: list[str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        served.predict({"mixture": np.zeros((1, 1, 100), np.float32)}, params={"instruments": instruments})


@pytest.mark.parametrize("mixture", [np.zeros((1, 2, 100), np.float32), np.zeros((1, 1, 100), np.float64)])
def test_the_served_model_refuses_other_inputs(served: mlflow.pyfunc.PyFuncModel, mixture: np.ndarray) -> None:
    with pytest.raises(mlflow.exceptions.MlflowException, match="Failed to enforce schema"):
        served.predict({"mixture": mixture}, params={"instruments": ["vn"]})


def test_a_registered_model_holds_no_pickle(registry: tuple[Tracking, str, int]) -> None:
    tracking, _, _ = registry
    kinds = {path.suffix for path in (tracking.artifacts / "models").rglob("*") if path.is_file()}
    assert kinds <= {"", ".py", ".json", ".yaml", ".txt", ".safetensors"}


def test_the_pages_listen_on_loopback_alone(tracking: Tracking) -> None:
    command = ui_command(tracking, 5005)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5005"
    assert os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_a_server_has_pages_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(PlaceError, match="open http://tracking:5000 in a browser"):
        ui_command(Tracking(Store(tmp_path), "http://tracking:5000"), 5000)


def test_the_page_of_an_experiment_opens_with_its_columns(reported: Tracking) -> None:
    client = reported.client()
    experiment = client.get_experiment_by_name("quickstart")
    view = json.loads(experiment.tags["mlflow.sharedViewState.vimss"])
    assert view["selectedColumns"][:2] == ["metrics.`objective`", "params.`training.batch_size`"]
    page = runs_page(reported, "http://127.0.0.1:5000", "quickstart")
    assert f"/experiments/{experiment.experiment_id}/runs?viewStateShareKey=vimss" in page
    assert runs_page(reported, "http://x", "unknown") == "http://x/#/experiments?workflowType=machine_learning"


@pytest.mark.slow
def test_the_pages_show_the_runs_and_end_with_the_block(tracking: Tracking, free_port: int) -> None:
    report(tracking)
    with serve_ui(tracking, free_port) as address:
        question = f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=quickstart"
        with urllib.request.urlopen(question, timeout=10) as answer:  # noqa: S310
            assert json.load(answer)["experiment"]["name"] == "quickstart"
        with pytest.raises(PlaceError, match=f"port {free_port} must be free"), serve_ui(tracking, free_port):
            pass
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=2)  # noqa: S310


@pytest.mark.slow
def test_the_pages_of_a_moved_store_show_its_files(copied: Tracking, free_port: int, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "original")
    with serve_ui(copied, free_port) as address:
        run_id = runs_by_trial(copied)["a1"].info.run_id
        question = f"{address}/get-artifact?path=settings.json&run_uuid={run_id}"
        with urllib.request.urlopen(question, timeout=10) as answer:  # noqa: S310
            assert json.load(answer)["seed"] == 3


@pytest.mark.slow
def test_the_pages_end_with_the_process_that_serves_them(tracking: Tracking, free_port: int) -> None:
    script = f"""
import time
from pathlib import Path
from vimss.storage import Store
from vimss.track import Tracking, serve_ui
with serve_ui(Tracking(Store(Path({str(tracking.store.root)!r}))), {free_port}) as address:
    print(address, flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    process.terminate()
    process.wait(timeout=30)
    process.stdout.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=2)  # noqa: S310


def revision(tracking: Tracking) -> str:
    with sqlite3.connect(tracking.database) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


@pytest.mark.slow
def test_a_database_of_an_older_mlflow_is_migrated(tracking: Tracking) -> None:
    newest = revision(tracking)
    command.downgrade(_get_alembic_config(tracking.address), "-1")
    (tracking.folder / "lock").write_text("3.0.0")
    assert revision(tracking) != newest
    report(tracking)
    assert revision(tracking) == newest
    assert (tracking.folder / f"mlflow.db.before-{mlflow.__version__}").exists()


@pytest.mark.slow
def test_a_database_that_cannot_be_migrated_is_left_as_it_was(tracking: Tracking) -> None:
    with sqlite3.connect(tracking.database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'unknown'")
    (tracking.folder / "lock").write_text("3.0.0")
    with pytest.raises(
        PlaceError, match=r"mlflow.db must suit the installed MLflow 3.*a migration that failed: .*unknown"
    ):
        tracking.client()
    assert revision(tracking) == "unknown"


@pytest.fixture
def free_port() -> int:
    server = make_server("127.0.0.1", 0, lambda _environ, _start: [])
    server.server_close()
    return int(server.port)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models:/b", "models:/b must have a version or alias 'champion'; got no model 'b'. To fix: choose from a"),
        ("models:/a@old", "alias 'old'; got versions 1, 3; aliases champion .version 3.. To fix: choose one of these"),
        ("models:/a/2", "models:/a must have a version or alias '2'; got versions 1, 3"),
        ("models:/a/", "a model is models:/name@alias, models:/name/3 or a folder; got models:/a/"),
    ],
)
def test_a_registered_model_is_looked_for_without_mlflow(tmp_path, model, message):
    with closing(sqlite3.connect(tmp_path / "a.db")) as database, database:
        database.execute("CREATE TABLE registered_models (name)")
        database.execute("CREATE TABLE model_versions (name, version, current_stage)")
        database.execute("CREATE TABLE registered_model_aliases (name, alias, version)")
        database.execute("INSERT INTO registered_models VALUES ('a')")
        stages = [(1, "None"), (2, "Deleted_Internal"), (3, "None")]
        database.executemany("INSERT INTO model_versions VALUES ('a', ?, ?)", stages)
        database.execute("INSERT INTO registered_model_aliases VALUES ('a', 'champion', 3)")
    for there in ("models:/a", "models:/a@champion", "models:/a/1"):
        check_registered(tmp_path / "a.db", there)
    with pytest.raises(ModelError, match=message):
        check_registered(tmp_path / "a.db", model)
    with pytest.raises(ModelError, match=r"must have|a model is"):
        check_registered(tmp_path / "none.db", model)
    (tmp_path / "odd.db").write_text("no database at all")
    check_registered(tmp_path / "odd.db", "models:/anything")
