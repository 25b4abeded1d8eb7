"""Small networks of every kind, with random weights, for tests that need a model and no quality."""

import itertools

import torch

from vimss.model.networks.wave_u_net.config import WaveUNetConfig
from vimss.model.separator import Separator, save_separator
from vimss.model.vision_config import VisionConfig

VISION = VisionConfig(network="compact", weights="random")
TINY = {
    "levels": 3, "filters": 4, "down_kernel": 5, "output_activation": "linear", "initial_output": "mixture",
    "vision": VISION, "feature_size": VISION.feature_size,
}  # fmt: skip
KINDS = {
    "one output per label": {"outputs": "instruments", "site": "none"},
    "one output per label, told labels": {"outputs": "instruments", "site": "every_layer"},
    "one output per label, frames": {"outputs": "instruments", "site": "decoder", "context": "frames"},
    "one output per label, features": {"outputs": "instruments", "site": "decoder", "context": "features"},
    "queries by label": {"outputs": "queries", "site": "decoder"},
    "queries by frames": {"outputs": "queries", "site": "bottleneck", "context": "frames"},
    "queries by features": {"outputs": "queries", "site": "decoder", "context": "features"},
    "slots": {"outputs": "slots", "slots": 3},
}


def saver(manifest, features, tmp_path_factory):
    """A function that saves an untrained network of a corpus, with changes, and returns its folder."""
    computed = {"features": features}
    seeds = itertools.count()

    def make(config=KINDS["queries by label"], labels=manifest.recipe.labels, rate=8000, card=computed):
        folder = tmp_path_factory.mktemp("model") / "model"
        torch.manual_seed(next(seeds))
        save_separator(folder, Separator(WaveUNetConfig(**TINY, **config), labels, rate), card)
        return folder

    return make
