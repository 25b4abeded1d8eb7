"""Sound and video files to arrays: decoded as a stream, aligned to one time zero, bounded, checked.

read_audio(Path("quartet.mp4"), sample_rate=22050)                 # Float32 "1 t"
read_video(Path("quartet.mp4"), size=(96, 384), frame_rate=12.5)   # UInt8 "v 96 384 3"
"""

import io
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from jaxtyping import Float32, Int16, UInt8

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
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, right and bottom exclusive."""


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
    with _open(path) as container:
        sounds = _sound_streams(container)
        picture = _picture_stream(container)
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


def read_audio(source: Source, sample_rate: int, channels: int = 1, stream: int = 0) -> Float32[np.ndarray, "c t"]:
    """One sound stream of a file, resampled (soxr HQ) to `sample_rate` and mapped to 1 or 2 channels.

    `stream` counts from 0, as `Probe.sound_seconds` does. All streams of a file have the same time zero.
    Mono is the mean of left and right; mono in a stereo result stands on both sides; of surround sound the low
    frequency effects are left out and centre channels stand on both sides.

    Raises:
        MediaError: no such file, no media, no such sound, empty, not finite, cut off, or longer than MAX_SECONDS.

    """
    name = _name(source)
    with _open(source) as container:
        blocks: list[Float32[np.ndarray, "c n"]] = []
        resample: soxr.ResampleStream | None = None
        for block, rate in _decode_audio(container, channels, stream, name):
            if rate != sample_rate:
                resample = resample or soxr.ResampleStream(rate, sample_rate, channels, dtype="float32", quality="HQ")
                block = resample.resample_chunk(np.ascontiguousarray(block.T)).reshape(-1, channels).T
            blocks.append(block)
        if resample is not None:
            last = resample.resample_chunk(np.zeros((0, channels), np.float32), last=True)
            blocks.append(last.reshape(-1, channels).T)
    audio = np.concatenate(blocks, axis=1) if blocks else np.zeros((channels, 0), np.float32)
    if not audio.shape[1]:
        raise MediaError(f"{name} must hold sound", got="a sound stream of 0 samples", fix="give a whole recording")
    if not np.isfinite(audio).all():
        raise MediaError(
            f"{name} must hold finite samples", got="NaN or infinite values", fix="export it again as 16-bit WAV"
        )
    return audio


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
    name = _name(source)
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
    _check_picture_bytes(len(paths), (size, len(boxes) * size), str(paths[0]))
    seen: dict[Path, UInt8[np.ndarray, "h w 3"]] = {}
    for path in dict.fromkeys(paths):
        with _open(path) as container:
            for frame, _, _ in _decode_video(container, str(path)):
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
    name = _name(source)
    pictures: list[UInt8[np.ndarray, "h w 3"]] = []

    def time_of_next() -> float:
        return begin + (len(pictures) + 0.5) / frame_rate

    def show(frame: Any, until: float) -> None:
        picture = None
        while time_of_next() < min(until, begin + seconds):
            _check_picture_bytes(len(pictures) + 1, size, name)
            picture = convert(frame) if picture is None else picture
            pictures.append(picture)

    shown, last = None, 0.0
    with _open(source) as container:
        for frame, first, end in _decode_video(container, name):
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
    with _open(data) as container:
        comment = re.search(r"picture=(\d+)x(\d+)", container.metadata.get("comment", ""))
        for frame, _, _ in _decode_video(container, _name(data)):
            # An even side is at most one pixel more than an odd one that was padded.
            if len(pictures) + 1 > most_pictures or max(frame.height, frame.width) > side + side % 2:
                raise MediaError(
                    f"a video must hold at most {most_pictures} pictures of at most {side}x{side} pixels",
                    got=f"picture {len(pictures) + 1} of {frame.width}x{frame.height}",
                    fix="write it again",
                )
            picture = frame.to_ndarray(format="rgb24")
            _check_picture_bytes(len(pictures) + 1, picture.shape[:2], _name(data))
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
                raise _too_long("sound in memory")
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


def _name(source: Source) -> str:
    return "media in memory" if isinstance(source, bytes) else str(source)


@contextmanager
def _open(source: Source) -> Iterator[Any]:
    """An open container; FFmpeg's errors, here and in the block, become MediaErrors."""
    name = _name(source)
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


def _picture_stream(container: Any) -> Any | None:
    """The first video stream that can be decoded and is not the cover of an album."""
    cover = av.stream.Disposition.attached_pic
    streams = (stream for stream in container.streams.video if stream.codec_context is not None)
    return next((stream for stream in streams if not stream.disposition & cover), None)


def _sound_streams(container: Any) -> list[Any]:
    """The sound streams that can be decoded."""
    return [stream for stream in container.streams.audio if stream.codec_context is not None]


def _start(stream: Any) -> float:
    """Where a stream begins, in the file's own seconds."""
    return float((stream.start_time or 0) * stream.time_base)


def _time_zero(container: Any) -> float:
    """Where reading begins, in the file's own seconds."""
    first = _picture_stream(container) or next(iter(_sound_streams(container)), None)
    return _start(first) if first else 0.0


def _decode_audio(
    container: Any, channels: int, number: int, name: str
) -> Iterator[tuple[Float32[np.ndarray, "c n"], int]]:
    """Blocks of a sound stream from time zero on, mapped to `channels`, each with its sample rate."""
    stream, count, rate, end = _numbered_sound(container, number, name), 0, 0, 0.0
    # Without a picture the first sample is the beginning, whatever its time stamp: FFmpeg's are 3 ms late in Vorbis.
    zero = _time_zero(container) if _picture_stream(container) else None
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
            raise _too_long(name)
        if gap > 0 and (count == 0 or gap > GAP_SECONDS * rate):
            yield np.zeros((channels, gap), np.float32), rate
            count += gap
        block = block[:, max(0, -position) :]  # what comes before the picture
        yield block, rate
        count += block.shape[1]
        end = position / rate + block.shape[1] / rate
    _check_whole(container, stream, end, name)


def _numbered_sound(container: Any, number: int, name: str) -> Any:
    streams = _sound_streams(container)
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


def _decode_video(container: Any, name: str) -> Iterator[tuple[Any, float, float]]:
    """Pictures in the order of showing, each with begin and end in seconds after time zero."""
    stream = _picture_stream(container)
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


def _check_picture_bytes(count: int, size: tuple[int, ...], name: str) -> None:
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


def _too_long(name: str) -> MediaError:
    return MediaError(
        f"{name} must be shorter than {MAX_SECONDS / 3600:g} hours", got="a longer recording", fix="cut it into parts"
    )
