"""Recordings of any length, block by block: equal to one pass over the whole, whatever the network and its context."""

import pytest
import torch
import torch.nn.functional as F

from vimss.model import ModelConfig
from vimss.model.apply import separate, separate_all
from vimss.model.conditioning import FrameGrid
from vimss.model.separator import Separator

LABELS = ("fl", "va", "vc")
SMALL = {"levels": 3, "filters": 4, "max_filters": 9, "down_kernel": 9, "context": "features", "feature_size": 5}


def build(**settings) -> Separator:
    torch.manual_seed(0)
    separator = Separator(ModelConfig(**{**SMALL, **settings}), LABELS, 8000).eval()
    with torch.no_grad():  # biases, null tokens and identities too: zeros would hide mistakes
        for parameter in separator.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return separator


def assert_blocks_equal_one_pass(separator, length=701, block_samples=100, frames=13):
    mixture = 0.3 * torch.randn(separator.config.channels, length)
    context = torch.randn(2, frames, 5) if separator.listens else None
    blocks = separate_all(separator, mixture, context, block_samples)
    assert (blocks - one_pass(separator, mixture, context)).abs().max() < 1e-6


def one_pass(separator, mixture, context):
    """The recording as one window, with zeros beyond its ends."""
    length = mixture.shape[1]
    window = separator.geometry.window_at_least(length)
    before = separator.geometry.context // 2
    padded = F.pad(mixture, (before, separator.input_samples(window) - before - length))
    with torch.no_grad():
        if context is None:
            return separator(padded[None])[0, ..., :length]
        spread = FrameGrid.spread(context.shape[1], length)
        frames_at = FrameGrid(spread.first + before, spread.step)
        return separator(padded[None], context[None], None, frames_at)[0, ..., :length]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("site", ["every_layer", "decoder", "bottleneck", "output"])
@pytest.mark.parametrize("op", ["concat", "add", "multiply", "film", "attention"])
def test_queries_in_blocks_equal_one_pass(op, site, padding):
    assert_blocks_equal_one_pass(build(op=op, site=site, padding=padding, outputs="queries"))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"channels": 2, "output_type": "difference"},
        {"upsampling": "learned"},
        {"outputs": "slots", "slots": 3, "gain": 10.0},
        {"down_kernel": 15, "up_kernel": 3},
        {"levels": 1},
    ],
    ids=str,
)
def test_blocks_of_every_kind_of_network_equal_one_pass(settings, padding):
    assert_blocks_equal_one_pass(build(padding=padding, **settings))


@pytest.mark.parametrize("length", [1, 5, 99, 100, 104, 105, 201])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_blocks_of_any_length_equal_one_pass(length, padding):
    assert_blocks_equal_one_pass(build(padding=padding, site="decoder"), length, 96)


def test_what_is_computed_at_once_does_not_grow_with_the_recording():
    separator = build(site="decoder")
    seen: list[tuple[int, int]] = []
    separator.unet.register_forward_pre_hook(
        lambda _, inputs: seen.append((inputs[0].shape[-1], inputs[1].values.shape[2]))
    )
    largest = []
    for seconds in (60, 600):
        seen.clear()
        for _ in separate(separator, torch.zeros(1, seconds * 100), torch.randn(1, seconds, 5), 1000):
            pass
        largest.append((max(samples for samples, _ in seen), max(frames for _, frames in seen)))
    assert largest[0] == largest[1]
