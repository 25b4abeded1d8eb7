"""A small Wave-U-Net with weights that hide no mistake, and what it takes."""

import torch
from torch import Tensor

from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator

LABELS = ("fl", "va", "vc")


def small(**settings) -> WaveUNetConfig:
    return WaveUNetConfig(**{"levels": 3, "filters": 4, "max_filters": 9, "down_kernel": 9, **settings})


def build(dtype=torch.float64, **settings) -> Separator:
    torch.manual_seed(0)
    separator = Separator(small(**settings), LABELS, 8000).to(dtype)
    with torch.no_grad():  # biases, null tokens and identities too: zeros would hide mistakes
        for parameter in separator.network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return separator


def mixture_for(separator: Separator, batch: int = 2, at_least: int = 30) -> Tensor:
    window = separator.geometry.window_at_least(at_least)
    dtype = separator.dtype
    shape = (batch, separator.config.channels, separator.input_samples(window))
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1)) * 0.3


def features_for(separator: Separator, batch: int = 2, players: int = 3, frames: int = 4) -> Tensor:
    shape = (batch, players, frames, separator.config.feature_size)
    return torch.randn(shape, dtype=separator.dtype, generator=torch.Generator().manual_seed(2))
