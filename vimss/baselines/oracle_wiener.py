"""The multichannel Wiener filter of the true stems: a ceiling for filters that use where sources are (Duong, Vincent
and Gribonval 2010).

A source has a power in each bin and, in each frequency, one covariance of its channels for the whole recording. With
one channel, this is the power ratio mask.
"""

import numpy as np
from jaxtyping import Complex, Float

from vimss.baselines.oracle import Oracle
from vimss.baselines.spectrogram import signals_of, spectrum_of

FLOOR = 1e-10
"""Added to the covariance of the mixture, relative to its mean variance, so that it can be inverted."""


class OracleWiener(Oracle):
    """The filters with the least mean square error for sources of these powers and covariances."""

    def separate(
        self, mixture: Float[np.ndarray, "c t"], stems: Float[np.ndarray, "s c t"]
    ) -> Float[np.ndarray, "s c t"]:
        """The mixture through the filters, one frequency at a time."""
        spectrum = spectrum_of(mixture, self.sample_rate).astype(np.complex128)
        sources = np.stack([spectrum_of(stem, self.sample_rate) for stem in stems]).astype(np.complex128)
        filtered = [wiener_filtered(spectrum[:, row], sources[:, :, row]) for row in range(spectrum.shape[1])]
        return signals_of(np.stack(filtered, axis=2), mixture, self.sample_rate)


def wiener_filtered(
    mixture: Complex[np.ndarray, "c n"], sources: Complex[np.ndarray, "s c n"]
) -> Complex[np.ndarray, "s c n"]:
    """Estimates of the sources in one frequency; they add up to the mixture."""
    channels = len(mixture)
    power = np.mean(np.abs(sources) ** 2, axis=1)
    total = power.sum(axis=1)[:, None, None]
    covariances = np.einsum("scn,sdn->scd", sources, sources.conj()) / np.where(total > 0, total, 1)
    shares = np.einsum("sn,scd->sncd", power, covariances)
    whole = shares.sum(axis=0)
    variance = np.trace(whole, axis1=1, axis2=2).real / channels
    whole += np.where(variance > 0, FLOOR * variance, 1)[:, None, None] * np.eye(channels)
    estimates = np.einsum("sncd,nd->scn", shares, np.linalg.solve(whole, mixture.T[..., None])[..., 0])
    return estimates + (mixture - estimates.sum(axis=0)) / len(sources)
