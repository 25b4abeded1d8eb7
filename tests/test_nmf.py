"""What the dictionaries of NMF hear that a time-invariant filter cannot; the contract is that of all baselines."""

import subprocess
import sys

import numpy as np
import pytest

from vimss.baselines import nmf
from vimss.baselines.nmf import InformedNMF, fit_dictionaries
from vimss.baselines.wiener import InformedWiener, fit_spectra
from vimss.errors import DataError
from vimss.metrics import si_sdr_improvement
from vimss.stream.scene import Scene

RATE = 8000


def melody(*frequencies: float, timbre: tuple[float, ...], seed: int = 0) -> np.ndarray:
    """Half a second of each frequency, with partials of these levels, and a little noise."""
    times = np.arange(RATE // 2) / RATE
    tones = [
        sum(level * np.sin(2 * np.pi * f * (k + 1) * times) for k, level in enumerate(timbre)) for f in frequencies
    ]
    noise = np.random.default_rng(seed).standard_normal(len(frequencies) * RATE // 2)
    return (0.1 * np.concatenate(tones) + 1e-4 * noise)[None].astype(np.float32)


BRIGHT, DULL = (0.3, 1.0, 0.8), (1.0, 0.1, 0.05)
STEMS = [("vn", melody(300, 400, 500, timbre=BRIGHT)), ("fl", melody(300, 400, 500, timbre=DULL, seed=1))]


def test_it_follows_notes_that_a_fixed_filter_cannot_tell_apart():
    vn, fl = melody(400, 300, 500, timbre=BRIGHT, seed=2), melody(500, 400, 300, timbre=DULL, seed=3)
    scene = Scene("p", vn + fl, {"vn": vn, "fl": fl}, {})
    by_notes = InformedNMF(fit_dictionaries(STEMS, RATE))(scene, ["vn", "fl"])
    by_filter = InformedWiener(fit_spectra(STEMS, RATE))(scene, ["vn", "fl"])
    for stem, one, other in zip((vn, fl), by_notes, by_filter, strict=True):
        better, worse = (si_sdr_improvement(scene.mixture, stem, each, RATE) for each in (one, other))
        assert better > worse + 6


def test_how_loud_a_stem_or_a_mixture_is_changes_no_mask():
    vn, fl = STEMS[0][1], STEMS[1][1]
    scene, soft = (Scene("p", gain * (vn + fl), {"vn": vn, "fl": fl}, {}) for gain in (1, np.float32(1e-3)))
    loud = InformedNMF(fit_dictionaries(STEMS, RATE))
    quiet = InformedNMF(fit_dictionaries([(label, stem / 100) for label, stem in STEMS], RATE))
    expected = loud(scene, ["vn", "fl"])
    np.testing.assert_allclose(quiet(scene, ["vn", "fl"]), expected, atol=1e-3)
    np.testing.assert_allclose(loud(soft, ["vn", "fl"]), expected / 1000, atol=1e-6)


def test_a_dictionary_is_learned_from_a_bounded_draw_of_all_stems(monkeypatch):
    seen = []
    learn = nmf.learn_spectra
    monkeypatch.setattr(nmf, "learn_spectra", lambda frames: (seen.append(frames), learn(frames))[1])
    stems = [("vn", melody(*range(200, 1000, 20), timbre=BRIGHT, seed=seed)) for seed in range(3)]
    dictionaries = fit_dictionaries(stems, RATE)
    assert [len(frames) for frames in seen] == [nmf.MOST_FRAMES]
    assert dictionaries.of("vn").shape == (nmf.SPECTRA, 257)
    # Low and high notes, of the first stem and of the last: the loudest bins of the frames are spread over all.
    assert np.ptp(seen[0].argmax(axis=1)) > 80


def test_silent_stems_are_an_error():
    with pytest.raises(DataError, match="NMF needs stems that sound; got none. To fix: fit it on the train split of a"):
        fit_dictionaries([("vn", 0 * STEMS[0][1])], RATE)


@pytest.mark.slow
def test_baselines_load_without_scikit_learn():
    code = "import sys, vimss.baselines; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
