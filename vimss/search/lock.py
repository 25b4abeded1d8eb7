"""The lock of a study: one process at a time may search it.

with locked(study_folder(experiment, manifest, store)):
    search(experiment, manifest, place, store)
"""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TextIO

from vimss.errors import StorageError
from vimss.search.lease import is_leased, leased
from vimss.storage import explain_os_errors, origin_of

LOCK = "lock"
"""Lock file of a study; its content names the process that searches it."""

PATIENCE = 0.5
"""Seconds for which a lock that is held is tried again: `is_locked` holds it for an instant."""


@contextmanager
def locked(folder: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a study for the block, as one process at a time may search it.

    Where another process holds it: StorageError that names that process; with `on_wait`, which is called with its name,
    wait until it has ended instead. A process that dies lets go of its study. A study behind a URL is leased there too,
    since other machines have copies of their own.
    """
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    with file:
        if not _lock_soon(file, folder):
            file.seek(0)
            owner = file.read() or "another process"
            if on_wait is None:
                raise StorageError(
                    f"one process at a time may search the study {folder.name}",
                    got=f"{owner}, which searches it now",
                    fix="wait until it has ended, or give --wait; the same command then resumes from there",
                )
            on_wait(owner)
            fcntl.flock(file, fcntl.LOCK_EX)
        with explain_os_errors(folder):
            file.truncate(0)
            owner = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
            file.write(owner)
            file.flush()
        home = origin_of(folder)
        with nullcontext() if home is None else leased(home, owner, on_wait):
            yield


def is_locked(folder: Path) -> bool:
    """Whether a process of those that share the folder searches the study now."""
    if not (folder / LOCK).exists():
        return False
    with (folder / LOCK).open("r+", encoding="utf-8") as file:
        return not _try_lock(file, folder)


def is_searched(folder: Path) -> bool:
    """Whether a process searches the study now, which may be one with another copy of it."""
    home = origin_of(folder)
    return is_locked(folder) or (home is not None and is_leased(home))


def _lock_soon(file: TextIO, folder: Path) -> bool:
    """Whether the lock is ours within PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not _try_lock(file, folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


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
