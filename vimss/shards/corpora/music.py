"""MUSIC and MUSIC21: solos and duets on YouTube, as lists of ids, with what of them could be obtained.

    SOURCE/MUSIC_solo_videos.json                     {"version": ..., "videos": {class: [ids]}}
    SOURCE/MUSIC_duet_videos.json                     the same; the keys are two classes with a space between them
    SOURCE/cello/ID.mp4                               the video (or .mkv, .webm) of a solo
    SOURCE/saxophone acoustic_guitar/ID.mp4           that of a duet
    SOURCE/pairs.csv                                  yours, if options.pairs names it: two ids of test solos per line

Instead of a video, the files that Sound-of-Pixels (Zhao et al., 2018) prepares:

    SOURCE/data/audio/cello/ID.mp3                    or .wav
    SOURCE/data/frames/cello/ID.mp4/000001.jpg        a folder; 8 pictures per second, see options.frame_rate

A solo is one player with a stem. A duet is two players without stems and a mixture. Each of the two is in one half of
the picture, but who sits where is not recorded: a duet's pictures are right for half of the duets, on average.
The splits are dealt per class over all ids of the lists, so that a video that is missing moves no other. A video in two
lists or classes is in one split. The videos belong to those who put them on YouTube.
"""

import json
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import UInt8
from pydantic import Field, TypeAdapter

from vimss.config import Config
from vimss.errors import ConfigError, DataError
from vimss.media import Box, columns, fitting_gain, middle_square, probe, quantise
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import Listing, Piece, common_seconds, cut_piece, deal, read_frames, read_pictures, read_sound
from vimss.shards.recipe import Recipe
from vimss.shards.source import Problems, did_you_mean, file_called, gone, plain_name, source_folder
from vimss.shards.table import read_table, read_text

VIDEOS, SOUNDS = (".mp4", ".mkv", ".webm"), (".mp3", ".wav")
FRAMES_TOLERANCE = 0.1
"""Share of a recording by which its JPEG files may be too few or too many; another frame rate is further off."""

HEADER = re.compile(r"(video|solo|youtube|first|second)?[ _-]?(id)?[ _-]?(\d|a|b|one|two)?", re.IGNORECASE)
"""Words that stand above lists of ids."""


VERSION = 1
"""Raised when what this reader gives for the same source and settings changes: shards are then written anew."""


class Options(Config):
    """Settings of the reader."""

    lists: tuple[str, ...] = Field(
        ("MUSIC_solo_videos.json", "MUSIC_duet_videos.json"), min_length=1, description="files of ids, in the source"
    )
    frame_rate: float = Field(8.0, gt=0, le=60, description="pictures per second, where they are JPEG files")
    pairs: tuple[str, ...] = Field(
        (), description="files in the source with two ids per line, solos of test that evaluation mixes"
    )


# Both become parts of paths.
_Key = Annotated[str, Field(pattern=r"^\w[\w -]*$")]
_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


@dataclass(frozen=True)
class _Video:
    """One id of a list."""

    key: str
    """Class of a solo; classes of a duet."""
    video_id: str

    @property
    def name(self) -> str:
        return plain_name(f"{self.key}-{self.video_id}")

    @property
    def labels(self) -> list[str]:
        return self.key.split(" ")


def pieces(recipe: Recipe, options: Options, source: Path | None) -> Listing:
    """The videos of the lists that are there, probed, and the names of those that are not."""
    folder = source_folder(source, recipe)
    videos = _videos(recipe, options, folder)
    splits = _splits(videos, recipe.seed)
    found: dict[_Video, Piece] = {}
    missing: list[str] = []
    problems = Problems()
    for video in videos:
        sound = _sound(video, folder)
        if sound is None:
            missing.append(video.name)
            continue
        with problems.of(video.name):
            seconds = _seconds(video, sound, options, folder)
            files = (sound, *{path.parent for path in _images(video, sound, folder)})
            found[video] = Piece(video.name, splits[video.video_id], video.video_id, seconds, files)
    missing += problems.missing(recipe, len(found))
    solos = [video for video in found if len(video.labels) == 1 and splits[video.video_id] == "test"]
    ids = {video.video_id for video in videos}
    pairs = [pair for name in options.pairs for pair in _pairs(folder / name, solos, ids)]
    return Listing(tuple(found.values()), tuple(missing), tuple(pairs))


def read(piece: Piece, recipe: Recipe, options: Options, source: Path | None) -> Iterator[Clip]:
    """The clips of one video, each at most `recipe.clip_seconds` long."""
    folder = source_folder(source, recipe)
    video = next((video for video in _videos(recipe, options, folder) if video.name == piece.name), None)
    path = None if video is None else _sound(video, folder)
    if video is None or path is None:
        raise gone(piece.name, folder)
    sound, notes = read_sound(path, recipe)
    audio = quantise(fitting_gain(sound) * sound)
    samples, solo = audio.shape[1], len(video.labels) == 1
    images = _images(video, path, folder)
    pictures, met = _pictures(path, images, len(video.labels), recipe, options, samples / recipe.sample_rate)
    players = tuple(
        Player(
            instrument=label,
            part=f"{place + 1}-{label}",
            audio=audio if solo else None,
            picture=pictures[place] if pictures else None,
        )
        for place, label in enumerate(video.labels)
    )
    frame_rate, mixture = recipe.picture.frame_rate if pictures else 0.0, None if solo else audio
    whole = Clip(piece.name, 0, samples, recipe.sample_rate, players, frame_rate, mixture, (*notes, *met))
    yield from cut_piece(whole, recipe)


def _videos(recipe: Recipe, options: Options, folder: Path) -> list[_Video]:
    """All ids of the lists, once per class: solos first, in the order of their names."""
    videos = {_Video(key, name) for path in options.lists for key, ids in _read_list(folder / path) for name in ids}
    labels = {label for video in videos for label in video.labels}
    lacking = sorted(labels - set(recipe.labels))
    if lacking:
        raise ConfigError(
            f"labels of the recipe must hold the classes of {', '.join(options.lists)}",
            got=f"none for {', '.join(lacking)}",
            fix=f"set labels: [{', '.join((*recipe.labels, *lacking))}]",
        )
    return sorted(videos, key=lambda video: (len(video.labels), video.key, video.video_id))


def _read_list(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Classes and their ids."""
    if not path.is_file():
        raise DataError(
            f"{path.parent} must hold the list {path.name}",
            got="no such file",
            fix="copy it there from the dataset's repository, or name others in options.lists"
            + did_you_mean(path.parent, lambda near: (near / path.name).is_file()),
        )
    try:
        videos = json.loads(read_text(path))["videos"]
        return list(TypeAdapter(dict[_Key, tuple[_Id, ...]]).validate_python(videos).items())
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path} must be JSON of the form {{"videos": {{class: [ids]}}}}',
            got=str(error).replace("\n", " "),
            fix="copy it again from the dataset's repository",
        ) from error


def _splits(videos: Sequence[_Video], seed: int) -> dict[str, str]:
    """Split of each id, dealt class by class; who stands in an earlier class too keeps the split it got there."""
    splits: dict[str, str] = {}
    for key in dict.fromkeys(video.key for video in videos):
        ids = [video.video_id for video in videos if video.key == key and video.video_id not in splits]
        splits |= deal(ids, seed)
    return splits


def _sound(video: _Video, folder: Path) -> Path | None:
    """The file with a video's sound, None where it is missing."""
    prepared = folder / "data" / "audio" / video.key
    return file_called(folder / video.key, video.video_id, VIDEOS) or file_called(prepared, video.video_id, SOUNDS)


def _images(video: _Video, sound: Path, folder: Path) -> list[Path]:
    """The pictures of a video that lie in files of their own, in order."""
    frames = folder / "data" / "frames" / video.key / f"{video.video_id}.mp4"
    if sound.suffix.lower() in VIDEOS or not frames.is_dir():
        return []
    return sorted(frames.glob("*.jpg"))


def _seconds(video: _Video, sound: Path, options: Options, folder: Path) -> float:
    """Length of a recording; DataError where its JPEG files do not last as long."""
    seconds = common_seconds([sound], fix="obtain it again, or delete it, so that it counts as missing")
    images = _images(video, sound, folder)
    names = [path.name for path in images]
    if names != [f"{number:06d}.jpg" for number in range(1, len(names) + 1)]:
        raise DataError(
            f"{images[0].parent} must hold pictures from 000001.jpg on, without a gap",
            got=f"{len(names)} from {names[0]} to {names[-1]}",
            fix="extract them again",
        )
    lasting = len(images) / options.frame_rate
    # A second more: how an extractor rounds.
    if images and abs(lasting - seconds) > 1 + FRAMES_TOLERANCE * seconds:
        raise DataError(
            f"the pictures in {images[0].parent} must last as long as {sound.name}, {seconds:.1f} s",
            got=f"{lasting:.1f} s: {len(images)} at {options.frame_rate:g} per second",
            fix="extract them again, or set options.frame_rate to the rate at which that was done",
        )
    return seconds


def _pictures(
    sound: Path, images: Sequence[Path], players: int, recipe: Recipe, options: Options, seconds: float
) -> tuple[list[UInt8[np.ndarray, "v h w 3"]], tuple[str, ...]]:
    """The picture of each player over the whole recording, and notes; nothing where there is no picture."""
    if images:
        rate = recipe.picture.frame_rate
        times = (np.arange(max(1, round(seconds * rate))) + 0.5) / rate
        # The last picture stays where they end early.
        shown = [images[min(math.floor(time * options.frame_rate), len(images) - 1)] for time in times]
        return read_frames(shown, _boxes(images[0], players), recipe)
    if probe(sound).size is None:
        return [], ()
    return read_pictures(sound, _boxes(sound, players), recipe, seconds)


def _boxes(path: Path, players: int) -> list[Box]:
    return [middle_square(path)] if players == 1 else columns(path, players)


def _pairs(path: Path, solos: Sequence[_Video], ids_of_lists: Collection[str]) -> list[tuple[str, str]]:
    """The pairs of a list, by name; DataError where one is not of two instruments that are there and in test."""
    if not path.is_file():
        raise DataError(
            f"{path.parent} must hold {path.name}", got="no such file", fix="correct options.pairs of the recipe"
        )
    by_id = {video.video_id: video for video in solos}
    pairs: list[tuple[str, str]] = []
    rows = read_table(path)
    if rows and all(HEADER.fullmatch(word) and word not in ids_of_lists for word in rows[0].words):
        rows = rows[1:]
    for row in rows:
        ids = row.words
        unknown = [name for name in ids if name not in by_id]
        if unknown or len(ids) != 2 or by_id[ids[0]].key == by_id[ids[1]].key:
            raise DataError(
                f"line {row.line} of {path} must be two ids of solos of different classes that are there and in test",
                got=", ".join(ids) + (f"; not in test: {', '.join(unknown)}" if unknown else ""),
                fix="take the line off the list, or obtain what is missing",
            )
        pairs.append((by_id[ids[0]].name, by_id[ids[1]].name))
    return pairs
