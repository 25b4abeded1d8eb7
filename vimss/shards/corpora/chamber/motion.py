"""From a player's tones to movements: one moment per video frame.

moments = move(tones, frames=375, frame_rate=12.5, rng=rng)
moments[0].bow  # the place on the bow that touches the string, 0 frog, 1 tip
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from vimss.shards.corpora.chamber.arrange import Tone

LONG_REST = 2.4
"""Seconds of silence after which a player lowers the instrument."""

_STILL = 0.12
"""Swaying in rests relative to playing."""


class Moment(NamedTuple):
    """A player's movement in one frame; values from 0 to 1 unless stated otherwise."""

    fingers: int
    """Six bits, one per finger, by pitch."""
    sway: complex
    """Displacement of the upper body, each part about -1 to 1."""
    playing: float
    """Whether a tone sounds."""
    ready: float
    """1 instrument in playing position, 0 lowered in a long rest."""
    loud: float
    """Loudness of the tone."""
    bow: float
    """Place on the bow that touches the string: 0 frog, 1 tip; changes direction at each tone."""
    height: float
    """Pitch within the part's compass."""
    slide: float
    """Place of a trombone's slide, by pitch."""
    wobble: float
    """Vibrato of the hand, -1 to 1."""
    lift: float
    """Breath before an entry."""
    nod: float
    """Fades after each onset."""


def move(tones: Sequence[Tone], frames: int, frame_rate: float, rng: np.random.Generator) -> list[Moment]:
    """The moments of frames whose middle is at (0.5, 1.5, ...) / frame_rate seconds."""
    times = (np.arange(frames) + 0.5) / frame_rate
    sway = _sway(times, rng)
    if not tones:
        return [Moment(0, _STILL * s, 0.0, 0.0, 0.0, 0.1, 0.5, 0.5, 0.0, 0.0, 0.0) for s in sway.tolist()]
    starts = np.array([tone.start for tone in tones])
    ends = np.array([tone.end for tone in tones])
    pitches = np.array([tone.pitch for tone in tones])
    louds = np.array([tone.loud for tone in tones])
    current = np.clip(np.searchsorted(starts, times, side="right") - 1, 0, None)
    age = times - starts[current]
    playing = ((age >= 0) & (times < ends[current] + 0.03)).astype(float)
    # The hand moves to the next tone's place shortly before the tone.
    coming = np.clip(np.searchsorted(starts, times + 0.06, side="right") - 1, 0, None)
    compass = max(12, int(pitches.max() - pitches.min()))
    height = (pitches - pitches.min()) / compass
    slide = (pitches * 5 % 7) / 6
    fingers = (pitches * 37 + (pitches % 7) * 11 + 5) % 64
    rate = rng.uniform(4.8, 6.2)
    wobble = np.sin(2 * np.pi * rate * times) * playing * np.clip((age - 0.15) * 5, 0, 1)
    nod = np.where(age >= 0, louds[current] * np.exp(-np.clip(age, 0, 2) / 0.13), 0.0)
    # Players sway while they play and sit nearly still while they rest.
    swaying = sway * (_STILL + (1 - _STILL) * _smooth(playing, frame_rate, 0.3))
    curves = np.stack(
        [
            playing,
            _ready(times, starts, ends),
            louds[current] * playing,
            _bow(times, starts, ends, louds),
            _smooth(height[coming], frame_rate, 0.05),
            _smooth(slide[coming], frame_rate, 0.07),
            wobble,
            _lift(times, starts, ends),
            nod,
        ],
        axis=1,
    )
    return [
        Moment(keys, drift, *row)
        for row, keys, drift in zip(curves.tolist(), fingers[coming].tolist(), swaying.tolist(), strict=True)
    ]


def _ready(
    times: Float64[np.ndarray, " v"], starts: Float64[np.ndarray, " n"], ends: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " v"]:
    """1 around tones; in long rests it falls within half a second after a tone and rises before the next."""
    before = np.searchsorted(ends, times, side="right") - 1
    after = np.searchsorted(starts, times, side="right")
    ended = np.where(before >= 0, ends[np.clip(before, 0, None)], -10.0)
    begins = np.where(after < len(starts), starts[np.clip(after, None, len(starts) - 1)], times[-1] + 10.0)
    inside = after > before + 1
    lowered = np.minimum((times - ended - 0.35) / 0.5, (begins - times - 0.25) / 0.5)
    lowered = np.where(inside | (begins - ended < LONG_REST), 0.0, np.clip(lowered, 0, 1))
    return 1 - lowered * lowered * (3 - 2 * lowered)


def _bow(
    times: Float64[np.ndarray, " v"],
    starts: Float64[np.ndarray, " n"],
    ends: Float64[np.ndarray, " n"],
    louds: Float64[np.ndarray, " n"],
) -> Float64[np.ndarray, " v"]:
    """Down-bow and up-bow in turn; louder and longer tones take more of the bow."""
    stroke = louds * np.clip(0.25 + 0.6 * (ends - starts), 0.3, 0.95)
    place, points, values = 0.15, [0.0], [0.15]
    for index, (start, end, length) in enumerate(zip(starts, ends, stroke, strict=True)):
        points += [start, end]
        values.append(place)
        place = min(0.97, place + length) if index % 2 == 0 else max(0.03, place - length)
        values.append(place)
    return np.interp(times, points, values)


def _lift(
    times: Float64[np.ndarray, " v"], starts: Float64[np.ndarray, " n"], ends: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " v"]:
    """A breath of half a second before each entry that follows at least 0.4 s of silence."""
    entries = starts[np.concatenate([[True], starts[1:] - ends[:-1] > 0.4])]
    following = np.clip(np.searchsorted(entries, times, side="right"), 0, len(entries) - 1)
    wait = entries[following] - times
    return np.where((wait > 0) & (wait < 0.5), np.sin(np.pi * np.clip(wait, 0, 0.5) / 0.5), 0.0)


def _sway(times: Float64[np.ndarray, " v"], rng: np.random.Generator) -> np.ndarray:
    """Slow wandering in both directions as complex numbers, each part within about -1 to 1."""
    parts = []
    for _ in range(2):
        rates, phases = rng.uniform(0.2, 0.8, 3), rng.uniform(0, 2 * np.pi, 3)
        parts.append(np.sin(2 * np.pi * times[:, None] * rates + phases).sum(axis=1) / 2.2)
    return parts[0] + 1j * parts[1]


def _smooth(curve: Float64[np.ndarray, " v"], frame_rate: float, seconds: float) -> Float64[np.ndarray, " v"]:
    """A moving average over about `seconds`, an odd number of frames."""
    width = 2 * round(seconds * frame_rate / 2) + 1
    if width == 1:
        return curve
    padded = np.pad(curve, width // 2, mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")
