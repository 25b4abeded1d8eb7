"""The members of a shard: where they lie in its tar file, and whether the file is whole.

    for members in members_by_clip(path, known_places(path, digest), ("audio",)):
        members["__key__"], members["json"], members["player0.wav"]

webdataset groups members into clips. It would read a shard as a stream of blocks of 10 kB; members of a local file are
found by seeking instead, which takes a fifth of the time and skips members that are not needed.
"""

import functools
import hashlib
import json
import tarfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from webdataset.tariterators import group_by_keys

from vimss.errors import DataError
from vimss.shards.manifest import Manifest
from vimss.storage import sha256

PARTS = ("audio", "picture", "masks", "features", "sound_features", "skeleton", "annotations")
"""The parts that can be decoded; the rest of a clip is always there. Pictures cost far more than sound."""

ENDINGS = {
    "audio": (".wav", ".flac"),
    "picture": (".mp4",),
    "masks": (".masks.npz", ".boxes.npy"),
    "features": (".features.npy",),
    "sound_features": (".sound_features.npy",),
    "skeleton": (".skeleton.npy",),
    "annotations": (".npy",),
}
"""Endings of the members that hold a part."""

Place = tuple[str, int, int]
"""Name, offset and size of a member."""


def members_by_clip(path: Path, places: Iterable[Place], parts: Collection[str]) -> Iterator[dict[str, Any]]:
    """The contents of the members of each clip that the parts need, by name; its key is `__key__`."""
    yield from group_by_keys(read_members(path, places, parts))


def read_members(path: Path, places: Iterable[Place], parts: Collection[str]) -> Iterator[dict[str, Any]]:
    """The members that the parts need, as webdataset groups them; with no parts, the JSON of the clips."""
    wanted = (".json", *(ending for part in parts for ending in ENDINGS[part]))
    with path.open("rb") as file:
        for name, begin, size in places:
            if name.endswith(wanted):
                file.seek(begin)
                yield {"fname": name, "data": file.read(size), "__url__": str(path)}


def places_of(path: Path) -> Iterator[Place]:
    """Name, offset and size of each member of a tar file."""
    with tarfile.open(path, mode="r:") as tar:
        for member in tar:
            if member.isfile():
                yield member.name, member.offset_data, member.size


@functools.lru_cache(maxsize=1024)
def known_places(path: Path, digest: str) -> tuple[Place, ...]:
    """The places of the members in the shard with this SHA-256: every epoch reads it again."""
    return tuple(places_of(path))


def check_digests(members: dict[str, Any]) -> None:
    """ValueError where a member does not have the SHA-256 in the clip's JSON."""
    for member, digest in json.loads(members["json"])["sha256"].items():
        if hashlib.sha256(members[member]).hexdigest() != digest:
            raise ValueError(f"{member} must have the SHA-256 in the JSON")


@functools.cache
def is_whole(path: Path, digest: str) -> bool:
    """Once per process and shard: a full read costs about as much as decoding the sound."""
    if not path.exists():
        raise DataError(f"{path} must exist", got="no such file", fix="run `vimss shard` again")
    return sha256(path) == digest


def damaged(manifest: Manifest, rule: str, got: str) -> DataError:
    """A shard that is not what the manifest says."""
    again = f"delete {manifest.folder} and run `vimss shard {manifest.name}` again"
    return DataError(rule, got=got, fix=f"the shard was damaged: {again}")


def malformed(clip: str, reason: str) -> DataError:
    """A clip that is not what its JSON says, in a shard that is whole."""
    return DataError(
        f"the clip {clip} must hold the members that its JSON lists, and no more in them",
        got=reason,
        fix="write the shards again with `vimss shard`",
    )


def no_tar(path: Path, error: tarfile.TarError) -> DataError:
    """A shard that is another kind of file."""
    return DataError(f"{path} must be a tar file", got=str(error), fix="write the shards again with `vimss shard`")
