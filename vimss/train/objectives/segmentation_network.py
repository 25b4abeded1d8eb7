"""The network of `segmentation`: pictures of single players to what each pixel shows, and where the joints are.

    network = SegmentationNetwork(settings, labels=("vn", "vc"), sample_rate=8000)
    network(pictures)                                   # "n k h w": log-odds of CLASSES, then of the places of BODY
    network.predict({"frames": pictures})["player"]     # probabilities "b p v h w"

A U-Net (Ronneberger et al. 2015) whose encoder is the compact vision network, so that its weights go on in other
networks, and those that come with VIMSS may be its first ones. The decoder doubles the sides three times, and sees the
encoder's layer of each size, at last the picture itself. A joint is a map of the picture, whose softmax over all places
is trained to lie around the joint, as in human pose estimation (Tompson et al. 2014).
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from vimss.model.compact_vision import GROUPS, WIDTHS
from vimss.model.interface import Input
from vimss.model.vision import Vision
from vimss.shards.corpora.chamber.skeleton import JOINTS
from vimss.train.config import Settings

CLASSES = ("scene", "player", "instrument")
"""What a pixel shows: one of these."""

BODY = JOINTS[:8]
"""Joints that are found: head, neck, and of each arm shoulder, elbow and hand; fingers and bow are smaller than a
pixel's error."""

DECODER = (48, 24, 16)
"""Channels of the decoder's layers, from the coarse to the fine."""

AROUND = 3
"""Pixels to each side of a map's highest place over which the place of the joint is averaged."""


class SegmentationNetwork(nn.Module):
    """Pictures in, a map of each class and of each joint out."""

    def __init__(self, settings: Settings, labels: tuple[str, ...], sample_rate: int) -> None:
        """ModelError where weights of the vision network cannot be had."""
        super().__init__()
        self.settings = settings
        self.labels = labels
        self.sample_rate = sample_rate
        self.vision = Vision(settings.model.vision)
        for layer in (self.vision.network.where, self.vision.network.what):
            layer.requires_grad_(False)  # they come after the places
        # The encoder's layers of the sizes that the decoder comes to: half of the widths' changes, and the picture.
        skips, widths = (WIDTHS[1], WIDTHS[0], 3), (WIDTHS[-1], *DECODER)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before + skip, width, 3, padding=1, bias=False)
            for before, skip, width in zip(widths, skips, DECODER, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for width in DECODER)
        self.head = nn.Linear(DECODER[-1], len(CLASSES) + len(BODY))

    def forward(self, pictures: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n k h w"]:
        """Log-odds of CLASSES, one of which each pixel shows; then of the places of BODY, one of which each joint has.

        Both but for a constant: softmax over the classes, or over the places, makes them probabilities.
        """
        *skips, x = self.vision.levels(pictures)
        for convolution, norm, skip in zip(self.convolutions, self.norms, reversed(skips), strict=True):
            larger = F.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=False)
            x = F.relu(norm(convolution(torch.cat([larger, skip], dim=1))))
        return self.head(x.movedim(1, -1)).movedim(-1, 1)

    def matrices(self) -> list[nn.Parameter]:
        """That of the head."""
        return [weight for weight in self.head.parameters() if weight.ndim == 2]

    # What a registered model of it takes and gives

    def inputs(self) -> tuple[Input, ...]:
        """Pictures of players."""
        return (Input("frames", np.uint8, (-1, -1, -1, -1, -1, 3)),)

    def outputs(self) -> tuple[Input, ...]:
        """The probability of each pixel to show the player or the instrument; and x and y of each joint, 0 to 1."""
        masks = tuple(Input(name, np.float32, (-1, -1, -1, -1, -1)) for name in CLASSES[1:])
        return (*masks, Input("joints", np.float32, (-1, -1, -1, len(BODY), 2)))

    @torch.no_grad()
    def predict(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Masks and joints in all pictures."""
        pictures = torch.from_numpy(np.ascontiguousarray(arrays["frames"]))
        found = self(pictures.flatten(0, 2)).float()
        shape = pictures.shape[:3]
        shares = found[:, : len(CLASSES)].softmax(1).unflatten(0, shape)
        joints = places_of(found[:, len(CLASSES) :]).unflatten(0, shape)
        masks = {name: shares[:, :, :, number].numpy() for number, name in enumerate(CLASSES) if number}
        return {**masks, "joints": joints.float().numpy()}


def classes_of(found: Float[Tensor, "n k h w"]) -> Int64[Tensor, "n h w"]:
    """The number of the class of each pixel, from the network's maps."""
    return found[:, : len(CLASSES)].argmax(1)


def places_of(maps: Float[Tensor, "n j h w"]) -> Float[Tensor, "n j 2"]:
    """Places of the joints, 0 to 1, from the logarithms of how probable each pixel is: the mean around the highest."""
    height, width = maps.shape[2:]
    best = maps.flatten(2).argmax(2)
    rows, columns = torch.arange(height, device=maps.device), torch.arange(width, device=maps.device)
    down = (rows - (best // width)[..., None]).abs() <= AROUND
    across = (columns - (best % width)[..., None]).abs() <= AROUND
    near = down[..., :, None] & across[..., None, :]
    shares = maps.masked_fill(~near, -torch.inf).flatten(2).softmax(2).unflatten(2, (height, width))
    x = (shares.sum(2) * (columns + 0.5)).sum(2) / width
    y = (shares.sum(3) * (rows + 0.5)).sum(2) / height
    return torch.stack([x, y], dim=2)
