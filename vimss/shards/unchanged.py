"""The names and sizes of a source's files, kept beside the shards: what changes in between would mix corpora.

check_source(folder, source, begun=True)     # DataError where these shards were begun from other files
check_same(folder, source)                   # the same while they are written, for files that are still there
keep_source(folder, source, open_files)      # what may still be mended
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from vimss.errors import DataError
from vimss.shards.source import first_of, is_junk
from vimss.storage import Folder

SOURCE = "source.tsv"
"""Names and sizes of the files that the shards were made from, where they were not generated."""

OPEN = "open"
"""In place of a size: a file or folder of a piece that could not be read, and may be mended or replaced."""

Sizes = dict[str, str]


def check_source(folder: Folder, source: Path | None, begun: bool) -> None:
    """Remember the source's files; DataError where these shards were `begun` from others."""
    if source is None:
        return
    now = _sizes(source)
    # As long as no shard is finished, a source may be mended.
    if not begun:
        _write(folder, now)
        return
    before = _read(folder)
    names = [name for name in sorted({*before, *now}) if not _is_open(name, before)]
    changed = [_change(name, before, now) for name in names if before.get(name) != now.get(name)]
    if changed or not before:
        raise DataError(
            f"{source} must hold the files that {folder} was begun from",
            got=f"other names or sizes than in {SOURCE}: {first_of(changed) or 'nothing was noted'}",
            fix=f"copy the recipe under another name, or delete {folder} to write it anew",
        )


def check_same(folder: Folder, source: Path | None) -> None:
    """DataError where files have changed since `check_source`; what was mended is remembered as it is now."""
    if source is None:
        return
    before, now = _read(folder), _sizes(source)
    names = [name for name in before if name in now and not _is_open(name, before)]
    changed = [_change(name, before, now) for name in names if before[name] != now[name]]
    if changed:
        raise DataError(
            f"the files of {source} must stay as they are while shards are written from them",
            got=first_of(changed),
            fix=f"wait until nothing writes there, delete {folder}, and run the same command again",
        )
    mended = {name: size for name, size in now.items() if _is_open(name, before)}
    _write(folder, {name: size for name, size in before.items() if size != OPEN} | mended)


def keep_source(folder: Folder, source: Path | None, open_files: Iterable[Path]) -> None:
    """Remember the source's files as they are, but for some that may be mended before the same command goes on."""
    if source is None:
        return
    opened = {path.relative_to(source).as_posix(): OPEN for path in open_files if path.is_relative_to(source)}
    # What became of others meanwhile is for the next run to find.
    kept = {name: size for name, size in _read(folder).items() if size != OPEN and not _is_open(name, opened)}
    _write(folder, kept | opened)


def _change(name: str, before: Sizes, now: Sizes) -> str:
    if name not in before:
        return f"{name} is new"
    return f"{name} has {now[name]} bytes instead of {before[name]}" if name in now else f"{name} is gone"


def _is_open(name: str, sizes: Sizes) -> bool:
    """Whether a file may be mended, or lies in a folder that may."""
    parts = name.split("/")
    return any(sizes.get("/".join(parts[:count])) == OPEN for count in range(1, len(parts) + 1))


def _sizes(source: Path) -> Sizes:
    sizes: Sizes = {}
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        with suppress(OSError):  # links to nothing, and what goes away meanwhile
            if path.is_file() and not any(is_junk(part) for part in name.parts):
                sizes[name.as_posix()] = str(path.stat().st_size)
    return sizes


def _read(folder: Folder) -> Sizes:
    try:
        content = folder.read_bytes(SOURCE).decode(errors="surrogateescape")
    except FileNotFoundError:
        return {}
    rows = [line.rpartition("\t") for line in content.split("\n") if line]
    return {name: size for name, _, size in rows if not any(is_junk(part) for part in Path(name).parts)}


def _write(folder: Folder, sizes: Sizes) -> None:
    content = "".join(f"{name}\t{size}\n" for name, size in sizes.items())
    with folder.publish(SOURCE) as temporary:
        temporary.write_bytes(content.encode(errors="surrogateescape"))
