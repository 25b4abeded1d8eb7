"""Tracking: what the records of a study say stands in MLflow once, whatever happens in between."""

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
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from werkzeug.serving import make_server

from vimss.errors import ConfigError, PlaceError
from vimss.experiment import Experiment
from vimss.runtime import provenance
from vimss.search.study import CODE, FILES, Study, TrialRecord, read_record, write_record
from vimss.shards.manifest import Manifest
from vimss.storage import Store
from vimss.track import Tracking, experiment_pages, register
from vimss.track.sync import Synced, syncing, write
from vimss.track.wanted import wanted_study
from vimss.train.config import Settings

# MLflow's database is written in most of them.
pytestmark = pytest.mark.slow

CARD = {"corpus": "chamber", "labels": ["vn", "vc"], "licence": "GPL-3.0-or-later"}
EXPERIMENT = Experiment(
    name="quickstart",
    question="Which batch?",
    expected="16",
    shards="small",
    tune={"training.batch_size": {"choices": [8, 16]}},
    search={"trials": 3, "scheduler": "none"},
)
FIXED = Experiment(name="quickstart", question="?", expected="!", shards="small")
REPORTS = (
    {"audio_seconds": 30.2, "steps": 3.0, "valid_loss": 1.0, "train/loss": 0.9},
    {"audio_seconds": 60.0, "steps": 6.0, "valid_loss": -2.0, "train/loss": 0.5},
)


def trial(folder: Path, name: str, state: str = "finished", **more: Any) -> TrialRecord:
    """A record as a search leaves it, written into a study's folder; with weights where it has reports."""
    home = folder / "search-1" / name
    content = {"cell": "search", "trial": name, "state": state, "chosen": {}, "settings": Settings(), "begun": 1000.0}
    record = TrialRecord(**{**content, "folder": home, **more})
    if record.reports:
        (home / "model").mkdir(parents=True, exist_ok=True)
    write_record(record)
    return record


def three(folder: Path) -> Study:
    """A study of a trial that finished, one that was pruned and one that failed."""
    chosen = {"training.batch_size": 16, "training.learning_rate": 1 / 3}
    made = {"commit": "3fe1a5", "workers_per_trial": "1"}
    first = trial(
        folder, "a1", chosen=chosen, settings=Settings(seed=3), reports=REPORTS, number=0, times={3: 1010.0, 6: 1020.0},
        ended=1021.0, provenance=made,
    )  # fmt: skip
    second = trial(folder, "b2", "pruned", reports=({**REPORTS[0], "valid_loss": 3.0},), number=1)
    third = trial(folder, "c3", "failed", number=2, message="the loss is not finite at 12 s")
    return Study(folder, (first, second, third))


def bring(
    tracking: Tracking, study: Study, manifest: Manifest, is_searched: bool = False, experiment: Experiment = EXPERIMENT
) -> Synced:
    """What `sync` does with a study that it has read."""
    return write(tracking, wanted_study(experiment, manifest, study, is_searched))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return three(tmp_path / "quickstart-3f9c2a1b07")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, empty_database: Path, small_manifest: Manifest) -> Tracking:
    """A store with the runs of three trials, to be looked at."""
    tracking = Tracking(Store(tmp_path_factory.mktemp("reported")))
    shutil.copytree(empty_database, tracking.folder)
    bring(tracking, three(tracking.store.studies / "quickstart-3f9c2a1b07"), small_manifest)
    return tracking


def all_runs(tracking: Tracking) -> list[Run]:
    client = tracking.client()
    found = client.get_experiment_by_name("quickstart")
    return list(client.search_runs([found.experiment_id])) if found else []


def runs_by_trial(tracking: Tracking) -> dict[str, Run]:
    runs = all_runs(tracking)
    named = {run.data.tags.get("trial", ""): run for run in runs}
    assert len(named) == len(runs), "a run was created twice"
    return named


def curve(tracking: Tracking, run: Run, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracking.client().get_metric_history(run.info.run_id, name)]


def test_trials_are_children_of_their_cell(reported: Tracking) -> None:
    runs = runs_by_trial(reported)
    assert set(runs) == {"", "a1", "b2", "c3"}
    assert {runs[trial].data.tags["mlflow.parentRunId"] for trial in ("a1", "b2", "c3")} == {runs[""].info.run_id}
    assert all(runs[""].info.start_time < runs[trial].info.start_time for trial in ("a1", "b2", "c3"))


def test_curves_have_audio_seconds_as_steps_and_the_times_of_the_reports(reported: Tracking) -> None:
    run = runs_by_trial(reported)["a1"]
    assert curve(reported, run, "train/loss") == [(30, 0.9), (60, 0.5)]
    points = reported.client().get_metric_history(run.info.run_id, "train/loss")
    assert [point.timestamp for point in points] == [1_010_000, 1_020_000]
    assert (run.info.start_time, run.info.end_time) == (1_000_000, 1_021_000)


def test_figures_that_are_not_finite_reach_mlflow_and_are_sent_once(
    tracking: Tracking, tmp_path: Path, small_manifest: Manifest
) -> None:
    odd = {"valid_loss": 1.0, "raw": math.nan, "norm": math.inf}
    one = Study(tmp_path / "s-1", (trial(tmp_path / "s-1", "a1", reports=({**REPORTS[0], **odd},)),))
    bring(tracking, one, small_manifest, experiment=FIXED)
    assert not bring(tracking, one, small_manifest, experiment=FIXED).written
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
    runs = runs_by_trial(reported)
    assert runs["a1"].info.run_name == "batch_size=16 learning_rate=0.333 a1"
    assert runs["b2"].info.run_name == "search b2"


def test_a_trial_keeps_all_its_settings(reported: Tracking) -> None:
    run = runs_by_trial(reported)["a1"]
    path = reported.client().download_artifacts(run.info.run_id, "settings.json")
    assert Settings.model_validate(json.loads(Path(path).read_text())) == Settings(seed=3)
    assert run.data.params["seed"] == "3"
    assert run.data.params["model.vision.network"] == "resnet18"


def test_every_run_carries_signature_shards_cell_and_what_made_it(reported: Tracking, small_manifest: Manifest) -> None:
    runs = runs_by_trial(reported)
    shards = f"{small_manifest.name} {small_manifest.digest}"
    tags = [run.data.tags for run in runs.values()]
    assert {(tag["signature"], tag["shards"], tag["cell"]) for tag in tags} == {
        ("quickstart-3f9c2a1b07", shards, "search")
    }
    assert runs["a1"].data.tags["commit"] == runs[""].data.tags["commit"] == "3fe1a5"
    assert (runs["a1"].data.tags["seed"], runs["b2"].data.tags["seed"]) == ("3", "0")


def test_a_cell_shows_params_and_metrics_of_its_best_trial_and_a_table_of_all(reported: Tracking) -> None:
    runs = runs_by_trial(reported)
    assert runs[""].data.params == runs["a1"].data.params
    assert runs[""].data.metrics == REPORTS[1]
    assert (runs[""].data.tags["best trial"], runs[""].data.tags["best run"]) == ("a1", runs["a1"].info.run_id)
    table = Path(reported.client().download_artifacts(runs[""].info.run_id, "trials.csv")).read_text().splitlines()
    assert table[0] == "trial,state,valid_loss,audio_seconds,training.batch_size"
    assert table[1] == "a1,finished,-2,60,16" and [row[:2] for row in table[2:]] == ["b2", "c3"]


def test_a_cell_holds_what_was_compared_last(tracking: Tracking, study: Study, small_manifest: Manifest) -> None:
    (study.folder / "compare" / "test").mkdir(parents=True)
    (study.folder / "compare" / "test" / "table.csv").write_text("row,seeds\nsearch,1\n", encoding="utf-8")
    bring(tracking, study, small_manifest)
    run_id = runs_by_trial(tracking)[""].info.run_id
    found = Path(tracking.client().download_artifacts(run_id, "compare/test/table.csv")).read_text(encoding="utf-8")
    assert found == "row,seeds\nsearch,1\n"


def test_a_run_lists_the_shards_of_each_split_that_it_read(reported: Tracking, small_manifest: Manifest) -> None:
    for run in runs_by_trial(reported).values():
        read = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
        assert set(read) == {"training", "validation"} and {one.name for one in read.values()} == {small_manifest.name}
        assert read["training"].digest != read["validation"].digest
        assert json.loads(read["training"].profile)["clips"] == small_manifest.clips("train")


def test_the_best_trial_of_a_cell_has_its_model_once(
    tracking: Tracking, study: Study, small_manifest: Manifest, small_model: Path
) -> None:
    shutil.copytree(small_model, study.records[0].folder / "model", dirs_exist_ok=True)
    bring(tracking, study, small_manifest, is_searched=True)
    synced = bring(tracking, study, small_manifest)
    client = tracking.client()
    client.delete_tag(synced.run_ids["search", "a1"], "weights_sha256")  # as if killed before it was written
    assert bring(tracking, study, small_manifest).written == {"models": 1, "tags": 1}
    runs = runs_by_trial(tracking)
    (output,) = runs["a1"].outputs.model_outputs
    assert [run.outputs.model_outputs for run in runs.values() if run.outputs].count([]) == 3
    version = register(tracking, "quickstart", small_model, runs["a1"].info.run_id, {}, CARD)
    (logged,) = client.search_logged_models([runs["a1"].info.experiment_id])
    assert logged.model_id == output.model_id
    assert client.get_model_version("quickstart", str(version)).source == f"models:/{logged.model_id}"
    model = mlflow.pyfunc.load_model(logged.artifact_location)
    example, params = model.input_example, {"instruments": ["vn"]}
    assert model.predict(example, params)["vn"].shape == example["mixture"].shape == (1, 1, 2000)


def test_a_cell_whose_trials_all_failed_has_failed(tracking: Tracking, study: Study, small_manifest: Manifest) -> None:
    failed = replace(study, records=study.records[2:])
    bring(tracking, failed, small_manifest, experiment=FIXED)
    assert runs_by_trial(tracking)[""].info.status == "FAILED"


def test_a_better_trial_after_a_resume_is_said_where_params_cannot_change(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    bring(tracking, study, small_manifest)
    better = trial(study.folder, "d4", reports=({**REPORTS[1], "valid_loss": -9.0},), number=3)
    bring(tracking, Study(study.folder, (*study.records, better)), small_manifest)
    cell = runs_by_trial(tracking)[""]
    assert (cell.data.tags["best trial"], cell.data.tags["params of trial"]) == ("d4", "a1")
    assert cell.data.metrics["valid_loss"] == -9.0 and cell.data.params["seed"] == "3"


def test_the_same_records_again_write_nothing(tracking: Tracking, study: Study, small_manifest: Manifest) -> None:
    first = bring(tracking, study, small_manifest)
    assert first.written["runs"] == 4 and "4 runs of quickstart are in MLflow; written: 4 runs" in str(first)
    before = {run.info.run_id: run.to_dictionary() for run in all_runs(tracking)}
    again = bring(tracking, study, small_manifest)
    assert not again.written and str(again) == "4 runs of quickstart are in MLflow; written: nothing new"
    assert {run.info.run_id: run.to_dictionary() for run in all_runs(tracking)} == before
    assert again.run_ids == first.run_ids and set(first.run_ids.values()) == set(before)


def test_new_reports_are_added_to_the_curves(tracking: Tracking, tmp_path: Path, small_manifest: Manifest) -> None:
    folder = tmp_path / "s-1"
    for count in (0, 1, 2):
        record = trial(folder, "a1", "running", reports=REPORTS[:count])
        bring(tracking, Study(folder, (record,)), small_manifest, is_searched=True)
    assert curve(tracking, runs_by_trial(tracking)["a1"], "valid_loss") == [(30, 1.0), (60, -2.0)]


def test_a_report_that_comes_again_after_an_interruption_is_not_doubled(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    bring(tracking, study, small_manifest)
    first, *others = study.records
    slower = {**REPORTS[1], "train/loss": 0.6}
    for reports in (REPORTS[:1], (REPORTS[0], slower)):
        again = first.model_copy(update={"state": "running", "reports": reports})
        bring(tracking, Study(study.folder, (again, *others)), small_manifest, is_searched=True)
    run = runs_by_trial(tracking)["a1"]
    assert run.info.status == "RUNNING"
    assert curve(tracking, run, "valid_loss") == [(30, 1.0), (60, -2.0)]
    assert curve(tracking, run, "train/loss") == [(30, 0.9), (60, 0.5)]


def test_the_figure_on_another_validation_set_takes_the_place_of_the_last_one(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    bring(tracking, study, small_manifest)
    first, *others = study.records
    moved = Study(study.folder, (first.moved_to("new", [{**REPORTS[1], "valid_loss": -1.5}]), *others))
    assert bring(tracking, moved, small_manifest).written["points"] == 2
    assert not bring(tracking, moved, small_manifest).written
    runs = runs_by_trial(tracking)
    assert runs["a1"].data.metrics["valid_loss"] == runs[""].data.metrics["valid_loss"] == -1.5


def test_the_run_of_a_trial_that_waits_neither_ends_nor_begins_anew(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    found = []
    for state in ("waiting", "running", "finished"):
        record = study.records[0].model_copy(update={"state": state})
        bring(tracking, Study(study.folder, (record,)), small_manifest, is_searched=state != "finished")
        run = runs_by_trial(tracking)["a1"]
        found.append((run.info.run_id, run.info.start_time, run.info.status, run.data.tags["state"]))
    assert found == [
        (*found[0][:2], "RUNNING", "waiting"), (*found[0][:2], "RUNNING", "running"),
        (*found[0][:2], "FINISHED", "finished"),
    ]  # fmt: skip


def test_nothing_runs_where_no_process_searches(tracking: Tracking, study: Study, small_manifest: Manifest) -> None:
    left = Study(study.folder, tuple(one.model_copy(update={"state": "running"}) for one in study.records))
    bring(tracking, left, small_manifest, is_searched=True)
    assert {run.info.status for run in all_runs(tracking)} == {"RUNNING"}
    bring(tracking, left, small_manifest)
    runs = runs_by_trial(tracking)
    assert {run.info.status for run in runs.values()} == {"KILLED"}
    assert runs["a1"].data.tags["state"] == "interrupted"


def test_another_signature_is_another_study(
    tracking: Tracking, study: Study, tmp_path: Path, small_manifest: Manifest
) -> None:
    bring(tracking, study, small_manifest)
    bring(tracking, three(tmp_path / "quickstart-ffffffffff"), small_manifest)
    assert len(all_runs(tracking)) == 8


def test_a_cell_of_another_budget_has_runs_of_its_own_though_it_has_the_same_name(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    longer = EXPERIMENT.model_copy(update={"training": {"audio_seconds": 9000}})
    for experiment in (EXPERIMENT, longer, EXPERIMENT):
        bring(tracking, study, small_manifest, experiment=experiment)
    runs = all_runs(tracking)
    assert len(runs) == 8 and {run.data.tags["cell"] for run in runs} == {"search"}


def test_the_run_of_a_cell_with_a_seed_of_its_own_says_so(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    seeds = FIXED.model_copy(update={"compare": {"seed": (0, 3)}})
    records = [study.records[0].model_copy(update={"cell": cell.name, "chosen": {}}) for cell in seeds.cells()]
    bring(tracking, Study(study.folder, tuple(records)), small_manifest, experiment=seeds)
    cells = {run.data.tags["cell"]: run.data.tags["seed"] for run in all_runs(tracking) if "trial" not in run.data.tags}
    assert cells == {"seed=0": "0", "seed=3": "3"}


def test_an_experiment_deleted_in_the_pages_is_restored_and_said(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    bring(tracking, study, small_manifest)
    client = tracking.client()
    client.delete_experiment(client.get_experiment_by_name("quickstart").experiment_id)
    (note,) = bring(tracking, study, small_manifest).notes
    assert note == "the experiment quickstart had been deleted in MLflow and was restored"
    assert client.get_experiment_by_name("quickstart").lifecycle_stage == "active"
    assert len(runs_by_trial(tracking)) == 4


def test_a_run_deleted_in_the_pages_is_restored_and_said(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    before = bring(tracking, study, small_manifest)
    tracking.client().delete_run(before.run_ids["search", "a1"])
    synced = bring(tracking, study, small_manifest)
    assert (
        synced.notes == [f"deleted in MLflow and restored: 1 of the runs whose trials are in {study.folder}"]
        and synced.run_ids == before.run_ids
    )
    assert set(runs_by_trial(tracking)) == {"", "a1", "b2", "c3"}


def test_files_beside_a_trial_are_kept_with_its_run_and_uploaded_once(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    home = study.records[0].folder / FILES
    (home / "audio").mkdir(parents=True)
    (home / "audio/mix.wav").write_bytes(b"RIFF")
    (home / "page.html").write_text("<h1>Stems</h1>")
    run_id = bring(tracking, study, small_manifest).run_ids["search", "a1"]
    (home / "page.html").write_text("<h1>Parts</h1>")
    assert bring(tracking, study, small_manifest).written["files"] == 1
    folder = Path(tracking.client().download_artifacts(run_id, ""))
    assert (folder / "audio/mix.wav").read_bytes() == b"RIFF"
    assert (folder / "page.html").read_text() == "<h1>Parts</h1>"


def test_the_run_of_a_trial_holds_the_changes_of_the_code_that_trained_it(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    (study.folder / CODE).mkdir()
    (study.folder / CODE / "0a1b.diff").write_text("+ faster")
    first = study.records[0].model_copy(update={"provenance": {"commit": "3fe1a5+", "changes": "0a1b"}})
    run_id = bring(tracking, Study(study.folder, (first,)), small_manifest).run_ids["search", "a1"]
    assert Path(tracking.client().download_artifacts(run_id, "changes.diff")).read_text() == "+ faster"


def test_the_reason_of_an_end_goes_when_the_trial_resumes(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    bring(tracking, study, small_manifest)
    again = study.records[2].model_copy(update={"state": "running", "message": ""})
    bring(tracking, Study(study.folder, (*study.records[:2], again)), small_manifest, is_searched=True)
    run = runs_by_trial(tracking)["c3"]
    assert (run.info.status, run.data.tags["mlflow.note.content"]) == ("RUNNING", "")


def test_a_description_that_a_user_wrote_stays_and_ours_goes_on(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    first = bring(tracking, study, small_manifest)
    client, run_ids = tracking.client(), first.run_ids
    experiment_id = client.get_experiment_by_name("quickstart").experiment_id
    client.set_tag(run_ids["search", "a1"], "mlflow.note.content", "sounds thin")
    client.set_tag(run_ids["search", "c3"], "mlflow.note.content", "")
    client.set_experiment_tag(experiment_id, "mlflow.note.content", "Ask Ada first")
    failed = [one.model_copy(update={"state": "failed", "message": "lost"}) for one in study.records]
    another = EXPERIMENT.model_copy(update={"question": "Which batch size?"})
    for _ in range(2):
        synced = bring(tracking, Study(study.folder, tuple(failed)), small_manifest, experiment=another)
    assert not synced.written
    notes = {trial: run.data.tags["mlflow.note.content"] for trial, run in runs_by_trial(tracking).items()}
    assert (notes["a1"], notes["b2"], notes["c3"]) == ("sounds thin", "**failed**: lost", "")
    assert client.get_experiment(experiment_id).tags["mlflow.note.content"] == "Ask Ada first"


def test_database_and_folders_are_the_owners_alone(tmp_path: Path, study: Study, small_manifest: Manifest) -> None:
    tracking = Tracking(Store(tmp_path / "store"))
    bring(tracking, study, small_manifest)
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (tracking.folder, tracking.database, tracking.artifacts)
    }
    assert modes == {"mlflow": 0o700, "mlflow.db": 0o600, "artifacts": 0o700}


def test_a_server_that_is_down_is_said(tmp_path: Path, study: Study, small_manifest: Manifest) -> None:
    with pytest.raises(PlaceError, match=r"MLflow at http://127.0.0.1:9 must answer; got .*refused.* start the"):
        bring(Tracking(Store(tmp_path), "http://127.0.0.1:9"), study, small_manifest)


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


def test_nothing_is_lost_while_a_server_refuses(
    tracking: Tracking, study: Study, small_manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = threading.Event()
    with mlflow_server(tracking, up, monkeypatch) as address:
        remote = Tracking(tracking.store, address)
        with pytest.raises(PlaceError, match="503"):
            bring(remote, study, small_manifest)
        up.set()
        assert bring(remote, study, small_manifest).written["runs"] == 4
        assert not bring(remote, study, small_manifest).written
    assert set(runs_by_trial(tracking)) == {"", "a1", "b2", "c3"}
    assert curve(tracking, runs_by_trial(tracking)["a1"], "valid_loss") == [(30, 1.0), (60, -2.0)]


@pytest.mark.parametrize("method", ["create_run", "log_batch", "set_terminated", "set_experiment_tag"])
def test_a_write_whose_answer_is_lost_is_not_repeated(
    tracking: Tracking, study: Study, small_manifest: Manifest, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Every call of one kind is carried out and then fails, until nothing is left to write."""
    whole, failed = getattr(MlflowClient, method), 0

    def cut_off(*arguments: Any, **named: Any) -> None:
        whole(*arguments, **named)
        raise MlflowException("connection reset")

    monkeypatch.setattr(MlflowClient, method, cut_off)
    while True:
        try:
            bring(tracking, study, small_manifest)
        except PlaceError:
            failed += 1
        else:
            break
    assert failed >= 3
    assert set(runs_by_trial(tracking)) == {"", "a1", "b2", "c3"}
    for name in ("valid_loss", "train/loss"):
        assert len(curve(tracking, runs_by_trial(tracking)["a1"], name)) == 2
    assert runs_by_trial(tracking)["b2"].info.status == "KILLED"


def test_a_locked_database_is_waited_for(tracking: Tracking, study: Study, small_manifest: Manifest) -> None:
    tracking.client()
    other = sqlite3.connect(tracking.database, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(1.0, other.execute, ["COMMIT"])
    release.start()
    begin = time.monotonic()
    bring(tracking, study, small_manifest)
    assert time.monotonic() - begin >= 1.0
    assert len(runs_by_trial(tracking)) == 4


def test_a_run_that_mlflow_refuses_holds_up_no_other(
    tracking: Tracking, study: Study, small_manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused: a param that was another value in a run of an earlier version."""
    whole = MlflowClient.log_batch

    def refuse(self: MlflowClient, run_id: str, **batch: Any) -> None:
        if "batch_size=16" in self.get_run(run_id).info.run_name and batch.get("params"):
            raise MlflowException.invalid_parameter_value("no")
        whole(self, run_id, **batch)

    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    (note,) = bring(tracking, study, small_manifest).notes
    assert note == "MLflow refuses the run batch_size=16 learning_rate=0.333 a1 of search: no"
    assert runs_by_trial(tracking)["c3"].info.status == "FAILED"


def test_figures_of_the_machine_are_system_metrics(
    tracking: Tracking, tmp_path: Path, small_manifest: Manifest
) -> None:
    record = trial(tmp_path / "s-1", "a1", reports=({**REPORTS[0], "loader_wait": 0.1},))
    bring(tracking, Study(tmp_path / "s-1", (record,)), small_manifest)
    assert runs_by_trial(tracking)["a1"].data.metrics == {**REPORTS[0], "system/loader_wait": 0.1}


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", ".", "x?", "a/../b"])
def test_a_figure_of_any_name_reaches_mlflow(
    tracking: Tracking, tmp_path: Path, small_manifest: Manifest, name: str
) -> None:
    record = trial(tmp_path / "s-1", "a1", reports=({**REPORTS[0], name: 1.0},))
    assert not bring(tracking, Study(tmp_path / "s-1", (record,)), small_manifest).notes
    assert len(runs_by_trial(tracking)["a1"].data.metrics) == 5


def test_the_block_gets_no_error_and_no_delay_from_the_thread(
    tmp_path: Path, study: Study, small_manifest: Manifest
) -> None:
    begin = time.monotonic()
    with syncing(Tracking(Store(tmp_path), "http://127.0.0.1:9"), EXPERIMENT, small_manifest, study.folder):
        assert time.monotonic() - begin < 0.5
    assert time.monotonic() - begin < 5


def test_a_record_of_an_earlier_version_has_runs_too(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    path = study.records[0].folder / "trial.json"
    content = json.loads(path.read_text())
    for key in ("times", "ended", "provenance", "reported_at", "validation"):
        del content[key]
    path.write_text(json.dumps(content))
    bring(tracking, Study(study.folder, (read_record(path),)), small_manifest)
    run = runs_by_trial(tracking)["a1"]
    assert (run.info.status, run.info.end_time) == ("FINISHED", 1_000_000)


def test_provenance_names_commit_versions_and_machine() -> None:
    found = provenance()
    assert found["version.mlflow"] == mlflow.__version__ and found["commit"] and "cores" in found["machine"]


def test_the_page_of_an_experiment_opens_with_its_columns(reported: Tracking) -> None:
    client = reported.client()
    experiment = client.get_experiment_by_name("quickstart")
    view = json.loads(experiment.tags["mlflow.sharedViewState.vimss"])
    assert view["selectedColumns"][:2] == ["metrics.`valid_loss`", "params.`training.batch_size`"]
    pages = experiment_pages(reported, "http://127.0.0.1:5000", "quickstart")
    runs = f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=vimss"
    assert pages["runs"].startswith(f"{runs}&workflowType") and pages["charts"].startswith(f"{runs}-charts&compareRuns")
    assert experiment_pages(reported, "http://x") == {
        "experiments": "http://x/#/experiments?workflowType=machine_learning"
    }
    with pytest.raises(ConfigError, match=r"got no run of 'unknown'. To fix: choose one of quickstart$"):
        experiment_pages(reported, "http://x", "unknown")


def view_of(tracking: Tracking, name: str) -> dict[str, Any]:
    return json.loads(tracking.client().get_experiment_by_name("quickstart").tags[f"mlflow.sharedViewState.{name}"])


def test_charts_show_trials_alone_over_what_is_varied(reported: Tracking) -> None:
    view = view_of(reported, "vimss-charts")
    assert (view["searchFilter"], view["orderByKey"], view["orderByAsc"]) == (
        "tags.kind = 'trial'", "metrics.`valid_loss`", True,
    )  # fmt: skip
    parallel, curves = view["compareRunCharts"]
    assert (parallel["selectedParams"], parallel["selectedMetrics"]) == (["training.batch_size"], ["valid_loss"])
    assert curves["metricKey"] == "valid_loss" and view["groupBy"] is None


def test_runs_of_cells_are_gathered_over_the_seeds(tracking: Tracking, study: Study, small_manifest: Manifest) -> None:
    compared = {"seed": (0, 3)}
    variants = {"small": {"model.levels": 3}, "large": {"model.levels": 6}}
    seeds = FIXED.model_copy(update={"compare": compared, "variants": variants})
    records = [study.records[0].model_copy(update={"cell": cell.name, "chosen": {}}) for cell in seeds.cells()]
    bring(tracking, Study(study.folder, tuple(records)), small_manifest, experiment=seeds)
    view = view_of(tracking, "vimss")
    assert view["selectedColumns"][:3] == ["metrics.`valid_loss`", "tags.`variant`", "params.`model.levels`"]
    (parallel, _) = view_of(tracking, "vimss-charts")["compareRunCharts"]
    assert parallel["selectedParams"] == ["model.levels", "seed"]
    (group,) = view["groupBy"]["groupByKeys"]
    cells = [run.data.tags for run in all_runs(tracking) if run.data.tags["kind"] == "cell"]
    assert sorted(tags[group["groupByData"]] for tags in cells) == ["large", "large", "small", "small"]
