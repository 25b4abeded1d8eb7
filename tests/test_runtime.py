import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import yaml
from sqlalchemy import make_url

from vimss.errors import ConfigError, PlaceError
from vimss.runtime import (
    JOB_VARIABLE,
    TRIAL_SLOT,
    Place,
    cluster,
    load_place,
    open_store,
    parallel_map,
    ray_at_hand,
    ray_running,
    sqlite_url,
    start_ray,
)


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


def test_this_machine_has_no_autoscaler():
    with pytest.raises(ValueError, match="autoscaled_nodes must be left out where ray_address is empty"):
        Place(name="here", autoscaled_nodes=[{"cpus": 4, "most": 2}])


def test_the_place_of_kubernetes_names_the_groups_of_its_cluster():
    manifests = yaml.safe_load_all(Path("platform/kubernetes/search.yaml").read_text(encoding="utf-8"))
    (job,) = [manifest for manifest in manifests if manifest["kind"] == "RayJob"]
    groups = []
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        sizes = (float(limits["cpu"]), float(limits.get("nvidia.com/gpu", 0)))
        groups.append((*sizes, group["maxReplicas"]))
    assert groups == [(node.cpus, node.gpus, node.most) for node in load_place("kubernetes").autoscaled_nodes]


def test_the_place_of_kubernetes_tells_nccl_its_network():
    assert {"NCCL_SOCKET_IFNAME", "NCCL_DEBUG"} <= set(load_place("kubernetes").environment)


def test_the_hint_for_a_cluster_on_ec2_names_its_kinds_of_nodes():
    text = Path("platform/cluster/aws.yaml").read_text(encoding="utf-8")
    (hint,) = re.findall(r"^# +(autoscaled_nodes: .*)$", text, re.MULTILINE)
    place = Place(name="ec2", ray_address="auto", **yaml.safe_load(hint))
    kinds = yaml.safe_load(text)["available_node_types"]
    sizes = [
        ({"CPU": 0, "GPU": 0, **kind["resources"]}, kind["max_workers"])
        for kind in kinds.values()
        if "max_workers" in kind
    ]
    assert sizes == [(node.resources, node.most) for node in place.autoscaled_nodes]


def test_a_password_in_the_address_of_a_server_is_refused_and_not_shown():
    with pytest.raises(ConfigError, match="a secret must be in no file.*MLFLOW_TRACKING_PASSWORD") as error:
        Place(name="x", tracking_uri="https://me:never-shown@mlflow.example")
    assert "never-shown" not in str(error.value)
    assert Place(name="x", tracking_uri="https://mlflow.example:5000").tracking_uri


def test_an_unknown_place_lists_those_that_exist():
    with pytest.raises(
        ConfigError,
        match=r"--on must name a folder of platform/; got 'moon'.*choose from cluster, compose, kubernetes, local",
    ):
        load_place("moon")


def test_a_place_is_found_by_name_from_any_folder_and_by_path_from_here(monkeypatch, tmp_path):
    for folder in ("own [1]", "123"):
        (tmp_path / "here" / folder).mkdir(parents=True)
        (tmp_path / "here" / folder / "runtime.yaml").write_text("workers_per_trial: 2", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    assert load_place("cluster").ray_address == "auto"
    for path in ("./own [1]", "own [1]/runtime.yaml", tmp_path / "here" / "own [1]"):
        assert (load_place(path).name, load_place(path).workers_per_trial) == ("own [1]", 2)
    assert load_place("123/").name == "123"
    with pytest.raises(
        ConfigError,
        match=r"got '123'. To fix: choose from cluster, compose, kubernetes, local; for the folder here write ./123",
    ):
        load_place("123")


def test_a_folder_of_platform_without_settings_is_named(monkeypatch, tmp_path):
    (tmp_path / "platform" / "moon").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    message = "platform/moon must hold a runtime.yaml; got a folder without one. To fix: write its settings there"
    with pytest.raises(ConfigError, match=message):
        load_place("moon")
    with pytest.raises(ConfigError, match=r"^\./platform/moon must hold a runtime.yaml; got a folder without one"):
        load_place("./platform/moon")
    (tmp_path / "platform" / "moon" / "runtime.yaml").write_text("{}", encoding="utf-8")
    assert load_place("moon").model_copy(update={"name": "local"}) == Place(name="local")


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


def test_the_command_line_goes_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "mine"))
    monkeypatch.setenv("VIMSS_SHARDS", str(tmp_path / "there"))
    assert str(open_store(Place(name="local"), tmp_path / "here").shards) == str(tmp_path / "here")
    assert str(open_store(Place(name="local")).shards) == str(tmp_path / "there")


@pytest.mark.parametrize(
    ("store", "shards", "message"),
    [
        (
            "s3://bucket/store",
            "",
            "the store must be a folder: only shards and studies may lie behind URLs; got 's3://bucket/store'",
        ),
        ("a\nb", "", r"VIMSS_STORE must be a path of UTF-8 without control characters.*a\\nb'. To fix: rename"),
        ("a\udcffb", "", r"VIMSS_STORE must be a path of UTF-8 without control characters.*a\\udcffb'"),
        ("ok", "a\x1b[31m", r"--out or VIMSS_SHARDS must be a path of UTF-8 without control characters.*a\\x1b\[31m'"),
        ("ok", "file/below", r"must be a folder for shards, or free to become one; got .*/file, which is none"),
    ],
)
def test_a_path_that_cannot_be_used_is_refused_at_once(monkeypatch, tmp_path, store, shards, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIMSS_STORE", store)
    monkeypatch.setenv("VIMSS_SHARDS", shards)
    with pytest.raises(ConfigError, match=message):
        open_store(Place(name="local"))


PATHS = ["a b", "a%20b", "100%", "a?b", "a#b", "a:b@c", "{x}", "é日", "a'b\"c", "a\\b", "a;b&c=d", "[x]", "%", "$HOME"]


@pytest.mark.parametrize("name", PATHS)
def test_a_database_is_opened_at_any_path(tmp_path, name):
    path = tmp_path / name / "a.db"
    assert make_url(sqlite_url(path)).database == str(path)
    # Optuna fills in what stands in braces, MLflow makes the folder of what follows sqlite:///.
    assert "{" not in sqlite_url(path)
    assert not sqlite_url(path).startswith("sqlite:///") or sqlite_url(path) == f"sqlite:///{path}"


@pytest.mark.parametrize("name", ["a%20b?", "{x}"])
def test_optuna_keeps_its_study_at_any_path(tmp_path, name):
    import optuna

    (tmp_path / name).mkdir()
    optuna.create_study(storage=optuna.storages.RDBStorage(sqlite_url(tmp_path / name / "a.db")), study_name="s")
    with sqlite3.connect(tmp_path / name / "a.db") as connection:
        assert connection.execute("SELECT study_name FROM studies").fetchall() == [("s",)]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_no_python_where_only_data_may_stand():
    for folder in ("platform", "shards", "experiments"):
        assert not list(Path(folder).rglob("*.py"))


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """Sets TMPDIR, and gives what Ray gets in its place and the path of its longest socket there."""

    def use(folder: Path) -> tuple[Path | None, Path]:
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv("TMPDIR", str(folder))
        with cluster._short_folder() as short:
            base = short or folder
            assert (base / "x").parent.is_dir()
            return short, base / "ray/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store"

    return use


def test_a_temporary_folder_with_a_short_path_is_left_to_ray(temporary):
    assert temporary(Path("/tmp"))[0] is None  # noqa: S108


@pytest.mark.parametrize("folder", ["", "relative"])
def test_an_empty_or_relative_variable_is_made_whole(monkeypatch, tmp_path, folder):
    monkeypatch.chdir("/tmp")  # noqa: S108
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", folder)
    with cluster._short_folder() as short:
        assert short.is_absolute() and short.is_dir()


def test_a_long_path_of_temporary_files_is_reached_by_a_link(tmp_path, monkeypatch):
    long = tmp_path / ("l" * 100)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(long))
    with cluster._short_folder() as short:
        assert short.resolve() == long and short.parent.stat().st_mode & 0o077 == 0
    assert long.is_dir() and not short.parent.exists()


@pytest.mark.parametrize("folder", ["/" + "x" * 37, "/" + "x" * 38, "/nowhere", "/dev/null", "/proc/x"])
def test_the_sockets_of_ray_have_room_wherever_temporary_files_are(temporary, folder):
    assert len(os.fsencode(temporary(Path(folder))[1])) <= 107


def test_a_full_temporary_folder_is_replaced(temporary, monkeypatch, tmp_path):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(cluster.shutil, "disk_usage", lambda path: usage(0 if path == tmp_path else 2**40))
    short, _ = temporary(tmp_path)
    assert short is not None and not short.is_relative_to(tmp_path)


def test_without_any_room_for_temporary_files_the_variable_is_named(temporary, monkeypatch, tmp_path):
    monkeypatch.setattr(cluster.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(2**20))
    with pytest.raises(
        PlaceError, match=r"Ray must have a folder .* which has 1 MB free. To fix: set TMPDIR to a writable"
    ):
        temporary(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError("AF_UNIX path length cannot exceed 107 bytes: /tmp/ray"),
        RuntimeError("The last 20 lines of dashboard.log:\nTraceback\n  File x\nOSError: AF_UNIX path length\n"),
        Exception("AF_UNIX path length"),
    ],
)
def test_a_ray_that_does_not_start_here_says_why_and_speaks_of_no_cluster(monkeypatch, error):
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(PlaceError, match="Ray must start on this machine; got .*AF_UNIX path length") as raised:
        ray_running(Place(name="local")).__enter__()
    assert "cluster" not in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("home", ["/proc/x", "/dev/null"])
def test_without_a_home_to_write_to_ray_gets_a_token_of_its_own(monkeypatch, home):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", home)
    assert len(cluster._token()["RAY_AUTH_TOKEN"]) == 64


def test_a_token_at_home_or_in_the_environment_is_left_to_ray(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cluster._token() == {} and (tmp_path / ".ray").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("HOME", "/proc/x")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    assert cluster._token() == {}


def test_ray_at_hand_starts_once_when_it_is_needed(monkeypatch):
    started = []
    monkeypatch.setattr(ray, "init", lambda **_: started.append("init"))
    monkeypatch.setattr(ray, "is_initialized", lambda: bool(started))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {TRIAL_SLOT: 1})
    monkeypatch.setattr(ray, "shutdown", lambda: started.append("shutdown"))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:1"))
    with ray_at_hand(Place(name="local")):
        assert started == []
        start_ray()
        start_ray()
        assert started == ["init"]
    assert started == ["init", "shutdown"]


def test_without_ray_at_hand_items_are_worked_on_here():
    start_ray()
    assert not ray.is_initialized() and parallel_map(str, [1, 2]) == ["1", "2"]


@pytest.mark.rare
def test_ray_starts_twice_without_a_home_and_where_temporary_files_have_a_long_path(tmp_path):
    long = tmp_path / ("l" * 100)
    long.mkdir()
    code = """
from vimss.runtime import Place, parallel_map, ray_at_hand
import ray
for _ in range(2):
    with ray_at_hand(Place(name="local")):
        assert not ray.is_initialized()
        print(parallel_map(lambda x: -x, [-1, -2]), ray.is_initialized())
    print(ray.is_initialized())
"""
    # Without a home the token is ours, and the second Ray must have the first one's.
    environment = {**os.environ, "TMPDIR": str(long), "HOME": "/proc/x"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[1, 2] True", "False"] * 2, done.stderr


@pytest.mark.rare
def test_processes_of_a_ray_beside_another_one_ask_their_own():
    begin = "from vimss.runtime import load_place, ray_running\nwith ray_running(load_place('local'), num_cpus=1):"
    code = f"{begin} print('up', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"up\n"
        count = "ray.remote(lambda: len(ray.util.state.list_nodes()))"
        code = f"import ray.util.state\n{begin} print(ray.get({count}.remote()))"
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        other.communicate(b"\n")
    assert asked.stdout == "1\n", asked.stderr


@pytest.mark.slow
def test_a_task_asks_ray_for_its_share_of_a_gpu_where_the_cluster_counts_any():
    code = """
import ray
from vimss.runtime import cluster_gpus, parallel_map
def assigned(item):
    return ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
for gpus in (0, 1):
    ray.init(num_cpus=2, num_gpus=gpus, include_dashboard=False, log_to_driver=False)
    print(cluster_gpus(), parallel_map(assigned, [0.0, 0.25], gpus=lambda item: item))
    ray.shutdown()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0.0 [0.0, 0.0]", "1.0 [0.0, 0.25]"]


@pytest.mark.slow
def test_a_local_ray_ends_with_a_process_that_is_killed(tmp_path):
    script = """
import os, signal
from vimss.runtime import Place, ray_running
with ray_running(Place(name="here"), num_cpus=1):
    import psutil
    print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    processes = [int(word) for word in ran.stdout.splitlines()[-1].split()]
    assert len(processes) > 5
    end = time.monotonic() + 30
    while (left := [process for process in processes if lives(process)]) and time.monotonic() < end:
        time.sleep(0.2)
    assert left == []


def lives(process: int) -> bool:
    """Whether a process runs; one that has ended stays until its parent asks."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    return bool(state.stdout) and not state.stdout.startswith("Z")
