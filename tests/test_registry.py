"""Models in the registry, stores that move, and MLflow's pages."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest
import soxr
import torch
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from test_track import CARD, bring, mlflow_server, runs_by_trial, three
from werkzeug.serving import make_server

from vimss.errors import ModelError, PlaceError
from vimss.model.networks.wave_u_net.config import WaveUNetConfig
from vimss.model.separator import Separator, save_separator
from vimss.search.study import FILES
from vimss.shards.manifest import Manifest
from vimss.storage import Store
from vimss.track import (
    Tracking,
    find_version,
    model_folder,
    register,
    serve_ui,
    set_alias,
    ui_command,
)
from vimss.track.names import check_registered

# MLflow's database is written in most of them.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path, small_model: Path, small_manifest: Manifest
) -> tuple[Tracking, str, int]:
    """A tracking store with version 1 of `quickstart`, the champion."""
    return registered(tmp_path_factory.mktemp("registry"), empty_database, small_model, small_manifest)


def registered(folder: Path, empty_database: Path, small_model: Path, manifest: Manifest) -> tuple[Tracking, str, int]:
    tracking = Tracking(Store(folder))
    shutil.copytree(empty_database, tracking.folder)
    run_id = run_with_files(tracking, manifest, {})
    version = register(tracking, "quickstart", small_model, run_id, {"si_sdr_improvement": 3.14159}, CARD)
    set_alias(tracking, "quickstart", "champion", version)
    return tracking, run_id, version


def run_with_files(tracking: Tracking, manifest: Manifest, files: dict[str, bytes]) -> str:
    """The id of a trial's run; its study lies in the same store."""
    study = three(tracking.store.studies / "quickstart-3f9c2a1b07")
    for name, content in files.items():
        (study.records[0].folder / FILES).mkdir(exist_ok=True)
        (study.records[0].folder / FILES / name).write_bytes(content)
    return bring(tracking, study, manifest).run_ids["search", "a1"]


ODD_PATHS = ("a%20b", "100%", "a?b#c:{x}[y]", "é'\"\\;b&c=d")


@pytest.mark.parametrize("name", ODD_PATHS)
def test_runs_and_models_are_kept_in_a_store_at_any_path(
    tmp_path: Path, empty_database: Path, small_model: Path, small_manifest: Manifest, name: str
) -> None:
    tracking = Tracking(Store(tmp_path / name))
    shutil.copytree(empty_database, tracking.folder)
    run_id = run_with_files(tracking, small_manifest, {"page.html": b"page"})
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


def test_a_copied_store_grows_beside_its_original(
    copied: Tracking, small_model: Path, small_manifest: Manifest, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "original").rglob("*")}
    run_id = run_with_files(copied, small_manifest, {"new.txt": b"new"})
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
    registry: tuple[Tracking, str, int], small_manifest: Manifest, tmp_path: Path
) -> None:
    here, there = Tracking(Store(tmp_path / "here")), Tracking(Store(tmp_path / "there"))
    shutil.copytree(registry[0].store.root, here.store.root)
    there.store.root.symlink_to(here.store.root)
    run_with_files(here, small_manifest, {})
    assert model_folder("models:/quickstart/1", there).is_relative_to(there.artifacts)
    there.store.root.unlink()
    run_id = run_with_files(here, small_manifest, {"late.txt": b"late"})
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
    with pytest.raises(
        ModelError, match="To fix: run `vimss promote EXPERIMENT` after its search, .*: no model is registered"
    ):
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
    context = torch.from_numpy(separator.interface.context_of(["vc", "fl"]))
    expected = separate_all(separator, torch.from_numpy(mixture[0]), context)
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
    [([], "needs the instruments that play"), (["kazoo"], "got 'kazoo'. To fix: choose from vn, vc, fl")],
)
def test_the_served_model_lists_its_labels(
    served: mlflow.pyfunc.PyFuncModel, instruments: list[str], message: str
) -> None:
    with pytest.raises(mlflow.exceptions.MlflowException, match=message):
        served.predict({"mixture": np.zeros((1, 1, 100), np.float32)}, params={"instruments": instruments})


@pytest.mark.parametrize("mixture", [np.zeros((1, 2, 100), np.float32), np.zeros((1, 1, 100), np.float64)])
def test_the_served_model_refuses_other_inputs(served: mlflow.pyfunc.PyFuncModel, mixture: np.ndarray) -> None:
    with pytest.raises(mlflow.exceptions.MlflowException, match="Failed to enforce schema"):
        served.predict({"mixture": mixture}, params={"instruments": ["vn"]})


def test_a_registered_model_holds_no_pickle(
    tmp_path: Path, empty_database: Path, small_model: Path, small_manifest: Manifest
) -> None:
    # One that no other test has loaded: Python compiles the module that lies in it.
    tracking, _, _ = registered(tmp_path, empty_database, small_model, small_manifest)
    kinds = {path.suffix for path in (tracking.artifacts / "models").rglob("*") if path.is_file()}
    assert kinds == {"", ".py", ".json", ".yaml", ".txt", ".safetensors"}


def test_the_pages_listen_on_loopback_alone(tracking: Tracking) -> None:
    command = ui_command(tracking, 5005)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5005"
    assert os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_a_server_has_pages_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(PlaceError, match="open http://tracking:5000 in a browser"):
        ui_command(Tracking(Store(tmp_path), "http://tracking:5000"), 5000)


@pytest.mark.slow
def test_the_pages_show_the_runs_and_end_with_the_block(
    tracking: Tracking, small_manifest: Manifest, free_port: int
) -> None:
    run_with_files(tracking, small_manifest, {})
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
def test_a_database_of_an_older_mlflow_is_migrated(tracking: Tracking, small_manifest: Manifest) -> None:
    newest = revision(tracking)
    command.downgrade(_get_alembic_config(tracking.address), "-1")
    (tracking.folder / "lock").write_text("3.0.0")
    assert revision(tracking) != newest
    run_with_files(tracking, small_manifest, {})
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
    tracking.database.write_bytes(b"no database" * 1000)
    with pytest.raises(PlaceError, match="a migration that failed: .*file is not a database. To fix: install"):
        tracking.client()


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
