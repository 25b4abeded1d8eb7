"""DeepConvSep beyond the contract of all networks: its masks, its layers and refusals."""

import pytest
import torch
from test_networks import build, config_of

from vimss.errors import ConfigError
from vimss.model.networks.deep_conv_sep import DeepConvSepConfig

NAME = "deep_conv_sep"


def noise(*shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("outputs", ["instruments", "slots"])
def test_outputs_share_the_mixture_out(outputs):
    separator = build(NAME, outputs=outputs, channels=2)
    assert separator.config.sums_to_mixture
    mixture = noise(2, 2, separator.input_samples(3 * 64))
    torch.testing.assert_close(separator(mixture).sum(1), mixture[..., 32:-32], atol=1e-5, rtol=0)


def test_a_query_has_its_share_and_leaves_the_rest():
    separator = build(NAME, outputs="queries", site="bottleneck")
    assert not separator.config.sums_to_mixture
    with torch.no_grad():
        separator.network.model.level.copy_(torch.tensor([3e6, 1e6]))
    mixture = noise(1, 1, separator.input_samples(64))
    out = separator(mixture, torch.eye(3)[None, :2])
    torch.testing.assert_close(out, 0.75 * mixture[:, None, :, 32:-32].expand_as(out), atol=1e-5, rtol=0)


def test_where_no_output_has_anything_all_have_the_same_share():
    separator = build(NAME)
    with torch.no_grad():
        separator.network.model.level.fill_(-1e6)
    mixture = noise(1, 1, separator.input_samples(64))
    out = separator(mixture)
    torch.testing.assert_close(out, mixture[:, None, :, 32:-32].expand_as(out) / 3, atol=1e-5, rtol=0)


def test_silence_gives_silence_and_gradients_stay_finite():
    separator = build(NAME)
    silence = torch.zeros(1, 1, separator.input_samples(64), requires_grad=True)
    out = separator(silence)
    assert (out == 0).all()
    out.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in separator.parameters())


def test_the_published_size_has_30_frames_and_the_layers_of_the_paper():
    paper = DeepConvSepConfig(n_fft=1024, hop_length=512, segment_samples=13312, margin_samples=1024)
    assert paper.frames == 30
    weights = {name: tuple(weight.shape) for name, weight in paper.build(4, 1, 1.0).model.named_parameters()}
    assert weights == {
        "vertical.weight": (50, 513, 1),
        "vertical.bias": (50,),
        "horizontal.parametrizations.weight.original": (50, 50 * 15),
        "horizontal.bias": (50,),
        "bottleneck.parametrizations.weight.original": (128, 50 * 16),
        "bottleneck.bias": (128,),
        "expand.parametrizations.weight.original": (4 * 50 * 16, 128),
        "expand.bias": (4 * 50 * 16,),
        "level": (4,),
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_fft": 31}, "n_fft and hop_length must be even: a frame is centred on the samples that it stands for"),
        ({"hop_length": 32}, "hop_length must be at most 3/4 of n_fft: the STFT could not be inverted where segments"),
        (
            {"margin_samples": 24},
            "margin_samples must be at least n_fft, 32: the frames around a segment are needed to",
        ),
        ({"segment_samples": 60}, "segment_samples must be a multiple of 8, .* slowest layer: 56 or 64"),
        ({"outputs": "slots", "slots": 1}, "network: deep_conv_sep with one slot would return the mixture"),
        ({"site": "output"}, "network: deep_conv_sep has no such site: choose from none, every_layer, bottleneck"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=f"test: .*{message}"):
        config_of(NAME, **settings)
