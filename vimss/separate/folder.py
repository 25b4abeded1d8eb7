"""The folder of the stems of a recording; stems of another recording are replaced only with --overwrite.

    recording = recording_of(Path("take.wav"))
    out = free_folder(Path("stems/take"), recording, numbered=True)    # stems/take, or stems/take-2
    with temporary_beside(out) as folder:
        ...
        out = put_folder(folder, out, recording, numbered=True)

A folder belongs to the recording with the digest in its record; the same recording may replace it. Wrong folders are
refused before the separation.
"""

import itertools
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vimss.errors import ConfigError, MediaError, StorageError
from vimss.shards.source import is_made_anew
from vimss.storage import NAME_BYTES, explain_os_errors, free_bytes, put, sha256

PAGE = "page.html"
RECORD = "separated.json"
"""The record: the recording, the model, the stems."""
SPARE_BYTES = 2**27
"""Kept free beyond the sound, for the page and for other programs."""


@dataclass(frozen=True)
class Recording:
    """A file and its content."""

    file: str
    bytes: int
    sha256: str


def recording_of(file: Path) -> Recording:
    """Name, size and digest of a file; MediaError where it cannot be read."""
    try:
        if file.exists() and not file.is_file():  # reading a pipe would wait forever
            got = "a folder" if file.is_dir() else "a pipe or a device"
            raise MediaError(f"{file} must be a media file", got=got, fix="check the path")
        return Recording(str(file.absolute()), file.stat().st_size, sha256(file))
    except OSError as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or type(error).__name__
        raise MediaError(f"{file} must be a media file", got=got, fix="check the path") from error


def folder_name(file: Path) -> str:
    """The name of a recording's folder in the store: that of the file, without its suffix and leading dots."""
    return file.stem.lstrip(".") or "recording"


def free_folder(out: Path, recording: Recording, *, numbered: bool = False, overwrite: bool = False) -> Path:
    """`out`, if stems of `recording` may be written there; else, if `numbered`, out-2, out-3 and so on.

    Raises:
        ConfigError: the folder holds something else, which would be lost.
        StorageError: there can be no such folder.

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
    """Make the temporary folder; StorageError where there can be none, as in /proc."""
    try:
        temporary.mkdir(mode=0o755)
    except FileNotFoundError as error:
        raise StorageError(
            f"{out} must be where folders can be made", got=str(error.strerror), fix="choose another folder with --out"
        ) from error


def put_folder(
    temporary: Path, out: Path, recording: Recording, *, numbered: bool = False, overwrite: bool = False
) -> Path:
    """Rename the finished folder, and return its path; another process may have taken the name meanwhile."""
    while True:
        folder = free_folder(out, recording, numbered=numbered, overwrite=overwrite)
        record = _record(folder)
        # Check again: another process may have written there since.
        ours = record is not None and (overwrite or record.get("sha256") == recording.sha256)
        if record is None and folder.is_dir():
            _clear(folder)
        try:
            put(temporary, folder, replace=ours)
            return folder
        except FileExistsError:
            continue


def _clear(folder: Path) -> None:
    """Delete the files that file managers leave in a folder; all others stay."""
    for path in folder.iterdir():
        if is_made_anew(path.name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def check_inputs_stay(out: Path, inputs: Sequence[Path | None]) -> None:
    """ConfigError where an input is in the folder that would be replaced."""
    real = Path(os.path.realpath(out))
    for path in inputs:
        if path is not None and Path(os.path.realpath(path)).is_relative_to(real):
            raise ConfigError(
                f"{out} must not hold the recording, the model or the references",
                got=str(path),
                fix="choose another folder with --out",
            )


def check_space(folder: Path, samples: int, channels: int, signals: int) -> None:
    """StorageError unless the disk has room for `signals` more signals and their WAVs."""
    # All signals as floats and one of them as 16-bit WAV: a float is closed before the next WAV is written.
    needed = samples * channels * (4 * signals + 2) + SPARE_BYTES
    free = free_bytes(folder)
    if free < needed:
        raise StorageError(
            f"{folder.parent} must have {needed // 2**20} MB free for this separation",
            got=f"{free // 2**20} MB",
            fix="free some space, or choose a folder on a larger disk with --out",
        )


def write_record(folder: Path, recording: Recording, about: dict[str, Any]) -> None:
    """Write the record of a separation."""
    text = json.dumps(asdict(recording) | about, indent=1)
    (folder / RECORD).write_text(text, encoding="utf-8")


def _in_the_way(out: Path, recording: Recording, overwrite: bool) -> ConfigError | None:
    """The reason why stems of this recording may not be written there."""
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
    if record is None and not (real.is_dir() and all(is_made_anew(path.name) for path in real.iterdir())):
        return ConfigError(
            f"{out} must be a new folder, or one that `vimss separate` wrote",
            got="something else, which would be lost",
            fix="choose another folder with --out",
        )
    if record is None:
        return None
    ours = {PAGE, RECORD, *(f"{name}.wav" for name in record["stems"])}
    others = sorted(path.name for path in real.iterdir() if path.name not in ours and not is_made_anew(path.name))
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
    """The record of a separation, if there is one."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
    whole = isinstance(record, dict) and isinstance(record.get("stems"), list) and isinstance(record.get("file"), str)
    return record if whole else None


def _numbered(folder: Path, number: int) -> Path:
    """The folder's name followed by a number, no longer than file systems allow."""
    ending = f"-{number}"
    name = os.fsencode(folder.name)
    kept = NAME_BYTES - len(ending)
    shown = folder.name if len(name) <= kept else name[:kept].decode("utf-8", "ignore")
    return folder.with_name(re.sub(r"\s+$", "", shown) + ending)
