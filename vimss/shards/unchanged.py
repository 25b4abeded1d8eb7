"""Whether a source and its pieces are unchanged since they were listed: changes would mix corpora.

check_source(folder, source, begun=True)     # DataError where these shards were started from other files
before = stamp(piece.files)                  # when it is listed
check_stamp(piece.name, piece.files, before) # DataError where its files have changed since
keep_source(folder, source, open_files)      # what may still be repaired
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from vimss.errors import DataError
from vimss.shards.source import first_of, is_junk
from vimss.storage import Folder

SOURCE = "source.tsv"
"""Names and sizes of the files that the shards were made from, where they were not generated."""

OPEN = "open"
"""In place of a size: a file or folder of a piece that could not be read, and may be repaired or replaced."""

Sizes = dict[str, str]


def check_source(folder: Folder, source: Path | None, begun: bool) -> None:
    """Remember the source's files; DataError where these shards were `begun` from others."""
    if source is None:
        return
    # As long as no shard is finished, a source may be repaired.
    if not begun:
        _write(folder, _sizes(source))
        return
    noted = _read(folder)
    if noted is None:
        raise DataError(
            f"a source is for shards that were begun from one; those in {folder} were not",
            got=f"--source {source}",
            fix=f"leave it out, or delete {folder} to write the shards anew",
        )
    now = _sizes(source)
    names = [name for name in sorted({*noted, *now}) if not _is_open(name, noted)]
    changed = [_change(name, noted, now) for name in names if noted.get(name) != now.get(name)]
    if changed:
        raise DataError(
            f"{source} must hold the files that {folder} was begun from",
            got=f"other names or sizes than in {SOURCE}: {first_of(changed)}",
            fix=f"copy the recipe under another name, or delete {folder} to write it anew",
        )


def stamp(files: Iterable[Path]) -> Sizes:
    """Names, sizes and times of the files of a piece, and of those in its folders."""
    stamps: Sizes = {}
    for file in files:
        for path in (file, *sorted(_below(file))):
            with suppress(OSError):  # what is not there has no stamp
                if path.is_file() and not is_junk(path.name):
                    about = path.stat()
                    stamps[str(path)] = f"{about.st_size} bytes of {about.st_mtime_ns}"
    return stamps


def check_stamp(piece: str, files: Iterable[Path], before: Sizes) -> None:
    """DataError where the files of a piece are not what they were when it was listed."""
    now = stamp(files)
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        changes = [f"{name} {_what(name, before, now)}" for name in changed]
        raise DataError(
            f"the files of {piece} must stay as they are while shards are written from them",
            got=first_of(changes),
            fix="wait until nothing writes there, put back what is gone, and run the same command again",
        )


def _what(name: str, before: Sizes, now: Sizes) -> str:
    if name not in before:
        return "is new"
    return "has changed" if name in now else "is gone"


def keep_source(folder: Folder, source: Path | None, open_files: Iterable[Path] = ()) -> None:
    """Remember what was repaired as it is now, and what may still be repaired before the same command resumes."""
    if source is None:
        return
    before, now = _read(folder) or {}, _sizes(source)
    opened = {path.relative_to(source).as_posix(): OPEN for path in open_files if path.is_relative_to(source)}
    # The next run finds changes of others.
    kept = {name: size for name, size in before.items() if size != OPEN}
    kept |= {name: size for name, size in now.items() if _is_open(name, before)}
    _write(folder, {name: size for name, size in kept.items() if not _is_open(name, opened)} | opened)


def _change(name: str, before: Sizes, now: Sizes) -> str:
    if name not in before:
        return f"{name} is new"
    return f"{name} has {now[name]} bytes instead of {before[name]}" if name in now else f"{name} is gone"


def _is_open(name: str, sizes: Sizes) -> bool:
    """Whether a file may be repaired, or lies in a folder that may."""
    parts = name.split("/")
    return any(sizes.get("/".join(parts[:count])) == OPEN for count in range(1, len(parts) + 1))


def _below(folder: Path) -> Iterator[Path]:
    """All files below a folder, in linked folders too; a link to a folder above itself is not followed."""
    above: dict[Path, tuple[str, ...]] = {folder: ()}
    for parent, folders, files in os.walk(folder, followlinks=True):
        reals = (*above.pop(Path(parent)), os.path.realpath(parent))
        folders[:] = [name for name in folders if os.path.realpath(Path(parent, name)) not in reals]
        above |= {Path(parent, name): reals for name in folders}
        yield from (Path(parent, name) for name in files)


def _sizes(source: Path) -> Sizes:
    sizes: Sizes = {}
    for path in sorted(_below(source)):
        name = path.relative_to(source)
        with suppress(OSError):  # links to nothing, and what goes away meanwhile
            if path.is_file() and not any(is_junk(part) for part in name.parts):
                sizes[name.as_posix()] = str(path.stat().st_size)
    return sizes


def _read(folder: Folder) -> Sizes | None:
    """What was noted; None where nothing was."""
    try:
        content = folder.read_bytes(SOURCE).decode(errors="surrogateescape")
    except FileNotFoundError:
        return None
    rows = [line.rpartition("\t") for line in content.split("\n") if line]
    return {name: size for name, _, size in rows if not any(is_junk(part) for part in Path(name).parts)}


def _write(folder: Folder, sizes: Sizes) -> None:
    content = "".join(f"{name}\t{size}\n" for name, size in sizes.items())
    with folder.atomic_write(SOURCE) as temporary:
        temporary.write_bytes(content.encode(errors="surrogateescape"))
