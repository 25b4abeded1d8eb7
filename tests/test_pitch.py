"""How high a stem is."""

import numpy as np
import pytest

from vimss.stream.pitch import HOP_SECONDS, fundamentals, height

RATE = 8000


def tone(hertz, seconds=1.0, harmonics=6, level=0.1):
    """A tone whose second harmonic is louder than its fundamental, as a low string's is."""
    time = np.arange(round(seconds * RATE)) / RATE
    strengths = [0.5, 1.0, *(1 / number for number in range(3, harmonics + 1))]
    parts = [
        strength * np.sin(2 * np.pi * number * hertz * time + number)
        for number, strength in enumerate(strengths, 1)
        if number * hertz < RATE / 2
    ]
    return level * np.sum(parts, axis=0, dtype=np.float64)[None].astype(np.float32)


@pytest.mark.parametrize("pitch", [24, 36, 45, 57, 69, 81, 93])
def test_a_tone_has_the_height_of_its_note(pitch):
    assert height(tone(440 * 2 ** ((pitch - 69) / 12)), RATE) == pytest.approx(pitch, abs=0.2)


def test_a_melody_has_a_fundamental_at_each_time():
    found = fundamentals(np.concatenate([tone(200.0), tone(300.0)], axis=1)[0], RATE)
    half = round(1 / HOP_SECONDS)
    np.testing.assert_allclose(np.nanmedian(found[:half]), 200, rtol=0.01)
    np.testing.assert_allclose(np.nanmedian(found[half:]), 300, rtol=0.01)


def test_rests_do_not_count():
    rest = np.zeros((1, 3 * RATE), np.float32)
    assert height(np.concatenate([rest, tone(440.0)], axis=1), RATE) == pytest.approx(69, abs=0.2)


def test_neither_silence_nor_noise_nor_nothing_has_a_pitch():
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, RATE)).astype(np.float32)
    for sound in (np.zeros((1, RATE), np.float32), noise, np.zeros((1, 0), np.float32)):
        assert np.isnan(height(sound, RATE))


def test_a_sound_shorter_than_a_frame_has_a_pitch():
    assert height(tone(440.0, seconds=0.06), RATE) == pytest.approx(69, abs=0.3)


def test_a_stereo_stem_has_one():
    assert height(np.repeat(tone(440.0), 2, axis=0), RATE) == pytest.approx(69, abs=0.2)
