"""Levels of stems that the network was not told: trained with `loss: si_sdr`, it may give any.

    if known.card.get("any_level"):
        peak = fit_levels(mixture, stems)

Le Roux et al. (2019) let the scale of an estimate free; a listener hears it.
"""

from collections.abc import Mapping

import numpy as np

from vimss.media.disk import DiskAudio


def fit_levels(mixture: DiskAudio, stems: Mapping[str, DiskAudio]) -> float:
    """Scale each stem s, on the disk, to lie as near as it can to the mixture x: by <x, s> / <s, s>.

    Where the other sources are orthogonal to it, that is the level of its own source, and its polarity, which the loss
    leaves free too. Returns the peak of all.
    """
    peak = 0.0
    for stem in stems.values():
        product, energy, highest = 0.0, 0.0, 0.0
        for of_stem, of_mixture in zip(stem.blocks(), mixture.blocks(), strict=True):
            product += float(np.vdot(of_mixture.astype(np.float64), of_stem))
            energy += float(np.vdot(of_stem.astype(np.float64), of_stem))
            highest = max(highest, float(np.abs(of_stem).max(initial=0.0)))
        gain = product / energy if energy else 0.0
        stem.scale(gain)
        peak = max(peak, abs(gain) * highest)
    return peak
