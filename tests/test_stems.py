"""What happens to a stem on its way into a mixture, one setting at a time."""

from itertools import islice

import numpy as np
import pytest
from interfaces import interface

from vimss.errors import ConfigError
from vimss.shards.clip import Clip, Player
from vimss.stream.batch import Examples, Position
from vimss.stream.config import MixingConfig
from vimss.stream.lazy import LazyClip
from vimss.stream.mix import SOUND_ALONE, Pool, Window
from vimss.stream.stems import SILENCE_RMS, draw_room, in_room, play, sounds

RATE = 8000
WINDOW = Window(input_samples=6000, output_samples=4000, sample_rate=RATE)


def mixing(**more) -> MixingConfig:
    return MixingConfig(gain_db=0, flip_polarity=False, **more)


def duet(sound, samples=16000, **more) -> Clip:
    """Two instruments that play the same."""
    audio = np.broadcast_to(np.asarray(sound, np.int16), (1, samples) if np.ndim(sound) < 2 else np.shape(sound))
    players = tuple(Player(label, label, np.ascontiguousarray(audio), **more) for label in ("vn", "fl"))
    return Clip("p", 0, samples, RATE, players, 25.0)


def drawn(clip, settings, seed=0, aligned=True, window=WINDOW, context="none"):
    views = SOUND_ALONE if context == "none" else interface(context=context)
    pool = Pool([LazyClip.of(clip)], settings, window, views)
    return pool.draw(np.random.default_rng(seed), pool.clips[0], 2, aligned)


def stems(settings, clip, count=40, **more):
    return [source.stem for seed in range(count) for source in drawn(clip, settings, seed, **more).sources]


# Silence


@pytest.mark.parametrize("position", [0, 9000, 99_990])
def test_a_stem_sounds_wherever_in_the_window_its_energy_is(position):
    audio = np.zeros((1, 100_000), np.int16)
    for level, answer in ((1.01, True), (0.99, False)):
        audio[0, position : position + 10] = round(SILENCE_RMS * 32768 * 100 * level)
        assert sounds(audio, full_scale=32768.0) is answer
    assert not sounds(audio[:, :0], full_scale=32768.0)


# Pitch


def test_a_stem_played_faster_is_higher_by_that_ratio():
    tone = np.round(9000 * np.sin(2 * np.pi * 500 * np.arange(20_000) / RATE)).astype(np.int16)[None]
    spectrum = np.abs(np.fft.rfft(play(tone, 3000.0, RATE, speed=1.25, gain=1.0)[0]))
    assert spectrum.argmax() == 625


@pytest.mark.parametrize("speed", [0.7, 1.0, 1.31])
def test_every_sample_is_where_the_speed_puts_it(speed):
    ramp = np.arange(20_000, dtype=np.int16)[None]
    heard = play(ramp, 3000.0, 5000, speed, gain=1.0)[0] * 32768
    np.testing.assert_allclose(heard, 3000 + np.arange(5000) * speed, atol=1.0)


@pytest.mark.parametrize("aligned", [True, False])
def test_pictures_follow_the_stretch_of_their_sound(aligned):
    # Each sample is half its own number (their sum must fit), each picture's brightness its number.
    film = duet(np.arange(16000) // 2, picture=np.arange(50, dtype=np.uint8)[:, None, None, None].repeat(3, 3))
    for seed in range(20):
        for source in drawn(film, mixing(pitch_semitones=6), seed, aligned, context="frames").sources:
            rows = np.round((np.arange(len(source.view)) + 0.5) * WINDOW.input_samples / len(source.view)).astype(int)
            heard = source.stem[0, rows] * 65536
            inside = (heard > 200) & (heard < 15_800)
            frames = source.view[inside, 0, 0, 0]
            assert inside.sum() > 5 and np.abs(frames + 0.5 - heard[inside] / RATE * 25).max() < 0.51


def test_speeds_fill_the_range_and_players_of_one_time_share_theirs():
    speeds = {True: [], False: []}
    for aligned, found in speeds.items():
        for seed in range(60):
            mixture = drawn(duet(np.arange(16000) // 2), mixing(pitch_semitones=2), seed, aligned)
            inner = [source.stem[0, 2000:4000] * 65536 for source in mixture.sources]
            found.append([np.ptp(stem) / 1999 for stem in inner])
    semitones = 12 * np.log2(np.array(speeds[True]))
    assert np.abs(semitones).max() < 2.01 and semitones.max() > 1.6 and semitones.min() < -1.6
    np.testing.assert_allclose(*np.transpose(speeds[True]), atol=1e-3)
    assert np.abs(np.subtract(*np.transpose(speeds[False]))).max() > 0.05


def test_a_clip_no_longer_than_the_window_is_never_played_faster():
    for stem in stems(mixing(pitch_semitones=12), duet(8000, 4000), 20):
        assert np.abs(stem[0, 1100:4900]).min() > 0.2


# Room


def click(at=8000):
    audio = np.zeros((1, 16000), np.int16)
    audio[0, at] = 30000
    return audio


def test_a_room_leaves_the_direct_sound_where_it_is_and_decays_after_it():
    clip, seconds = duet(click()), 0.2
    dry = stems(mixing(), clip)
    for one, other in zip(stems(mixing(room_seconds=seconds), clip), dry, strict=True):
        at = int(other[0].argmax())
        if other[0, at] and at + round(seconds * RATE) < WINDOW.input_samples:
            level = np.abs(one[0] / other[0, at])
            assert level[at] >= 0.7 and level[at] == pytest.approx(level.max())
            assert level[:at].max(initial=0) < 1e-5 and level[at + round(seconds * RATE) + 1 :].max(initial=0) < 1e-5


def test_a_room_is_a_convolution_that_hears_what_came_before():
    rng = np.random.default_rng(0)
    room, sound = draw_room(rng, 0.1, RATE, 2), rng.standard_normal((2, 3000)).astype(np.float32)
    expected = [np.convolve(*pair, mode="valid") for pair in zip(sound, room, strict=True)]
    np.testing.assert_allclose(in_room(sound, room), expected, atol=1e-4)


def test_the_tail_of_a_room_decays_by_sixty_decibels():
    responses = [draw_room(np.random.default_rng(seed), 1.0, RATE, 1)[0] for seed in range(60)]
    falls = []
    for response in responses:
        if len(response) > 2000:
            parts = np.array_split(response[1:], 6)
            falls.append(10 * np.log10(np.mean(parts[0] ** 2) / np.mean(parts[-1] ** 2)))
        assert np.sum(response**2) == pytest.approx(1, rel=1e-3)
    assert len(falls) > 20 and np.mean(falls) == pytest.approx(50, abs=1)  # five sixths of the way
    lengths = [len(response) for response in responses]
    assert max(lengths) <= RATE + 1 and max(lengths) > 0.9 * RATE


# Silence in a stretch, channels


def test_a_share_of_stems_is_faded_to_silence_and_back():
    inner = [stem[0, 1000:5000] * 32768 for stem in stems(mixing(silence_probability=0.5), duet(16000), 100)]
    hushed = [stem for stem in inner if stem.min() == 0]
    lengths = [np.count_nonzero(stem < 15_999) for stem in hushed]
    assert 75 < len(hushed) < 125 and all(stem.min() > 15_999 for stem in inner if stem.min() > 0)
    assert 395 <= min(lengths) < 500 and 1800 < max(lengths) <= 2000  # 10 to 50 % of 4000
    assert max(np.abs(np.diff(stem)).max() for stem in hushed) == pytest.approx(16_000 / 80, rel=1e-3)  # 10 ms


def test_left_and_right_change_places_in_half_of_the_stems():
    clip = duet(np.repeat([[2000], [9000]], 16000, axis=1))
    lefts = [round(float(stem[0, 3000]) * 32768) for stem in stems(mixing(swap_channels=True), clip, 50)]
    rights = [round(float(stem[1, 3000]) * 32768) for stem in stems(mixing(swap_channels=True), clip, 50)]
    assert set(zip(lefts, rights, strict=True)) == {(2000, 9000), (9000, 2000)} and 25 < lefts.count(2000) < 75


def test_channels_of_a_mono_corpus_cannot_change_places(small_manifest):
    chosen = interface(labels=small_manifest.recipe.labels)
    with pytest.raises(ConfigError, match="swap_channels needs stems of two channels; got the recipe of 'small'"):
        Examples(small_manifest, "train", mixing(swap_channels=True), WINDOW, chosen, seed=0)


# All of them


SETTINGS = {
    "pitch_semitones": 3,
    "room_seconds": 0.3,
    "silence_probability": 0.5,
    "remix_probability": 0.5,
    "curriculum_epochs": 1,
    "equaliser_db": 6,
}


@pytest.mark.parametrize("settings", [{name: value} for name, value in SETTINGS.items()] + [SETTINGS])
def test_a_setting_changes_the_batches_and_leaves_them_a_sequence(small_manifest, settings):
    def examples(**more):
        chosen = MixingConfig(pool_clips=8, windows_per_clip=2, max_sources=3, **more)
        return Examples(small_manifest, "train", chosen, WINDOW, outputs, seed=3)

    def take(count, start=0, **more):
        batches = examples(**more).batches(4, Position(0, start), 1, 2)
        return [next(batches) for _ in range(count)]

    outputs = interface("slots", slots=3, labels=small_manifest.recipe.labels)
    straight = take(6, **settings)
    pairs = zip(straight, take(6), strict=True)
    assert any(not np.array_equal(one.mixture, other.mixture) for (one, _), (other, _) in pairs)
    again = take(2, **settings) + take(4, start=2, **settings)
    planned = list(islice(examples(**settings).plan(4, Position(), 1, 2), 6))
    backwards = [examples(**settings).make(one) for one in planned[::-1]]
    for (batch, after), (same, place), other in zip(straight, again, backwards[::-1], strict=True):
        assert after == place
        np.testing.assert_array_equal(batch.mixture, same.mixture)
        np.testing.assert_array_equal(batch.targets, other.targets)
        np.testing.assert_allclose(batch.targets.sum(1), batch.mixture[:, :, 1000:5000], atol=1e-6)
