"""Sound at another rate."""

import numpy as np
import soxr
from jaxtyping import Float32


def resample(audio: Float32[np.ndarray, "c t"], rate: int | float, wanted: int | float) -> Float32[np.ndarray, "c u"]:
    """Sound at another sample rate (soxr HQ); the first sample keeps its place."""
    return soxr.resample(np.ascontiguousarray(audio.T), rate, wanted).T
