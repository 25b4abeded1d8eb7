"""Files and folders that are complete or do not exist.

    with atomic_write(folder / "manifest.json") as temporary:
        temporary.write_text(text)

`atomic_write` gives a temporary name in the same folder; when the block ends well the file is synced to disk and
renamed, otherwise it is removed. A full disk becomes a StorageError that says how much is free.
"""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vimss.errors import StorageError

TEMPORARY = ".tmp-"
"""Prefix of temporary files; readers ignore them."""

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
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(target)
    try:
        yield temporary
    except BaseException:
        _remove(temporary)
        with suppress(OSError):  # a folder that something else has been put into
            for folder in made:
                folder.rmdir()
        raise
    _remove(temporary)


def put(temporary: Path, target: Path, replace: bool = True) -> None:
    """Give a file or folder its name, when all of it is on the disk.

    FileExistsError where it must not `replace` what is there; an empty folder is nothing.
    """
    target = _real(target)
    _sync(temporary)
    if not replace and os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if replace and temporary.is_dir() and target.is_dir():
        aside = _temporary_name(target)
        target.rename(aside)
        try:
            temporary.rename(target)
        except OSError:
            aside.rename(target)
            raise
        _remove(aside)
    else:
        try:
            temporary.replace(target)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:  # another process was faster
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
            raise
    _sync_folder(target.parent)


def _real(path: Path) -> Path:
    """Where a link leads, which need not exist; OSError for one that leads nowhere."""
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return real


def _temporary_name(target: Path) -> Path:
    """A free name beside `target`, no longer than the file system allows."""
    own = f".{os.getpid()}.{uuid.uuid4().hex[:6]}"
    try:
        longest = os.pathconf(target.parent, "PC_NAME_MAX")
    except (OSError, ValueError):
        longest = NAME_BYTES
    room = longest - len(TEMPORARY) - len(own)
    name = os.fsencode(target.name)
    shown = target.name if len(name) <= room else name[:room].decode("utf-8", "ignore")
    return target.with_name(f"{TEMPORARY}{shown}{own}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def explain_os_errors(path: Path, variable: str = "VIMSS_STORE") -> Iterator[None]:
    """Turn the operating system's errors into StorageErrors that name path, space and what to do.

    `variable` of the environment, or the option, is what puts `path` elsewhere. What is not about files, and files that
    are not there, are the caller's business.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageError(
                f"{path} must fit on the disk",
                got=f"{error.strerror} with {free_bytes(path) // 2**20} MB free",
                fix=f"free some space or set {variable} to a folder on a larger disk, then run the same command again",
            ) from error
        # The error may be of another file that is read meanwhile, such as one of a corpus.
        met = Path(error.filename) if isinstance(error.filename, str) else path
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


def free_bytes(path: Path) -> int:
    """Free space on the disk of a path, which need not exist yet."""
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if os.access(parent, os.F_OK))
    return shutil.disk_usage(existing).free


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    if path.is_dir():
        for child in path.rglob("*"):
            if child.is_file():
                _sync(child)
        _sync_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
