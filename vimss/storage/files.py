"""Files and folders that are complete or do not exist.

    with atomic_write(folder / "manifest.json") as temporary:
        temporary.write_text(text)

`atomic_write` gives a temporary name in the same folder; when the block ends well the file is synced to disk and
renamed, otherwise it is removed. A full disk becomes a StorageError that says how much is free.
"""

import errno
import hashlib
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from vimss.errors import StorageError
from vimss.storage.replace import TEMPORARY, finish_replacement, remove, replace_folder, sync, sync_folder

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error codes of a full disk, a quota or a file that is too large."""

DAMAGED = {errno.EIO, errno.ESTALE, errno.ELOOP, errno.EBUSY, errno.EXDEV, errno.EINVAL}
"""Error codes of failing disks, and of links, mounts and names that a file system does not support."""

NAME_BYTES = 255
"""Longest name of a file where the file system does not report its own limit."""


@contextmanager
def atomic_write(target: Path, variable: str = "VIMSS_STORE") -> Iterator[Path]:
    """Yield a temporary path beside `target`, which becomes `target` (file or folder) when the block succeeds.

    Where `target` is a link, what it leads to is written. `variable` is what puts `target` elsewhere.
    """
    with explain_os_errors(target, variable), temporary_beside(target) as temporary:
        yield temporary
        put(temporary, target)


@contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """A free name in the folder of `target`, which is made if need be; whatever has that name is removed at the end.

    OSError, before the block starts, where nothing can have the name of `target`.
    """
    target = _real(target)
    with suppress(FileNotFoundError):
        os.lstat(target)  # OSError for a name that is too long
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # as in /proc, or below a mount that is gone
        raise StorageError(
            f"{target.parent} must be where folders can be made", got=str(error.strerror), fix="choose another folder"
        ) from error
    for folder in made:
        sync_folder(folder.parent)
    remove_leftovers(target.parent)
    finish_replacement(target)
    temporary = _temporary_name(target)
    _in_use.add(temporary)
    try:
        yield temporary
    except BaseException:
        _remove_temporary(temporary)
        with suppress(OSError):  # a folder that something else has been put into
            for folder in made:
                folder.rmdir()
        raise
    _remove_temporary(temporary)


def put(temporary: Path, target: Path, replace: bool = True) -> None:
    """Give a file or folder its name, when all of it is on the disk. Killed at any time, the old or the new is there.

    FileExistsError where it must not `replace` what is there; an empty folder is nothing.
    """
    target = _real(target)
    sync(temporary)
    if not replace and os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if replace and temporary.is_dir() and target.is_dir():
        replace_folder(temporary, target)
    else:
        try:
            temporary.replace(target)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:  # another process was faster
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
            raise
    sync_folder(target.parent)


@contextmanager
def private_folder(name: str) -> Iterator[Path]:
    """An empty folder in TMPDIR for the block; StorageError where there can be none.

    Leftovers of killed processes are removed first.
    """
    home = Path(tempfile.gettempdir()).resolve()
    with ExitStack() as stack:
        with explain_os_errors(home, "TMPDIR"):
            # This process may train for long, one trial after the other.
            remove_leftovers(home, again=True)
            folder = stack.enter_context(temporary_beside(home / name))
            folder.mkdir(mode=0o700)
        yield folder


def remove_leftovers(folder: Path, again: bool = False) -> None:
    """Remove the temporary files of dead processes of this machine from a folder; a process looks once, or `again`.

    Those of other machines that share the folder stay: whether their processes live cannot be known here.
    """
    if folder in _without_leftovers and not again:
        return
    _without_leftovers.add(folder)
    for path in folder.glob(f"{TEMPORARY}*"):
        _, _, own = path.name.rpartition(".")
        number = path.name.rpartition(".")[0].rpartition(".")[2]
        if own.startswith(_machine()) and number.isdigit() and path not in _in_use and not _lives(int(number)):
            remove(path)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder to a new one; OSError of the first file that cannot be copied, unlike that of shutil.copytree."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_dir():
            copy_folder(path, target / path.name)
        else:
            shutil.copyfile(path, target / path.name)


def remove_whole(path: Path) -> None:
    """Remove a file or folder at once, for those who look: what a kill leaves of it has a temporary name."""
    temporary = _temporary_name(path)
    with suppress(FileNotFoundError):
        path.rename(temporary)
    remove(temporary)


_in_use: set[Path] = set()
"""Temporary names of this process."""

_without_leftovers: set[Path] = set()
"""Folders in which this process has looked for what others left."""


def _lives(process: int) -> bool:
    """Whether another process has that number; what has the number of this one is of an earlier one."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


@cache
def _machine() -> str:
    """Six digits that stand for this machine, or container: process numbers mean something within it."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:6]


def _remove_temporary(path: Path) -> None:
    remove(path)
    _in_use.discard(path)
    if os.path.lexists(path):  # the next writer tries again
        _without_leftovers.discard(path.parent)


def _real(path: Path) -> Path:
    """Where a link leads, which need not exist; OSError for one that leads nowhere."""
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return real


def _temporary_name(target: Path) -> Path:
    """A free name beside `target`, no longer than the file system allows."""
    own = f".{os.getpid()}.{_machine()}{uuid.uuid4().hex[:6]}"
    try:
        longest = os.pathconf(target.parent, "PC_NAME_MAX")
    except (OSError, ValueError):
        longest = NAME_BYTES
    room = longest - len(TEMPORARY) - len(own)
    name = os.fsencode(target.name)
    shown = target.name if len(name) <= room else name[:room].decode("utf-8", "ignore")
    return target.with_name(f"{TEMPORARY}{shown}{own}")


def _is_in_tmpdir(path: Path) -> bool:
    """Whether a path is in a temporary folder that `temporary_beside` made in TMPDIR."""
    with suppress(OSError):  # no folder for temporary files is usable
        home = Path(tempfile.gettempdir()).resolve()
        return any(folder.parent == home and folder.name.startswith(TEMPORARY) for folder in path.resolve().parents)
    return False


@contextmanager
def explain_os_errors(path: Path, variable: str = "VIMSS_STORE") -> Iterator[None]:
    """Turn the operating system's errors into StorageErrors that name path, space and what to do.

    `variable` of the environment, or the option, is what puts `path` elsewhere; for files in our temporary folders
    below TMPDIR, the message names TMPDIR. What is not about files, and files that are not there, are the caller's
    business.
    """
    try:
        with _system_errors():
            yield
    except OSError as error:
        if error.errno in FULL:
            variable = "TMPDIR" if _is_in_tmpdir(path) else variable
            raise StorageError(
                f"{path} must fit on the disk",
                got=f"{error.strerror} with {free_bytes(path) // 2**20} MB free",
                fix=f"free some space or set {variable} to a folder on a larger disk, then run the same command again",
            ) from error
        # The error may be of another file that is read meanwhile, such as one of a corpus. Of a copy or a rename, the
        # second name is the file that was to be written.
        name = error.filename2 or error.filename
        met = Path(name) if isinstance(name, str) else path
        met = met.parent if met.name.startswith(TEMPORARY) else met
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            needed = "writable" if met.is_relative_to(path.parent) or path.is_relative_to(met) else "readable"
            raise StorageError(
                f"{met} must be {needed}",
                got=str(error.strerror),
                fix="choose another folder or correct its permissions",
            ) from error
        if error.errno in {errno.EEXIST, errno.ENOTDIR}:
            raise StorageError(
                f"{path} must be a folder or free to become one",
                got="a file in its way",
                fix="move it, or choose another",
            ) from error
        if error.errno == errno.EISDIR:
            raise StorageError(
                f"{met} must be a file or free to become one",
                got="a folder in its way",
                fix="move it, or choose another name",
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            longest = max(len(os.fsencode(part)) for part in path.parts)
            raise StorageError(
                f"{path} must have names that the file system can hold",
                got=f"one of {longest} bytes, and {len(os.fsencode(path))} in all",
                fix="choose a shorter one",
            ) from error
        if error.errno in DAMAGED:
            raise StorageError(
                f"{met} must be readable and writable",
                got=str(error.strerror),
                fix=f"check the disk or the link, or set {variable} to another folder",
            ) from error
        raise


@contextmanager
def _system_errors() -> Iterator[None]:
    """Turn the errors of safetensors about files into OSErrors: they have the system's code, but only in their text."""
    try:
        yield
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        # Known by name, so that safetensors need not be imported.
        if code is None or type(error).__name__ != "SafetensorError":
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def free_bytes(path: Path) -> int:
    """Free space on the disk of a path, which need not exist yet."""
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if os.access(parent, os.F_OK))
    return shutil.disk_usage(existing).free


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
