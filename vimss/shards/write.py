"""From a recipe to shards: tar files of clips that plain `tar` and plain webdataset open, and their manifest.

    with ray_running(place):
        manifest = write_shards(recipe, "quickstart", store, on_progress=print)

The unit of work is a shard: a group of pieces, written by one Ray task under a temporary name and renamed, or uploaded.
An interrupted run goes on where it was; the manifest comes last. Members of a clip, `KEY` being piece and offset:

    KEY.json               piece, offset, samples, rates, the list of players, and the SHA-256 of the other members
    KEY.player0.wav        int16 stem (or .flac); absent where the player rests
    KEY.player0.mp4        the player's crop of the video
    KEY.player0.masks.npz  ground truth pixels, bit-packed over the last axis; KEY.player0.boxes.npy
    KEY.player0.notes.npy  annotations of any name: rows that begin with seconds from the clip's begin
    KEY.mixture.wav        only where the mix is not the sum of the stems
"""

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import webdataset as wds
from pydantic import Field

from vimss.config import Config, parse_config, signature
from vimss.errors import DataError, MediaError
from vimss.media import encode_audio, encode_video
from vimss.runtime import parallel_map
from vimss.shards.clip import Clip
from vimss.shards.corpora import Listing, Piece, reader_of
from vimss.shards.manifest import MANIFEST, Manifest, PieceEntry, Shard, open_shards
from vimss.shards.recipe import SPLITS, Recipe
from vimss.shards.refuse import Loudness, check_clip
from vimss.storage import Folder, Store, sha256

FORMAT = 2
"""Raised when the members of a clip change, so that old shards are written anew."""

INDEX = "index"
"""Folder with one small JSON per finished shard, from which the manifest is made."""

SOURCE = "source.tsv"
"""Names and sizes of the files that the shards were made from, where they were not generated."""


class _Written(Config):
    """What the task of one shard reports."""

    name: str = Field(description="of the shard, without its ending")
    shard: Shard | None = Field(description="none where not one of its pieces could be read")
    pieces: tuple[PieceEntry, ...]
    digests: tuple[str, ...] = Field(description="of every stem's samples")
    missing: tuple[str, ...] = Field((), description="pieces that could not be read, and why")

    @property
    def seconds(self) -> float:
        """Of music."""
        return self.shard.seconds if self.shard is not None else 0.0


@dataclass(frozen=True)
class Progress:
    """How far writing has come."""

    shards_done: int
    shards: int
    seconds: float
    """Seconds of music written so far."""


def shards_folder(recipe: Recipe, name: str, store: Store) -> Folder:
    """Where the shards of a recipe lie: its name and what its content is a function of."""
    return store.shards / f"{name}-{shards_signature(recipe)}"


def shards_signature(recipe: Recipe) -> str:
    """Equal signatures, equal shards. Description and the like do not count."""
    irrelevant = {"description", "licence", "obtain", "expect", "most_silent"}
    return signature(recipe.model_dump(mode="json", exclude=irrelevant), FORMAT)


def write_shards(
    recipe: Recipe,
    name: str,
    store: Store,
    source: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Write the shards of a recipe, or open them where they exist. Needs a running Ray."""
    folder = shards_folder(recipe, name, store)
    if MANIFEST in folder.sizes():
        _check_source(folder, source)
        return open_shards(folder, store)
    reader = reader_of(recipe.corpus)
    options = parse_config(recipe.options, reader.Options, f"shards/{name}.yaml: options")
    listing: Listing = reader.pieces(recipe, options, source)
    groups = _group(_checked_pieces(listing, recipe, source), recipe)
    _check_source(folder, source)
    tasks = [_Task(folder, shard, tuple(pieces), recipe, options, source) for shard, pieces in groups.items()]
    # The longest first, so that no core waits at the end for one that began late.
    tasks.sort(key=lambda task: -sum(piece.seconds for piece in task.pieces))
    done: list[_Written] = []

    def count(written: _Written) -> None:
        done.append(written)
        if on_progress is not None:
            on_progress(Progress(len(done), len(tasks), sum(entry.seconds for entry in done)))

    parallel_map(_write_shard, tasks, count)
    _refuse_shared_audio(done)
    done.sort(key=lambda written: written.name)
    pieces = tuple(piece for written in done for piece in written.pieces)
    missing = (*listing.missing, *(reason for written in done for reason in written.missing))
    read = {piece.name for piece in pieces}
    _check_expected([piece.seconds for piece in listing.pieces if piece.name in read], missing, recipe, source)
    manifest = Manifest(
        name=name,
        recipe=recipe,
        signature=shards_signature(recipe),
        shards=tuple(written.shard for written in done if written.shard is not None),
        pieces=pieces,
        missing=missing,
        pairs=listing.pairs,
    )
    with folder.publish(MANIFEST) as temporary:
        temporary.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    return open_shards(folder, store)


def clip_members(clip: Clip, recipe: Recipe) -> dict[str, bytes]:
    """The members of one clip: extension to content. The JSON has the SHA-256 of all others."""
    description: dict[str, Any] = {
        "piece": clip.piece,
        "offset": clip.offset,
        "samples": clip.samples,
        "sample_rate": clip.sample_rate,
        "frame_rate": clip.frame_rate,
        "players": [],
    }
    members = dict(_players_members(clip, recipe, description["players"]))
    if clip.mixture is not None:
        description["mixture"] = f"mixture.{recipe.audio_format}"
        members[description["mixture"]] = encode_audio(clip.mixture, clip.sample_rate, recipe.audio_format)
    description["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    return {**members, "json": json.dumps(description, sort_keys=True).encode()}


def _players_members(clip: Clip, recipe: Recipe, players: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """The members of a clip's players, whose entries in the JSON are put into `players`."""
    pictures: dict[int, str] = {}
    for index, player in enumerate(clip.players):
        name = f"player{index}"
        entry: dict[str, Any] = {
            "instrument": player.instrument,
            "part": player.part,
            "silent": player.silent,
            "timbre": player.timbre,
        }
        if player.audio is not None:
            entry["audio"] = f"{name}.{recipe.audio_format}"
            yield entry["audio"], encode_audio(player.audio, clip.sample_rate, recipe.audio_format)
        if player.picture is not None:
            # Players who cannot be told apart are seen in one picture.
            entry["picture"] = pictures.get(id(player.picture), f"{name}.mp4")
            if id(player.picture) not in pictures:
                yield entry["picture"], encode_video(player.picture, clip.frame_rate)
            pictures[id(player.picture)] = entry["picture"]
        if player.masks is not None:
            entry["masks"] = f"{name}.masks.npz"
            buffer = io.BytesIO()
            np.savez_compressed(buffer, packed=np.packbits(player.masks, axis=-1), width=player.masks.shape[-1])
            yield entry["masks"], buffer.getvalue()
        for member, array in (("boxes", player.boxes), ("features", player.features)):
            if array is not None:
                entry[member] = f"{name}.{member}.npy"
                yield entry[member], _npy(array)
        if player.annotations:
            entry["annotations"] = {kind: f"{name}.{kind}.npy" for kind in sorted(player.annotations)}
            for kind, member in entry["annotations"].items():
                yield member, _npy(player.annotations[kind])
        players.append(entry)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Task:
    folder: Folder
    name: str
    pieces: tuple[Piece, ...]
    recipe: Recipe
    options: Config
    source: Path | None


def _write_shard(task: _Task) -> _Written:
    index, name = f"{INDEX}/{task.name}.json", f"{task.name}.tar"
    with suppress(FileNotFoundError):
        return _Written.model_validate_json(task.folder.read_bytes(index))
    reader: ModuleType = reader_of(task.recipe.corpus)
    entries: list[PieceEntry] = []
    digests: list[str] = []
    unread: list[str] = []
    clips = 0
    shard: Shard | None = None
    with suppress(_NothingReadError), task.folder.publish(name) as temporary:
        # A fixed time stamp makes equal content equal bytes.
        with wds.TarWriter(str(temporary), encoder=False, mtime=0) as tar:
            for piece in task.pieces:
                try:
                    found = _read_piece(reader, piece, task)
                except (DataError, MediaError) as error:
                    if not task.recipe.may_lack_pieces:
                        raise
                    unread.append(f"{piece.name}: {error}")
                    continue
                for clip in found:
                    tar.write({"__key__": clip.key, **clip_members(clip, task.recipe)})
                    digests += _stem_digests(clip)
                clips += len(found)
                entries.append(_entry(piece, found))
        if not clips:
            raise _NothingReadError
        shard = Shard(
            name=name,
            split=task.pieces[0].split,
            clips=clips,
            seconds=sum(entry.seconds for entry in entries),
            size=temporary.stat().st_size,
            sha256=sha256(temporary),
        )
    written = _Written(
        name=task.name, shard=shard, pieces=tuple(entries), digests=tuple(digests), missing=tuple(unread)
    )
    with task.folder.publish(index) as temporary:
        temporary.write_text(written.model_dump_json(), encoding="utf-8")
    return written


class _NothingReadError(Exception):
    """No piece of a shard could be read: there is no such shard."""


def _read_piece(reader: ModuleType, piece: Piece, task: _Task) -> list[Clip]:
    """The clips of a piece, after all checks: nothing of one that is refused is written."""
    loudness, clips = Loudness(), []
    for clip in reader.read(piece, task.recipe, task.options, task.source):
        check_clip(clip, piece, task.recipe)
        loudness.hear(clip)
        clips.append(clip)
    loudness.check(piece, task.recipe)
    return clips


def _stem_digests(clip: Clip) -> list[str]:
    stems = [player.audio for player in clip.players if player.audio is not None]
    return [hashlib.sha256(stem.tobytes()).hexdigest() for stem in stems]


def _entry(piece: Piece, clips: Sequence[Clip]) -> PieceEntry:
    return PieceEntry(
        name=piece.name,
        split=piece.split,
        composition=piece.composition,
        seconds=sum(clip.samples / clip.sample_rate for clip in clips),
        instruments=tuple(sorted({player.instrument for clip in clips for player in clip.players})),
    )


def _check_source(folder: Folder, source: Path | None) -> None:
    """Remember the names and sizes of the source's files; DataError where these shards were begun from others."""
    if source is None:
        return
    files = sorted(path for path in source.rglob("*") if path.is_file())
    listing = "".join(f"{path.relative_to(source)}\t{path.stat().st_size}\n" for path in files)
    # As long as no shard is finished, a source may be mended.
    if not (folder / INDEX).sizes():
        with folder.publish(SOURCE) as temporary:
            temporary.write_text(listing, encoding="utf-8")
    elif SOURCE not in folder.sizes() or folder.read_bytes(SOURCE).decode() != listing:
        raise DataError(
            f"{source} must hold the files that {folder} was begun from",
            got=f"other names or sizes than in {SOURCE}",
            fix=f"copy the recipe under another name, or delete {folder} to write it anew",
        )


def _checked_pieces(listing: Listing, recipe: Recipe, source: Path | None) -> tuple[Piece, ...]:
    pieces = listing.pieces
    _check_expected([piece.seconds for piece in pieces], listing.missing, recipe, source)
    if not pieces:
        raise DataError(
            f"the source of the corpus '{recipe.corpus}' must hold at least one piece",
            got=f"none under {source}" if source else "none",
            fix=f"obtain the data first: {recipe.obtain}",
        )
    splits: dict[str, str] = {}
    names: set[str] = set()
    for piece in pieces:
        if piece.name in names:
            raise DataError(
                "every piece must have a name of its own", got=f"{piece.name} twice", fix="take one of them away"
            )
        names.add(piece.name)
        if piece.split not in SPLITS:
            raise DataError(
                f"the split of {piece.name} must be one of {', '.join(SPLITS)}",
                got=piece.split,
                fix="correct the reader",
            )
        if splits.setdefault(piece.composition, piece.split) != piece.split:
            raise DataError(
                f"the composition {piece.composition} must stand in one split",
                got=f"{splits[piece.composition]} and {piece.split}",
                fix="move all its pieces to one of them",
            )
    return pieces


def _check_expected(lengths: Sequence[float], missing: Sequence[str], recipe: Recipe, source: Path | None) -> None:
    """DataError where more of a corpus is missing than its recipe allows: a download may have broken off."""
    expect = recipe.expect
    if expect is None:
        return
    few = len(lengths) < (1 - expect.most_missing) * expect.pieces
    seconds = sum(lengths)
    # Lengths are told to the second or so.
    if few or seconds < 0.98 * (1 - expect.most_missing) * expect.seconds:
        lacking = f"; missing: {first_of(missing)}" if missing else ""
        wanted = f", together {expect.seconds:.0f} s" if expect.seconds else ""
        raise DataError(
            f"{source} must hold {expect.pieces} pieces{wanted}, of which a share of {expect.most_missing:g} may be "
            "missing",
            got=f"{len(lengths)} pieces, together {seconds:.0f} s{lacking}",
            fix=f"complete the download ({recipe.obtain}), or allow more: --set expect.most_missing=0.9",
        )


def first_of(names: Sequence[str], most: int = 10) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _group(pieces: Sequence[Piece], recipe: Recipe) -> dict[str, list[Piece]]:
    """Shard name to its pieces: neighbours of one split, about `clips_per_shard` clips together."""
    groups: dict[str, list[Piece]] = {}
    for split in SPLITS:
        room, number = 0, -1
        for piece in (piece for piece in pieces if piece.split == split):
            if room <= 0:
                number += 1
                room = recipe.clips_per_shard
            groups.setdefault(f"{split}-{number:06d}", []).append(piece)
            room -= math.ceil(piece.seconds / recipe.clip_seconds)
    return groups


def _refuse_shared_audio(done: list[_Written]) -> None:
    split_of: dict[str, tuple[str, str]] = {}
    for shard, digests in ((written.shard, written.digests) for written in done if written.shard is not None):
        for digest in digests:
            split, name = split_of.setdefault(digest, (shard.split, shard.name))
            if split != shard.split:
                raise DataError(
                    "the same sound must not stand in two splits",
                    got=f"one stem in {name} and in {shard.name}",
                    fix="put both pieces into one split",
                )
