"""From shards to clips, through webdataset, with explicit decoders only.

    for clip in read_clips(manifest, "train", parts=("audio",)):
        ...

Nothing of a shard is unpickled, no URL is run through a shell, and a member that is not what its clip's JSON says is an
error. Each shard's SHA-256 is compared with the manifest's before its first clip is used.
"""

import functools
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from jaxtyping import Bool

from vimss.errors import DataError
from vimss.media import decode_audio, decode_video
from vimss.shards.clip import Clip, Player
from vimss.shards.manifest import Manifest, Shard
from vimss.storage import sha256

PARTS = ("audio", "picture", "masks", "features", "annotations")
"""What can be decoded; the rest of a clip is always there. Pictures cost far more than sound."""

FEATURES = "features"
"""Folder beside the shards; below it one folder per vision network, with one file per shard."""


def read_clips(
    manifest: Manifest,
    split: str,
    shards: Sequence[Shard] | None = None,
    parts: Collection[str] = ("audio",),
    features: str = "",
) -> Iterator[Clip]:
    """The clips of a split, shard by shard, in the order in which they were written.

    `shards` narrows them. `parts` says what to decode; with "features", `features` names the folder of the network.
    """
    for shard in manifest.of_split(split) if shards is None else shards:
        path = manifest.folder / shard.name
        _verify(path, shard.sha256, manifest.name)
        computed = _read_features(manifest, features, shard) if "features" in parts and features else {}
        samples = wds.WebDataset(
            [str(path)], shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False
        )
        count = 0
        for members in samples:
            clip = _decode(members, parts, path)
            count += 1
            yield _with_features(clip, computed) if computed else clip
        if count != shard.clips:
            raise DataError(
                f"{path} must hold {shard.clips} clips as its manifest says",
                got=f"{count}",
                fix=f"delete {manifest.folder} and run `vimss shard {manifest.name}` again",
            )


def read_pieces(
    manifest: Manifest, split: str, parts: Collection[str] = ("audio",), features: str = ""
) -> Iterator[Clip]:
    """Whole pieces: the clips of each piece, which follow each other, joined into one."""
    waiting: list[Clip] = []
    for clip in read_clips(manifest, split, None, parts, features):
        if waiting and clip.piece != waiting[0].piece:
            yield join_clips(waiting)
            waiting = []
        waiting.append(clip)
    if waiting:
        yield join_clips(waiting)


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
    """Annotations of one player, with seconds from the begin of the first clip."""
    moved = []
    for clip, player in zip(clips, same, strict=True):
        rows = player.annotations[kind].copy()
        rows[:, 0] += (clip.offset - clips[0].offset) / clip.sample_rate
        moved.append(rows)
    return np.concatenate(moved)


@functools.cache
def _verify(path: Path, digest: str, name: str) -> None:
    """Once per process and shard: a full read costs about as much as decoding it."""
    if not path.exists():
        raise DataError(f"{path} must exist", got="no such file", fix=f"run `vimss shard {name}` again")
    found = sha256(path)
    if found != digest:
        raise DataError(
            f"{path} must have the SHA-256 that its manifest says, {digest[:12]}...",
            got=f"{found[:12]}...",
            fix=f"the shard was damaged: delete {path.parent} and run `vimss shard {name}` again",
        )


def _decode(members: dict[str, Any], parts: Collection[str], path: Path) -> Clip:
    key = members["__key__"]
    try:
        about = json.loads(members["json"])
        players = tuple(_decode_player(entry, members, parts) for entry in about["players"])
        mixture = decode_audio(members[about["mixture"]])[0] if "mixture" in about and "audio" in parts else None
        return Clip(
            piece=about["piece"],
            offset=about["offset"],
            samples=about["samples"],
            sample_rate=about["sample_rate"],
            frame_rate=about["frame_rate"],
            players=players,
            mixture=mixture,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: the clip {key} must hold the members that its JSON lists",
            got=f"{type(error).__name__}: {error}",
            fix="write the shards again with `vimss shard`",
        ) from error


def _decode_player(entry: dict[str, Any], members: dict[str, Any], parts: Collection[str]) -> Player:
    audio = decode_audio(members[entry["audio"]])[0] if "audio" in entry and "audio" in parts else None
    picture = decode_video(members[entry["picture"]]) if "picture" in entry and "picture" in parts else None
    masks = _unpack_masks(members[entry["masks"]]) if "masks" in entry and "masks" in parts else None
    boxes = _load_array(members[entry["boxes"]]) if "boxes" in entry and "masks" in parts else None
    features = _load_array(members[entry["features"]]) if "features" in entry and "features" in parts else None
    annotations = entry.get("annotations", {}) if "annotations" in parts else {}
    return Player(
        instrument=entry["instrument"],
        part=entry["part"],
        audio=audio,
        silent=entry["silent"],
        picture=picture,
        features=features,
        masks=masks,
        boxes=boxes,
        annotations={kind: _load_array(members[member]) for kind, member in annotations.items()},
        timbre=entry["timbre"],
    )


def _unpack_masks(content: bytes) -> Bool[np.ndarray, "2 v h w"]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return np.unpackbits(file["packed"], axis=-1, count=int(file["width"])).astype(bool)


def _load_array(content: bytes) -> np.ndarray:
    return np.load(io.BytesIO(content), allow_pickle=False)


def _read_features(manifest: Manifest, folder: str, shard: Shard) -> dict[str, np.ndarray]:
    path = manifest.folder / FEATURES / folder / Path(shard.name).with_suffix(".npz").name
    if not path.exists():
        raise DataError(
            f"{path} must hold the vision features of {shard.name}",
            got="no such file",
            fix=f"run `vimss features {manifest.name}` first",
        )
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _with_features(clip: Clip, computed: dict[str, np.ndarray]) -> Clip:
    players = (
        replace(player, features=computed.get(f"{clip.key}.player{index}")) for index, player in enumerate(clip.players)
    )
    return replace(clip, players=tuple(players))
