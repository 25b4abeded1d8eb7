"""The Wave-U-Net of Stoller, Ewert and Dixon (2018), exactly; its models M1 to M6 are settings.

config        WaveUNetConfig: its settings, its windows and the time grid of each layer, without torch
network       WaveUNet: the weights, and the forward pass as the paper describes it. Read this one first
fast          the same forward pass, faster; the default
time_major    the convolutions of `fast`, with a backward pass made for CPUs

separator = Separator(WaveUNetConfig(), labels=tuple(INSTRUMENTS), sample_rate=22050)
separator(torch.zeros(1, 1, 147443))  # 13 outputs of 16389 samples
"""

from vimss.model.networks.wave_u_net.config import WaveUNetConfig

__all__ = ["WaveUNetConfig"]
