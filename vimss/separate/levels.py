"""Levels of stems on the disk that the network was not told: trained with `loss: si_sdr`, it may give any.

if known.card.get("any_level"):
    peak = fit_levels(mixture, stems)
"""

from collections.abc import Mapping

import numpy as np

from vimss.media.disk import DiskAudio
from vimss.model.level import fitted_gain


def fit_levels(mixture: DiskAudio, stems: Mapping[str, DiskAudio]) -> float:
    """Scale each stem to lie as near as it can to the mixture; returns the peak of all."""
    peak = 0.0
    for stem in stems.values():
        gain = fitted_gain(zip(mixture.blocks(), stem.blocks(), strict=True))
        highest = max((float(np.abs(block).max(initial=0.0)) for block in stem.blocks()), default=0.0)
        stem.scale(gain)
        peak = max(peak, abs(gain) * highest)
    return peak
