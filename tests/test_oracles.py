"""Oracles, which read the true stems; the contract is that of all baselines."""

import numpy as np
import pytest

from vimss.baselines.oracle_binary_mask import OracleBinaryMask
from vimss.baselines.oracle_mask import OracleMask
from vimss.baselines.oracle_phase_mask import OraclePhaseMask
from vimss.baselines.oracle_wiener import OracleWiener, wiener_filtered
from vimss.metrics import si_sdr_improvement, snr
from vimss.stream.scene import Scene

RATE = 8000
ORACLES = (OracleBinaryMask, OracleMask, OraclePhaseMask, OracleWiener)


def noises(number: int, channels: int = 1, samples: int = 2 * RATE) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((number, channels, samples)).astype(np.float32)


def separated(oracle: type, stems: np.ndarray) -> np.ndarray:
    labels = [f"{place}" for place in range(len(stems))]
    return oracle(RATE)(Scene("p", stems.sum(axis=0), dict(zip(labels, stems, strict=True)), {}), labels)


def tones(*frequencies: float) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * np.array(frequencies)[:, None, None] * np.arange(2 * RATE) / RATE, dtype=np.float32)


@pytest.mark.parametrize("oracle", ORACLES)
def test_an_oracle_separates_sounds_that_share_no_bin(oracle):
    stems = tones(300, 900, 2100)
    for stem, estimate in zip(stems, separated(oracle, stems), strict=True):
        assert si_sdr_improvement(stems.sum(axis=0), stem, estimate, RATE) > 40


def test_a_binary_mask_gives_each_bin_to_the_louder_stem():
    loud, soft = tones(1000, 1000)
    loud_estimate, soft_estimate = separated(OracleBinaryMask, np.stack([loud, 0.9 * soft]))
    # At the ends, windows reach into what is not there.
    inside = slice(RATE // 4, -RATE // 4)
    np.testing.assert_allclose(loud_estimate[:, inside], 1.9 * loud[:, inside], atol=1e-3)
    assert np.abs(soft_estimate[:, inside]).max() < 1e-3


def test_stems_of_equal_power_share_a_bin_of_a_binary_mask():
    tone = tones(1000)[0]
    for estimate in separated(OracleBinaryMask, np.stack([tone, tone])):
        np.testing.assert_allclose(estimate, tone, atol=1e-5)


def test_no_other_mask_comes_as_close_as_the_phase_sensitive_one():
    stems = noises(2)
    best, *others = (
        snr(stems[0], separated(oracle, stems)[0]).item() for oracle in (OraclePhaseMask, OracleMask, OracleBinaryMask)
    )
    assert best > max(others) + 1


def test_a_phase_sensitive_mask_turns_over_what_the_mixture_has_with_the_other_sign():
    tone = tones(1000)[0]
    first, second = separated(OraclePhaseMask, np.stack([2 * tone, -tone]))
    np.testing.assert_allclose(first, 2 * tone, atol=1e-5)
    np.testing.assert_allclose(second, -tone, atol=1e-5)


def test_the_wiener_filter_of_one_channel_is_the_ratio_mask():
    stems = noises(3) * np.array([1, 0.5, 0.1], np.float32)[:, None, None]
    np.testing.assert_allclose(separated(OracleWiener, stems), separated(OracleMask, stems), atol=1e-6)


def test_the_wiener_filter_of_two_channels_separates_by_direction():
    first, second = noises(2)
    stems = np.stack([first * np.array([[1], [0.3]], np.float32), second * np.array([[0.3], [1]], np.float32)])
    mixture = stems.sum(axis=0)
    for stem, filtered, masked in zip(stems, separated(OracleWiener, stems), separated(OracleMask, stems), strict=True):
        assert si_sdr_improvement(mixture, stem, filtered, RATE) > 60
        assert si_sdr_improvement(mixture, stem, masked, RATE) < 15


def test_the_wiener_filter_has_the_least_square_error_for_its_model():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((2, 3, 3)) + 1j * rng.standard_normal((2, 3, 3))
    level = rng.uniform(0.1, 2, (2, 1, 4000))
    white = rng.standard_normal((2, 3, 4000)) + 1j * rng.standard_normal((2, 3, 4000))
    sources = level * np.einsum("scd,sdn->scn", mixing, white)
    found = wiener_filtered(sources.sum(axis=0), sources)
    error = np.mean(np.abs(found[0] - sources[0]) ** 2)
    for other in (0.9 * found[0], 1.1 * found[0], found[0] + 0.1 * found[1], found[0] - 0.1 * found[1]):
        assert error < np.mean(np.abs(other - sources[0]) ** 2)
