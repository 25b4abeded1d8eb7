"""DeepConvSep: its weights, and its forward pass with a sentence per step.

    model = DeepConvSep(DeepConvSepConfig(), outputs=13)
    model(torch.zeros(1, 1, 4096))     # "1 13 4096", of which `segments` keeps the middle

After Chandna et al. (2017), "Monoaural audio source separation using deep convolutional neural networks": a convolution
over all frequencies, one over half of an excerpt's frames, a fully connected bottleneck, and for each output a fully
connected layer and the same two convolutions back, with the same weights. A mask is an output's share of all.

Their loss is the squared error of the magnitudes minus a little of the squared error to each other source: in their
code 0.001 of it, and to the source "other" 0.01, or 0.03 from vocals. Here losses compare waveforms, and all pairs have
one weight: `training: {loss: mse, dissimilarity_weight: 0.01}` is the nearest.

Axis letters: n excerpt, s output, f frequency bin, t audio sample, j STFT frame, d feature.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vimss.model.networks.deep_conv_sep.config import DeepConvSepConfig
from vimss.model.networks.spectra.transform import Stft

SMALLEST = 1e-6
"""Added to every output before they are shared out, so that where all are 0 their shares are equal."""


class DeepConvSep(nn.Module):
    """An excerpt of one audio channel in, the same excerpt of every output out."""

    def __init__(self, config: DeepConvSepConfig, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        # A query's share is one of two: the query and the rest.
        sources = outputs + (0 if config.sums_to_mixture else 1)
        self.taps = max(config.frames // 2, 1)
        self.left = config.frames - self.taps + 1
        self.stft = Stft(config.n_fft, config.hop_length)
        self.vertical = nn.Conv1d(config.n_fft // 2 + 1, config.filters, 1)
        self.horizontal = nn.Conv1d(config.filters, config.filters, self.taps)
        # Fully connected, as convolutions over all frames that are left.
        self.bottleneck = nn.Conv1d(config.filters, config.bottleneck_size, self.left)
        self.expand = nn.Conv1d(config.bottleneck_size, sources * config.filters * self.left, 1)
        self.level = nn.Parameter(torch.full((sources,), 0.01))

    def forward(self, mixture: Float[Tensor, "n 1 t"]) -> Float[Tensor, "n s t"]:
        """Estimate the outputs; without their margins they are exact in the sense of the STFT."""
        # The STFT; its magnitudes, frame after frame.
        spectrum = self.stft(mixture)
        x = spectrum.abs().squeeze(1).transpose(1, 2)
        # Which of the learned spectra are in a frame, and how they go on for half of the excerpt.
        x = self.horizontal(self.vertical(x))
        # All of the excerpt in a few numbers, and from them what was there of each output.
        x = F.relu(self.expand(F.relu(self.bottleneck(x))))
        # Back to magnitudes by the same two convolutions, transposed.
        x = x.reshape(len(x) * len(self.level), -1, self.left)
        x = F.conv_transpose1d(F.conv_transpose1d(x, self.horizontal.weight), self.vertical.weight)
        x = x.unflatten(0, (-1, len(self.level))).transpose(2, 3)
        # A mask is an output's share of all; it weighs the mixture's spectrum, phase and all.
        x = F.relu(x + self.level[:, None, None]) + SMALLEST
        masks = (x / x.sum(1, keepdim=True))[:, : self.outputs]
        return self.stft.inverse(masks * spectrum)
