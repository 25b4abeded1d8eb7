"""The sound of an open file as blocks on one time scale: every channel checked, mapped to mono or stereo, reported.

with opened(Path("quartet.mp4")) as container:
    for block, rate in sound_blocks(container, Selection(channels=1), Path("quartet.mp4"), SoundReport()): ...
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float32

from vimss.errors import MediaError
from vimss.media.claims import early_shortfall
from vimss.media.container import (
    MAX_SECONDS,
    Source,
    check_whole,
    cut_off,
    name_of,
    no_stream,
    picture_stream,
    sound_streams,
    start_of,
    time_zero,
    too_long,
)
from vimss.media.damage import COUNTED, Losses, check_losses, check_rate, decoded_frames, restarts
from vimss.media.report import Channel, SoundReport

MAX_SAMPLE = 1000.0
"""Largest sample that is read, 60 dB over full scale. A hundred stems at full scale sum to 40 dB over it; anything
louder is broken data or scaled differently, and one such sample drives a network's normalisation into silence."""
GAP_SECONDS = 0.1
"""Gaps in the time stamps of a sound stream: shorter ones are rounding of the container, longer ones silence."""
EXACT = {"flac", "ogg", "tta", "wv"}
EXACT_GAP_SECONDS = 0.02
"""The same for containers that count samples: a lost block of FLAC is 0.09 s."""
SILENCE_BLOCK = 1 << 20
FULL_SCALES = {32768.0: "16-bit", 8388608.0: "24-bit", 2147483648.0: "32-bit"}
LAYOUTS = {
    1: "FC",
    2: "FL FR",
    3: "FL FR FC",
    4: "FL FR BL BR",
    5: "FL FR FC BL BR",
    6: "FL FR FC LFE BL BR",
    7: "FL FR FC LFE BC SL SR",
    8: "FL FR FC LFE BL BR SL SR",
}
"""The order of channels if a file names none: that of WAVE and FLAC. FFmpeg's own order would take the third of three
for a subwoofer, and drop it."""


@dataclass(frozen=True)
class Selection:
    """The part of a file to read."""

    channels: int = 1
    stream: int = 0
    channel: Channel = "all"
    allow_truncated: bool = False


def sound_blocks(
    container: Any, selection: Selection, source: Source, report: SoundReport
) -> Iterator[tuple[Float32[np.ndarray, "c n"], int]]:
    """Blocks of a sound stream from time zero on, mapped to `selection.channels`, all with one sample rate.

    Silence replaces damaged or missing packets, according to the time stamps.
    """
    name = name_of(source)
    stream, count, rate, losses = _numbered_sound(container, selection.stream, source), 0, 0, Losses()
    report.stream, report.streams, report.channel = selection.stream, len(sound_streams(container)), selection.channel
    early = None if selection.allow_truncated else early_shortfall(container, stream, source)
    if early is not None:
        raise cut_off(source, early)
    # Without a picture, time zero is the first sample, whatever its time stamp: FFmpeg's are 3 ms late in Vorbis.
    zero = time_zero(container) if picture_stream(container) else None
    # Streams without time stamps get them by counting, including junk: gaps cannot be detected.
    counted = container.format.name in COUNTED
    most_gap = EXACT_GAP_SECONDS if container.format.name in EXACT else GAP_SECONDS
    late = start_of(stream) - time_zero(container)
    for frame in decoded_frames(container, stream, losses):
        rate = rate or frame.sample_rate
        if not check_rate(losses, frame, rate, name):
            continue
        if zero is None and frame.time is not None:
            zero = frame.time - late
        position = count if counted or frame.time is None or zero is None else round((frame.time - zero) * rate)
        if count and frame.time is not None and restarts(container, frame.time, (position - count) / rate):
            losses.restarts.append(count / rate)
            zero, position = frame.time - count / rate, count
        samples = _samples(frame)
        if max(position, count) + samples.shape[1] > MAX_SECONDS * rate:
            raise too_long(name)
        gap = position - count
        if gap > 0 and (count == 0 or losses.fresh or gap > most_gap * rate):
            if count:
                losses.holes.append((count / rate, gap / rate))
            yield from _silence(selection.channels, gap, rate)
            count += gap
        losses.fresh = False
        samples = samples[:, max(0, -position) :]  # sound before the picture
        _check_samples(samples, count / rate, rate, name)
        yield _selected(samples, frame, selection, name, report), rate
        count += samples.shape[1]
        losses.seconds = count / rate
    report.notes += losses.notes()
    check_whole(
        container,
        stream,
        source,
        losses.seconds,
        losses.end_of_file(container),
        allowed=selection.allow_truncated,
        notes=report.notes,
    )
    check_losses(losses, name)


def _silence(channels: int, samples: int, rate: int) -> Iterator[tuple[Float32[np.ndarray, "c n"], int]]:
    """Silence in blocks, so that an hour of it fits into memory."""
    for begin in range(0, samples, SILENCE_BLOCK):
        yield np.zeros((channels, min(SILENCE_BLOCK, samples - begin)), np.float32), rate


def _numbered_sound(container: Any, number: int, source: Source) -> Any:
    streams = sound_streams(container)
    if number < len(streams):
        return streams[number]
    if streams:
        raise MediaError(
            f"{name_of(source)} must have at least {number + 1} sound streams, to read stream {number}",
            got=str(len(streams)),
            fix=f"choose one up to stream {len(streams) - 1}, or copy or convert the file with all of its streams",
        )
    raise no_stream(container, "sound", source)


def _samples(frame: Any) -> Float32[np.ndarray, "c n"]:
    """The samples of a decoded block, full scale 1, without a codec's padding at the end."""
    count, channels = frame.samples, frame.layout.nb_channels
    if frame.time_base == Fraction(1, frame.sample_rate) and 0 < frame.duration < count:
        count = frame.duration
    values = frame.to_ndarray()
    values = values if frame.format.is_planar else values.reshape(-1, channels).T
    kind = values.dtype
    with np.errstate(over="ignore"):  # 64-bit floats beyond 32 bits become infinite, which is refused
        values = values[:, :count].astype(np.float32)
    if kind == np.uint8:
        return values / 128 - 1
    return values / -float(np.iinfo(kind).min) if kind.kind == "i" else values


def _selected(
    samples: Float32[np.ndarray, "c n"], frame: Any, selection: Selection, name: str, report: SoundReport
) -> Float32[np.ndarray, "k n"]:
    """The requested channels of a block of all channels."""
    names = tuple(channel.name for channel in frame.layout.channels)
    if "NONE" in names and len(names) in LAYOUTS:
        names = tuple(LAYOUTS[len(names)].split())
    if not report.channels:
        report.channels, report.sample_rate = names, frame.sample_rate
        report.notes += _layout_notes(frame, names)
        if selection.channel == "side" and len(names) == 1:
            raise MediaError(
                f"{name} must have two channels for their difference", got="mono", fix="remove --channel side"
            )
    if len(samples) == 1:
        return np.repeat(samples, selection.channels, axis=0)
    left, right = _sides(samples, names)
    report.add_sides(left, right)
    if selection.channel == "all" and selection.channels == 2:
        return np.stack([left, right])
    chosen = {"all": (0.5, 0.5), "left": (1, 0), "right": (0, 1), "mid": (0.5, 0.5), "side": (0.5, -0.5)}
    of_left, of_right = np.array(chosen[selection.channel], np.float32)
    return np.repeat((of_left * left + of_right * right)[None], selection.channels, axis=0)


def _layout_notes(frame: Any, names: Sequence[str]) -> list[str]:
    if len(names) < 3 or frame.layout.channels[0].name != "NONE":
        return []
    if "NONE" in names:
        return [f"{len(names)} channels that have no names: their mean goes to the left and to the right"]
    return [f"{len(names)} channels that the file does not name: taken for {' '.join(names)}"]


def _sides(block: Float32[np.ndarray, "c n"], names: Sequence[str]) -> list[Float32[np.ndarray, " n"]]:
    """Left and right of any layout, by FFmpeg's channel names; centre channels are part of both."""
    kept = [index for index, name in enumerate(names) if not name.startswith("LFE")]
    # FLC and FRC are left and right of centre.
    left = [index for index in kept if not names[index].removesuffix("C").endswith("R")]
    right = [index for index in kept if not names[index].removesuffix("C").endswith("L")]
    return [block[side[0]] if len(side) == 1 else block[side or slice(None)].mean(axis=0) for side in (left, right)]


def _check_samples(samples: Float32[np.ndarray, "c n"], begin: float, rate: int, name: str) -> None:
    """MediaError if samples are not finite, or far above full scale."""
    # NaN passes through min and max, and compares as False.
    if not samples.size or (samples.max() <= MAX_SAMPLE and samples.min() >= -MAX_SAMPLE):
        return
    wrong = ~(np.abs(samples) <= MAX_SAMPLE)
    place = int(wrong.any(axis=0).argmax())
    first = float(samples[wrong[:, place], place][0])
    second = f"{begin + place / rate:.3f} s"
    if not np.isfinite(first):
        raise MediaError(
            f"{name} must hold finite samples",
            got=f"{'NaN' if np.isnan(first) else 'an infinite value'} at {second}",
            fix="export it again as 16-bit WAV, or cut that place out",
        )
    peak = float(np.abs(samples[np.isfinite(samples)]).max())
    fix = "export it again as 16-bit WAV, or cut that place out"
    scale = next((scale for scale in FULL_SCALES if peak <= scale), None)
    # A spike is alone; samples of another scale are all large.
    if scale and np.mean(np.abs(samples) > 1) > 0.1:
        bits = FULL_SCALES[scale]
        fix = f"these look like {bits} numbers kept as floats: divide them by {scale:.0f}, and export it again"
    raise MediaError(
        f"{name} must hold samples of at most {MAX_SAMPLE:g} times full scale, which is 1",
        got=f"{first:.6g} at {second}",
        fix=fix,
    )
