"""YouTube-8M, frame level: features of a picture and of the sound of each second of a video, and its classes. No media.

    SOURCE/2/frame/train/train0000.tfrecord          dealt to train
    SOURCE/3/frame/validate/validate0000.tfrecord    dealt to valid, promote and test, by video
    SOURCE/3/frame/test/test0000.tfrecord            test, where its records have labels; as published they have none
    SOURCE/vocabulary.csv                            Index,TrackCount,KnowledgeGraphId,Name,...; only needed where
                                                     options.classes has names

Any of the files will do. Each record is a SequenceExample with `id` and `labels`, and in each frame, one a second,
`rgb` of 1024 bytes and `audio` of 128. A byte q stands for q * 4/255 + 4/512 - 2.

A video is a piece with a player for each of its classes that is kept; others are left out. Who is where is not known,
so all players have the same features. There is no stem and no mixture, so no separator can be trained on it. The
objective `weak_labels` reads the features of the sound; `correspondence` with `correspondence.inputs: features` reads
those of the picture too, and what a picture does not belong to is the sound of other videos.
"""

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16
from pydantic import Field

from vimss.config import Config
from vimss.errors import ConfigError, DataError
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import Listing, Piece, cut_piece
from vimss.shards.recipe import Recipe
from vimss.shards.source import Problems, did_you_mean, gone, plain_name, source_folder, visible
from vimss.shards.table import read_records
from vimss.shards.tfrecord import Record, Sequence, Value, list_records, parse_sequence, read_record

VOCABULARY = "vocabulary.csv"
NUM_CLASSES = 3862
RGB, AUDIO = 1024, 128
"""Bytes of a frame."""
FRAME_RATE = 1.0
"""Frames per second."""
SPLITS = ("valid", "promote", "test")
"""That the videos of `validate` are dealt to, in equal shares."""


VERSION = 1
"""Raised when what this reader gives for the same source and settings changes: shards are then written anew."""


class Options(Config):
    """Settings of the reader."""

    classes: dict[str, str] = Field(
        {}, description='classes that are kept, by name or, in quotes, by index ("42"), and the label of each'
    )


@dataclass(frozen=True)
class _Video:
    name: str
    video_id: str
    labels: tuple[str, ...]
    """Of the recipe, those that are kept."""
    frames: int


def pieces(recipe: Recipe, options: Options, source: Path | None) -> Listing:
    """The videos with one of the classes. Their features are checked when they are read."""
    folder = source_folder(source, recipe)
    labels = _labels(recipe, options, folder)
    found: dict[str, Piece] = {}
    problems, others, again = Problems(), 0, 0
    for path in _files(folder):
        with problems.of(path.name):
            for record in list_records(path):
                with problems.of(f"record {record.number} of {path.name}"):
                    example = parse_sequence(_content(path, record), _called(path, record))
                    video = _video(example, labels, path, record)
                    if not video.labels:
                        others += 1
                    elif video.video_id in found:
                        again += 1
                    else:
                        split = _split(path, video.video_id, recipe.seed)
                        seconds = video.frames / FRAME_RATE
                        found[video.video_id] = Piece(video.name, split, video.video_id, seconds)
    notes = [f"{others} videos without a class that is kept were left out"] if others else []
    notes += [f"{again} videos are in several files, and were read from the first"] if again else []
    return Listing(tuple(found.values()), problems.missing(recipe, len(found)), notes=tuple(notes))


def read(piece: Piece, recipe: Recipe, options: Options, source: Path | None) -> Iterator[Clip]:
    """The clips of one video: one, unless the recipe's clips are shorter."""
    folder = source_folder(source, recipe)
    path, record = _find(piece, folder)
    name = _called(path, record)
    example = parse_sequence(read_record(path, record), name)
    video = _video(example, _labels(recipe, options, folder), path, record)
    seen, heard = (_features(example, kind, size, name) for kind, size in (("rgb", RGB), ("audio", AUDIO)))
    if len(seen) != len(heard):
        raise DataError(
            f"{name} must have as many frames of audio as of rgb",
            got=f"{len(heard)} and {len(seen)}",
            fix="download the file again",
        )
    players = tuple(Player(label, label, features=seen, sound_features=heard) for label in video.labels)
    samples = round(len(seen) / FRAME_RATE * recipe.sample_rate)
    yield from cut_piece(Clip(piece.name, 0, samples, recipe.sample_rate, players, FRAME_RATE), recipe)


def _files(folder: Path) -> list[Path]:
    """The files of all versions, in order; DataError where there is none."""
    found = _files_below(folder)
    if not found:
        raise DataError(
            f"{folder} must hold files such as 2/frame/train/train0000.tfrecord",
            got="none",
            fix="name the folder that holds 2/frame or 3/frame with --source"
            + did_you_mean(folder, lambda near: bool(_files_below(near))),
        )
    return found


def _files_below(folder: Path) -> list[Path]:
    parts = [folder / version / "frame" / part for version in "23" for part in ("train", "validate", "test")]
    return [path for part in parts for path in visible(part) if path.suffix == ".tfrecord"]


def _content(path: Path, record: Record) -> bytes:
    """Of a record whose checksum is compared when it is read: that of each record of the corpus would take days."""
    with path.open("rb") as file:
        file.seek(record.begin)
        return file.read(record.size)


def _called(path: Path, record: Record) -> str:
    return f"record {record.number} of {path}"


def _name(path: Path, number: int) -> str:
    """Name of the piece: the version, the file and the number of the record."""
    return plain_name(f"{path.parents[2].name}-{path.stem}-{number}")


def _find(piece: Piece, folder: Path) -> tuple[Path, Record]:
    """The file and the record of a piece."""
    number = int(piece.name.rpartition("-")[2])
    path = next((path for path in _files(folder) if _name(path, number) == piece.name), None)
    record = None if path is None else next((one for one in list_records(path) if one.number == number), None)
    if path is None or record is None:
        raise gone(piece.name, folder)
    return path, record


def _split(path: Path, video_id: str, seed: int) -> str:
    part = path.parent.name
    if part != "validate":
        return part
    # By the video alone, so that files that are not there move no other.
    return SPLITS[int(hashlib.sha256(f"{seed} {video_id}".encode()).hexdigest(), 16) % len(SPLITS)]


def _video(example: Sequence, labels: Mapping[int, str], path: Path, record: Record) -> _Video:
    """What a record says of its video; DataError where it has no id, or a class that there is not."""
    name = _called(path, record)
    match example.context.get("id", []):
        case [bytes(video_id)] if video_id:
            pass
        case other:
            raise DataError(
                f"{name} must have one id", got=repr(other), fix="give frame-level files, not those of another corpus"
            )
    classes = example.context.get("labels", [])
    indices = [index for index in classes if isinstance(index, int) and index < NUM_CLASSES]
    unknown = [str(index) for index in classes if index not in indices]
    if unknown:
        raise DataError(
            f"{name} must have classes from 0 to {NUM_CLASSES - 1}",
            got=", ".join(unknown),
            fix="give the files of version 2 or 3, whose vocabulary has as many classes",
        )
    kept = tuple(dict.fromkeys(labels[index] for index in indices if index in labels))
    frames = len(example.frames.get("rgb", []))
    if kept and not frames:
        raise DataError(
            f"{name} must have frames of rgb", got="none", fix="give frame-level files, not video-level ones"
        )
    return _Video(_name(path, record.number), video_id.decode(errors="replace"), kept, frames)


def _features(example: Sequence, kind: str, size: int, name: str) -> Float16[np.ndarray, "v d"]:
    frames = example.frames.get(kind, [])
    for number, frame in enumerate(frames):
        if _size(frame) != size:
            raise DataError(
                f"frame {number} of {kind} in {name} must have {size} bytes",
                got=str(_size(frame)),
                fix="give frame-level files of version 2 or 3",
            )
    quantised = np.frombuffer(b"".join(frame for frame in frames if isinstance(frame, bytes)), np.uint8)
    return (quantised * np.float32(4 / 255) + np.float32(4 / 512 - 2)).astype(np.float16).reshape(-1, size)


def _size(frame: Value) -> int:
    return len(frame) if isinstance(frame, bytes) else 0


def _labels(recipe: Recipe, options: Options, folder: Path) -> dict[int, str]:
    """Index to label of the classes that are kept; ConfigError where a class or a label is not known."""
    if recipe.picture.frame_rate != FRAME_RATE:
        raise ConfigError(
            f"picture.frame_rate must be {FRAME_RATE:g}, as the corpus has it",
            got=f"{recipe.picture.frame_rate:g}",
            fix="remove it from what changes the recipe",
        )
    if not options.classes:
        raise ConfigError(
            "options.classes must hold the classes that are kept, and the label of each",
            got="none",
            fix="set it, as in shards/youtube8m.yaml",
        )
    lacking = sorted(set(options.classes.values()) - set(recipe.labels))
    if lacking:
        raise ConfigError(
            "labels of the recipe must hold the label of every class that is kept",
            got=f"none for {', '.join(lacking)}",
            fix="add them to labels, or correct options.classes",
        )
    indices = {key: int(key) for key in options.classes if key.isdecimal()}
    for index in indices.values():
        if index >= NUM_CLASSES:
            raise ConfigError(
                f"an index of options.classes must be from 0 to {NUM_CLASSES - 1}", got=str(index), fix="correct it"
            )
    names = indices if len(indices) == len(options.classes) else _vocabulary(folder / VOCABULARY) | indices
    for name in options.classes:
        if name not in names:
            near = difflib.get_close_matches(name, names, 3, 0.4) or sorted(names)[:3]
            raise ConfigError(
                f"options.classes must be names of {VOCABULARY}, or indices",
                got=repr(name),
                fix=f"correct it; near are: {'; '.join(near)}",
            )
    return {names[name]: label for name, label in options.classes.items()}


def _vocabulary(path: Path) -> dict[str, int]:
    """Name to index of the classes."""
    if not path.is_file():
        raise DataError(
            f"{path.parent} must hold {path.name}, as options.classes has names",
            got="no such file",
            fix="download it, or give indices in options.classes",
        )
    columns, rows = read_records(path)
    names = {row.get("name", ""): row.get("index", "") for _, row in rows}
    if not {"index", "name"} <= set(columns) or not all(index.isdecimal() for index in names.values()):
        raise DataError(
            f"{path} must have the columns Index, with numbers, and Name",
            got=", ".join(columns) or "no columns",
            fix="download it again",
        )
    return {name: int(index) for name, index in names.items()}
