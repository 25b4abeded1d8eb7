import subprocess
import sys

import numpy as np
import pytest

from vimss import metrics

RATE = 8000


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 0.1


def tone(frequency: float, seconds: float = 3.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)[None].astype(np.float32) * 0.3


def test_si_sdr_of_a_known_noise_is_its_level_whatever_the_scale() -> None:
    reference = np.array([1.0, 1.0, 1.0, 1.0])
    estimate = 7 * (reference + np.array([0.1, -0.1, 0.1, -0.1]))
    assert metrics.si_sdr(reference, estimate) == pytest.approx(20.0)
    assert metrics.snr(reference, estimate / 7) == pytest.approx(20.0)
    assert metrics.snr(reference, estimate) < 0


def test_si_sdr_is_finite_or_nan_on_silence() -> None:
    signal = np.array([1.0, -2.0, 3.0])
    assert metrics.si_sdr(signal, np.zeros(3)) == -metrics.LIMIT_DB
    assert metrics.si_sdr(signal, signal) == metrics.LIMIT_DB
    assert np.isnan(metrics.si_sdr(np.zeros(3), signal))


def test_si_sdr_takes_leading_axes() -> None:
    reference, estimate = noise(2, 3, 50), noise(2, 3, 50, seed=1)
    each = [
        [metrics.si_sdr(r, e) for r, e in zip(rs, es, strict=True)] for rs, es in zip(reference, estimate, strict=True)
    ]
    assert np.allclose(metrics.si_sdr(reference, estimate), each)


def test_active_segments_are_those_near_the_loudest() -> None:
    stem = noise(1, 4 * RATE)
    stem[:, RATE : 2 * RATE] = 0
    stem[:, 2 * RATE : 3 * RATE] *= 1e-3
    mask = metrics.active_mask(stem, RATE)
    assert mask[:RATE].all() and mask[3 * RATE :].all() and not mask[RATE : 3 * RATE].any()
    assert not metrics.active_mask(np.zeros_like(stem), RATE).any()


def test_active_mask_has_the_length_of_an_odd_recording() -> None:
    assert metrics.active_mask(noise(2, 12345), RATE).shape == (12345,)


def test_the_mixture_improves_nothing_and_the_stem_improves_much() -> None:
    vn, cl = noise(1, 2 * RATE), noise(1, 2 * RATE, seed=1)
    assert metrics.si_sdr_improvement(vn + cl, vn, vn + cl, RATE) == 0
    assert metrics.si_sdr_improvement(vn + cl, vn, (vn + cl) / 2, RATE) == pytest.approx(0)
    assert metrics.si_sdr_improvement(vn + cl, vn, vn + 0.1 * cl, RATE) == pytest.approx(20, abs=0.5)


def test_improvement_does_not_count_where_the_player_rests() -> None:
    vn, cl = noise(1, 4 * RATE), noise(1, 4 * RATE, seed=1)
    vn[:, : 2 * RATE] = 0
    estimate = vn + 0.1 * cl
    before = metrics.si_sdr_improvement(vn + cl, vn, estimate, RATE)
    estimate[:, : 2 * RATE] = cl[:, : 2 * RATE]
    assert metrics.si_sdr_improvement(vn + cl, vn, estimate, RATE) == before


def test_improvement_of_a_silent_reference_is_undefined() -> None:
    assert np.isnan(metrics.si_sdr_improvement(noise(1, RATE), np.zeros((1, RATE), np.float32), noise(1, RATE), RATE))


def test_pes_is_the_energy_predicted_where_the_reference_is_silent() -> None:
    reference = noise(1, 2 * RATE)
    reference[:, RATE:] = 0
    estimate = np.full((1, 2 * RATE), 0.01, np.float32)
    pes, eps = metrics.silence_energy(reference, estimate, RATE)
    assert pes == pytest.approx(10 * np.log10(RATE * 1e-4), abs=0.01)
    assert np.isnan(eps)


def test_eps_is_the_energy_missed_where_the_estimate_is_silent() -> None:
    estimate = noise(1, 2 * RATE)
    estimate[:, RATE:] = 0
    reference = np.full((1, 2 * RATE), 0.1, np.float32)
    pes, eps = metrics.silence_energy(reference, estimate, RATE)
    assert eps == pytest.approx(10 * np.log10(RATE * 1e-2), abs=0.01)
    assert np.isnan(pes)


def test_level_of_an_output_is_relative_to_the_mixture() -> None:
    mixture = noise(1, RATE)
    assert metrics.level_db(0.1 * mixture, mixture) == pytest.approx(-20)
    assert metrics.level_db(np.zeros_like(mixture), mixture) == -metrics.LIMIT_DB
    assert np.isnan(metrics.level_db(mixture, np.zeros_like(mixture)))


def test_bss_eval_agrees_with_the_plain_energy_ratio_in_sdr() -> None:
    # facts of v4: its SDR has no filters in it.
    references = np.stack([tone(440)[0], noise(3 * RATE)])
    estimates = references + noise(2, 3 * RATE, seed=5) * 0.3
    scores = metrics.bss_eval_v4(references[:, None], estimates[:, None], RATE)
    frames = metrics.snr(references.reshape(2, 3, RATE), estimates.reshape(2, 3, RATE))
    assert np.allclose(scores.sdr, np.median(frames, axis=1), atol=0.01)
    assert np.isfinite([scores.sir, scores.sar]).all()


def test_bss_eval_leaves_silent_references_out_and_scores_the_rest() -> None:
    references, estimates = noise(3, 2 * RATE), noise(3, 2 * RATE) + noise(3, 2 * RATE, seed=3) * 0.2
    references[1] = 0
    scores = metrics.bss_eval_v4(references[:, None], estimates[:, None], RATE)
    alone = metrics.bss_eval_v4(references[[0, 2], None], estimates[[0, 2], None], RATE)
    assert np.isnan(scores.sdr[1]) and np.allclose(scores.sir[[0, 2]], alone.sir)
    assert np.isnan(metrics.bss_eval_v4(references[:, None] * 0, estimates[:, None], RATE).sdr).all()


def test_bss_eval_of_a_silent_estimate_leaves_the_others_as_they_are() -> None:
    references, estimates = noise(2, 2 * RATE), noise(2, 2 * RATE) + noise(2, 2 * RATE, seed=3) * 0.2
    both = metrics.bss_eval_v4(references[:, None], estimates[:, None], RATE)
    estimates[1] = 0
    scores = metrics.bss_eval_v4(references[:, None], estimates[:, None], RATE)
    assert np.isnan(scores.sdr[1]) and scores.sdr[0] == both.sdr[0] and scores.sir[0] == both.sir[0]


def test_bss_eval_is_what_museval_computes() -> None:
    references = np.stack([noise(3 * RATE), tone(440)[0], tone(1100)[0] + noise(3 * RATE, seed=2)])
    references[2, RATE : 2 * RATE] = 0
    estimates = references + references[[1, 2, 0]] * 0.3 + noise(3, 3 * RATE, seed=5) * 0.2
    frames = metrics._museval().bss_eval(references, estimates, RATE, RATE)[:4]
    scores = metrics.bss_eval_v4(references[:, None], estimates[:, None], RATE)
    sdr, _, sir, sar = np.nanmedian(np.stack(frames), axis=2)
    assert np.allclose([scores.sdr, scores.sir, scores.sar], [sdr, sir, sar], atol=1e-6)


def test_bss_eval_of_stereo_songs_is_what_museval_computes() -> None:
    """Sources at different places, one of them late on one side: filters from one channel to the other count."""
    pans, sounds = np.array([[0.9, 0.3], [0.2, 0.8]]), noise(2, 2 * RATE)
    references = pans[:, :, None] * sounds[:, None]
    references[1, 1] = np.roll(references[1, 1], 5)
    estimates = references + references[[1, 0]] * 0.3 + 0.2 * noise(4, 2 * RATE, seed=5).reshape(2, 2, -1)
    frames = metrics._museval().bss_eval(np.moveaxis(references, 1, 2), np.moveaxis(estimates, 1, 2), RATE, RATE)[:4]
    scores = metrics.bss_eval_v4(references, estimates, RATE)
    sdr, _, sir, sar = np.nanmedian(np.stack(frames), axis=2)
    assert np.allclose([scores.sdr, scores.sir, scores.sar], [sdr, sir, sar], atol=1e-6)


def test_bss_eval_of_two_equal_references_is_finite() -> None:
    # Impulses of this size make its system of equations singular to the last bit.
    references = np.zeros((2, RATE))
    references[:, 0] = 16
    scores = metrics.bss_eval_v4(references[:, None], (references + noise(2, RATE, seed=3))[:, None], RATE)
    assert np.isfinite([scores.sdr, scores.sir, scores.sar]).all()


def test_what_all_estimates_of_the_same_references_share_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Equations of six signals would take a second.
    monkeypatch.setattr(metrics, "KEPT_SIGNALS", 2)
    references = noise(2, RATE, seed=8)[:, None]
    alone = metrics.bss_eval_v4(references, references + noise(2, RATE, seed=4)[:, None], RATE)
    metrics._delayed_references.cache_clear()
    for seed in (3, 4):
        scores = metrics.bss_eval_v4(references, references + noise(2, RATE, seed=seed)[:, None], RATE)
    shared = metrics._delayed_references.cache_info()
    assert (shared.misses, shared.hits) == (1, 1) and np.array_equal(scores.sir, alone.sir)
    many = noise(metrics.KEPT_SIGNALS + 1, RATE)[:, None]
    metrics.bss_eval_v4(many, many, RATE)
    assert metrics._delayed_references.cache_info() == shared, "of many sources nothing is kept"


def test_bss_eval_stays_within_the_limit() -> None:
    references = noise(2, 2 * RATE)
    mixture = references.sum(axis=0)
    scores = metrics.bss_eval_v4(references[:, None], np.stack([mixture, mixture])[:, None], RATE)
    assert scores.sar == pytest.approx(metrics.LIMIT_DB)


@pytest.mark.slow
def test_museval_works_without_ffmpeg_and_leaves_path_and_which_alone() -> None:
    code = (
        "import os, shutil, numpy as np; before = shutil.which, dict(os.environ)\n"
        "assert shutil.which('ffmpeg') is None\n"
        "from vimss.metrics import bss_eval_v4\n"
        "print(bss_eval_v4(np.random.rand(2, 1, 900), np.random.rand(2, 1, 900), 300).sdr)\n"
        "assert before == (shutil.which, dict(os.environ)) and shutil.which('ffmpeg') is None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PATH": "/nowhere"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_si_sdr_of_sums_is_si_sdr():
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(1, 5000))
    for noise in (1e-6, 0.1, 10.0):
        estimate = 0.3 * reference + noise * generator.normal(size=(1, 5000))
        sums = (np.sum(reference**2), np.sum(reference * estimate), np.sum(estimate**2))
        expected = metrics.si_sdr(reference, estimate).item()
        assert metrics.si_sdr_of_sums(*sums) == pytest.approx(expected, abs=1e-3)
    assert metrics.si_sdr_of_sums(1.0, 0.0, 0.0) == -metrics.LIMIT_DB
    assert metrics.si_sdr_of_sums(1.0, 1.0, 1.0) == metrics.LIMIT_DB
    assert np.isnan(metrics.si_sdr_of_sums(0.0, 0.0, 1.0))
