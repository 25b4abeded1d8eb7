"""The separator: conditioned by what it is told, exact on any length, saved and loaded whole."""

from typing import get_args

import pytest
import torch
from naive_apply import naive_separation
from small_separator import LABELS, build, features_for, mixture_for, small

from vimss.config import parse_config
from vimss.errors import ConfigError, ModelError
from vimss.model import VisionConfig
from vimss.model.apply import separate_all, separate_blocks
from vimss.model.conditioning import FrameGrid
from vimss.model.config import Op, Site
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import CARD, WEIGHTS, Separator, load_separator, save_separator
from vimss.train.config import TrainingConfig
from vimss.train.optimize import make_optimizers

SITES = tuple(site for site in get_args(Site) if site != "none")
OPS = get_args(Op)


# Conditions


REFUSED = {
    ("queries", False): "outputs: queries needs a site: without one, every query would get the same answer",
    ("slots", True): "outputs: slots takes no context, so its site must be none",
}
"""Kind of outputs and whether there is a site, to the reason against both together."""


CONTEXTS = get_args(WaveUNetConfig.model_fields["context"].annotation)

CONDITIONS = [
    *((context, site, "film") for context in CONTEXTS for site in ("none", "decoder")),  # without a site op is idle
    *(("features", site, op) for site in SITES for op in OPS if (site, op) != ("decoder", "film")),
    *(("labels", "every_layer", op) for op in OPS),
]
"""Each context with and without a site; each operation at each site with vectors in time, and with the one vector of a
label. A context gives a network its vectors, and what is done with them is the same for all contexts."""


@pytest.mark.parametrize("outputs", get_args(WaveUNetConfig.model_fields["outputs"].annotation))
@pytest.mark.parametrize(("context", "site", "op"), CONDITIONS)
def test_every_condition_acts_on_its_own_example_or_is_refused(context, op, site, outputs):
    settings = {"context": context, "op": op, "site": site, "outputs": outputs, "vision": TINY_VISION}
    settings |= {"features": {"feature_size": 5}, "skeleton": {"skeleton_size": 5}}.get(context, {})
    if (outputs, site != "none") in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[outputs, site != "none"]):
            parse_config(settings, WaveUNetConfig, "model")
        return
    separator = build(**settings)
    names = {name for name, weight in separator.named_parameters() if weight.requires_grad}
    mixture, given, players = mixture_for(separator, batch=3), _context_for(separator), None
    if context != "labels":
        players = torch.tensor([[True, True], [True, False], [True, True]])
    before = separator(mixture, given, players)

    # All weights exist from the start, belong to an optimizer and learn: the original made FiLM layers too late.
    before.square().mean().backward()
    weights = {name: weight for name, weight in separator.named_parameters() if weight.requires_grad}
    assert weights.keys() == names
    assert [name for name, weight in weights.items() if weight.grad is None or not weight.grad.any()] == []
    for optimizer in get_args(TrainingConfig.model_fields["optimizer"].annotation):
        made = make_optimizers(separator, TrainingConfig(optimizer=optimizer), torch.device("cpu"))
        held = [id(weight) for one in made for group in one.param_groups for weight in group["params"]]
        assert sorted(held) == sorted(id(weight) for weight in weights.values())

    # The context acts on its own example alone: the original tiled labels over the batch in the wrong order.
    changed = given.clone()
    changed[2, 0] = _another(given[2, 0])
    moved = (separator(mixture, changed, players) - before).detach().abs().amax((2, 3)) > 0
    if site == "none":
        assert not moved.any() and torch.equal(separator(mixture), before)
    elif outputs == "instruments":
        assert moved.any(1).tolist() == [False, False, True]
    else:
        assert moved.nonzero().tolist() == [[2, 0]]

    # A player who is not there changes nothing.
    if players is not None:
        changed = given.clone()
        changed[1, 1] = _another(given[1, 1])
        assert torch.equal(separator(mixture, changed, players), before)


TINY_VISION = VisionConfig(network="compact", weights="random")


def _context_for(separator, batch=3, count=2):
    """Random, for two queries or players; of labels, one row where all outputs share it."""
    generator = torch.Generator().manual_seed(4)
    match separator.config.context:
        case "labels":
            count = 1 if separator.config.outputs == "instruments" else count
            return torch.rand(batch, count, len(LABELS), dtype=torch.float64, generator=generator)
        case "features" | "skeleton" | "motion":
            width = separator.interface.context.width
            return torch.randn(batch, count, 3, width, dtype=torch.float64, generator=generator)
        case "frames":
            return torch.randint(0, 256, (batch, count, 1, 16, 16, 3), dtype=torch.uint8, generator=generator)
        case "example":
            return torch.rand(batch, count, 1, len(LABELS) + 2000, dtype=torch.float64, generator=generator)


def _another(context):
    return 255 - context if context.dtype == torch.uint8 else context + 1


def test_conditioning_at_the_output_is_no_constant():
    # A linear output: behind tanh, a constant would look like something that varies.
    separator = build(op="concat", site="output", outputs="queries", output_activation="linear")
    mixture = mixture_for(separator)
    out = separator(mixture, torch.eye(3, dtype=torch.float64)[:2].expand(2, 2, 3))
    assert (out[:, 0] - out[:, 1]).std(-1).min() > 1e-4


def test_site_none_has_no_conditioning_weights_and_ignores_the_context():
    # The original's 'none' was a truthy string.
    separator = build(site="none")
    mixture = mixture_for(separator)
    assert len(separator.network.conditions) == 0
    assert torch.equal(separator(mixture, torch.rand(2, 1, 3)), separator(mixture))


@pytest.mark.parametrize("op", ["add", "multiply", "film"])
def test_a_zero_context_leaves_the_network_as_it_is(op):
    conditioned, plain = build(op=op, site="every_layer"), build(site="none")
    weights = {name: value for name, value in conditioned.state_dict().items() if "conditions" not in name}
    plain.load_state_dict(weights)
    mixture = mixture_for(plain)
    torch.testing.assert_close(conditioned(mixture, torch.zeros(2, 1, 3)), plain(mixture))


@pytest.mark.parametrize("site", SITES)
def test_many_queries_equal_separate_passes(site):
    separator = build(site=site, outputs="queries")
    mixture, context = mixture_for(separator), torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    one_by_one = torch.cat([separator(mixture, context[:, query : query + 1]) for query in range(3)], dim=1)
    torch.testing.assert_close(separator(mixture, context), one_by_one)


@pytest.mark.parametrize("padding", [100.0, torch.nan, torch.inf])
@pytest.mark.parametrize("outputs", ["instruments", "queries"])
def test_players_who_are_padding_change_nothing(outputs, padding):
    separator = build(context="features", feature_size=5, site="decoder", outputs=outputs)
    mixture, context = mixture_for(separator), features_for(separator)
    players = torch.tensor([[True, True, False], [True, False, False]])
    changed = context.masked_fill(~players[:, :, None, None], padding)
    assert torch.equal(separator(mixture, changed, players), separator(mixture, context, players))


def test_pooling_sees_real_players_only():
    separator = build(context="features", feature_size=5, site="decoder")
    mixture, context = mixture_for(separator), -features_for(separator).abs()
    first = torch.tensor([[True, False, False]] * 2)
    assert torch.equal(separator(mixture, context, first), separator(mixture, context[:, :1]))


def test_no_real_player_is_no_context():
    separator = build(context="features", feature_size=5, site="decoder")
    mixture, nobody = mixture_for(separator), torch.zeros(2, 3, dtype=torch.bool)
    out = separator(mixture, features_for(separator), nobody)
    torch.testing.assert_close(out, separator(mixture, torch.zeros(2, 1, 1, 5, dtype=torch.float64)))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("op", OPS)
def test_a_flash_acts_at_its_own_time(op, site):
    separator = build(op=op, site=site, context="features", feature_size=5)
    mixture = mixture_for(separator, batch=1, at_least=800)
    samples, frames, lit = mixture.shape[-1], 40, 23
    dark = torch.zeros(1, 1, frames, 5, dtype=torch.float64)
    flash = dark.clone()
    flash[:, :, lit] = 3.0
    change = (separator(mixture, flash) - separator(mixture, dark)).square().sum((0, 1, 2))
    centre = (change * torch.arange(len(change))).sum() / change.sum() + separator.geometry.context // 2
    assert abs(centre.item() + 0.5 - (lit + 0.5) / frames * samples) < max(samples / frames, separator.geometry.stride)


def test_frames_may_be_placed_anywhere():
    separator = build(op="add", site="output", context="features", feature_size=5)
    mixture, context = mixture_for(separator), features_for(separator)
    spread = FrameGrid.spread(4, mixture.shape[-1])
    assert torch.equal(separator(mixture, context, None, spread), separator(mixture, context))
    assert not torch.equal(separator(mixture, context, None, FrameGrid(0.0, 1.0)), separator(mixture, context))


# Recordings of any length


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("site", ["none", "every_layer", "output"])
@pytest.mark.parametrize("frames", [1, 7, 90])
def test_blocks_equal_one_pass(padding, site, frames):
    separator = build(torch.float32, padding=padding, site=site, context="features", feature_size=5, op="attention")
    mixture, context = 0.3 * torch.randn(1, 701), torch.randn(2, frames, 5)
    blocks = separate_all(separator, mixture, context, block_samples=100)
    assert (blocks - naive_separation(separator, mixture, context)).abs().max() < 1e-6


def test_block_length_does_not_matter():
    separator = build(torch.float32, site="decoder", outputs="queries")
    mixture, context = 0.3 * torch.randn(1, 333), torch.from_numpy(separator.interface.context_of(["fl", "vc"]))
    short, long = (separate_all(separator, mixture, context, block) for block in (1, None))
    assert (short - long).abs().max() < 1e-6


def test_separation_yields_blocks_and_reports_seconds():
    separator = build(torch.float32)
    seconds: list[float] = []
    blocks = separate_blocks(separator, torch.zeros(1, 1000), None, 400, seconds.append)
    assert next(blocks).shape == (3, 1, 400)
    assert [block.shape[-1] for block in blocks] == [400, 200]
    assert seconds == [0.05, 0.1, 0.125]


def test_an_empty_recording_has_empty_outputs():
    assert separate_all(build(torch.float32), torch.zeros(1, 0)).shape == (3, 1, 0)


def test_stereo_for_a_mono_model_is_refused():
    with pytest.raises(ModelError, match="this model takes 1 audio channels; got 2"):
        separate_all(build(torch.float32), torch.zeros(2, 100))


# Saving


def test_saved_and_loaded_gives_the_same_output(tmp_path):
    separator = build(torch.float32, site="every_layer", op="attention", upsampling="learned")
    save_separator(tmp_path / "model", separator, {"rate": 1})
    loaded = load_separator(tmp_path / "model", separator.config)
    mixture, context = mixture_for(separator), torch.eye(3)[None, :1].expand(2, 1, 3)
    assert torch.equal(loaded(mixture, context), separator(mixture, context))
    assert (loaded.labels, loaded.sample_rate, loaded.config) == (LABELS, 8000, separator.config)


def test_weights_cut_short_are_refused(tmp_path):
    save_separator(tmp_path, build(torch.float32), {})
    content = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(content[:-100])
    with pytest.raises(ModelError, match=r"must have the SHA-256 digest .* cut short or changed"):
        load_separator(tmp_path)


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_missing_file_of_a_model_is_named(tmp_path, name):
    save_separator(tmp_path, build(torch.float32), {})
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=f"must hold a? ?{name}"):
        load_separator(tmp_path)


def test_weights_of_another_configuration_name_the_first_key_that_differs(tmp_path):
    save_separator(tmp_path, build(torch.float32), {})
    with pytest.raises(ModelError, match="with levels: 4; got levels: 3"):
        load_separator(tmp_path, small(levels=4, filters=8))


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            {"expected": small(vision=VisionConfig(network="resnet50"), feature_size=512)},
            "vision.network: resnet50; got vision.network: resnet18",
        ),
        ({"expected": small(vision=VisionConfig(frozen=False))}, "vision.frozen: False; got vision.frozen: True"),
        ({"labels": ("va", "fl")}, r"labels: \['va', 'fl'\]; got labels: \['fl', 'va', 'vc'\]"),
        ({"sample_rate": 22050}, "sample_rate: 22050; got sample_rate: 8000"),
    ],
)
def test_weights_of_another_vision_labels_or_rate_name_the_key_that_differs(tmp_path, expected, message):
    save_separator(tmp_path, build(torch.float32), {})
    with pytest.raises(ModelError, match=message):
        load_separator(tmp_path, **expected)


def test_weights_that_do_not_fit_their_description_name_the_first_one(tmp_path):
    save_separator(tmp_path, build(torch.float32), {})
    card = (tmp_path / CARD).read_text().replace('"down_kernel": 9', '"down_kernel": 7')
    (tmp_path / CARD).write_text(card)
    with pytest.raises(ModelError, match=r"must have unet.down.0.weight of shape \[4, 7\].* got shape \[4, 9\]"):
        load_separator(tmp_path)


def test_a_card_without_labels_is_refused(tmp_path):
    save_separator(tmp_path, build(torch.float32), {})
    (tmp_path / CARD).write_text((tmp_path / CARD).read_text().replace('"labels"', '"names"'))
    with pytest.raises(ModelError, match=r"must have the key 'labels'"):
        load_separator(tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outputs": "queries"}, "outputs: queries needs a site"),
        ({"outputs": "slots", "site": "decoder"}, "outputs: slots takes no context"),
        ({"outputs": "queries", "site": "output", "output_type": "difference"}, "needs a fixed set of outputs"),
        ({"outputs": "slots", "slots": 1, "output_type": "difference"}, "one slot would return the mixture"),
        ({"up_kernel": 4}, "up_kernel must be odd"),
        ({"down_kernel": 8}, "down_kernel must be odd"),
        ({"vision": {"network": "mobilenet_v2", "weights": "random"}}, "give features of 1e-10"),
    ],
)
def test_impossible_settings_say_why(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(settings, WaveUNetConfig, "model")


def test_an_impossible_window_names_the_nearest_two():
    with pytest.raises(ConfigError, match=r"got 16839 samples. To fix: use 16389 or 20485 samples"):
        Separator(WaveUNetConfig(filters=1), LABELS, 22050).input_samples(16839)


def test_a_clip_too_short_for_any_window_is_refused():
    with pytest.raises(ConfigError, match="at least 5 samples with 12 levels; got room for 4"):
        WaveUNetConfig().geometry.window_at_most(4)


def test_a_label_outside_the_vocabulary_lists_it():
    with pytest.raises(ModelError, match=r"got 'gong'. To fix: choose from fl, va, vc"):
        build(site="decoder").interface.context_of(["fl", "gong"])


def test_label_contexts_are_one_row_or_one_per_query():
    assert build(site="decoder").interface.context_of(["vc", "fl"]).tolist() == [[1, 0, 1]]
    queries = build(site="decoder", outputs="queries").interface
    assert queries.context_of(["vc", "fl"]).tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("settings", "context", "message"),
    [
        ({}, None, "takes a context of labels, because its site is decoder; got none"),
        ({}, torch.zeros(2, 1, 4), "takes labels as batch x queries x 3; got 2x1x4"),
        ({"context": "features"}, torch.zeros(2, 1, 4), "takes features as batch x players x frames x 512; got 2x1x4"),
        ({}, torch.zeros(1, 1, 3), "takes one context per mixture; got 1 contexts for 2 mixtures"),
    ],
)
def test_a_context_that_does_not_fit_is_refused(settings, context, message):
    separator = build(site="decoder", **settings)
    with pytest.raises(ModelError, match=message):
        separator(mixture_for(separator), context)


def test_fewer_pictures_than_players_are_refused():
    separator = build(context="features", feature_size=5, site="decoder")
    with pytest.raises(ModelError, match=r"takes one picture sequence per player \(4\); got 3"):
        separator(mixture_for(separator), features_for(separator), torch.ones(2, 4, dtype=torch.bool))
