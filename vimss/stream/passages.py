"""Passages: a player alone, elsewhere than in what is separated, as an example of how they sound.

    passage = passage_beside(rng, stem, 24000, first=8000, last=16192)      # "c u", of samples outside of 8000..16192

A passage of the stretch that is separated, or scored, would give the answer away: it never overlaps that stretch.
"""

import numpy as np
from jaxtyping import Int16

from vimss.media import INT16_SCALE
from vimss.stream.stems import sounds

DRAWS_FOR_SOUND = 8
"""How often a window or a passage is drawn anew because the stem rests there."""


def start_of(rng: np.random.Generator, stem: Int16[np.ndarray, "c t"], samples: int, length: int) -> int:
    """Where `length` samples of a clip start in which a player sounds, if a few draws find such a place."""
    start = 0
    for _ in range(DRAWS_FOR_SOUND):
        start = int(rng.integers(samples - length + 1))
        if sounds(stem[:, start : start + length], INT16_SCALE):
            break
    return start


def passage_beside(
    rng: np.random.Generator, stem: Int16[np.ndarray, "c t"], length: int, first: int, last: int
) -> Int16[np.ndarray, "c u"]:
    """`length` samples of a stem that end before sample `first` or start at `last` or later.

    The player sounds there, if a few draws find such a place. Where neither side is long enough, it is what the longer
    one has, followed by silence.
    """
    samples = stem.shape[1]
    first, last = max(first, 0), min(last, samples)
    before, after = max(first - length + 1, 0), max(samples - last - length + 1, 0)
    if not before + after:
        rest = stem[:, :first] if first > samples - last else stem[:, last:]
        return np.pad(rest, ((0, 0), (0, length - rest.shape[1])))
    for _ in range(DRAWS_FOR_SOUND):
        place = int(rng.integers(before + after))
        start = place if place < before else last + place - before
        passage = stem[:, start : start + length]
        if sounds(passage, INT16_SCALE):
            break
    return passage
