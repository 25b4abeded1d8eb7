"""A Ray cluster that cannot be used: not there, silent, with another token, or of other versions."""

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import ray
from ray._private.utils import check_version_info

from vimss.errors import PlaceError
from vimss.runtime import JOB_VARIABLE, TRIAL_SLOT, Place, cluster, ray_running

TOKEN = "0123456789abcdef" * 4
OURS = f"Ray {ray.__version__} and Python {platform.python_version()}"


def refusal(place: Place) -> str:
    with pytest.raises(PlaceError) as error, ray_running(place):
        pass
    assert not ray.is_initialized() and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("theirs", [("2.59.0", platform.python_version()), (ray.__version__, "3.10.4")])
def test_a_cluster_of_other_versions_is_named_with_both(monkeypatch, theirs):
    """What Ray's own comparison raises, with the versions of another cluster."""

    def init(**_: object) -> None:
        check_version_info({"ray_version": theirs[0], "python_version": theirs[1]}, "node 10.0.0.1")

    monkeypatch.setattr(ray, "init", init)
    assert refusal(Place(name="far", ray_address="auto")) == (
        f"the Ray cluster at auto must run the versions of this process, {OURS}; got Ray {theirs[0]} and Python "
        f"{theirs[1]}. To fix: install those here, or start the cluster with the versions of this process"
    )


def test_a_token_that_the_cluster_refuses_is_said_with_where_it_stands(monkeypatch):
    """The exception that Ray's core raises."""

    def init(**_: object) -> None:
        raise ray.exceptions.AuthenticationError("InvalidAuthToken: Authentication token is missing or incorrect")

    monkeypatch.setattr(ray, "init", init)
    assert refusal(Place(name="far", ray_address="auto")) == (
        "this process must have the token of the Ray cluster at auto; got InvalidAuthToken: Authentication token is "
        "missing or incorrect. To fix: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or the file ~/.ray/auth_token to "
        "the token of its head"
    )


def test_a_host_whose_name_does_not_resolve_is_said_at_once():
    message = refusal(Place(name="far", ray_address="head.invalid:6379"))
    assert message.startswith("a Ray cluster must answer at head.invalid:6379; got ")
    assert message.endswith(". To fix: start it, or use --on local")


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (b"", "a connection, and no answer in 0 s"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a web server, such as the dashboard of Ray, whose own port is another"),
    ],
    ids=["silent", "web server"],
)
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_port_that_is_no_head_is_said_before_ray_waits_for_it(monkeypatch, scheme, answer, got):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray would wait without end"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(100)
            connection.sendall(answer)
            time.sleep(0.5)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        message = refusal(Place(name="far", ray_address=address))
        thread.join()
    assert message.startswith(f"a Ray cluster must answer at {address}; got {got}")


def test_ray_client_is_refused(monkeypatch):
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("a search would wait without end"))
    assert refusal(Place(name="far", ray_address="ray://head")) == (
        "ray_address must be host:port of a cluster's head, or auto on one of its nodes: VIMSS does not run through "
        "Ray Client; got ray://head. To fix: run the command on a node of the cluster, or hand it in with `ray job "
        "submit`"
    )


def test_no_cluster_on_this_machine_is_said_without_options_of_ray(monkeypatch):
    """Ray's own message, of what it raises where none runs."""

    def init(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance. Please specify one by --addr")

    monkeypatch.setattr(ray, "init", init)
    assert refusal(Place(name="far", ray_address="auto")) == (
        "a Ray cluster must answer on this machine or at RAY_ADDRESS, for ray_address: auto; got Could not find any "
        "running Ray instance. To fix: start it, or use --on local"
    )


class Head(NamedTuple):
    """A cluster of one node with a token of its own."""

    address: str
    environment: dict[str, str]
    folder: Path
    """Of its logs, among others."""


@contextmanager
def head(folder: Path) -> Iterator[Head]:
    """Ray's head in processes of its own, for as long as the block."""
    ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**kept, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PYTHONPATH": str(Path.cwd())}
    options = ["--port", str(ports[0]), "--ray-client-server-port", str(ports[1]), "--dashboard-port", str(ports[2])]
    options += ["--node-ip-address", "127.0.0.1", "--include-dashboard", "false", "--num-cpus", "1"]
    options += ["--resources", json.dumps({TRIAL_SLOT: 1000}), "--temp-dir", str(folder), "--block"]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", *options]
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    found = Head(f"127.0.0.1:{ports[0]}", environment, folder)
    try:
        end = time.monotonic() + 90
        while (code := connect(found).returncode) and time.monotonic() < end and process.poll() is None:
            time.sleep(1)
        assert code == 0
        yield found
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def connect(to: Head, code: str = "pass", **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that connects; with an error it prints that and ends with 3. Ray reads its token once per process."""
    script = f"""
from vimss.errors import PlaceError
from vimss.runtime import Place, ray_running
import ray
try:
    with ray_running(Place(name="far", ray_address={to.address!r})):
        {code}
except PlaceError as error:
    print(error)
    raise SystemExit(3)
"""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**to.environment, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def running() -> Iterator[Head]:
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder, head(Path(folder)) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize(
    "ours",
    [
        {"RAY_AUTH_TOKEN": "f" * 64},
        pytest.param({"RAY_AUTH_MODE": "disabled"}, marks=pytest.mark.rare),
    ],
    ids=["another token", "no token"],
)
def test_a_real_cluster_refuses_another_token(running, ours):
    done = connect(running, **ours)
    assert done.stdout.startswith(f"this process must have the token of the Ray cluster at {running.address}; got ")
    assert "To fix: set RAY_AUTH_MODE=token" in done.stdout
    assert (done.returncode, done.stdout.count("\n")) == (3, 1) and "Traceback" not in done.stderr


READ = """
import json, os, ray
from vimss.runtime import Place, ray_running

@ray.remote
def read(*names):
    return [os.environ.get(name) for name in names]

place = Place(name="far", ray_address={address!r}, environment={{"ADDED": "an-open-value"}}, secrets=("ITS_PASSWORD",))
with ray_running(place):
    names = ("ADDED", "TUNE_FORCE_TRIAL_CLEANUP_S", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "ITS_PASSWORD")
    print(json.dumps(ray.get(read.remote(*names))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["job", pytest.param("driver", marks=pytest.mark.rare)])
def test_workers_of_a_cluster_get_the_variables_of_a_place_and_no_log_shows_a_secret(running, kind):
    secret = f"never-shown-{kind}"
    variables = {"ITS_PASSWORD": secret, "TUNE_FORCE_TRIAL_CLEANUP_S": "7"}
    if kind == "job":
        # What the driver of a submitted job finds; the variables of the job are in its environment too.
        sent = {"runtime_env": {"env_vars": {"TUNE_FORCE_TRIAL_CLEANUP_S": "7"}}}
        variables |= {JOB_VARIABLE: json.dumps(sent), "RAY_ADDRESS": running.address}
    done = subprocess.run(
        [sys.executable, "-c", READ.format(address=running.address)],
        env={**running.environment, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert json.loads(done.stdout) == ["an-open-value", "7", "0.2", secret], done.stderr
    logs = b"".join(path.read_bytes() for path in running.folder.rglob("*.log"))
    assert secret.encode() not in logs and secret not in done.stderr
    assert b"an-open-value" in logs, "Ray logs what it is given by name, and so would have logged the secret"


# The last one here: afterwards no process can connect to this cluster.
@pytest.mark.slow
def test_a_real_cluster_of_other_versions_is_refused(running):
    """Its head is of our versions, but says otherwise: another Ray cannot be installed beside this one."""
    write = """import json
        from ray._common.usage import usage_constants as names
        from ray._private.ray_constants import KV_NAMESPACE_CLUSTER as space
        client = ray._private.worker.global_worker.gcs_client
        about = json.loads(client.internal_kv_get(names.CLUSTER_METADATA_KEY, namespace=space))
        about = json.dumps({**about, "ray_version": "2.59.0", "python_version": "3.10.4"}).encode()
        client.internal_kv_put(names.CLUSTER_METADATA_KEY, about, True, namespace=space)"""
    assert connect(running, write).returncode == 0
    done = connect(running)
    rule = (
        f"the Ray cluster at {running.address} must run the versions of this process, {OURS}; got Ray 2.59.0 and Python"
    )
    assert (done.returncode, done.stdout.partition(" 3.10.4. To fix: ")[0]) == (3, rule)
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr
