"""Sound files to arrays: decoded as a stream, aligned to one time zero, bounded, checked.

read_audio(Path("quartet.mp4"), sample_rate=22050)   # Float32 "1 t"
"""

import io
import sys
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32, Int16

from vimss.errors import MediaError
from vimss.media.container import MAX_SECONDS, Source, name_of, opened, too_long
from vimss.media.report import Channel, SoundReport
from vimss.media.sound import Selection, sound_blocks


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

    `report` is filled in along the way.
    """
    name, report = name_of(source), report if report is not None else SoundReport()
    selection = Selection(channels, stream, channel, allow_truncated)
    resample: soxr.ResampleStream | None = None
    with opened(source) as container:
        for block, rate in sound_blocks(container, selection, source, report):
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
    Mono is the mean of left and right; mono is copied to both sides of a stereo result; of surround sound, the
    low frequency effects are left out and centre channels go to both sides.

    Raises:
        MediaError: no such file, no media, no such sound, empty, not finite, cut off, or longer than MAX_SECONDS.

    """
    blocks = audio_blocks(
        source, sample_rate, channels, stream, channel=channel, allow_truncated=allow_truncated, report=report
    )
    return np.concatenate(list(blocks), axis=1)


def decode_audio(data: bytes, most_samples: int = sys.maxsize) -> tuple[Int16[np.ndarray, "c t"], int]:
    """Samples and sample rate of a WAV or FLAC file in memory, at their own rate and channels.

    Raises:
        MediaError: not such a file, or one that claims more than `most_samples` or MAX_SECONDS.

    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            # soundfile allocates memory for the header's count before it reads a sample.
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
