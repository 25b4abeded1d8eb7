"""Files that are complete or do not exist, and where in the store they live.

    with atomic_write(store.shards / "manifest.json") as temporary:
        temporary.write_text(text)

`publish` gives a temporary name in the same folder; when the block ends well the file is synced to disk and
renamed, otherwise it is removed. A full disk becomes a StorageError that says how much is free.

Shards may lie anywhere: `folder_at("s3://bucket/prefix")` and `folder_at("/data/shards")` have the same methods.
"""

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from vimss.config import SIGNATURE_LENGTH
from vimss.errors import ConfigError, StorageError

TEMPORARY = ".tmp-"
"""Names that begin so are unfinished work of a process that may have died; nothing reads them."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What the operating system says where a file does not fit."""

DAMAGED = {errno.EIO, errno.ESTALE, errno.ELOOP, errno.EBUSY, errno.EXDEV, errno.EINVAL}
"""What it says of disks that fail, and of links, mounts and names that a file system does not take."""

NAME_BYTES = 255
"""Longest name of a file where the file system does not tell its own limit."""

ATTEMPTS = 3
"""How often a download is begun, beyond what the driver of a protocol tries by itself."""

PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Store:
    """The folder that holds everything VIMSS writes, and where shards lie if not there."""

    root: Path
    shards_at: "Folder | None" = None
    """Where the place, the environment or the command line wants the shards; None: in the store."""
    cache_gigabytes: float = 50.0
    """How much of shards that lie elsewhere is kept here."""

    @property
    def shards(self) -> "Folder":
        """One folder per corpus and recipe signature."""
        return LocalFolder(self.root / "shards") if self.shards_at is None else self.shards_at

    @property
    def cache(self) -> Path:
        """Copies of shards that lie elsewhere; may be deleted while nothing runs."""
        return self.root / "cache"

    @property
    def studies(self) -> Path:
        """One folder per experiment and signature of its data; below it one per cell and trial."""
        return self.root / "studies"

    @property
    def shows(self) -> Path:
        """Pages of what shards hold, one folder per corpus and recipe signature."""
        return self.root / "shows"

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


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine, or of a mount."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> "LocalFolder":
        return LocalFolder(self.path / name)

    @property
    def name(self) -> str:
        """The last part of where it is."""
        return self.path.name

    def sizes(self) -> dict[str, int]:
        """Every finished file below, with its bytes; nothing where there is no such folder."""
        files = (path for path in self.path.rglob("*") if not path.name.startswith(TEMPORARY) and path.is_file())
        return {path.relative_to(self.path).as_posix(): path.stat().st_size for path in files}

    def read_bytes(self, name: str) -> bytes:
        """The content of a small file; FileNotFoundError where there is none."""
        return (self.path / name).read_bytes()

    @contextmanager
    def copied(self, name: str) -> Iterator[Path]:
        """A file for reading inside the block; FileNotFoundError where there is none."""
        yield self.path / name

    @contextmanager
    def atomic_write(self, name: str) -> Iterator[Path]:
        """A temporary path whose file is `name` when the block has ended well, and not before."""
        with atomic_write(self.path / name) as temporary:
            yield temporary


@dataclass(frozen=True)
class RemoteFolder:
    """A folder behind a URL that fsspec understands, such as `s3://bucket/prefix`. It takes files whole, as S3 does.

    The server of s3:// and its credentials are what Amazon's own tools use: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of the machine.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemoteFolder":
        return RemoteFolder(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part of where it is."""
        return self.url.rpartition("/")[2]

    def sizes(self) -> dict[str, int]:
        """Every file below, with its bytes, by one listing; nothing where there is no such folder."""
        with _explain_remote_errors(self.url):
            files, root = self._files()
            try:
                found = files.find(root, detail=True)
            except FileNotFoundError as error:
                if _is_bucket(error):
                    raise
                return {}
        return {name.removeprefix(f"{root}/"): about["size"] for name, about in found.items()}

    def read_bytes(self, name: str) -> bytes:
        """The content of a small file; FileNotFoundError where there is none."""
        with _explain_remote_errors(f"{self.url}/{name}"):
            files, root = self._files()
            return files.cat_file(f"{root}/{name}")

    def download(self, name: str, target: Path) -> None:
        """Copy a file to `target`, trying again where it breaks off; FileNotFoundError where there is none."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _explain_remote_errors(f"{self.url}/{name}"):
                    files, root = self._files()
                    files.get_file(f"{root}/{name}", str(target))
                return
            except StorageError as error:
                if attempt == ATTEMPTS or isinstance(error.__cause__, PermissionError):
                    raise
                time.sleep(PAUSE_SECONDS)

    @contextmanager
    def copied(self, name: str) -> Iterator[Path]:
        """A copy for reading inside the block; FileNotFoundError where there is none."""
        with _temporary_file() as temporary:
            self.download(name, temporary)
            yield temporary

    @contextmanager
    def atomic_write(self, name: str) -> Iterator[Path]:
        """A temporary path whose file is uploaded as `name` when the block has ended well."""
        with _temporary_file() as temporary:
            yield temporary
            with _explain_remote_errors(f"{self.url}/{name}"):
                files, root = self._files()
                files.put_file(str(temporary), f"{root}/{name}")

    def _files(self) -> tuple[Any, str]:
        """The file system of fsspec, which it keeps per process, and the folder's path there."""
        import fsspec

        try:
            # A listing from memory would not know what other processes have written.
            return fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{self.url} must begin with a protocol that fsspec has a driver for, such as s3://",
                got=str(error),
                fix="install that driver on every node, or choose another place for the shards",
            ) from error


Folder = LocalFolder | RemoteFolder
"""A folder somewhere."""


def folder_at(location: str) -> Folder:
    """The folder at a path or a URL."""
    if location.startswith("file://"):
        location = unquote(location.removeprefix("file://").removeprefix("localhost"))
    return RemoteFolder(location.rstrip("/")) if "://" in location else LocalFolder(Path(location).absolute())


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

    OSError, before the block begins, where nothing can have the name of `target`.
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
            if error.errno == errno.ENOTEMPTY:  # somebody else was quicker
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
        # What is read meanwhile, such as a file of a corpus, has errors too.
        met = Path(error.filename) if isinstance(error.filename, str) else path
        met = met.parent if met.name.startswith(TEMPORARY) else met
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            needed = "writable" if met.is_relative_to(path.parent) or path.is_relative_to(met) else "readable"
            raise StorageError(
                f"{met} must be {needed}", got=str(error.strerror), fix="choose another folder or mend its permissions"
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


@contextmanager
def _temporary_file() -> Iterator[Path]:
    """A name in the folder for temporary files (TMPDIR), where nothing is left."""
    with tempfile.TemporaryDirectory(prefix="vimss-") as folder, explain_os_errors(Path(folder), "TMPDIR"):
        yield Path(folder) / "file"


@contextmanager
def _explain_remote_errors(url: str) -> Iterator[None]:
    """Turn what drivers raise, which has no base in common, into StorageErrors; missing files and full disks stay."""
    try:
        yield
    except (StorageError, ConfigError):
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        if isinstance(error, FileNotFoundError) and _is_bucket(error):
            raise StorageError(
                f"the bucket of {url} must exist", got=str(error), fix="create it, or correct the address of the shards"
            ) from error
        if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno in FULL):
            raise
        # The drivers' own classes are known by name, so that no driver need be imported.
        if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
            raise StorageError(
                f"{url} must be open to your credentials",
                got=got,
                fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, on every node",
            ) from error
        raise StorageError(
            f"{url} must be within reach",
            got=got,
            fix="check the address, the network and, for other servers than Amazon's, AWS_ENDPOINT_URL",
        ) from error


def _is_bucket(error: FileNotFoundError) -> bool:
    return "bucket does not exist" in str(error)


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


def kept_beside(folder: Path) -> list[Path]:
    """Folders of the same name with another signature: studies or shards of other settings, or an earlier version."""
    name = re.escape(folder.name[: -SIGNATURE_LENGTH - 1])
    pattern = re.compile(rf"{name}-[0-9a-f]{{{SIGNATURE_LENGTH}}}")
    found = sorted(folder.parent.iterdir()) if folder.parent.is_dir() else []
    return [path for path in found if pattern.fullmatch(path.name) and path != folder and path.is_dir()]
