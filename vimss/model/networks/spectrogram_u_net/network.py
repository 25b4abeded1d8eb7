"""The U-Net on spectrograms: its weights, and its forward pass with a sentence per step.

    network = SpectrogramUNetConfig().build(outputs=13, context_size=13, context_scale=1.0)
    network(torch.zeros(1, 1, 147456), None)    # 13 outputs of 16384 samples

From Jansson et al. (2017) it has its layers (strided convolutions down, transposed ones up, skip connections, twice as
many channels per level), the mask on the mixture's magnitude and the mixture's phase; from Zhao et al. (2018) the
logarithms of magnitudes and of frequency. Unlike theirs it has no batch norm, since an example's estimates must not
depend on others of the batch, no dropout, and a margin of the mixture instead of zeros in time (see `config`).

Axis letters: b batch, q query, r 1 until a layer is conditioned and q from there on, c audio channel, t audio sample of
the window, u of the output, n STFT frame, f frequency bin, k frequency band, d feature.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Num
from torch import Tensor, nn

from vimss.model.conditioning import Context, make_conditions
from vimss.model.convolution import LEAK, Convolution
from vimss.model.geometry import Layer
from vimss.model.networks.spectrogram_u_net.config import SpectrogramUNetConfig
from vimss.model.networks.spectrogram_u_net.transform import Stft, log_frequency

COMPRESSION = 1000.0
"""The network sees log(1 + COMPRESSION |X|): nearly linear below -60 dB of full scale, and 0 where there is silence."""

LOUDEST = math.log1p(2 * COMPRESSION)
"""No signal within full scale has a larger compressed magnitude (a constant has |X| = 2)."""

SMALLEST = 1e-12
"""The phase of a bin is X / max(|X|, SMALLEST): of silence 0, so that it stays silent, with finite gradients."""

Features = Float[Tensor, "_ _ _ _"]
"""A layer "(b r) d n k"."""


class SpectrogramUNet(nn.Module):
    """A mixture and a context in, estimates in the middle of the window out."""

    to_bands: Float[Tensor, "k f"]
    to_bins: Float[Tensor, "f k"]

    def __init__(self, config: SpectrogramUNetConfig, outputs: int, context_size: int, context_scale: float) -> None:
        """`outputs` per query; `context_scale` is the usual length of a context vector."""
        super().__init__()
        self.config = config
        widths, taps = config.widths(), (config.kernel_size, config.kernel_size)
        self.stft = Stft(config.n_fft, config.hop_length)
        # Frames before the output, and those of them whose windows reach into it.
        self.margin = config.geometry.context // 2 // config.hop_length
        self.overlap = -(-self.stft.margin // config.hop_length)
        if config.frequency == "log":
            to_bands, to_bins = log_frequency(config.n_fft // 2 + 1, config.bins)
            self.register_buffer("to_bands", to_bands, persistent=False)
            self.register_buffer("to_bins", to_bins, persistent=False)
        self.down = nn.ModuleList(
            Convolution(before, width, taps) for before, width in pairwise((config.channels, *widths))
        )
        # A layer of the decoder gets the one below it and, but for the deepest, the encoder's of its level.
        below = (widths[-1], *(2 * width for width in reversed(widths[:-1])))
        self.up = nn.ModuleList(
            Convolution(before, width, taps) for before, width in zip(below, reversed(widths[:-1]), strict=False)
        )
        self.conditions = make_conditions(config, context_size, context_scale)
        if config.site == "output":
            # A context that is added right before the output would change all frequencies alike.
            self.hidden = Convolution(2 * widths[0], widths[0], 1)
            below = (*below[:-1], 2 * widths[0])
        self.head = Convolution(below[-1], outputs * config.channels, taps)
        with torch.no_grad():
            for layer in cast(Iterable[Convolution], self.up):
                # A transposed convolution of stride 2 by 2 has a quarter of its taps for each of its samples.
                layer.weight.mul_(2)
            # At the start every mask is close to a half. Not zero: then no gradient would pass to the layers below.
            self.head.weight.mul_(0.2)

    def matrices(self) -> list[nn.Parameter]:
        """The convolutions from feature to feature: first and last layer have no spectrum to speak of."""
        return [layer.weight for layer in (*self.down[1:], *self.up)]

    def forward(self, mixture: Float[Tensor, "b c t"], context: Context | None) -> Float[Tensor, "b s c u"]:
        """Estimate the outputs in the middle of the window; t must be a possible input window."""
        # The STFT, and the logarithm of its magnitudes, in bands if `frequency` is log.
        spectrum = self.stft(mixture)
        magnitude = spectrum.abs()
        bands = magnitude @ self.to_bands.T if self.config.frequency == "log" else magnitude
        levels = self._encode(torch.log1p(COMPRESSION * bands), context)
        # The last layer gives a number per output, channel, frame and band, of the frames that the output needs.
        x, cropped = self._decode(levels, context)
        x = rearrange(x, "(b q) (s c) n k -> b (q s) c n k", b=len(mixture), c=self.config.channels).to(mixture.dtype)
        # A mask is between 0 and 1; a magnitude is positive, and compressed as the mixture's is.
        by_mask = self.config.estimate == "mask"
        found = torch.sigmoid(x) if by_mask else torch.expm1(F.softplus(x).clamp(max=LOUDEST)) / COMPRESSION
        found = found @ self.to_bins.T if self.config.frequency == "log" else found
        # Both get the mixture's phase.
        reference = spectrum if by_mask else spectrum / magnitude.clamp(min=SMALLEST)
        estimates = self.stft.inverse(found * _crop(reference, cropped).unsqueeze(1))
        beyond = (self.margin - cropped) * self.config.hop_length
        return estimates[..., beyond : estimates.shape[-1] - beyond]

    def _encode(self, x: Features, context: Context | None) -> list[Features]:
        """All levels, from that of all frames and bands to the bottleneck."""
        levels = [x]
        for level, convolution in enumerate(cast(Iterable[Convolution], self.down)):
            # Down: convolve, and keep every second frame and band of the result.
            half = convolution.taps[0] // 2
            x = F.conv2d(levels[-1], convolution.kernel, convolution.bias, stride=2, padding=half)
            name = "bottleneck" if level == self.config.depth - 1 else f"down{level}"
            levels.append(self._activate(x, name, 2 ** (level + 1), 0, context))
        return levels

    def _decode(self, levels: list[Features], context: Context | None) -> tuple[Features, int]:
        """The last layer, before its non-linearity, and how many frames of the mixture it lacks at either end."""
        x, cropped, step = levels[-1], 0, 2**self.config.depth
        for level, convolution in enumerate(cast(Iterable[Convolution], self.up)):
            # Up: put a frame and a band between every two by a transposed convolution.
            step //= 2
            x, cropped = self._double(x, convolution, step, cropped, levels[-2 - level])
            x = self._activate(x, f"up{level}", step, cropped, context)
            # Lay the encoder's middle of the same level beside.
            x = _beside(x, _crop(levels[-2 - level], cropped // step))
        if self.config.site == "output":
            skip = _crop(levels[1], cropped // step)
            x = F.conv2d(x, self.hidden.weight[:, :, None, None], self.hidden.bias)
            x = _beside(self._activate(x, "output", step, cropped, context), skip)
        return self._double(x, self.head, 1, cropped, levels[0])

    def _double(
        self, x: Features, convolution: Convolution, step: int, cropped: int, above: Features
    ) -> tuple[Features, int]:
        """A frame for every `step` STFT frames, and the bands of `above`; frames that no output needs are cropped.

        At either end x lacks `cropped` STFT frames, and the result as many as come with it.
        """
        half = convolution.taps[0] // 2
        needed = self.overlap + half * (2 * step - 1)
        spare = max(self.margin - cropped - needed, 0) // (2 * step)
        x, cropped = _crop(x, spare), cropped + 2 * step * spare
        frames = above.shape[2] - 2 * (cropped // step)
        # 2 n - 1 frames from n, or one more, after the last one, where the level above has an even number.
        more = frames - (2 * x.shape[2] - 1), above.shape[3] - (2 * x.shape[3] - 1)
        kernel = rearrange(convolution.kernel, "e d n k -> d e n k")
        x = F.conv_transpose2d(x, kernel, convolution.bias, stride=2, padding=half, output_padding=more)
        return x, cropped

    def _activate(self, x: Features, name: str, step: int, cropped: int, context: Context | None) -> Features:
        """The condition of a layer, where its site has it, and the non-linearity; bands get their frame's context."""
        if context is not None and name in self.conditions:
            hop = self.config.hop_length
            grid = Layer(hop // 2 + cropped * hop, step * hop, x.shape[2])
            rows = rearrange(x, "(b r) d n k -> b r n k d", b=len(context.values))
            x = rearrange(self.conditions[name](rows, context, grid), "b q n k d -> (b q) d n k")
        return F.leaky_relu(x, LEAK)


def _crop(x: Num[Tensor, "*b n k"], frames: int) -> Num[Tensor, "*b m k"]:
    """Without the first and the last `frames` frames."""
    return x[..., frames : x.shape[-2] - frames, :]


def _beside(x: Features, skip: Features) -> Features:
    """Two layers as channels of one; one that is not conditioned is the same for all queries."""
    return torch.cat([x, skip.repeat_interleave(len(x) // len(skip), 0)], dim=1)
