import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from vimss import metrics
from vimss.errors import DataError

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
    assert np.isfinite([scores.isr, scores.sir, scores.sar]).all()


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
    expected = np.nanmedian(np.stack(frames), axis=2)
    assert np.allclose([scores.sdr, scores.isr, scores.sir, scores.sar], expected, atol=1e-6)


def test_bss_eval_of_stereo_songs_is_what_museval_computes() -> None:
    """Sources at different places, one of them late on one side: filters from one channel to the other count."""
    pans, sounds = np.array([[0.9, 0.3], [0.2, 0.8], [0.6, 0.6]]), noise(3, 3 * RATE)
    references = pans[:, :, None] * sounds[:, None]
    references[1, 1] = np.roll(references[1, 1], 5)
    estimates = references + references[[1, 2, 0]] * 0.3 + 0.2 * noise(6, 3 * RATE, seed=5).reshape(3, 2, -1)
    frames = metrics._museval().bss_eval(np.moveaxis(references, 1, 2), np.moveaxis(estimates, 1, 2), RATE, RATE)[:4]
    scores = metrics.bss_eval_v4(references, estimates, RATE)
    expected = np.nanmedian(np.stack(frames), axis=2)
    assert np.allclose([scores.sdr, scores.isr, scores.sir, scores.sar], expected, atol=1e-6)


def test_bss_eval_of_two_equal_references_is_finite() -> None:
    # Impulses of this size make its system of equations singular to the last bit.
    references = np.zeros((2, RATE))
    references[:, 0] = 16
    scores = metrics.bss_eval_v4(references[:, None], (references + noise(2, RATE, seed=3))[:, None], RATE)
    assert np.isfinite([scores.sdr, scores.sir, scores.sar]).all()


def test_bss_eval_stays_within_the_limit() -> None:
    references = noise(2, 2 * RATE)
    mixture = references.sum(axis=0)
    scores = metrics.bss_eval_v4(references[:, None], np.stack([mixture, mixture])[:, None], RATE)
    assert scores.sar == pytest.approx(metrics.LIMIT_DB)


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


def test_the_wiener_filter_of_labels_separates_high_from_low() -> None:
    stems = [("vc", tone(200) + 0.01 * noise(1, 3 * RATE)), ("fl", tone(1500) + 0.01 * noise(1, 3 * RATE, seed=1))]
    wiener = metrics.LabelWiener.fit(stems, RATE)
    low, high = tone(210, 2.0), tone(1490, 2.0)
    estimates = wiener.separate(low + high, ["fl", "vc"])
    assert estimates.shape == (2, 1, 2 * RATE)
    assert metrics.si_sdr_improvement(low + high, high, estimates[0], RATE) > 15
    assert metrics.si_sdr_improvement(low + high, low, estimates[1], RATE) > 15


def test_wiener_estimates_sum_to_the_mixture() -> None:
    wiener = metrics.LabelWiener.fit([("vc", tone(200)), ("fl", noise(1, RATE)), ("ob", noise(1, RATE) * 0)], RATE)
    mixture = noise(2, 12345, seed=4)
    assert wiener.labels == ("fl", "vc")
    assert np.allclose(wiener.separate(mixture, ["vc", "fl"]).sum(axis=0), mixture, atol=1e-4)


def test_the_wiener_filter_does_not_depend_on_how_loud_a_stem_was() -> None:
    stems = [("vc", tone(200)), ("vc", tone(900)), ("fl", noise(1, RATE))]
    loud = metrics.LabelWiener.fit(stems, RATE)
    soft = metrics.LabelWiener.fit([(label, stem / 10**power) for power, (label, stem) in enumerate(stems)], RATE)
    mixture = noise(1, RATE, seed=2)
    assert np.allclose(loud.separate(mixture, ["vc", "fl"]), soft.separate(mixture, ["vc", "fl"]), atol=1e-5)


def test_a_label_without_stems_gets_the_mean_spectrum_of_those_that_have_some() -> None:
    stems = [("vc", tone(200) + 0.01 * noise(1, 3 * RATE)), ("fl", tone(1500) + 0.01 * noise(1, 3 * RATE, seed=1))]
    wiener, mixture = metrics.LabelWiener.fit(stems, RATE), noise(1, RATE)
    assert np.allclose(wiener.separate(mixture, ["tba", "ob"]), mixture / 2, atol=1e-4)
    assert np.allclose(wiener.separate_each(mixture, ["tba"]), mixture / 2, atol=1e-4)


def test_the_wiener_filter_of_a_corpus_of_one_label_gives_the_mixture() -> None:
    mixture = noise(1, RATE)
    wiener = metrics.LabelWiener.fit([("vc", tone(200))], RATE)
    assert np.allclose(wiener.separate_each(mixture, ["vc"]), mixture)


def test_a_wiener_filter_of_silence_is_an_error() -> None:
    with pytest.raises(DataError, match="a Wiener filter needs stems that sound; got none"):
        metrics.LabelWiener.fit([("vc", 0 * tone(200))], RATE)


def test_the_oracle_mask_beats_the_wiener_filter_on_notes_that_alternate() -> None:
    vn, cl = noise(1, 2 * RATE), noise(1, 2 * RATE, seed=1)
    vn[:, RATE:] = 0
    cl[:, :RATE] = 0
    estimates = metrics.oracle_ratio_mask(vn + cl, np.stack([vn, cl]), RATE)
    assert np.allclose(estimates.sum(axis=0), vn + cl, atol=1e-4)
    assert metrics.snr(vn, estimates[0]).item() > 15


def test_where_no_stem_sounds_the_mixture_is_shared_evenly() -> None:
    mixture = noise(1, RATE)
    estimates = metrics.oracle_ratio_mask(mixture, np.zeros((2, 1, RATE), np.float32), RATE)
    assert np.allclose(estimates, mixture / 2, atol=1e-5)


def test_a_recording_shorter_than_a_window_can_be_masked() -> None:
    short = noise(1, 100)
    assert metrics.oracle_ratio_mask(short, np.stack([short, short]), RATE).shape == (2, 1, 100)


def scores_of(pieces: np.ndarray) -> dict[tuple[str, str], float]:
    """Piece and source along the axes."""
    return {
        (f"piece {row}", f"source {column}"): float(value) for (row, column), value in np.ndenumerate(np.array(pieces))
    }


def test_paired_gain_is_significant_only_when_the_pieces_agree() -> None:
    base = np.linspace(-5, 5, 20).reshape(10, 2)
    swing = np.sin(np.arange(20)).reshape(10, 2)
    better = metrics.paired_gain(scores_of(base + 1 + 0.1 * swing), scores_of(base))
    unclear = metrics.paired_gain(scores_of(base + 3 * swing), scores_of(base))
    assert better.significant and better.low < better.mean < better.high and better.mean == pytest.approx(1, abs=0.05)
    assert (better.sources, better.pieces) == (20, 10) and not unclear.significant


def test_a_piece_counts_once_however_many_sources_it_has() -> None:
    challenger = {("long", str(number)): 4.0 for number in range(9)} | {("short", "vn"): 2.0}
    assert metrics.paired_gain(challenger, dict.fromkeys(challenger, 0.0)).mean == 3.0


def test_the_interval_is_students_over_the_means_of_pieces() -> None:
    gains = np.random.default_rng(0).normal(0.3, 1.0, (7, 3))
    found = metrics.paired_gain(scores_of(gains), scores_of(gains * 0))
    low, high = scipy.stats.t.interval(0.95, 6, gains.mean(), scipy.stats.sem(gains.mean(axis=1)))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_paired_gain_leaves_undefined_pairs_out() -> None:
    gain = metrics.paired_gain(scores_of([[1.0], [2.0], [np.nan], [4.0]]), scores_of([[0.0], [0.0], [0.0], [1.0]]))
    assert gain == metrics.paired_gain(
        scores_of([[1.0], [2.0]]) | {("z", "vn"): 4.0}, scores_of([[0.0], [0.0]]) | {("z", "vn"): 1.0}
    )
    assert gain.sources == 3 and gain.mean == pytest.approx(2)


def test_one_piece_is_no_evidence() -> None:
    assert not metrics.paired_gain(scores_of([[9.0, 8.0, 9.0]]), scores_of([[0.0, 0.0, 0.0]])).significant


def promotions(pieces: int, within: float, gain: float, draws: int = 2500) -> float:
    """Share of significant gains; `within`: correlation of a piece's sources, `gain`: in deviations of their mean."""
    random, sources = np.random.default_rng(pieces), 3
    shared = random.normal(size=(draws, pieces, 1)) * np.sqrt(within)
    differences = shared + random.normal(size=(draws, pieces, sources)) * np.sqrt(1 - within)
    differences += gain * np.sqrt(within + (1 - within) / sources)
    nothing = scores_of(np.zeros((pieces, sources)))
    return float(np.mean([metrics.paired_gain(scores_of(drawn), nothing).significant for drawn in differences]))


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [6, 12, 30])
@pytest.mark.parametrize("within", [0.0, 0.3, 0.7])
def test_without_a_gain_few_are_promoted_however_much_the_sources_of_a_piece_have_in_common(pieces, within) -> None:
    assert promotions(pieces, within, gain=0.0) <= 0.035


@pytest.mark.slow
def test_a_gain_of_one_and_a_half_deviations_is_found_in_twelve_pieces() -> None:
    assert promotions(12, 0.5, gain=1.5) >= 0.8


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


def median_of(values):
    return lambda weights: metrics.weighted_median(np.asarray(values, float), weights)


def test_weighted_medians_and_means_are_those_of_repeated_values() -> None:
    random = np.random.default_rng(0)
    values, weights = random.normal(size=9), random.integers(0, 4, (20, 9))
    values[3] = np.nan
    repeated = [np.repeat(values, row) for row in weights]
    np.testing.assert_allclose(metrics.weighted_median(values, weights), [np.nanmedian(row) for row in repeated])
    np.testing.assert_allclose(metrics.weighted_mean(values, weights), [np.nanmean(row) for row in repeated])
    nothing = np.zeros((1, 9), int)
    assert np.isnan([metrics.weighted_median(values, nothing), metrics.weighted_mean(values, nothing)]).all()


def test_an_interval_surrounds_its_figure_and_is_the_same_at_every_call() -> None:
    values, pieces = [1.0, 2.0, 3.0, 5.0, 8.0], [("a",), ("a",), ("b",), ("c",), ("c",)]
    low, high = metrics.interval_over_pieces(pieces, median_of(values))
    assert (low + high) / 2 == pytest.approx(3.0) and low < 3 < high
    assert metrics.interval_over_pieces(pieces, median_of(values)) == (low, high)


def test_values_of_one_piece_are_no_more_evidence_than_one_value() -> None:
    values, pieces = [0.0, 1.0, 4.0, 9.0], [("a",), ("b",), ("c",), ("d",)]
    once = metrics.interval_over_pieces(pieces, median_of(values))
    assert metrics.interval_over_pieces(pieces * 5, median_of(values * 5)) == pytest.approx(once)


@pytest.mark.parametrize("pieces", [[], [("a",), ("a",)], [("a", "b"), ("a", "b")], [("a", "b"), ("a", "c")]], ids=str)
def test_where_all_hangs_on_one_piece_there_is_no_interval(pieces) -> None:
    assert metrics.interval_over_pieces(pieces, median_of(np.arange(len(pieces)))) is None


def covered(pieces: int, mixed: bool, tables: int = 300) -> float:
    """Share of simulated tables whose interval holds the true median, 0."""
    random, hits = np.random.default_rng(pieces), 0
    for _ in range(tables):
        effects = random.normal(0, 1.5, pieces)
        if mixed:
            first, second = random.integers(pieces, size=(2, 64))
            second = np.where(np.arange(64) % 2, first, second)
            values = 0.7 * effects[first] + 0.3 * effects[second] + random.normal(0, 2, 64)
            found = [tuple({str(a), str(b)}) for a, b in zip(first, second, strict=True)]
        else:
            owner = np.repeat(np.arange(pieces), random.integers(2, 5, pieces))
            values, found = effects[owner] + random.normal(0, 2, len(owner)), [(str(a),) for a in owner]
        interval = metrics.interval_over_pieces(found, median_of(values))
        hits += interval is not None and interval[0] <= 0 <= interval[1]
    return hits / tables


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [3, 6, 12, 30])
@pytest.mark.parametrize("mixed", [False, True])
def test_intervals_of_medians_hold_the_truth_as_often_as_they_say(pieces, mixed) -> None:
    assert covered(pieces, mixed) >= 0.92
