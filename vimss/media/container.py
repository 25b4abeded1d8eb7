"""An open sound or video file: its streams, its time zero, and the errors about it.

with opened(Path("quartet.mp4")) as container:
    streams = sound_streams(container)
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import av

from vimss.errors import MediaError
from vimss.media.claims import Shortfall, breaks_off, shortfall
from vimss.media.kinds import CONVERT, FORMATS, unreadable

MAX_SECONDS = 6 * 3600.0
"""Longest recording that is read, seconds; the size on disk is no bound, since silence compresses to almost nothing."""
MAX_PICTURE_BYTES = 4 * 2**30
"""Largest array of pictures that is returned, bytes."""
IMAGES = {".jpg", ".jpeg"}
"""File name extensions of still images."""

Source = Path | bytes


def no_stream(container: Any, kind: Literal["sound", "video"], source: Source) -> MediaError:
    """The error for a file without sound or without picture."""
    streams = container.streams.audio if kind == "sound" else container.streams.video
    got = f"{len(streams)} of an unknown codec" if streams else "none"
    fix = f"give a recording with {'sound' if kind == 'sound' else 'picture'}"
    # The index of an MP4 may be cut off before the entry of this stream.
    if breaks_off(source):
        got, fix = "a file that was cut off", "copy, download or export it again"
    return MediaError(f"{name_of(source)} must have a {kind} stream", got=got, fix=fix)


def name_of(source: Source) -> str:
    """The name of a source in errors."""
    return "media in memory" if isinstance(source, bytes) else str(source)


@contextmanager
def opened(source: Source) -> Iterator[Any]:
    """An open container; FFmpeg's errors, here and in the block, become MediaErrors."""
    name = name_of(source)
    if isinstance(source, Path) and not source.is_file():
        raise _no_file(source)
    try:
        container = _open(source)
    except OSError as error:
        raise MediaError(
            f"{name} must be a file that can be read",
            got=f"an error of the system ({error.strerror})",
            fix="check its permissions, and the disk that it is on",
        ) from error
    with container:
        try:
            yield container
        except av.FFmpegError as error:
            raise MediaError(
                f"{name} must be a sound or video file that can be decoded",
                got=f"damaged data ({error.strerror or type(error).__name__})",
                fix=CONVERT,
            ) from error


def _open(source: Source) -> Any:
    """Open a source; MediaError if it is no media, OSError if it cannot be read."""
    name = name_of(source)
    # FFmpeg treats the name of a JPEG file as a pattern for many files, so it gets the content instead.
    if isinstance(source, Path) and source.suffix.lower() in IMAGES:
        source = source.read_bytes()
    # An absolute path cannot be taken for a URL, and files that the source refers to are not opened.
    file = io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        return av.open(file, metadata_errors="replace", options=options)
    except av.FFmpegError as error:
        got, fix = unreadable(source, error.strerror or type(error).__name__)
        raise MediaError(f"{name} must be a sound or video file that can be decoded", got=got, fix=fix) from error


def _no_file(path: Path) -> MediaError:
    got, fix = "no such file", "check the path"
    if path.is_dir():
        got, fix = "a folder", "give a file in it"
    elif path.exists():
        got, fix = "a pipe or a device", "write its output to a file first"
    return MediaError(f"{path} must be a media file", got=got, fix=fix)


def picture_stream(container: Any) -> Any | None:
    """The first video stream that can be decoded and is not album art."""
    cover = av.stream.Disposition.attached_pic
    streams = (stream for stream in container.streams.video if stream.codec_context is not None)
    return next((stream for stream in streams if not stream.disposition & cover), None)


def sound_streams(container: Any) -> list[Any]:
    """The sound streams that can be decoded."""
    return [stream for stream in container.streams.audio if stream.codec_context is not None]


def start_of(stream: Any) -> float:
    """The start of a stream, in the file's own seconds."""
    return float((stream.start_time or 0) * stream.time_base)


def time_zero(container: Any) -> float:
    """Time zero: the start of reading, in the file's own seconds."""
    first = picture_stream(container) or next(iter(sound_streams(container)), None)
    return start_of(first) if first else 0.0


def check_picture_bytes(count: int, size: tuple[int, ...], name: str) -> None:
    """MediaError if `count` pictures of (height, width) would exceed MAX_PICTURE_BYTES."""
    if count * size[0] * size[1] * 3 > MAX_PICTURE_BYTES:
        raise MediaError(
            f"{name} must give at most {MAX_PICTURE_BYTES >> 20} MB of pictures",
            got=f"more than {count - 1} pictures of {size[1]}x{size[0]}",
            fix="cut the video, or read it at a smaller size or a lower frame rate",
        )


def check_whole(
    container: Any, stream: Any, source: Source, end: float, reached: float, *, allowed: bool, notes: list[str]
) -> None:
    """Refuse or report truncation, which FFmpeg does not: most headers still hold the intended length.

    Args:
        container: read to its end.
        stream: the one that was read.
        source: the file.
        end: the end of the part that was read, seconds after time zero.
        reached: where the last packet of any stream ends, in the file's own seconds.
        allowed: whether the file may be cut off.
        notes: get a sentence about the missing part.

    Raises:
        MediaError: the file was cut off, and that is not allowed.

    """
    start = start_of(stream) - time_zero(container)
    short = shortfall(container, stream, source, max(0.0, end - start), reached)
    if short is None:
        return
    if short.cut and not allowed:
        raise cut_off(source, short)
    notes.append(f"the file was cut off: {short.text}" if short.cut else short.text)


def cut_off(source: Source, short: Shortfall) -> MediaError:
    """The error for a truncated file."""
    return MediaError(
        f"{name_of(source)} must be whole",
        got=short.text,
        fix="copy, download or export it again; or read the existing part: --allow-truncated",
    )


def too_long(name: str) -> MediaError:
    """The error for more than MAX_SECONDS."""
    return MediaError(
        f"{name} must be shorter than {MAX_SECONDS / 3600:g} hours", got="a longer recording", fix="cut it into parts"
    )
