"""The level of a stem whose network gives any, because it was trained with `loss: si_sdr`.

    if card.get("any_level"):
        stem *= fitted_gain([(mixture, stem)])

Le Roux et al. (2019) let the scale of an estimate free; a listener hears it.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32


def fitted_gain(blocks: Iterable[tuple[Float32[np.ndarray, "c n"], Float32[np.ndarray, "c n"]]]) -> float:
    """The gain that brings a stem s as near as it can be to the mixture x: <x, s> / <s, s>; 0 for silence.

    Where the other sources are orthogonal to it, that is the level of its own source, and its polarity, which the loss
    leaves free too. `blocks` are those of the mixture, each with that of the stem.
    """
    product, energy = 0.0, 0.0
    for of_mixture, of_stem in blocks:
        product += float(np.vdot(of_mixture.astype(np.float64), of_stem))
        energy += float(np.vdot(of_stem.astype(np.float64), of_stem))
    return product / energy if energy else 0.0
