"""The shallow convolutional network of Chandna et al. (2017), DeepConvSep: masks of an excerpt from 128 numbers.

config        DeepConvSepConfig: its settings, its windows and its sites, without torch
network       DeepConvSep: an excerpt in, an excerpt per output out. `segments` makes it a network

separator = Separator(DeepConvSepConfig(), labels=tuple(INSTRUMENTS), sample_rate=8000)
separator(torch.zeros(1, 1, 4096))  # 13 outputs of 3072 samples
"""

from vimss.model.networks.deep_conv_sep.config import DeepConvSepConfig

__all__ = ["DeepConvSepConfig"]
