"""What is in a sound or video file: its streams, decoded as they come, on one time scale, bounded and checked.

with opened(Path("quartet.mp4")) as container:
    for picture, begin, end in picture_frames(container, "quartet.mp4"): ...
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

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


def start_of(stream: Any) -> float:
    """Where a stream begins, in the file's own seconds."""
    return float((stream.start_time or 0) * stream.time_base)


def time_zero(container: Any) -> float:
    """Where reading begins, in the file's own seconds."""
    first = picture_stream(container) or next(iter(sound_streams(container)), None)
    return start_of(first) if first else 0.0


def picture_frames(container: Any, name: str) -> Iterator[tuple[Any, float, float]]:
    """Pictures in the order of showing, each with begin and end in seconds after time zero."""
    stream = picture_stream(container)
    if stream is None:
        got = f"{len(container.streams.video)} of an unknown codec" if container.streams.video else "none"
        raise MediaError(f"{name} must have a video stream", got=got, fix="give a recording with picture")
    zero, last = time_zero(container), 0.0
    seconds = 1 / float(stream.average_rate or 25)
    _check_pixels(stream.width, stream.height, name)
    for frame in container.decode(stream):
        _check_pixels(frame.width, frame.height, name)
        begin = last if frame.time is None else frame.time - zero
        last = begin + (float(frame.duration * frame.time_base) if frame.duration else seconds)
        yield frame, begin, last
    check_whole(container, stream, last, name)


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


def check_whole(container: Any, stream: Any, end: float, name: str, notes: list[str] | None = None) -> None:
    """FFmpeg ends a truncated MP4 without an error; its index still tells how long it should have been.

    Raises:
        MediaError: the file was cut off, and there are no `notes` to say so.

    """
    expected = float((stream.duration or 0) * stream.time_base) if container.format.name.startswith("mov") else 0.0
    start = start_of(stream) - time_zero(container)
    if end >= start + expected - GAP_SECONDS:
        return
    got = f"{max(end, 0.0):.1f} s of {start + expected:.1f} s"
    if notes is None:
        raise MediaError(
            f"{name} must be whole",
            got=got,
            fix="copy or export it again; or hear what is there: --allow-truncated",
        )
    notes.append(f"the file was cut off: {got}")


def too_long(name: str) -> MediaError:
    """The error for more than MAX_SECONDS."""
    return MediaError(
        f"{name} must be shorter than {MAX_SECONDS / 3600:g} hours", got="a longer recording", fix="cut it into parts"
    )
