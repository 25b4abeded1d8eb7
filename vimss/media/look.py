"""Video and picture files to arrays, as a viewer sees them: aligned to the time zero of the sound, bounded, checked.

read_video(Path("quartet.mp4"), size=(96, 384), frame_rate=12.5)   # UInt8 "v 96 384 3"
"""

import itertools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from vimss.errors import MediaError
from vimss.media.container import MAX_SECONDS, Source, check_picture_bytes, name_of, opened
from vimss.media.facts import probe
from vimss.media.picture import MAX_SIDE, Picture, picture_frames

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels as a viewer sees them, right and bottom exclusive."""


def read_video(
    source: Source,
    size: tuple[int, int],
    frame_rate: float,
    seconds: float = MAX_SECONDS,
    *,
    allow_truncated: bool = False,
) -> UInt8[np.ndarray, "v h w 3"]:
    """The picture of a file, scaled to `size` (height, width) and resampled to `frame_rate` pictures per second.

    Row j is the picture on screen at (j + 0.5) / frame_rate seconds, within the first `seconds` of the file. Players
    side by side in equal columns are read in one pass: crop the width of all of them and split the result.

    Raises:
        MediaError: no such file, no media, no picture, empty, cut off, or more than MAX_PICTURE_BYTES.

    """
    span = _Span(frame_rate, 0.0, seconds, allow_truncated)
    return _read_pictures(source, lambda picture: picture.upright(*size), size, span)


def read_crops(
    source: Source,
    boxes: Sequence[Box],
    size: int,
    frame_rate: float,
    seconds: float,
    begin: float = 0.0,
    *,
    allow_truncated: bool = False,
    notes: list[str] | None = None,
) -> list[UInt8[np.ndarray, "v h w 3"]]:
    """The crop of each box of the picture, scaled to a square of `size` pixels, over `seconds` from `begin` on.

    Row j is the picture on screen at begin + (j + 0.5) / frame_rate seconds; a file that ends earlier keeps its last
    picture. `columns` gives the boxes of players side by side. `notes` get a sentence about the missing part.

    Raises:
        MediaError: as in `read_video`, or a box does not lie in the picture.

    """
    name = name_of(source)
    wanted = max(1, round(seconds * frame_rate))
    pictures = _read_pictures(
        source,
        lambda picture: _crop(picture.upright(*picture.size), boxes, size, name),
        (size, len(boxes) * size),
        _Span(frame_rate, begin, wanted / frame_rate, allow_truncated, notes),
    )
    pictures = np.concatenate([pictures, np.repeat(pictures[-1:], wanted - len(pictures), axis=0)])
    return _apart(pictures, size)


def read_images(
    paths: Sequence[Path],
    boxes: Sequence[Box],
    size: int,
    *,
    allow_truncated: bool = False,
    notes: list[str] | None = None,
) -> list[UInt8[np.ndarray, "v h w 3"]]:
    """The crop of each box of JPEG files, one row per path, scaled to a square of `size` pixels as by `read_crops`.

    A path that repeats is read once. `notes` get a sentence about each file that was cut off.

    Raises:
        MediaError: no such file, no picture, cut off if that is not allowed, or a box does not lie in it.

    """
    check_picture_bytes(len(paths), (size, len(boxes) * size), str(paths[0]))
    pictures: dict[Path, UInt8[np.ndarray, "h w 3"]] = {}
    for path in dict.fromkeys(paths):
        met: list[str] = []
        with opened(path) as container:
            for picture in picture_frames(container, path, allow_truncated=allow_truncated, notes=met):
                pictures[path] = _crop(picture.upright(*picture.size), boxes, size, str(path))
        if notes is not None:
            notes += [f"{path.name}: {note}" for note in met]
        if path not in pictures:
            raise MediaError(f"{path} must hold a picture", got="none that can be decoded", fix="copy it again")
    return _apart(np.stack([pictures[path] for path in paths]), size)


def columns(path: Path, players: int) -> list[Box]:
    """Boxes of players side by side, from left to right; MediaError if the file has no picture."""
    height, width = _picture_size(path)
    edges = [round(place * width / players) for place in range(players + 1)]
    return [(left, 0, right, height) for left, right in itertools.pairwise(edges)]


def middle_square(path: Path) -> Box:
    """The largest square in the middle of a file's picture; MediaError if it has none."""
    height, width = _picture_size(path)
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side)


def _crop(
    picture: UInt8[np.ndarray, "y x 3"], boxes: Sequence[Box], size: int, name: str
) -> UInt8[np.ndarray, "h w 3"]:
    """The crop of each box, side by side."""
    height, width = picture.shape[:2]
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise MediaError(
                f"a box must lie in the picture of {name}, {width}x{height} pixels",
                got=f"left {left}, top {top}, right {right}, bottom {bottom}",
                fix="give left,top,right,bottom in pixels of this file",
            )
    cut = [picture[top:bottom, left:right] for left, top, right, bottom in boxes]
    return np.concatenate(
        [_frame(part).reformat(size, size, "rgb24", interpolation="AREA").to_ndarray() for part in cut], axis=1
    )


def _apart(pictures: UInt8[np.ndarray, "v h w 3"], size: int) -> list[UInt8[np.ndarray, "v h h 3"]]:
    """Squares of `size` pixels side by side as separate pictures."""
    edges = range(0, pictures.shape[2], size)
    return [np.ascontiguousarray(pictures[:, :, edge : edge + size]) for edge in edges]


def _frame(picture: UInt8[np.ndarray, "h w 3"]) -> Any:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")


def _picture_size(path: Path) -> tuple[int, int]:
    size = probe(path).size
    if size is None:
        raise MediaError(f"{path} must have a video stream", got="none", fix="give a recording with picture")
    return size


@dataclass(frozen=True)
class _Span:
    """The times of the pictures to read."""

    frame_rate: float
    begin: float
    seconds: float
    allow_truncated: bool
    notes: list[str] | None = None
    """Get a sentence about the missing part."""


def _read_pictures(
    source: Source,
    convert: Callable[[Picture], UInt8[np.ndarray, "h w 3"]],
    size: tuple[int, int],
    span: _Span,
) -> UInt8[np.ndarray, "v h w 3"]:
    """The picture on screen at begin + (j + 0.5) / frame_rate, until the file ends; each picture is converted once."""
    name, begin, end = name_of(source), span.begin, span.begin + span.seconds
    rows: list[UInt8[np.ndarray, "h w 3"]] = []

    def show(picture: Picture, until: float) -> None:
        row = None
        while begin + (len(rows) + 0.5) / span.frame_rate < min(until, end):
            check_picture_bytes(len(rows) + 1, size, name)
            row = convert(picture) if row is None else row
            rows.append(row)

    shown: Picture | None = None
    with opened(source) as container:
        frames = picture_frames(container, source, allow_truncated=span.allow_truncated, notes=span.notes)
        for picture in frames:
            # `shown` stays on screen until this picture replaces it.
            if shown is not None:
                show(shown, picture.begin)
            if picture.begin >= end:
                shown = None
                break
            shown = picture
        if shown is not None:
            show(shown, shown.end)
    if not rows:
        got = "a video stream of 0 pictures" if begin == 0 else f"none after {begin:g} s"
        raise MediaError(f"{name} must hold pictures", got=got, fix="give a whole video")
    return np.stack(rows)


def decode_video(data: bytes, most_pictures: int = sys.maxsize, side: int = MAX_SIDE) -> UInt8[np.ndarray, "v h w 3"]:
    """Every picture of a video made by `encode_video`, at its original size.

    Raises:
        MediaError: no such video, more than `most_pictures`, or pictures that are higher or wider than `side`.

    """
    pictures: list[UInt8[np.ndarray, "h w 3"]] = []
    with opened(data) as container:
        comment = re.search(r"picture=(\d+)x(\d+)", container.metadata.get("comment", ""))
        for shown in picture_frames(container, data):
            frame = shown.frame
            # Padding adds at most one pixel to an odd side.
            if len(pictures) + 1 > most_pictures or max(frame.height, frame.width) > side + side % 2:
                raise MediaError(
                    f"a video must hold at most {most_pictures} pictures of at most {side}x{side} pixels",
                    got=f"picture {len(pictures) + 1} of {frame.width}x{frame.height}",
                    fix="write it again",
                )
            picture = frame.to_ndarray(format="rgb24")
            check_picture_bytes(len(pictures) + 1, picture.shape[:2], name_of(data))
            pictures.append(picture[: int(comment[1]), : int(comment[2])] if comment else picture)
    if not pictures:
        raise MediaError("a video must hold pictures", got="a video stream of 0 pictures", fix="write it again")
    return np.stack(pictures)
