import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vimss.errors import ConfigError, PlaceError
from vimss.runtime import JOB_VARIABLE, Place, load_place, open_store, ray_running


@pytest.mark.parametrize("path", sorted(Path("platform").glob("*/runtime.yaml")), ids=str)
def test_every_place_loads(path):
    assert load_place(path.parent.name).name == path.parent.name


def test_the_built_in_local_place_is_the_file(monkeypatch, tmp_path):
    written = load_place("local")
    monkeypatch.chdir(tmp_path)
    assert load_place("local") == written


def test_every_place_sets_every_key():
    for path in Path("platform").glob("*/runtime.yaml"):
        assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) == set(Place.model_fields) - {"name"}


def test_an_unknown_place_lists_those_that_exist():
    with pytest.raises(
        ConfigError, match=r"--on must name a folder of platform/; got 'moon'.*choose from cluster, local"
    ):
        load_place("moon")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_at_whose_address_nothing_listens_is_told_at_once(scheme):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"{scheme}127.0.0.1:{closed.getsockname()[1]}"
    rule = rf"a Ray cluster must answer at {address}; got .*Connection refused\. To fix: start it, or use --on local"
    with pytest.raises(PlaceError, match=rule), ray_running(Place(name="far", ray_address=address)):
        pass


def test_a_relative_store_in_a_ray_job_is_refused(monkeypatch):
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    monkeypatch.setenv("VIMSS_STORE", "store")
    with pytest.raises(ConfigError, match=r"a Ray job must have an absolute store.*got 'store'.*env_vars"):
        open_store(Place(name="local"))


def test_the_environment_goes_before_the_place(monkeypatch, tmp_path):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "mine"))
    assert open_store(Place(name="local", store="/elsewhere")).root == tmp_path / "mine"


def test_no_python_where_only_data_may_stand():
    for folder in ("platform", "shards", "experiments"):
        assert not list(Path(folder).rglob("*.py"))


@pytest.mark.slow
def test_processes_of_a_ray_beside_another_one_ask_their_own():
    # Ray Train's cleaner does: without an answer, a trial that is stopped keeps its cores for good.
    begin = "from vimss.runtime import load_place, ray_running\nwith ray_running(load_place('local'), num_cpus=1):"
    code = f"{begin} print('up', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"up\n"
        count = "ray.remote(lambda: len(ray.util.state.list_nodes()))"
        code = f"import ray.util.state\n{begin} print(ray.get({count}.remote()))"
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        other.communicate(b"\n")
    assert asked.stdout == "1\n", asked.stderr
