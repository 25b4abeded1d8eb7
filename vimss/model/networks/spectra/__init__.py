"""The STFT, settings and U-Net that networks on spectrograms share.

transform     waveforms to spectra and back; linear to logarithmic frequency and back
config        UNetConfig: the settings of a U-Net on spectra, its windows and its layers, without torch
u_net         SpectralUNet: its layers, from all frames and bands to the bottleneck and back

`spectrogram_u_net` and `sound_of_pixels` are such U-Nets.
"""

from vimss.model.networks.spectra.config import UNetConfig

__all__ = ["UNetConfig"]
