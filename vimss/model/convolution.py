"""The weights of a convolution, in one or two dimensions; how it is computed is the network's business.

convolution = Convolution(inputs=24, outputs=48, taps=15)
F.conv1d(signal, convolution.kernel, convolution.bias)
F.conv2d(image, Convolution(1, 16, (5, 5)).kernel)
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

LEAK = 0.2
"""Slope of the LeakyReLU for negative values, as in the reference implementation of the Wave-U-Net."""


class Convolution(nn.Module):
    """Weights of one convolution, initialised after He et al. (2015) for LeakyReLU.

    They are kept as a matrix [e d*k], since optimisers that look at singular values (Muon) take matrices alone.
    """

    def __init__(self, inputs: int, outputs: int, taps: int | tuple[int, ...]) -> None:
        """`taps` of each dimension that the kernel moves along."""
        super().__init__()
        self.taps = (taps,) if isinstance(taps, int) else taps
        self.weight = nn.Parameter(torch.empty(outputs, inputs * math.prod(self.taps)))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_normal_(self.weight, a=LEAK)

    @property
    def kernel(self) -> Float[Tensor, "e d *k"]:
        """The matrix as a kernel; a view."""
        return self.weight.unflatten(1, (-1, *self.taps))
