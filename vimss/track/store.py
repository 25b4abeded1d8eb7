"""MLflow's database and artifacts: where they are, made ready before use.

tracking = Tracking(store)
tracking.client().search_experiments()
"""

import fcntl
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from vimss.errors import PlaceError
from vimss.runtime import sqlite_url
from vimss.storage import Store, atomic_write, explain_os_errors
from vimss.track.names import DATABASE
from vimss.track.server import check_server

_ARTIFACTS = "/mlflow/artifacts"
"""End of the path of the artifacts' folder in every store: see `Store.tracking` and `Tracking.artifacts`."""

_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's database that hold where files lie."""


@dataclass(frozen=True)
class Tracking:
    """Where runs and models are kept: `uri`, or SQLite in the store where it is empty."""

    store: Store
    uri: str = ""

    @property
    def folder(self) -> Path:
        """Holds the database and the artifacts."""
        return self.store.tracking.absolute()

    @property
    def database(self) -> Path:
        """The SQLite file used without a server."""
        return self.folder / DATABASE

    @property
    def artifacts(self) -> Path:
        """Files of runs and models, used without a server."""
        return self.folder / "artifacts"

    @property
    def address(self) -> str:
        """The tracking URI that MLflow understands."""
        return self.uri or sqlite_url(self.database)

    @property
    def is_local(self) -> bool:
        """Whether the database is our own file rather than a server's."""
        return not self.uri

    def here(self, location: str) -> Path | None:
        """The path in this store of what MLflow's database has at a location; None for what is in no store.

        The database holds whole paths, of where the store was when they were written: it may have been moved or copied,
        or be mounted elsewhere by another machine.
        """
        old = _old_artifacts(location) if self.is_local else None
        if old is None:
            return None
        return self.artifacts / urllib.parse.unquote(location.removeprefix(old)).strip("/")

    def make(self) -> None:
        """Create the folder, readable by its owner alone."""
        self.store.make()
        with explain_os_errors(self.folder):
            self.folder.mkdir(exist_ok=True, mode=0o700)

    def client(self) -> MlflowClient:
        """A client of the database, which is created or brought up to date first where it is ours.

        PlaceError where `uri` is that of no MLflow, or of one of another major version.
        """
        if self.is_local:
            _prepare(self)
        else:
            with explain_mlflow_errors(self):
                check_server(self.uri)
        return MlflowClient(tracking_uri=self.address, registry_uri=self.address)


@contextmanager
def explain_mlflow_errors(tracking: Tracking) -> Iterator[None]:
    """Turn what MLflow raises into a PlaceError with the server and its answer."""
    try:
        yield
    except MlflowException as error:
        raise PlaceError(
            f"MLflow at {tracking.address} must answer",
            got=one_line(error),
            fix="start the tracking server, or look into its log",
        ) from error


def one_line(error: BaseException) -> str:
    """The error with its innermost cause, or that alone, where MLflow wraps a refused connection four times."""
    root = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    texts = [" ".join(str(part).split())[:160] or type(part).__name__ for part in (error, root)]
    if root is not error and "failed with exception" in texts[0]:
        return texts[1]
    return texts[0] if root is error or texts[1] in texts[0] else f"{texts[0]} ... {texts[1]}"


def _prepare(tracking: Tracking) -> None:
    """Create the database whole, migrate an older MLflow's, or update the path of the store; one process at a time.

    The lock file holds the version that migrated it last.
    """
    if tracking.database.is_file() and not os.access(tracking.folder, os.W_OK):
        return  # mounted to be read: it stays as it is
    tracking.make()
    with explain_os_errors(tracking.folder):
        tracking.artifacts.mkdir(exist_ok=True, mode=0o700)
        with (tracking.folder / "lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.seek(0)
            if not tracking.database.exists() or lock.read() != mlflow.__version__:
                if tracking.database.exists():
                    _upgrade(tracking)
                else:
                    _create(tracking.database)
                lock.truncate(0)
                lock.write(mlflow.__version__)
            _relocate(tracking)


def _create(database: Path) -> None:
    """A migrated, empty database. Killed half-way, MLflow's migrations leave a file that no later start can use."""
    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with atomic_write(database) as temporary:
        MlflowClient(tracking_uri=sqlite_url(temporary)).search_experiments(max_results=1)
        temporary.chmod(0o600)


def _upgrade(tracking: Tracking) -> None:
    backup = tracking.database.with_name(f"mlflow.db.before-{mlflow.__version__}")
    shutil.copy2(tracking.database, backup)
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", tracking.address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode != 0:
        shutil.copy2(backup, tracking.database)
        # SQLAlchemy's errors end in the query, and in the address of a page about them.
        lines = [line for line in done.stderr.strip().splitlines() if not line.startswith(("[", "(Background"))]
        last = lines[-1] if lines else f"exit code {done.returncode}"
        raise PlaceError(
            f"{tracking.database} must suit the installed MLflow {mlflow.__version__}",
            got=f"a migration that failed: {last}",
            fix="install the MLflow version that wrote it, or move the file away to start anew",
        )


def _relocate(tracking: Tracking) -> None:
    """Make the database, which holds whole paths, name the artifacts of this store and of no other.

    Our own code goes by `Tracking.here`; MLflow's pages and its `load_model` have nothing but the database.
    """
    try:
        with closing(sqlite3.connect(tracking.database)) as connection, connection:
            for table, column in _LOCATIONS:
                # Neither name comes from outside.
                for (location,) in connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall():  # noqa: S608
                    old = _old_artifacts(location or "")
                    if old is not None and old != tracking.artifacts.as_uri():
                        moved = tracking.artifacts.as_uri() + location.removeprefix(old)
                        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (moved, location))  # noqa: S608
    except sqlite3.Error as error:
        raise PlaceError(
            f"{tracking.database} must be MLflow's database, and free to be written",
            got=str(error),
            fix="end the process that writes into it, or move the file away to start anew",
        ) from error


def _old_artifacts(location: str) -> str | None:
    """The URI of the artifacts' folder of the store that a location is in; None for what is in no store."""
    if not location.startswith("file://"):
        return None
    before, between, after = location.rpartition(_ARTIFACTS)
    return before + between if between and (not after or after.startswith("/")) else None
