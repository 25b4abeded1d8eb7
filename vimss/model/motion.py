"""Convolutions over the motion of a player: from a grid of energies per picture to a vector that knows its neighbours.

    stack = motion_stack(64)                    # Conv1d layers over "n d v"; loses REACH pictures at either end
    encoder = MotionEncoder()
    encoder(motion)                             # "n v d" to "n v e", one vector per picture

The objective `alignment` trains such a stack, and the context `motion` may start from it: both call it `of_motion`.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDTH = 64
"""Channels of the convolutions."""

KERNELS = (1, 5, 5, 5)
"""Pictures."""

SIZE = 32
"""Numbers per vector."""

REACH = sum(kernel // 2 for kernel in KERNELS)
"""Pictures on either side that a vector depends on."""

STILL = 1e-2
"""Added to the deviation by which an input is divided: of silence and of stillness it is 0."""

STILL_VECTORS = 1e-4
"""The same for the vectors, whose deviation is 0.02 with new weights."""


def motion_stack(channels: int) -> nn.Sequential:
    """Convolutions over time without padding, and ReLU between them."""
    layers: list[nn.Module] = []
    for number, kernel in enumerate(KERNELS):
        last = number == len(KERNELS) - 1
        layers += [nn.Conv1d(WIDTH if number else channels, SIZE if last else WIDTH, kernel)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)


def standardised(rows: Float[Tensor, "n d v"], still: float = STILL) -> Float[Tensor, "n d v"]:
    """Each row without its mean, and all divided by their deviation, to which `still` is added."""
    rows = rows - rows.mean(2, keepdim=True)
    return rows / (rows.square().mean((1, 2), keepdim=True).sqrt() + still)


class MotionEncoder(nn.Sequential):
    """A stack of convolutions with one vector per picture: beyond either end the last picture is repeated."""

    def __init__(self, channels: int) -> None:
        super().__init__(*motion_stack(channels))

    def forward(self, motion: Float[Tensor, "n v d"]) -> Float[Tensor, "n v e"]:
        """Vectors of motion, both standardised over the whole recording, or over a window in training.

        So does the objective `alignment`, up to the scale of the vectors, which is here the same from the start. A
        player who does not move has zeros.
        """
        rows = F.pad(standardised(motion.transpose(1, 2)), (REACH, REACH), mode="replicate")
        for layer in self:
            rows = layer(rows)
        return standardised(rows, STILL_VECTORS).transpose(1, 2)
