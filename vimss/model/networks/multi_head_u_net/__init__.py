"""A U-Net on spectrograms with a decoder, a head, for each output, after Slizovskaia et al. (2021).

config        MultiHeadUNetConfig: its settings, its windows and its sites, without torch
network       MultiHeadUNet: the weights, and the forward pass step by step. Read this one first

separator = Separator(MultiHeadUNetConfig(), labels=tuple(INSTRUMENTS), sample_rate=8000)
separator(torch.zeros(1, 1, 24576))  # 13 outputs of 8192 samples
"""

from vimss.model.networks.multi_head_u_net.config import MultiHeadUNetConfig

__all__ = ["MultiHeadUNetConfig"]
