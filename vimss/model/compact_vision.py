"""A small vision network for drawn or filmed players, trained from scratch in minutes on one core.

    network = CompactNetwork()
    network(torch.zeros(2, 3, 80, 80))              # features [2 192]
    network.attend(torch.zeros(2, 3, 80, 80))[1]    # where it looks [2 10 10]

Each picture is first brought to mean 0 and deviation 1, so that brightness and contrast say nothing. One layer of 5x5
convolutions and four of 3x3 follow, each with group normalisation (Wu and He 2018): it needs no statistics of a batch,
so the network is trained as it is used, and no player's features depend on others' pictures. An instrument is a small
part of a picture, so the features are not averaged over the picture but weighted by where the network looks.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vimss.model.vision_config import VISION_FEATURES

WIDTHS = (24, 48, 96, 96, 96)
"""Channels after each layer."""

STRIDES = (2, 2, 2, 1, 1)

GROUPS = 8

FLAT = 1e-2
"""Added to the deviation of a picture, which may be of one colour."""


class CompactNetwork(nn.Module):
    """Pictures in, one feature vector of each out."""

    def __init__(self) -> None:
        super().__init__()
        sizes = zip((3, *WIDTHS), WIDTHS, STRIDES, strict=False)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, width, 3 if layer else 5, stride, 1 if layer else 2, bias=False)
            for layer, (before, width, stride) in enumerate(sizes)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for width in WIDTHS)
        self.where = nn.Conv2d(WIDTHS[-1], 1, 1)
        self.what = nn.Conv2d(WIDTHS[-1], VISION_FEATURES["compact"], 1)

    def forward(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """The features of where it looks."""
        return self.attend(pictures)[0]

    def attend(self, pictures: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k l"]]:
        """The features, and the weights of the places that they are averaged over."""
        x = self._convolved(pictures)
        where = self.where(x)[:, 0]
        weights = where.flatten(1).softmax(1).unflatten(1, where.shape[1:])
        return (F.relu(self.what(x)) * weights[:, None]).sum((2, 3)), weights

    def places(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d k l"]:
        """The features of each place of pictures, wherever the network would look; of any height and width."""
        return F.relu(self.what(self._convolved(pictures)))

    def _convolved(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n e k l"]:
        return self.levels(pictures)[-1]

    def levels(self, pictures: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        """The normalised pictures and the last layer of each size, from the finest to the coarsest."""
        mean, deviation = pictures.mean((1, 2, 3), keepdim=True), pictures.std((1, 2, 3), keepdim=True)
        # A layout that suits convolutions on CPUs.
        x = ((pictures - mean) / (deviation + FLAT)).contiguous(memory_format=torch.channels_last)
        found = [x]
        for convolution, norm, stride in zip(self.convolutions, self.norms, STRIDES, strict=True):
            x = F.relu(norm(convolution(x)))
            if stride == 1:
                found.pop()
            found.append(x)
        return found
