"""From shards to clips, with explicit decoders only.

    for clip in read_clips(manifest, "train", parts=("audio",)):
        ...

Nothing of a shard is unpickled, no URL is run through a shell, and nothing decodes to more than the recipe allows.
Each shard's SHA-256 is compared with the manifest's before its first clip is used. A damaged shard is an error, unless
`damage` counts what was lost: then the clips whose members have the SHA-256 in their JSON are used, and the
others are left out, up to a share of the split.

webdataset groups members into clips. It would read a shard as a stream of blocks of 10 kB; members of a local file are
found by seeking instead, which takes a fifth of the time and skips members that are not decoded.
"""

import functools
import hashlib
import json
import logging
import tarfile
import threading
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from webdataset.tariterators import group_by_keys

from vimss.errors import DataError, MediaError
from vimss.shards.cache import local_features, local_shard
from vimss.shards.clip import Clip, Player
from vimss.shards.manifest import Manifest, Shard
from vimss.shards.recipe import Recipe
from vimss.storage import sha256
from vimss.stream.decode import decode_clip

log = logging.getLogger(__name__)

PARTS = ("audio", "picture", "masks", "features", "skeleton", "annotations")
"""The parts that can be decoded; the rest of a clip is always there. Pictures cost far more than sound."""

ENDINGS = {
    "audio": (".wav", ".flac"),
    "picture": (".mp4",),
    "masks": (".masks.npz", ".boxes.npy"),
    "features": (".features.npy",),
    "skeleton": (".skeleton.npy",),
    "annotations": (".npy",),
}
"""Endings of the members that hold a part."""

MOST_LOST = 0.01
"""Share of a split's clips that may be damaged before it is an error."""


@dataclass
class Damage:
    """The clips of a split that could not be read; DataError where they become too many."""

    clips: int
    """Number of clips of the split."""
    lost: dict[str, str] = field(default_factory=dict)
    """Clip, or rest of a shard, to what is wrong with it."""
    count: int = 0
    """How many clips are lost."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Threads that make batches read the same shards."""

    def add(self, name: str, reason: str, count: int = 1) -> None:
        """Note a loss, once, however often the clip is met."""
        with self._lock:
            if name in self.lost:
                return
            self.lost[name] = reason
            self.count += count
            log.warning("left out %s: %s", name, reason)
            if self.count > MOST_LOST * self.clips:
                raise DataError(
                    f"at most {MOST_LOST:.0%} of the {self.clips} clips may be damaged",
                    got="; ".join(f"{name}: {reason}" for name, reason in self.lost.items()),
                    fix="delete the folder of the shards and run `vimss shard` again",
                )


@dataclass(frozen=True)
class PlayerEntry:
    """The metadata of a player in a shard."""

    instrument: str
    timbre: str
    sounds: bool
    """Whether there is a stem."""


@dataclass(frozen=True)
class ClipEntry:
    """The metadata of a clip in a shard."""

    shard: str
    """Name of the shard."""
    key: str
    piece: str
    samples: int
    players: tuple[PlayerEntry, ...]


def read_clips(
    manifest: Manifest,
    split: str,
    shards: Sequence[Shard] | None = None,
    parts: Collection[str] = ("audio",),
    features: str = "",
    damage: Damage | None = None,
    keys: Collection[str] | None = None,
) -> Iterator[Clip]:
    """The clips of a split, shard by shard, in the order in which they were written.

    Args:
        manifest: the shards.
        split: whose clips.
        shards: narrows them; all of the split where not given.
        parts: what to decode.
        features: with the part "features", the folder of the vision network; without, features that the shards hold.
        damage: counts damaged clips, which are left out; without it they are errors.
        keys: of the only clips that are decoded; all where not given.

    Raises:
        DataError: damaged or missing shards or features.

    """
    for shard in manifest.of_split(split) if shards is None else shards:
        path = local_shard(manifest, shard)
        whole = _is_whole(path, shard.sha256)
        if not whole and damage is None:
            raise _damaged(manifest, f"{path} must have the SHA-256 in its manifest", "another")
        computed = _read_features(manifest, features, shard) if "features" in parts and features else {}
        count = 0
        for clip in _clips(path, shard.sha256, parts, manifest.recipe, None if whole else damage, keys):
            count += 1
            if clip is not None:
                yield _with_features(clip, computed) if computed else clip
        if keys is None and count != shard.clips:
            if whole or damage is None:
                raise _damaged(manifest, f"{path} must hold {shard.clips} clips, as in its manifest", str(count))
            damage.add(f"the end of {path}", f"{shard.clips - count} clips cannot be found", shard.clips - count)


def _damaged(manifest: Manifest, rule: str, got: str) -> DataError:
    again = f"delete {manifest.folder} and run `vimss shard {manifest.name}` again"
    return DataError(rule, got=got, fix=f"the shard was damaged: {again}")


def list_clips(manifest: Manifest, split: str) -> Iterator[ClipEntry]:
    """The content of the clips of a split, in the order of `read_clips`, without decoding any of it.

    Raises:
        DataError: damaged or missing shards.

    """
    for shard in manifest.of_split(split):
        path = local_shard(manifest, shard)
        if not _is_whole(path, shard.sha256):
            raise _damaged(manifest, f"{path} must have the SHA-256 in its manifest", "another")
        try:
            for members in _members(path, _known_places(path, shard.sha256), ()):
                name = members["fname"]
                yield _list_clip(shard.name, name.removesuffix(".json"), json.loads(members["data"]))
        except (KeyError, TypeError, ValueError) as error:
            raise _malformed(f"{name} in {path}", f"{type(error).__name__}: {error}") from error
        except tarfile.TarError as error:
            raise _no_tar(path, error) from error


def _list_clip(shard: str, key: str, about: dict[str, Any]) -> ClipEntry:
    players = tuple(
        PlayerEntry(str(player["instrument"]), str(player["timbre"]), "audio" in player) for player in about["players"]
    )
    return ClipEntry(shard, key, str(about["piece"]), int(about["samples"]), players)


def _clips(
    path: Path,
    digest: str,
    parts: Collection[str],
    recipe: Recipe,
    damage: Damage | None,
    keys: Collection[str] | None,
) -> Iterator[Clip | None]:
    """The clips of one shard; None for one that is damaged, where damage is counted."""
    try:
        # Every epoch reads a shard again; where the members of a whole one lie need be found out once.
        places: Iterable[tuple[str, int, int]] = _known_places(path, digest) if damage is None else _places(path)
        if keys is not None:
            places = (place for place in places if place[0].partition(".")[0] in keys)
        for members in group_by_keys(_members(path, places, parts if damage is None else PARTS)):
            name = f"{members['__key__']} in {path}"
            try:
                if damage is not None:
                    _check_digests(members)
                yield decode_clip(members, parts, recipe)
            except (KeyError, TypeError, ValueError, EOFError, MediaError, zipfile.BadZipFile) as error:
                reason = str(error) if isinstance(error, MediaError) else f"{type(error).__name__}: {error}"
                if damage is None:
                    raise _malformed(name, reason) from error
                damage.add(name, reason)
                yield None
    except tarfile.TarError as error:
        if damage is None:
            raise _no_tar(path, error) from error


def _malformed(clip: str, reason: str) -> DataError:
    return DataError(
        f"the clip {clip} must hold the members that its JSON lists, and no more in them",
        got=reason,
        fix="write the shards again with `vimss shard`",
    )


def _no_tar(path: Path, error: tarfile.TarError) -> DataError:
    return DataError(f"{path} must be a tar file", got=str(error), fix="write the shards again with `vimss shard`")


def _members(path: Path, places: Iterable[tuple[str, int, int]], parts: Collection[str]) -> Iterator[dict[str, Any]]:
    """The members that the parts need, as webdataset groups them."""
    wanted = (".json", *(ending for part in parts for ending in ENDINGS[part]))
    with path.open("rb") as file:
        for name, begin, size in places:
            if name.endswith(wanted):
                file.seek(begin)
                yield {"fname": name, "data": file.read(size), "__url__": str(path)}


def _places(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each member of a tar file."""
    with tarfile.open(path, mode="r:") as tar:
        for member in tar:
            if member.isfile():
                yield member.name, member.offset_data, member.size


@functools.lru_cache(maxsize=1024)
def _known_places(path: Path, digest: str) -> tuple[tuple[str, int, int], ...]:
    """The places of the members in the shard with this SHA-256."""
    return tuple(_places(path))


def _check_digests(members: dict[str, Any]) -> None:
    """ValueError where a member does not have the SHA-256 in the clip's JSON."""
    for member, digest in json.loads(members["json"])["sha256"].items():
        if hashlib.sha256(members[member]).hexdigest() != digest:
            raise ValueError(f"{member} must have the SHA-256 in the JSON")


def read_pieces(
    manifest: Manifest,
    split: str,
    parts: Collection[str] = ("audio",),
    features: str = "",
    shards: Sequence[Shard] | None = None,
) -> Iterator[Clip]:
    """Whole pieces: the clips of each piece, which follow each other in one shard, joined into one.

    `shards` narrows them; all of the split where not given.
    """
    waiting: list[Clip] = []
    for clip in read_clips(manifest, split, shards, parts, features):
        if waiting and clip.piece != waiting[0].piece:
            yield join_clips(waiting)
            waiting = []
        waiting.append(clip)
    if waiting:
        yield join_clips(waiting)


def has_part(manifest: Manifest, split: str, part: str) -> bool:
    """Whether a player of the split has a stem ("audio"), a "picture" or another member, by the clips' JSON."""
    for shard in manifest.of_split(split):
        path = local_shard(manifest, shard)
        try:
            with path.open("rb") as file:
                for name, begin, size in _places(path):
                    if name.endswith(".json"):
                        file.seek(begin)
                        if any(part in player for player in json.loads(file.read(size))["players"]):
                            return True
        except (tarfile.TarError, KeyError, TypeError, ValueError) as error:
            raise _damaged(manifest, f"{path} must be a tar file of clips", str(error)) from error
    return False


def join_clips(clips: Sequence[Clip]) -> Clip:
    """Neighbouring clips of one piece as one clip. A player who rests in one of them is silent there."""
    if len(clips) == 1:
        return clips[0]
    first = clips[0]
    players = []
    for index, player in enumerate(first.players):
        same = [clip.players[index] for clip in clips]
        channels = next((p.audio.shape[0] for p in same if p.audio is not None), 1)
        sounding = any(p.audio is not None for p in same)
        stems = [
            np.zeros((channels, clip.samples), np.int16) if p.audio is None else p.audio
            for clip, p in zip(clips, same, strict=True)
        ]
        players.append(
            replace(
                player,
                audio=np.concatenate(stems, axis=1) if sounding else None,
                silent=all(p.silent for p in same),
                picture=_joined([p.picture for p in same]),
                features=_joined([p.features for p in same]),
                skeleton=_joined([p.skeleton for p in same]),
                masks=_joined([p.masks for p in same], axis=1),
                boxes=_joined([p.boxes for p in same], axis=1),
                annotations={kind: _joined_rows(clips, same, kind) for kind in player.annotations},
            )
        )
    return replace(
        first,
        samples=sum(clip.samples for clip in clips),
        players=tuple(players),
        mixture=_joined([clip.mixture for clip in clips], axis=1),
    )


def _joined(arrays: Sequence[np.ndarray | None], axis: int = 0) -> np.ndarray | None:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present, axis=axis) if len(present) == len(arrays) else None


def _joined_rows(clips: Sequence[Clip], same: Sequence[Player], kind: str) -> np.ndarray:
    """Annotations of one player, with seconds from the start of the first clip."""
    moved = []
    for clip, player in zip(clips, same, strict=True):
        rows = player.annotations[kind].copy()
        rows[:, 0] += (clip.offset - clips[0].offset) / clip.sample_rate
        moved.append(rows)
    return np.concatenate(moved)


@functools.cache
def _is_whole(path: Path, digest: str) -> bool:
    """Once per process and shard: a full read costs about as much as decoding it."""
    if not path.exists():
        raise DataError(f"{path} must exist", got="no such file", fix="run `vimss shard` again")
    return sha256(path) == digest


def _read_features(manifest: Manifest, folder: str, shard: Shard) -> dict[str, np.ndarray]:
    path = local_features(manifest, folder, shard)
    if not path.exists():
        raise DataError(
            f"{path} must hold the vision features of {shard.name}",
            got="no such file",
            fix=f"run `vimss features {manifest.name}` first",
        )
    return load_file(path)


def _with_features(clip: Clip, computed: dict[str, np.ndarray]) -> Clip:
    players = (
        replace(player, features=computed.get(f"{clip.key}.player{index}")) for index, player in enumerate(clip.players)
    )
    return replace(clip, players=tuple(players))
