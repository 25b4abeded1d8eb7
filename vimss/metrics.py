"""How well a separation went, in decibels; the home of museval.

    gain = si_sdr_improvement(mixture, reference, estimate, sample_rate)   # dB, over active segments
    scores = bss_eval_v4(references, estimates, sample_rate)               # medians of SDR, ISR, SIR, SAR

Every number has one convention, described where it is computed and named beside every table (CONVENTIONS). Signals are
float arrays "c t"; channels share one scale factor. What is undefined (a silent reference, a recording without silence)
is NaN and left out of means; no number stands in for it.
"""

import functools
import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Bool, Complex, Float, Int
from scipy.fft import irfft, rfft
from scipy.linalg import LinAlgWarning, lu_factor, lu_solve

LIMIT_DB = 100.0
"""Ratios are kept within +-100 dB: beyond it lies only rounding."""
ACTIVE_SECONDS = 0.5
ACTIVE_DB = -40.0
"""A segment is active where its level is within 40 dB of the loudest segment of the same stem."""
SILENCE_SECONDS = 1.0
SILENCE_DB = -80.0
"""A frame is silent where its RMS level is below -80 dB of full scale, the last bits of 16."""
ENERGY_FLOOR = 1e-8
"""Added to energies under a logarithm, as in the code that first reported PES and EPS."""
FILTER_TAPS = 512
"""Length of the distortion filters in BSS Eval, samples."""
KEPT_PIECES, KEPT_SIGNALS = 4, 5
"""Of so many pieces the factors of BSS Eval's equations are kept, where no more channels of sources make them: then
those of a piece take at most 63 MB."""

CONVENTIONS = {
    "SI-SDRi": "SI-SDR (Le Roux et al. 2019) of the estimate minus that of the mixture, on segments of 0.5 s where the "
    "reference is within 40 dB of its loudest segment, joined",
    "SDR, SIR, SAR": "museval BSS Eval v4: frames of 1 s, 512-tap filters for the whole recording, median over frames; "
    "frames in which any source is silent are left out",
    "PES": "predicted energy at silence (Schulze-Forster et al. 2019): 10 log10 of the estimate's energy in frames of "
    "1 s where the reference is silent, mean over frames; lower is better",
    "EPS": "energy at predicted silence: 10 log10 of the reference's energy in frames of 1 s where the estimate is "
    "silent, mean over frames; lower is better",
    "contrast": "SI-SDR of a source under the right context minus that under a wrong one, in mixtures of two: a query "
    "exchanged for the other source's; among all labels that condition a network, the source's exchanged for an absent "
    "one",
    "absent": "level of the output for a label or picture that does not play, relative to the mixture; lower is better",
    "(... to ...)": "95 % interval over pieces: the figure plus and minus Student's t with pieces - 1 degrees of "
    "freedom times the standard error of a bootstrap that draws whole pieces; a mixture of two pieces counts as often "
    "as both are drawn; none where everything hangs on one piece",
    "equal labels": "in a mixture of two players of one label each of them is a source; a system that has one output "
    "for both is scored with it twice, and its contrast is not defined there",
    "slots": "an oracle assigns outputs that have no order, by the permutation with the best mean SI-SDRi over the "
    "whole recording; a source beyond the number of slots takes the slot that fits it best; contrast and absent level "
    "are not defined",
}
"""Name of a figure -> the convention behind its value for one source, for the foot of a table."""


def si_sdr(reference: Float[np.ndarray, "*b t"], estimate: Float[np.ndarray, "*b t"]) -> Float[np.ndarray, "*b"]:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, eq. 5), means not removed.

    NaN for a silent reference; -LIMIT_DB for a silent estimate.
    """
    reference, estimate = reference.astype(np.float64), estimate.astype(np.float64)
    energy = _energy(reference)
    scale = np.sum(reference * estimate, axis=-1) / np.where(energy > 0, energy, 1)
    target = scale[..., None] * reference
    return _ratio_db(np.where(energy > 0, _energy(target), np.nan), _energy(estimate - target))


def si_sdr_of_sums(reference: float, product: float, estimate: float) -> float:
    """`si_sdr` from sums over all samples: of the reference's squares, of the products, of the estimate's squares."""
    if reference <= 0:
        return float("nan")
    target = product**2 / reference
    return _ratio_db(np.array([target]), np.array([max(estimate - target, 0.0)])).item()


def snr(reference: Float[np.ndarray, "*b t"], estimate: Float[np.ndarray, "*b t"]) -> Float[np.ndarray, "*b"]:
    """Signal-to-noise ratio in dB, where noise is all that differs; NaN for a silent reference.

    Half of a mixture of two equal stems scores +3 dB or so: never show its improvement alone.
    """
    energy = _energy(reference)
    return _ratio_db(np.where(energy > 0, energy, np.nan), _energy(estimate - reference))


def active_mask(reference: Float[np.ndarray, "c t"], sample_rate: int) -> Bool[np.ndarray, " t"]:
    """True on the segments of 0.5 s whose level is within 40 dB of the loudest one; all False for a silent stem.

    Notes fade and players rest; a ratio there measures the noise floor of the corpus.
    """
    length = active_length(sample_rate)
    return np.repeat(active_segments(frame_energy(reference, length)), length)[: reference.shape[1]]


def active_length(sample_rate: int) -> int:
    """Samples of a segment that is active or not."""
    return max(1, round(ACTIVE_SECONDS * sample_rate))


def active_segments(energy: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Which segments of a stem are active, by their energies."""
    return (energy > 0) & (energy >= float(energy.max(initial=0.0)) * 10 ** (ACTIVE_DB / 10))


def si_sdr_improvement(
    mixture: Float[np.ndarray, "c t"],
    reference: Float[np.ndarray, "c t"],
    estimate: Float[np.ndarray, "c t"],
    sample_rate: int,
) -> float:
    """SI-SDR of the estimate minus that of the mixture, in dB, over the active segments of the reference, joined.

    NaN for a silent reference. The mixture itself scores 0.
    """
    active = active_mask(reference, sample_rate)
    mixed, wanted, given = (signal[:, active].reshape(-1) for signal in (mixture, reference, estimate))
    return float(si_sdr(wanted, given) - si_sdr(wanted, mixed))


def silence_energy(
    reference: Float[np.ndarray, "c t"], estimate: Float[np.ndarray, "c t"], sample_rate: int
) -> tuple[float, float]:
    """PES and EPS in dB, as in Slizovskaia et al. 2021 after Schulze-Forster et al. 2019; lower is better.

    PES, predicted energy at silence: mean over the frames of 1 s where the reference is silent of 10 log10 of the
    estimate's energy. EPS, energy at predicted silence: the same of the reference where the estimate is silent. NaN
    where there is no such frame.
    """
    length = round(SILENCE_SECONDS * sample_rate)
    given, wanted = frame_energy(estimate, length), frame_energy(reference, length)
    limit = 10 ** (SILENCE_DB / 10) * length * len(reference)
    predicted, missed = given[wanted < limit], wanted[given < limit]
    return _mean_db(predicted), _mean_db(missed)


def level_db(estimate: Float[np.ndarray, "c t"], mixture: Float[np.ndarray, "c t"]) -> float:
    """Level of an output relative to the mixture in dB; for a label that does not play, lower is better."""
    given, mixed = _energy(estimate).sum(keepdims=True), _energy(mixture).sum(keepdims=True)
    return _ratio_db(given, np.where(mixed > 0, mixed, np.nan)).item()


@dataclass(frozen=True, eq=False)
class BssEval:
    """Three of museval's ratios in dB, medians over frames, one value per source; NaN where undefined."""

    sdr: Float[np.ndarray, " s"]
    sir: Float[np.ndarray, " s"]
    sar: Float[np.ndarray, " s"]


def bss_eval_v4(
    references: Float[np.ndarray, "s c t"], estimates: Float[np.ndarray, "s c t"], sample_rate: int
) -> BssEval:
    """BSS Eval v4 (Stöter, Liutkus and Ito 2018) through museval: windows and hops of 1 s, medians over frames.

    Channels are scored together, as museval does: a filter may take a source from one channel to the other.
    museval refuses silent sources. A silent reference is left out together with its estimate (see `silence_energy`); a
    silent estimate of a sounding reference is NaN and leaves the other sources' figures as they are. As in museval, a
    frame in which any source is silent does not count.
    """
    scores = np.full((4, len(references)), np.nan)
    sounding = np.flatnonzero(np.any(references != 0, axis=(1, 2)))
    if sounding.size:
        given = estimates[sounding].astype(np.float64)
        silent = ~np.any(given != 0, axis=(1, 2))
        # Each estimate is scored by itself, so what stands in for a silent one cannot reach the others.
        given[silent] = np.random.default_rng(0).standard_normal((int(silent.sum()), *given.shape[1:]))
        frames = _bss_frames(references[sounding].astype(np.float64), given, min(sample_rate, references.shape[2]))
        frames[:, silent] = np.nan
        scores[:, sounding] = np.clip(_nanmedian(frames), -LIMIT_DB, LIMIT_DB)
    sdr, _, sir, sar = scores
    return BssEval(sdr, sir, sar)


def _bss_frames(
    references: Float[np.ndarray, "s c t"], estimates: Float[np.ndarray, "s c t"], window: int
) -> Float[np.ndarray, "4 s n"]:
    """SDR, ISR, SIR and SAR of each source and frame: what museval.metrics.bss_eval computes, of its parts.

    It solves one system of equations, of 512 unknowns per reference and channel, once for each estimate; here all are
    solved at once, which takes 0.3 s instead of 1.2 s for 30 s of four sources at 8 kHz, and estimates of the same
    references that follow share its factors. To delete when museval does.
    """
    museval = _museval()
    sources, channels, samples = references.shape
    true, given = np.moveaxis(references, 1, 2), np.moveaxis(estimates, 1, 2)  # museval's axes: s t c
    kept = sources * channels <= KEPT_SIGNALS
    delayed = (_delayed_references if kept else _delayed_references.__wrapped__)(references.tobytes(), references.shape)
    size = delayed.spectra.shape[-1]
    right = np.empty((sources * channels * FILTER_TAPS, sources, channels))
    for index, channel in np.ndindex(sources, channels):
        spectrum = np.conj(rfft(estimates[index, channel], size))
        crossed = irfft(delayed.spectra[:, :, : size // 2 + 1] * spectrum, size)
        lags = np.concatenate([crossed[..., :1], crossed[..., :-FILTER_TAPS:-1]], axis=-1)
        right[:, index, channel] = lags.reshape(-1)
    solved = delayed.together.solve(right.reshape(len(right), -1))
    filters = solved.reshape(sources, channels, FILTER_TAPS, sources, channels)
    with_own = right.reshape(sources, channels * FILTER_TAPS, sources, channels)
    frames = list(museval.Framing(window, window, samples))
    scores = np.full((4, sources, len(frames)), np.nan)
    for index, estimate in enumerate(given):
        joint = filters[..., index, :]
        alone = delayed.alone[index].solve(with_own[index, :, index]).reshape(channels, FILTER_TAPS, channels)
        for number, frame in enumerate(frames):
            if not museval._any_source_silent(true[:, frame]) and not museval._any_source_silent(given[:, frame]):
                parts = museval._bss_decomp_mtifilt(true[:, frame], estimate[frame], index, joint, alone)
                scores[:, index, number] = museval._bss_crit(*parts, False)
    return scores


@dataclass(frozen=True, eq=False)
class _Equations:
    """The left side of the equations of a least-squares projection."""

    matrix: Float[np.ndarray, "m m"]
    """Its LU factors, unless it is singular."""
    pivots: Int[np.ndarray, " m"] | None
    """Of the factors; None where the matrix is singular."""

    @classmethod
    def of(cls, matrix: Float[np.ndarray, "m m"]) -> "_Equations":
        """The equations with this matrix."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LinAlgWarning)  # the diagonal says the same
            factors, pivots = lu_factor(matrix + np.finfo(np.float64).eps * np.eye(len(matrix)))
        return cls(factors, pivots) if np.diag(factors).all() else cls(matrix, None)

    def solve(self, right: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "m k"]:
        """The solution for each column."""
        if self.pivots is None:
            return np.asarray(np.linalg.lstsq(self.matrix, right)[0])
        return np.asarray(lu_solve((self.matrix, self.pivots), right))


@dataclass(frozen=True, eq=False)
class _Delayed:
    """References with all delays of a filter, on which estimates are projected."""

    spectra: Complex[np.ndarray, "s c f"]
    together: _Equations
    alone: tuple[_Equations, ...]
    """Of each reference."""


@functools.lru_cache(maxsize=KEPT_PIECES)
def _delayed_references(content: bytes, shape: tuple[int, int, int]) -> _Delayed:
    """What all estimates of the same references share: most of the time that scoring one of them takes.

    The rows of a table score the few pieces of a shard one after the other. References are given as their bytes, which
    can be compared.
    """
    museval = _museval()
    references = np.moveaxis(np.frombuffer(content).reshape(shape), 1, 2)
    correlations, spectra = museval._compute_reference_correlations(references, FILTER_TAPS)
    alone = tuple(
        _Equations.of(museval._reshape_G(correlations[[index]][:, [index]])) for index in range(len(correlations))
    )
    return _Delayed(spectra, _Equations.of(museval._reshape_G(correlations)), alone)


@functools.cache
def _museval() -> ModuleType:
    """The file museval/metrics.py alone, which needs only arrays.

    museval's package would import pandas, and stempeg, which needs an ffmpeg and an ffprobe on PATH. To delete when
    it imports them at their first use.
    """
    package = importlib.util.find_spec("museval")
    assert package is not None and package.submodule_search_locations, "museval is a dependency"  # noqa: S101
    path = Path(package.submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("museval_metrics", path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _energy(signal: Float[np.ndarray, "*b t"]) -> Float[np.ndarray, "*b"]:
    return np.asarray(np.sum(signal.astype(np.float64) ** 2, axis=-1))


def _ratio_db(signal: Float[np.ndarray, "*b"], noise: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    """10 log10 of a ratio of energies, within +-LIMIT_DB; NaN stays NaN, and nothing over nothing is -LIMIT_DB."""
    limit = 10 ** (LIMIT_DB / 10)
    tiny = np.finfo(np.float64).tiny
    ratio = signal / np.maximum(noise, np.maximum(signal / limit, tiny))
    return np.asarray(10 * np.log10(np.clip(ratio, 1 / limit, limit)))


def frame_energy(signal: Float[np.ndarray, "c t"], length: int) -> Float[np.ndarray, " n"]:
    """Energy of frames of `length` samples, the last one padded with silence."""
    power = np.sum(signal.astype(np.float64) ** 2, axis=0)
    return np.pad(power, (0, -len(power) % length)).reshape(-1, length).sum(axis=1)


def _mean_db(energy: Float[np.ndarray, " n"]) -> float:
    return float(np.mean(10 * np.log10(energy + ENERGY_FLOOR))) if len(energy) else float("nan")


def _nanmedian(frames: Float[np.ndarray, "m s n"]) -> Float[np.ndarray, "m s"]:
    """Median over finite frames; NaN where there is none, without numpy's warning."""
    known = [[row[np.isfinite(row)] for row in rows] for rows in frames]
    return np.array([[np.median(row) if row.size else np.nan for row in rows] for rows in known])
