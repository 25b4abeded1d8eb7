"""Looking to Listen: its weights, and its forward pass with a sentence per step.

    network = LookingToListenConfig(site="bottleneck").build(outputs=1, context_size=64, context_scale=8.0)
    network(torch.zeros(1, 1, 18432), context)    # an output per query, of 16384 samples

After Ephrat et al. (2018), "Looking to listen at the cocktail party": dilated convolutions over the spectrum of the
mixture, whose magnitudes are compressed, and over a stream of vectors of one player; both side by side in time, through
a recurrent layer in both directions and three fully connected ones, to a complex ratio mask.

Of each query the network sees its own player alone, as theirs for one visible speaker. Unlike theirs it has group norm
instead of batch norm, since an example's estimates must not depend on others of the batch; the player's vectors are
mapped to the width of the stream, interpolated at the times of the STFT frames, and convolved at their rate; and the
mask weighs the spectrum itself, not its compressed magnitudes. Their loss is the squared error of compressed spectra;
here losses compare waveforms. A re-implementation takes 0.1 of the squared error to each other speaker away, which is
`training: {loss: mse, dissimilarity_weight: 0.1}`.

Axis letters: b batch, q query, k segment, s output of a query, c audio channel, t audio sample of the window, u of the
output, n STFT frame, f frequency bin, v frame of the context, d feature.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Complex, Float
from torch import Tensor, nn

from vimss.model.conditioning import Context, at_samples
from vimss.model.geometry import Layer
from vimss.model.networks.looking_to_listen.config import LookingToListenConfig
from vimss.model.networks.spectra.transform import Stft

POWER = 0.3
"""Magnitudes are raised to it before the network sees them, so that quiet partials are heard beside loud ones."""

LIMIT, STEEPNESS = 10.0, 0.1
"""K and C of the compression of complex ratio masks (Williamson, Wang and Wang, 2016). See `decompressed`."""

MOST = 0.99
"""Share of LIMIT at which the numbers of the last layer are clamped: a mask of 53."""

HALF = 0.25
"""Compressed, a mask of a half: what the last layer gives at the start."""

SMALLEST = 1e-8
"""Smallest magnitude that is divided by."""

VISUAL_KERNELS = (7, 5, 5, 5, 5, 5)
VISUAL_DILATIONS = (1, 1, 2, 4, 8, 16)
"""Of the convolutions on a player's stream, in frames."""


def compressed(spectrum: Complex[Tensor, "*b"]) -> Complex[Tensor, "*b"]:
    """The same phases, with magnitudes to the power of 0.3; of silence, silence."""
    return spectrum * spectrum.abs().clamp(min=SMALLEST) ** (POWER - 1)


def decompressed(mask: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """A real or imaginary part M of a mask from its compressed value O = K (1 - exp(-C M)) / (1 + exp(-C M)).

    O = K tanh(C M / 2) lies between -K and K, and M = log((K + O) / (K - O)) / C: nearly 2 O / (C K) where O is small.
    """
    within = mask.clamp(-MOST * LIMIT, MOST * LIMIT)
    return torch.log((LIMIT + within) / (LIMIT - within)) / STEEPNESS


class SoundStream(nn.Module):
    """Compressed spectra in, as many features per frame as `size` out."""

    def __init__(self, config: LookingToListenConfig) -> None:
        super().__init__()
        width, taps = config.filters, config.kernel_size
        # Across frequencies, across frames, then in both with dilations that grow in time and then in both.
        kernels = [(1, 7), (7, 1), *[(taps, taps)] * (2 * config.dilations)]
        steps = [(2**level, 1) for level in range(config.dilations)]
        steps += [(2**level, 2**level) for level in range(config.dilations)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width if number else 2, width, kernel, padding="same", dilation=step)
            for number, (kernel, step) in enumerate(zip(kernels, [(1, 1), (1, 1), *steps], strict=True))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in kernels)
        self.last = nn.Conv2d(width, config.last_filters, 1)
        self.size = config.last_filters * (config.n_fft // 2 + 1)

    def forward(self, x: Float[Tensor, "n 2 j f"]) -> Float[Tensor, "n j d"]:
        """The features of each frame j."""
        # A layout that suits convolutions on CPUs: a training step takes three quarters of the time.
        x = x.contiguous(memory_format=torch.channels_last)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        return rearrange(F.relu(self.last(x)), "n d j f -> n j (d f)")


class PlayerStream(nn.Module):
    """Vectors of a player in, as many features per STFT frame as `visual_filters` out."""

    def __init__(self, config: LookingToListenConfig, context_size: int, context_scale: float) -> None:
        super().__init__()
        width = config.visual_filters
        self.first = nn.Linear(context_size, width)
        nn.init.normal_(self.first.weight, std=1 / context_scale)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, taps, padding="same", dilation=step)
            for taps, step in zip(VISUAL_KERNELS, VISUAL_DILATIONS, strict=True)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in VISUAL_KERNELS)

    def forward(self, context: Context, frames: Layer) -> Float[Tensor, "n j d"]:
        """The features of each frame of a segment, n = b q."""
        x = at_samples(self.first(context.values), context.frames, frames, frames.samples)
        x = rearrange(x.expand(-1, -1, frames.samples, -1), "b q j d -> (b q) d j")
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        return x.transpose(1, 2)


class LookingToListen(nn.Module):
    """A mixture and a context in, estimates in the middle of the window out; each audio channel by itself."""

    def __init__(self, config: LookingToListenConfig, outputs: int, context_size: int, context_scale: float) -> None:
        """`outputs` per query; `context_scale` is the usual length of a context vector."""
        super().__init__()
        self.config = config
        self.outputs = outputs
        self.stft = Stft(config.n_fft, config.hop_length)
        self.sound = SoundStream(config)
        size = self.sound.size
        if config.site == "bottleneck":
            self.player = PlayerStream(config, context_size, context_scale)
            size += config.visual_filters
        self.recurrent = nn.LSTM(size, config.lstm_size, batch_first=True, bidirectional=True)
        widths = (2 * config.lstm_size, *[config.hidden_size] * 3)
        self.hidden = nn.ModuleList(nn.Linear(before, width) for before, width in pairwise(widths))
        self.head = nn.Linear(config.hidden_size, outputs * 2 * (config.n_fft // 2 + 1))
        with torch.no_grad():
            # At the start every output is half of the mixture, in its phase.
            real, imaginary = self.head.bias.chunk(2)
            real.fill_(HALF)
            imaginary.zero_()

    def matrices(self) -> list[nn.Parameter]:
        """The weights of the recurrent and of the fully connected layers, from feature to feature."""
        layers = [self.recurrent, *self.hidden]
        return [weight for layer in layers for weight in layer.parameters() if weight.ndim == 2]

    def forward(self, mixture: Float[Tensor, "b c t"], context: Context | None) -> Float[Tensor, "b s c u"]:
        """Estimate the outputs in the middle of the window; t must be a possible input window."""
        config, (batch, channels, _) = self.config, mixture.shape
        # Cut the window into segments that overlap by their margins, each channel by itself.
        segments = mixture.unfold(-1, config.seen_samples, config.segment_samples)
        number = segments.shape[2]
        # The spectrum of each, compressed, as two layers of real numbers; what is heard is the same for all queries.
        spectrum = self.stft(rearrange(segments, "b c k t -> (b c k) t"))
        seen = compressed(spectrum)
        heard = self.sound(torch.stack([seen.real, seen.imag], dim=1))
        queries = 1
        if context is not None and config.site == "bottleneck":
            # Concatenate each player's stream over the segment, frame by frame.
            queries = context.values.shape[1]
            looks = torch.stack([self.player(context, self._frames(segment)) for segment in range(number)], dim=1)
            looks = repeat(looks, "(b q) k j d -> (b q c k) j d", b=batch, c=channels)
            heard = repeat(heard, "(b c k) j d -> (b q c k) j d", b=batch, c=channels, q=queries)
            heard = torch.cat([heard, looks], dim=-1)
        # All of an excerpt, in both directions, then frame by frame to a complex mask, which is decompressed.
        x = self.recurrent(heard)[0]
        for layer in self.hidden:
            x = F.relu(layer(x))
        x = decompressed(self.head(x).to(mixture.dtype))
        x = rearrange(x, "(b q c k) j (p s f) -> p b q s c k j f", p=2, q=queries, c=channels, k=number, s=self.outputs)
        # It weighs the spectrum of the mixture; without the margins, segments follow one another.
        spectrum = rearrange(spectrum, "(b c k) j f -> b 1 1 c k j f", b=batch, c=channels)
        estimates = self.stft.inverse(torch.complex(x[0], x[1]) * spectrum)
        estimates = estimates[..., config.margin_samples : config.margin_samples + config.segment_samples]
        return rearrange(estimates, "b q s c k u -> b (q s) c (k u)")

    def _frames(self, segment: int) -> Layer:
        """When the STFT frames of a segment are, in samples of the window."""
        hop = self.config.hop_length
        return Layer(segment * self.config.segment_samples + hop // 2, hop, self.config.seen_samples // hop)
