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
    """Weights of one convolution, initialised after He et al. (2015) for LeakyReLU.

    They are kept as a matrix [e d*k], since optimisers that look at singular values (Muon) take matrices alone.
    """

    def __init__(self, inputs: int, outputs: int, taps: int) -> None:
        super().__init__()
        self.taps = taps
        self.weight = nn.Parameter(torch.empty(outputs, inputs * taps))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_normal_(self.weight, a=LEAK)

    @property
    def kernel(self) -> Float[Tensor, "e d k"]:
        """The matrix as a kernel; a view."""
        return self.weight.unflatten(1, (-1, self.taps))


def convolve(
    signal: Float[Tensor, "n t d"],
    kernel: Float[Tensor, "e d k"],
    bias: Float[Tensor, " e"] | None = None,
    stride: int = 1,
    leaky: bool = False,
) -> Float[Tensor, "n u e"]:
    """Valid correlation along time, with u = (t - k) // stride + 1; `leaky` puts a LeakyReLU behind it."""
    if signal.shape[2] <= 2:
        # Of one or two channels, convolution kernels make a mess of the layout; a copy of the windows is small.
        out = F.linear(signal.unfold(1, kernel.shape[2], stride).flatten(2), kernel.flatten(1), bias)
        return F.leaky_relu_(out, LEAK) if leaky else out
    own_gradient = (
        torch.is_grad_enabled()
        and kernel.requires_grad
        and signal.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )
    image = signal.transpose(1, 2).unsqueeze(2)  # of height 1, in channels_last layout, without a copy
    if own_gradient:
        out = _Convolve.apply(image, kernel, bias, stride, leaky)
    else:
        out = F.conv2d(image, kernel.unsqueeze(2), bias, stride=(1, stride))
        out = F.leaky_relu_(out, LEAK) if leaky else out
    return out.squeeze(2).transpose(1, 2)


class _Convolve(torch.autograd.Function):
    """Convolution of an image of height 1, whose weight gradient is made of matrix products."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, kernel: Tensor, bias: Tensor | None, stride: int, leaky: bool) -> Tensor:
        out = F.conv2d(image, kernel.unsqueeze(2), bias, stride=(1, stride))
        if leaky:
            F.leaky_relu_(out, LEAK)
        # The sign of the output is the sign of what went into the LeakyReLU: nothing else needs to be kept.
        ctx.save_for_backward(image, kernel, out if leaky else None)
        ctx.stride = stride
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        image, kernel, out = ctx.saved_tensors
        if out is not None:
            gradient = torch.ops.aten.leaky_relu_backward(gradient, out, LEAK, True)
        for_image = for_kernel = for_bias = None
        if ctx.needs_input_grad[0]:
            for_image = torch.ops.aten.convolution_backward(
                gradient, image, kernel.unsqueeze(2), None, (1, ctx.stride), (0, 0), (1, 1), False, (0, 0), 1,
                (True, False, False),
            )[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            signal, signal_out = image.squeeze(2).transpose(1, 2), gradient.squeeze(2).transpose(1, 2)
            for_kernel = _kernel_gradient(signal, signal_out, kernel.shape[-1], ctx.stride)
        if ctx.needs_input_grad[2]:
            for_bias = gradient.sum((0, 2, 3))
        return for_image, for_kernel, for_bias, None, None


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
    if (
        signal.stride(2) != 1
        or signal.stride(1) != width
        or signal.stride(0) % row
        or signal.stride(0) < samples * width
    ):
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
