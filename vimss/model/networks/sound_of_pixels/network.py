"""The Sound of Pixels: its weights, and its forward pass with a sentence per step.

    network = SoundOfPixelsConfig(site="output").build(outputs=1, context_size=13, context_scale=1.0)
    network(torch.zeros(1, 1, 12800), context)    # an output per query, of 4096 samples

After Zhao et al. (2018), "The sound of pixels": a U-Net makes K maps of the mixture's spectrogram; a vector of a
player, mapped to K values between 0 and 1, weighs them, and their sum is the mask of that player:

    mask = sigmoid(sum over k of weight_k value_k map_k + bias)

The vector may be a player's picture, or a label as one of several. Unlike theirs, the U-Net is that of
`networks.spectra.u_net`, and values are those of the time of a frame, interpolated between pictures, instead of the
largest over all pictures of an excerpt: a context acts at its own time. Their loss compares masks; here losses compare
waveforms.

Axis letters: b batch, q query, s output of a query, c audio channel, t audio sample of the window, u of the output,
n STFT frame, f frequency bin, k frequency band, m map, v frame of the context.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vimss.model.conditioning import Context, FrameGrid, at_samples
from vimss.model.convolution import Convolution
from vimss.model.geometry import Layer
from vimss.model.networks.sound_of_pixels.config import SoundOfPixelsConfig
from vimss.model.networks.spectra.u_net import SpectralUNet, crop


class SoundOfPixels(SpectralUNet):
    """A mixture and a context in, estimates in the middle of the window out."""

    config: SoundOfPixelsConfig

    def __init__(self, config: SoundOfPixelsConfig, outputs: int, context_size: int, context_scale: float) -> None:
        """`outputs` per query; `context_scale` is the usual length of a context vector."""
        super().__init__(config)
        self.head = Convolution(self.decoded, config.maps * config.channels, (config.kernel_size, config.kernel_size))
        if config.site == "output":
            self.query = nn.Linear(context_size, config.maps)
            # Values of new weights differ from query to query, and few of them are near 0 or 1.
            nn.init.normal_(self.query.weight, std=1 / context_scale)
            nn.init.zeros_(self.query.bias)
        # At the start every mask is close to a half.
        self.weight = nn.Parameter(torch.randn(outputs, config.maps) * config.maps**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, mixture: Float[Tensor, "b c t"], context: Context | None) -> Float[Tensor, "b s c u"]:
        """Estimate the outputs in the middle of the window; t must be a possible input window."""
        # The STFT, and the maps of its magnitudes: those of the frames that the output needs, whatever the queries.
        spectrum = self.stft(mixture)
        maps, cropped = self.maps_of(self.bands_of(spectrum))
        # The values of each query at each frame; without a context all are 1.
        frames = maps.shape[-2]
        values = maps.new_ones(len(mixture), 1, 1, self.config.maps)
        if context is not None and self.config.site == "output":
            hop = self.config.hop_length
            grid = Layer(hop // 2 + cropped * hop, hop, frames)
            values = self.values_of(context.values, context.frames, grid)
        # Their inner product with the maps is a mask, which weighs the spectrum of the mixture, phase and all.
        masks = self.bin_masks_of(maps, values).to(mixture.dtype)
        return self.sound_of(masks * crop(spectrum, cropped).unsqueeze(1), cropped)

    def maps_of(self, bands: Float[Tensor, "b c n k"]) -> tuple[Float[Tensor, "b m c _ k"], int]:
        """The maps of a spectrogram, and how many of its frames they lack at either end."""
        levels = self.encode(bands, None)
        x, cropped = self.decode(levels, None)
        x, cropped = self.upsample(x, self.head, 1, cropped, levels[0])
        return rearrange(x, "b (m c) n k -> b m c n k", c=self.config.channels), cropped

    def values_of(self, vectors: Float[Tensor, "b q v d"], frames: FrameGrid, grid: Layer) -> Float[Tensor, "b q _ m"]:
        """The weights of the maps for each vector: per frame of a grid, or constant where there is one vector."""
        # Mapping vectors before they are interpolated is the same as after, and they are few.
        return torch.sigmoid(at_samples(self.query(vectors), frames, grid, grid.samples))

    def bin_masks_of(
        self, maps: Float[Tensor, "b m c n k"], values: Float[Tensor, "b q _ m"]
    ) -> Float[Tensor, "b s c n f"]:
        """Masks of all queries on frequency bins; with `masks: binary`, 0 or 1 but for training."""
        masks = self.bins_of(self.masks_of(maps, values))
        return (masks > 0.5).to(masks.dtype) if self.config.masks == "binary" and not self.training else masks

    def masks_of(
        self, maps: Float[Tensor, "b m c n k"], values: Float[Tensor, "b q _ m"]
    ) -> Float[Tensor, "b s c n k"]:
        """Ratio masks of all queries."""
        weights = values.unsqueeze(2) * self.weight[:, None]
        weights = rearrange(weights, "b q s n m -> b n (q s) m")
        rows = rearrange(maps, "b m c n k -> b n m (c k)")
        products = rearrange(weights @ rows, "b n s (c k) -> b s c n k", c=self.config.channels)
        bias = self.bias.repeat(values.shape[1])
        return torch.sigmoid(products + bias[:, None, None, None])
