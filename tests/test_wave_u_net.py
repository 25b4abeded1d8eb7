"""The Wave-U-Net: the paper's sizes and variants, and both its forms equal to a naive reading of the paper."""

import math
from typing import get_args

import pytest
import torch
from naive_unet import naive_forward
from small_separator import LABELS, build, features_for, mixture_for, small

from vimss.model.conditioning import Context, FrameGrid
from vimss.model.config import Op, Site
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.networks.wave_u_net.config import layers
from vimss.model.networks.wave_u_net.fast import forward
from vimss.model.separator import Separator

SITES = tuple(site for site in get_args(Site) if site != "none")
OPS = get_args(Op)
SPREAD = FrameGrid.spread(1, 1)


# The paper's network


PAPER = tuple("abcdefghijklm")
"""Labels of the 13 outputs of the ICASSP 2019 paper."""


@pytest.mark.parametrize(
    ("bottleneck", "output", "given"),
    [
        (9, 16389, 147443),
        (17, 49157, 180211),
        (33, 114693, 245747),
        (65, 245765, 376819),
        (129, 507909, 638963),
        (513, 2080773, 2211827),
    ],
)
def test_windows_are_the_papers(bottleneck, output, given):
    shape = WaveUNetConfig().geometry
    assert (shape.input_samples(output), layers(WaveUNetConfig(), output)["bottleneck"].samples) == (given, bottleneck)


VARIANTS = {
    "M1": ({"padding": "same"}, ("voice", "rest"), 16384, 16384, 10_263_028),
    "M2": ({"padding": "same", "output_type": "difference"}, ("voice", "rest"), 16384, 16384, 10_263_002),
    "M3": ({"output_type": "difference"}, ("voice", "rest"), 147443, 16389, 10_263_002),
    "M4": ({"output_type": "difference", "channels": 2}, ("voice", "rest"), 147443, 16389, 10_263_390),
    "M5": (
        {"output_type": "difference", "channels": 2, "upsampling": "learned"},
        ("voice", "rest"), 147443, 16389, 10_265_550,
    ),
    "M6": (
        {"output_type": "difference", "channels": 2},
        ("bass", "drums", "other", "voice"), 147443, 16389, 10_263_498,
    ),
}  # fmt: skip
"""Settings, labels, input and output window, and number of weights of the paper's models, by its names."""


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_the_paper_are_settings(name):
    settings, labels, given, output, weights = VARIANTS[name]
    separator = Separator(WaveUNetConfig(**settings), labels, 22050)
    assert separator.input_samples(output) == given
    assert sum(parameter.numel() for parameter in separator.parameters()) == weights


@pytest.mark.parametrize(
    ("rate", "given", "output", "context"), [(22050, 6.687, 0.743, 5.943), (44100, 3.343, 0.372, 2.972)]
)
def test_windows_last_as_long_as_the_papers(rate, given, output, context):
    shape = WaveUNetConfig().geometry
    assert [round(n / rate, 3) for n in (147443, 16389, shape.context)] == [given, output, context]


def test_small_window_is_that_of_the_quickstart():
    assert WaveUNetConfig(levels=7, down_kernel=5, up_kernel=3).geometry.input_samples(4227) == 5501


def test_bottleneck_of_the_papers_window_has_nine_samples():
    assert layers(WaveUNetConfig(), 16389)["bottleneck"].samples == 9


def test_thirteen_outputs_have_ten_million_weights():
    separator = Separator(WaveUNetConfig(), PAPER, 22050)
    assert sum(parameter.numel() for parameter in separator.parameters()) == 10_263_314


def test_one_output_has_the_weights_that_were_counted_for_it():
    separator = Separator(WaveUNetConfig(), ("vn",), 22050)
    assert sum(parameter.numel() for parameter in separator.parameters()) == 10_263_002


def test_paper_window_gives_16389_samples():
    with torch.inference_mode():
        assert Separator(WaveUNetConfig(), ("a", "b"), 22050)(torch.zeros(1, 1, 147443)).shape == (1, 2, 1, 16389)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"output_type": "difference"},
        {"padding": "same"},
        {"padding": "same", "upsampling": "learned"},
        {"upsampling": "learned"},
        {"channels": 2, "output_type": "difference"},
        {"channels": 2, "initial_output": "mixture", "output_activation": "linear"},
        {"down_kernel": 3, "up_kernel": 7},
        {"down_kernel": 15, "levels": 4},
        {"levels": 1, "up_kernel": 3},
        {"gain": 10.0},
        {"gain": 0.5, "output_type": "difference"},
        {"gain": 10.0, "output_activation": "linear"},
    ],
    ids=str,
)
def test_network_equals_the_naive_reading(settings):
    separator = build(**settings)
    _assert_equal_to_naive(separator, mixture_for(separator), None)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_conditioned_network_equals_the_naive_reading(site, op, padding):
    separator = build(site=site, op=op, padding=padding, context="features", feature_size=5, outputs="queries")
    _assert_equal_to_naive(separator, mixture_for(separator), features_for(separator))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_of_the_paper_equals_the_naive_reading_at_every_site(name, site):
    settings, *_ = VARIANTS[name]
    separator = build(**settings, site=site, op="film", context="features", feature_size=5)
    _assert_equal_to_naive(separator, mixture_for(separator), features_for(separator, players=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, pytest.param({"site": "every_layer", "op": "film", "context": "labels"}, marks=pytest.mark.rare)],
    ids=str,
)
def test_the_network_of_the_papers_size_equals_the_naive_reading(settings):
    torch.manual_seed(0)
    separator = Separator(WaveUNetConfig(**settings), PAPER, 22050).double()
    context = torch.from_numpy(separator.interface.context_of(["a", "c"]))[None].double() if settings else None
    _assert_equal_to_naive(separator, mixture_for(separator, batch=1, at_least=16389), context)


def _assert_equal_to_naive(separator, mixture, context):
    """Outputs and gradients, of the form that is computed by default and of the plain one."""
    values = context[:, :, None] if context is not None and context.dim() == 3 else context  # labels have no frames
    naive = naive_forward(separator.network, mixture, values, *FrameGrid.spread(4, mixture.shape[-1]))
    weight = torch.randn_like(naive)
    parameters = list(separator.parameters())
    expected = torch.autograd.grad((naive * weight).sum(), parameters)
    for form in get_args(WaveUNetConfig.model_fields["form"].annotation):
        separator.network.config = separator.config.model_copy(update={"form": form})
        found = separator(mixture, context)
        gradients = torch.autograd.grad((found * weight).sum(), parameters)
        assert _difference(found, naive) < 1e-12
        assert all(_difference(one, two) < 1e-10 for one, two in zip(gradients, expected, strict=True))


def test_the_form_says_what_is_computed():
    fast, plain = (build(form=form, site="decoder", outputs="queries").network for form in ("fast", "plain"))
    assert all(torch.equal(one, other) for one, other in zip(fast.parameters(), plain.parameters(), strict=True))
    mixture, told = mixture_for(build()), Context(torch.eye(3, dtype=torch.float64).expand(2, 3, 3)[:, :, None], SPREAD)
    assert torch.equal(plain(mixture, told), fast.plain(mixture, told))
    assert torch.equal(fast(mixture, told), forward(plain, mixture, told))
    assert not torch.equal(fast(mixture, told), plain(mixture, told))  # they round differently


def test_the_plain_form_learns_as_the_fast_one():
    losses = []
    for form in ("fast", "plain"):
        separator = build(form=form, site="every_layer")
        losses.append(_train(separator, mixture_for(separator), 10, torch.eye(3)[None, :1].expand(2, 1, 3).double()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def _difference(one, two):
    return ((one - two).abs().max() / two.abs().max()).item()


def test_gradient_of_the_mixture_is_that_of_the_naive_reading():
    separator = build(outputs="queries", site="decoder", context="features", feature_size=5)
    mixture = mixture_for(separator).requires_grad_()
    context = features_for(separator)
    grid = FrameGrid.spread(4, mixture.shape[-1])
    (fast,) = torch.autograd.grad(separator(mixture, context).square().sum(), mixture)
    (naive,) = torch.autograd.grad(naive_forward(separator.network, mixture, context, *grid).square().sum(), mixture)
    assert _difference(fast, naive) < 1e-10


# Outputs


def test_outputs_differ_from_each_other():
    # The original's head was one convolution for all sources.
    separator = build()
    out = separator(mixture_for(separator))
    assert (out[:, 0] - out[:, 1]).abs().max() > 1e-3


def test_difference_outputs_sum_to_the_mixture():
    separator = build(output_type="difference", channels=2)
    mixture = mixture_for(separator)
    out = separator(mixture)
    margin = separator.geometry.context // 2
    torch.testing.assert_close(out.sum(1), mixture[..., margin : margin + out.shape[-1]])


@pytest.mark.parametrize("site", ["none", "output"])
def test_initial_output_is_half_the_mixture(site):
    settings = {"initial_output": "mixture", "output_activation": "linear", "site": site, "channels": 2}
    separator = Separator(small(**settings), LABELS, 8000)
    mixture = mixture_for(separator)
    out = separator(mixture, None if site == "none" else torch.zeros(2, 1, 3))
    margin = separator.geometry.context // 2
    half = 0.5 * mixture[..., margin : margin + out.shape[-1]].unsqueeze(1).expand_as(out)
    assert torch.nn.functional.cosine_similarity(out.flatten(), half.flatten(), dim=0) > 0.9


@pytest.mark.parametrize("gain", [0.2, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("activation", ["tanh", "linear"])
@pytest.mark.parametrize("output_type", ["direct", "difference"])
def test_a_loud_stem_can_be_reached_whatever_the_gain(gain, activation, output_type):
    separator = Separator(
        small(levels=1, output_activation=activation, output_type=output_type, gain=gain), ("a", "b"), 8000
    )
    with torch.no_grad():  # the first output as loud as tanh or the mixture allows
        separator.network.head.weight.zero_()
        separator.network.head.weight[0, -1] = 1.5
    mixture = 0.9 * torch.sign(mixture_for(separator.double()))
    loudest = float(separator(mixture)[:, 0].detach().abs().amax())
    expected = math.tanh(1.35) if activation == "tanh" else 1.35
    assert loudest == pytest.approx(expected, abs=1e-4) and loudest > 0.87


@pytest.mark.parametrize("gain", [0.2, 1.0, 10.0])
def test_tanh_bounds_outputs_to_full_scale_whatever_the_gain(gain):
    separator = build(gain=gain)
    with torch.no_grad():
        separator.network.head.bias.fill_(1e4)
    outputs = separator(mixture_for(separator))
    assert torch.equal(outputs, torch.ones_like(outputs))


def test_a_target_of_peak_0_9_is_learnt_with_a_gain_of_10_and_tanh():
    torch.manual_seed(0)
    separator = Separator(small(levels=1, gain=10.0, initial_output="mixture"), ("a",), 8000)
    mixture = torch.sin(torch.arange(separator.input_samples(101)) * 0.3)[None, None] * 0.9
    first = (mixture.shape[-1] - 101) // 2
    target = mixture[:, None, :, first : first + 101]
    optimizer = torch.optim.Adam(separator.parameters(), lr=1e-2)
    for _ in range(100):
        loss = (separator(mixture) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert separator(mixture).abs().max() > 0.85


def test_training_is_bitwise_repeatable():
    runs = [build(torch.float32, site="decoder") for _ in range(2)]
    losses = [_train(run, mixture_for(run), 20, torch.eye(3)[None, :1].expand(2, 1, 3)) for run in runs]
    assert losses[0] == losses[1]


def _train(separator, mixture, steps, context=None):
    torch.manual_seed(3)
    target = 0.3 * torch.randn(separator(mixture, context).shape, dtype=mixture.dtype)  # in an order of its own
    optimizer = torch.optim.Adam(separator.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = (separator(mixture, context) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_forward_runs_under_bfloat16_autocast():
    separator = build(torch.float32, site="decoder", op="attention")
    mixture, context = mixture_for(separator), torch.eye(3)[None, :1].expand(2, 1, 3)
    exact = separator(mixture, context)
    with torch.autocast("cpu", torch.bfloat16):
        rough = separator(mixture, context)
        rough.float().square().mean().backward()
    assert (rough.float() - exact).abs().max() < 0.05
