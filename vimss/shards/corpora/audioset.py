"""AudioSet: 10-second segments of YouTube videos with the instruments that annotators heard in them; no stems.

    SOURCE/balanced_train_segments.csv     ID, 30.000, 40.000, "/m/07y_7,/m/01xqw" after lines that begin with #
    SOURCE/eval_segments.csv               the same
    SOURCE/class_labels_indices.csv        index,mid,display_name
    SOURCE/ontology.json                   only needed where options.classes is empty
    SOURCE/media/ID_30000.mp4              holds the segment that starts at 30000 ms, and nothing else
    SOURCE/media/ID.mp4                    or holds the whole recording, from which the segment is cut

Media may be any sound or video file. A segment is a mixture with one player per label, without stems: who
is where is not annotated, so all have the same picture, the middle square. With `options.players: recording` a segment
is one player instead, whose stem is all that sounds in it: for objectives that learn which sound goes with which
picture. Segments without a label of the recipe's classes are left out. The lists are CC BY; the videos belong to those
who put them on YouTube.
"""

import csv
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vimss.config import Config
from vimss.errors import ConfigError, DataError
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import Listing, Piece, common_seconds, cut_piece, deal, read_take
from vimss.shards.recipe import Recipe
from vimss.shards.source import Problems, did_you_mean, file_called, gone, source_folder
from vimss.shards.table import read_lines, read_text

CLASSES, ONTOLOGY, INSTRUMENT = "class_labels_indices.csv", "ontology.json", "Musical instrument"
ENDINGS = (
    *(".mp4", ".mkv", ".webm", ".mov", ".avi"),
    *(".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac"),
)
"""Endings of media files in order of preference, where a segment has several: videos before sound."""
SHORTEST_SECONDS = 1.0
"""Shortest rest of a segment whose recording ends early; below it, the segment is missing."""


class Segments(Config):
    """Lists of segments, by what they are for."""

    train: tuple[str, ...] = Field(
        ("balanced_train_segments.csv",), description="dealt to train, valid and promote, by video"
    )
    test: tuple[str, ...] = Field(("eval_segments.csv",), description="test; a video that is here is in no other split")


VERSION = 1
"""Raised when what this reader gives for the same source and settings changes: shards are then written anew."""


class Options(Config):
    """Settings of the reader."""

    segments: Segments = Segments()
    classes: tuple[str, ...] = Field(
        (), description="display names that are kept; if none, all that have no child below Musical instrument"
    )
    players: Literal["labels", "recording"] = Field(
        "labels",
        description="labels: a player of each label, without a stem; recording: one player, of the first label, whose "
        "stem is the whole sound, whatever else is in it",
    )


@dataclass(frozen=True)
class _Segment:
    video_id: str
    begin: float
    end: float
    classes: tuple[str, ...]
    """The ids of its classes, such as /m/07y_7."""

    @property
    def name(self) -> str:
        return f"{self.video_id}_{round(1000 * self.begin)}"


def pieces(recipe: Recipe, options: Options, source: Path | None) -> Listing:
    """The segments with one of the classes that are there, probed, and the names of those that are not."""
    folder = source_folder(source, recipe)
    labels = _labels(recipe, options, folder)
    train = [segment for name in options.segments.train for segment in _segments(folder / name)]
    test = [segment for name in options.segments.test for segment in _segments(folder / name)]
    splits = _splits(train, test, recipe.seed)
    # By name: the lists of AudioSet overlap.
    wanted = {segment.name: segment for segment in (*train, *test) if labels.keys() & set(segment.classes)}
    found: list[Piece] = []
    missing: list[str] = []
    problems = Problems()
    for name, segment in wanted.items():
        with problems.of(name):
            path, seconds = _seconds(segment, folder)
            if path is None or seconds < SHORTEST_SECONDS:
                missing.append(name)
            else:
                found.append(Piece(name, splits[segment.video_id], segment.video_id, seconds, (path,)))
    return Listing(tuple(found), (*missing, *problems.missing(recipe, len(found))))


def read(piece: Piece, recipe: Recipe, options: Options, source: Path | None) -> Iterator[Clip]:
    """The clips of one segment: one, unless the recipe's clips are shorter than segments."""
    folder = source_folder(source, recipe)
    labels = _labels(recipe, options, folder)
    segment = _segment(piece, options, folder)
    path, begin = _media(segment, folder) if segment is not None else (None, 0.0)
    if segment is None or path is None:
        raise gone(piece.name, folder)
    take = read_take(path, recipe, begin, begin + segment.end - segment.begin)
    audio, picture = take.audio, take.picture
    named = [labels[mid] for mid in segment.classes if mid in labels]
    whole_stem = options.players == "recording"
    if whole_stem:
        players: tuple[Player, ...] = (Player(named[0], named[0], audio, picture=picture),)
    else:
        players = tuple(Player(instrument=label, part=label, picture=picture) for label in named)
    frame_rate = 0.0 if picture is None else recipe.picture.frame_rate
    mixture = None if whole_stem else audio
    whole = Clip(piece.name, 0, audio.shape[1], recipe.sample_rate, players, frame_rate, mixture, take.notes)
    yield from cut_piece(whole, recipe)


def _segments(path: Path, beginning: str = "") -> Iterator[_Segment]:
    """The segments of a list, of those lines that have this beginning."""
    if not path.is_file():
        raise DataError(
            f"{path.parent} must hold {path.name}", got="no such file", fix="download it, or set options.segments"
        )
    for number, line in enumerate(read_lines(path), 1):
        if line.startswith(beginning) and line.strip() and not line.startswith("#"):
            yield _parse(line, f"line {number} of {path}")


def _parse(line: str, where: str) -> _Segment:
    try:
        (row,) = csv.reader([line], skipinitialspace=True)
        video_id, begin, end, classes = row
        segment = _Segment(video_id, float(begin), float(end), tuple(classes.split(",")))
    except ValueError as error:
        raise DataError(
            f'{where} must be ID, begin_seconds, end_seconds, "classes"',
            got=repr(line.strip()),
            fix="download it again",
        ) from error
    if not (re.fullmatch(r"[\w-]+", video_id, re.ASCII) and 0 <= segment.begin < segment.end):
        raise DataError(
            f"{where} must name a video and a stretch of it", got=repr(line.strip()), fix="download it again"
        )
    return segment


def _segment(piece: Piece, options: Options, folder: Path) -> _Segment | None:
    """The segment of a piece. Lists have millions of lines, so that only those of its video are parsed."""
    names = (*options.segments.train, *options.segments.test)
    segments = (segment for name in names for segment in _segments(folder / name, f"{piece.composition},"))
    return next((segment for segment in segments if segment.name == piece.name), None)


def _splits(train: Sequence[_Segment], test: Sequence[_Segment], seed: int) -> dict[str, str]:
    """Split of each video, whatever of it is there and whatever classes are kept."""
    dealt = deal(sorted({segment.video_id for segment in train}), seed)
    # The corpus has a test set of its own, so the share that is dealt to test goes to training.
    splits = {video_id: "train" if split == "test" else split for video_id, split in dealt.items()}
    return splits | {segment.video_id: "test" for segment in test}


def _media(segment: _Segment, folder: Path) -> tuple[Path | None, float]:
    """The file that holds a segment, if any does, and the second at which it starts there."""
    for stem, begin in ((segment.name, 0.0), (segment.video_id, segment.begin)):
        path = file_called(folder / "media", stem, ENDINGS)
        if path is not None:
            return path, begin
    return None, 0.0


def _seconds(segment: _Segment, folder: Path) -> tuple[Path | None, float]:
    """The file that holds a segment, if any does, and how much of the segment is there."""
    path, begin = _media(segment, folder)
    if path is None:
        return None, 0.0
    length = common_seconds([path], fix="obtain it again, or delete it, so that it counts as missing")
    return path, min(length - begin, segment.end - segment.begin)


def _labels(recipe: Recipe, options: Options, folder: Path) -> dict[str, str]:
    """The ids of the classes that are kept, with their labels; ConfigError where the recipe lacks one."""
    rows = csv.reader(_read(folder / CLASSES).splitlines())
    ids = {row[2]: row[1] for row in rows if len(row) == 3}
    # Not every class of the ontology has segments.
    classes = options.classes or [name for name in _instruments(folder / ONTOLOGY) if name in ids]
    for name in classes:
        if name not in ids:
            near = difflib.get_close_matches(name, ids, 3, 0.4) or sorted(ids)[:3]
            raise ConfigError(
                f"options.classes must be display names of {CLASSES}",
                got=repr(name),
                fix=f"correct it; near are: {'; '.join(near)}",
            )
    labels = {ids[name]: slug(name) for name in classes}
    lacking = [label for label in labels.values() if label not in recipe.labels]
    if lacking:
        raise ConfigError(
            "labels of the recipe must hold every class that is kept",
            got=f"none for {', '.join(lacking)}",
            fix=f"set labels: [{', '.join(labels.values())}]",
        )
    return labels


def slug(name: str) -> str:
    """A display name as a label: "Violin, fiddle" is violin_fiddle."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _instruments(path: Path) -> list[str]:
    """Display names of the ontology's leaves below Musical instrument."""
    if not path.is_file():
        raise ConfigError(
            f"options.classes must name the classes that are kept, or {path} must list the instruments",
            got="neither",
            fix=f"set options.classes, or download {path.name}",
        )
    try:
        by_id: dict[str, dict[str, Any]] = {node["id"]: node for node in json.loads(_read(path))}
        below = [mid for mid, node in by_id.items() if node["name"] == INSTRUMENT]
        for mid in below:  # which grows meanwhile
            below += [child for child in by_id[mid]["child_ids"] if child not in below]
        return [by_id[mid]["name"] for mid in below if not by_id[mid]["child_ids"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} must be a JSON list of classes with id, name and child_ids",
            got=f"{type(error).__name__}: {error}",
            fix="download it again",
        ) from error


def _read(path: Path) -> str:
    if not path.is_file():
        near = did_you_mean(path.parent, lambda folder: (folder / path.name).is_file())
        raise DataError(f"{path.parent} must hold {path.name}", got="no such file", fix=f"download it{near}")
    return read_text(path)
