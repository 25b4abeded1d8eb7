"""Files that are complete or do not exist, and where in the store they live.

    with publish(store.shards / "manifest.json") as temporary:
        temporary.write_text(text)

`publish` gives a temporary name in the same folder; when the block ends well the file is synced to disk and
renamed, otherwise it is removed. A full disk becomes a StorageError that says how much is free.
"""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vimss.errors import StorageError

TEMPORARY = ".tmp-"
"""Names that begin so are unfinished work of a process that may have died; nothing reads them."""


@dataclass(frozen=True)
class Store:
    """The folder that holds everything VIMSS writes."""

    root: Path

    @property
    def shards(self) -> Path:
        """One folder per corpus and recipe signature."""
        return self.root / "shards"

    @property
    def studies(self) -> Path:
        """One folder per experiment and signature; below it one per cell and trial."""
        return self.root / "studies"

    @property
    def stems(self) -> Path:
        """What `vimss separate` writes, one folder per recording."""
        return self.root / "stems"

    @property
    def tracking(self) -> Path:
        """MLflow's database, artifacts and the spool of what has not reached it yet."""
        return self.root / "mlflow"

    def make(self) -> "Store":
        """Create the folder, readable by its owner alone: Ray keeps pickled files in it."""
        with explain_os_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self


@contextmanager
def publish(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`, which becomes `target` (file or folder) when the block succeeds."""
    with explain_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{TEMPORARY}{target.name}.{os.getpid()}.{uuid.uuid4().hex[:6]}")
        try:
            yield temporary
            _sync(temporary)
            if temporary.is_dir() and target.is_dir():
                shutil.rmtree(target)
            temporary.replace(target)
            _sync_folder(target.parent)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's write errors into StorageErrors that name path, space and remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise StorageError(
                f"{path} must fit on the disk",
                got=f"{error.strerror} with {_free_megabytes(path)} MB free",
                fix="free some space or set VIMSS_STORE to a folder on a larger disk, then run the same command again",
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise StorageError(
                f"{path} must be writable", got=str(error.strerror), fix="choose another folder or mend its permissions"
            ) from error
        if error.errno in {errno.EEXIST, errno.ENOTDIR}:
            raise StorageError(
                f"{path} must be a folder or free to become one",
                got="a file in its way",
                fix="move it, or choose another",
            ) from error
        raise


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


def _free_megabytes(path: Path) -> int:
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    return shutil.disk_usage(existing).free // 2**20
