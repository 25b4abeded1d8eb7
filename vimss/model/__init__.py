"""The network: a Wave-U-Net after Stoller, Ewert and Dixon (2018) that can be told what to listen for.

A mixture and a context (labels, pictures or features of players) come in; one estimate per output goes out.

    separator = Separator(ModelConfig(), labels=tuple(INSTRUMENTS), sample_rate=22050)
    separator(torch.zeros(1, 1, 147443))  # 13 outputs of 16389 samples

    config        ModelConfig and VisionConfig, importable without torch
    contexts/     labels, frames, features: what the network is conditioned on, one file each
    interface     outputs x context: arrays, targets and names, without torch
    geometry      which windows the network allows and where each layer's samples lie, without torch
    convolution   valid convolution of time-major signals, with a backward pass made for CPUs
    conditioning  the five operations by which a context changes a layer
    unet          the network
    vision        pictures to feature vectors
    separator     Separator, save_separator, load_separator
    apply         recordings of any length
"""

from vimss.model.config import ModelConfig, VisionConfig
from vimss.model.geometry import Geometry, geometry

__all__ = ["Geometry", "ModelConfig", "VisionConfig", "geometry"]
