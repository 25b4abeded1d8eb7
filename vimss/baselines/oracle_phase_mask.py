"""The phase-sensitive mask, |S| / |X| times the cosine of the angle between them (Erdogan et al. 2015).

No real mask comes closer to the spectrum of a stem S in that of the mixture X. It is not truncated to 0 to 1, as the
targets of networks are: the masks of all stems add up to 1.
"""

import numpy as np
from jaxtyping import Float

from vimss.baselines.oracle import Oracle
from vimss.baselines.spectrogram import signals_of, spectrum_of


class OraclePhaseMask(Oracle):
    """The part of each stem that is in phase with the mixture."""

    def separate(
        self, mixture: Float[np.ndarray, "c t"], stems: Float[np.ndarray, "s c t"]
    ) -> Float[np.ndarray, "s c t"]:
        """The mixture through the phase-sensitive masks."""
        spectrum = spectrum_of(mixture, self.sample_rate)
        power = np.abs(spectrum) ** 2
        in_phase = (np.real(spectrum_of(stem, self.sample_rate) * spectrum.conj()) for stem in stems)
        masks = (np.divide(part, power, out=np.zeros_like(power), where=power > 0) for part in in_phase)
        return signals_of((spectrum * mask for mask in masks), mixture, self.sample_rate)
