"""A U-Net on spectrograms after Jansson et al. (2017) and Zhao et al. (2018, "The Sound of Pixels").

config        SpectrogramUNetConfig: its settings and its sites, without torch
network       SpectrogramUNet: the estimates from the last layer. Its layers are those of `networks.spectra.u_net`

separator = Separator(SpectrogramUNetConfig(), labels=tuple(INSTRUMENTS), sample_rate=22050)
separator(torch.zeros(1, 1, 147456))  # 13 outputs of 16384 samples
"""

from vimss.model.networks.spectrogram_u_net.config import SpectrogramUNetConfig

__all__ = ["SpectrogramUNetConfig"]
