"""The content of a store: shards, studies with their trials, and registered models, as a table or as JSON.

    for entry in inventory(store):
        print(entry.kind, entry.name, entry.state)
    print_inventory(store, as_json=True)

Everything is read from the disk, without starting a server or Ray and without slow imports. Unreadable entries are
listed as such.
"""

import math
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from vimss.console import duration, print_json, print_table
from vimss.errors import DataError
from vimss.search.remote import make_folders, pull_records
from vimss.search.study import RECORD, TrialRecord, read_record
from vimss.shards.manifest import MANIFEST
from vimss.storage import TEMPORARY, LocalFolder, Store
from vimss.track.names import DATABASE, RegisteredVersion, registered_versions

SILENT_SECONDS = 600.0
"""A trial recorded as running that wrote nothing for longer belongs to a search that was killed."""

ARTIFACTS = "/mlflow/artifacts/"
"""The part of the path of a registered model's files that is the same in every store."""

COLUMNS = ("name", "kind", "state", "best figure", "size", "age")


@dataclass(frozen=True)
class Entry:
    """One entry of a store."""

    kind: Literal["shards", "study", "trial", "model"]
    name: str
    """The name; of a trial with the folders of study and cell, of a model with its version."""
    state: str
    size_bytes: int | None
    """On disk; None if the files are not in the store."""
    changed: float | None
    """Seconds since 1970; None of shards behind a URL."""
    figures: dict[str, float] = field(default_factory=dict)
    """The best figure of a study or trial by its name, the scores of a model by theirs."""
    location: str = ""


def inventory(store: Store) -> list[Entry]:
    """Shards, then each study with its trials below it, then models."""
    return [*_shards(store), *_studies(store), *_models(store)]


def print_inventory(store: Store, as_json: bool = False) -> None:
    """Print the content of a store as a table, or as JSON for scripts; ConfigError where there is none."""
    if store.shards_at is None:
        store.check_exists()
    entries = inventory(store)
    if as_json:
        print_json({"store": str(store.root), "entries": [asdict(entry) for entry in entries]})
        return
    total = sum(entry.size_bytes or 0 for entry in entries if entry.kind != "trial")
    print_table(f"{store.root}: {size(total)}", COLUMNS, inventory_rows(entries, time.time()))


def inventory_rows(entries: Sequence[Entry], now: float) -> list[tuple[str, ...]]:
    """One row per entry, under COLUMNS; trials stand below their study."""
    return [
        (
            f"  {entry.name.partition('/')[2]}" if entry.kind == "trial" else entry.name,
            entry.kind,
            entry.state,
            next((f"{name} {value:.2f}" for name, value in entry.figures.items()), "-"),
            "-" if entry.size_bytes is None else size(entry.size_bytes),
            "-" if entry.changed is None else duration(max(0.0, now - entry.changed)),
        )
        for entry in entries
    ]


def size(number: int | float) -> str:
    """Bytes in words.

    >>> size(999), size(20_480_000), size(3_000_000_000)
    ('999 B', '20.5 MB', '3.0 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number = number / 1000
    return f"{number:.1f} TB"


def _shards(store: Store) -> Iterator[Entry]:
    """One entry per folder of shards; behind a URL, one listing covers all of them."""
    home = store.shards
    files: dict[str, dict[str, int]] = {}
    for path, number in sorted(home.sizes().items()):
        folder, below, name = path.partition("/")
        if below:
            files.setdefault(folder, {})[name] = number
    for folder, sizes in files.items():
        is_whole = MANIFEST in sizes
        changed = _changed(home.path / folder) if isinstance(home, LocalFolder) else None
        state = "whole" if is_whole else "unfinished"
        yield Entry("shards", folder, state, sum(sizes.values()), changed, location=str(home / folder))


def _studies(store: Store) -> Iterator[Entry]:
    """Each study, and its trials in the order of their cells."""
    make_folders(store.studies)
    for folder in sorted(filter(_is_kept, store.studies.glob("*"))):
        pull_records(folder)
        trials = [_trial(path.parent) for path in sorted(folder.glob(f"*/*/{RECORD}")) if _is_kept(path.parent)]
        records = [record for _, record in trials if record is not None and math.isfinite(record.value)]
        finished = [record for record in records if record.state == "finished"] or records
        best = min(finished, key=lambda record: record.figure.rank(record.value), default=None)
        counts = Counter(entry.state for entry, _ in trials)
        yield Entry(
            kind="study",
            name=folder.name,
            state=", ".join(f"{count} {state}" for state, count in counts.items()) or "no trial",
            size_bytes=_bytes(folder),
            changed=max((entry.changed for entry, _ in trials if entry.changed), default=_changed(folder)),
            figures={} if best is None else {best.figure.name: best.value},
            location=str(folder),
        )
        yield from (entry for entry, _ in trials)


def _trial(folder: Path) -> tuple[Entry, TrialRecord | None]:
    """A trial as an entry, and its record if it is readable."""
    name, changed = "/".join(folder.parts[-3:]), _changed(folder)
    try:
        record = read_record(folder / RECORD)
    except DataError:
        return Entry("trial", name, "unreadable", _bytes(folder), changed, location=str(folder)), None
    left_behind = record.state == "running" and time.time() - changed > SILENT_SECONDS
    state = "interrupted" if left_behind else record.state
    figures = {record.figure.name: record.value} if record.reports else {}
    return Entry("trial", name, state, _bytes(folder), changed, figures, str(folder)), record


def _models(store: Store) -> Iterator[Entry]:
    """Each version in the registry of the store's own database."""
    database = store.tracking / DATABASE
    try:
        versions = registered_versions(database)
    except sqlite3.Error:  # a database of another MLflow version, or one that is locked
        yield Entry("model", DATABASE, "unreadable", None, _changed(database), location=str(database))
        return
    for version in versions:
        files = _files_of(version, store)
        yield Entry(
            kind="model",
            name=f"models:/{version.name}/{version.version}",
            state=", ".join(version.aliases) or "registered",
            size_bytes=_bytes(files) if files is not None else None,
            changed=version.created,
            figures=dict(version.scores),
            location=str(files or version.location),
        )


def _files_of(version: RegisteredVersion, store: Store) -> Path | None:
    """The folder of a version's files in this store, which may have been moved; None if they are not in it."""
    location = version.location
    path = unquote(location.removeprefix("file://")) if location.startswith("file://") else location
    _, artifacts, below = path.rpartition(ARTIFACTS)
    folder = store.tracking / "artifacts" / below
    return folder if artifacts and folder.is_dir() else None


def _is_kept(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(TEMPORARY)


def _bytes(folder: Path) -> int:
    """Size of all files below, without following links; files deleted meanwhile do not count."""
    total = 0
    for home, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(home) / name).lstat().st_size
            except FileNotFoundError:
                continue
    return total


def _changed(path: Path) -> float:
    """Time of the last change of a folder or a file directly in it; 0 if it was deleted."""
    try:
        return max(each.lstat().st_mtime for each in (path, *(path.iterdir() if path.is_dir() else ())))
    except FileNotFoundError:
        return 0.0
