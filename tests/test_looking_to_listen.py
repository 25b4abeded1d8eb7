"""Looking to Listen beyond the contract of all networks: its compression, its joint and refusals."""

import pytest
import torch
from test_networks import build, config_of, mixture_for

from vimss.errors import ConfigError
from vimss.model import parse_model
from vimss.model.networks.looking_to_listen import LookingToListenConfig
from vimss.model.networks.looking_to_listen.network import compressed, decompressed

NAME = "looking_to_listen"


def test_magnitudes_are_compressed_and_phases_kept():
    spectrum = torch.polar(torch.tensor([0.0, 1e-4, 1.0]), torch.tensor([0.0, 2.0, -1.0]))
    expected = torch.polar(torch.tensor([0.0, 1e-4, 1.0]) ** 0.3, torch.tensor([0.0, 2.0, -1.0]))
    torch.testing.assert_close(compressed(spectrum), expected)


def test_a_mask_comes_back_from_its_compression():
    mask = torch.tensor([-20.0, -1.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    bounded = 10 * (1 - torch.exp(-0.1 * mask)) / (1 + torch.exp(-0.1 * mask))
    torch.testing.assert_close(decompressed(bounded), mask)
    assert decompressed(torch.tensor([-1e3, 1e3])).abs().max() < 53


def test_what_is_heard_does_not_depend_on_the_player_and_the_mask_does():
    separator = build(NAME, site="bottleneck", outputs="queries", context="skeleton", skeleton_size=4)
    heard, joined = [], []
    separator.network.sound.register_forward_hook(lambda module, inputs, output: heard.append(output))
    separator.network.recurrent.register_forward_hook(lambda module, inputs, output: joined.append(inputs[0]))
    mixture = mixture_for(separator, 1)
    out = separator(mixture, torch.rand(1, 3, 10, 4))
    size = separator.network.sound.size
    assert len(heard) == 1 and len(heard[0]) * 3 == len(joined[0])
    assert torch.equal(joined[0][..., :size], heard[0].repeat(3, 1, 1))
    assert not torch.equal(out[:, 0], out[:, 1])


def test_it_starts_from_half_of_the_mixture():
    separator = build(NAME)
    with torch.no_grad():
        separator.network.head.weight.zero_()
        separator.network.head.bias.copy_(config_of(NAME).build(3, 3, 1.0).head.bias)
    mixture = mixture_for(separator)
    half = 0.5 * mixture[:, None, :, 32:-32].expand(-1, 3, -1, -1)
    torch.testing.assert_close(separator(mixture), half, atol=1e-3, rtol=0)


def test_the_published_size_is_possible():
    paper = LookingToListenConfig(
        n_fft=512, hop_length=160, kernel_size=5, dilations=6, filters=96, last_filters=8, visual_filters=256,
        lstm_size=200, hidden_size=600, segment_samples=48000, margin_samples=640, site="bottleneck",
    )  # fmt: skip
    assert paper.geometry.input_samples(48000) == 49280
    with torch.device("meta"):
        network = paper.build(1, 1024, 32.0)
    assert len(network.sound.convolutions) + 1 == 15 and len(network.player.convolutions) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_fft": 33, "margin_samples": 40}, "n_fft and hop_length must be even: a frame is centred on the samples"),
        ({"hop_length": 32}, "hop_length must be at most 3/4 of n_fft: the STFT could not be inverted where segments"),
        ({"kernel_size": 4}, "kernel_size must be odd: an even kernel moves every frame by half a frame"),
        ({"margin_samples": 24}, "margin_samples must be at least n_fft, 32: the frames around a segment are needed"),
        ({"segment_samples": 60}, "segment_samples must be a multiple of 8, the samples per frame .*: 56 or 64"),
        ({"site": "decoder"}, "network: looking_to_listen has no such site: choose from none, bottleneck; got"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=f"test: .*{message}"):
        config_of(NAME, **settings)


def test_an_op_that_it_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(ConfigError, match="m: .*network: looking_to_listen has no such op: choose from concat; got"):
        parse_model({"network": NAME, "site": "bottleneck", "op": "film"}, "m")
