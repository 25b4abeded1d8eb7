"""Augmentation of a player's stem in one window: cut, varispeed, equaliser, room, time mask.

    stem = play(player.audio, start=1000.0, length=24_000, speed=1.06, gain=0.5)  # a semitone higher, 6 dB softer
    stem = in_room(stem, draw_room(rng, seconds=0.4, sample_rate=22050, channels=1))

All that is drawn comes from the generator that is given.
"""

import functools
import math

import numpy as np
import scipy.fft
from jaxtyping import Float32, Float64, Int16

from vimss.media import INT16_SCALE, resample

SILENCE_RMS = 3e-3
"""A stem below -50 dBFS in a window is silent there: it is neither queried nor scored."""

LOOK_SAMPLES = 8192
"""Samples looked at in one go: they stay in the fastest cache, and a loud stem is known after the first of them."""

EQUALISER_BANDS = 6

RESAMPLER_EDGE = 256
"""Samples read beyond each end, where the resampling filter has an effect of the cut: 2e-4 with 64 of them."""

TAIL_DB = (-20.0, 0.0)
"""Energy of a room's tail relative to the direct sound: from a dry studio to the middle of a church."""

MASKED = (0.1, 0.5)
"""How long silence in a window is, as shares of its output."""

FADE_SECONDS = 0.01


def sounds(audio: np.ndarray, full_scale: float) -> bool:
    """Whether the RMS exceeds SILENCE_RMS; sums of squares of int16 are exact, in any order."""
    wanted = (SILENCE_RMS * full_scale) ** 2 * audio.size
    energy = 0.0
    for begin in range(0, audio.shape[-1], LOOK_SAMPLES):
        part = audio[..., begin : begin + LOOK_SAMPLES].astype(np.float64)
        energy += float(np.vdot(part, part))
        if energy > wanted:
            return True
    return False


def play(
    audio: Int16[np.ndarray, "c t"], start: float, length: int, speed: float, gain: float
) -> Float32[np.ndarray, "c u"]:
    """`length` samples of a stem from `start` on, as floats, at another speed, which is another pitch too."""
    if speed == 1:
        return cut(audio, round(start), length, gain)
    first = round(start - RESAMPLER_EDGE * speed)
    stretch = cut(audio, first, math.ceil((length + 2 * RESAMPLER_EDGE) * speed), gain)
    return resample(stretch, speed, 1.0)[:, RESAMPLER_EDGE : RESAMPLER_EDGE + length]


def cut(audio: Int16[np.ndarray, "c t"], start: int, length: int, gain: float) -> Float32[np.ndarray, "c u"]:
    """`length` samples of a stem from `start`, times `gain`, as floats; silence before its start and after its end."""
    out = np.empty((audio.shape[0], length), np.float32)
    first = min(max(-start, 0), length)
    last = max(min(audio.shape[1] - start, length), first)
    out[:, :first] = 0
    out[:, last:] = 0
    # One pass. The scale is a power of two, so the product is rounded once, whichever factor comes first.
    scale = np.float32(gain) / np.float32(INT16_SCALE)
    np.multiply(audio[:, start + first : start + last], scale, out=out[:, first:last])
    return out


def equalise(stem: Float32[np.ndarray, "c t"], gains_db: np.ndarray) -> Float32[np.ndarray, "c t"]:
    """A smooth equaliser: gains at octaves below the Nyquist frequency, interpolated on a logarithmic axis."""
    # Windows of valid convolutions have odd lengths: a Fourier transform of just that many samples takes 50 ms.
    total = scipy.fft.next_fast_len(stem.shape[1], real=True)
    curve = np.interp(_octaves(total // 2 + 1), np.arange(-len(gains_db) + 1, 1), gains_db)
    spectrum = scipy.fft.rfft(stem, total) * (10 ** (curve / 20)).astype(np.float32)
    return scipy.fft.irfft(spectrum, total)[:, : stem.shape[1]]


@functools.cache
def _octaves(bins: int) -> Float64[np.ndarray, " f"]:
    """Where the bins of a spectrum lie below the Nyquist frequency."""
    return np.log2(np.linspace(0, 1, bins) + 2.0**-EQUALISER_BANDS)


def draw_room(rng: np.random.Generator, seconds: float, sample_rate: int, channels: int) -> Float32[np.ndarray, "c r"]:
    """An impulse response: the direct sound at once, then noise that has decayed by 60 dB after up to `seconds`.

    Its energy is 1, so that a room makes noise no louder.
    """
    decay_samples = rng.uniform(0, seconds) * sample_rate
    after = np.arange(1, round(decay_samples) + 1)
    tail = rng.standard_normal((channels, len(after))) * 10 ** (-3 * after / decay_samples)
    response = np.concatenate([np.ones((channels, 1)), tail * math.sqrt(10 ** (rng.uniform(*TAIL_DB) / 10))], axis=1)
    energy = np.sum(tail**2, axis=1, keepdims=True)
    response[:, 1:] /= np.sqrt(np.where(energy > 0, energy, 1))
    return (response / np.sqrt(np.sum(response**2, axis=1, keepdims=True))).astype(np.float32)


def in_room(stem: Float32[np.ndarray, "c t"], room: Float32[np.ndarray, "c r"]) -> Float32[np.ndarray, "c u"]:
    """The stem as it sounds there, from sample r - 1 on: before it, something is missing of what came earlier."""
    total = scipy.fft.next_fast_len(stem.shape[1], real=True)
    spectrum = scipy.fft.rfft(stem, total) * scipy.fft.rfft(room, total)
    return scipy.fft.irfft(spectrum, total)[:, room.shape[1] - 1 : stem.shape[1]]


def mask_time(stem: Float32[np.ndarray, "c t"], first: int, last: int, fade: int) -> None:
    """Silence samples `first` to `last`, in place; the fades into and out of it lie inside."""
    edge = np.minimum(np.arange(last - first), np.arange(last - first)[::-1])
    stem[:, first:last] *= np.clip(1 - edge / fade, 0, 1).astype(np.float32)
