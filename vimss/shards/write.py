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
from vimss.errors import DataError, MediaError, VimssError
from vimss.media import encode_audio, encode_video
from vimss.runtime import parallel_map
from vimss.shards.clip import Clip
from vimss.shards.corpora import Listing, Piece, reader_of
from vimss.shards.manifest import MANIFEST, Manifest, PieceEntry, Shard, open_shards
from vimss.shards.recipe import SPLITS, Recipe
from vimss.shards.refuse import Loudness, MixAndSum, check_clip, check_expected, checked_pieces
from vimss.shards.source import Problems, first_of, source_folder, unreadable
from vimss.shards.unchanged import check_source, check_stamp, keep_source, stamp
from vimss.storage import Folder, Store, sha256

FORMAT = 2
"""Raised when the members of a clip change, so that old shards are written anew."""

INDEX = "index"
"""Folder with one small JSON per finished shard, from which the manifest is made."""


class _Written(Config):
    """What the task of one shard reports."""

    name: str = Field(description="of the shard, without its ending")
    shard: Shard | None = Field(description="none where not one of its pieces could be read")
    pieces: tuple[PieceEntry, ...]
    digests: tuple[str, ...] = Field(description="of every stem's samples, each with the name of its piece")
    missing: tuple[str, ...] = Field((), description="pieces that could not be read, and why")
    odd_mixtures: tuple[str, ...] = Field((), description="as in the manifest")
    notes: tuple[str, ...] = Field((), description="as in the manifest")

    @property
    def tried(self) -> set[str]:
        """Names of the pieces that were read or could not be."""
        return {piece.name for piece in self.pieces} | {reason.partition(":")[0] for reason in self.missing}

    @property
    def seconds(self) -> float:
        """Of music."""
        return self.shard.seconds if self.shard is not None else 0.0


@dataclass(frozen=True)
class _Bad:
    """Why a shard was not written: errors of its pieces."""

    pieces: tuple[Piece, ...]
    errors: tuple[VimssError, ...]


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
    irrelevant = {"description", "licence", "obtain", "expect", "most_silent", "odd_mixtures"}
    # It came later than the first shards, whose signatures it must not change.
    irrelevant |= set() if recipe.allow_truncated else {"allow_truncated"}
    return signature(recipe.model_dump(mode="json", exclude=irrelevant), FORMAT)


def write_shards(
    recipe: Recipe,
    name: str,
    store: Store,
    source: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Write the shards of a recipe, or open them where they exist. Needs a running Ray.

    Raises:
        DataError: The source is not what the recipe expects. Where pieces cannot be read and the recipe may lack none,
            the error names all of them; what is whole stays written, and the same call goes on once they are mended.

    """
    source = None if source is None else source_folder(source, recipe)
    folder = shards_folder(recipe, name, store)
    if MANIFEST in folder.sizes():
        check_source(folder, source, begun=True)
        return _accepted(open_shards(folder, store), recipe)
    reader = reader_of(recipe.corpus)
    options = parse_config(recipe.options, reader.Options, f"shards/{name}.yaml: options")
    listing: Listing = reader.pieces(recipe, options, source)
    groups = _group(checked_pieces(listing, recipe, source), recipe)
    check_source(folder, source, begun=bool((folder / INDEX).sizes()))
    tasks = [
        _Task(folder, shard, tuple(pieces), recipe, options, source, [stamp(piece.files) for piece in pieces])
        for shard, pieces in groups.items()
    ]
    # The longest first, so that no core waits at the end for one that began late.
    tasks.sort(key=lambda task: -sum(piece.seconds for piece in task.pieces))
    done = _written(tasks, recipe, on_progress)
    keep_source(folder, source)
    pieces = tuple(piece for written in done for piece in written.pieces)
    missing = (*listing.missing, *(reason for written in done for reason in written.missing))
    read = {piece.name for piece in pieces}
    check_expected([piece.seconds for piece in listing.pieces if piece.name in read], missing, recipe, source)
    manifest = Manifest(
        name=name,
        recipe=recipe,
        signature=shards_signature(recipe),
        shards=tuple(written.shard for written in done if written.shard is not None),
        pieces=pieces,
        missing=missing,
        odd_mixtures=tuple(sentence for written in done for sentence in written.odd_mixtures),
        notes=(*listing.notes, *(sentence for written in done for sentence in written.notes)),
        pairs=listing.pairs,
    )
    with folder.publish(MANIFEST) as temporary:
        temporary.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    return open_shards(folder, store)


def _written(
    tasks: Sequence["_Task"], recipe: Recipe, on_progress: Callable[[Progress], None] | None
) -> list[_Written]:
    """The shards of all tasks, in the order of their names; one error for all pieces that cannot be read."""
    done: list[_Written] = []
    bad: list[_Bad] = []

    def count(result: _Written | _Bad) -> None:
        if isinstance(result, _Bad):
            bad.append(result)
            return
        done.append(result)
        if on_progress is not None:
            on_progress(Progress(len(done), len(tasks), sum(entry.seconds for entry in done)))

    parallel_map(_write_shard, tasks, count)
    if bad:
        keep_source(
            tasks[0].folder, tasks[0].source, [path for one in bad for piece in one.pieces for path in piece.files]
        )
        problems = Problems()
        problems.found = [
            (piece.name, error) for one in bad for piece, error in zip(one.pieces, one.errors, strict=True)
        ]
        problems.missing(recipe, sum(len(task.pieces) for task in tasks) - len(problems.found))
    _refuse_shared_audio(done)
    return sorted(done, key=lambda written: written.name)


def _accepted(manifest: Manifest, recipe: Recipe) -> Manifest:
    """Shards that were written before; DataError where they have odd mixes, and those are refused now."""
    if recipe.odd_mixtures == "refuse" and manifest.odd_mixtures:
        raise DataError(
            f"the recorded mixes of {manifest.home} must be nearly the sums of their stems",
            got=first_of(manifest.odd_mixtures, between="; "),
            fix=f"mend or take away these pieces and delete {manifest.home}, or list them: --set odd_mixtures=list",
        )
    return manifest


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
    stamps: Sequence[dict[str, str]]
    """Of the files of each piece, when it was listed."""


def _write_shard(task: _Task) -> _Written | _Bad:
    index, name = f"{INDEX}/{task.name}.json", f"{task.name}.tar"
    with suppress(FileNotFoundError):
        before = _Written.model_validate_json(task.folder.read_bytes(index))
        # A piece that was mended may be longer now, and its shard hold fewer pieces.
        if {piece.name for piece in task.pieces} == before.tried:
            return before
    shard = None
    read = _Read(task)
    with suppress(_NothingReadError), task.folder.publish(name) as temporary:
        # A fixed time stamp makes equal content equal bytes.
        with wds.TarWriter(str(temporary), encoder=False, mtime=0) as tar:
            for clip in read.clips():
                tar.write({"__key__": clip.key, **clip_members(clip, task.recipe)})
        if read.bad or not read.num_clips:
            raise _NothingReadError
        shard = Shard(
            name=name,
            split=task.pieces[0].split,
            clips=read.num_clips,
            seconds=sum(entry.seconds for entry in read.entries),
            size=temporary.stat().st_size,
            sha256=sha256(temporary),
        )
    if read.bad:
        return _Bad(tuple(read.bad), tuple(read.bad.values()))
    written = _Written(
        name=task.name,
        shard=shard,
        pieces=tuple(read.entries),
        digests=tuple(read.digests),
        missing=tuple(read.missing),
        odd_mixtures=tuple(read.odd_mixtures),
        notes=tuple(read.notes),
    )
    with task.folder.publish(index) as temporary:
        temporary.write_text(written.model_dump_json(), encoding="utf-8")
    return written


class _NothingReadError(Exception):
    """No piece of a shard could be read, or not all that must be: there is no such shard."""


class _Read:
    """What was read of a shard's pieces so far."""

    def __init__(self, task: _Task) -> None:
        self.task = task
        self.num_clips = 0
        self.entries: list[PieceEntry] = []
        self.digests: list[str] = []
        self.missing: list[str] = []
        self.bad: dict[Piece, VimssError] = {}
        """Pieces that cannot be read, and must be."""
        self.odd_mixtures: list[str] = []
        self.notes: list[str] = []

    def clips(self) -> Iterator[Clip]:
        """The clips of all pieces that can be read; none any more once a piece is bad."""
        for piece, before in zip(self.task.pieces, self.task.stamps, strict=True):
            try:
                found, odd = _read_piece(piece, self.task)
                check_stamp(piece.name, piece.files, before)
            except (DataError, MediaError) as error:
                if self.task.recipe.may_lack_pieces:
                    self.missing.append(f"{piece.name}: {error}")
                else:
                    self.bad[piece] = error
                continue
            if self.bad:
                continue  # this shard is not written, but all that is wrong with it shall be named
            self.odd_mixtures += odd
            self.notes += [
                f"{piece.name}: {note}" for note in dict.fromkeys(note for clip in found for note in clip.notes)
            ]
            self.num_clips += len(found)
            self.entries.append(_entry(piece, found))
            for clip in found:
                self.digests += [f"{digest} {piece.name}" for digest in _stem_digests(clip)]
                yield clip


def _read_piece(piece: Piece, task: _Task) -> tuple[list[Clip], list[str]]:
    """The clips of a piece after all checks, and what is odd about its mix; nothing of a refused one is written."""
    reader: ModuleType = reader_of(task.recipe.corpus)
    loudness, mix, clips = Loudness(), MixAndSum(), []
    try:
        for clip in reader.read(piece, task.recipe, task.options, task.source):
            check_clip(clip, task.recipe)
            loudness.hear(clip)
            mix.hear(clip)
            clips.append(clip)
    except OSError as error:
        raise unreadable(error, task.source or Path(piece.name)) from error
    loudness.check(piece.name, task.recipe)
    odd = mix.oddities(piece.name)
    if odd and task.recipe.odd_mixtures == "refuse":
        raise DataError(
            f"the recorded mix of {piece.name} must be nearly the sum of its stems",
            got="; ".join(odd),
            fix="mend the files, take the piece away, or list such pieces: --set odd_mixtures=list",
        )
    return clips, odd


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
    first: dict[str, tuple[Shard, str]] = {}
    shared: list[str] = []
    for written in done:
        for digest, _, piece in (line.partition(" ") for line in written.digests):
            if written.shard is None:
                continue
            shard, other = first.setdefault(digest, (written.shard, piece))
            if shard.split != written.shard.split:
                shared.append(f"one stem of {other} in {shard.name} and of {piece} in {written.shard.name}")
    if shared:
        raise DataError(
            "the same sound must not stand in two splits",
            got=first_of(list(dict.fromkeys(shared)), between="; "),
            fix="put both pieces into one split",
        )
