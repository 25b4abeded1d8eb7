"""What was searched: the record of each trial, as it lies in its folder, and the best among them.

    study = read_study(study_folder(experiment, manifest, store))
    study.best(["search"]).folder / "model"

Needs neither Ray nor torch. A study is a folder per cell, and in it a folder per trial:

    CELL/TRIAL/trial.json    what it was and how it went
    CELL/TRIAL/model/        its best weights
"""

import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from pydantic import Field

from vimss.config import Config, parse_config, signature
from vimss.errors import ConfigError, DataError, StorageError, TrainingError, VimssError
from vimss.experiment import Experiment, Scalar
from vimss.shards.manifest import Manifest
from vimss.storage import TEMPORARY, Store, explain_os_errors, publish
from vimss.train.config import Settings

OBJECTIVE = "valid_loss"
"""Mean floored -SNR in dB over present sources of the fixed validation set; lower is better."""

RECORD = "trial.json"

LOCK = "lock"
"""File of a study that the process which searches it holds locked; it says who that is."""


class TrialRecord(Config):
    """What a trial was and how it went; `trial.json` in its folder."""

    cell: str
    trial: str = Field(description="signature of the settings; name of the folder")
    state: Literal["running", "waiting", "finished", "pruned", "failed", "interrupted"] = Field(
        description="running, interrupted, or waiting for others at the rung: the same search again resumes it"
    )
    chosen: dict[str, Scalar]
    settings: Settings | None = Field(description="null where what was drawn goes together in no network")
    reports: tuple[dict[str, float], ...] = ()
    message: str = ""
    begun: float = Field(description="seconds since 1970")
    folder: Path = Field(Path(), exclude=True)

    @property
    def best_report(self) -> dict[str, float]:
        """The report with the lowest objective; empty before the first."""
        return min(self.reports, key=lambda report: report[OBJECTIVE], default={})

    @property
    def objective(self) -> float:
        """The lowest validation loss, infinite before the first report."""
        return self.best_report.get(OBJECTIVE, math.inf)


@dataclass(frozen=True)
class Study:
    """All trials of an experiment, as they lie in its folder."""

    folder: Path
    records: tuple[TrialRecord, ...]

    def of_cell(self, cell: str) -> tuple[TrialRecord, ...]:
        """The trials of one cell, in the order in which they began."""
        return tuple(
            sorted((record for record in self.records if record.cell == cell), key=lambda record: record.begun)
        )

    def best(self, cells: Iterable[str]) -> TrialRecord:
        """The trial with the lowest objective among those that finished in these cells."""
        names = set(cells)
        able = [record for record in self.records if record.cell in names and (record.folder / "model").is_dir()]
        finished = [record for record in able if record.state == "finished"] or able
        if not finished:
            raise TrainingError(
                f"{self.folder} must hold a trial with weights in {', '.join(sorted(names))}",
                got="; ".join(dict.fromkeys(record.message for record in self.records if record.message)) or "none",
                fix="read the messages of the failed trials, correct the experiment and run it again",
            )
        return min(finished, key=lambda record: record.objective)


def study_folder(experiment: Experiment, manifest: Manifest, store: Store) -> Path:
    """Where an experiment's trials lie: its name and the signature of experiment and shards."""
    data = [manifest.signature, *(other.signature for other, _ in manifest.more)]
    return store.studies / f"{experiment.name}-{signature(experiment.signature, *data)}"


@contextmanager
def locked(folder: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a study for the block, as one process at a time may search it.

    Where another process holds it: StorageError that names that process; with `on_wait`, which is called with its name,
    wait until it has ended instead. A process that dies lets go of its study.
    """
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    with file:
        if not _try_lock(file, folder):
            file.seek(0)
            owner = file.read() or "another process"
            if on_wait is None:
                raise StorageError(
                    f"one process at a time may search the study {folder.name}",
                    got=f"{owner}, which searches it now",
                    fix="wait until it has ended, or give --wait; the same command then goes on from there",
                )
            on_wait(owner)
            fcntl.flock(file, fcntl.LOCK_EX)
        with explain_os_errors(folder):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            file.flush()
        yield


def _try_lock(file: TextIO, folder: Path) -> bool:
    """Whether the lock is ours now; StorageError where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StorageError(
            f"{folder} must be on a file system with file locks",
            got=str(error.strerror),
            fix="mount it with locks (Lustre: -o flock), or set VIMSS_STORE to a folder on another file system",
        ) from error
    return True


def read_study(folder: Path) -> Study:
    """The trials of a study's folder; DataError names a record that cannot be read."""
    paths = [path for path in sorted(folder.glob(f"*/*/{RECORD}")) if not path.parent.name.startswith(TEMPORARY)]
    return Study(folder, tuple(read_record(path) for path in paths))


def read_record(path: Path) -> TrialRecord:
    """One trial.json; DataError where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return parse_config({**content, "folder": path.parent}, TrialRecord, "trial.json")
    except (ConfigError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} must be the record of a trial",
            got=f"{error.rule}, {error.got}" if isinstance(error, VimssError) else str(error),
            fix=f"delete {path.parent} and run the same command again: this trial is then trained anew",
        ) from error


def write_record(record: TrialRecord) -> None:
    """Put a record into its folder."""
    with publish(record.folder / RECORD) as temporary:
        temporary.write_text(record.model_dump_json(indent=1), encoding="utf-8")
