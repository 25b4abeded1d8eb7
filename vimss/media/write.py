"""Arrays to sound and video files: 16-bit WAV and FLAC without loss, MP4 with H.264 and AAC; equal input, equal bytes.

write_wav(Path("vn.wav"), audio, sample_rate=22050)
write_video(Path("duet.mp4"), frames, 12.5, mixture, 22050, {"instruments": "vn,cl"})
"""

import heapq
import io
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Float32, Int16, UInt8

from vimss.errors import MediaError
from vimss.storage import atomic_write

INT16_SCALE = 32768.0
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000)
AAC_FRAME = 1024
AAC_BITS_PER_CHANNEL = 128_000
BITEXACT = {"fflags": "+bitexact"}


def encode_video(
    frames: UInt8[np.ndarray, "v h w 3"],
    frame_rate: float,
    audio: Float[np.ndarray, "c t"] | None = None,
    sample_rate: int = 44100,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Pictures, with sound if given, as MP4: H.264 yuv420p and AAC, which every player and browser supports.

    Equal input gives equal bytes: one thread, no dates, no encoder names in the container. There is a key frame every
    second. A picture of odd size is padded with its last row or column; `decode_video` removes the padding. `metadata`,
    such as {"instruments": "vn,cl"}, is written into the comment as `key=value` words, which `probe` reads.

    Raises:
        MediaError: no pictures, or metadata that does not fit in a comment.

    """
    if not frames.size:
        raise MediaError("a video must have pictures", got=f"shape {frames.shape}", fix="give at least one picture")
    height, width = frames.shape[1:3]
    words = dict(metadata or {})
    if height % 2 or width % 2:
        words["picture"] = f"{height}x{width}"
        frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options=BITEXACT) as container:
        if words:
            container.metadata["comment"] = _comment(words)
        # All streams must be known before the first packet is written.
        picture = _encode_picture(container, frames, frame_rate)
        sound = _encode_sound(container, audio, sample_rate) if audio is not None else iter(())
        # Interleaved by time, so that players need not seek.
        for _, packets in heapq.merge(picture, sound, key=lambda entry: entry[0]):
            container.mux(packets)
    return buffer.getvalue()


def write_video(
    path: Path,
    frames: UInt8[np.ndarray, "v h w 3"],
    frame_rate: float,
    audio: Float[np.ndarray, "c t"] | None = None,
    sample_rate: int = 44100,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """`encode_video` to a file that is complete or absent."""
    data = encode_video(frames, frame_rate, audio, sample_rate, metadata)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def fitting_gain(*signals: Float[np.ndarray, "..."]) -> float:
    """The largest common gain up to 1 with which no signal clips as int16; stems that share it still sum to the mix."""
    peak = max((float(np.abs(signal).max(initial=0.0)) for signal in signals), default=0.0)
    limit = (INT16_SCALE - 1) / INT16_SCALE
    return 1.0 if peak <= limit else limit / peak


def quantise(audio: Float[np.ndarray, "c t"]) -> Int16[np.ndarray, "c t"]:
    """Float in [-1, 1] to int16; full scale is 32768, and larger samples are clipped (see `fitting_gain`)."""
    return np.clip(np.rint(audio * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def write_wav(path: Path, audio: Float[np.ndarray, "c t"], sample_rate: int) -> float:
    """Write a 16-bit WAV that is complete or absent; returns the gain, below 1 if the sound would have clipped.

    Nothing is clipped: a signal whose peak exceeds full scale is scaled down as a whole.
    """
    gain = fitting_gain(audio)
    data = encode_audio(quantise(audio * gain), sample_rate)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return gain


def encode_audio(audio: Int16[np.ndarray, "c t"], sample_rate: int, kind: Literal["wav", "flac"] = "wav") -> bytes:
    """Samples as a WAV or FLAC file, 16 bits, without loss."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.ascontiguousarray(audio.T), sample_rate, format=kind.upper(), subtype="PCM_16")
    return buffer.getvalue()


def _encode_picture(
    container: Any, frames: UInt8[np.ndarray, "v h w 3"], frame_rate: float
) -> Iterator[tuple[float, Any]]:
    """Add an H.264 stream, and yield its packets with their start in seconds."""
    rate = Fraction(frame_rate).limit_denominator(1001)
    stream = container.add_stream("libx264", rate=rate)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = "yuv420p"
    # Key frames at fixed intervals only, so that seeking costs the same everywhere.
    options = {"preset": "veryfast", "crf": "20", "g": str(max(1, round(rate))), "sc_threshold": "0", "threads": "1"}
    # x264's look-ahead decided differently between processes: equal pictures gave other bytes in 9 of 24.
    stream.options = options | {"x264-params": "rc-lookahead=0:mbtree=0:weightp=0"}
    stream.codec_context.flags |= av.codec.context.Flags.bitexact
    return _picture_packets(stream, frames, rate)


def _picture_packets(stream: Any, frames: UInt8[np.ndarray, "v h w 3"], rate: Fraction) -> Iterator[tuple[float, Any]]:
    for index, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = index, 1 / rate
        yield float(index / rate), stream.encode(frame)
    yield float(len(frames) / rate), stream.encode()


def _encode_sound(container: Any, audio: Float[np.ndarray, "c t"], sample_rate: int) -> Iterator[tuple[float, Any]]:
    """Add an AAC stream, and yield its packets with their start in seconds."""
    rate = next((rate for rate in AAC_RATES if rate >= sample_rate), AAC_RATES[-1])
    if rate != sample_rate:
        audio = soxr.resample(np.ascontiguousarray(audio.T, np.float32), sample_rate, rate).T
    # AAC has no full scale, but players do.
    audio = np.ascontiguousarray(audio * fitting_gain(audio), np.float32)
    layout = "mono" if len(audio) == 1 else "stereo"
    stream = container.add_stream("aac", rate=rate, layout=layout)
    stream.bit_rate = AAC_BITS_PER_CHANNEL * len(audio)
    stream.codec_context.flags |= av.codec.context.Flags.bitexact
    return _sound_packets(stream, audio, layout)


def _sound_packets(stream: Any, audio: Float32[np.ndarray, "c t"], layout: str) -> Iterator[tuple[float, Any]]:
    for position in range(0, audio.shape[1], AAC_FRAME):
        block = np.ascontiguousarray(audio[:, position : position + AAC_FRAME])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = stream.rate, position, Fraction(1, stream.rate)
        yield position / stream.rate, stream.encode(frame)
    yield audio.shape[1] / stream.rate, stream.encode()


def _comment(words: Mapping[str, str]) -> str:
    comment = " ".join(f"{key}={value}" for key, value in words.items())
    if not re.fullmatch(r"(?:\w+=[\w.,+-]+ ?)+", comment):
        raise MediaError(
            "metadata of a video must be words of letters, digits and any of . , + -",
            got=repr(comment),
            fix='write for example {"instruments": "vn,cl"}',
        )
    return comment
