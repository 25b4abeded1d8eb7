"""The power ratio mask of the true stems: nearly an upper bound for masks on a spectrogram."""

import numpy as np
from jaxtyping import Float

from vimss.baselines.oracle import Oracle
from vimss.baselines.spectrogram import masked, spectrum_of


class OracleMask(Oracle):
    """Each bin is shared in the ratio of the powers of the stems."""

    def separate(
        self, mixture: Float[np.ndarray, "c t"], stems: Float[np.ndarray, "s c t"]
    ) -> Float[np.ndarray, "s c t"]:
        """The mixture through the ratio masks."""
        power = np.stack([np.abs(spectrum_of(stem, self.sample_rate)) ** 2 for stem in stems])
        return masked(mixture, power, self.sample_rate)
