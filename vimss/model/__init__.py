"""The network, and what it can be conditioned on.

A mixture and a context (labels, pictures or features of players) come in; one estimate per output goes out.

    separator = Separator(WaveUNetConfig(), labels=tuple(INSTRUMENTS), sample_rate=22050)
    separator(torch.zeros(1, 1, 147443))  # 13 outputs of 16389 samples

    config        ModelConfig, the settings of every network; without torch
    contexts/     what a network is conditioned on, one file each with its settings; without torch
    networks/     the networks, by name: a folder or file for each; their settings load without torch
    interface     outputs x context: arrays, targets and names; without torch
    geometry      which windows a network allows and where a layer's samples lie; without torch
    conditioning  the five operations by which a context changes a layer
    convolution   the weights of a convolution
    vision        pictures to feature vectors; vision_config, its settings, without torch
    separator     Separator, save_separator, load_separator
    apply         recordings of any length
"""

from vimss.model.config import ModelConfig
from vimss.model.geometry import Geometry
from vimss.model.networks import NETWORKS, parse_model
from vimss.model.vision_config import VisionConfig

__all__ = ["NETWORKS", "Geometry", "ModelConfig", "VisionConfig", "parse_model"]
