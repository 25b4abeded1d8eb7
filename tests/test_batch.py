"""Batches are, to the bit, what the slow way makes; who is in them; how loud they are."""

import numpy as np
import pytest
from interfaces import LABELS, interface

from vimss.shards.clip import Clip, Player
from vimss.stream.batch import Examples, Levels, Position, make_batch, most_sources, remix
from vimss.stream.config import MixingConfig
from vimss.stream.lazy import LazyClip
from vimss.stream.mix import SOUND_ALONE, PlayerView, Pool, Source, Window, mix

WINDOW = Window(input_samples=1200, output_samples=800, sample_rate=8000)


def take(examples, count):
    batches = examples.batches(4, Position())
    return [next(batches) for _ in range(count)]


def slow_stem(rng, player, clip_samples):
    """What a source hears, draw by draw and step by step, in float64 where it does not matter."""
    sound = player.audio / 32768.0
    for _ in range(8):
        start = int(rng.integers(clip_samples - WINDOW.output_samples + 1))
        if np.sqrt(np.mean(sound[:, start : start + WINDOW.output_samples] ** 2)) > 3e-3:
            break
    padded = np.pad(sound, ((0, 0), (WINDOW.margin, WINDOW.input_samples)))
    gain = 10 ** (rng.uniform(-4.0, 4.0) / 20)
    sign = -1.0 if rng.random() < 0.5 else 1.0
    return padded[:, start : start + WINDOW.input_samples].astype(np.float32) * np.float32(gain * sign)


def test_batches_have_the_bits_of_the_slow_way_to_make_them():
    noise = np.random.default_rng(5)

    def rests_and_sounds(label):
        audio = noise.integers(-9000, 9000, (1, 6000)).astype(np.int16)
        audio[:, : noise.integers(5000)] //= 300
        return Clip(label, 0, 6000, 8000, (Player(label, label, audio),))

    clips = [rests_and_sounds(label) for label in LABELS]
    pool = Pool(list(map(LazyClip.of, clips)), MixingConfig(), WINDOW, SOUND_ALONE)
    for seed in range(40):
        mixture = pool.draw(np.random.default_rng(seed), pool.clips[0], 2, aligned=False)
        batch = make_batch([mixture], 1, WINDOW, interface("slots"), MixingConfig(), np.random.default_rng(0))
        rng = np.random.default_rng(seed)
        rng.integers(1)
        other = next(index for index in rng.permutation(3) if index)
        stems = np.stack([slow_stem(rng, clips[index].players[0], 6000) for index in (0, other)])
        targets = stems[:, :, 200:1000]
        np.testing.assert_array_equal(batch.mixture[0], stems[0] + stems[1])
        np.testing.assert_array_equal(batch.targets[0], targets)
        assert batch.present[0].tolist() == (np.sqrt(np.mean(targets**2, axis=(1, 2))) > 3e-3).tolist()


@pytest.mark.parametrize("aligned", [False, True])
def test_seven_players_of_different_instruments_can_be_drawn(small_manifest, aligned):
    mixing = MixingConfig(
        min_sources=7, max_sources=7, queries=7, absent_probability=0, aligned_probability=float(aligned)
    )
    chosen = Examples(small_manifest, "train", mixing, WINDOW, interface(labels=small_manifest.recipe.labels), seed=0)
    ((batch, _),) = take(chosen, 1)
    assert batch.targets.shape == (4, 7, 1, 800) and (batch.context.sum(1) <= 1).all()
    np.testing.assert_allclose(batch.targets.sum(1), batch.mixture[:, :, 200:1000], atol=1e-6)


def test_the_most_players_grow_over_the_epochs_of_the_curriculum(small_manifest):
    mixing = MixingConfig(min_sources=2, max_sources=6, curriculum_epochs=4, windows_per_clip=1)
    assert [most_sources(mixing, epoch) for epoch in range(6)] == [2, 3, 4, 5, 6, 6]
    assert most_sources(MixingConfig(max_sources=5), epoch=0) == 5
    chosen = Examples(small_manifest, "train", mixing, WINDOW, interface(), seed=0)
    for epoch, most in ((0, 2), (2, 4)):
        mixtures = chosen._mixtures(epoch, 0, 1, range(24), 24)
        assert {len(next(mixtures).draw().sources) for _ in range(24)} == set(range(2, most + 1))


def named(label, value=0.1) -> Source:
    return Source(label, None, label, label, "", np.full((1, 1200), value, np.float32))


def resting(label) -> PlayerView:
    return PlayerView(label, None, label, label, "")


def test_stems_that_change_places_leave_mixtures_of_different_instruments():
    labels = [("vn", "fl"), ("vc", "ob"), ("vn", "cl", "tba"), ("fl", "vc")]
    absent = ["ob", "fl", "vc", "bn"]
    before = [
        mix([named(label) for label in chosen], [resting(other)], aligned=True)
        for chosen, other in zip(labels, absent, strict=True)
    ]
    moved = 0
    for seed in range(50):
        after = remix(before, np.random.default_rng(seed))
        assert [len(mixture.sources) for mixture in after] == [2, 2, 3, 2]
        stems = [{id(source) for mixture in mixtures for source in mixture.sources} for mixtures in (before, after)]
        assert stems[0] == stems[1]
        for old, new in zip(before, after, strict=True):
            names = [source.label for source in (*new.sources, *new.distractors)]
            assert len(set(names)) == len(names) and new.distractors == old.distractors
            assert new.aligned is (new is old)
            np.testing.assert_allclose(new.sound, sum(source.stem for source in new.sources), atol=1e-7)
            moved += new is not old
    assert moved > 100


def test_stems_change_places_in_that_share_of_batches(small_manifest):
    def batches(share):
        mixing = MixingConfig(pool_clips=4, windows_per_clip=8, remix_probability=share)
        chosen = interface("instruments", labels=small_manifest.recipe.labels)
        return [
            batch.mixture for batch, _ in take(Examples(small_manifest, "train", mixing, WINDOW, chosen, seed=3), 40)
        ]

    changed = [not np.array_equal(*pair) for pair in zip(batches(0), batches(0.5), strict=True)]
    assert 8 < sum(changed) < 32


def test_a_mixture_above_full_scale_is_peak_limited_as_a_whole():
    loud = mix([named("vn", 0.9), named("fl", -0.3), named("vc", 0.8)], [resting("ob")], aligned=True)
    assert loud.peak_limited and 0.9999 < loud.sound.max() <= 1
    levels = [float(source.stem[0, 0]) for source in loud.sources]
    np.testing.assert_allclose(levels, np.array([0.9, -0.3, 0.8]) / 1.4, rtol=1e-5)
    np.testing.assert_array_equal(loud.sound, (loud.sources[0].stem + loud.sources[1].stem) + loud.sources[2].stem)
    assert -1 <= mix([named("vn", -0.9), named("fl", -0.3)], [], aligned=True).sound.min() < -0.9999
    fitting = mix([named("vn", -0.9), named("fl", -0.1)], [], aligned=True)
    assert not fitting.peak_limited and fitting.sources[0].stem[0, 0] == np.float32(-0.9)


def test_levels_are_those_of_the_mixtures_and_count_the_peak_limited_ones():
    pairs = [(0.9, 0.9), (0.04, 0.06), (-0.1, -0.2)]
    mixtures = [mix([named("vn", one), named("fl", other)], [], aligned=True) for one, other in pairs]
    levels = Levels()
    for chosen in (mixtures[:2], mixtures[2:]):
        levels.add(
            make_batch(chosen, len(chosen), WINDOW, interface("slots"), MixingConfig(), np.random.default_rng(0))
        )
    metrics = levels.metrics()
    assert metrics["mixture_level_db"] == pytest.approx(20 * np.log10((1 + 0.1 + 0.3) / 3), abs=0.001)
    assert metrics["peak_limited"] == pytest.approx(1 / 3)
