"""Writes to MLflow, on disk before they are sent, so that nothing is lost while MLflow does not answer.

    spool = Spool(folder)
    spool.append({"do": "metrics", ...})       # on disk when this returns
    for segment in spool.segments():           # also those that a killed process left
        for entry, end in segment.pending():
            ...                                # deliver
            segment.acknowledge(end)

A segment is a file of JSON lines written by one process, which holds a lock on it while it lives; beside it
stands how far it was delivered. Delivery is at least once: a process that dies between the two repeats entries.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from vimss.storage import TEMPORARY, explain_os_errors

Entry = dict[str, Any]
"""One write: `do` names it (see delivery), `experiment`, `study`, `cell` and `trial` give the run, `time` is in ms."""

UNREADABLE = "unreadable"


class Segment:
    """One file of entries and how far it was delivered."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self._file = file  # keeps the lock
        self._done = path.with_suffix(".done")
        self._position = int(self._done.read_text()) if self._done.exists() else 0

    def pending(self) -> list[tuple[Entry, int]]:
        """The entries that were not acknowledged, each with the position after it.

        A line that a dying process left half-written is not an entry; a whole line that is no JSON comes
        back as {"do": "unreadable"}, so that delivery can put it aside and report it.
        """
        entries: list[tuple[Entry, int]] = []
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:  # delivered and removed meanwhile
            end = file.seek(self._position)
            for line in file:
                end += len(line)
                if line.endswith(b"\n"):
                    entries.append((_read(line), end))
        return entries

    def acknowledge(self, position: int) -> None:
        """Everything before `position` has been delivered."""
        self._position = position
        temporary = self._done.with_name(f"{TEMPORARY}{self._done.name}")
        temporary.write_text(str(position))
        temporary.replace(self._done)

    def remove(self) -> None:
        """Delete the file, delivered to its end, and give up its lock."""
        self.path.unlink(missing_ok=True)
        self._done.unlink(missing_ok=True)
        self._file.close()

    def release(self) -> None:
        """Give up the lock; another process may deliver what is left."""
        self._file.close()


class Spool:
    """The segments of one folder: this process's own, which grows, and those left behind by others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        with explain_os_errors(folder):
            self.attachments.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._left = list(self._abandoned())
        path = folder / _next_name(folder)
        temporary = folder / f"{TEMPORARY}{path.name}"
        with explain_os_errors(path):
            self._file = _append_to(temporary)
            # Locked before it has its name: else another process could take it for a dead one's.
            fcntl.flock(self._file, fcntl.LOCK_EX)
            temporary.rename(path)
        self._own = Segment(path, self._file)

    @property
    def attachments(self) -> Path:
        """Files that wait for delivery, a folder for each entry."""
        return self.folder / "files"

    @property
    def rejected(self) -> Path:
        """Entries that MLflow refuses for good, as JSON lines with the reason."""
        return self.folder / "rejected.log"

    def append(self, entry: Entry) -> None:
        """Write an entry down; it is on disk when this returns. StorageError where it cannot be."""
        line = json.dumps(entry).encode() + b"\n"
        with self._lock, explain_os_errors(self._own.path):
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())

    def attach(self, files: Mapping[str, bytes | Path]) -> str:
        """Copy files beside the spool for a later entry; gives the name of their folder."""
        name = uuid.uuid4().hex[:12]
        temporary = self.attachments / f"{TEMPORARY}{name}"
        with explain_os_errors(temporary):
            for file_name, content in files.items():
                target = temporary / file_name
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                if isinstance(content, bytes):
                    target.write_bytes(content)
                else:
                    shutil.copyfile(content, target)
            temporary.replace(self.attachments / name)
        return name

    def segments(self) -> list[Segment]:
        """Those left behind, oldest first, then this process's own."""
        return [*self._left, self._own]

    def forget_if_abandoned(self, segment: Segment) -> None:
        """Remove a delivered segment, unless it is our own, which still grows."""
        if segment in self._left:
            self._left.remove(segment)
            segment.remove()

    def reject(self, entry: Entry, reason: str) -> None:
        """Put an entry aside that can never be delivered."""
        with _append_to(self.rejected) as file:
            file.write(json.dumps({"reason": reason, **entry}).encode() + b"\n")

    def num_pending(self) -> int:
        """Entries not yet delivered, those of dead processes included."""
        return sum(len(segment.pending()) for segment in self.segments())

    def close(self) -> None:
        """Leave what is pending to the next process; an own segment without anything pending is removed."""
        for segment in self.segments():
            if segment.pending():
                segment.release()
            else:
                segment.remove()
        self._left = []

    def _abandoned(self) -> Iterator[Segment]:
        for path in sorted(self.folder.glob("*.jsonl")):
            try:
                file = path.open("rb+")
            except FileNotFoundError:  # its owner has just delivered and removed it
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # a living process delivers it
                file.close()
                continue
            if path.exists():
                yield Segment(path, file)
            else:  # removed between our opening and our locking it
                file.close()


def _next_name(folder: Path) -> str:
    """The name of a new segment, after all others in alphabetical order even where the clock was set back."""
    known = [int(found[1]) for path in folder.glob("*.jsonl") if (found := re.match(r"(\d+)-", path.name))]
    return f"{max([time.time_ns(), *(1 + number for number in known)])}-{os.getpid()}.jsonl"


def _read(line: bytes) -> Entry:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) and "do" in entry else {"do": UNREADABLE, "line": repr(line[:200])}


def _append_to(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
