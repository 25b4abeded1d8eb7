"""The forward pass of the Wave-U-Net as it is computed: the outputs and gradients of network.py, in half the time.

    fast.forward(network, mixture, context)    # what network.plain(mixture, context) gives, but for rounding

How it is computed differs from the plain form in four ways:

- Decimation keeps even samples, so the encoder's convolutions run at stride 2. The odd samples are computed where the
  decoder's skip connection crops to, and nowhere else (facts of a layer at 12 levels: a third of the multiplications).
- Interpolation and the decoder's convolution are one convolution that gives two samples at once.
- A convolution over concatenated channels is the sum of two convolutions: the skip's half does not depend on the
  query below an unconditioned encoder, so it runs once per mixture.
- Activations are time-major (see time_major.py).

Every sequence in the decoder has one sample more than it should, so that it holds whole pairs; the last one is
arbitrary, reaches no other sample and is cut off at the end.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from vimss.model.conditioning import Context
from vimss.model.convolution import LEAK, Convolution
from vimss.model.geometry import Layer
from vimss.model.networks.wave_u_net.config import layers as layers_of
from vimss.model.networks.wave_u_net.network import WaveUNet
from vimss.model.networks.wave_u_net.time_major import convolve, convolve_parts


def forward(network: WaveUNet, mixture: Float[Tensor, "b c t"], context: Context | None) -> Float[Tensor, "b s c u"]:
    """Estimate the outputs in the middle of the window; t must be a possible input window."""
    window = mixture.shape[-1] - network.config.geometry.context
    layers = layers_of(network.config, window)
    mixture = mixture * network.config.gain
    x = rearrange(mixture, "b c t -> b 1 t c")
    skips = []
    for level in range(network.config.levels):
        x, skip = _encode(network, x, level, layers, context)
        skips.append(skip)
    if network.config.padding == "same":
        half = network.config.down_kernel // 2
        x = F.pad(x, (0, 0, half, half))
    x = _convolve(network, x, "bottleneck", layers["bottleneck"], context)
    if network.config.padding == "valid":
        x = F.pad(x, (0, 0, 0, 1))
    for level in range(network.config.levels):
        x = _decode(network, x, skips.pop(), level, layers[f"up{level}"], context)
    out = _head(network, x[:, :, :window], mixture, layers[f"up{network.config.levels - 1}"], context)
    return out / network.config.gain


def _encode(
    network: WaveUNet, x: Float[Tensor, "b s t d"], level: int, layers: dict[str, Layer], context: Context | None
) -> tuple[Float[Tensor, "b q u e"], Float[Tensor, "b q v e"]]:
    """One level down: its even samples, and all samples within the decoder's crop (and one more)."""
    name = f"down{level}"
    layer, wanted = layers[name], layers[f"up{network.config.levels - 1 - level}"]
    taps, margin = network.config.down_kernel, network.config.up_kernel // 2
    if network.config.padding == "same":
        x, crop, pairs = F.pad(x, (0, 0, taps // 2, taps // 2)), 0, layer.samples // 2
    else:
        crop = (wanted.first - layer.first) // layer.stride - margin
        pairs = (wanted.samples + 2 * margin + 1) // 2
    first_odd = crop + 1 - crop % 2
    last = first_odd + 2 * (pairs - 1) + taps
    if last > x.shape[2]:  # the sample beyond the crop may lie beyond the input
        x = F.pad(x, (0, 0, 0, last - x.shape[2]))
    convolution = _layer(network, name)
    conditioned = context is not None and name in network.conditions
    parts = [(0, x.shape[2]), (first_odd, last)]
    outs = convolve_parts(x.flatten(0, 1), convolution.kernel, convolution.bias, parts, stride=2, leaky=not conditioned)
    even, odd = (out.unflatten(0, x.shape[:2]) for out in outs)
    if conditioned:
        even = _activate(network, even, name, layer.every_second(0), context)
        odd = _activate(network, odd, name, layer.every_second(first_odd), context)
    return _Interleave.apply(even, odd, crop)


def _decode(
    network: WaveUNet,
    x: Float[Tensor, "b s t d"],
    skip: Float[Tensor, "b r u e"],
    level: int,
    layer: Layer,
    context: Context | None,
) -> Float[Tensor, "b q v e"]:
    """One level up: interpolate, concatenate, convolve."""
    convolution = _layer(network, f"up{level}")
    above, beside = convolution.kernel.split([x.shape[-1], skip.shape[-1]], dim=1)
    blend = torch.sigmoid(network.blend[level]) if network.config.upsampling == "learned" else None
    if network.config.padding == "valid":
        upper = _pairs(_per_query(x, polyphase(above, blend)))
    else:
        half = network.config.up_kernel // 2
        upper = _per_query(F.pad(double(x, blend), (0, 0, half, half)), above)
        skip = F.pad(skip, (0, 0, half, half))
    # In place: there are as many rows as queries above, and one or as many beside.
    upper.add_(_per_query(skip, beside, convolution.bias))
    return _activate(network, upper, f"up{level}", layer, context)


def _convolve(
    network: WaveUNet, x: Float[Tensor, "b s t d"], name: str, layer: Layer, context: Context | None
) -> Float[Tensor, "b q u e"]:
    """A convolution, its condition if it has one, and its non-linearity."""
    convolution = _layer(network, name)
    conditioned = context is not None and name in network.conditions
    out = _per_query(x, convolution.kernel, convolution.bias, leaky=not conditioned)
    return _activate(network, out, name, layer, context) if conditioned else out


def _activate(
    network: WaveUNet, x: Float[Tensor, "b s t d"], name: str, layer: Layer, context: Context | None
) -> Float[Tensor, "b q t d"]:
    """The condition of a layer, if it has one, and the non-linearity; `x` is lost."""
    if context is not None and name in network.conditions:
        x = network.conditions[name](x, context, layer)
    # In place: what was just computed is of no other use, and no operation before keeps it for its gradient.
    return F.leaky_relu_(x, LEAK)


def _layer(network: WaveUNet, name: str) -> Convolution:
    """The convolution of the layer `down3`, `bottleneck` or `up0`."""
    if name == "bottleneck":
        return network.bottleneck
    layers = network.down if name.startswith("down") else network.up
    return cast(Convolution, layers[int(name.lstrip("downup"))])


def _head(
    network: WaveUNet,
    x: Float[Tensor, "b s u d"],
    mixture: Float[Tensor, "b c t"],
    layer: Layer,
    context: Context | None,
) -> Float[Tensor, "b k c u"]:
    """Concatenate the input, the last layer, its non-linearity."""
    middle = mixture[..., layer.first : layer.first + x.shape[2]]
    beside = rearrange(middle, "b c u -> b 1 u c")
    if network.config.site == "output":
        x = _activate(network, _pointwise(x, beside, network.hidden), "output", layer, context)
    x = _pointwise(x, beside, network.head)
    if network.config.output_activation == "tanh":
        # The bound is full scale before and after the gain, which is divided out below.
        x = network.config.gain * torch.tanh(x / network.config.gain)
    out = rearrange(x, "b q u (s c) -> b (q s) c u", c=network.config.channels)
    if network.config.output_type == "difference":
        out = torch.cat([out, middle.unsqueeze(1) - out.sum(1, keepdim=True)], dim=1)
    return out


class _Interleave(torch.autograd.Function):
    """The even samples of a layer as they are, and all samples from `crop` on, as far as there are odd ones.

    The plain operations would add gradients that are mostly zeros.
    """

    @staticmethod
    def forward(ctx: Any, even: Tensor, odd: Tensor, crop: int) -> tuple[Tensor, Tensor]:
        pairs, ctx.first, ctx.phase = odd.shape[2], (crop + 1) // 2, crop % 2
        kept = even[:, :, ctx.first : ctx.first + pairs]
        ctx.kept = kept.shape[2]
        if ctx.kept < pairs:  # the sample beyond the crop may lie beyond the input
            kept = F.pad(kept, (0, 0, 0, pairs - ctx.kept))
        phases = (odd, kept) if ctx.phase else (kept, odd)
        return even.view_as(even), torch.stack(phases, dim=3).flatten(2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_even: Tensor, for_skip: Tensor) -> tuple[Tensor, Tensor, None]:
        phases = for_skip.unflatten(2, (-1, 2))
        # In place: it was computed by the convolution below, for nobody else.
        for_even[:, :, ctx.first : ctx.first + ctx.kept] += phases[:, :, : ctx.kept, ctx.phase]
        return for_even, phases[:, :, :, 1 - ctx.phase], None


def polyphase(
    kernel: Float[Tensor, "e d k"], blend: Float[Tensor, " d"] | None = None
) -> Float[Tensor, "2*e d (k+3)//2"]:
    """The kernel that does interpolation by two and then convolution with `kernel`, two samples at a time.

    Interpolated sample 2j is x_j, sample 2j+1 is w x_j + (1 - w) x_{j+1}, with w = 1/2 or the channel's `blend`.
    Its first e outputs are the even samples, the others the odd ones.
    """
    # Tap i of the outputs of phase s meets x_{j+i} through interpolated samples 2i - s - 1, 2i - s and 2i - s + 1.
    tap = torch.arange(kernel.shape[-1], device=kernel.device)[:, None, None]
    phase = torch.arange(2, device=kernel.device)[:, None]
    here = 2 * torch.arange((kernel.shape[-1] + 3) // 2, device=kernel.device) - phase
    before, after = ((tap == here - 1).flatten(1).to(kernel.dtype), (tap == here + 1).flatten(1).to(kernel.dtype))
    constant = (tap == here).flatten(1) + before
    if blend is None:
        phases = kernel @ (constant + 0.5 * (after - before))
    else:
        phases = kernel @ constant + blend[:, None] * (kernel @ (after - before))
    return rearrange(phases, "e d (s i) -> (s e) d i", s=2)


def double(x: Float[Tensor, "b s t d"], blend: Float[Tensor, " d"] | None = None) -> Float[Tensor, "b s 2*t d"]:
    """Interpolation by two where zeros pad the borders; the sample after the last one repeats it."""
    following = torch.cat([x[:, :, 1:], x[:, :, -1:]], dim=2)
    weight = 0.5 if blend is None else blend
    return torch.stack([x, weight * x + (1 - weight) * following], dim=3).flatten(2, 3)


def _per_query(
    x: Float[Tensor, "b s t d"],
    kernel: Float[Tensor, "e d k"],
    bias: Float[Tensor, " e"] | None = None,
    leaky: bool = False,
) -> Float[Tensor, "b s u e"]:
    """The same convolution for every query."""
    out = convolve(x.flatten(0, 1), kernel, bias, leaky=leaky)
    return out.reshape(x.shape[0], x.shape[1], *out.shape[1:])


def _pairs(x: Float[Tensor, "b s t d"]) -> Float[Tensor, "b s 2*t d//2"]:
    """Rows of pairs as twice as many rows."""
    return x.reshape(x.shape[0], x.shape[1], 2 * x.shape[2], -1)


def _pointwise(
    x: Float[Tensor, "b s u d"], beside: Float[Tensor, "b 1 u c"], convolution: Convolution
) -> Float[Tensor, "b s u e"]:
    """A convolution with one tap over the channels of both."""
    weight, width = convolution.weight, x.shape[-1]
    return F.linear(x, weight[:, :width]) + F.linear(beside, weight[:, width:], convolution.bias)
