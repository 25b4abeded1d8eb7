"""Networks of libraries, and others that look at stretches of fixed length: an adapter that any such model fits into.

config      SegmentConfig: the length of the stretches, the windows that follow from it; without torch
network     SegmentNetwork: cuts a mixture into them, runs the model, and conditions it by hooks at named modules

`conv_tasnet.py` shows how one file adds a network of a library.
"""

from vimss.model.networks.segments.config import SegmentConfig

__all__ = ["SegmentConfig"]
