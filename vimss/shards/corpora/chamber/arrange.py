"""From a score to the tones of each player: in seconds, within the instrument's range, with rests.

    players = arrange(casting, seed=0, style=Style())
    players[0][0]  # Tone(start=0.31, end=0.82, pitch=67, loud=0.7)

The voices of chorales hardly ever rest and move together, so a model that ignores the picture would do as well as one
that uses it. Therefore silent passages are cut into each part, and pieces differ in tempo and articulation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vimss.shards.corpora.chamber.casting import RANGES, Casting, generator
from vimss.shards.corpora.chamber.score import Note, Score, read_score

BEATS_PER_MINUTE = (54.0, 160.0)
"""Slowest and fastest tempo of a quarter note."""

SHORTEST_TONE = 0.07
"""Tones that are shorter after all cuts are dropped, seconds."""

LAST_RELEASE = 0.25
"""Silence at the end of a piece in which the last tones decay, seconds."""


class Tone(NamedTuple):
    """One played note: start and end in seconds, MIDI pitch as it sounds, loudness from 0 to 1."""

    start: float
    end: float
    pitch: int
    loud: float


@dataclass(frozen=True)
class Style:
    """Settings of the corpus that decide how hard its music is to separate; see its Options."""

    notes_per_second: tuple[float, float] = (1.2, 3.0)
    register_semitones: float = 12.0
    variety: float = 1.0


def arrange(casting: Casting, seed: int, style: Style) -> tuple[tuple[Tone, ...], ...]:
    """The tones of each sounding player, in the order of `casting.instruments`."""
    rng = generator(seed, "arrange", casting.name)
    score = read_score(casting.score)
    bpm = _tempo(rng, score, style.notes_per_second)
    span = casting.seconds * bpm / 60
    parts = _choose_stretch(rng, score, casting, span)
    accents = rng.uniform(0.6, 1.0, size=64)
    players = []
    for instrument, part in zip(casting.instruments, parts, strict=True):
        pitches = _into_range(rng, [note.pitch for note in part], RANGES[instrument], style.register_semitones)
        players.append(_play(rng, part, pitches, 60 / bpm, casting.seconds, accents))
    return tuple(_rest(rng, tones, casting.seconds) for tones in players)


def _tempo(rng: np.random.Generator, score: Score, notes_per_second: tuple[float, float]) -> float:
    """Quarter notes per minute at which the parts of this score have a randomly drawn rate of notes."""
    density = sum(map(len, score.parts)) / (len(score.parts) * score.quarters)
    return float(np.clip(60 * rng.uniform(*notes_per_second) / density, *BEATS_PER_MINUTE))


def _choose_stretch(rng: np.random.Generator, score: Score, casting: Casting, span: float) -> list[list[Note]]:
    """One part per player, cut to the `span` quarter notes in which most of them play."""
    first, of = casting.slot
    low, high = score.quarters * first / of, score.quarters * (first + 1) / of
    starts = [bar for bar in score.bars if low <= bar < max(low + 1e-6, min(high, score.quarters - span))]
    starts = starts or [max(0.0, min(low, score.quarters - span))]
    players = len(casting.instruments)
    best: list[list[Note]] = []
    best_busy = -1.0
    for start in rng.choice(np.array(starts), size=min(6, len(starts)), replace=False):
        parts = [_cut(part, float(start), span, score.quarters) for part in score.parts]
        busy = [_activity(part, span, casting.seconds) for part in parts]
        ranked = sorted(range(len(parts)), key=lambda index: -busy[index])
        if busy[ranked[players - 1]] > best_busy:
            best_busy = busy[ranked[players - 1]]
            lively = [index for index in ranked if busy[index] > 0.6]
            chosen = lively if len(lively) >= players else ranked[:players]
            best = [parts[int(index)] for index in rng.permutation(np.array(chosen))[:players]]
    return best


def _activity(part: Sequence[Note], span: float, seconds: float) -> float:
    """The share of the time in which the part sounds; reduced if it has only a few long notes."""
    return sum(note.length for note in part) / span * min(1.0, len(part) / (0.8 * seconds))


def _cut(part: Sequence[Note], start: float, span: float, quarters: float) -> list[Note]:
    """The notes of `part` in [start, start + span), relative to `start`; a short score starts over."""
    notes: list[Note] = []
    offset = -start
    while offset < span:
        for note in part:
            begin, end = max(0.0, note.start + offset), min(span, note.start + note.length + offset)
            if end - begin > 1e-3:
                notes.append(Note(begin, end - begin, note.pitch))
        offset += quarters
    return notes


def _into_range(
    rng: np.random.Generator, pitches: Sequence[int], limits: tuple[int, int], register_semitones: float
) -> list[int]:
    """The melody in an octave in which the instrument can play (nearly) all of it; the rest is folded into its range.

    Octaves near the middle of the range are likelier: their distance from it has a normal distribution.
    """
    if not pitches:  # the part rests throughout a short piece
        return []
    low, high = limits
    melody = np.array(pitches)
    shifts = np.arange(-60, 61, 12)
    inside = np.array([np.mean((melody + shift >= low) & (melody + shift <= high)) for shift in shifts])
    fitting = shifts[inside >= min(0.97, float(inside.max()))]
    distance = (melody.mean() + fitting - (low + high) / 2) / register_semitones
    # Relative to the nearest octave, so that a narrow distribution does not underflow to zeros.
    likely = np.exp(-0.5 * (distance**2 - np.min(distance**2)))
    moved = melody + int(rng.choice(fitting, p=likely / likely.sum()))
    moved = np.where(moved < low, moved + 12 * -((moved - low) // 12), moved)
    moved = np.where(moved > high, moved - 12 * -((high - moved) // 12), moved)
    return [int(pitch) for pitch in moved]


def _play(
    rng: np.random.Generator,
    part: Sequence[Note],
    pitches: Sequence[int],
    beat: float,
    seconds: float,
    accents: np.ndarray,
) -> tuple[Tone, ...]:
    """One player's tones: individual articulation and timing errors, loudness in arcs, and accents shared by all."""
    legato = rng.uniform(0.78, 0.99)
    late = rng.normal(0, 0.008)
    arc, phase = rng.uniform(4, 12), rng.uniform(0, 2 * np.pi)
    tones = []
    for note, pitch in zip(part, pitches, strict=True):
        start = max(0.0, note.start * beat + late + rng.normal(0, 0.006))
        end = min(seconds - LAST_RELEASE, note.start * beat + max(SHORTEST_TONE, note.length * beat * legato))
        loud = accents[int(note.start * 2) % 64] * (0.8 + 0.2 * np.sin(2 * np.pi * start / arc + phase))
        if end - start >= SHORTEST_TONE:
            tones.append(Tone(start, end, pitch, float(loud)))
    return tuple(tones)


def _rest(rng: np.random.Generator, tones: tuple[Tone, ...], seconds: float) -> tuple[Tone, ...]:
    """The part with up to two silent passages of 2 to 5 seconds (less in a short piece) cut into it."""
    for _ in range(int(rng.choice(3, p=(0.25, 0.5, 0.25)))):
        length = min(rng.uniform(2, 5), 0.25 * seconds)
        begin = rng.uniform(0, seconds - length)
        kept = []
        for tone in tones:
            if tone.start < begin:
                tone = tone._replace(end=min(tone.end, begin))
            elif tone.start < begin + length:
                tone = tone._replace(start=begin + length)
            if tone.end - tone.start >= SHORTEST_TONE:
                kept.append(tone)
        # A part that already has long rests is not cut further.
        if sum(tone.end - tone.start for tone in kept) >= 0.3 * seconds:
            tones = tuple(kept)
    return tones
