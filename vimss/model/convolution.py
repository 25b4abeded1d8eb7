"""Convolution of time-major signals: [n t d], a row per sample.

Time-major because then a sequence twice as long is a sequence of pairs, which a view turns into one another: the
polyphase forms of the network need no interleaving copies. It is the memory layout of channels_last too, which
tensor cores want, and which oneDNN's forward pass and input gradient run near the rate of a matrix product in.
Its weight gradient does not (20 to 40 of 85 GFLOP/s), so on a CPU that one is a few matrix products.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAK = 0.2
"""Slope of the LeakyReLU for negative values, as in the reference implementation of the paper."""


class Convolution(nn.Module):
    """Weights of one convolution: `kernel` [e d k] and `bias` [e], initialised after He et al. (2015) for LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, taps: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(outputs, inputs, taps))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_normal_(self.kernel, a=LEAK)


def convolve(
    signal: Float[Tensor, "n t d"], kernel: Float[Tensor, "e d k"], bias: Float[Tensor, " e"] | None = None, stride: int = 1
) -> Float[Tensor, "n u e"]:
    """Valid correlation along time, with u = (t - k) // stride + 1."""
    if signal.shape[2] <= 2:
        # Of one or two channels, convolution kernels make a mess of the layout; a copy of the windows is small.
        return F.linear(signal.unfold(1, kernel.shape[2], stride).flatten(2), kernel.flatten(1), bias)
    own_gradient = (
        torch.is_grad_enabled()
        and kernel.requires_grad
        and signal.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )
    if own_gradient:
        return _Convolve.apply(signal, kernel, bias, stride)
    return _forward(signal, kernel, bias, stride)


def _forward(signal: Tensor, kernel: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    return _signal(F.conv2d(_image(signal), kernel.unsqueeze(2), bias, stride=(1, stride)))


def _image(signal: Tensor) -> Tensor:
    """[n t d] as a picture of height 1 in channels_last layout, without a copy."""
    return signal.transpose(1, 2).unsqueeze(2)


def _signal(image: Tensor) -> Tensor:
    return image.squeeze(2).transpose(1, 2)


class _Convolve(torch.autograd.Function):
    """Convolution whose weight gradient is made of matrix products."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, kernel: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(signal, kernel)
        ctx.stride = stride
        return _forward(signal, kernel, bias, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        signal, kernel = ctx.saved_tensors
        for_signal = for_kernel = for_bias = None
        if ctx.needs_input_grad[0]:
            for_signal = _signal(
                torch.ops.aten.convolution_backward(
                    _image(gradient), _image(signal), kernel.unsqueeze(2), None, (1, ctx.stride), (0, 0), (1, 1), False,
                    (0, 0), 1, (True, False, False),
                )[0]
            )  # fmt: skip
        if ctx.needs_input_grad[1]:
            for_kernel = _kernel_gradient(signal, gradient, kernel.shape[-1], ctx.stride)
        if ctx.needs_input_grad[2]:
            for_bias = gradient.sum((0, 1))
        return for_signal, for_kernel, for_bias, None


def _kernel_gradient(
    signal: Float[Tensor, "n t d"], gradient: Float[Tensor, "n u e"], taps: int, stride: int
) -> Float[Tensor, "e d {taps}"]:
    """The sum over u of the window that made output u, times that output's gradient.

    Windows overlap, and matrices may not; but every m-th window, m = ceil(taps / stride), is clear of the next,
    so m matrix products of views do, with no copy of windows. All examples lie in one sequence: the windows across
    their borders meet zeros in the gradient.
    """
    count, samples, width = signal.shape
    row = stride * width
    if signal.stride(2) != 1 or signal.stride(1) != width or signal.stride(0) % row or signal.stride(0) < samples * width:
        signal = F.pad(signal, (0, 0, 0, -samples % stride)).contiguous()
    rows = signal.stride(0) // row  # of the gradient, per example
    if rows != gradient.shape[1] or not gradient.is_contiguous():
        padded = gradient.new_zeros(count, rows, gradient.shape[2])
        padded[:, : gradient.shape[1]] = gradient
        gradient = padded
    gradient = gradient.view(count * rows, -1)
    windows = ((count - 1) * rows * stride + samples - taps) // stride + 1
    apart = -(-taps // stride)
    total = signal.new_zeros(taps * width, gradient.shape[1])
    for first in range(min(apart, windows)):
        here = (windows - first - 1) // apart + 1
        inputs = signal.as_strided((here, taps * width), (apart * row, 1), signal.storage_offset() + first * row)
        total.addmm_(inputs.t(), gradient[first:windows:apart])
    return total.view(taps, width, -1).permute(2, 1, 0)
