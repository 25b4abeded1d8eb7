"""Folders that may lie anywhere, with the same methods: on a disk, or behind a URL.

folder_at("s3://bucket/prefix").read_bytes("manifest.json")
folder_at("/data/shards").read_bytes("manifest.json")
"""

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from vimss.errors import ConfigError, OutageError, StorageError
from vimss.storage.files import FULL, atomic_write, explain_os_errors
from vimss.storage.replace import TEMPORARY

ATTEMPTS = 3
"""Attempts of a download, beyond those of a protocol's own driver."""


PAUSE_SECONDS = 1.0


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
        return {name: about["size"] for name, about in self._found().items()}

    def versions(self) -> dict[str, tuple[str, int]]:
        """Every file below, with what S3 calls its ETag, which changes with its content, and its bytes."""
        return {name: (about["ETag"], about["size"]) for name, about in self._found().items()}

    def folder_names(self) -> list[str]:
        """The names of the folders in this one."""
        with _explain_remote_errors(self.url):
            files, root = self._files()
            try:
                found = files.ls(root, detail=True, refresh=True)
            except FileNotFoundError as error:
                if _is_bucket(error):
                    raise
                return []
        return [about["name"].rpartition("/")[2] for about in found if about["type"] == "directory"]

    def version(self, name: str) -> tuple[str, float] | None:
        """The ETag of a file, and when it was written, in seconds since 1970; None where there is none."""
        with _explain_remote_errors(f"{self.url}/{name}"):
            files, root = self._files()
            try:
                about = files.info(f"{root}/{name}", refresh=True)
            except FileNotFoundError as error:
                if _is_bucket(error):
                    raise
                return None
        return None if about["type"] == "directory" else (about["ETag"], about["LastModified"].timestamp())

    def read_bytes(self, name: str) -> bytes:
        """The content of a small file; FileNotFoundError where there is none."""
        with _explain_remote_errors(f"{self.url}/{name}"):
            files, root = self._files()
            return files.cat_file(f"{root}/{name}")

    def write_if(self, name: str, content: bytes, tag: str) -> str:
        """Write a small file if it still has this ETag, or if there is none and `tag` is empty; return its ETag.

        Of several processes that try at once, one succeeds, as S3 decides (conditional writes); others get "".
        """
        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        with _explain_remote_errors(f"{self.url}/{name}"):
            files, root = self._files()
            try:
                return str(files.pipe_file(f"{root}/{name}", content, **condition)["ETag"])
            except OSError as error:
                answer = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
                if answer in {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}:
                    return ""
                raise

    def delete(self, name: str) -> None:
        """Remove a file, which need not be there."""
        with _explain_remote_errors(f"{self.url}/{name}"):
            files, root = self._files()
            files.rm_file(f"{root}/{name}")

    def upload(self, path: Path, name: str) -> None:
        """Copy a file from `path`, whole or not at all; FileNotFoundError where there is none."""
        with _explain_remote_errors(f"{self.url}/{name}"):
            files, root = self._files()
            files.put_file(str(path), f"{root}/{name}")

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

    def download_all(self, target: Path) -> None:
        """Copy all files to a folder, in place of what is there.

        FileNotFoundError, and nothing is replaced, where there are none or one is removed meanwhile.
        """
        names = self.sizes()
        if not names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.url)
        with atomic_write(target) as temporary:
            for name in names:
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                self.download(name, path)

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
            self.upload(temporary, name)

    def _found(self) -> dict[str, dict[str, Any]]:
        """Every file below, with what the server says of it; nothing where there is no such folder."""
        with _explain_remote_errors(self.url):
            files, root = self._files()
            try:
                found = files.find(root, detail=True)
            except FileNotFoundError as error:
                if _is_bucket(error):
                    raise
                return {}
        # What appears during the call may come as a directory.
        return {name.removeprefix(f"{root}/"): about for name, about in found.items() if about["type"] == "file"}

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
                fix="install that driver on every node, or choose another place",
            ) from error


Folder = LocalFolder | RemoteFolder
"""A folder somewhere."""


def folder_at(location: str) -> Folder:
    """The folder at a path or a URL."""
    if location.startswith("file://"):
        location = unquote(location.removeprefix("file://").removeprefix("localhost"))
    return RemoteFolder(location.rstrip("/")) if "://" in location else LocalFolder(Path(location).absolute())


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
                f"the bucket of {url} must exist", got=str(error), fix="create it, or correct the address"
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
        raise OutageError(
            f"{url} must be within reach",
            got=got,
            fix="check the address, the network and, for other servers than Amazon's, AWS_ENDPOINT_URL",
        ) from error


def _is_bucket(error: FileNotFoundError) -> bool:
    return "bucket does not exist" in str(error)
