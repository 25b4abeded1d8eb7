"""A folder of this machine as a copy of one behind a URL, file by file and in both directions.

    mirror = Mirror(folder, home, index="trial.json")
    mirror.pull(names)      # what has changed at the URL
    mirror.push(names)      # what has changed here

Files named `index`, if any, speak of others: they are uploaded last and fetched first, so that all that they speak of
is where they are. What has changed is known from the state of both sides when they were last alike, which the folder
keeps. Where both have changed, the URL's is fetched; each file should have one writer.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from vimss.errors import OutageError, StorageError
from vimss.progress import FileProgress
from vimss.storage.files import atomic_write
from vimss.storage.folders import RemoteFolder
from vimss.storage.replace import TEMPORARY
from vimss.storage.store import origin_of

log = logging.getLogger(__name__)

ALIKE = "mirror.json"
"""File of the copy: the ETag of each object, and the state of the file that it was alike."""

DOWNLOADS = 8
"""At once."""

SECONDS = 3.0
"""Between two exchanges with the URL; longer where one takes longer."""

OUTAGE_SECONDS = 300.0
"""For how long of an outage to wait with what needs the URL to go on."""

State = tuple[int, int]
"""Time of the last change, in nanoseconds, and bytes of a file."""


class Mirror:
    """A copy and its original; `names` of both methods says which files, by their paths below the folder."""

    def __init__(self, folder: Path, home: RemoteFolder, index: str = "") -> None:
        self.folder = folder
        self.home = home
        self.index = index
        self.alike: dict[str, tuple[str, State]] = {}
        with suppress(OSError, ValueError):  # without it everything is fetched again
            kept = json.loads((folder / ALIKE).read_text(encoding="utf-8"))
            self.alike = {name: (tag, (changed, size)) for name, (tag, (changed, size)) in kept.items()}

    def pull(self, names: Callable[[str], bool], on_progress: Callable[[FileProgress], None] = lambda _: None) -> None:
        """Fetch what has changed at the URL, and remove here what was removed there."""
        listed = self.home.versions()
        for is_index in (True, False):

            def is_meant(name: str, is_index: bool = is_index) -> bool:
                return self._is_index(name) is is_index and _is_below(name) and names(name)

            there = {name: version for name, version in listed.items() if is_meant(name)}
            changed = [name for name, (tag, _) in there.items() if not self._is_here(name, tag)]
            size, total_size = 0, sum(there[name][1] for name in changed)
            on_progress(FileProgress(0, len(changed), size, total_size))
            with ThreadPoolExecutor(DOWNLOADS) as pool:
                for number, (name, state) in enumerate(zip(changed, pool.map(self._download, changed), strict=True), 1):
                    if state is not None:
                        self.alike[name] = (there[name][0], state)
                    size += there[name][1]
                    on_progress(FileProgress(number, len(changed), size, total_size))
            for name in [name for name in list(self.alike) if is_meant(name) and name not in there]:
                self._remove(name)
            if is_index and changed:
                # What an index file speaks of was there before it, but perhaps not when it was listed.
                listed = self.home.versions()
        self._keep()

    def push(self, names: Callable[[str], bool]) -> None:
        """Upload what has changed here, and remove at the URL what was removed here."""
        # Read before the others are looked for: all that an index file speaks of is found then, in that state or newer.
        states = {name: state for name, state in self._changed(names).items() if self._is_index(name)}
        index = {name: (self.folder / name).read_bytes() for name in states}
        for name, state in self._changed(names).items():
            if not self._is_index(name):
                with suppress(FileNotFoundError):  # replaced or removed meanwhile
                    self.home.upload(self.folder / name, name)
                    states[name] = state
        for name, content in index.items():
            with self.home.atomic_write(name) as temporary:
                temporary.write_bytes(content)
        gone = [name for name in list(self.alike) if names(name) and not (self.folder / name).exists()]
        for name in gone:
            self.home.delete(name)
            del self.alike[name]
        if states:
            there = self.home.versions()
            self.alike |= {name: (there[name][0], state) for name, state in states.items() if name in there}
        if states or gone:
            self._keep()

    def _is_index(self, name: str) -> bool:
        return bool(self.index) and name.rpartition("/")[2] == self.index

    def _is_here(self, name: str, tag: str) -> bool:
        # What has changed here alone stays, to be uploaded.
        return name in self.alike and self.alike[name][0] == tag and (self.folder / name).exists()

    def _changed(self, names: Callable[[str], bool]) -> dict[str, State]:
        """Files that are not as they were when they were alike, and their states."""
        found: dict[str, State] = {}
        for home, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(TEMPORARY)]
            for path in (Path(home, file) for file in files if not file.startswith(TEMPORARY) and file != ALIKE):
                name = path.relative_to(self.folder).as_posix()
                state = _state(path) if names(name) else None
                if state is not None and (name not in self.alike or self.alike[name][1] != state):
                    found[name] = state
        return found

    def _download(self, name: str) -> State | None:
        """Fetch a file; None where it was removed meanwhile."""
        path = self.folder / name
        with suppress(FileNotFoundError), atomic_write(path) as temporary:
            self.home.download(name, temporary)
        return _state(path)

    def _remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        del self.alike[name]
        with suppress(OSError):  # until one that holds something else
            for folder in (self.folder / name).relative_to(self.folder).parents[:-1]:
                (self.folder / folder).rmdir()

    def _keep(self) -> None:
        with atomic_write(self.folder / ALIKE) as temporary:
            temporary.write_text(json.dumps(dict(self.alike)), encoding="utf-8")


def fetch_missing(folder: Path, index: str) -> None:
    """On a node without a copy of what lies behind a URL, fetch a folder of it, unless it is here as it is there.

    Versions differ in the file `index`. Nothing happens for folders of a copy, which its mirror keeps, and others.
    """
    home = origin_of(folder)
    if home is None or any((parent / ALIKE).exists() for parent in folder.parents):
        return
    with suppress(FileNotFoundError):  # there is none
        content = home.read_bytes(index)
        if not (folder / index).exists() or (folder / index).read_bytes() != content:
            home.download_all(folder)


@contextmanager
def repeated(exchange: Callable[[], None]) -> Iterator[None]:
    """Call a function now and then during the block, in a thread; where it fails, it is logged once and goes on."""
    ended = threading.Event()

    def run() -> None:
        pause, is_away = SECONDS, False
        while not ended.wait(pause):
            began = time.monotonic()
            try:
                exchange()
                is_away = False
            except (StorageError, OSError) as error:
                if not is_away:
                    log.warning("the work goes on, and what is not uploaded follows: %s", error)
                is_away = True
            pause = max(SECONDS, time.monotonic() - began)

    thread = threading.Thread(target=run, name="mirror", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def followed_by(exchange: Callable[[], None]) -> Iterator[None]:
    """Call a function after the block, and in an outage for up to OUTAGE_SECONDS.

    Where an error ended the block, it is called once, and that error counts: another one is logged.
    """
    try:
        yield
    except BaseException:
        try:
            exchange()
        except (StorageError, OSError) as error:
            log.warning("what is here was not all uploaded: %s", error)
        raise
    outlast(exchange)


def outlast(exchange: Callable[[], None], may_wait: Callable[[], bool] = lambda: True) -> None:
    """Call a function again until no outage stops it; OutageError after OUTAGE_SECONDS, or when one may not wait."""
    began, is_away = time.monotonic(), False
    while True:
        try:
            exchange()
        except OutageError as error:
            if not may_wait() or time.monotonic() - began > OUTAGE_SECONDS:
                raise
            if not is_away:
                log.warning("waiting for up to %.0f s: %s", OUTAGE_SECONDS, error)
            is_away = True
            time.sleep(SECONDS)
        else:
            return


def _is_below(name: str) -> bool:
    """Whether a file of this name is in the folder: an object may have any name."""
    return not {"", ".", ".."} & set(name.split("/"))


def _state(path: Path) -> State | None:
    """The state of a file; None where it is gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size
