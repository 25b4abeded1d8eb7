"""The contract of every context: what it shows of a player, and what that does to the network."""

import re
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from vimss.config import key_paths
from vimss.errors import DataError, ModelError
from vimss.model import ModelConfig, VisionConfig
from vimss.model.config import Site
from vimss.model.contexts import CONTEXTS, Context
from vimss.model.networks.wave_u_net.config import WaveUNetConfig
from vimss.model.separator import Separator
from vimss.shards.clip import Clip, Player
from vimss.stream.read import PARTS

LABELS = ("fl", "va", "vc")
SITES = tuple(site for site in get_args(Site) if site != "none")
FRAMES, SIDE, RATE = 3, 16, 8000

each = pytest.mark.parametrize("name", CONTEXTS)


def config(name, **settings) -> ModelConfig:
    """A small network, with the context's own settings as they are by default."""
    small = {"levels": 2, "filters": 4, "down_kernel": 5, "outputs": "queries", "site": "output"}
    vision = VisionConfig(network="compact", weights="random")
    return WaveUNetConfig(**{**small, "vision": vision, "context": name, **settings})


def context_of(name) -> Context:
    return CONTEXTS[name](config(name), LABELS)


def player(label, seed, width=1) -> Player:
    """Of whom a clip holds everything, vectors of this width."""
    rng = np.random.default_rng(seed)
    return Player(
        label,
        label,
        picture=rng.integers(0, 256, (FRAMES, SIDE, SIDE, 3), np.uint8),
        audio=rng.integers(-9000, 9000, (1, 6000), np.int16),
        features=rng.random((FRAMES, width)).astype(np.float16),
        skeleton=rng.random((FRAMES, width)).astype(np.float16),
    )


def clip(*players) -> Clip:
    return Clip("piece", 0, 6000, RATE, players, 4.0)


def array(context, batch=3, rows=2, seed=0) -> Tensor:
    """Rows of the shape that the context says, at random."""
    any_size = iter([2000] if context.example_seconds else [FRAMES, SIDE, SIDE])
    shape = (batch, rows, *(next(any_size) if size < 0 else size for size in context.view_shape))
    rng = np.random.default_rng(seed)
    if context.dtype is np.uint8:
        return torch.from_numpy(rng.integers(0, 256, shape, np.uint8))
    return torch.from_numpy(rng.random(shape).astype(context.dtype))


def another(rows: Tensor) -> Tensor:
    return 255 - rows if rows.dtype == torch.uint8 else rows + 1


def separator_of(name, **settings) -> Separator:
    torch.manual_seed(0)
    separator = Separator(config(name, **settings), LABELS, RATE)
    with torch.no_grad():
        for parameter in separator.unet.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return separator


def mixture_for(separator, batch=3) -> Tensor:
    samples = separator.input_samples(separator.geometry.window_at_least(30))
    return 0.3 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(1))


def test_the_settings_name_the_contexts_that_there_are():
    assert get_args(ModelConfig.model_fields["context"].annotation) == tuple(CONTEXTS)
    described = ModelConfig.model_fields["context"].description
    assert all(re.search(rf"\b{name}: \w+ ", described) for name in CONTEXTS)


@each
def test_it_has_all_members_of_the_protocol(name):
    context = context_of(name)
    assert isinstance(context, Context)
    assert bool(context.source) == bool(context.members)
    assert context.uses_players == bool(context.source or context.example_seconds)
    assert set(context.members) <= set(PARTS) and set(context.source.split()) <= set(PARTS)
    assert context.computed == (context.members == ("features",))


@each
def test_its_settings_are_keys_of_every_model(name):
    kind = CONTEXTS[name].Settings
    assert isinstance(config(name), kind)
    for key, field in kind.model_fields.items():
        own = ModelConfig.model_fields[key]
        assert (own.annotation, own.description) == (field.annotation, field.description), "two contexts have this key"
    assert set(CONTEXTS[name].idle) <= set(key_paths(kind))


@each
def test_what_it_reads_is_prepared_in_a_folder_beside_the_shards_where_it_is_computed(name, small_manifest):
    context = context_of(name)
    if not context.computed:
        assert context.prepare(small_manifest) == ""


@each
def test_a_players_view_depends_on_that_player_alone(name):
    context = context_of(name)
    players = [player("fl", 0, context.width), player("vc", 1, context.width)]
    view = context.of_player(clip(*players), players[0])
    assert all(wanted in (-1, size) for size, wanted in zip(view.shape, context.view_shape, strict=True))
    assert not context.uses_players or len(view) == (1 if context.example_seconds else FRAMES)
    np.testing.assert_array_equal(context.of_player(clip(players[0], player("va", 2, context.width)), players[0]), view)
    other = replace(player("va", 3, context.width), part="fl")
    assert not np.array_equal(context.of_player(clip(other, players[1]), other), view)


@pytest.mark.parametrize("name", [name for name, context in CONTEXTS.items() if context.uses_players])
def test_a_player_who_is_not_shown_is_named(name):
    bare = Player("fl", "first flute")
    rule = f"model.context: {name} needs .* of every player; got none for first flute in piece_000000000. To fix: "
    with pytest.raises(DataError, match=rule):
        context_of(name).of_player(clip(bare), bare)


@each
def test_every_row_is_encoded_by_itself_as_vectors_of_its_width(name):
    context = context_of(name)
    rows, modules = array(context), context.modules(RATE)
    vectors = context.encode(rows, None, modules, torch.float32)
    assert vectors.shape[:2] == (3, 2) and vectors.shape[-1] == context.width and vectors.dtype == torch.float32
    changed = rows.clone()
    changed[2, 1] = another(rows[2, 1])
    moved = (context.encode(changed, None, modules, torch.float32) != vectors).any(-1).any(-1)
    assert moved.nonzero().tolist() == [[2, 1]]


@each
def test_vectors_are_about_as_long_as_their_norm(name):
    # First weights are divided by it, so that no context drowns the layer that it changes.
    context = context_of(name)
    rows = array(context) if context.uses_players else torch.eye(len(LABELS))[None]
    length = float(context.encode(rows, None, context.modules(RATE), torch.float32).detach().norm(dim=-1).mean())
    assert 0.2 * context.norm < length < 5 * context.norm


@each
def test_an_array_of_another_shape_is_refused(name):
    context = context_of(name)
    with pytest.raises(ModelError, match=r"the model takes .* as batch x .*; got 2x1x1\. To fix: see `context`"):
        context.encode(torch.zeros(2, 1, 1), None, context.modules(RATE), torch.float32)


@each
@pytest.mark.parametrize("site", SITES)
def test_the_context_of_an_example_changes_its_own_output_at_every_site(name, site):
    separator = separator_of(name, site=site)
    mixture, rows = mixture_for(separator), array(separator.interface.context)
    changed = rows.clone()
    changed[2, 1] = another(rows[2, 1])
    moved = (separator(mixture, changed) != separator(mixture, rows)).any(-1).any(-1)
    assert moved.nonzero().tolist() == [[2, 1]]


@each
def test_without_a_site_it_changes_nothing(name):
    separator = separator_of(name, site="none", outputs="instruments")
    mixture, context = mixture_for(separator), separator.interface.context
    assert torch.equal(separator(mixture, array(context)), separator(mixture))
    assert not any(module in dict(separator.named_children()) for module in context.modules(RATE))


@pytest.mark.parametrize("name", [name for name, context in CONTEXTS.items() if context.uses_players])
@pytest.mark.parametrize("outputs", ["queries", "instruments"])
def test_players_who_are_padding_change_nothing(name, outputs):
    separator = separator_of(name, outputs=outputs)
    mixture, rows = mixture_for(separator), array(separator.interface.context)
    players = torch.tensor([[True, True], [True, False], [True, True]])
    changed = rows.clone()
    changed[1, 1] = another(rows[1, 1]) if rows.dtype == torch.uint8 else torch.nan
    assert torch.equal(separator(mixture, changed, players), separator(mixture, rows, players))


@each
def test_its_weights_are_in_the_separator_under_their_names(name):
    separator = separator_of(name)
    for module, made in separator.interface.context.modules(RATE).items():
        assert getattr(separator, module).state_dict().keys() == made.state_dict().keys()


def test_contexts_and_interface_load_without_torch_and_codecs():
    code = (
        "import sys, vimss.model.contexts; assert 'av' not in sys.modules; import vimss.model.interface; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
