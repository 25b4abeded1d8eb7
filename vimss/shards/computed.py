"""Folders beside the shards with what was computed from them: an array for each player with pictures.

    available_features(manifest)                                            # ("resnet18-3f9c2a1b07",)
    read_entry(manifest, "resnet18-3f9c2a1b07", FeatureEntry, "run ...")    # checked, every file

One safetensors file per shard (arrays "v d", a row per picture, named CLIP.playerN) and an entry, written last, that
says what they are. `vimss.stream.compute` writes them; `read_clips` reads them as the players' `features`.

Arrays of fewer rows than pictures, one every so many seconds, have a second one beside them, CLIP.playerN.rows: the
row of each picture.
"""

import json
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int, Int32
from pydantic import Field

from vimss.config import Config, parse_config
from vimss.errors import DataError
from vimss.shards.cache import ENTRY, FEATURES
from vimss.shards.manifest import Manifest, Shard
from vimss.storage import Folder, sha256


class ComputedEntry(Config):
    """Contents of a folder of arrays."""

    frame_rate: float = Field(ge=0, description="frames per second, those of the pictures")
    shards_digest: str = Field(description="of the manifest of the shards")
    files: dict[str, str] = Field(description="file to its SHA-256")
    every: float = Field(0.0, ge=0, description="seconds between two rows; 0: one row per picture")


ROWS = ".rows"
"""Ending of the name of the array that says which row each picture has."""


E = TypeVar("E", bound=ComputedEntry)


def read_entry(manifest: Manifest, name: str, kind: type[E], again: str) -> E:
    """The entry of a folder, after a check that it is complete and of these very shards.

    `again` is what to do where it is not, as in "run `vimss features NAME`".

    Raises:
        DataError: where it is incomplete, damaged or of other shards.

    """
    folder = manifest.home / FEATURES / name
    try:
        content = json.loads(folder.read_bytes(ENTRY))
    except FileNotFoundError as error:
        known = ", ".join(available_features(manifest)) or "none"
        raise DataError(
            f"the features '{name}' of {manifest.home} must be complete", got=f"complete are: {known}", fix=again
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}/{ENTRY} must be JSON", got=str(error), fix=f"delete {folder} and {again}") from error
    entry = parse_config(content, kind, f"{folder}/{ENTRY}")
    if entry.shards_digest != manifest.digest:
        raise DataError(
            f"{folder} must hold features of the shards beside it",
            got=f"features of shards with the digest {entry.shards_digest} instead of {manifest.digest}",
            fix=f"delete {folder} and {again}",
        )
    present = folder.sizes()
    for file, digest in entry.files.items():
        # Files behind a URL are verified when they are fetched.
        if file not in present or (manifest.origin is None and digest_of(folder, file) != digest):
            raise DataError(
                f"{folder}/{file} must have the SHA-256 in its {ENTRY}",
                got="another" if file in present else "no such file",
                fix=f"delete {folder} and {again}",
            )
    return entry


def features_command(manifest: Manifest, options: str) -> str:
    """The command that computes what is missing beside these shards, for errors; `options` as in "--network motion"."""
    return f"run `vimss features {manifest.name} {options}`, with the --set that its shards were written with, if any"


def available_features(manifest: Manifest) -> tuple[str, ...]:
    """Names of the complete folders of arrays beside the shards."""
    found = (manifest.home / FEATURES).sizes()
    return tuple(sorted(file.removesuffix(f"/{ENTRY}") for file in found if file.endswith(f"/{ENTRY}")))


def digest_of(folder: Folder, file: str) -> str:
    """The SHA-256 of a file, wherever the folder is."""
    with folder.copied(file) as path:
        return sha256(path)


def file_of(shard: Shard) -> str:
    """Name of the file with the arrays of a shard."""
    return Path(shard.name).with_suffix(".safetensors").name


def rows_of_pictures(count: int, frame_rate: float, every: float) -> Int32[np.ndarray, " v"]:
    """The row of each of `count` pictures, where there is one every so many seconds from the first picture on."""
    # A picture at the very time of a row belongs to it, whatever 0.3 / 0.1 is.
    places = np.floor(np.arange(count) / (frame_rate * every) + 1e-6).astype(np.int32)
    return np.unique(places, return_inverse=True)[1].astype(np.int32)


def middle_pictures(rows: Int32[np.ndarray, " v"]) -> Int[np.ndarray, " r"]:
    """Of the pictures of each row the one in the middle."""
    counts = np.bincount(rows)
    return np.cumsum(counts) - counts + counts // 2
