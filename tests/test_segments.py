"""Models of libraries as networks: segments, conditions by hooks, matrices and refusals, beyond the contract of all."""

import copy
import threading

import pytest
import torch
from naive_apply import naive_separation
from test_networks import build, config_of
from torchaudio.models import ConvTasNet, HDemucs

from vimss.errors import ConfigError
from vimss.model import parse_model
from vimss.model.apply import separate_all
from vimss.model.conditioning import Context, FrameGrid


def noise(*shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def labels(*names: int, batch: int = 1) -> torch.Tensor:
    return torch.eye(3)[list(names)].expand(batch, -1, -1)


LIBRARY = {
    "conv_tasnet": lambda: ConvTasNet(3, 8, 24, 3, 12, 16, 2, 2),
    "hdemucs": lambda: HDemucs(["1", "2", "3"], audio_channels=1, channels=8, nfft=64, depth=3),
}
"""The models that the small networks are made of."""


@pytest.mark.parametrize("name", LIBRARY)
def test_a_network_gives_what_the_library_gives_for_each_segment(name):
    separator, library = build(name), LIBRARY[name]()
    own = separator.network.model.state_dict()
    kernels = {name.replace("parametrizations.weight.original", "weight"): value for name, value in own.items()}
    library.load_state_dict({name: kernels[name].view(like.shape) for name, like in library.state_dict().items()})
    margin = separator.config.margin_samples
    mixture = noise(1, 1, 3 * 64 + 2 * margin)
    pieces = [mixture[..., first : first + 64 + 2 * margin] for first in (0, 64, 128)]
    outputs = [library(piece).view(1, 3, 1, -1)[..., margin : margin + 64] for piece in pieces]
    torch.testing.assert_close(separator(mixture), torch.cat(outputs, -1))


def test_conv_tasnet_separates_each_channel_of_stereo_by_itself():
    stereo, mono = build("conv_tasnet", channels=2), build("conv_tasnet")
    mixture = noise(2, 2, 96)
    out = stereo(mixture)
    for channel in range(2):
        torch.testing.assert_close(out[:, :, channel], mono(mixture[:, channel : channel + 1])[:, :, 0])


@pytest.mark.parametrize("site", ["bottleneck", "output", "every_layer"])
def test_a_condition_acts_where_its_site_says(site):
    separator = build("conv_tasnet", site=site, outputs="queries")
    rows = {}
    for name, condition in separator.network.conditions.items():
        condition.register_forward_pre_hook(lambda _, inputs, name=name: rows.setdefault(name, inputs))
    separator(noise(1, 1, 96), labels(0, 1))
    assert rows.keys() == config_of("conv_tasnet").sites()[site].keys()
    for name, (layer, _, grid) in rows.items():
        # Frames of 8 samples every 4, the first of them centred on the beginning.
        assert layer.shape == (1, 2, 25, 1, config_of("conv_tasnet").sites()[site][name])
        assert (grid.first, grid.stride, grid.samples) == (-1, 4, 25)


def test_layers_of_later_segments_have_the_context_of_later_times():
    separator = build("conv_tasnet", site="bottleneck", outputs="queries")
    (condition,) = separator.network.conditions.values()
    firsts = []
    condition.register_forward_pre_hook(lambda _, inputs: firsts.append(inputs[2].first))
    separator(noise(1, 1, 3 * 64 + 32), labels(0))
    assert firsts == [-1, 63, 127]


def test_a_copy_is_conditioned_by_its_own_weights():
    separator = build("conv_tasnet", site="every_layer")
    mixture, context = noise(1, 1, 96), labels(1)
    before, copied = separator(mixture, context), copy.deepcopy(separator)
    with torch.no_grad():
        for weight in separator.network.conditions.parameters():
            weight.zero_()
    assert torch.equal(copied(mixture, context), before)
    assert not torch.equal(separator(mixture, context), before)


def test_passes_in_several_threads_do_not_mix_their_contexts():
    network = build("conv_tasnet", site="bottleneck", outputs="queries").network
    mixture, grid = noise(1, 1, 96), FrameGrid.spread(1, 96)
    contexts = [Context(torch.eye(3)[None, [label], None], grid) for label in range(2)]
    alone = [network(mixture, context) for context in contexts]
    # Both are inside their pass before one of them reaches its condition.
    barrier, found = threading.Barrier(2, timeout=60), {}
    network.model.encoder.register_forward_hook(lambda *_: print(barrier.wait()))

    def run(number):
        found[number] = network(mixture, contexts[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[number], alone[number]) for number in range(2))


@pytest.mark.parametrize("site", ["none", "every_layer"])
def test_hdemucs_with_recurrent_layers_gives_in_blocks_what_one_pass_gives(site):
    sizes = {"depth": 5, "filters": 4, "segment_samples": 256, "margin_samples": 128}
    separator = build("hdemucs", site=site, **sizes)
    assert any(isinstance(module, torch.nn.LSTM) for module in separator.modules())
    mixture, context = noise(1, 700), labels(0, 2)[0].amax(0, keepdim=True) if site != "none" else None
    blocks = separate_all(separator, mixture, context, block_samples=256)
    assert (blocks - naive_separation(separator, mixture, context)).abs().max() < 1e-6


def test_every_weight_of_a_large_hdemucs_has_a_gradient():
    separator = build("hdemucs", n_fft=4096, depth=5, filters=4, segment_samples=4096, margin_samples=0)
    separator(noise(1, 1, 4096)).square().mean().backward()
    assert [name for name, weight in separator.named_parameters() if weight.grad is None] == []


def test_matrices_are_the_convolutions_between_features():
    separator = build("conv_tasnet")
    shapes = [tuple(matrix.shape) for matrix in separator.matrices()]
    # Into the blocks; in, on and past each of four, the last of which has nothing to pass on; to three masks.
    block = [(16, 12), (12, 16), (12, 16)]
    assert shapes == [(12, 24), *block * 3, *block[:2], (72, 12)]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "conv_tasnet",
            {"enc_kernel_size": 7, "segment_samples": 63, "margin_samples": 15},
            "enc_kernel_size must be even: frames overlap by half",
        ),
        (
            "conv_tasnet",
            {"segment_samples": 66},
            "segment_samples must be a multiple of 4, the samples per frame of the network's slowest layer: 64 or 68",
        ),
        ("conv_tasnet", {"margin_samples": 2}, "margin_samples must be a multiple of 4, .* slowest layer: 0 or 4"),
        ("conv_tasnet", {"site": "decoder"}, "has no such site: choose from none, every_layer, bottleneck, output"),
        ("hdemucs", {"segment_samples": 65}, "segment_samples must be a multiple of 32, .* slowest layer: 64 or 96"),
        (
            "hdemucs",
            {"n_fft": 512, "segment_samples": 1024, "margin_samples": 0},
            "n_fft must be one of 64, 256, 1024, 2048, 4096, 16384 for network: hdemucs: with others, its waveforms",
        ),
        (
            "hdemucs",
            {"n_fft": 256, "depth": 2, "margin_samples": 64},
            "depth must be at least 3 with n_fft 256: there, waveforms and spectra join",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=f"test: .*{message}"):
        config_of(name, **settings)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_window_that_is_no_whole_number_of_segments_is_refused_with_the_nearest(name):
    message = "an output window must be 64 n .* with segment_samples 64; got 100 .* use 64 or 128 samples"
    with pytest.raises(ConfigError, match=message):
        config_of(name).geometry.input_samples(100)


@pytest.mark.parametrize(
    ("name", "settings", "seconds"),
    [
        ("conv_tasnet", {"enc_num_feats": 512, "msk_num_feats": 128, "msk_num_hidden_feats": 512, "msk_num_layers": 8,
                         "msk_num_stacks": 3, "segment_samples": 32000, "margin_samples": 0}, 4 * 8000),
        ("hdemucs", {"filters": 48, "n_fft": 4096, "depth": 6, "channels": 2, "segment_samples": 442368,
                     "margin_samples": 2048}, 442368),
    ],
)  # fmt: skip
def test_the_published_size_is_possible(name, settings, seconds):
    assert parse_model({"network": name, **settings}, "paper").geometry.smallest_window == seconds
