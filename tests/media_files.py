"""Media files for tests, in any container that FFmpeg writes: whole, through a pipe, with picture, turned."""

import io
from fractions import Fraction

import av
import numpy as np

SECONDS = 2.0


def music(seconds: float = SECONDS, rate: int = 44100) -> np.ndarray:
    """A tone in noise, so that no codec makes it small."""
    count = round(seconds * rate)
    noise = np.random.default_rng(0).standard_normal(count)
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(count) / rate) + 0.05 * noise).astype(np.float32)


class Pipe:
    """A file that cannot be wound back, as a pipe."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: bytes) -> int:
        self.content += bytes(data)
        return len(data)


def encoded(
    kind: str,
    codec: str,
    sound: np.ndarray | None = None,
    rate: int = 44100,
    pipe: bool = False,
    options: dict[str, str] | None = None,
) -> bytes:
    """A mono sound file."""
    file = Pipe() if pipe else io.BytesIO()
    with av.open(file, "w", format=kind, options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 12200 if codec == "libopencore_amrnb" else 128_000
        packets = sound_packets(stream, music(rate=rate) if sound is None else sound, rate)
        for packet in packets:
            container.mux(packet)
    return bytes(file.content) if isinstance(file, Pipe) else file.getvalue()


def sound_packets(stream: av.AudioStream, sound: np.ndarray, rate: int) -> list[av.Packet]:
    """The encoded packets of mono sound, in whatever sample format the codec wants."""
    form = stream.codec_context.codec.audio_formats[0].name
    stream.codec_context.format = form
    resampler = av.AudioResampler(format=form, layout="mono", rate=rate)
    packets = []
    for begin in range(0, len(sound), 1024):
        block = np.ascontiguousarray(sound[None, begin : begin + 1024])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
        for part in resampler.resample(frame):
            packets += stream.encode(part)
    for part in resampler.resample(None):
        packets += stream.encode(part)
    return packets + stream.encode()


def filmed(
    kind: str,
    pictures: np.ndarray,
    frame_rate: int = 5,
    codec: str = "libx264",
    sound: np.ndarray | None = None,
    turn: dict[str, int | bool] | None = None,
    matrix: list[int] | None = None,
    aspect: Fraction | None = None,
) -> bytes:
    """A video file, turned as by `VideoStream.set_display_rotation` or a display matrix."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=frame_rate)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if turn is not None:
            stream.set_display_rotation(**turn)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        heard = container.add_stream("aac", rate=44100, layout="mono") if sound is not None else None
        packets = []
        for index, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, frame_rate)
            packets += stream.encode(frame)
        packets += stream.encode()
        packets += sound_packets(heard, sound, 44100) if sound is not None else []
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            container.mux(packet)
    return file.getvalue()
