"""The U-Net with several heads: its weights, and its forward pass with a sentence per step.

    network = MultiHeadUNetConfig().build(outputs=13, context_size=13, context_scale=1.0)
    network(torch.zeros(1, 1, 24576), None)    # 13 outputs of 8192 samples

From Slizovskaia et al. (2021), "Conditioned source separation for musical instrument performances", it has the encoder
of strided convolutions of 4 x 4 taps, the heads of bilinear interpolation and convolutions of 3 x 3 taps, and masks
that compete; with `outputs: queries` there is one head, which is the paper's U-Net. Unlike theirs it has no batch norm,
since an example's estimates must not depend on others of the batch, no dropout, logarithms of magnitudes that do not
depend on the loudest one of an excerpt, and interpolation that is the same wherever an excerpt begins.

Axis letters: b batch, q query, r 1 until a layer is conditioned and q from there on, s output of a query, c audio
channel, t audio sample of the window, u of the output, n STFT frame, f frequency bin, k frequency band, d feature.
"""

from collections.abc import Iterable, Sequence
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
from vimss.model.networks.multi_head_u_net.config import MultiHeadUNetConfig
from vimss.model.networks.spectra.transform import Stft, log_frequency

COMPRESSION = 1000.0
"""The network sees log(1 + COMPRESSION |X|): nearly linear below -60 dB of full scale, and 0 where there is silence."""

Features = Float[Tensor, "_ _ _ _"]
"""A layer "(b r) d n k"."""


class Head(nn.Module):
    """The decoder of one output."""

    def __init__(self, config: MultiHeadUNetConfig) -> None:
        super().__init__()
        widths = (config.channels, *config.widths())
        # From the deepest level to that of all frames, each takes the layer below it and the encoder's of its level.
        outputs = (config.filters, *config.widths()[:-1])
        below = (*outputs[1:], widths[-1])
        self.up = nn.ModuleList(
            Convolution(below[level] + widths[level], outputs[level], (3, 3)) for level in reversed(range(config.depth))
        )
        self.last = Convolution(config.filters, config.channels, 1)


class MultiHeadUNet(nn.Module):
    """A mixture and a context in, estimates in the middle of the window out."""

    to_bands: Float[Tensor, "k f"]
    to_bins: Float[Tensor, "f k"]

    def __init__(self, config: MultiHeadUNetConfig, outputs: int, context_size: int, context_scale: float) -> None:
        """`outputs` per query; `context_scale` is the usual length of a context vector."""
        super().__init__()
        self.config = config
        self.stft = Stft(config.n_fft, config.hop_length)
        # Frames before the output, and those of them whose windows reach into it.
        self.margin = config.geometry.context // 2 // config.hop_length
        self.overlap = -(-self.stft.margin // config.hop_length)
        to_bands, to_bins = log_frequency(config.n_fft // 2 + 1, config.bins)
        self.register_buffer("to_bands", to_bands, persistent=False)
        self.register_buffer("to_bins", to_bins, persistent=False)
        self.down = nn.ModuleList(
            Convolution(before, width, (4, 4)) for before, width in pairwise((config.channels, *config.widths()))
        )
        self.heads = nn.ModuleList(Head(config) for _ in range(outputs))
        self.conditions = make_conditions(config, context_size, context_scale)

    def matrices(self) -> list[nn.Parameter]:
        """The convolutions from feature to feature: first and last layer have no spectrum to speak of."""
        heads = [layer for head in cast(Iterable[Head], self.heads) for layer in head.up]
        return [layer.weight for layer in cast(Iterable[Convolution], (*self.down[1:], *heads))]

    def forward(self, mixture: Float[Tensor, "b c t"], context: Context | None) -> Float[Tensor, "b s c u"]:
        """Estimate the outputs in the middle of the window; t must be a possible input window."""
        # The STFT, and the logarithm of its magnitudes in bands.
        spectrum = self.stft(mixture)
        levels = self._encode(torch.log1p(COMPRESSION * (spectrum.abs() @ self.to_bands.T)), context)
        # Each head gives a layer of all frames and bands that the output needs; they are conditioned together.
        decoded = [self._decode(head, levels) for head in cast(Iterable[Head], self.heads)]
        cropped = decoded[0][1]
        hidden = self._activate(torch.stack([x for x, _ in decoded], dim=2), "output", 1, cropped, context)
        # A number per output, channel, frame and band becomes a mask.
        masks = torch.stack(
            [
                F.conv2d(x, head.last.weight[:, :, None, None], head.last.bias)
                for x, head in zip(hidden.unbind(2), cast(Iterable[Head], self.heads), strict=True)
            ],
            dim=1,
        ).to(mixture.dtype)
        by_share = self.config.masks == "softmax" and self.config.outputs != "queries"
        masks = torch.softmax(masks, dim=1) if by_share else torch.sigmoid(masks)
        masks = rearrange(masks, "(b q) s c n k -> b (q s) c n k", b=len(mixture)) @ self.to_bins.T
        # It weighs the mixture's spectrum, phase and all.
        estimates = self.stft.inverse(masks * _crop(spectrum, cropped).unsqueeze(1))
        beyond = (self.margin - cropped) * self.config.hop_length
        return estimates[..., beyond : estimates.shape[-1] - beyond]

    def _encode(self, x: Features, context: Context | None) -> list[Features]:
        """All levels, from that of all frames and bands to the bottleneck."""
        levels = [x]
        for level, convolution in enumerate(cast(Iterable[Convolution], self.down)):
            # Down: a frame and a band from every two and their neighbours.
            x = F.conv2d(levels[-1], convolution.kernel, convolution.bias, stride=2, padding=1)
            name = "bottleneck" if level == self.config.depth - 1 else f"down{level}"
            levels.append(self._activate(x, name, 2 ** (level + 1), 0, context))
        return levels

    def _decode(self, head: Head, levels: Sequence[Features]) -> tuple[Features, int]:
        """A head's last layer, before its non-linearity, and how many frames of the mixture it lacks at either end."""
        x, cropped = levels[-1], 0
        for level, convolution in zip(
            reversed(range(self.config.depth)), cast(Iterable[Convolution], head.up), strict=True
        ):
            # Frames that no output needs are cropped: to either side, this level needs 2.5 of its own frames, and
            # those above it as many of theirs.
            needed = self.overlap + -(-5 * (2 ** (level + 1) - 1) // 2)
            spare = max(self.margin - cropped - needed, 0) // 2 ** (level + 1)
            x, cropped = _crop(x, spare), cropped + spare * 2 ** (level + 1)
            # Up: put a frame and a band between every two, lay the encoder's of the same level beside, and convolve.
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
            skip = _crop(levels[level], cropped // 2**level)
            x = torch.cat([x, skip.repeat_interleave(len(x) // len(skip), 0)], dim=1)
            x = F.conv2d(x, convolution.kernel, convolution.bias, padding=1)
            x = F.leaky_relu(x, LEAK) if level else x
        return x, cropped

    def _activate(
        self, x: Float[Tensor, "_ d *s n k"], name: str, step: int, cropped: int, context: Context | None
    ) -> Float[Tensor, "_ d *s n k"]:
        """The condition of a layer, where its site has it, and the non-linearity; bands get their frame's context."""
        if context is not None and name in self.conditions:
            hop = self.config.hop_length
            # The middle of the samples that a frame stands for.
            first = (cropped + step / 2) * hop
            rows = x.unflatten(0, (len(context.values), -1)).movedim(-2, 2).movedim(3, -1)
            rows = self.conditions[name](rows, context, Layer(round(first), step * hop, x.shape[-2]))
            x = rows.movedim(-1, 3).movedim(2, -2).flatten(0, 1)
        return F.leaky_relu(x, LEAK)


def _crop(x: Num[Tensor, "*b n k"], frames: int) -> Num[Tensor, "*b m k"]:
    """Without the first and the last `frames` frames."""
    return x[..., frames : x.shape[-2] - frames, :]
