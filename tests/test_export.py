"""A registered model leaves its store as a folder, whole or not at all."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_registry import registered

from vimss.model.separator import load_separator
from vimss.shards.manifest import Manifest
from vimss.storage import Store
from vimss.track import Tracking, model_folder

# MLflow's database is written.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path, small_model: Path, small_manifest: Manifest
) -> Tracking:
    return registered(tmp_path_factory.mktemp("registry") / "store", empty_database, small_model, small_manifest)[0]


@pytest.fixture
def stored(registry: Tracking, tmp_path: Path) -> Path:
    """The store of the test, with version 1 of `quickstart`, the champion."""
    return Path(shutil.copytree(registry.store.root, tmp_path / "store"))


def test_an_exported_model_separates_from_anywhere_without_its_store(
    vimss_says, stored, small_model, tmp_path, monkeypatch
):
    code, out, _ = vimss_says("export", "quickstart@champion", tmp_path / "new" / "model", "--json")
    assert code == 0 and json.loads(out)["model"] == "models:/quickstart@champion"
    shutil.rmtree(stored)
    exported = tmp_path / "new" / "model"
    assert [path.name for path in exported.parent.iterdir()] == ["model"]
    ours, theirs = load_separator(exported).state_dict(), load_separator(small_model).state_dict()
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    soundfile.write(tmp_path / "duo.wav", np.random.default_rng(0).normal(0, 0.1, 4000), 8000)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(exported, elsewhere / "copied")
    monkeypatch.chdir(elsewhere)
    asked = ("--instruments", "vn,vc", "--out", "stems")
    code, _, err = vimss_says("separate", tmp_path / "duo.wav", "--model", "copied", *asked)
    assert code == 0, err
    assert {"vn.wav", "vc.wav"} <= {path.name for path in (elsewhere / "stems").iterdir()}
    assert not (stored / "mlflow").exists()


def test_a_registry_that_is_not_there_is_told(vimss_says, tmp_path):
    (tmp_path / "runtime.yaml").write_text("tracking_uri: http://127.0.0.1:9", encoding="utf-8")
    for words in (("export", "quickstart", tmp_path / "model"), ("promote", "quickstart", "--rollback")):
        code, _, err = vimss_says(*words, "--on", tmp_path / "runtime.yaml")
        assert code == 1 and "MLflow at http://127.0.0.1:9 must answer" in err and "start the tracking server" in err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("model", ["quickstart", "quickstart/1", "models:/quickstart/1"])
def test_a_model_is_exported_into_an_empty_folder_by_any_of_its_names(vimss_says, stored, tmp_path, model):
    (tmp_path / "model").mkdir()
    assert vimss_says("export", model, tmp_path / "model")[0] == 0
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "weights.safetensors"]


def test_a_damaged_model_is_not_exported(vimss_says, stored, tmp_path):
    damaged = model_folder("models:/quickstart/1", Tracking(Store(stored))) / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    code, _, err = vimss_says("export", "quickstart", tmp_path / "model")
    assert code == 1 and "must have the SHA-256 digest in model.json" in err
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
