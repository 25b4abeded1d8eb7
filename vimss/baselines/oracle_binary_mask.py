"""The ideal binary mask: a ceiling for systems that give each bin of a spectrogram to one source (Wang 2005)."""

import numpy as np
from jaxtyping import Float

from vimss.baselines.oracle import Oracle
from vimss.baselines.spectrogram import masked, spectrum_of


class OracleBinaryMask(Oracle):
    """Each bin belongs to the stem with the most power there; stems with equal power share it."""

    def separate(
        self, mixture: Float[np.ndarray, "c t"], stems: Float[np.ndarray, "s c t"]
    ) -> Float[np.ndarray, "s c t"]:
        """The mixture through the binary masks."""
        power = np.stack([np.abs(spectrum_of(stem, self.sample_rate)) ** 2 for stem in stems])
        return masked(mixture, (power == power.max(axis=0)).astype(power.dtype), self.sample_rate)
