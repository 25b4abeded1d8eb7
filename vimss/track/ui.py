"""MLflow's web pages for the runs and models of a store.

with serve_ui(tracking, port=5000) as address:
    experiment_pages(tracking, address, "quickstart")     # {"runs": "http://127.0.0.1:5000/#/...", "charts": ...}

Other machines may open them too, after a login: `serve_ui(tracking, host="0.0.0.0")`.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vimss.errors import ConfigError, PlaceError
from vimss.loopback import LOOPBACK, explain_taken_port
from vimss.storage import explain_os_errors
from vimss.track.login import EVERY_ADDRESS, login_environment, make_login, web_address
from vimss.track.store import Tracking
from vimss.track.views import CHARTS, CHARTS_TAG, VIEW, VIEW_TAG

START_SECONDS = 120.0
"""A first start on a busy machine took 45 s; on an idle one it takes 5 to 7."""

_WORKFLOW = "workflowType=machine_learning"
"""MLflow opens its pages for language models elsewhere."""


def ui_command(tracking: Tracking, port: int, host: str = LOOPBACK) -> list[str]:
    """The command that serves MLflow's pages for our database; on any host but loopback, after a login.

    PlaceError where the runs are on a server, which has its own pages.
    """
    if not tracking.is_local:
        raise PlaceError(
            "only the store's own database needs pages served",
            got=f"runs that are kept at {tracking.uri}",
            fix=f"open {tracking.uri} in a browser",
        )
    arguments = {
        "--backend-store-uri": tracking.address,
        "--default-artifact-root": tracking.artifacts.as_uri(),
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        **({} if host == LOOPBACK else {"--app-name": "basic-auth"}),
    }
    # Artifacts are read from the folders that the runs name; the upload routes stay closed.
    options = [part for pair in arguments.items() for part in pair]
    return [sys.executable, "-m", "mlflow", "server", *options, "--no-serve-artifacts"]


@contextmanager
def serve_ui(
    tracking: Tracking,
    port: int = 5000,
    on_wait: Callable[[str], None] = lambda progress: None,
    host: str = LOOPBACK,
) -> Iterator[str]:
    """Serve MLflow's pages while the block runs; yields their address once they answer.

    Any host but loopback needs a login, see vimss.track.login.

    Raises:
        ConfigError: The package is not installed that the login needs.
        PlaceError: The port is taken, the host is none of this machine's, or the server does not come up.

    """
    command = ui_command(tracking, port, host)
    _check_free(host, port)
    tracking.client()
    environment = None if host == LOOPBACK else login_environment(make_login(tracking.folder), host, port)
    log = tracking.folder / "ui.log"
    with explain_os_errors(log):
        log.touch()
    with log.open("wb") as output, _terminated_like_interrupted():
        # A session of its own: uvicorn's worker must end with it, and Ctrl-C reaches us first.
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        try:
            _wait_for(process, web_address(EVERY_ADDRESS.get(host, host), port), log, on_wait)
            yield web_address(host, port)
        finally:
            _end(process)


def _check_free(host: str, port: int) -> None:
    """PlaceError where nothing can listen at a port of a host."""
    try:
        with explain_taken_port(port):
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except PlaceError as error:
        reason = error.__cause__
        # Of a name that is not known, socket makes a plain OSError with the number of the resolver.
        unknown = {errno.EADDRNOTAVAIL, socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_AGAIN}
        if getattr(reason, "errno", None) in unknown:
            raise PlaceError(
                "--host must be an address of this machine", got=f"{host}, {reason}", fix="write --host 0.0.0.0 for all"
            ) from reason
        raise


def known_experiments(tracking: Tracking) -> list[str]:
    """Names of the experiments that have runs, the newest first."""
    return [found.name for found in tracking.client().search_experiments() if VIEW_TAG in found.tags]


def experiment_pages(tracking: Tracking, address: str, experiment: str = "") -> dict[str, str]:
    """The pages of an experiment's runs and charts by their shared views, or that of all experiments.

    ConfigError where no run of the experiment was tracked.
    """
    if not experiment:
        return {"experiments": f"{address}/#/experiments?{_WORKFLOW}"}
    found = tracking.client().get_experiment_by_name(experiment)
    if found is None:
        known = known_experiments(tracking)
        raise ConfigError(
            "the pages of an experiment need its runs",
            got=f"no run of {experiment!r}",
            fix=f"choose one of {', '.join(known)}" if known else f"run `vimss search {experiment}`",
        )
    runs = f"{address}/#/experiments/{found.experiment_id}/runs"
    table = f"viewStateShareKey={VIEW}&" if VIEW_TAG in found.tags else ""
    pages = {"runs": f"{runs}?{table}{_WORKFLOW}"}
    if CHARTS_TAG in found.tags:
        pages["charts"] = f"{runs}?viewStateShareKey={CHARTS}&compareRunsMode=CHART&{_WORKFLOW}"
    return pages


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does: the server must not outlive us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for(process: subprocess.Popen[bytes], address: str, log: Path, on_wait: Callable[[str], None]) -> None:
    begin = time.monotonic()
    while (passed := time.monotonic() - begin) < START_SECONDS and process.poll() is None:
        if _answers(f"{address}/health"):
            return
        on_wait(f"{passed:.0f} s, usually 5 to 10")
        time.sleep(0.2)
    lines = log.read_text(errors="replace").strip().splitlines() or ["no answer"]
    raise PlaceError(
        f"MLflow's pages must answer at {address}", got=lines[-1], fix=f"choose another --port, or read {log}"
    )


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2):  # noqa: S310 - an http address of our own
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
