"""Where stems go: a folder of their own, in which nothing of another recording is ever replaced without being asked.

    recording = recording_of(Path("take.wav"))
    out = free_folder(Path("stems/take"), recording, numbered=True)    # stems/take, or stems/take-2
    with temporary_beside(out) as folder:
        ...
        out = put_folder(folder, out, recording, numbered=True)

A folder belongs to the recording whose content its record names; the same recording may replace it. Everything that
can be refused is refused before any work.
"""

import itertools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vimss.errors import ConfigError, MediaError, StorageError
from vimss.storage import NAME_BYTES, explain_os_errors, free_bytes, put, sha256

PAGE = "page.html"
RECORD = "separated.json"
"""Says what was separated by which model."""
SYSTEM_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""What file managers leave in a folder when it is looked at."""
SPARE_BYTES = 2**27
"""Kept free beyond the sound, for the page and for whatever else writes meanwhile."""


@dataclass(frozen=True)
class Recording:
    """A file, and what is in it."""

    file: str
    bytes: int
    sha256: str


def recording_of(file: Path) -> Recording:
    """Name, size and digest of a file; MediaError where it cannot be read."""
    try:
        if file.exists() and not file.is_file():  # to read a pipe would wait for ever
            got = "a folder" if file.is_dir() else "a pipe or a device"
            raise MediaError(f"{file} must be a media file", got=got, fix="check the path")
        return Recording(str(file.absolute()), file.stat().st_size, sha256(file))
    except OSError as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or type(error).__name__
        raise MediaError(f"{file} must be a media file", got=got, fix="check the path") from error


def folder_name(file: Path) -> str:
    """What the folder of a recording is called in the store: as the file, without its ending and dots before it."""
    return file.stem.lstrip(".") or "recording"


def free_folder(out: Path, recording: Recording, *, numbered: bool = False, overwrite: bool = False) -> Path:
    """`out`, where stems of `recording` may go there; else, if `numbered`, out-2, out-3 and so on.

    Raises:
        ConfigError: something else is there, which would be lost.
        StorageError: nothing can be there.

    """
    with explain_os_errors(out, "--out"):
        for number in itertools.count(1):
            folder = out if number == 1 else _numbered(out, number)
            found = _in_the_way(folder, recording, overwrite)
            if found is None:
                return folder
            if not numbered:
                raise found
    raise AssertionError("numbers do not end")


def make_folder(temporary: Path, out: Path) -> None:
    """Make the folder in which the work is done; StorageError where there can be none, as in /proc."""
    try:
        temporary.mkdir(mode=0o755)
    except FileNotFoundError as error:
        raise StorageError(
            f"{out} must be where folders can be made", got=str(error.strerror), fix="choose another folder with --out"
        ) from error


def put_folder(
    temporary: Path, out: Path, recording: Recording, *, numbered: bool = False, overwrite: bool = False
) -> Path:
    """Give the finished folder its name, which another process may have taken meanwhile; returns where it is."""
    while True:
        folder = free_folder(out, recording, numbered=numbered, overwrite=overwrite)
        record = _record(folder)
        # Looked at once more: what another process has put there since is not to be replaced.
        ours = record is not None and (overwrite or record.get("sha256") == recording.sha256)
        try:
            put(temporary, folder, replace=ours)
            return folder
        except FileExistsError:
            continue


def check_inputs_stay(out: Path, inputs: Sequence[Path | None]) -> None:
    """ConfigError where what is read lies in the folder that is replaced."""
    real = Path(os.path.realpath(out))
    for path in inputs:
        if path is not None and Path(os.path.realpath(path)).is_relative_to(real):
            raise ConfigError(
                f"{out} must not hold what is separated, nor the model or the references",
                got=str(path),
                fix="choose another folder with --out",
            )


def check_space(folder: Path, samples: int, channels: int, signals: int) -> None:
    """StorageError where the disk has less room than a separation into `signals` files takes."""
    # All stems as floats and one of them as 16-bit WAV; the last float is gone when the last WAV is written.
    needed = samples * channels * (4 * signals + 2) + SPARE_BYTES
    free = free_bytes(folder)
    if free < needed:
        raise StorageError(
            f"{folder.parent} must have {needed // 2**20} MB free for this separation",
            got=f"{free // 2**20} MB",
            fix="free some space, or choose a folder on a larger disk with --out",
        )


def write_record(folder: Path, recording: Recording, about: dict[str, Any]) -> None:
    """Say in the folder what it is of."""
    text = json.dumps(asdict(recording) | about, indent=1)
    (folder / RECORD).write_text(text, encoding="utf-8")


def _in_the_way(out: Path, recording: Recording, overwrite: bool) -> ConfigError | None:
    """Why no stems of this recording may go there."""
    real = Path(os.path.realpath(out))
    if Path.cwd().is_relative_to(real) or os.path.ismount(real):
        got = "the one you are in" if Path.cwd().is_relative_to(real) else "a disk of its own"
        return ConfigError(
            f"{out} must be a folder that can be replaced as a whole",
            got=got,
            fix=f"choose a new folder in it, such as --out {out / 'stems'}",
        )
    if not os.path.lexists(real):
        return None
    record = _record(real)
    if record is None and not (real.is_dir() and not any(real.iterdir())):
        return ConfigError(
            f"{out} must be a new folder, or one that `vimss separate` wrote",
            got="something else, which would be lost",
            fix="choose another folder with --out",
        )
    if record is None:
        return None
    ours = {PAGE, RECORD, *SYSTEM_FILES, *(f"{name}.wav" for name in record["stems"])}
    others = sorted(path.name for path in real.iterdir() if path.name not in ours)
    if others:
        return ConfigError(
            f"{out} must be a new folder, or hold nothing but what `vimss separate` wrote",
            got=f"{', '.join(others[:3])} too, which would be lost",
            fix="choose another folder with --out, or move that elsewhere",
        )
    if not overwrite and record.get("sha256") != recording.sha256:
        return ConfigError(
            f"{out} must be a new folder, or hold stems of this very recording",
            got=f"those of {record['file']}{' before it changed' if record['file'] == recording.file else ''}",
            fix="choose another folder with --out, or add --overwrite to replace them",
        )
    return None


def _record(folder: Path) -> dict[str, Any] | None:
    """What the record of a separation says, where there is one."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
    whole = isinstance(record, dict) and isinstance(record.get("stems"), list) and isinstance(record.get("file"), str)
    return record if whole else None


def _numbered(folder: Path, number: int) -> Path:
    """The folder's name with a number behind it, within what a file system holds."""
    ending = f"-{number}"
    name = os.fsencode(folder.name)
    kept = NAME_BYTES - len(ending)
    shown = folder.name if len(name) <= kept else name[:kept].decode("utf-8", "ignore")
    return folder.with_name(re.sub(r"\s+$", "", shown) + ending)
