"""Ray: connected to a place's cluster, or started on this machine, with its tokens and temporary files.

with ray_running(place):
...
with ray_at_hand(place):           # starts when something needs it
...
"""

import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from vimss.errors import PlaceError
from vimss.runtime.environment import check_secrets, runtime_env, set_variables
from vimss.runtime.head import check_answers, head_watched
from vimss.runtime.place import Place, in_ray_job
from vimss.runtime.watchdog import watched

CONNECT_SECONDS = 10.0

ATTEMPTS = "RAY_gcs_server_port_wait_time_s"
"""Environment variable: how often Ray tries to connect, a second apart; else 20 times, with a wrong token too."""

MAX_TEMPORARY = 38
"""Bytes of the path of a folder for temporary files: Linux allows 107 for a socket, and Ray adds 68 or so:
/ray/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store."""

TEMPORARY_MEGABYTES = 100
"""Disk space for Ray's logs and sockets, generously."""

TRIAL_SLOT = "trial_slot"
"""Custom Ray resource of the head, for the process of a trial with several workers, which only waits for them."""


@contextmanager
def ray_at_hand(place: Place) -> Iterator[None]:
    """Ray as `ray_running` has it, but started only when `parallel_map` or `start_ray` is called inside the block.

    So errors of a command are reported before Ray starts, and existing results are found without it. Inside
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
"""The function that starts Ray, for each block of `ray_at_hand` that this process is in."""

_starting = threading.Lock()


@contextmanager
def ray_running(place: Place, num_cpus: int = 0) -> Iterator[None]:
    """Ray: connected to the place's cluster, or started on this machine and stopped at the end."""
    import ray

    if ray.is_initialized():
        yield
        return
    set_variables(place)
    check_secrets(place)
    address = "auto" if in_ray_job() else place.ray_address
    with ExitStack() as stack:
        if address:
            _connect(address, runtime_env(place))
        else:
            _start_here(stack.enter_context(_short_folder()), num_cpus)
            stack.enter_context(watched())
        stack.callback(ray.shutdown)
        stack.enter_context(head_watched(ray.get_runtime_context().gcs_address))
        if TRIAL_SLOT not in ray.cluster_resources():
            raise PlaceError(
                f"the Ray cluster must count running trials by the resource '{TRIAL_SLOT}'",
                got=f"only {', '.join(sorted(ray.cluster_resources()))}",
                fix=f"start its head with --resources '{{\"{TRIAL_SLOT}\": 1000}}'",
            )
        yield


# The output of workers stays in Ray's logs: the driver prints what matters, and why a trial failed.
_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}


def _connect(address: str, for_workers: dict[str, Any]) -> None:
    """Become a driver of the cluster at an address, whose workers get this `runtime_env`."""
    import ray

    try:
        _check_address(address)
        _check_no_client(address)
        with _private_files(), _environment({ATTEMPTS: os.environ.get(ATTEMPTS, "3")}):
            ray.init(address=address, runtime_env=for_workers, **_QUIET)
    except PlaceError:
        raise
    # Ray has no class of its own for most of these: they are OSError, RuntimeError, ValueError, AuthenticationError.
    except Exception as error:
        ray.shutdown()
        raise _not_connected(address, error) from error


def _check_no_client(address: str) -> None:
    """PlaceError for Ray Client, by which Tune would run in another process: a search would wait without end."""
    if address.startswith("ray://"):
        raise PlaceError(
            "ray_address must be host:port of a cluster's head, or auto on one of its nodes: VIMSS does not run "
            "through Ray Client",
            got=address,
            fix="run the command on a node of the cluster, or hand it in with `ray job submit`",
        )


def _not_connected(address: str, error: Exception) -> PlaceError:
    """Why this process cannot become a driver of the cluster at an address."""
    import ray

    text = "\n".join(str(cause) for cause in _with_causes(error))
    versions = re.findall(r"^ *(Ray|Python): (\S+)", text, re.MULTILINE) if "Version mismatch" in text else []
    if len(versions) >= 4:
        theirs, ours = (" and ".join(map(" ".join, pair)) for pair in (versions[:2], versions[2:4]))
        return PlaceError(
            f"the Ray cluster at {address} must run the versions of this process, {ours}",
            got=theirs,
            fix="install those here, or start the cluster with the versions of this process",
        )
    # Ray wraps its own exception in one whose text holds the traceback.
    refused = re.search(r"InvalidAuthToken: [^.\n]+", text)
    if refused or any(isinstance(cause, ray.exceptions.AuthenticationError) for cause in _with_causes(error)):
        return PlaceError(
            f"this process must have the token of the Ray cluster at {address}",
            got=refused[0] if refused else text.partition(". ")[0],
            fix="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or the file ~/.ray/auth_token to the token of its head",
        )
    where = "on this machine or at RAY_ADDRESS, for ray_address: auto" if address == "auto" else f"at {address}"
    got = _cause(error).partition(". Please specify")[0]  # an option of Ray's own commands
    return PlaceError(f"a Ray cluster must answer {where}", got=got, fix="start it, or use --on local")


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def _start_here(folder: Path | None, num_cpus: int) -> None:
    """Start a Ray of our own, even where another one runs on this machine; with `folder` in place of TMPDIR."""
    import ray

    # The dashboard answers `ray list actors` and the like, by which a user sees what runs.
    port = _free_port()
    settings = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
    settings |= {"address": "local", "num_cpus": num_cpus or None, "resources": {TRIAL_SLOT: 1000}}
    settings |= {"_temp_dir": str(folder / "ray")} if folder else {}
    # Its processes inherit where it is. Where several Rays run on a machine, they would find none by themselves.
    inherited = {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"} | _token()
    inherited |= {"TMPDIR": str(folder)} if folder else {}
    # A local machine is not preempted with a warning, and its metrics are not collected.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    try:
        with _private_files(), _environment(inherited):
            ray.init(**settings, **_QUIET)
    # Ray has no class for errors of its start: they are OSError, RuntimeError, ValueError, Exception.
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
    # Ray's dashboard has a socket of its own in TMPDIR, even with RAY_TMPDIR set.
    if not wrong and all(len(os.fsencode(folder)) <= MAX_TEMPORARY for folder in (str(chosen), *named)):
        # Ray would take an empty variable for the working directory.
        yield None if all(map(os.path.isabs, named)) else chosen
        return
    for other in map(Path, ("/tmp", "/var/tmp", "/dev/shm")):  # noqa: S108
        if not unfit(other):
            # This folder is its owner's alone; Ray makes its own folder readable to all users.
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
    """The values of RAY_TMPDIR and TMPDIR, and the folder in which Ray then makes its own."""
    named = [os.environ[name] for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ]
    return named, Path(next(filter(None, named), "/tmp")).absolute()  # noqa: S108 - as Ray does


def unfit(folder: Path) -> str:
    """Why a folder is not usable for temporary files; empty where it is."""
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
    """Files in the block are private: Ray would make its authentication token and its logs readable to all users."""
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)


def _cause(error: BaseException) -> str:
    """The message of an error: the last line of a traceback that it quotes, as Ray's do, or else its first line."""
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
    """OSError where no head answers at host:port: Ray would wait without end."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()):
        return
    check_answers(host.rpartition("/")[2].strip("[]"), int(port), CONNECT_SECONDS)


def cluster_gpus() -> float:
    """GPUs of the Ray that runs or is at hand, which this starts; 0 without one."""
    import ray

    start_ray()
    return float(ray.cluster_resources().get("GPU", 0.0)) if ray.is_initialized() else 0.0
