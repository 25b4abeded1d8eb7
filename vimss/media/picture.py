"""The pictures of an open file as a viewer sees them: in their order, turned upright, checked.

with opened(Path("phone.mov")) as container:
    for picture in picture_frames(container, Path("phone.mov")):
        pixels = picture.upright(96, 384)   # UInt8 "96 384 3", on screen from picture.begin to picture.end
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from vimss.errors import MediaError
from vimss.media.container import (
    IMAGES,
    Source,
    check_whole,
    name_of,
    no_stream,
    picture_stream,
    time_zero,
)
from vimss.media.damage import Losses, check_losses, decoded_frames, restarts

MAX_SIDE = 8192
MAX_PIXELS = MAX_SIDE * MAX_SIDE
"""Largest picture that is decoded, pixels."""
ASPECTS = (1 / 4, 4.0)
"""Pixel aspect ratios beyond this are errors in the file."""
Turn = tuple[tuple[int, int], tuple[int, int]]
"""Directions on screen of the file's right and down, each as (right, down)."""
UPRIGHT: Turn = ((1, 0), (0, 1))
EXIF_TURNS: tuple[Turn, ...] = (
    UPRIGHT,
    ((-1, 0), (0, 1)),
    ((-1, 0), (0, -1)),
    ((1, 0), (0, -1)),
    ((0, 1), (1, 0)),
    ((0, 1), (-1, 0)),
    ((0, -1), (-1, 0)),
    ((0, -1), (1, 0)),
)
"""The eight orientations of EXIF, in their order from 1."""


@dataclass(frozen=True)
class Picture:
    """One decoded picture."""

    frame: Any
    """As stored: on its side if a phone was turned."""
    exif: Turn | None
    """The rotation from the orientation tag of a JPEG file."""
    aspect: float
    """Width of a pixel over its height."""
    begin: float = 0.0
    """Seconds after time zero."""
    end: float = 0.0

    @property
    def turn(self) -> Turn:
        """The rotation of the picture on screen."""
        return self.exif or _turn(self.frame)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as a viewer sees them."""
        height, width = self.frame.height, round(self.frame.width * self.aspect)
        return (width, height) if self.turn[0][0] == 0 else (height, width)

    def upright(self, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels as a viewer sees them, scaled to `height` and `width`."""
        turn = self.turn
        lying = turn[0][0] == 0
        size = (height, width) if lying else (width, height)
        pixels = self.frame.reformat(*size, "rgb24", interpolation="AREA").to_ndarray()
        if turn == UPRIGHT:
            return pixels
        pixels = pixels.swapaxes(0, 1) if lying else pixels
        (right, down), (right_of_down, down_of_down) = turn
        return np.ascontiguousarray(pixels[:: down + down_of_down, :: right + right_of_down])


def picture_frames(
    container: Any, source: Source, *, allow_truncated: bool = False, notes: list[str] | None = None
) -> Iterator[Picture]:
    """Pictures in display order.

    A picture that cannot be decoded is skipped, as players do: the previous one stays. `notes` get a sentence about a
    missing end.

    Raises:
        MediaError: no picture, most of them damaged, or cut off if that is not allowed.

    """
    stream, name, losses = picture_stream(container), name_of(source), Losses()
    if stream is None:
        raise no_stream(container, "video", source)
    zero, last = time_zero(container), 0.0
    seconds, exif, aspect = 1 / float(stream.average_rate or 25), _exif_turn(source), _aspect(stream)
    _check_pixels(stream.width, stream.height, name)
    for frame in decoded_frames(container, stream, losses):
        _check_pixels(frame.width, frame.height, name)
        begin = last if frame.time is None else frame.time - zero
        if last and frame.time is not None and restarts(container, frame.time, begin - last):
            zero, begin = zero + begin - last, last
        last = begin + (float(frame.duration * frame.time_base) if frame.duration else seconds)
        yield Picture(frame, exif, aspect, begin, last)
    reached, notes = losses.end_of_file(container), [] if notes is None else notes
    check_whole(container, stream, source, last, reached, allowed=allow_truncated, notes=notes)
    check_losses(losses, name)


def shown_size(container: Any, source: Source) -> tuple[int, int] | None:
    """Height and width of the picture as a viewer sees it; None if the file has none.

    The rotation is read from the first picture: MP4, Matroska, H.264 and EXIF store it in different places.
    """
    stream = picture_stream(container)
    if stream is None:
        return None
    _check_pixels(stream.width, stream.height, name_of(source))
    frame = next(decoded_frames(container, stream, Losses()), None)
    if frame is None:
        return stream.height, stream.width
    return Picture(frame, _exif_turn(source), _aspect(stream)).size


def _aspect(stream: Any) -> float:
    """Width of a pixel over its height."""
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if ASPECTS[0] <= aspect <= ASPECTS[1] else 1.0


def _turn(frame: Any) -> Turn:
    """The rotation in FFmpeg's display matrix, in quarter turns and flips."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV 18.1 reads no side data newer than FFmpeg 7.1, such as EXIF: only the angle remains, without flips.
        quarter = round(frame.rotation / 90) % 4
        return (UPRIGHT, EXIF_TURNS[7], EXIF_TURNS[2], EXIF_TURNS[5])[quarter]
    if data is None:
        return UPRIGHT
    matrix = np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2].astype(float)
    (a, b), (c, d) = np.rint(matrix / max(1.0, np.abs(matrix).max())).astype(int).tolist()
    # Other angles do not occur in practice; leave such a picture as stored.
    found: Turn = ((a, b), (c, d))
    return found if found in EXIF_TURNS else UPRIGHT


def _exif_turn(source: Source) -> Turn | None:
    """The rotation from the orientation tag of a JPEG file; None if it is no JPEG or has no tag."""
    if isinstance(source, Path) and source.suffix.lower() not in IMAGES:
        return None
    data = source if isinstance(source, bytes) else source.read_bytes()
    place = 2
    while data[:2] == b"\xff\xd8" and data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != b"\xda":
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] == 0xE1 and data[place + 4 : place + 10] == b"Exif\0\0":
            return _orientation(data[place + 10 : place + 2 + length])
        place += 2 + max(2, length)
    return None


def _orientation(tiff: bytes) -> Turn | None:
    """The orientation in the first directory of TIFF data."""
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    first = int.from_bytes(tiff[4:8], order)
    for number in range(int.from_bytes(tiff[first : first + 2], order)):
        entry = tiff[first + 2 + 12 * number : first + 14 + 12 * number]
        if int.from_bytes(entry[:2], order) == 0x112 and len(entry) == 12:
            orientation = int.from_bytes(entry[8:10], order)
            return EXIF_TURNS[orientation - 1] if 1 <= orientation <= 8 else None
    return None


def _check_pixels(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"{name} must have pictures of at most {MAX_PIXELS} pixels",
            got=f"{width}x{height}",
            fix="scale the video down",
        )
