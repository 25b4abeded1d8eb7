"""Where work runs: the place (platform/<name>/runtime.yaml), its store, and Ray.

    place = load_place("local")        # platform/local/runtime.yaml, or the same values built in
    store = open_store(place)
    with ray_running(place):
        ...

A place gives addresses and resources; no code branches on its name.
"""

import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from vimss.config import Config, find_named, is_path, known_names, load_yaml
from vimss.errors import ConfigError, PlaceError
from vimss.storage import LocalFolder, Store, folder_at

PLACES = "platform/*/runtime.yaml"
"""Where the places lie in a repository."""

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the driver of a submitted job."""

CONNECT_SECONDS = 10.0

MAX_TEMPORARY = 38
"""Bytes of the path of a folder for temporary files: Linux allows 107 for a socket, and Ray adds 68 or so:
/ray/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store."""

TEMPORARY_MEGABYTES = 100
"""What Ray's logs and sockets need of the disk, generously."""

TRIAL_SLOT = "trial_slot"
"""Custom Ray resource of the head, for the process of a trial with several workers, which only waits for them."""

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
    # Ray's watch over memory ends a process by an error that Tune takes for one of its own, and the search with it.
    "RAY_memory_monitor_refresh_ms": "0",
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


def load_place(name: str | Path = "local") -> Place:
    """The place called `name` in platform/, or the folder or runtime.yaml at that path, which has / or ends in .yaml.

    Without a repository, `local` has built-in values.
    """
    if isinstance(name, Path) or is_path(name):
        path = Path(name) / "runtime.yaml" if Path(name).is_dir() else Path(name)
    else:
        found = find_named(name, PLACES)
        if found is None and name == "local":
            return Place(name="local")
        if found is None:
            here = f"; for the folder here write ./{name}" if name and Path(name).is_dir() else ""
            known = ", ".join(known_names(PLACES)) or "local"
            raise ConfigError("--on must name a folder of platform/", got=repr(name), fix=f"choose from {known}{here}")
        path = found
    return load_yaml(path, Place, known={"name": path.absolute().parent.name})


def in_ray_job() -> bool:
    """Whether this process is the driver of a job that was submitted to a cluster."""
    return JOB_VARIABLE in os.environ


def open_store(place: Place, shards: str | Path | None = None) -> Store:
    """$VIMSS_STORE, else the place's, else ./store; created where it does not exist.

    Its shards are where `shards` says, else at $VIMSS_SHARDS, else where the place says, else in it.
    """
    named = os.environ.get("VIMSS_STORE") or place.store
    if in_ray_job() and not Path(named).is_absolute():
        raise ConfigError(
            "a Ray job must have an absolute store, since its working directory is a copy that is thrown away",
            got=repr(named) if named else "no VIMSS_STORE",
            fix='submit with --runtime-env-json \'{"env_vars": {"VIMSS_STORE": "/absolute/path"}}\'',
        )
    if "://" in named:
        raise ConfigError(
            "the store must be a folder: only shards may lie behind a URL",
            got=repr(named),
            fix="set VIMSS_STORE to a folder or a mount, and VIMSS_SHARDS to the URL",
        )
    if shards == "":
        raise ConfigError("--out must name a folder or a URL", got="''", fix="leave it out, or write where shards lie")
    where = str(shards) if shards else os.environ.get("VIMSS_SHARDS") or place.shards
    if in_ray_job() and where and "://" not in where and not Path(where).is_absolute():
        raise ConfigError(
            "a Ray job must have its shards at a URL or an absolute path", got=repr(where), fix="write the whole path"
        )
    root = Path(named or "store").absolute()
    for path, variable in ((str(root), "VIMSS_STORE"), (where, "--out or VIMSS_SHARDS")):
        _check_path(path, variable)
    shards_at = folder_at(where) if where else None
    if isinstance(shards_at, LocalFolder):
        _check_folder(shards_at.path)
    return Store(root, shards_at, place.cache_gigabytes).make()


def _check_folder(path: Path) -> None:
    """ConfigError where a file is in the way of a folder for shards."""
    there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not there.is_dir():
        raise ConfigError(
            f"{path} must be a folder for shards, or free to become one",
            got=f"{there}, which is none",
            fix="correct --out or VIMSS_SHARDS",
        )


def _check_path(path: str, variable: str) -> None:
    """ConfigError where MLflow, Ray or a manifest could not write the path down."""
    odd = [letter for letter in path if unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"}]
    if odd:
        raise ConfigError(
            f"{variable} must be a path of UTF-8 without control characters, such as line breaks",
            got=repr(path),
            fix="rename the folder, or choose another",
        )


def sqlite_url(path: Path) -> str:
    """The URL by which SQLAlchemy, and so MLflow and Optuna, open a SQLite file; any path will do.

    >>> sqlite_url(Path("/100 %/a.db"))
    'sqlite+pysqlite:////100 %25/a.db'
    """
    plain = str(path.absolute())
    # SQLAlchemy 2.1 decodes %20, all versions end the path at ?, and Optuna fills in what stands in braces. Nothing
    # else is quoted, and the driver is named then, since MLflow makes the folder of what follows sqlite:/// as it is.
    if not set(plain) & set("%?{}"):
        return f"sqlite:///{plain}"
    return "sqlite+pysqlite:///" + "".join(f"%{ord(sign):02X}" if sign in "%?{}" else sign for sign in plain)


@contextmanager
def ray_at_hand(place: Place) -> Iterator[None]:
    """Ray as `ray_running` has it, but started only when `parallel_map` or `start_ray` is called inside the block.

    So what is wrong with a command is told before Ray starts, and what is there already is found without it. Inside
    another such block, that one's Ray is used.
    """
    if _at_hand:
        yield
        return
    with ExitStack() as stack:

        def start() -> None:
            stack.enter_context(ray_running(place))

        _at_hand.append(start)
        try:
            yield
        finally:
            _at_hand.remove(start)


def start_ray() -> None:
    """Start the Ray that is at hand, unless one runs; without one at hand, nothing."""
    import ray

    with _starting:
        if _at_hand and not ray.is_initialized():
            _at_hand[-1]()


_at_hand: list[Callable[[], None]] = []
"""What starts Ray, for each block of `ray_at_hand` that this process is in."""

_starting = threading.Lock()


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
    with ExitStack() as stack:
        if address:
            _connect(address)
        else:
            _start_here(stack.enter_context(_short_folder()), num_cpus)
        stack.callback(ray.shutdown)
        if TRIAL_SLOT not in ray.cluster_resources():
            raise PlaceError(
                f"the Ray cluster must count running trials by the resource '{TRIAL_SLOT}'",
                got=f"only {', '.join(sorted(ray.cluster_resources()))}",
                fix=f"start its head with --resources '{{\"{TRIAL_SLOT}\": 1000}}'",
            )
        yield


# What workers print stays in Ray's logs: the driver tells what matters, and a failed trial its reason.
_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}


def _connect(address: str) -> None:
    """Become a driver of the cluster at an address."""
    import ray

    try:
        _check_address(address)
        with _private_files():
            ray.init(address=address, **_QUIET)
    except OSError as error:
        raise PlaceError(
            f"a Ray cluster must answer at {address}", got=_cause(error), fix="start it, or use --on local"
        ) from error


def _start_here(folder: Path | None, num_cpus: int) -> None:
    """Start a Ray of our own, even where another one runs on this machine; with `folder` in place of TMPDIR."""
    import ray

    # The dashboard stays on: Ray Train's cleaner asks it, without it a stopped trial blocks its cores for good.
    port = _free_port()
    settings = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
    settings |= {"address": "local", "num_cpus": num_cpus or None, "resources": {TRIAL_SLOT: 1000}}
    settings |= {"_temp_dir": str(folder / "ray")} if folder else {}
    # Its processes inherit where it is. Where several Rays run on a machine, they would find none by themselves.
    inherited = {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"} | _token()
    inherited |= {"TMPDIR": str(folder)} if folder else {}
    # A machine of one's own is not taken away with a warning, and nobody collects its metrics.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    try:
        with _private_files(), _environment(inherited):
            ray.init(**settings, **_QUIET)
    # Ray has no class of its own for what can keep it from starting: OSError, RuntimeError, ValueError, Exception.
    except Exception as error:
        ray.shutdown()
        raise PlaceError(
            "Ray must start on this machine",
            got=_cause(error),
            fix="look at `vimss doctor`: Ray needs free memory, some disk and a network address; its logs are in the "
            "folder ray of TMPDIR",
        ) from error


@contextmanager
def _short_folder() -> Iterator[Path | None]:
    """A folder for temporary files that Ray can use: None where the one of the environment will do.

    A path that is too long for sockets is reached by a link; a folder that is missing, full or read-only is replaced.
    """
    named, chosen = temporary_folder()
    wrong = unfit(chosen)
    # Ray's dashboard has a socket of its own in TMPDIR, whatever RAY_TMPDIR says.
    if not wrong and all(len(os.fsencode(folder)) <= MAX_TEMPORARY for folder in (str(chosen), *named)):
        # Ray would take an empty variable for the working directory.
        yield None if all(map(os.path.isabs, named)) else chosen
        return
    for other in map(Path, ("/tmp", "/var/tmp", "/dev/shm")):  # noqa: S108
        if not unfit(other):
            # This folder is its owner's alone; the one that Ray is given is opened to everybody by Ray.
            with tempfile.TemporaryDirectory(prefix="vimss-", dir=other, ignore_cleanup_errors=True) as folder:
                short = Path(folder) / "tmp"
                short.mkdir() if wrong else short.symlink_to(chosen)
                yield short
            return
    raise PlaceError(
        "Ray must have a folder for its sockets and logs, with a short path",
        got=wrong or f"{chosen}, and no room in /tmp for a link to it",
        fix="set TMPDIR to a writable folder such as /tmp, with some free space",
    )


def temporary_folder() -> tuple[list[str], Path]:
    """What RAY_TMPDIR and TMPDIR are set to, and the folder that Ray makes its own in by that."""
    named = [os.environ[name] for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ]
    return named, Path(next(filter(None, named), "/tmp")).absolute()  # noqa: S108 - as Ray does


def unfit(folder: Path) -> str:
    """Why nobody can keep temporary files in a folder; empty where one can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free // 2**20
    except OSError as error:
        return f"{folder}, where no file can be made ({error.strerror})"
    return "" if free >= TEMPORARY_MEGABYTES else f"{folder}, which has {free} MB free"


def _token() -> dict[str, str]:
    """A token for a Ray of our own, where Ray could not keep one at home: no home, or one that is read-only."""
    # Ray itself leaves RAY_AUTH_MODE=token behind where it was started before.
    given = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if given or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return {}
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / "auth_token").is_file():
            with tempfile.TemporaryFile(dir=folder):
                pass
    except (OSError, RuntimeError):  # RuntimeError: the user has no home at all
        return {"RAY_AUTH_TOKEN": _own_token()}
    return {}


@cache
def _own_token() -> str:
    """One for the life of this process: Ray reads it once, and another one would be refused by the second Ray."""
    return secrets.token_hex(32)


@contextmanager
def _private_files() -> Iterator[None]:
    """Ray writes its authentication token and its logs for everybody to read, if it is let."""
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)


def _cause(error: BaseException) -> str:
    """What an error says: the last line of a traceback that it quotes, as Ray does, or else its first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in reversed(lines[1:]) if re.match(r"[\w.]+(Error|Exception): ", line)), lines[0])


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """These environment variables, for processes that are started inside the block; no other is touched."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _check_address(address: str) -> None:
    """OSError where nothing listens at host:port: Ray would wait for it without end."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        check_reachable(host.rpartition("/")[2].strip("[]"), int(port))


def check_reachable(host: str, port: int) -> None:
    """OSError where nothing listens there."""
    socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    on_done: Callable[[Result], None] | None = None,
    gpus: Callable[[Item], float] = lambda item: 0.0,
) -> list[Result]:
    """`function` over the items: on the cores of Ray where it runs or is at hand, else here, one after the other.

    Results come in order, `on_done` hears of each as it arrives, and the first error is raised as it was. `gpus` says
    which share of a GPU an item needs beside its core, where the cluster has any.
    """
    import ray

    start_ray()
    tell = on_done or (lambda _: None)
    if not ray.is_initialized():
        done = []
        for item in items:
            done.append(function(item))
            tell(done[-1])
        return done
    task = ray.remote(num_cpus=1)(function)
    # Ray would wait for ever for a GPU that it does not count.
    most = float(cluster_gpus() > 0)
    pending = {task.options(num_gpus=most * gpus(item)).remote(item): index for index, item in enumerate(items)}
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


def cluster_gpus() -> float:
    """GPUs of the Ray that runs or is at hand, which this starts; 0 without one."""
    import ray

    start_ray()
    return float(ray.cluster_resources().get("GPU", 0.0)) if ray.is_initialized() else 0.0


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
