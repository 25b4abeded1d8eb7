"""The members of one clip, as a shard's tar file holds them, to a clip; with explicit decoders only.

    clip = decode_clip(members, ("audio", "picture"), manifest.recipe)

Nothing is unpickled, and nothing decodes to more than the recipe allows.
"""

import io
import json
import math
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from vimss.media import decode_audio, decode_video
from vimss.shards.clip import Clip, Player
from vimss.shards.recipe import Recipe


def decode_clip(members: dict[str, Any], parts: Collection[str], recipe: Recipe) -> Clip:
    """A clip from the contents of its members, by name; only these parts are decoded.

    ValueError, KeyError and others where a member is not what the shard's writer writes.
    """
    about = json.loads(members["json"])
    rates = about["sample_rate"], about["frame_rate"]
    if rates[0] != recipe.sample_rate or rates[1] not in (0, recipe.picture.frame_rate):
        raise ValueError(
            f"a clip must have the rates of its recipe, not {rates[0]} Hz and {rates[1]} pictures a second"
        )
    # Clips start with a picture, so one may exceed the recipe's length by less than a picture.
    most = recipe.clip_samples + round(recipe.sample_rate / recipe.picture.frame_rate)
    if not 0 < about["samples"] <= most:
        raise ValueError(f"a clip must have at most {most} samples, not {about['samples']}")
    pictures = round(about["samples"] / about["sample_rate"] * about["frame_rate"]) + 1
    size = _Size(recipe.channels, about["samples"], pictures, recipe.picture.size)
    players = tuple(_decode_player(entry, members, parts, size) for entry in about["players"])
    mixture = _sound(members[about["mixture"]], size) if "mixture" in about and "audio" in parts else None
    return Clip(
        piece=about["piece"],
        offset=about["offset"],
        samples=about["samples"],
        sample_rate=about["sample_rate"],
        frame_rate=about["frame_rate"],
        players=players,
        mixture=mixture,
    )


@dataclass(frozen=True)
class _Size:
    """Largest decoded size of a member."""

    channels: int
    samples: int
    pictures: int
    side: int
    """Side of a picture, pixels."""


def _decode_player(entry: dict[str, Any], members: dict[str, Any], parts: Collection[str], size: _Size) -> Player:
    def part(name: str, key: str, decode: Callable[[bytes, _Size], Any]) -> Any:
        return decode(members[entry[key]], size) if key in entry and name in parts else None

    annotations = entry.get("annotations", {}) if "annotations" in parts else {}
    return Player(
        instrument=entry["instrument"],
        part=entry["part"],
        audio=part("audio", "audio", _sound),
        silent=entry["silent"],
        picture=part("picture", "picture", _pictures),
        features=part("features", "features", _array),
        sound_features=part("sound_features", "sound_features", _array),
        skeleton=part("skeleton", "skeleton", _array),
        masks=part("masks", "masks", _masks),
        boxes=part("masks", "boxes", _array),
        annotations={kind: _array(members[member], size) for kind, member in annotations.items()},
        timbre=entry["timbre"],
    )


def _sound(content: bytes, size: _Size) -> Any:
    audio = decode_audio(content, size.samples)[0]
    if audio.shape != (size.channels, size.samples):
        raise ValueError(f"sound must have {size.channels} channels and {size.samples} samples, not {audio.shape}")
    return audio


def _pictures(content: bytes, size: _Size) -> Any:
    return decode_video(content, size.pictures, size.side)


def _masks(content: bytes, size: _Size) -> Bool[np.ndarray, "2 v h w"]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        inflated = sum(entry.file_size for entry in archive.infolist())
    # Two masks, eight pixels to a byte; headers beside them.
    most = 2 * size.pictures * size.side * -(-size.side // 8) + 2000
    if inflated > most:
        raise ValueError(f"masks must unpack to at most {most} bytes, not {inflated}")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        packed, width = file["packed"], int(file["width"])
    if not 0 < width <= size.side or packed.shape[-1] != -(-width // 8):
        raise ValueError(f"masks must be at most {size.side} pixels wide, not {width} in {packed.shape[-1]} bytes")
    return np.unpackbits(packed, axis=-1, count=width).astype(bool)


def _array(content: bytes, size: _Size) -> np.ndarray:
    """Not packed: it cannot be longer than its member, whatever its header claims."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("arrays must be .npy files of version 1.0")
    shape, _, kind = np.lib.format.read_array_header_1_0(file)
    if math.prod(shape) * kind.itemsize > len(content):
        raise ValueError(f"an array must not be longer than its member, as {shape} would be")
    return np.load(io.BytesIO(content), allow_pickle=False)
