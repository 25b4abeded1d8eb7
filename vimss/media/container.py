"""What is in a sound or video file: its streams, decoded as they come, on one time scale, bounded and checked.

with opened(Path("quartet.mp4")) as container:
    for block, rate in sound_blocks(container, channels=1, number=0, name="quartet.mp4"): ...
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float32

from vimss.errors import MediaError

MAX_SECONDS = 6 * 3600.0
"""Longest recording that is read, seconds; digital silence packs so well that bytes on disk bound nothing."""
MAX_PICTURE_BYTES = 4 * 2**30
"""Largest array of pictures that is returned, bytes."""
MAX_SIDE = 8192
MAX_PIXELS = MAX_SIDE * MAX_SIDE
"""Largest picture that is decoded, pixels."""
GAP_SECONDS = 0.1
"""Holes in the time stamps of a sound stream below this are rounding of the container, above it silence."""
FORMATS = "mov,mp4,m4a,matroska,webm,avi,mpegts,wav,w64,aiff,flac,ogg,mp3,aac,jpeg_pipe"
"""Containers that may be opened. Playlists (HLS, concat) are not among them: they make FFmpeg open further files."""

IMAGES = {".jpg", ".jpeg"}
"""Endings of pictures in files of their own."""

Source = Path | bytes


@dataclass(frozen=True)
class Probe:
    """What a media file says of itself."""

    seconds: float
    sample_rate: int | None
    """Audio samples per second; None where the file has no sound."""
    channels: int
    size: tuple[int, int] | None
    """Height and width in pixels; None where the file has no picture."""
    frame_rate: float
    """Pictures per second; 0 where the file has no picture."""
    sound_seconds: tuple[float, ...]
    """Length of each sound stream that can be decoded, in their order; that of the file where it tells none of them."""
    metadata: Mapping[str, str]
    """The `key=value` words of the file's comment, such as `instruments=vn,cl`."""

    @property
    def instruments(self) -> tuple[str, ...]:
        """Labels of the players from left to right, as the metadata names them; empty where it does not."""
        return tuple(label for label in self.metadata.get("instruments", "").split(",") if label)


def probe(path: Path) -> Probe:
    """Length, streams and metadata of a media file, without decoding it; MediaError where it is none."""
    with opened(path) as container:
        sounds = sound_streams(container)
        picture = picture_stream(container)
        comment = container.metadata.get("comment", "")
        seconds = (container.duration or 0) / av.time_base
        return Probe(
            seconds=seconds,
            sample_rate=sounds[0].rate if sounds else None,
            channels=sounds[0].channels if sounds else 0,
            size=(picture.height, picture.width) if picture else None,
            frame_rate=float(picture.average_rate or 0) if picture else 0.0,
            sound_seconds=tuple(
                float(sound.duration * sound.time_base) if sound.duration else seconds for sound in sounds
            ),
            metadata=dict(re.findall(r"(\w+)=([\w.,+-]+)", comment)),
        )


def name_of(source: Source) -> str:
    """How errors call it."""
    return "media in memory" if isinstance(source, bytes) else str(source)


@contextmanager
def opened(source: Source) -> Iterator[Any]:
    """An open container; FFmpeg's errors, here and in the block, become MediaErrors."""
    name = name_of(source)
    if isinstance(source, Path) and not source.is_file():
        got = "a folder" if source.is_dir() else "no such file"
        raise MediaError(f"{name} must be a media file", got=got, fix="check the path")
    # FFmpeg takes the name of a JPEG file for a pattern of many: it gets the content alone.
    if isinstance(source, Path) and source.suffix.lower() in IMAGES:
        source = source.read_bytes()
    # An absolute path cannot be read as a URL, and what the file refers to is not opened.
    file = io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(file, metadata_errors="replace", options=options) as container:
            yield container
    except av.FFmpegError as error:
        raise MediaError(
            f"{name} must be a sound or video file that can be decoded",
            got=error.strerror or type(error).__name__,
            fix="check that it plays, or convert it to MP4, WAV or FLAC",
        ) from error


def picture_stream(container: Any) -> Any | None:
    """The first video stream that can be decoded and is not the cover of an album."""
    cover = av.stream.Disposition.attached_pic
    streams = (stream for stream in container.streams.video if stream.codec_context is not None)
    return next((stream for stream in streams if not stream.disposition & cover), None)


def sound_streams(container: Any) -> list[Any]:
    """The sound streams that can be decoded."""
    return [stream for stream in container.streams.audio if stream.codec_context is not None]


def _start(stream: Any) -> float:
    """Where a stream begins, in the file's own seconds."""
    return float((stream.start_time or 0) * stream.time_base)


def _time_zero(container: Any) -> float:
    """Where reading begins, in the file's own seconds."""
    first = picture_stream(container) or next(iter(sound_streams(container)), None)
    return _start(first) if first else 0.0


def sound_blocks(
    container: Any, channels: int, number: int, name: str
) -> Iterator[tuple[Float32[np.ndarray, "c n"], int]]:
    """Blocks of a sound stream from time zero on, mapped to `channels`, each with its sample rate."""
    stream, count, rate, end = _numbered_sound(container, number, name), 0, 0, 0.0
    # Without a picture the first sample is the beginning, whatever its time stamp: FFmpeg's are 3 ms late in Vorbis.
    zero = _time_zero(container) if picture_stream(container) else None
    late = _start(stream) - _time_zero(container)
    for frame in container.decode(stream):
        if frame.sample_rate <= 0 or rate not in (0, frame.sample_rate):
            got = f"{rate} Hz, then {frame.sample_rate} Hz"
            raise MediaError(f"{name} must keep one sample rate", got=got, fix="convert it to WAV")
        rate = frame.sample_rate
        block = _map_channels(_samples(frame), [channel.name for channel in frame.layout.channels], channels)
        if zero is None and frame.time is not None:
            zero = frame.time - late
        position = count if frame.time is None or zero is None else round((frame.time - zero) * rate)
        gap = position - count
        if max(position, count) + block.shape[1] > MAX_SECONDS * rate:
            raise too_long(name)
        if gap > 0 and (count == 0 or gap > GAP_SECONDS * rate):
            yield np.zeros((channels, gap), np.float32), rate
            count += gap
        block = block[:, max(0, -position) :]  # what comes before the picture
        yield block, rate
        count += block.shape[1]
        end = position / rate + block.shape[1] / rate
    _check_whole(container, stream, end, name)


def _numbered_sound(container: Any, number: int, name: str) -> Any:
    streams = sound_streams(container)
    if number < len(streams):
        return streams[number]
    if number > 0:
        raise MediaError(
            f"{name} must have at least {number + 1} sound streams",
            got=str(len(streams)),
            fix="copy the file again, or convert it with all of its streams",
        )
    got = f"{len(container.streams.audio)} of an unknown codec" if container.streams.audio else "none"
    raise MediaError(f"{name} must have a sound stream", got=got, fix="give a recording with sound")


def picture_frames(container: Any, name: str) -> Iterator[tuple[Any, float, float]]:
    """Pictures in the order of showing, each with begin and end in seconds after time zero."""
    stream = picture_stream(container)
    if stream is None:
        got = f"{len(container.streams.video)} of an unknown codec" if container.streams.video else "none"
        raise MediaError(f"{name} must have a video stream", got=got, fix="give a recording with picture")
    zero, last = _time_zero(container), 0.0
    seconds = 1 / float(stream.average_rate or 25)
    _check_pixels(stream.width, stream.height, name)
    for frame in container.decode(stream):
        _check_pixels(frame.width, frame.height, name)
        begin = last if frame.time is None else frame.time - zero
        last = begin + (float(frame.duration * frame.time_base) if frame.duration else seconds)
        yield frame, begin, last
    _check_whole(container, stream, last, name)


def _samples(frame: Any) -> Float32[np.ndarray, "c n"]:
    """The samples of a decoded block in [-1, 1], without a codec's padding at the end."""
    count, channels = frame.samples, frame.layout.nb_channels
    if frame.time_base == Fraction(1, frame.sample_rate) and 0 < frame.duration < count:
        count = frame.duration
    values = frame.to_ndarray()
    values = values if frame.format.is_planar else values.reshape(-1, channels).T
    kind = values.dtype
    values = values[:, :count].astype(np.float32)
    if kind == np.uint8:
        return values / 128 - 1
    return values / -float(np.iinfo(kind).min) if kind.kind == "i" else values


def _map_channels(block: Float32[np.ndarray, "c n"], names: list[str], channels: int) -> Float32[np.ndarray, "k n"]:
    """Mono or stereo from any layout, by FFmpeg's channel names (FL, FR, FC, LFE, BL, ...)."""
    if len(block) == channels:
        return block
    if len(block) == 1:
        return np.repeat(block, channels, axis=0)
    left = [index for index, name in enumerate(names) if not name.endswith("R") and not name.startswith("LFE")]
    right = [index for index, name in enumerate(names) if not name.endswith("L") and not name.startswith("LFE")]
    sides = np.stack([block[left or slice(None)].mean(axis=0), block[right or slice(None)].mean(axis=0)])
    return sides if channels == 2 else sides.mean(axis=0, keepdims=True)


def _check_pixels(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"{name} must have pictures of at most {MAX_PIXELS} pixels",
            got=f"{width}x{height}",
            fix="scale the video down",
        )


def check_picture_bytes(count: int, size: tuple[int, ...], name: str) -> None:
    """MediaError where `count` pictures of (height, width) would be too much."""
    if count * size[0] * size[1] * 3 > MAX_PICTURE_BYTES:
        raise MediaError(
            f"{name} must give at most {MAX_PICTURE_BYTES >> 20} MB of pictures",
            got=f"more than {count - 1} pictures of {size[1]}x{size[0]}",
            fix="cut the video, or read it smaller or at a lower frame rate",
        )


def _check_whole(container: Any, stream: Any, end: float, name: str) -> None:
    """FFmpeg ends a truncated MP4 without an error; its index still tells how long it should have been."""
    expected = float((stream.duration or 0) * stream.time_base) if container.format.name.startswith("mov") else 0.0
    start = _start(stream) - _time_zero(container)
    if end < start + expected - GAP_SECONDS:
        raise MediaError(
            f"{name} must be whole",
            got=f"{max(end, 0.0):.1f} s of {start + expected:.1f} s",
            fix="copy or export it again",
        )


def too_long(name: str) -> MediaError:
    """The error for more than MAX_SECONDS."""
    return MediaError(
        f"{name} must be shorter than {MAX_SECONDS / 3600:g} hours", got="a longer recording", fix="cut it into parts"
    )
