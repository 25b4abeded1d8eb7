"""The task that writes one shard: a tar file of the clips of some pieces, and its entry in the index.

    found = write_shard(Task(folder, "train-000000", pieces, recipe, options, source))   # Written, or Bad

Members of a clip, `KEY` being piece and offset:

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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from pydantic import Field

from vimss.config import Config
from vimss.errors import DataError, MediaError, VimssError
from vimss.media import encode_audio, encode_video
from vimss.shards.clip import Clip
from vimss.shards.corpora import Piece, reader_of
from vimss.shards.manifest import PieceEntry, Shard
from vimss.shards.recipe import Recipe
from vimss.shards.source import unreadable
from vimss.shards.unchanged import check_stamp
from vimss.shards.validate import MixAndSum, SilenceCheck, check_clip
from vimss.storage import Folder, sha256

INDEX = "index"
"""Folder with one small JSON per finished shard, from which the manifest is made."""


class Written(Config):
    """The report of the task of one shard."""

    name: str = Field(description="of the shard, without its ending")
    shard: Shard | None = Field(description="none where not one of its pieces could be read")
    pieces: tuple[PieceEntry, ...]
    digests: tuple[str, ...] = Field(description="of every stem's samples, each with the name of its piece")
    missing: tuple[str, ...] = Field((), description="pieces that could not be read, and why")
    odd_mixtures: tuple[str, ...] = Field((), description="as in the manifest")
    notes: tuple[str, ...] = Field((), description="as in the manifest")
    silent: dict[str, float] = Field({}, description="as in the manifest")

    def suits(self, recipe: Recipe) -> bool:
        """Whether a recipe with stricter settings, which are not in its signature, takes all of it, too."""
        return (
            (recipe.may_lack_pieces or not self.missing)
            and (recipe.odd_mixtures == "list" or not self.odd_mixtures)
            and max(self.silent.values(), default=0.0) <= recipe.most_silent
        )

    @property
    def tried(self) -> set[str]:
        """Names of the pieces that were read or could not be."""
        return {piece.name for piece in self.pieces} | {reason.partition(":")[0] for reason in self.missing}

    @property
    def seconds(self) -> float:
        """Seconds of music."""
        return self.shard.seconds if self.shard is not None else 0.0


@dataclass(frozen=True)
class Bad:
    """Why a shard was not written: errors of its pieces."""

    pieces: tuple[Piece, ...]
    errors: tuple[VimssError, ...]


@dataclass(frozen=True)
class Task:
    """One shard that shall be written."""

    folder: Folder
    name: str
    pieces: tuple[Piece, ...]
    recipe: Recipe
    options: Config
    source: Path | None


def write_shard(task: Task) -> Written | Bad:
    """Write a shard, or find it where it is finished; Bad where a piece cannot be read that the recipe may not lack."""
    index, name = f"{INDEX}/{task.name}.json", f"{task.name}.tar"
    before = None
    with suppress(FileNotFoundError):
        before = Written.model_validate_json(task.folder.read_bytes(index))
        # A piece that was repaired may be longer now, and its shard hold fewer pieces.
        if {piece.name for piece in task.pieces} == before.tried and before.suits(task.recipe):
            return before
    # It imports torch: callers that only need the place of shards need not wait for it.
    import webdataset as wds

    shard = None
    read = _Read(task)
    with suppress(_NothingReadError), task.folder.atomic_write(name) as temporary:
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
        if before is not None:
            _publish(
                Written(name=task.name, shard=None, pieces=(), digests=()), task
            )  # outdated once pieces are repaired
        return Bad(tuple(read.bad), tuple(read.bad.values()))
    written = Written(
        name=task.name,
        shard=shard,
        pieces=tuple(read.entries),
        digests=tuple(read.digests),
        missing=tuple(read.missing),
        odd_mixtures=tuple(read.odd_mixtures),
        notes=tuple(read.notes),
        silent=read.silent,
    )
    _publish(written, task)
    return written


def _publish(written: Written, task: Task) -> None:
    with task.folder.atomic_write(f"{INDEX}/{task.name}.json") as temporary:
        temporary.write_text(written.model_dump_json(), encoding="utf-8")


class _NothingReadError(Exception):
    """No piece of a shard could be read, or not all that must be: there is no such shard."""


class _Read:
    """The pieces of a shard that were read so far."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.num_clips = 0
        self.entries: list[PieceEntry] = []
        self.digests: list[str] = []
        self.missing: list[str] = []
        self.bad: dict[Piece, VimssError] = {}
        """Pieces that cannot be read, and must be."""
        self.odd_mixtures: list[str] = []
        self.notes: list[str] = []
        self.silent: dict[str, float] = {}

    def clips(self) -> Iterator[Clip]:
        """The clips of all pieces that can be read; none any more once a piece is bad."""
        for piece in self.task.pieces:
            try:
                found, odd, silent = _read_piece(piece, self.task)
                check_stamp(piece.name, piece.files, piece.stamps)
            except (DataError, MediaError) as error:
                if self.task.recipe.may_lack_pieces:
                    self.missing.append(f"{piece.name}: {error}")
                else:
                    self.bad[piece] = error
                continue
            if self.bad:
                continue  # this shard is not written, but all that is wrong with it shall be named
            self.odd_mixtures += odd
            self.silent |= {piece.name: silent} if silent else {}
            self.notes += [
                f"{piece.name}: {note}" for note in dict.fromkeys(note for clip in found for note in clip.notes)
            ]
            self.num_clips += len(found)
            self.entries.append(_entry(piece, found))
            for clip in found:
                self.digests += [f"{digest} {piece.name}" for digest in _stem_digests(clip)]
                yield clip


def _read_piece(piece: Piece, task: Task) -> tuple[list[Clip], list[str], float]:
    """The clips of a piece after all checks, what is odd about its mix, and the share of its players that are silent.

    Nothing of a refused piece is written.
    """
    reader: ModuleType = reader_of(task.recipe.corpus)
    loudness, mix, clips = SilenceCheck(), MixAndSum(), []
    try:
        for clip in reader.read(piece, task.recipe, task.options, task.source):
            check_clip(clip, task.recipe)
            loudness.add(clip)
            mix.add(clip)
            clips.append(clip)
    except OSError as error:
        raise unreadable(error, task.source or Path(piece.name)) from error
    loudness.check(piece.name, task.recipe)
    odd = mix.oddities(piece.name)
    if odd and task.recipe.odd_mixtures == "refuse":
        raise DataError(
            f"the recorded mix of {piece.name} must be nearly the sum of its stems",
            got="; ".join(odd),
            fix="repair the files, take the piece away, or list such pieces: --set odd_mixtures=list",
        )
    return clips, odd, loudness.silent_share


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
    shared: dict[int, str] = {}
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
            # Players who cannot be distinguished share one picture, and its features.
            entry["picture"] = shared.get(id(player.picture), f"{name}.mp4")
            if id(player.picture) not in shared:
                yield entry["picture"], encode_video(player.picture, clip.frame_rate)
            shared[id(player.picture)] = entry["picture"]
        if player.masks is not None:
            entry["masks"] = f"{name}.masks.npz"
            buffer = io.BytesIO()
            np.savez_compressed(buffer, packed=np.packbits(player.masks, axis=-1), width=player.masks.shape[-1])
            yield entry["masks"], buffer.getvalue()
        arrays = {
            "boxes": player.boxes,
            "features": player.features,
            "sound_features": player.sound_features,
            "skeleton": player.skeleton,
        }
        for member, array in arrays.items():
            if array is not None:
                entry[member] = shared.get(id(array), f"{name}.{member}.npy")
                if id(array) not in shared:
                    yield entry[member], _npy(array)
                shared[id(array)] = entry[member]
        if player.annotations:
            entry["annotations"] = {kind: f"{name}.{kind}.npy" for kind in sorted(player.annotations)}
            for kind, member in entry["annotations"].items():
                yield member, _npy(player.annotations[kind])
        players.append(entry)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
