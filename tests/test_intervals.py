"""Intervals over pieces: how sure a figure or a gain is."""

import numpy as np
import pytest
import scipy.stats

from vimss import intervals


def scores_of(pieces: np.ndarray) -> dict[tuple[str, str], float]:
    """Piece and source along the axes."""
    return {
        (f"piece {row}", f"source {column}"): float(value) for (row, column), value in np.ndenumerate(np.array(pieces))
    }


def test_paired_gain_is_significant_only_when_the_pieces_agree() -> None:
    base = np.linspace(-5, 5, 20).reshape(10, 2)
    swing = np.sin(np.arange(20)).reshape(10, 2)
    better = intervals.paired_gain(scores_of(base + 1 + 0.1 * swing), scores_of(base))
    unclear = intervals.paired_gain(scores_of(base + 3 * swing), scores_of(base))
    assert better.significant and better.low < better.mean < better.high and better.mean == pytest.approx(1, abs=0.05)
    assert (better.sources, better.pieces) == (20, 10) and not unclear.significant


def test_a_piece_counts_once_however_many_sources_it_has() -> None:
    challenger = {("long", str(number)): 4.0 for number in range(9)} | {("short", "vn"): 2.0}
    assert intervals.paired_gain(challenger, dict.fromkeys(challenger, 0.0)).mean == 3.0


def test_the_interval_is_students_over_the_means_of_pieces() -> None:
    gains = np.random.default_rng(0).normal(0.3, 1.0, (7, 3))
    found = intervals.paired_gain(scores_of(gains), scores_of(gains * 0))
    low, high = scipy.stats.t.interval(0.95, 6, gains.mean(), scipy.stats.sem(gains.mean(axis=1)))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_an_interval_of_another_level_is_students_too() -> None:
    gains = np.random.default_rng(0).normal(0.3, 1.0, (7, 3))
    found = intervals.paired_gain(scores_of(gains), scores_of(gains * 0)).at_level(0.99)
    low, high = scipy.stats.t.interval(0.99, 6, gains.mean(), scipy.stats.sem(gains.mean(axis=1)))
    assert (found.low, found.high, found.level) == pytest.approx((low, high, 0.99))
    nothing_known = intervals.paired_gain(scores_of([[9.0]]), scores_of([[0.0]])).at_level(0.99)
    assert (nothing_known.low, nothing_known.high) == (-np.inf, np.inf)


def test_paired_gain_leaves_undefined_pairs_out() -> None:
    gain = intervals.paired_gain(scores_of([[1.0], [2.0], [np.nan], [4.0]]), scores_of([[0.0], [0.0], [0.0], [1.0]]))
    assert gain == intervals.paired_gain(
        scores_of([[1.0], [2.0]]) | {("z", "vn"): 4.0}, scores_of([[0.0], [0.0]]) | {("z", "vn"): 1.0}
    )
    assert gain.sources == 3 and gain.mean == pytest.approx(2)


def test_a_gain_resamples_the_same_pieces_for_both() -> None:
    pieces = [(f"p{number % 6}",) for number in range(30)]
    values = np.random.default_rng(0).normal(0, 10, 30)
    of = intervals.weighted_mean
    gain = intervals.gain_over_pieces(pieces, lambda weights: of(values + 1, weights) - of(values, weights))
    # Pieces differ by ten times the gain, which is the same in all of them.
    assert (gain.mean, gain.low, gain.high) == pytest.approx((1, 1, 1)) and gain.significant
    assert (gain.sources, gain.pieces) == (30, 6)


def test_a_gain_over_one_piece_is_no_evidence() -> None:
    values = np.array([1.0, 3.0])
    gain = intervals.gain_over_pieces([("p",), ("p", "q")], lambda weights: intervals.weighted_mean(values, weights))
    assert (gain.mean, gain.low, gain.high) == (2, -np.inf, np.inf) and not gain.significant
    assert np.isnan(intervals.gain_over_pieces([], lambda weights: weights.sum(1) * 1.0).mean)


def test_one_piece_is_no_evidence() -> None:
    assert not intervals.paired_gain(scores_of([[9.0, 8.0, 9.0]]), scores_of([[0.0, 0.0, 0.0]])).significant


def promotions(pieces: int, within: float, gain: float, draws: int = 2500) -> float:
    """Share of significant gains; `within`: correlation of a piece's sources, `gain`: in deviations of their mean."""
    random, sources = np.random.default_rng(pieces), 3
    shared = random.normal(size=(draws, pieces, 1)) * np.sqrt(within)
    differences = shared + random.normal(size=(draws, pieces, sources)) * np.sqrt(1 - within)
    differences += gain * np.sqrt(within + (1 - within) / sources)
    nothing = scores_of(np.zeros((pieces, sources)))
    return float(np.mean([intervals.paired_gain(scores_of(drawn), nothing).significant for drawn in differences]))


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [6, 12, 30])
@pytest.mark.parametrize("within", [0.0, 0.3, 0.7])
def test_without_a_gain_few_are_promoted_however_much_the_sources_of_a_piece_have_in_common(pieces, within) -> None:
    assert promotions(pieces, within, gain=0.0) <= 0.035


@pytest.mark.slow
def test_a_gain_of_one_and_a_half_deviations_is_found_in_twelve_pieces() -> None:
    assert promotions(12, 0.5, gain=1.5) >= 0.8


def median_of(values):
    return lambda weights: intervals.weighted_median(np.asarray(values, float), weights)


def test_weighted_medians_and_means_are_those_of_repeated_values() -> None:
    random = np.random.default_rng(0)
    values, weights = random.normal(size=9), random.integers(0, 4, (20, 9))
    values[3] = np.nan
    repeated = [np.repeat(values, row) for row in weights]
    np.testing.assert_allclose(intervals.weighted_median(values, weights), [np.nanmedian(row) for row in repeated])
    np.testing.assert_allclose(intervals.weighted_mean(values, weights), [np.nanmean(row) for row in repeated])
    nothing = np.zeros((1, 9), int)
    assert np.isnan([intervals.weighted_median(values, nothing), intervals.weighted_mean(values, nothing)]).all()


def test_an_interval_surrounds_its_figure_and_is_the_same_at_every_call() -> None:
    values, pieces = [1.0, 2.0, 3.0, 5.0, 8.0], [("a",), ("a",), ("b",), ("c",), ("c",)]
    low, high = intervals.interval_over_pieces(pieces, median_of(values))
    assert (low + high) / 2 == pytest.approx(3.0) and low < 3 < high
    assert intervals.interval_over_pieces(pieces, median_of(values)) == (low, high)


def test_values_of_one_piece_are_no_more_evidence_than_one_value() -> None:
    values, pieces = [0.0, 1.0, 4.0, 9.0], [("a",), ("b",), ("c",), ("d",)]
    once = intervals.interval_over_pieces(pieces, median_of(values))
    assert intervals.interval_over_pieces(pieces * 5, median_of(values * 5)) == pytest.approx(once)


@pytest.mark.parametrize("pieces", [[], [("a",), ("a",)], [("a", "b"), ("a", "b")], [("a", "b"), ("a", "c")]], ids=str)
def test_where_all_hangs_on_one_piece_there_is_no_interval(pieces) -> None:
    assert intervals.interval_over_pieces(pieces, median_of(np.arange(len(pieces)))) is None


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
        interval = intervals.interval_over_pieces(found, median_of(values))
        hits += interval is not None and interval[0] <= 0 <= interval[1]
    return hits / tables


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [3, 6, 12, 30])
@pytest.mark.parametrize("mixed", [False, True])
def test_intervals_of_medians_hold_the_truth_as_often_as_they_say(pieces, mixed) -> None:
    assert covered(pieces, mixed) >= 0.92
