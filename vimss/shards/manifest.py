"""The manifest: what a folder of shards holds, written last and atomically.

manifest = open_shards(store.shards / "quickstart-3f9c2a1b07", store)  # here, or behind a URL
manifest.of_split("train")  # its shards

A manifest that lies behind a URL is copied into the store's cache, beside where it came from; that copy is opened as a
local one is, by any process: `open_manifest(manifest.folder)`. Nodes that do not share the store make copies of their
own, by `with_manifests`.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from vimss.config import Config, parse_config, signature
from vimss.errors import ConfigError, DataError
from vimss.shards.recipe import SPLITS, Recipe
from vimss.storage import Folder, LocalFolder, RemoteFolder, Store, atomic_write

MANIFEST = "manifest.json"

ORIGIN = "origin.json"
"""Beside the copy of a manifest that lies behind a URL."""

Item = TypeVar("Item")
Result = TypeVar("Result")


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


class Origin(Config):
    """Where the shards lie whose manifest this is a copy of."""

    url: str
    cache_gigabytes: float = Field(gt=0, description="how much of all shards behind URLs the store keeps")


class Manifest(Config):
    """Everything about a folder of shards that a reader needs to know first."""

    folder: Path = Field(Path(), exclude=True, description="where the file lies; not part of it")
    origin: Origin | None = Field(None, exclude=True, description="where the shards lie, if not beside the file")
    name: str = Field(description="name of the recipe")
    recipe: Recipe
    signature: str = Field(description="of the recipe and the reader's version")
    shards: tuple[Shard, ...]
    pieces: tuple[PieceEntry, ...]
    missing: tuple[str, ...] = Field((), description="pieces of the corpus that its source lacked")
    odd_mixtures: tuple[str, ...] = Field(
        (), description="sentences about recorded mixes that are not nearly the sum of their stems"
    )
    notes: tuple[str, ...] = Field(
        (), description="sentences about what else was odd and taken all the same, or left out"
    )
    silent: dict[str, float] = Field(
        {}, description="pieces with players that play nothing from beginning to end, and the share of these players"
    )
    more: tuple[tuple["Manifest", float], ...] = Field(
        (), exclude=True, description="other corpora, and the share of training's mixtures that each gives"
    )
    pairs: tuple[tuple[str, str], ...] = Field(
        (), description="pieces of the test split whose mixtures evaluation uses instead of drawn ones"
    )

    def of_split(self, split: str) -> tuple[Shard, ...]:
        """The shards of one split; DataError where there are none."""
        found = tuple(shard for shard in self.shards if shard.split == split)
        if not found:
            splits = ", ".join(sorted({shard.split for shard in self.shards}))
            raise DataError(
                f"{self.home} must hold the split '{split}'", got=f"only {splits}", fix="choose one of these"
            )
        return found

    @property
    def odd(self) -> tuple[str, ...]:
        """Everything to look at before the shards are used."""
        return (*self.odd_mixtures, *self.notes)

    @property
    def home(self) -> Folder:
        """Where the shards lie, and features beside them."""
        return LocalFolder(self.folder) if self.origin is None else RemoteFolder(self.origin.url)

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

    def mixed_with(self, more: Sequence[tuple["Manifest", float]]) -> "Manifest":
        """The same with other corpora for training; ConfigError where they do not fit together."""
        for other, _ in more:
            for name in ("labels", "sample_rate", "channels"):
                mine, theirs = getattr(self.recipe, name), getattr(other.recipe, name)
                if mine != theirs:
                    raise ConfigError(
                        f"more_shards: '{other.name}' must have the {name} of '{self.name}', {mine}",
                        got=str(theirs),
                        fix="give both recipes the same",
                    )
        if not all(share > 0 for _, share in more) or sum(share for _, share in more) >= 1:
            raise ConfigError(
                "more_shards: shares must be above 0 and together below 1: the rest is that of `shards`",
                got=", ".join(f"{other.name}: {share:g}" for other, share in more),
                fix="lower them",
            )
        return self.model_copy(update={"more": tuple(more)})


def open_shards(folder: Folder, store: Store) -> Manifest:
    """The manifest of a folder of shards anywhere, checked as `open_manifest` does."""
    if isinstance(folder, LocalFolder):
        return open_manifest(folder.path)
    copy = store.make().cache / f"{folder.name}-{signature(folder.url)}"
    _write_copy(Origin(url=folder.url, cache_gigabytes=store.cache_gigabytes), copy)
    return open_manifest(copy)


def origins_of(folders: Iterable[Path]) -> dict[Path, Origin]:
    """Those of the folders that are copies of manifests, and where their shards lie."""
    found = {folder: _origin_of(folder) for folder in folders}
    return {folder: origin for folder, origin in found.items() if origin is not None}


def copy_manifests(origins: Mapping[Path, Origin]) -> None:
    """Copy manifests to where another process has its copies, on a node that does not share them."""
    for folder, origin in origins.items():
        if not (folder / ORIGIN).exists():
            _write_copy(origin, folder)


def with_manifests(function: Callable[[Item], Result], folders: Iterable[Path]) -> Callable[[Item], Result]:
    """A function that opens manifests in these folders, for any node: it copies those first that the node lacks."""
    origins = origins_of(folders)

    def run(item: Item) -> Result:
        copy_manifests(origins)
        return function(item)

    return run


def _write_copy(origin: Origin, copy: Path) -> None:
    for name, content in (
        (MANIFEST, _manifest_bytes(RemoteFolder(origin.url))),
        (ORIGIN, origin.model_dump_json().encode()),
    ):
        with atomic_write(copy / name) as temporary:
            temporary.write_bytes(content)


def open_manifest(folder: str | Path, more: Sequence[tuple[str | Path, float]] = ()) -> Manifest:
    """The manifest in a folder of this machine, after a check that every shard is where it lies, at its full size.

    `more` are folders of other corpora that training mixes in, each with its share of the mixtures.
    """
    folder = Path(folder)
    manifest = read_manifest(LocalFolder(folder))
    manifest = manifest.model_copy(update={"origin": _origin_of(folder)})
    sizes = manifest.home.sizes()
    for shard in manifest.shards:
        if sizes.get(shard.name) != shard.size:
            raise DataError(
                f"{manifest.home}/{shard.name} must have {shard.size} bytes, as in its manifest",
                got=f"{sizes[shard.name]} bytes" if shard.name in sizes else "no such file",
                fix=f"delete {manifest.home} and run `vimss shard {manifest.name}` again",
            )
    return manifest.mixed_with([(open_manifest(other), share) for other, share in more])


def _origin_of(folder: Path) -> Origin | None:
    """Where the shards lie whose manifest has a copy in this folder; None where they lie in it."""
    path = folder / ORIGIN
    return parse_config(json.loads(path.read_bytes()), Origin, str(path)) if path.exists() else None


def read_manifest(folder: Folder) -> Manifest:
    """The manifest as it stands there, whatever became of the shards."""
    try:
        content = json.loads(_manifest_bytes(folder))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}/{MANIFEST} must be JSON", got=str(error), fix="delete the folder and run `vimss shard` again"
        ) from error
    here = folder.path if isinstance(folder, LocalFolder) else Path()
    return parse_config({**content, "folder": here, "origin": None}, Manifest, f"{folder}/{MANIFEST}")


def _manifest_bytes(folder: Folder) -> bytes:
    """The file; DataError where there is none."""
    try:
        return folder.read_bytes(MANIFEST)
    except NotADirectoryError as error:
        raise DataError(
            f"{folder} must be a folder of shards", got="a file", fix="give the folder it lies in"
        ) from error
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} must hold a {MANIFEST}", got="none", fix="run `vimss shard RECIPE` to write the shards"
        ) from error
