"""Networks of the sizes that papers publish, by the shapes of all tensors: none has values, or needs memory."""

import pytest
from bench.systems import pass_of_shapes

from vimss.api import experiment_recipe
from vimss.model import NETWORKS
from vimss.search.consistency import load_experiment

FULL = load_experiment("experiments/full/systems.yaml")

MILLIONS = {
    "wave_u_net": 10.3, "spectrogram_u_net": 9.9, "multi_head_u_net": 5.2, "conv_tasnet": 5.2, "hdemucs": 83.6,
    "wavenet": 6.5, "deep_conv_sep": 0.4, "open_unmix": 9.5, "scnet": 10.1, "bs_roformer": 93.4, "moises_light": 2.6,
    "looking_to_listen": 10.2, "sound_of_pixels": 23.6,
}  # fmt: skip
"""Weights of each; with the few that the query takes."""


def test_every_network_has_a_published_size():
    assert set(FULL.variants) == set(NETWORKS) == set(MILLIONS)
    assert FULL.name == "systems"


@pytest.mark.rare
@pytest.mark.parametrize("name", FULL.variants)
def test_a_network_of_published_size_gives_its_window(name):
    settings, recipe = FULL.settings(FULL.variants[name]), experiment_recipe(FULL)
    found = pass_of_shapes(settings, recipe)
    assert found.outputs == (1, 1, 2, settings.training.output_samples)
    assert found.weights / 1e6 == pytest.approx(MILLIONS[name], rel=0.1)
