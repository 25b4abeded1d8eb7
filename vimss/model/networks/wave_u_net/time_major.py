"""Convolution of time-major signals: [n t d], a row per sample.

Time-major because then a sequence twice as long is a sequence of pairs, which a view turns into one another: the
polyphase forms of the network need no interleaving copies. It is the memory layout of channels_last too, which
tensor cores want, and which oneDNN's forward pass and input gradient run near the rate of a matrix product in.
Its weight gradient does not (20 to 40 of 85 GFLOP/s), so on a CPU that one is a few matrix products.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from vimss.model.convolution import LEAK


def convolve(
    signal: Float[Tensor, "n t d"],
    kernel: Float[Tensor, "e d k"],
    bias: Float[Tensor, " e"] | None = None,
    stride: int = 1,
    leaky: bool = False,
) -> Float[Tensor, "n u e"]:
    """Valid correlation along time, with u = (t - k) // stride + 1; `leaky` puts a LeakyReLU behind it."""
    return convolve_parts(signal, kernel, bias, [(0, signal.shape[1])], stride, leaky)[0]


def convolve_parts(
    signal: Float[Tensor, "n t d"],
    kernel: Float[Tensor, "e d k"],
    bias: Float[Tensor, " e"] | None,
    parts: Sequence[tuple[int, int]],
    stride: int = 1,
    leaky: bool = False,
) -> tuple[Float[Tensor, "n _ e"], ...]:
    """`convolve` of the whole signal, the first of `parts` (start, stop), and of stretches of it.

    Together, because gradients of stretches would each be padded with zeros to the whole, and weights brought into
    order for each: that was a sixth of a training step.
    """
    if signal.shape[2] <= 2:
        # Of one or two channels, convolution kernels make a mess of the layout; a copy of the windows is small.
        windows = [signal[:, start:stop].unfold(1, kernel.shape[2], stride).flatten(2) for start, stop in parts]
        outs = tuple(F.linear(window, kernel.flatten(1), bias) for window in windows)
        return tuple(F.leaky_relu_(out, LEAK) for out in outs) if leaky else outs
    own_gradient = (
        torch.is_grad_enabled()
        and kernel.requires_grad
        and signal.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )
    image = signal.transpose(1, 2).unsqueeze(2)  # of height 1, in channels_last layout, without a copy
    if own_gradient:
        outs = _Convolve.apply(image, kernel, bias, parts, stride, leaky)
    else:
        outs = _forward(image, kernel.unsqueeze(2), bias, parts, stride, leaky)
    return tuple(out.squeeze(2).transpose(1, 2) for out in outs)


def _forward(
    image: Tensor, weight: Tensor, bias: Tensor | None, parts: Sequence[tuple[int, int]], stride: int, leaky: bool
) -> tuple[Tensor, ...]:
    outs = tuple(F.conv2d(image[..., start:stop], weight, bias, stride=(1, stride)) for start, stop in parts)
    return tuple(F.leaky_relu_(out, LEAK) for out in outs) if leaky else outs


class _Convolve(torch.autograd.Function):
    """Convolution of an image of height 1, whose weight gradient is made of matrix products."""

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        kernel: Tensor,
        bias: Tensor | None,
        parts: Sequence[tuple[int, int]],
        stride: int,
        leaky: bool,
    ) -> tuple[Tensor, ...]:
        # The layout that every call below wants, made once.
        weight = kernel.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        outs = _forward(image, weight, bias, parts, stride, leaky)
        # The sign of the output is the sign of what went into the LeakyReLU: nothing else needs to be kept.
        ctx.save_for_backward(image, weight, *(outs if leaky else ()))
        ctx.parts, ctx.stride = parts, stride
        return outs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        image, weight, *outs = ctx.saved_tensors
        if outs:
            gradients = tuple(
                torch.ops.aten.leaky_relu_backward(gradient, out, LEAK, True)
                for gradient, out in zip(gradients, outs, strict=True)
            )
        for_image = for_kernel = for_bias = None
        if ctx.needs_input_grad[0]:
            for_image = _image_gradient(gradients[0], image, weight, ctx.stride)
            for gradient, (start, stop) in zip(gradients[1:], ctx.parts[1:], strict=True):
                for_image[..., start:stop] += _image_gradient(gradient, image[..., start:stop], weight, ctx.stride)
        if ctx.needs_input_grad[1]:
            signal = image.squeeze(2).transpose(1, 2)
            pairs = [
                (signal[:, start:stop], gradient.squeeze(2).transpose(1, 2))
                for gradient, (start, stop) in zip(gradients, ctx.parts, strict=True)
            ]
            for_kernel = _kernel_gradient(pairs, weight.shape[-1], ctx.stride)
        if ctx.needs_input_grad[2]:
            for_bias = torch.stack([gradient.sum((0, 2, 3)) for gradient in gradients]).sum(0)
        return for_image, for_kernel, for_bias, None, None, None


def _image_gradient(gradient: Tensor, image: Tensor, weight: Tensor, stride: int) -> Tensor:
    return torch.ops.aten.convolution_backward(
        gradient, image, weight, None, (1, stride), (0, 0), (1, 1), False, (0, 0), 1, (True, False, False)
    )[0]


def _kernel_gradient(pairs: Sequence[tuple[Tensor, Tensor]], taps: int, stride: int) -> Float[Tensor, "e d k"]:
    """The sum over u of the window of a signal [n t d] that made output u, times that output's gradient [n u e]."""
    signal, gradient = pairs[0]
    outputs, width = gradient.shape[2], signal.shape[2]
    if sum(gradient.shape[0] * gradient.shape[1] for _, gradient in pairs) <= outputs:
        # Fewer windows than outputs: a copy of them is smaller than the result.
        few = [
            gradient.flatten(0, 1).t() @ signal.unfold(1, taps, stride).flatten(2).flatten(0, 1)
            for signal, gradient in pairs
        ]
        return sum(few[1:], few[0]).view(outputs, width, taps)
    total = signal.new_empty(taps * width, outputs)
    begun = False
    for signal, gradient in pairs:
        for inputs, there in _products(signal, gradient, taps, stride):
            torch.addmm(total, inputs.t(), there, beta=int(begun), out=total)
            begun = True
    return total.view(taps, width, -1).permute(2, 1, 0)


def _products(signal: Tensor, gradient: Tensor, taps: int, stride: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Matrices of windows and of their outputs' gradients, whose products make up the sum.

    Windows overlap, and matrices may not; but every m-th window, m = ceil(taps / stride), is clear of the next,
    so m matrix products of views do, with no copy of windows. All examples lie in one sequence: the windows across
    their borders meet zeros in the gradient.
    """
    count, samples, width = signal.shape
    row = stride * width
    if signal.stride(2) != 1 or signal.stride(1) != width:
        signal = signal.contiguous()
    windows = gradient.shape[1]
    if count > 1:
        if signal.stride(0) % row or signal.stride(0) < samples * width:
            signal = F.pad(signal, (0, 0, 0, -samples % stride)).contiguous()
        rows = signal.stride(0) // row  # of the gradient, per example
        windows = ((count - 1) * rows * stride + samples - taps) // stride + 1
        if rows != gradient.shape[1]:
            padded = gradient.new_zeros(count, rows, gradient.shape[2])
            padded[:, : gradient.shape[1]] = gradient
            gradient = padded
    gradient = gradient.reshape(-1, gradient.shape[2])
    apart = -(-taps // stride)
    for first in range(min(apart, windows)):
        here = (windows - first - 1) // apart + 1
        inputs = signal.as_strided((here, taps * width), (apart * row, 1), signal.storage_offset() + first * row)
        yield inputs, gradient[first:windows:apart]
