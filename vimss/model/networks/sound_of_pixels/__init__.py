"""The Sound of Pixels after Zhao et al. (2018): masks are inner products of maps with the values of a picture.

config        SoundOfPixelsConfig: its settings, its windows and its site, without torch
network       SoundOfPixels: the weights, and the forward pass step by step. Read this one first

`vimss.model.pixels` gives the sound of every place of a picture.

config = SoundOfPixelsConfig(context="frames", outputs="queries", site="output", vision={"network": "compact", ...})
separator = Separator(config, labels=tuple(INSTRUMENTS), sample_rate=8000)
separator(mixture, pictures)          # pictures "b p v h w 3": an output per player
"""

from vimss.model.networks.sound_of_pixels.config import SoundOfPixelsConfig

__all__ = ["SoundOfPixelsConfig"]
