"""Sound and video files to arrays: decoded as a stream, aligned to one time zero, bounded, checked.

read_audio(Path("quartet.mp4"), sample_rate=22050)                 # Float32 "1 t"
read_video(Path("quartet.mp4"), size=(96, 384), frame_rate=12.5)   # UInt8 "v 96 384 3"
"""

import io
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from jaxtyping import Float32, Int16, UInt8

from vimss.errors import MediaError
from vimss.media.container import (
    MAX_SECONDS,
    MAX_SIDE,
    Source,
    check_picture_bytes,
    name_of,
    opened,
    picture_frames,
    probe,
    too_long,
)
from vimss.media.report import Channel, SoundReport
from vimss.media.sound import Wanted, sound_blocks

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, right and bottom exclusive."""


def audio_blocks(
    source: Source,
    sample_rate: int,
    channels: int = 1,
    stream: int = 0,
    *,
    channel: Channel = "all",
    allow_truncated: bool = False,
    report: SoundReport | None = None,
) -> Iterator[Float32[np.ndarray, "c n"]]:
    """`read_audio` block by block, so that a recording of any length fits into memory. Blocks may be empty.

    `report` is filled in meanwhile.
    """
    name, report = name_of(source), report if report is not None else SoundReport()
    wanted = Wanted(channels, stream, channel, allow_truncated)
    resample: soxr.ResampleStream | None = None
    with opened(source) as container:
        for block, rate in sound_blocks(container, wanted, name, report):
            if rate != sample_rate:
                resample = resample or soxr.ResampleStream(rate, sample_rate, channels, dtype="float32", quality="HQ")
                block = resample.resample_chunk(np.ascontiguousarray(block.T)).reshape(-1, channels).T
            report.add_given(block, sample_rate)
            yield block
        if resample is not None:
            last = resample.resample_chunk(np.zeros((0, channels), np.float32), last=True).reshape(-1, channels).T
            report.add_given(last, sample_rate)
            yield last
    if not report.seconds:
        raise MediaError(f"{name} must hold sound", got="a sound stream of 0 samples", fix="give a whole recording")


def read_audio(
    source: Source,
    sample_rate: int,
    channels: int = 1,
    stream: int = 0,
    *,
    channel: Channel = "all",
    allow_truncated: bool = False,
    report: SoundReport | None = None,
) -> Float32[np.ndarray, "c t"]:
    """One sound stream of a file, resampled (soxr HQ) to `sample_rate` and mapped to 1 or 2 channels.

    `stream` counts from 0, as `Probe.sound_seconds` does. All streams of a file have the same time zero.
    Mono is the mean of left and right; mono in a stereo result stands on both sides; of surround sound the low
    frequency effects are left out and centre channels stand on both sides.

    Raises:
        MediaError: no such file, no media, no such sound, empty, not finite, cut off, or longer than MAX_SECONDS.

    """
    blocks = audio_blocks(
        source, sample_rate, channels, stream, channel=channel, allow_truncated=allow_truncated, report=report
    )
    return np.concatenate(list(blocks), axis=1)


def read_video(
    source: Source, size: tuple[int, int], frame_rate: float, seconds: float = MAX_SECONDS
) -> UInt8[np.ndarray, "v h w 3"]:
    """The picture of a file, scaled to `size` (height, width) and resampled to `frame_rate` pictures per second.

    Row j is what a viewer sees at (j + 0.5) / frame_rate seconds, of the first `seconds` of the file. Players side by
    side in equal columns are read in one pass: ask for the width of all of them and split the result.

    Raises:
        MediaError: no such file, no media, no picture, empty, cut off, or more than MAX_PICTURE_BYTES.

    """
    return _read_pictures(source, lambda frame: _scale(frame, *size), size, frame_rate, 0.0, seconds)


def read_crops(
    source: Source, boxes: Sequence[Box], size: int, frame_rate: float, seconds: float, begin: float = 0.0
) -> list[UInt8[np.ndarray, "v h w 3"]]:
    """What lies in each box of the picture, scaled to a square of `size` pixels, over `seconds` from `begin` on.

    Row j is what a viewer sees at begin + (j + 0.5) / frame_rate seconds; a file that ends earlier keeps its last
    picture. `columns` gives the boxes of players side by side.

    Raises:
        MediaError: as `read_video`, and where a box does not lie in the picture.

    """
    name = name_of(source)
    wanted = max(1, round(seconds * frame_rate))
    pictures = _read_pictures(
        source,
        lambda frame: _crop(frame, boxes, size, name),
        (size, len(boxes) * size),
        frame_rate,
        begin,
        wanted / frame_rate,
    )
    pictures = np.concatenate([pictures, np.repeat(pictures[-1:], wanted - len(pictures), axis=0)])
    return _apart(pictures, size)


def read_images(paths: Sequence[Path], boxes: Sequence[Box], size: int) -> list[UInt8[np.ndarray, "v h w 3"]]:
    """What lies in each box of JPEG files, one row per path, scaled to a square of `size` pixels as by `read_crops`.

    A path that repeats is read once.

    Raises:
        MediaError: no such file, no picture, and where a box does not lie in it.

    """
    check_picture_bytes(len(paths), (size, len(boxes) * size), str(paths[0]))
    seen: dict[Path, UInt8[np.ndarray, "h w 3"]] = {}
    for path in dict.fromkeys(paths):
        with opened(path) as container:
            for frame, _, _ in picture_frames(container, str(path)):
                seen[path] = _crop(frame, boxes, size, str(path))
        if path not in seen:
            raise MediaError(f"{path} must hold a picture", got="none that can be decoded", fix="copy it again")
    return _apart(np.stack([seen[path] for path in paths]), size)


def columns(path: Path, players: int) -> list[Box]:
    """Boxes of players side by side, from left to right; MediaError where the file has no picture."""
    height, width = _picture_size(path)
    edges = [round(place * width / players) for place in range(players + 1)]
    return [(left, 0, right, height) for left, right in itertools.pairwise(edges)]


def middle_square(path: Path) -> Box:
    """The largest square in the middle of a file's picture; MediaError where it has none."""
    height, width = _picture_size(path)
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side)


def _crop(frame: Any, boxes: Sequence[Box], size: int, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """What lies in each box, side by side."""
    picture = frame.to_ndarray(format="rgb24")
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= frame.width and 0 <= top < bottom <= frame.height):
            raise MediaError(
                f"a box must lie in the picture of {name}, {frame.width}x{frame.height} pixels",
                got=f"left {left}, top {top}, right {right}, bottom {bottom}",
                fix="give left,top,right,bottom in pixels of this file",
            )
    cut = [picture[top:bottom, left:right] for left, top, right, bottom in boxes]
    return np.concatenate([_scale(_frame(part), size, size) for part in cut], axis=1)


def _apart(pictures: UInt8[np.ndarray, "v h w 3"], size: int) -> list[UInt8[np.ndarray, "v h h 3"]]:
    """Squares of `size` pixels side by side, each on its own."""
    edges = range(0, pictures.shape[2], size)
    return [np.ascontiguousarray(pictures[:, :, edge : edge + size]) for edge in edges]


def _scale(frame: Any, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    return frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()


def _frame(picture: UInt8[np.ndarray, "h w 3"]) -> Any:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")


def _picture_size(path: Path) -> tuple[int, int]:
    size = probe(path).size
    if size is None:
        raise MediaError(f"{path} must have a video stream", got="none", fix="give a recording with picture")
    return size


def _read_pictures(
    source: Source,
    convert: Callable[[Any], UInt8[np.ndarray, "h w 3"]],
    size: tuple[int, int],
    frame_rate: float,
    begin: float,
    seconds: float,
) -> UInt8[np.ndarray, "v h w 3"]:
    """What is on screen at begin + (j + 0.5) / frame_rate, as far as the file goes; each frame is converted once."""
    name = name_of(source)
    pictures: list[UInt8[np.ndarray, "h w 3"]] = []

    def time_of_next() -> float:
        return begin + (len(pictures) + 0.5) / frame_rate

    def show(frame: Any, until: float) -> None:
        picture = None
        while time_of_next() < min(until, begin + seconds):
            check_picture_bytes(len(pictures) + 1, size, name)
            picture = convert(frame) if picture is None else picture
            pictures.append(picture)

    shown, last = None, 0.0
    with opened(source) as container:
        for frame, first, end in picture_frames(container, name):
            # `shown` stays on screen until this picture replaces it.
            if shown is not None:
                show(shown, first)
            if first >= begin + seconds:
                shown = None
                break
            shown, last = frame, end
        if shown is not None:
            show(shown, last)
    if not pictures:
        got = "a video stream of 0 pictures" if begin == 0 else f"none after {begin:g} s"
        raise MediaError(f"{name} must hold pictures", got=got, fix="give a whole video")
    return np.stack(pictures)


def decode_video(data: bytes, most_pictures: int = sys.maxsize, side: int = MAX_SIDE) -> UInt8[np.ndarray, "v h w 3"]:
    """Every picture of a video made by `encode_video`, at the size it was given.

    Raises:
        MediaError: no such video, more than `most_pictures`, or pictures that are higher or wider than `side`.

    """
    pictures: list[UInt8[np.ndarray, "h w 3"]] = []
    with opened(data) as container:
        comment = re.search(r"picture=(\d+)x(\d+)", container.metadata.get("comment", ""))
        for frame, _, _ in picture_frames(container, name_of(data)):
            # An even side is at most one pixel more than an odd one that was padded.
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


def decode_audio(data: bytes, most_samples: int = sys.maxsize) -> tuple[Int16[np.ndarray, "c t"], int]:
    """Samples and sample rate of a WAV or FLAC file in memory, at their own rate and channels.

    Raises:
        MediaError: not such a file, or one that claims more than `most_samples` or MAX_SECONDS.

    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            # The header's count is what soundfile allocates for, before it has read a sample.
            if file.frames > MAX_SECONDS * file.samplerate:
                raise too_long("sound in memory")
            if file.frames > most_samples:
                raise MediaError(
                    f"sound in memory must have at most {most_samples} samples",
                    got=str(file.frames),
                    fix="write it again",
                )
            samples = file.read(dtype="int16", always_2d=True)
            return samples.T, file.samplerate
    except (soundfile.SoundFileError, ValueError) as error:
        raise MediaError(
            "sound in memory must be WAV or FLAC", got=str(error), fix="write it with encode_audio"
        ) from error
