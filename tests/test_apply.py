"""Recordings of any length, block by block: equal to one pass over the whole, whatever the network and its context."""

import math

import pytest
import torch
from naive_apply import naive_separation, one_pass

from vimss.model.apply import separate_all, separate_blocks, separate_stream
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator

LABELS = ("fl", "va", "vc")
SMALL = {"levels": 3, "filters": 4, "max_filters": 9, "down_kernel": 9, "context": "features", "feature_size": 5}


def build(**settings) -> Separator:
    torch.manual_seed(0)
    separator = Separator(WaveUNetConfig(**{**SMALL, **settings}), LABELS, 8000).eval()
    with torch.no_grad():  # biases, null tokens and identities too: zeros would hide mistakes
        for parameter in separator.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return separator


def assert_blocks_equal_one_pass(separator, length=301, block_samples=100, frames=13):
    mixture = 0.3 * torch.randn(separator.config.channels, length)
    context = torch.randn(2, frames, 5) if separator.interface.is_conditioned else None
    blocks = separate_all(separator, mixture, context, block_samples)
    assert (blocks - naive_separation(separator, mixture, context)).abs().max() < 1e-6


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


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    "settings",
    [{"site": "decoder", "outputs": "queries"}, {"channels": 2, "site": "decoder"}, {"outputs": "slots", "slots": 3}],
    ids=str,
)
def test_outputs_that_share_the_mixture_do_so_in_blocks_as_in_one_pass(settings, padding):
    separator = build(padding=padding, share_mixture=True, **settings)
    assert_blocks_equal_one_pass(separator, length=6001, block_samples=1000)
    mixture = music(1.0).repeat(separator.config.channels, 1)
    context = torch.randn(2, 13, 5) if separator.interface.is_conditioned else None
    stems = separate_all(separator, mixture, context, block_samples=1000)
    assert (stems.sum(0) - mixture).abs().max() < 1e-6


def test_a_single_query_does_not_get_the_whole_mixture():
    alone, sharing = (build(site="decoder", outputs="queries", share_mixture=share) for share in (False, True))
    mixture, context = music(1.0), torch.randn(1, 13, 5)
    stem = separate_all(sharing, mixture, context)
    assert rms_db(stem - separate_all(alone, mixture, context)) < rms_db(stem) - 100


def test_outputs_that_sum_to_the_mixture_need_no_masks():
    with pytest.raises(ValueError, match="sum to the mixture without it"):
        build(output_type="difference", share_mixture=True)


def test_what_is_computed_at_once_does_not_grow_with_the_recording():
    separator = build(site="decoder")
    seen: list[tuple[int, int]] = []
    separator.network.register_forward_pre_hook(
        lambda _, inputs: seen.append((inputs[0].shape[-1], inputs[1].values.shape[2]))
    )
    largest = []
    for seconds in (60, 600):
        seen.clear()
        for _ in separate_blocks(separator, torch.zeros(1, seconds * 100), torch.randn(1, seconds, 5), 1000):
            pass
        largest.append((max(samples for samples, _ in seen), max(frames for _, frames in seen)))
    assert largest[0] == largest[1]


def rms_db(signal):
    return 10 * math.log10(float(signal.double().square().mean()) + 1e-30)


def music(seconds=3.0, rests=()):
    """Noise without offset; `rests` are (begin, end) in seconds."""
    sound = 0.1 * torch.randn(1, round(8000 * seconds), generator=torch.Generator().manual_seed(1))
    for begin, end in rests:
        sound[:, round(8000 * begin) : round(8000 * end)] = 0
    return sound


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_silence_in_is_silence_out(padding):
    separator = build(padding=padding, site="decoder", outputs="queries")
    silence, context = torch.zeros(1, 5000), torch.randn(2, 13, 5)
    assert one_pass(separator, silence, context).abs().mean() > 0.01
    assert not separate_all(separator, silence, context).any()


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("settings", [{}, {"output_type": "difference"}], ids=str)
def test_a_rest_is_silent_from_where_the_network_hears_nothing(padding, settings):
    separator = build(padding=padding, **settings)
    reach = separator.geometry.reach
    stems = separate_all(separator, music(3.0, [(1.0, 2.0)]), block_samples=1000)
    assert not stems[..., 8000 + reach : 16000 - reach].any()
    assert stems[..., 8000 : 8000 + reach // 2].abs().max() > 0.001
    # No click: between the last sample that sounds and the first that is silent there is a slope.
    assert stems.diff()[..., 8000 + reach // 2 : 8000 + reach].abs().max() < 0.02


def test_what_resampling_leaves_of_silence_is_silence():
    separator = build()
    assert not separate_all(separator, 0.5e-6 * torch.randn(1, 3000).clamp(-1.9, 1.9)).any()


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_outputs_have_no_offset(bias):
    separator = build()
    with torch.no_grad():
        separator.network.head.bias.fill_(bias)
    mixture = music()
    raw, stems = one_pass(separator, mixture), separate_all(separator, mixture)
    assert all(20 * math.log10(abs(float(row.mean()))) > rms_db(row) - 40 for row in raw)
    assert all(20 * math.log10(abs(float(row.double().mean()))) < rms_db(row) - 60 for row in stems)


def test_notes_stay_as_the_network_gives_them():
    """Down to the lowest note of a bass, 31 Hz; the offset alone is gone."""
    separator, seconds = build(), torch.arange(24000) / 8000
    mixture = 0.2 * torch.sin(2 * math.pi * 31 * seconds)[None] + 0.2 * torch.sin(2 * math.pi * 440 * seconds)[None]
    raw, stems = one_pass(separator, mixture)[..., 2000:-2000], separate_all(separator, mixture)[..., 2000:-2000]
    difference = raw - raw.mean(-1, keepdim=True) - stems
    assert all(rms_db(left) < rms_db(stem) - 40 for left, stem in zip(difference, stems, strict=True))


def test_outputs_of_the_difference_kind_sum_to_the_mixture_offset_and_all():
    separator = build(output_type="difference", channels=2)
    mixture = music().repeat(2, 1) + 0.05
    assert (separate_all(separator, mixture, block_samples=1000).sum(0) - mixture).abs().max() < 1e-6


def test_precision_and_place_of_the_mixture_do_not_change_the_rules():
    separator = build().double()
    mixture = music(1.0, [(0.3, 0.7)]).double()
    stems = separate_all(separator, mixture)
    assert stems.dtype == torch.float64 and (stems - naive_separation(separator, mixture)).abs().max() < 1e-12
    half = separate_all(build().to(torch.bfloat16), mixture.float())
    assert half.dtype == torch.bfloat16 and half.isfinite().all() and not half[..., 3500:4500].any()


def test_a_recording_may_be_read_as_it_is_needed():
    separator, mixture = build(), music(1.0)
    asked = []

    def read(first, last):
        asked.append((first, last))
        return mixture[:, first:last]

    blocks = list(separate_stream(separator, read, 8000, block_samples=1000))
    assert torch.equal(torch.cat(blocks, -1), separate_all(separator, mixture, block_samples=1000))
    assert all(0 <= first <= last <= 8000 for first, last in asked)
    assert max(last - first for first, last in asked) < 4000
