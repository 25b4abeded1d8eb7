"""Interfaces of networks that are not built, for tests of what goes into a network."""

from vimss.model.interface import Interface
from vimss.model.networks.wave_u_net.config import WaveUNetConfig

LABELS = ("fl", "vc", "vn")


def interface(outputs="queries", context="labels", labels=LABELS, slots=2, features="") -> Interface:
    """Conditioned, where the outputs can be."""
    site = "none" if outputs == "slots" else "output"
    return Interface(WaveUNetConfig(outputs=outputs, context=context, site=site, slots=slots), tuple(labels), features)
