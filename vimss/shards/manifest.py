"""The manifest: what a folder of shards holds, written last and atomically.

manifest = open_manifest(store.shards / "quickstart-3f9c2a1b07")
manifest.of_split("train")  # its shards
"""

import json
from pathlib import Path

from pydantic import Field

from vimss.config import Config, parse_config, signature
from vimss.errors import DataError
from vimss.shards.recipe import SPLITS, Recipe

MANIFEST = "manifest.json"


class Shard(Config):
    """One tar file of clips."""

    name: str
    split: str
    clips: int = Field(ge=1)
    seconds: float = Field(gt=0, description="seconds of music")
    size: int = Field(ge=1, description="bytes")
    sha256: str


class PieceEntry(Config):
    """One piece, as written."""

    name: str
    split: str
    composition: str
    seconds: float
    instruments: tuple[str, ...]


class Manifest(Config):
    """Everything about a folder of shards that a reader needs to know first."""

    folder: Path = Field(Path(), exclude=True, description="where the shards lie; not part of the file")
    name: str = Field(description="name of the recipe")
    recipe: Recipe
    signature: str = Field(description="of the recipe and the reader's version")
    shards: tuple[Shard, ...]
    pieces: tuple[PieceEntry, ...]
    missing: tuple[str, ...] = Field((), description="pieces of the corpus that its source lacked")

    def of_split(self, split: str) -> tuple[Shard, ...]:
        """The shards of one split; DataError where there are none."""
        found = tuple(shard for shard in self.shards if shard.split == split)
        if not found:
            splits = ", ".join(sorted({shard.split for shard in self.shards}))
            raise DataError(
                f"{self.folder} must hold the split '{split}'", got=f"only {splits}", fix="choose one of these"
            )
        return found

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are, in order."""
        return tuple(split for split in SPLITS if any(shard.split == split for shard in self.shards))

    def clips(self, split: str) -> int:
        """Number of clips in a split."""
        return sum(shard.clips for shard in self.of_split(split))

    @property
    def digest(self) -> str:
        """Changes when any shard changes; runs record it."""
        return signature(sorted((shard.name, shard.sha256) for shard in self.shards))


def open_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of shards, after a check that every shard is there at its full size."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} must hold a {MANIFEST}", got="none", fix="run `vimss shard RECIPE` to write the shards"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} must be JSON", got=str(error), fix="delete the folder and run `vimss shard` again"
        ) from error
    manifest = parse_config({**content, "folder": folder}, Manifest, str(path))
    for shard in manifest.shards:
        file = folder / shard.name
        size = file.stat().st_size if file.exists() else 0
        if size != shard.size:
            raise DataError(
                f"{file} must have {shard.size} bytes as its manifest says",
                got=f"{size} bytes" if file.exists() else "no such file",
                fix=f"delete {folder} and run `vimss shard {manifest.name}` again",
            )
    return manifest
