"""From shards to clips, with explicit decoders only.

    for clip in read_clips(manifest, "train", parts=("audio",)):
        ...

Nothing of a shard is unpickled, no URL is run through a shell, and nothing decodes to more than the recipe allows.
Each shard's SHA-256 is compared with the manifest's before its first clip is used. A damaged shard is an error, unless
`damage` counts what was lost: then the clips whose members have the SHA-256 in their JSON are used, and the
others are left out, up to a share of the split.
"""

import functools
import json
import logging
import tarfile
import threading
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from vimss.errors import DataError, MediaError
from vimss.shards.cache import local_features, local_shard
from vimss.shards.clip import NOTES, Clip, Player
from vimss.shards.computed import ROWS
from vimss.shards.manifest import Manifest, Shard
from vimss.shards.recipe import Recipe
from vimss.stream.decode import decode_clip
from vimss.stream.lazy import ClipEntry, LazyClip, PlayerEntry, entry_of
from vimss.stream.members import (
    PARTS,
    Place,
    check_digests,
    damaged,
    is_whole,
    known_places,
    malformed,
    members_by_clip,
    no_tar,
    places_of,
    read_members,
)

log = logging.getLogger(__name__)

MOST_LOST = 0.01
"""Share of a split's clips that may be damaged before it is an error."""

DECODING_ERRORS = (KeyError, TypeError, ValueError, EOFError, MediaError, zipfile.BadZipFile)
"""Raised where a member is not what the writer of shards writes."""


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
        whole = is_whole(path, shard.sha256)
        if not whole and damage is None:
            raise damaged(manifest, f"{path} must have the SHA-256 in its manifest", "another")
        computed = _read_features(manifest, features, shard) if "features" in parts and features else {}
        count = 0
        for clip in _clips(path, shard.sha256, parts, manifest.recipe, None if whole else damage, keys):
            count += 1
            if clip is not None:
                yield _with_features(clip, computed) if computed else clip
        if keys is None and count != shard.clips:
            if whole or damage is None:
                raise _miscounted(manifest, path, shard, count)
            damage.add(f"the end of {path}", f"{shard.clips - count} clips cannot be found", shard.clips - count)


def _miscounted(manifest: Manifest, path: Path, shard: Shard, count: int) -> DataError:
    return damaged(manifest, f"{path} must hold {shard.clips} clips, as in its manifest", str(count))


def list_clips(manifest: Manifest, split: str) -> Iterator[ClipEntry]:
    """The content of the clips of a split, in the order of `read_clips`, without decoding any of it.

    Raises:
        DataError: damaged or missing shards.

    """
    for shard in manifest.of_split(split):
        yield from list_shard(manifest, shard)


def list_shard(
    manifest: Manifest, shard: Shard, parts: Collection[str] = (), damage: Damage | None = None
) -> tuple[ClipEntry, ...]:
    """The content of a shard: the JSON of its clips, or, where it is damaged and `damage` counts, the clips that can be
    decoded with these parts.
    """
    path = local_shard(manifest, shard)
    if is_whole(path, shard.sha256):
        return _list_whole(manifest, shard, path)
    if damage is None:
        raise damaged(manifest, f"{path} must have the SHA-256 in its manifest", "another")
    return tuple(entry_of(clip, shard.name) for clip in read_clips(manifest, shard.split, [shard], parts, "", damage))


def _list_whole(manifest: Manifest, shard: Shard, path: Path) -> tuple[ClipEntry, ...]:
    entries = _entries(shard.name, path, shard.sha256)
    if len(entries) != shard.clips:
        raise _miscounted(manifest, path, shard, len(entries))
    return entries


@functools.lru_cache(maxsize=1024)
def _entries(shard: str, path: Path, digest: str) -> tuple[ClipEntry, ...]:
    """The content of the shard with this SHA-256."""
    entries = []
    try:
        for members in read_members(path, known_places(path, digest), ()):
            name = members["fname"]
            entries.append(_entry(shard, name.removesuffix(".json"), json.loads(members["data"])))
    except (KeyError, TypeError, ValueError) as error:
        raise malformed(f"{name} in {path}", f"{type(error).__name__}: {error}") from error
    except tarfile.TarError as error:
        raise no_tar(path, error) from error
    return tuple(entries)


def _entry(shard: str, key: str, about: dict[str, Any]) -> ClipEntry:
    players = tuple(
        PlayerEntry(str(player["instrument"]), str(player["timbre"]), bool({"audio", "sound_features"} & player.keys()))
        for player in about["players"]
    )
    return ClipEntry(shard, key, str(about["piece"]), int(about["samples"]), players)


def lazy_clips(
    manifest: Manifest, shard: Shard, entries: Sequence[ClipEntry], parts: Collection[str], features: str = ""
) -> Iterator[LazyClip]:
    """These clips of a shard, as `list_shard` returned them: their members are read now and decoded when needed.

    So clips stay there when the file goes, as one that was fetched from a URL may.
    """
    path = local_shard(manifest, shard)
    wanted = {entry.key: entry for entry in entries}
    names = {name for entry in entries for name in _feature_names(entry)}
    computed = _read_features(manifest, features, shard, names) if "features" in parts and features else {}
    for members in members_by_clip(path, _places_of_clips(path, shard.sha256, wanted), parts):
        entry = wanted[members["__key__"]]
        own = {name: computed[name] for name in _feature_names(entry) if name in computed}
        yield LazyClip(entry, functools.partial(_decode, members, parts, manifest.recipe, path, own))


def _places_of_clips(path: Path, digest: str, keys: Collection[str]) -> Iterator[Place]:
    """The places of the members of these clips, which lie before the place where a damaged shard breaks off."""
    try:
        for place in known_places(path, digest) if is_whole(path, digest) else places_of(path):
            if place[0].partition(".")[0] in keys:
                yield place
    except tarfile.TarError as error:
        if is_whole(path, digest):
            raise no_tar(path, error) from error


def _decode(
    members: dict[str, Any], parts: Collection[str], recipe: Recipe, path: Path, computed: Mapping[str, np.ndarray]
) -> Clip:
    try:
        clip = decode_clip(members, parts, recipe)
    except DECODING_ERRORS as error:
        raise malformed(f"{members['__key__']} in {path}", _reason(error)) from error
    return _with_features(clip, computed) if computed else clip


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, MediaError) else f"{type(error).__name__}: {error}"


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
        places: Iterable[Place] = known_places(path, digest) if damage is None else places_of(path)
        if keys is not None:
            places = (place for place in places if place[0].partition(".")[0] in keys)
        for members in members_by_clip(path, places, parts if damage is None else PARTS):
            if damage is None:
                yield _decode(members, parts, recipe, path, {})
                continue
            try:
                check_digests(members)
                yield decode_clip(members, parts, recipe)
            except DECODING_ERRORS as error:
                damage.add(f"{members['__key__']} in {path}", _reason(error))
                yield None
    except tarfile.TarError as error:
        if damage is None:
            raise no_tar(path, error) from error


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
    return any(part in player for _, players in _clip_players(manifest, split) for player in players)


def clips_without(manifest: Manifest, split: str, part: str) -> list[str]:
    """The keys of the clips of the split of which no player has the part, as in `has_part`."""
    return [key for key, players in _clip_players(manifest, split) if not any(part in player for player in players)]


def has_notes(manifest: Manifest, split: str) -> bool:
    """Whether all players of the split that sound have notes, by the clips' JSON."""
    sounding = (player for _, players in _clip_players(manifest, split) for player in players if "audio" in player)
    return all(NOTES in player.get("annotations", {}) for player in sounding)


def _clip_players(manifest: Manifest, split: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The key of each clip, and what its JSON says of its players."""
    for shard in manifest.of_split(split):
        path = local_shard(manifest, shard)
        try:
            with path.open("rb") as file:
                for name, begin, size in places_of(path):
                    if name.endswith(".json"):
                        file.seek(begin)
                        yield name.partition(".")[0], json.loads(file.read(size))["players"]
        except (tarfile.TarError, KeyError, TypeError, ValueError) as error:
            raise damaged(manifest, f"{path} must be a tar file of clips", str(error)) from error


def check_holds(manifest: Manifest, split: str, part: str, rule: str, fix: str) -> None:
    """DataError where no player of the split has a picture or another member, as in `has_part`."""
    if not has_part(manifest, split, part):
        raise DataError(rule, got=f"none in the split '{split}' of {manifest.home}", fix=fix)


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
                sound_features=_joined([p.sound_features for p in same]),
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


def _read_features(
    manifest: Manifest, folder: str, shard: Shard, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The features of a shard's players, those with these names where they are given."""
    path = local_features(manifest, folder, shard)
    if not path.exists():
        raise DataError(
            f"{path} must hold the vision features of {shard.name}",
            got="no such file",
            fix=f"run `vimss features {manifest.name}` first",
        )
    with safe_open(path, framework="np") as file:
        present = file.keys()
        return {name: file.get_tensor(name) for name in present if names is None or name in names}


def _feature_names(clip: ClipEntry) -> list[str]:
    return [f"{clip.key}.player{place}{end}" for place in range(len(clip.players)) for end in ("", ROWS)]


def _with_features(clip: Clip, computed: Mapping[str, np.ndarray]) -> Clip:
    """A clip with the features of its players, one row per picture however many were computed."""
    players = []
    for index, player in enumerate(clip.players):
        name = f"{clip.key}.player{index}"
        features = computed.get(name)
        # Now and not when the file is read: clips that wait to be decoded hold a row every few pictures.
        if features is not None and name + ROWS in computed:
            features = features[computed[name + ROWS]]
        players.append(replace(player, features=features))
    return replace(clip, players=tuple(players))
