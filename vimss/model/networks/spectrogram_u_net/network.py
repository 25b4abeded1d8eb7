"""The U-Net on spectrograms: its last layers and what their numbers mean, with a sentence per step.

    network = SpectrogramUNetConfig().build(outputs=13, context_size=13, context_scale=1.0)
    network(torch.zeros(1, 1, 147456), None)    # 13 outputs of 16384 samples

Its layers up to the last one are those of `networks.spectra.u_net`. From Jansson et al. (2017) it has the mask on the
mixture's magnitude, and the mixture's phase.

Axis letters: b batch, q query, s output of a query, c audio channel, t audio sample of the window, u of the output,
n STFT frame, f frequency bin, k frequency band.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vimss.model.conditioning import Context, make_conditions
from vimss.model.convolution import Convolution
from vimss.model.networks.spectra.transform import phase_of
from vimss.model.networks.spectra.u_net import COMPRESSION, Features, SpectralUNet, beside, crop
from vimss.model.networks.spectrogram_u_net.config import SpectrogramUNetConfig

LOUDEST = math.log1p(2 * COMPRESSION)
"""No signal within full scale has a larger compressed magnitude (a constant has |X| = 2)."""


class SpectrogramUNet(SpectralUNet):
    """A mixture and a context in, estimates in the middle of the window out."""

    config: SpectrogramUNetConfig

    def __init__(self, config: SpectrogramUNetConfig, outputs: int, context_size: int, context_scale: float) -> None:
        """`outputs` per query; `context_scale` is the usual length of a context vector."""
        super().__init__(config)
        self.conditions = make_conditions(config, context_size, context_scale)
        below, width = self.decoded, config.widths()[0]
        if config.site == "output":
            # A context that is added right before the output would change all frequencies alike.
            self.hidden = Convolution(2 * width, width, 1)
            below = 2 * width
        self.head = Convolution(below, outputs * config.channels, (config.kernel_size, config.kernel_size))
        with torch.no_grad():
            # At the start every mask is close to a half. Not zero: then no gradient would pass to the layers below.
            self.head.weight.mul_(0.2)

    def forward(self, mixture: Float[Tensor, "b c t"], context: Context | None) -> Float[Tensor, "b s c u"]:
        """Estimate the outputs in the middle of the window; t must be a possible input window."""
        # The STFT, and the logarithm of its magnitudes; down to the bottleneck, and up again.
        spectrum = self.stft(mixture)
        levels = self.encode(self.bands_of(spectrum), context)
        # The last layer gives a number per output, channel, frame and band, of the frames that the output needs.
        x, cropped = self._last(levels, context)
        x = rearrange(x, "(b q) (s c) n k -> b (q s) c n k", b=len(mixture), c=self.config.channels).to(mixture.dtype)
        # A mask is between 0 and 1; a magnitude is positive, and compressed as the mixture's is.
        by_mask = self.config.estimate == "mask"
        found = torch.sigmoid(x) if by_mask else torch.expm1(F.softplus(x).clamp(max=LOUDEST)) / COMPRESSION
        # Both get the mixture's phase.
        reference = spectrum if by_mask else phase_of(spectrum)
        return self.sound_of(self.bins_of(found) * crop(reference, cropped).unsqueeze(1), cropped)

    def _last(self, levels: list[Features], context: Context | None) -> tuple[Features, int]:
        """The last layer, before its non-linearity, and how many frames of the mixture it lacks at either end."""
        x, cropped = self.decode(levels, context)
        if self.config.site == "output":
            skip = crop(levels[1], cropped // 2)
            x = F.conv2d(x, self.hidden.weight[:, :, None, None], self.hidden.bias)
            x = beside(self.activate(x, "output", 2, cropped, context), skip)
        return self.upsample(x, self.head, 1, cropped, levels[0])
