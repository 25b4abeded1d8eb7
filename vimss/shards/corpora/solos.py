"""Solos: videos of one musician each from YouTube, 13 instruments, with the stretches in which hands are seen.

    SOURCE/solos_ids.json            {"Violin": [ID, ...], "DoubleBass": ...}
    SOURCE/solos_timestamps.json     {"Violin": {ID: [[first, last], ...], ...}, ...}, pictures at 25 per second, both
                                     of them included
    SOURCE/Violin/ID.mp4             or .mkv, .webm; also in SOURCE/videos/Violin/ or SOURCE/videos_25fps/Violin/
    SOURCE/skeleton.npy              not needed: float32 [row, (x, y, confidence), 47 joints], 25 rows per second; the
                                     published file has no NumPy header, one with a header is read as well
    SOURCE/skeleton_dict.json        with it: {ID: [first row, row after the last], ...}

The two lists may also lie in SOURCE/json_files/, the two files of skeletons in SOURCE/skeleton_files/, as in the
authors' repository; `_counter` in any of them is ignored.

Each stretch is a piece, CODE-ID-NUMBER, and all stretches of a video are in one split, which is dealt per instrument
over the whole list of ids, so that videos that are gone move no other. A video whose list of stretches is empty is
taken as a whole, although no hands may be seen in it. Ids without a file, and stretches that a video is too short for,
are listed as missing.

A skeleton has a row of 141 numbers per picture: 47 x, 47 y, 47 confidences. x and y are divided by the width and height
of the video on disk, and so lie in [0, 1] only where it has the size that the skeletons were made from.

The lists and skeletons are the authors'; the videos belong to those who uploaded them and may not be passed on.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float16, Float32
from pydantic import Field, NonNegativeInt, TypeAdapter

from vimss.config import Config
from vimss.errors import DataError
from vimss.media import probe
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import Listing, Piece, common_seconds, cut_piece, deal, read_take
from vimss.shards.recipe import Recipe
from vimss.shards.source import Problems, did_you_mean, file_called, gone, source_folder
from vimss.shards.table import read_text

CODES = {
    "Bassoon": "bn",
    "Cello": "vc",
    "Clarinet": "cl",
    "DoubleBass": "db",
    "Flute": "fl",
    "Horn": "hn",
    "Oboe": "ob",
    "Saxophone": "sax",
    "Trombone": "tbn",
    "Trumpet": "tpt",
    "Tuba": "tba",
    "Viola": "va",
    "Violin": "vn",
}
"""Folder and label."""
FOLDERS = ("", "videos", "videos_25fps")
ENDINGS = (".mp4", ".mkv", ".webm")
FRAME_RATE = 25.0
"""Pictures per second of the stretches and of the skeletons, whatever the videos have."""
JOINTS = (3, 47)
"""x, y and confidence of each joint."""
LENGTH_TOLERANCE = 1.0
"""Seconds that a video may end before its last stretch does: lengths change a little from format to format."""

Stretches = dict[str, dict[str, list[tuple[NonNegativeInt, NonNegativeInt]]]]
# An id becomes part of a path.
Ids = dict[str, list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]]]
Rows = dict[str, tuple[NonNegativeInt, NonNegativeInt]]


VERSION = 2
"""Raised when what this reader gives for the same source and settings changes: shards are then written anew."""


class Options(Config):
    """The reader has no settings."""


def pieces(recipe: Recipe, options: Options, source: Path | None) -> Listing:
    """One piece per stretch of the videos that are there; DataError where a list or the skeletons are not whole."""
    folder = source_folder(source, recipe)
    stretches = _stretches(folder)
    _skeletons(folder)  # checked here, because a 3 GB download breaks off now and then
    found: list[Piece] = []
    missing: list[str] = []
    problems = Problems()
    splits: dict[str, str] = {}
    for instrument, videos in _ids(folder).items():
        # A video with two instruments stays in the split of the first.
        splits = deal(sorted(set(videos) - splits.keys()), recipe.seed) | splits
        for video in dict.fromkeys(videos):
            path = _video(folder, instrument, video)
            if path is None:
                missing.append(video)
                continue
            with problems.of(video):
                length = common_seconds([path], fix="download it again, with sound")
                for number, (begin, end) in enumerate(_seconds(stretches, instrument, video)):
                    name = f"{CODES[instrument]}-{video}-{number}"
                    end = length if math.isinf(end) else end
                    if begin < min(end, length) and end <= length + LENGTH_TOLERANCE:
                        found.append(Piece(name, splits[video], video, min(end, length) - begin, (path,)))
                    else:
                        missing.append(name)
    return Listing(tuple(found), (*missing, *problems.missing(recipe, len(found))))


def read(piece: Piece, recipe: Recipe, options: Options, source: Path | None) -> Iterator[Clip]:
    """The clips of one stretch, each at most `recipe.clip_seconds` long."""
    folder = source_folder(source, recipe)
    code, _, rest = piece.name.partition("-")  # ids may begin with "-" and hold more of them
    video, _, number = rest.rpartition("-")
    (instrument,) = [instrument for instrument, known in CODES.items() if known == code]
    begin, end = _seconds(_stretches(folder), instrument, video)[int(number)]
    path = _video(folder, instrument, video)
    if path is None:
        raise gone(video, folder)
    take = read_take(path, recipe, begin, end)
    audio, picture = take.audio, take.picture
    frame_rate = 0.0 if picture is None else recipe.picture.frame_rate
    times = begin + (np.arange(0 if picture is None else len(picture)) + 0.5) / recipe.picture.frame_rate
    player = Player(code, f"1-{code}", audio, picture=picture, skeleton=_skeleton(folder, video, path, times))
    samples, rate = audio.shape[1], recipe.sample_rate
    yield from cut_piece(Clip(piece.name, 0, samples, rate, (player,), frame_rate, notes=take.notes), recipe)


def _ids(folder: Path) -> dict[str, list[str]]:
    """The ids of each instrument, whether their videos are there or not."""
    path = _file(folder, "json_files", "solos_ids.json")
    ids: dict[str, list[str]] = _load(path, Ids)
    strange = sorted(set(ids) - set(CODES))
    if strange:
        raise DataError(
            f"the instruments in {path} must be among {', '.join(CODES)}",
            got=", ".join(strange),
            fix="take the file of the authors' repository",
        )
    return ids


def _stretches(folder: Path) -> Any:
    return _load(_file(folder, "json_files", "solos_timestamps.json"), Stretches)


def _seconds(stretches: Any, instrument: str, video: str) -> list[tuple[float, float]]:
    """Begin and end of each stretch of a video; the whole of it where none is written down."""
    frames = stretches.get(instrument, {}).get(video, [])
    return [(first / FRAME_RATE, (last + 1) / FRAME_RATE) for first, last in frames] or [(0.0, math.inf)]


def _video(folder: Path, instrument: str, video: str) -> Path | None:
    paths = (file_called(folder / parent / instrument, video, ENDINGS) for parent in FOLDERS)
    return next((path for path in paths if path is not None), None)


def _file(folder: Path, inner: str, name: str) -> Path:
    """A file of the authors' repository, in the folder or in the inner folder that it has there."""
    return folder / name if (folder / name).exists() else folder / inner / name


def _load(path: Path, shape: Any) -> Any:
    """A JSON file of a certain shape, without its counters."""
    if not path.is_file():
        raise DataError(
            f"{path.name} must lie in the folder of the corpus, or in its folder {path.parent.name}",
            got=f"no file {path}",
            fix="take it from the authors' repository, JuanFMontesinos/Solos, or correct --source"
            + did_you_mean(path.parents[1], lambda near: _file(near, path.parent.name, path.name).is_file()),
        )
    try:
        content = TypeAdapter(dict[str, Any]).validate_json(read_text(path))
        return TypeAdapter(shape).validate_python(_without_counters(content))
    except ValueError as error:
        raise DataError(
            f"{path} must be as in the authors' repository",
            got=" ".join(str(error).split())[:300],
            fix="copy it again",
        ) from error


def _without_counters(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    return {key: _without_counters(value) for key, value in content.items() if key != "_counter"}


def _skeletons(folder: Path) -> tuple[Float32[np.ndarray, "k 3 47"], dict[str, tuple[int, int]]] | None:
    """The joints in each picture of all videos, not read yet, and the rows of each video; None where there are none."""
    path = _file(folder, "skeleton_files", "skeleton.npy")
    if not path.is_file():
        return None
    rows: dict[str, tuple[int, int]] = _load(_file(folder, "skeleton_files", "skeleton_dict.json"), Rows)
    with path.open("rb") as file:
        headed = file.read(6) == b"\x93NUMPY"
    try:
        joints = np.load(path, "r", allow_pickle=False) if headed else np.memmap(path, np.float32, "r")
        joints = joints if headed else joints.reshape(-1, *JOINTS)
    except ValueError as error:  # not a whole number of rows, none, or objects
        raise _no_skeletons(path, str(error)) from error
    if joints.dtype != np.float32 or joints.shape[1:] != JOINTS:
        raise _no_skeletons(path, f"{joints.dtype} of shape {joints.shape}")
    most = max((stop for _, stop in rows.values()), default=0)
    if len(joints) < most:
        raise _no_skeletons(path, f"{len(joints)} rows, where skeleton_dict.json tells of {most}")
    return joints, rows


def _no_skeletons(path: Path, got: str) -> DataError:
    return DataError(
        f"{path} must hold float32 rows of 3 x 47 numbers, for each picture of each video",
        got=got,
        fix="download it again, or take it away: it is not needed",
    )


def _skeleton(folder: Path, video: str, path: Path, times: np.ndarray) -> Float16[np.ndarray, "v j"] | None:
    """The joints that are seen at certain seconds of a video; None where nobody has found any."""
    skeletons = _skeletons(folder)
    size = probe(path).size
    if skeletons is None or size is None:
        return None
    joints, rows = skeletons
    first, stop = rows.get(video, (0, 0))
    if first >= stop:
        return None
    seen = joints[np.minimum(first + (times * FRAME_RATE).astype(int), stop - 1)]
    height, width = size
    seen = seen / np.array([width, height, 1], np.float32)[:, None]
    return seen.reshape(len(times), -1).astype(np.float16)
