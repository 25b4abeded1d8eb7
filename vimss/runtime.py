"""Where work runs: the place (platform/<name>/runtime.yaml), its store, and Ray.

    place = load_place("local")        # platform/local/runtime.yaml, or the same values built in
    store = open_store(place)
    with ray_running(place):
        ...

A place gives addresses and resources; no code branches on its name.
"""

import logging
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from vimss.config import Config, load_yaml
from vimss.errors import ConfigError, PlaceError
from vimss.storage import Store, folder_at

PLATFORM = Path("platform")
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the driver of a submitted job."""

KNOCK_SECONDS = 10.0

TRIAL_SLOT = "trial_slot"
"""Custom Ray resource that counts running trials: their drivers only wait, so they take no CPU."""

RAY_VARIABLES = {
    # The trainer's controller asks its workers for reports this often; the default of 2 s blocks every report.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Our own lines say how a search goes.
    "RAY_AIR_NEW_OUTPUT": "0",
    # We keep our own records of trials; Tune's CSV, JSON and TensorBoard files would be written beside them.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A failed trial's reason is said in one line, not by Tune's traceback through three processes.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # A process that does not end after its trial was stopped is killed; Tune would wait for ten minutes.
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
    # Tune would take Ctrl-C for the end of one cell, and the next one would begin.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
"""Settings of Ray that have no argument; the user's own values win."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Place(Config):
    """What one place offers: runtime.yaml in its folder under platform/."""

    name: str = Field(exclude=True)
    ray_address: str = Field(
        "", description="of a running cluster; empty starts Ray on this machine for the one command"
    )
    store: str = Field(
        "", description="folder or mount that all nodes share; VIMSS_STORE goes before it; empty: ./store"
    )
    shards: str = Field(
        "", description="folder or URL such as s3://bucket/prefix; VIMSS_SHARDS goes before it; empty: in the store"
    )
    cache_gigabytes: float = Field(
        50.0, gt=0, description="how much of shards behind a URL is kept in the store; least recently used go first"
    )
    tracking_uri: str = Field("", description="of an MLflow server; empty: SQLite in the store")
    workers_per_trial: int = Field(1, ge=1, description="processes that train one trial together")
    cpus_per_worker: float = Field(1.0, gt=0, description="cores of one worker, with those of its loader")
    loader_workers: int = Field(
        0, ge=0, description="threads of one worker that make batches ahead, a core each; with a GPU 1 to 4"
    )
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs of one worker")
    silent_seconds: float = Field(
        600.0,
        gt=0,
        description="a trial that shows no progress for longer, and for longer than ten times its longest interval "
        "between reports so far, is ended and left to be resumed",
    )
    max_concurrent_trials: int = Field(
        0, ge=0, description="trials that run at once; 0: as many as the cluster's cores and GPUs allow"
    )


def load_place(name: str = "local") -> Place:
    """The place called `name`, or the folder or runtime.yaml at that path.

    Without a checkout, `local` has built-in values.
    """
    path = Path(name)
    path = path / "runtime.yaml" if path.is_dir() else path
    if path.suffix != ".yaml":
        path = PLATFORM / name / "runtime.yaml"
        if not path.exists():
            if name == "local":
                return Place(name="local")
            known = ", ".join(sorted(p.parent.name for p in PLATFORM.glob("*/runtime.yaml"))) or "local"
            raise ConfigError("--on must name a folder of platform/", got=repr(name), fix=f"choose from {known}")
    return load_yaml(path, Place, [f"name={path.parent.name}"])


def in_ray_job() -> bool:
    """Whether this process is the driver of a job that was submitted to a cluster."""
    return JOB_VARIABLE in os.environ


def open_store(place: Place) -> Store:
    """$VIMSS_STORE, else the place's, else ./store; created where it does not exist.

    Its shards are at $VIMSS_SHARDS, else where the place says, else in it.
    """
    named = os.environ.get("VIMSS_STORE") or place.store
    if in_ray_job() and not Path(named).is_absolute():
        raise ConfigError(
            "a Ray job must have an absolute store, since its working directory is a copy that is thrown away",
            got=repr(named) if named else "no VIMSS_STORE",
            fix='submit with --runtime-env-json \'{"env_vars": {"VIMSS_STORE": "/absolute/path"}}\'',
        )
    shards = os.environ.get("VIMSS_SHARDS") or place.shards
    if in_ray_job() and shards and "://" not in shards and not Path(shards).is_absolute():
        raise ConfigError(
            "a Ray job must have its shards at a URL or an absolute path", got=repr(shards), fix="write the whole path"
        )
    shards_at = folder_at(shards) if shards else None
    return Store(Path(named or "store").absolute(), shards_at, place.cache_gigabytes).make()


@contextmanager
def ray_running(place: Place, num_cpus: int = 0) -> Iterator[None]:
    """Ray: connected to the place's cluster, or started on this machine and stopped at the end."""
    import ray

    if ray.is_initialized():
        yield
        return
    for name, value in RAY_VARIABLES.items():
        os.environ.setdefault(name, value)
    address = "auto" if in_ray_job() else place.ray_address
    inherited: dict[str, str] = {}
    # What workers print stays in Ray's logs: the driver tells what matters, and a failed trial its reason.
    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        settings |= {"address": address}
    else:
        # The dashboard stays on: Ray Train's cleaner asks it, without it a stopped trial blocks its cores for good.
        port = _free_port()
        settings |= {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
        # Its processes inherit where it is. Where several Rays run on a machine, they would find none by themselves.
        inherited |= {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}
        # A Ray of our own, even where another one runs on this machine.
        settings |= {"address": "local", "num_cpus": num_cpus or None, "resources": {TRIAL_SLOT: 1000}}
        # A machine of one's own is not taken away with a warning, and nobody collects its metrics.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    # Ray writes its authentication token and its logs for everybody to read, if it is let.
    mask = os.umask(0o077)
    try:
        _knock(address)
        with _environment(inherited):
            ray.init(**settings)
    except OSError as error:
        raise PlaceError(
            f"a Ray cluster must answer at {address}", got=str(error).splitlines()[0], fix="start it, or use --on local"
        ) from error
    finally:
        os.umask(mask)
    try:
        if TRIAL_SLOT not in ray.cluster_resources():
            raise PlaceError(
                f"the Ray cluster must count running trials by the resource '{TRIAL_SLOT}'",
                got=f"only {', '.join(sorted(ray.cluster_resources()))}",
                fix=f"start its head with --resources '{{\"{TRIAL_SLOT}\": 1000}}'",
            )
        yield
    finally:
        ray.shutdown()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """These environment variables, for processes that are started inside the block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _knock(address: str) -> None:
    """OSError where nothing listens at host:port: Ray would wait for it without end."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.rpartition("/")[2].strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], on_done: Callable[[Result], None] | None = None
) -> list[Result]:
    """`function` over the items: on the cores of Ray where it runs, else here, one after the other.

    Results come in order, `on_done` hears of each as it arrives, and the first error is raised as it was.
    """
    import ray

    tell = on_done or (lambda _: None)
    if not ray.is_initialized():
        done = []
        for item in items:
            done.append(function(item))
            tell(done[-1])
        return done
    task = ray.remote(num_cpus=1)(function)
    pending = {task.remote(item): index for index, item in enumerate(items)}
    results: dict[int, Result] = {}
    try:
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            index = pending.pop(ready)
            results[index] = ray.get(ready)
            tell(results[index])
    except ray.exceptions.RayTaskError as error:
        for reference in pending:
            ray.cancel(reference, force=True)
        raise error.cause from error
    return [results[index] for index in range(len(items))]


def git_commit() -> str:
    """The commit of the checkout that runs, with + where files differ from it; "unknown" outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    answer = subprocess.run(  # noqa: S603
        [git, "describe", "--always", "--dirty=+", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"
