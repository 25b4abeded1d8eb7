"""Shards that lie behind a URL, on this machine.

    path = local_shard(manifest, shard)  # for shards that lie here, nothing happens

A file is fetched when it is first read, compared with its SHA-256, and kept in the cache for all processes of the node.
A lock per file lets one process fetch what others wait for. Beyond `cache_gigabytes` the least recently used files go,
but none that is being fetched or was the last one that a thread requested: it may be about to open it.
"""

import fcntl
import functools
import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from vimss.errors import DataError
from vimss.shards.manifest import Manifest, Origin, Shard
from vimss.storage import TEMPORARY, RemoteFolder, atomic_write, explain_os_errors, sha256

CACHE_VARIABLE = "VIMSS_CACHE"
"""Environment variable: a folder on the node's own disk for what is fetched; without it, the store's cache."""

FILES, LOCKS = "files", "locks"
"""Folders beside the copy of the manifest, or of the cache elsewhere."""

FEATURES = "features"
"""Folder beside the shards; below it one folder per vision network, with one file per shard and an entry."""

ENTRY = "features.json"
"""The entry of a folder of features; it comes last."""

_reading = threading.local()
"""Per thread and kind of file: the lock of the last one requested."""


def local_shard(manifest: Manifest, shard: Shard) -> Path:
    """The file of a shard; DataError or StorageError where it cannot be had as in its manifest."""
    if manifest.origin is None:
        return manifest.folder / shard.name
    return _fetch(manifest.folder, manifest.origin, shard.name, shard.sha256)


def local_features(manifest: Manifest, folder: str, shard: Shard) -> Path:
    """The file of a shard's features; one that does not exist where there are none."""
    name = Path(shard.name).with_suffix(".safetensors").name
    path = manifest.folder / FEATURES / folder / name
    if manifest.origin is None:
        return path
    try:
        digests = _feature_digests(manifest.origin.url, folder, manifest.digest)
    except FileNotFoundError:
        return path
    return _fetch(manifest.folder, manifest.origin, f"{FEATURES}/{folder}/{name}", digests[name])


@functools.cache
def _feature_digests(url: str, folder: str, shards: str) -> dict[str, str]:
    """Digests of the features of these shards. Missing features are not cached, since they may be computed later."""
    return json.loads(RemoteFolder(url).read_bytes(f"{FEATURES}/{folder}/{ENTRY}"))["files"]


def _fetch(folder: Path, origin: Origin, name: str, digest: str) -> Path:
    # Nodes may share the store, and the manifest with it; a folder on each node's own disk is faster for the rest.
    base = Path(os.environ[CACHE_VARIABLE]).absolute() / folder.name if os.environ.get(CACHE_VARIABLE) else folder
    # The content is part of the name: shards that were written anew do not meet their old copies.
    path = base / FILES / f"{digest[:12]}-{Path(name).name}"
    _release(path.suffix)
    lock = _lock_of(path)
    try:
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if path.exists():
                os.utime(path)
                _reading.__dict__[path.suffix] = lock
                return path
            # Between the two locks another process may have fetched it, and between this one and the next round
            # another may have made room: the loop looks again.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _download(RemoteFolder(origin.url), name, path, digest)
                _make_room(base.parent, round(origin.cache_gigabytes * 1e9))
    except BaseException:
        lock.close()
        raise


def _download(home: RemoteFolder, name: str, path: Path, digest: str) -> None:
    try:
        with atomic_write(path) as temporary:
            home.download(name, temporary)
            found = sha256(temporary)
            if found != digest:
                raise DataError(
                    f"{home}/{name} must have the SHA-256 that was written down, {digest[:12]}...",
                    got=f"{found[:12]}...",
                    fix="run `vimss shard RECIPE --check`; what is damaged must be deleted and written again",
                )
    except FileNotFoundError as error:
        raise DataError(
            f"{home}/{name} must exist", got="no such file", fix=f"delete {home} and run `vimss shard` again"
        ) from error


def _make_room(cache: Path, most_bytes: int) -> None:
    """Remove the least recently used files of a cache that holds more, and what killed processes left."""
    found = []
    for path in cache.glob(f"*/{FILES}/*"):
        with suppress(FileNotFoundError):
            about = path.stat()
            found.append((about.st_mtime_ns, about.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if (total > most_bytes or path.name.startswith(TEMPORARY)) and _forget(path):
            total -= size


def _forget(path: Path) -> bool:
    """Remove a file that no process fetches or is about to open; one that has it open can still read it."""
    with _lock_of(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink(missing_ok=True)
    return True


def _lock_of(path: Path) -> IO[Any]:
    """The lock of a file, and of the temporary one that becomes it."""
    name = path.name
    if name.startswith(TEMPORARY):
        name = name.removeprefix(TEMPORARY).rsplit(".", 2)[0]
    lock = path.parents[1] / LOCKS / name
    with explain_os_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        return lock.open("a")


def _release(kind: str) -> None:
    """Release the last file of a kind that this thread requested: it has been opened since, or is no longer wanted."""
    lock = _reading.__dict__.pop(kind, None)
    if lock is not None:
        lock.close()
