"""How a context changes a layer: one module per operation.

The input is the layer before its non-linearity, time-major, "b r t d": one row per sample, for one query (r = 1) or
for each of s queries (r = s). The output is "b s t d". A layer may have more dimensions between time and
channels, such as the frequencies of a spectrogram, "b r t f d": all of them get the context of their time. A context
is a sequence of vectors in time; a sample of the layer takes the linear interpolation of the two frames around its
own time. All weights exist after __init__, and a zero context adds nothing: an absent player leaves the layer as it
is (but for `attention`, whose null token is learned, and `concat`, whose mixing of channels is).

    film = OPERATIONS["film"](channels=24, context_size=13, spread=0.3)
    film(layer, Context(values, FrameGrid.spread(frames=1, samples=6649)), Layer(1274, 1, 4101))

A network makes all modules of its settings at once, by the name of the layer (none where the site is none):

    self.conditions = make_conditions(config, context_size, context_scale)
    if context is not None and "up3" in self.conditions:
        x = self.conditions["up3"](x, context, layer)
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vimss.model.config import ModelConfig, Op
from vimss.model.geometry import Layer

ATTENTION_SIZE = 16
"""Width of keys and queries: each audio sample attends to a few tokens of the context."""

SPREAD = 0.1
"""Standard deviation of what a context of unit length adds at the start: enough to distinguish queries. With 0.3, a
network with 13 outputs conditioned on labels learned no more than one without labels."""


class FrameGrid(NamedTuple):
    """When the frames of a context are: frame j at input sample `first + j * step`, both may be fractions."""

    first: float
    step: float

    @classmethod
    def spread(cls, frames: int, samples: int) -> "FrameGrid":
        """Frames spread evenly over a window: frame j in the middle of its share of the window."""
        step = samples / frames
        # Sample k lasts from k to k + 1, so the instant k + 0.5 is position k.
        return cls(0.5 * step - 0.5, step)


@dataclass(frozen=True)
class Context:
    """The vectors that the network is conditioned on."""

    values: Float[Tensor, "b s v d"]
    """v = 1: the same at every time."""
    frames: FrameGrid


class Between(NamedTuple):
    """The position of samples between frames."""

    before: Int64[Tensor, " t"]
    """Index of the frame at or before the sample."""
    after: Int64[Tensor, " t"]
    """Index of the frame after it."""
    part: Float[Tensor, " t"]
    """How far the sample is on the way from the one to the other, 0 to 1."""


def between(frames: FrameGrid, count: int, layer: Layer, samples: int, like: Tensor) -> Between:
    """Between which of `count` frames each of a layer's `samples` samples lies; beyond the ends the end frame holds."""
    # In double precision: positions of a recording of hours would lose fractions of a frame in single.
    # Apple's GPUs have no double precision.
    device = torch.device("cpu") if like.device.type == "mps" else like.device
    where = torch.arange(samples, device=device, dtype=torch.float64) * layer.stride + layer.first
    place = ((where - frames.first) / frames.step).clamp(0, count - 1)
    before = place.floor().clamp(max=max(count - 2, 0))
    part = (place - before).to(like.dtype)
    found = Between(before.long(), (before.long() + 1).clamp(max=count - 1), part)
    return Between(*(each.to(like.device) for each in found))


def at_samples(
    vectors: Float[Tensor, "b s v d"], frames: FrameGrid, layer: Layer, samples: int
) -> Float[Tensor, "b s t d"]:
    """Vectors of frames at each sample of a layer (t = samples), or as they are (t = 1) where there is one frame."""
    count = vectors.shape[2]
    if count == 1:
        return vectors
    before, after, part = between(frames, count, layer, samples, vectors)
    return torch.lerp(vectors.index_select(2, before), vectors.index_select(2, after), part[:, None])


def beside(values: Float[Tensor, "b s t e"], x: Float[Tensor, "b r _ *f d"]) -> Float[Tensor, "b s t ... e"]:
    """Vectors of samples as they meet a layer: the same for all that it has between time and channels."""
    return values.reshape(*values.shape[:3], *[1] * (x.ndim - 4), values.shape[3])


class _Projection(nn.Module):
    """A linear map of context vectors without bias: a zero context gives zero."""

    def __init__(self, context_size: int, outputs: int, spread: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, context_size))
        nn.init.normal_(self.weight, std=spread)

    def forward(self, context: Context, layer: Layer, x: Float[Tensor, "b r t *f d"]) -> Float[Tensor, "b s _ ... e"]:
        # Projecting frames before interpolating them is the same as after, and frames are few.
        projected = nn.functional.linear(context.values, self.weight)
        return beside(at_samples(projected, context.frames, layer, x.shape[2]), x)


class Add(nn.Module):
    """x + A c."""

    def __init__(self, channels: int, context_size: int, spread: float) -> None:
        super().__init__()
        self.shift = _Projection(context_size, channels, spread)

    def forward(self, x: Float[Tensor, "b r t *f d"], context: Context, layer: Layer) -> Float[Tensor, "b _ t *f d"]:
        """Shift each channel."""
        return x + self.shift(context, layer, x)


class Multiply(nn.Module):
    """(1 + A c) x: around 1, since a product of twelve random gains near 0 would silence the network."""

    def __init__(self, channels: int, context_size: int, spread: float) -> None:
        super().__init__()
        self.gain = _Projection(context_size, channels, spread)

    def forward(self, x: Float[Tensor, "b r t *f d"], context: Context, layer: Layer) -> Float[Tensor, "b _ t *f d"]:
        """Scale each channel."""
        return x * (1 + self.gain(context, layer, x))


class Film(nn.Module):
    """(1 + A c) x + B c: feature-wise linear modulation, Perez et al. (2018)."""

    def __init__(self, channels: int, context_size: int, spread: float) -> None:
        super().__init__()
        self.both = _Projection(context_size, 2 * channels, spread)

    def forward(self, x: Float[Tensor, "b r t *f d"], context: Context, layer: Layer) -> Float[Tensor, "b _ t *f d"]:
        """Scale and shift each channel."""
        gain, shift = self.both(context, layer, x).chunk(2, dim=-1)
        return torch.addcmul(shift, x, 1 + gain)


class Concat(nn.Module):
    """A convolution with one tap over the channels of x and of the context together.

    It is computed as the sum of its two halves, so that the half that sees the layer runs once for all queries.
    """

    def __init__(self, channels: int, context_size: int, spread: float) -> None:
        super().__init__()
        self.shift = _Projection(context_size, channels, spread)
        # From the identity: at random, one more linear layer per convolution would only scramble it.
        self.mixing = nn.Parameter(torch.eye(channels))

    def forward(self, x: Float[Tensor, "b r t *f d"], context: Context, layer: Layer) -> Float[Tensor, "b _ t *f d"]:
        """Mix the channels of layer and context."""
        return nn.functional.linear(x, self.mixing) + self.shift(context, layer, x)


class Attention(nn.Module):
    """x + what the sample's query finds in three tokens: the two frames around it, and a learned null token.

    Softmax attention (Vaswani et al., 2017) over the neighbours in time, each weighted by its nearness, so that the
    result is continuous in time, costs the same for any number of frames, and a part of a recording gets what the
    whole would give it.
    """

    def __init__(self, channels: int, context_size: int, spread: float) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(ATTENTION_SIZE, channels) * channels**-0.5)
        self.key = nn.Parameter(torch.randn(ATTENTION_SIZE, context_size) * spread)
        self.value = nn.Parameter(torch.randn(channels, context_size) * spread)
        self.null_key = nn.Parameter(torch.zeros(ATTENTION_SIZE))
        self.null_value = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b r t *f d"], context: Context, layer: Layer) -> Float[Tensor, "b _ t *f d"]:
        """Add what the samples attend to."""
        samples, count = x.shape[2], context.values.shape[2]
        query = nn.functional.linear(x, self.query) * ATTENTION_SIZE**-0.5
        # Scores relative to the null token's: its own is then 0.
        keys = nn.functional.linear(context.values, self.key) - self.null_key
        values = nn.functional.linear(context.values, self.value) - self.null_value
        if count == 1:
            score = (query * beside(keys, x)).sum(-1, keepdim=True)
            return x + self.null_value + torch.sigmoid(score) * beside(values, x)
        before, after, part = between(context.frames, count, layer, samples, x)
        scores = torch.stack([(query * beside(keys.index_select(2, side), x)).sum(-1) for side in (before, after)])
        # exp(score) may overflow; the largest of the scores and the null token's 0 is taken out first.
        largest = scores.amax(0).clamp(min=0)
        nearness = torch.stack([1 - part, part]).reshape(2, 1, 1, samples, *[1] * (x.ndim - 4))
        weights = nearness * torch.exp(scores - largest)
        weights = weights / (weights.sum(0) + torch.exp(-largest))
        found = sum(
            weight.unsqueeze(-1) * beside(values.index_select(2, side), x)
            for weight, side in zip(weights, (before, after), strict=True)
        )
        return x + self.null_value + found


Condition = Add | Multiply | Film | Concat | Attention

OPERATIONS: dict[Op, type[Condition]] = {
    "concat": Concat,
    "add": Add,
    "multiply": Multiply,
    "film": Film,
    "attention": Attention,
}
"""`op` of ModelConfig to the module that does it."""


def make_conditions(config: ModelConfig, context_size: int, context_scale: float) -> nn.ModuleDict:
    """The conditions of a network, by the names of the layers that its site means.

    `context_size` is the length of a context vector as an array, `context_scale` its usual length as a vector.
    """
    operation, layers = OPERATIONS[config.op], config.sites()[config.site]
    return nn.ModuleDict(
        {name: operation(channels, context_size, SPREAD / context_scale) for name, channels in layers.items()}
    )
