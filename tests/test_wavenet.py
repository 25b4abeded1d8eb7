"""The WaveNet beyond the contract of all networks: what it computes, how far it sees, and where contexts act."""

import math

import torch
import torch.nn.functional as F
from test_networks import build, mixture_for

from vimss.model.mu_law import level_of, values_of_levels
from vimss.model.networks.wavenet import WaveNetConfig

PAPER = WaveNetConfig(
    layers=10, stacks=3, filters=128, skip_filters=128, hidden_filters=2048, output_filters=256
)  # fmt: skip


def test_the_stacks_of_the_published_size_see_384_milliseconds_at_16_khz():
    assert 1 + 2 * sum(PAPER.dilations()) == 6139 and round(6139 / 16) == 384
    assert PAPER.geometry.input_samples(1601) == 6139 + 1600 + 2 + 4
    assert PAPER.sites()["every_layer"] == {f"layer{number}": 256 for number in range(30)} | {"output": 2048}


def test_it_is_the_paper_with_padding_where_padding_is_out_of_sight():
    separator = build("wavenet", channels=2)
    network, mixture = separator.network, mixture_for(separator)

    def same(x, layer, dilation=1):
        return F.conv1d(x, layer.kernel, layer.bias, padding="same", dilation=dilation)

    x, total = same(mixture, network.first), 0.0
    for gate, found, dilation in zip(network.gates, network.found, (1, 2, 4, 1, 2, 4), strict=True):
        gates = same(x, gate, dilation)
        z = same(torch.tanh(gates[:, :12]) * torch.sigmoid(gates[:, 12:]), found)
        total = total + z[:, -8:]
        if z.shape[1] > 8:
            x = x + z[:, :12]
    x = same(torch.relu(same(torch.relu(same(torch.relu(total), network.hidden)), network.output)), network.head)
    margin = separator.geometry.context // 2
    torch.testing.assert_close(separator(mixture), x.unflatten(1, (3, 2))[..., margin:-margin])


def test_layers_before_the_output_run_once_for_all_queries():
    separator = build("wavenet", site="output", outputs="queries")
    rows = []
    separator.network.conditions["output"].register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[1]))
    assert separator(mixture_for(separator, 1), torch.eye(3)[None]).shape[1] == 3
    assert rows == [1]


def test_layers_lie_where_their_convolutions_put_them():
    separator = build("wavenet", site="every_layer")
    firsts = []
    for condition in separator.network.conditions.values():
        condition.register_forward_pre_hook(lambda _, inputs: firsts.append(inputs[2].first))
    separator(mixture_for(separator), torch.rand(2, 1, 3))
    assert firsts == [2, 4, 8, 9, 11, 15, 16]


def test_an_estimate_by_mu_law_is_the_mean_of_the_levels_under_their_probabilities():
    separator = build("wavenet", site="output", outputs="queries", channels=2, estimate="mu_law")
    mixture, context = mixture_for(separator), torch.eye(3).expand(2, 3, 3)
    log_odds, estimates = separator(mixture, context, log_odds=True), separator(mixture, context)
    assert log_odds.shape == (*estimates.shape, 256)
    values = ((2 * torch.arange(256) / 255 - 1).abs() * math.log(256)).expm1() / 255
    values = torch.where(torch.arange(256) < 128, -values, values)
    torch.testing.assert_close(estimates, (log_odds.softmax(-1) * values).sum(-1))


def test_a_level_stands_for_the_samples_around_it():
    signal = torch.linspace(-1.2, 1.2, 4801)
    values, found = values_of_levels(), values_of_levels()[level_of(signal)]
    assert torch.equal(level_of(values), torch.arange(256))
    # The step between two levels is 2 / 255 ln(256) = 0.0435 times |x| + 1 / 255.
    assert ((found - signal.clamp(-1, 1)).abs() <= 0.022 * (signal.abs() + 1 / 255) + 1e-6).all()
