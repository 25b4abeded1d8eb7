"""From a recording of one player to a vector of how that player sounds: the encoder of the context `example`.

encoder = ExampleEncoder(sample_rate=8000)
encoder(sound)                              # "n c t" to "n e", each of length 1

Convolutions over the time of a log-mel spectrogram, their mean over time, and a linear layer, as in the networks that
tell speakers apart (the x-vectors of Snyder et al. 2018, without their variance). The length of 1 is that of the
d-vectors of VoiceFilter (Wang et al. 2019). It is trained along with the network that it conditions.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vimss.model.contexts.example import ENCODED_SIZE
from vimss.model.mel import MelSpectrogram

BANDS = 64
"""Mel bands."""

WIDTH = 64
"""Channels of the convolutions."""

KERNELS = (5, 3, 3)
"""Spectra, of which there is one every 16 ms at 8 kHz."""


class ExampleEncoder(nn.Module):
    """One vector for each sound, whatever its length and its level."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.mel = MelSpectrogram(sample_rate, BANDS)
        layers: list[nn.Module] = []
        for number, kernel in enumerate(KERNELS):
            layers += [nn.Conv1d(WIDTH if number else BANDS, WIDTH, kernel, padding=kernel // 2), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.last = nn.Linear(WIDTH, ENCODED_SIZE)

    def forward(self, sound: Float[Tensor, "n c t"]) -> Float[Tensor, "n e"]:
        """Vectors of length 1, of sounds in -1..1."""
        spectrum = self.mel(sound.to(self.last.weight.dtype))
        # How loud an example was recorded says nothing about the player.
        spectrum = spectrum - spectrum.mean((1, 2), keepdim=True)
        return F.normalize(self.last(self.convolutions(spectrum).mean(2)), dim=-1)
