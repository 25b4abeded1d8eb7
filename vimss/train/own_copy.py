"""The folder of a training where it lies at s3://: each process works in a copy of its own, and they meet at the URL.

    with own_copy(folder, "log.txt") as own:      # in the process of a single worker, or of rank 0
        save(own.path / CHECKPOINTS / "step_00000120")
        own.upload_checkpoints()                  # before it is reported
    with own_copy(folder, "log_rank1.txt", keeps_checkpoints=False) as own:
        own.fetch_checkpoint("step_00000120")     # on whatever node

Each file has one writer: the process that trains as rank 0 writes checkpoints and progress, each process its log, and
the driver of a search asks the training to end. A folder in the store is used itself, by all of them.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vimss.errors import StorageError
from vimss.storage import Mirror, followed_by, origin_of, private_folder, repeated

log = logging.getLogger(__name__)

CHECKPOINTS = "train"
"""Folder of a training's checkpoints."""

PROGRESS = "progress"

STOP = "stop"
"""File that asks a training to write a checkpoint and end."""

_CHECKPOINTS = re.compile(rf"(.*/)?{CHECKPOINTS}/step_.*")


def is_checkpoint(name: str) -> bool:
    """Whether a file is part of a checkpoint."""
    return bool(_CHECKPOINTS.fullmatch(name))


@dataclass(frozen=True)
class OwnCopy:
    """Where a process of a training reads and writes."""

    path: Path
    mirror: Mirror | None
    """None of a folder that all processes share."""

    def fetch_checkpoint(self, name: str) -> None:
        """Bring here the checkpoint of that name, which another process keeps."""
        if self.mirror is not None:
            self.mirror.pull(lambda file: file.startswith(f"{CHECKPOINTS}/{name}/"))

    def upload_checkpoints(self) -> None:
        """Upload what is new of the checkpoints and remove what was superseded; an outage is no reason to end."""
        try:
            if self.mirror is not None:
                self.mirror.push(is_checkpoint)
        except StorageError as error:
            log.warning("a checkpoint is here alone until the next report: %s", error)


@contextmanager
def own_copy(folder: Path, log_name: str, keeps_checkpoints: bool = True) -> Iterator[OwnCopy]:
    """The copy in which this process works, in TMPDIR; at the end all checkpoints are at the URL, or StorageError.

    It waits for the end of an outage then, for up to OUTAGE_SECONDS of `vimss.storage.mirror`.
    Where the training ends with an error, such as an interruption, that one is raised.

    Args:
        folder: of the training; one in the store is used itself.
        log_name: the file in it to which this process logs.
        keeps_checkpoints: whether this process trains as rank 0, which alone keeps checkpoints and progress, and sees
            when the training is asked to end. It has all checkpoints from the start.

    """
    home = origin_of(folder)
    if home is None:
        yield OwnCopy(folder, None)
        return
    with private_folder("vimss-trial") as path:
        mirror = Mirror(path, home)
        own = OwnCopy(path, mirror)
        mirror.pull(lambda name: name == log_name or (keeps_checkpoints and is_checkpoint(name)))

        def exchange() -> None:
            mirror.push(lambda name: name in {log_name, PROGRESS})
            if keeps_checkpoints and home.version(STOP) is not None:
                (path / STOP).touch()

        def finish() -> None:
            if keeps_checkpoints:
                mirror.push(is_checkpoint)
            with suppress(StorageError):
                exchange()

        with followed_by(finish), repeated(exchange):
            yield own


def forget_stop(folder: Path) -> None:
    """Remove the file that asks a training to end: it was for an earlier process."""
    home = origin_of(folder)
    if home is None:
        (folder / STOP).unlink(missing_ok=True)
    else:
        home.delete(STOP)
