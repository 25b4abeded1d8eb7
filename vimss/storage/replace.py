"""A folder takes the place of another one, so that a process that is killed in between leaves the old or the new one.

    replace_folder(new, old)          # afterwards `new` is gone
    finish_replacement(folder)        # before `folder` is read, where its file system may be one of the second kind

Linux and macOS let two folders change places in one step; the old one is removed last. Some file systems cannot do that
(NFS and several FUSE ones). There the old folder is renamed to a fixed name beside it first; whoever finds that name
without the folder, the next reader or writer, renames it back.
"""

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".tmp-"
"""Prefix of temporary files; readers ignore them."""

ASIDE = f"{TEMPORARY}old-"
"""Prefix of a folder that makes room for the one that replaces it."""

_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2
"""Of <fcntl.h> and <linux/fs.h>, and of <sys/stdio.h> on macOS."""

_NOT_POSSIBLE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Error codes of kernels and file systems that cannot exchange two names."""


def replace_folder(new: Path, old: Path) -> None:
    """Let `new` have the name of `old`, a folder too, and remove the old one."""
    if not _exchange(new, old):
        _rename_in_two_steps(new, old)
        remove(_aside(old))
        return
    sync_folder(old.parent)
    remove(new)  # it holds what was the old one


def finish_replacement(folder: Path) -> None:
    """Rename a folder back that a killed process had put aside before the new one came."""
    with suppress(OSError):  # nothing was put aside, or another process has just renamed it back
        if not os.path.lexists(folder):
            _aside(folder).rename(folder)


def finish_replacements(parent: Path) -> None:
    """The same for all folders in one."""
    for aside in parent.glob(f"{ASIDE}*"):
        finish_replacement(aside.with_name(aside.name.removeprefix(ASIDE)))


def remove(path: Path) -> None:
    """Remove a file or folder as far as that is possible: what cannot be removed is left for a later writer."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def sync(path: Path) -> None:
    """Let a file, or a folder with all that is in it, reach the disk."""
    if path.is_dir():
        for home, _, names in os.walk(path, topdown=False):
            for name in names:
                sync(Path(home) / name)
            sync_folder(Path(home))
    elif path.is_file():
        _flush(path)


def sync_folder(path: Path) -> None:
    """Let the names in a folder reach the disk."""
    try:
        _flush(path)
    except OSError as error:
        # CIFS and some FUSE file systems have no such thing for folders.
        if error.errno not in _NOT_POSSIBLE:
            raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if sys.platform == "darwin":
            import fcntl

            # There fsync leaves data in the memory of the disk.
            with suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where the system or the file system cannot."""
    names = os.fsencode(one), os.fsencode(other)
    call: Callable[..., int]
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            call, arguments = library.renamex_np, (*names, _RENAME_SWAP)
        else:
            call, arguments = library.renameat2, (_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    except (AttributeError, OSError):  # a C library that is older, or musl's
        return False
    if call(*arguments) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_POSSIBLE:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def _rename_in_two_steps(new: Path, old: Path) -> None:
    aside = _aside(old)
    while True:
        remove(aside)  # of a replacement that came to its end but for this
        old.rename(aside)
        sync_folder(old.parent)
        try:
            new.rename(old)
        except OSError as error:
            finish_replacement(old)
            # A reader took the name for that of a half-done replacement, and has finished it.
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        else:
            sync_folder(old.parent)
            return


def _aside(folder: Path) -> Path:
    """The one name of its old version; the end of a name that is very long is cut off."""
    name = os.fsencode(folder.name)
    return folder.with_name(f"{ASIDE}{os.fsdecode(name[: 255 - len(ASIDE)])}")
