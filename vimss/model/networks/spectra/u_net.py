"""The layers of a U-Net on spectra, from all frames and bands to the bottleneck and back.

    class MyNetwork(SpectralUNet): ...      # adds the last layer, `head`, and what its numbers mean
    levels = self.encode(self.bands_of(spectrum), context)
    x, cropped = self.decode(levels, context)
    x, cropped = self.upsample(x, self.head, 1, cropped, levels[0])

From Jansson et al. (2017) it has its layers (strided convolutions down, transposed ones up, skip connections, twice as
many channels per level); from Zhao et al. (2018) the logarithms of magnitudes and of frequency. Unlike theirs it has no
batch norm, since an example's estimates must not depend on others of the batch, no dropout, and a margin of the mixture
instead of zeros in time (see `config`).

Axis letters: b batch, q query, r 1 until a layer is conditioned and q from there on, n STFT frame, f frequency bin,
k frequency band, d feature.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Complex, Float, Num
from torch import Tensor, nn

from vimss.model.conditioning import Context
from vimss.model.convolution import LEAK, Convolution
from vimss.model.geometry import Layer
from vimss.model.networks.spectra.config import UNetConfig
from vimss.model.networks.spectra.transform import Stft, log_frequency

COMPRESSION = 1000.0
"""The network sees log(1 + COMPRESSION |X|): nearly linear below -60 dB of full scale, and 0 where there is silence."""

Features = Float[Tensor, "_ _ _ _"]
"""A layer "(b r) d n k"."""


class SpectralUNet(nn.Module):
    """All layers but the last one; a network that is conditioned in them sets `conditions`, by their names."""

    to_bands: Float[Tensor, "k f"]
    to_bins: Float[Tensor, "f k"]

    def __init__(self, config: UNetConfig) -> None:
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
        self.decoded = below[-1]
        """Channels of what `decode` gives."""
        with torch.no_grad():
            for layer in cast(Iterable[Convolution], self.up):
                # A transposed convolution of stride 2 by 2 has a quarter of its taps for each of its samples.
                layer.weight.mul_(2)
        self.conditions = nn.ModuleDict()

    def matrices(self) -> list[nn.Parameter]:
        """The convolutions from feature to feature: first and last layer have no spectrum to speak of."""
        return [layer.weight for layer in cast(Iterable[Convolution], (*self.down[1:], *self.up))]

    def bands_of(self, spectrum: Complex[Tensor, "b c n f"]) -> Features:
        """The logarithm of its magnitudes, in bands if `frequency` is log."""
        magnitude = spectrum.abs()
        bands = magnitude @ self.to_bands.T if self.config.frequency == "log" else magnitude
        return torch.log1p(COMPRESSION * bands)

    def bins_of(self, bands: Float[Tensor, "*b k"]) -> Float[Tensor, "*b f"]:
        """Numbers of bands as numbers of bins."""
        return bands @ self.to_bins.T if self.config.frequency == "log" else bands

    def sound_of(self, spectra: Complex[Tensor, "*b n f"], cropped: int) -> Float[Tensor, "*b u"]:
        """The output window of spectra that lack `cropped` frames of the mixture at either end."""
        estimates = self.stft.inverse(spectra)
        beyond = (self.margin - cropped) * self.config.hop_length
        return estimates[..., beyond : estimates.shape[-1] - beyond]

    def encode(self, x: Features, context: Context | None) -> list[Features]:
        """All levels, from that of all frames and bands to the bottleneck."""
        levels = [x]
        for level, convolution in enumerate(cast(Iterable[Convolution], self.down)):
            # Down: convolve, and keep every second frame and band of the result.
            half = convolution.taps[0] // 2
            x = F.conv2d(levels[-1], convolution.kernel, convolution.bias, stride=2, padding=half)
            name = "bottleneck" if level == self.config.depth - 1 else f"down{level}"
            levels.append(self.activate(x, name, 2 ** (level + 1), 0, context))
        return levels

    def decode(self, levels: list[Features], context: Context | None) -> tuple[Features, int]:
        """The last layer but one, a frame for every two, and how many frames of the mixture it lacks at either end."""
        x, cropped, step = levels[-1], 0, 2**self.config.depth
        for level, convolution in enumerate(cast(Iterable[Convolution], self.up)):
            # Up: put a frame and a band between every two by a transposed convolution.
            step //= 2
            x, cropped = self.upsample(x, convolution, step, cropped, levels[-2 - level])
            x = self.activate(x, f"up{level}", step, cropped, context)
            # Lay the encoder's middle of the same level beside.
            x = beside(x, crop(levels[-2 - level], cropped // step))
        return x, cropped

    def upsample(
        self, x: Features, convolution: Convolution, step: int, cropped: int, above: Features
    ) -> tuple[Features, int]:
        """A frame for every `step` STFT frames, and the bands of `above`; frames that no output needs are cropped.

        At either end x lacks `cropped` STFT frames, and the result as many as come with it.
        """
        half = convolution.taps[0] // 2
        needed = self.overlap + half * (2 * step - 1)
        spare = max(self.margin - cropped - needed, 0) // (2 * step)
        x, cropped = crop(x, spare), cropped + 2 * step * spare
        frames = above.shape[2] - 2 * (cropped // step)
        # 2 n - 1 frames from n, or one more, after the last one, where the level above has an even number.
        more = frames - (2 * x.shape[2] - 1), above.shape[3] - (2 * x.shape[3] - 1)
        kernel = rearrange(convolution.kernel, "e d n k -> d e n k")
        x = F.conv_transpose2d(x, kernel, convolution.bias, stride=2, padding=half, output_padding=more)
        return x, cropped

    def activate(self, x: Features, name: str, step: int, cropped: int, context: Context | None) -> Features:
        """The condition of a layer, where its site has it, and the non-linearity; bands get their frame's context."""
        if context is not None and name in self.conditions:
            hop = self.config.hop_length
            grid = Layer(hop // 2 + cropped * hop, step * hop, x.shape[2])
            rows = rearrange(x, "(b r) d n k -> b r n k d", b=len(context.values))
            x = rearrange(self.conditions[name](rows, context, grid), "b q n k d -> (b q) d n k")
        return F.leaky_relu(x, LEAK)


def crop(x: Num[Tensor, "*b n k"], frames: int) -> Num[Tensor, "*b m k"]:
    """Without the first and the last `frames` frames."""
    return x[..., frames : x.shape[-2] - frames, :]


def beside(x: Features, skip: Features) -> Features:
    """Two layers as channels of one; one that is not conditioned is the same for all queries."""
    return torch.cat([x, skip.repeat_interleave(len(x) // len(skip), 0)], dim=1)
