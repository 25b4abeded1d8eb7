"""A WaveNet that separates, after Rethage et al. (2018) and Lluís et al. (2019): not causal, and it gives samples.

config        WaveNetConfig: its settings, its windows and its sites, without torch
network       WaveNet: the weights, and the forward pass step by step. Read this one first

separator = Separator(WaveNetConfig(), labels=tuple(INSTRUMENTS), sample_rate=8000)
separator(torch.zeros(1, 1, 9218))  # 13 outputs of 8192 samples
"""

from vimss.model.networks.wavenet.config import WaveNetConfig

__all__ = ["WaveNetConfig"]
