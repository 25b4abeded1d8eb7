"""The U-Net with several heads beyond the contract of all networks: its masks, windows and refusals."""

import pytest
import torch
from naive_apply import naive_separation
from test_networks import build, config_of

from vimss.errors import ConfigError
from vimss.model.apply import separate_all
from vimss.model.networks.multi_head_u_net import MultiHeadUNetConfig

NAME = "multi_head_u_net"


def noise(*shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("outputs", ["instruments", "slots"])
def test_masks_that_compete_give_outputs_that_sum_to_the_mixture(outputs):
    separator = build(NAME, outputs=outputs, channels=2)
    assert separator.config.sums_to_mixture
    mixture = noise(2, 2, separator.input_samples(640))
    margin = separator.geometry.context // 2
    torch.testing.assert_close(separator(mixture).sum(1), mixture[..., margin:-margin], atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{"masks": "sigmoid"}, {"outputs": "queries", "site": "output"}])
def test_masks_that_do_not_compete_give_a_share_of_the_mixture_each(settings):
    separator = build(NAME, **settings)
    assert not separator.config.sums_to_mixture
    with torch.no_grad():
        for head in separator.network.heads:
            head.last.weight.zero_()
            head.last.bias.fill_(30.0)
    mixture = noise(1, 1, separator.input_samples(640))
    margin = separator.geometry.context // 2
    out = separator(mixture, torch.eye(3)[None] if settings.get("outputs") else None)
    torch.testing.assert_close(out, mixture[:, None, :, margin:-margin].expand_as(out), atol=1e-5, rtol=0)


def test_every_output_has_a_head_and_a_query_model_has_one():
    assert len(build(NAME).network.heads) == 3
    assert len(build(NAME, outputs="slots", slots=5).network.heads) == 5
    assert len(build(NAME, outputs="queries", site="bottleneck").network.heads) == 1


def test_a_head_changes_its_own_output_alone_where_masks_do_not_compete():
    separator = build(NAME, masks="sigmoid")
    mixture = noise(1, 1, separator.input_samples(64))
    before = separator(mixture)
    with torch.no_grad():
        separator.network.heads[1].up[0].weight.mul_(2)
    assert (separator(mixture) != before).any(-1).flatten().tolist() == [False, True, False]


@pytest.mark.parametrize(("n_fft", "hop_length", "depth"), [(64, 16, 3), (62, 10, 1), (64, 48, 2)])
def test_blocks_equal_one_pass_for_all_sizes(n_fft, hop_length, depth):
    separator = build(NAME, n_fft=n_fft, hop_length=hop_length, depth=depth, channels=2, filters=3)
    mixture = noise(2, 900)
    blocks = separate_all(separator, mixture, block_samples=100)
    assert (blocks - naive_separation(separator, mixture)).abs().max() < 2e-6


def test_silence_gives_silence_and_gradients_stay_finite():
    separator = build(NAME)
    silence = torch.zeros(1, 1, separator.input_samples(64), requires_grad=True)
    out = separator(silence)
    assert (out == 0).all()
    out.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in separator.parameters())


def test_the_published_size_is_possible():
    paper = MultiHeadUNetConfig(n_fft=1022, hop_length=256, bins=256, depth=6, filters=16)
    assert paper.widths() == (16, 32, 64, 128, 256, 512) and paper.geometry.smallest_window == 16384


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_fft": 63}, "n_fft and hop_length must be even: a frame is centred on the samples that it stands for"),
        ({"hop_length": 50}, "hop_length must be at most 3/4 of n_fft: the STFT could not be inverted where windows"),
        ({"bins": 34}, r"bins must be at most n_fft / 2 \+ 1 = 33, the bins of the STFT"),
        ({"bins": 30}, r"bins must be a multiple of 2\^depth = 4: each level halves them"),
        ({"outputs": "slots", "slots": 1}, "masks: softmax with one slot would return the mixture"),
        ({"site": "decoder"}, "network: multi_head_u_net has no such site: choose from none, every_layer, bottleneck"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=f"test: .*{message}"):
        config_of(NAME, **settings)


def test_masks_that_compete_are_refused_for_a_single_label():
    message = "model.masks: softmax needs shards with several labels, unlike 'clarinets': the one output would be the"
    with pytest.raises(ConfigError, match=f"{message} mixture; got the label cl. To fix: set model.masks: sigmoid"):
        config_of(NAME).check_labels(("cl",), "clarinets")
    config_of(NAME).check_labels(("cl", "vn"), "duos")
