"""What every network keeps and the rest of vimss relies on: a further one is held to it by its line in NETWORKS."""

import json
import math
import subprocess
import sys
from typing import get_args

import pytest
import torch
from golden import networks as golden
from naive_apply import naive_separation
from smallest_network import BlocksConfig

from vimss.errors import ConfigError
from vimss.model import NETWORKS, parse_model
from vimss.model.apply import separate_all
from vimss.model.config import Op, Site
from vimss.model.networks import DEFAULT, Network
from vimss.model.separator import Separator, load_separator, save_separator
from vimss.train.config import TrainingConfig
from vimss.train.optimize import make_optimizers

LABELS = ("fl", "va", "vc")
RATE = 8000
NAMES = [*NETWORKS, "blocks"]
SITES = [(name, site) for name in NAMES for site in {**NETWORKS, "blocks": BlocksConfig}[name]().sites()]
"""Each network with each site it has."""

CONDITIONED = [(name, site) for name, site in SITES if site != "none"]

OPS = [
    *((name, site, "film") for name, site in CONDITIONED),
    *(
        (name, "every_layer", op)
        for name in NAMES
        for op in get_args(Op)
        if op != "film" and len(NETWORKS.get(name, BlocksConfig).ops) > 1
    ),
]
"""Each site of a network, and each operation where a network has it in every layer: what an operation does is written
once, in vimss/model/conditioning.py, and a network gives it the layers of a site."""

FEATURES = {"context": "features", "feature_size": 5}


@pytest.fixture(autouse=True)
def _one_more_network(monkeypatch):
    """The smallest network is one of them, as if it had its line."""
    monkeypatch.setitem(NETWORKS, "blocks", BlocksConfig)


def config_of(name, **settings):
    return golden.small(name, **settings)


def build(name, **settings) -> Separator:
    torch.manual_seed(0)
    separator = Separator(config_of(name, **settings), LABELS, RATE).eval()
    with torch.no_grad():  # biases, null tokens and identities too: zeros would hide mistakes
        for parameter in separator.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return separator


def mixture_for(separator, batch=2, at_least=64):
    window = separator.geometry.window_at_least(at_least)
    shape = (batch, separator.config.channels, separator.input_samples(window))
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def features(batch=2, players=2, frames=4):
    return torch.randn(batch, players, frames, 5, generator=torch.Generator().manual_seed(2))


def outputs_with(site):
    """Settings of each kind of outputs that goes with a site, and how many outputs there are for two players."""
    instruments = ({"outputs": "instruments"}, 3)
    return [instruments, ({"outputs": "slots", "slots": 4}, 4) if site == "none" else ({"outputs": "queries"}, 2)]


# What a line in NETWORKS promises


@pytest.mark.parametrize("name", NAMES)
def test_a_network_has_the_name_of_its_line(name):
    assert config_of(name).network == name
    assert get_args(NETWORKS[name].model_fields["network"].annotation) == (name,)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_declares_rules_about_its_own_settings_alone(name):
    kind = NETWORKS[name]
    decisive = {other for rule in kind.idle_rules.values() for other in rule.depends_on}
    assert {*kind.window_keys, *kind.label_keys, *kind.idle_rules, *decisive} <= set(kind.model_fields)


def test_settings_and_windows_of_all_networks_load_without_torch():
    code = (
        "import sys; from vimss.model import NETWORKS\n"
        "for kind in NETWORKS.values(): kind().geometry.window_at_least(1), kind().sites()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_protocol_is_kept(name):
    assert isinstance(build(name).network, Network)


@pytest.mark.parametrize("name", NAMES)
def test_a_site_that_a_network_has_not_is_refused_with_those_it_has(name):
    for site in set(get_args(Site)) - set(config_of(name).sites()):
        with pytest.raises(ConfigError, match=f"network: {name} has no such site: choose from none, "):
            parse_model({"network": name, "site": site}, "test")


def test_settings_that_name_no_network_are_those_of_the_default():
    assert parse_model({}, "test") == DEFAULT == NETWORKS["wave_u_net"]()


def test_a_network_that_there_is_not_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"^m: network must be one of wave_u_net.*; got 'wave'. To fix: correct it,"):
        parse_model({"network": "wave"}, "m")


# Windows


@pytest.mark.parametrize("name", NAMES)
def test_a_window_of_the_geometry_gives_its_output(name):
    separator = build(name)
    for at_least in (1, 50, 333):
        out = separator(mixture_for(separator, 1, at_least))
        assert out.shape == (1, 3, 1, separator.geometry.window_at_least(at_least))


@pytest.mark.parametrize(("name", "site"), SITES)
def test_outputs_of_every_kind_have_all_channels(name, site):
    for settings, count in outputs_with(site):
        separator = build(name, site=site, channels=2, **settings, **(FEATURES if site != "none" else {}))
        out = separator(mixture_for(separator, at_least=1), features() if site != "none" else None)
        assert out.shape == (2, count, 2, separator.geometry.window_at_least(1))


@pytest.mark.parametrize("name", NAMES)
def test_windows_grow_by_the_stride_and_others_are_refused_with_the_nearest(name):
    shape = config_of(name).geometry
    window = shape.window_at_least(100)
    assert shape.input_samples(window) == window + shape.context
    assert shape.window_at_least(window + 1) == window + shape.stride == shape.nearest_windows(window)[-1]
    assert shape.window_at_most(window + shape.stride - 1) == window
    if shape.stride > 1:
        with pytest.raises(ConfigError, match=f"To fix: use {window} or {window + shape.stride} samples"):
            shape.input_samples(window + 1)


@pytest.mark.parametrize("name", NAMES)
def test_an_output_sees_no_further_than_the_reach(name):
    separator = build(name).double()
    mixture = mixture_for(separator, 1, 4 * separator.geometry.reach).double()
    changed = mixture.clone()
    changed[..., mixture.shape[-1] // 2] += 1
    moved = (separator(changed) - separator(mixture)).abs().amax((0, 1, 2)).nonzero()[:, 0]
    middle = mixture.shape[-1] // 2 - separator.geometry.context // 2
    assert (moved - middle).abs().max() <= separator.geometry.reach


@pytest.mark.parametrize("name", NAMES)
def test_the_output_moves_along_with_the_input_by_the_stride(name):
    separator = build(name)
    stride, edge = separator.geometry.stride, separator.geometry.border
    mixture = mixture_for(separator, 1, 4 * stride + 4 * edge + 64)
    moved = separator(torch.roll(mixture, -stride, -1))
    last = moved.shape[-1] - edge - stride
    torch.testing.assert_close(moved[..., edge:last], separator(mixture)[..., edge + stride : last + stride])


# Conditions


@pytest.mark.parametrize(("name", "site", "op"), OPS)
def test_a_context_changes_the_output_of_its_own_example_and_query_alone(name, site, op):
    separator = build(name, site=site, op=op, outputs="queries", **FEATURES)
    mixture, context = mixture_for(separator, 3), features(3)
    changed = context.clone()
    changed[2, 0] += 1
    moved = (separator(mixture, changed) - separator(mixture, context)).abs().amax((2, 3)) > 0
    assert moved.nonzero().tolist() == [[2, 0]]


@pytest.mark.parametrize("name", NAMES)
def test_without_a_site_there_is_nothing_that_a_context_could_change(name):
    none, some = (build(name, site=site) for site in ("none", "every_layer"))
    mixture = mixture_for(none)
    assert torch.equal(none(mixture, torch.rand(2, 1, 3)), none(mixture))
    assert len(list(none.parameters())) < len(list(some.parameters()))


@pytest.mark.parametrize(("name", "site"), CONDITIONED)
def test_queries_together_give_what_they_give_one_by_one(name, site):
    separator = build(name, site=site, outputs="queries")
    mixture, context = mixture_for(separator), torch.eye(3).expand(2, 3, 3)
    one_by_one = torch.cat([separator(mixture, context[:, query : query + 1]) for query in range(3)], dim=1)
    torch.testing.assert_close(separator(mixture, context), one_by_one)


# Attention has a way of its own to look at frames; all other operations share theirs.
@pytest.mark.parametrize(("name", "site", "op"), [case for case in OPS if case[2] in ("film", "attention")])
def test_a_flash_in_the_context_acts_at_its_own_time(name, site, op):
    separator = build(name, site=site, op=op, **FEATURES)
    mixture = mixture_for(separator, 1, 1600)
    samples, frames, lit = mixture.shape[-1], 40, 23
    dark = torch.zeros(1, 1, frames, 5)
    flash = dark.clone()
    flash[:, :, lit] = 3.0
    change = (separator(mixture, flash) - separator(mixture, dark)).detach().square().sum((0, 1, 2))
    centre = float((change * torch.arange(len(change))).sum() / change.sum()) + separator.geometry.context // 2
    assert abs(centre + 0.5 - (lit + 0.5) / frames * samples) < max(samples / frames, separator.geometry.stride)


# Learning


@pytest.mark.parametrize(("name", "site"), SITES)
def test_every_weight_has_a_gradient_and_is_in_one_optimizer(name, site):
    separator = build(name, site=site)
    separator(mixture_for(separator), torch.rand(2, 1, 3)).square().mean().backward()
    weights = dict(separator.named_parameters())
    assert [key for key, weight in weights.items() if weight.grad is None or not weight.grad.any()] == []
    for optimizer in get_args(TrainingConfig.model_fields["optimizer"].annotation):
        made = make_optimizers(separator, TrainingConfig(optimizer=optimizer), torch.device("cpu"))
        held = [id(weight) for one in made for group in one.param_groups for weight in group["params"]]
        assert sorted(held) == sorted(map(id, weights.values()))


@pytest.mark.parametrize("name", NAMES)
def test_matrices_are_weights_of_two_dimensions(name):
    network = build(name).network
    matrices = network.matrices()
    assert matrices and all(matrix.ndim == 2 for matrix in matrices)
    assert {id(matrix) for matrix in matrices} < {id(weight) for weight in network.parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_one_batch_can_be_overfitted(name):
    torch.manual_seed(0)
    separator = Separator(config_of(name), ("low", "high"), RATE)
    time = torch.arange(mixture_for(separator, at_least=300).shape[-1]) / RATE
    low, high = (0.4 * torch.sin(2 * math.pi * hertz * time) for hertz in (220, 2900))
    margin = separator.geometry.context // 2
    targets = torch.stack([low, high])[None, :, None, margin : len(time) - margin]
    optimizer = torch.optim.Adam(separator.parameters(), lr=1e-2)
    wanted = 0.02 * float(targets.square().mean())
    for _ in range(150):
        loss = (separator((low + high)[None, None]) - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < wanted:
            return
    pytest.fail(f"the loss is still {loss.item() / wanted:.2f} times what it should be")


@pytest.mark.parametrize("name", golden.SMALL)
def test_seeded_weights_give_the_stored_outputs(name):
    stored = json.loads(golden.FILE.read_text(encoding="utf-8"))[name]
    largest = max(map(abs, stored))
    assert golden.outputs(name) == pytest.approx(stored, rel=1e-4, abs=1e-4 * largest), (
        "The network computes something else, or its weights are drawn otherwise: models that were saved may give "
        "other stems. Where the change is meant, say why in the commit: .venv/bin/python tests/golden/networks.py"
    )


def test_outputs_of_every_network_are_stored():
    stored = json.loads(golden.FILE.read_text(encoding="utf-8"))
    assert set(stored) == set(golden.SMALL) == set(NETWORKS) - {"blocks"}
    assert all(len(outputs) == 16 and any(outputs) for outputs in stored.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_weights(name):
    one, other = (build(name, site="every_layer").state_dict() for _ in range(2))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


# Use


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_it_gives_the_same_output(tmp_path, name):
    separator = build(name, site="every_layer")
    save_separator(tmp_path / "model", separator, {})
    loaded = load_separator(tmp_path / "model", separator.config)
    mixture, context = mixture_for(separator), torch.rand(2, 1, 3)
    assert torch.equal(loaded(mixture, context), separator(mixture, context))
    assert loaded.config == separator.config


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("site", "length"), [("none", 1), ("every_layer", 320)])
def test_separated_in_blocks_it_gives_what_one_pass_gives(name, site, length):
    separator = build(name, site=site, op="attention", **FEATURES) if site != "none" else build(name)
    mixture, context = 0.3 * torch.randn(1, length), features(1, frames=13)[0] if site != "none" else None
    blocks = separate_all(separator, mixture, context, block_samples=100)
    assert (blocks - naive_separation(separator, mixture, context)).abs().max() < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_another_network_are_refused_by_its_name(tmp_path, name):
    save_separator(tmp_path / "model", build(name), {})
    other = next(other for other in NAMES if other != name)
    with pytest.raises(
        Exception, match=rf"wanted configuration, with network: {other}; got network: {name}. To fix: change the"
    ):
        load_separator(tmp_path / "model", config_of(other))
