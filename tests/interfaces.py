"""Interfaces of networks that are not built, for tests of what goes into a network."""

from vimss.model.config import ModelConfig
from vimss.model.interface import Interface

LABELS = ("fl", "vc", "vn")


def interface(outputs="queries", context="labels", labels=LABELS, slots=2, features="") -> Interface:
    """Conditioned, where the outputs can be."""
    site = "none" if outputs == "slots" else "output"
    return Interface(ModelConfig(outputs=outputs, context=context, site=site, slots=slots), tuple(labels), features)
