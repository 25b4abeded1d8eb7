"""The smallest network that keeps the contract, and what adding one takes: its settings, and an nn.Module.

It works on blocks of `hop` samples as if they were spectra: its layer has two dimensions, blocks in time and places in
the block, and a context acts on all places of its block. In vimss the two classes would be two files, so that settings
load without torch.
"""

from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vimss.model.conditioning import make_conditions
from vimss.model.config import ModelConfig
from vimss.model.convolution import Convolution
from vimss.model.geometry import Geometry, Layer


class BlocksConfig(ModelConfig):
    """Blocks of samples, each seen with the one before and the one after it."""

    network: Literal["blocks"] = "blocks"
    hop: int = 16
    width: int = 24

    window_keys = ("hop",)

    @property
    def geometry(self):
        return Geometry(stride=self.hop, context=2 * self.hop, reach=2 * self.hop)

    def sites(self):
        return {
            "none": {},
            "every_layer": {"first": self.width, "second": self.width},
            "output": {"second": self.width},
        }

    def build(self, outputs, context_size, context_scale):
        return Blocks(self, outputs, context_size, context_scale)


class Blocks(nn.Module):
    def __init__(self, config, outputs, context_size, context_scale):
        super().__init__()
        self.config = config
        self.first = Convolution(config.channels, config.width, (3, 3))
        self.second = Convolution(config.width, config.width, 1)
        self.head = Convolution(config.width, outputs * config.channels, 1)
        self.conditions = make_conditions(config, context_size, context_scale)

    def matrices(self):
        return [self.second.weight]

    def forward(self, mixture, context):
        blocks = rearrange(mixture, "b c (n f) -> b c n f", f=self.config.hop)
        x = F.conv2d(blocks, self.first.kernel, self.first.bias, padding=(0, 1))
        # A block's time is that of its middle; the first one is the margin's.
        grid = Layer(3 * self.config.hop // 2, self.config.hop, x.shape[2])
        x = self._activate(rearrange(x, "b d n f -> b 1 n f d"), "first", grid, context)
        x = self._activate(F.linear(x, self.second.weight, self.second.bias), "second", grid, context)
        x = F.linear(x, self.head.weight, self.head.bias)
        return rearrange(x, "b q n f (s c) -> b (q s) c (n f)", c=self.config.channels)

    def _activate(self, x, name, grid, context):
        if context is not None and name in self.conditions:
            x = self.conditions[name](x, context, grid)
        return F.leaky_relu(x, 0.2)
