"""Networks of libraries, and others that look at stretches of fixed length: an adapter that any such model fits into.

config      SegmentConfig: the length of the stretches, the windows that follow from it; without torch
stft        StftConfig: the same, of models that work on spectra; without torch
network     SegmentNetwork: cuts a mixture into them, runs the model, and conditions it by hooks at named modules
spectra     OnSpectra: an STFT around a model from spectra to spectra

`conv_tasnet.py` shows how one file adds a network of a library, `open_unmix.py` one that takes spectra.
"""

from vimss.model.networks.segments.config import SegmentConfig, nearest_multiples
from vimss.model.networks.segments.stft import StftConfig

__all__ = ["SegmentConfig", "StftConfig", "nearest_multiples"]
