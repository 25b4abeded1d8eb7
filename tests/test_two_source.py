"""Blind baselines: one contract for all, and for each a mixture of the kind that it was made for."""

import pickle

import numpy as np
import pytest

from vimss import report
from vimss.baselines import BASELINES, TrainStems, TwoSourceBaseline, repet_sim
from vimss.baselines.fourier_2d import Fourier2D
from vimss.baselines.hpss import HPSS
from vimss.baselines.repet import REPET, beat_spectrum, period_of, repeating
from vimss.baselines.repet_sim import REPETSIM
from vimss.baselines.rpca import RPCA, low_rank_and_sparse
from vimss.errors import DataError
from vimss.evaluate import Table, evaluate, evaluation_tasks
from vimss.evaluate.tasks import Row
from vimss.metrics import si_sdr_improvement
from vimss.stream.scene import Scene
from vimss.systems import BaselineSystem, baseline_systems, separates_pieces, truth_of

RATE = 8000


class LowAndHigh(TwoSourceBaseline):
    """Below and above a frequency."""

    method = "low and high"

    def shares(self, magnitude):
        low = np.zeros_like(magnitude)
        low[: len(magnitude) // 8] = 1
        return np.stack([low, 1 - low])


ORACLES = [name for name, kind in BASELINES.items() if kind.conditioned_on == "stems"]
BLIND = {name: kind for name, kind in BASELINES.items() if issubclass(kind, TwoSourceBaseline)} | {"own": LowAndHigh}


@pytest.fixture(params=BLIND)
def blind(request):
    return BLIND[request.param](RATE)


def tone(frequency: float, seconds: float = 2.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)


def scene_of(*stems: np.ndarray, channels: int = 1, gain: float = 1.0) -> Scene:
    """A mixture of stems, of which later channels have less of the first and more of the others."""
    panned = {}
    for place, (label, stem) in enumerate(zip(("vc", "vn", "fl"), stems, strict=False)):
        levels = np.linspace(1, 0.5, channels)[:: 1 if place == 0 else -1]
        panned[label] = (gain * levels[:, None] * stem).astype(np.float32)
    return Scene("p", np.sum(list(panned.values()), axis=0), panned, {})


def gains(method: TwoSourceBaseline, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """SI-SDR improvement of both estimates, in the method's own order."""
    scene = scene_of(first, second)
    estimates = method(scene, ["vc", "vn"])
    found = [
        si_sdr_improvement(scene.mixture, stem, estimate, RATE)
        for stem, estimate in zip(scene.references.values(), estimates, strict=True)
    ]
    return found[0], found[1]


@pytest.mark.parametrize("channels", [1, 2])
def test_there_are_two_estimates_whose_sum_is_the_mixture(blind, channels):
    scene = scene_of(
        tone(200), tone(2000) + 0.1 * np.random.default_rng(0).standard_normal(2 * RATE), channels=channels
    )
    estimates = blind(scene, ["vn"])
    assert estimates.shape == (2, *scene.mixture.shape) and estimates.dtype == scene.mixture.dtype
    np.testing.assert_allclose(estimates.sum(axis=0), scene.mixture, atol=1e-5)


def test_no_share_of_a_bin_is_negative(blind):
    magnitude = np.abs(np.random.default_rng(0).standard_normal((257, 70)))
    assert blind.shares(magnitude).shape == (2, 257, 70) and blind.shares(magnitude).min() >= 0


@pytest.mark.parametrize("samples", [1, 100, 513, RATE])
def test_mixtures_of_any_length_and_silent_ones_give_finite_estimates(blind, samples):
    for sound in (tone(300)[:samples], np.zeros(samples)):
        estimates = blind(scene_of(sound, sound), ["vn", "vc"])
        assert estimates.shape == (2, 1, samples) and np.isfinite(estimates).all()


def test_how_loud_a_mixture_is_changes_no_mask(blind):
    stems = tone(200), tone(2000) * (np.arange(2 * RATE) % 4000 < 1000)
    expected = blind(scene_of(*stems), [])
    for gain in (1e-3, 1e3):
        np.testing.assert_allclose(blind(scene_of(*stems, gain=gain), []) / gain, expected, atol=2e-3)


def test_no_blind_baseline_hears_a_stem_or_reads_a_label(blind):
    scene = scene_of(tone(200), tone(2000))
    swapped = Scene("q", scene.mixture, {"fl": scene.references["vn"]}, {}, {"kazoo": scene.references["vc"]})
    np.testing.assert_array_equal(blind(scene, ["vc", "vn"]), blind(swapped, ["fl"]))


def test_a_copy_in_another_process_gives_the_same(blind):
    scene = scene_of(tone(200), tone(2000))
    copy = pickle.loads(pickle.dumps(blind))  # noqa: S301
    np.testing.assert_array_equal(copy(scene, []), blind(scene, []))


def test_three_sources_are_refused_by_name(blind):
    scene = scene_of(tone(200), tone(2000), tone(900))
    for each in (scene, scene.restricted(["vn"])):
        with pytest.raises(DataError) as error:
            blind(each, ["vn"])
        assert str(error.value) == (
            f"{blind.method} separates mixtures of at most 2 sources; got 3 in p: fl, vc, vn. "
            "To fix: score it on two-source mixtures"
        )


def test_an_oracle_gives_each_label_the_estimate_that_fits_it(small_manifest):
    baseline = LowAndHigh.fit(TrainStems(small_manifest))
    system, scene = BaselineSystem("own", baseline), scene_of(tone(2000), tone(200))
    low, high = baseline(scene, [])
    assert np.abs(low - scene.references["vn"]).max() < 0.1
    np.testing.assert_array_equal(system(scene, ["vc", "vn"]), np.stack([high, low]))
    np.testing.assert_array_equal(system(scene, ["vn"]), low[None])
    assert not system.ordered and truth_of(system) == "order" and not separates_pieces(system)


@pytest.fixture
def few_mixtures(monkeypatch):
    monkeypatch.setattr("vimss.evaluate.scores.TWO_SOURCE_MIXTURES", 4)


@pytest.mark.usefixtures("few_mixtures")
def test_blind_baselines_are_scored_on_two_source_mixtures_alone(small_manifest):
    system = BaselineSystem("own", LowAndHigh(RATE))
    found = evaluate(system, small_manifest, "test", whole_pieces=True)
    assert found.scores == () and found.two_sources.mixtures == 4 and found.truth == "order"
    assert np.isnan(found.two_sources.absent_level) and np.isnan(found.two_sources.label_contrast)
    row = Row("own", baseline=system)
    tasks = evaluation_tasks(Table(small_manifest.folder, "test"), row, small_manifest, whole_pieces=True)
    assert [task.mixtures for task in tasks] == [range(4)]


@pytest.mark.usefixtures("few_mixtures")
def test_the_table_says_which_systems_are_given_the_truth(small_manifest, capsys):
    systems = [BaselineSystem("own", LowAndHigh(RATE)), *baseline_systems(small_manifest, ["mixture", *ORACLES])]
    report.print_evaluations("test", [evaluate(system, small_manifest, "test", False) for system in systems])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"oracles, which read the true stems: ceilings for systems that do not: {'; '.join(ORACLES)}" in printed
    assert (
        "outputs without labels, which an oracle assigns by the true stems; untrained ones only of two sources: "
        "own SI-SDRi:" in printed
    )


def decaying_notes(seed: int, samples: int, notes: int) -> np.ndarray:
    """Notes of random pitch at equal distances that fade."""
    rng, sound = np.random.default_rng(seed), np.zeros(samples)
    for number in range(notes):
        first = number * samples // notes
        times = np.arange(samples - first) / RATE
        sound[first:] += 0.3 * np.exp(-times / 0.06) * np.sin(2 * np.pi * rng.uniform(150, 3000) * times)
    return sound


def chord(seed: int, samples: int) -> np.ndarray:
    """Five random pitches together."""
    pitches = np.random.default_rng(seed).uniform(150, 3000, (5, 1))
    return 0.3 * np.sin(2 * np.pi * pitches * np.arange(samples) / RATE).sum(axis=0)


def voice(seconds: float) -> np.ndarray:
    """A glide up and down with vibrato: it never comes back in the same way."""
    times = np.arange(round(seconds * RATE)) / RATE
    pitch = 1000 - 700 * np.cos(3 * np.pi * times / seconds) + 40 * np.sin(11 * np.pi * times)
    return 0.15 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)


def clicks(seconds: float) -> np.ndarray:
    """Four short bursts of noise a second."""
    rng, sound = np.random.default_rng(0), np.zeros(round(seconds * RATE))
    for first in range(0, len(sound) - 100, RATE // 4):
        sound[first : first + 100] = rng.standard_normal(100) * np.exp(-np.arange(100) / 20)
    return sound


def test_hpss_tells_held_notes_from_clicks():
    held = sum(tone(frequency, 4) for frequency in (220, 440, 660, 1100)) / 3
    harmonic, percussive = gains(HPSS(RATE), held, clicks(4))
    assert harmonic > 14 and percussive > 20


def repeated(times: int) -> np.ndarray:
    """A pattern of half a second."""
    return np.tile(decaying_notes(1, 4096, 8), times)


def test_repet_finds_a_background_that_repeats():
    background, foreground = gains(REPET(RATE), repeated(16), voice(16 * 4096 / RATE))
    assert background > 16 and foreground > 19


@pytest.mark.parametrize("period", [7, 20, 63])
def test_repet_finds_the_period_among_its_multiples(period):
    rng = np.random.default_rng(0)
    power = np.tile(rng.uniform(size=(40, period)), 11)[:, : 10 * period + 3]
    assert period_of(beat_spectrum(power)) == period


def test_the_beat_spectrum_is_the_mean_product_of_frames_a_lag_apart():
    power = np.random.default_rng(0).uniform(size=(5, 12))
    products = np.array([np.mean(power[:, : 12 - lag] * power[:, lag:]) for lag in range(12)])
    np.testing.assert_allclose(beat_spectrum(power), products / products[0])


def test_the_repeating_part_is_a_median_over_the_periods_the_last_of_which_may_be_cut():
    magnitude = np.array([[1.0, 10.0, 2.0, 20.0, 9.0, 30.0, 3.0]])
    np.testing.assert_array_equal(repeating(magnitude, 2), [[2.5, 20, 2.5, 20, 2.5, 20, 2.5]])


def test_repet_sim_finds_a_background_that_comes_back_without_a_period():
    order = np.random.default_rng(3).integers(0, 4, 32)
    chords = np.concatenate([chord(number, 2048) * np.hanning(2048) for number in order])
    background, foreground = gains(REPETSIM(RATE), chords, voice(32 * 2048 / RATE))
    assert background > 4 and foreground > 10.5
    assert gains(REPET(RATE), chords, voice(32 * 2048 / RATE))[0] < 0


def test_repet_sim_takes_the_frames_whose_shape_is_most_similar_at_any_level(monkeypatch):
    monkeypatch.setattr(repet_sim, "MOST_FRAMES", 5)
    monkeypatch.setattr(repet_sim, "FRAMES_AT_ONCE", 200)
    quiet, loud = np.array([1.0, 0.2, 0.0]), np.array([2.0, 10.0, 0.0])
    # Each every four seconds, and silence between them.
    magnitude = np.zeros((3, 1250))
    magnitude[:, ::250], magnitude[:, 125::250] = quiet[:, None], loud[:, None]
    magnitude[2, 500] = 0.3
    background, foreground = REPETSIM(RATE).shares(magnitude)
    np.testing.assert_allclose(foreground[:, 500], [0, 0, 0.3], atol=1e-12)
    np.testing.assert_allclose(background[:, 125], loud)


def test_the_2dft_finds_a_background_that_repeats():
    background, foreground = gains(Fourier2D(RATE), repeated(16), voice(16 * 4096 / RATE))
    assert background > 16 and foreground > 18.7


def test_rpca_finds_a_background_of_low_rank():
    rng = np.random.default_rng(3)
    loudness = [np.repeat(rng.uniform(0.2, 1, 16), RATE // 2) for _ in range(2)]
    chords = sum(level * chord(seed, 8 * RATE) for seed, level in enumerate(loudness))
    background, foreground = gains(RPCA(RATE), chords, voice(8))
    assert background > 10 and foreground > 20


@pytest.mark.parametrize("transposed", [False, True])
def test_rpca_recovers_a_matrix_of_low_rank_and_sparse_errors(transposed):
    rng = np.random.default_rng(0)
    low = rng.standard_normal((60, 3)) @ rng.standard_normal((3, 90))
    sparse = np.where(rng.uniform(size=low.shape) < 0.05, 10 * rng.standard_normal(low.shape), 0)
    low, sparse = (low.T, sparse.T) if transposed else (low, sparse)
    found = low_rank_and_sparse(low + sparse)
    np.testing.assert_allclose(found[0], low, atol=5e-3)
    np.testing.assert_allclose(found[1], sparse, atol=5e-3)
