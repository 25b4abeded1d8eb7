"""Networks of packages that VIMSS does not always bring: what they give, what they refuse, and without the package."""

import copy
import sys

import pytest
import torch
from test_idle import manifest
from test_networks import build, config_of
from test_study import experiment

from vimss.errors import ConfigError
from vimss.model import NETWORKS, parse_model
from vimss.runtime import Place
from vimss.search.checks import check_experiment

LIBRARY = {
    "open_unmix": "openunmix",
    "scnet": "pymss-core",
    "bs_roformer": "pymss-core",
    "moises_light": "moises-light",
}
"""Network to package."""


def noise(*shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


# What they give


def same_weights(separator, library) -> None:
    """Give the library's own model the weights of a network."""
    network = separator.network.model
    own = getattr(network, "model", network).state_dict()
    kernels = {name.replace("parametrizations.weight.original", "weight"): value for name, value in own.items()}
    wanted = {name: like for name, like in library.state_dict().items() if not name.endswith("freqs")}
    library.load_state_dict({name: kernels[name].view(like.shape) for name, like in wanted.items()}, strict=False)


def test_scnet_gives_what_the_library_gives_for_each_segment():
    from pymss_core.modules.scnet import SCNet

    separator = build("scnet")
    library = SCNet(["1", "2", "3"], 1, [2, 8], nfft=32, hop_size=16, win_size=32, num_dplayer=2)
    same_weights(separator, library)
    mixture = noise(1, 1, 2 * 64 + 32)
    pieces = [library(mixture[..., first : first + 96])[..., 16:80] for first in (0, 64)]
    torch.testing.assert_close(separator(mixture), torch.cat(pieces, -1))


def test_moises_light_gives_what_the_library_gives_for_each_segment():
    from moises_light import MoisesLight

    separator = build("moises_light")
    attention = {"heads": 2, "dim_head": 4, "ff_mult": 2, "attn_dropout": 0, "proj_dropout": 0, "ff_dropout": 0}
    sizes = {"freq_dim": 16, "n_bands": 2, "G": 4, "n_enc": 1, "n_split_enc": 1, "n_rope": 1, "bn_factor": 4}
    library = MoisesLight(["1", "2", "3"], 1, 32, 16, 32, **sizes, transformer_params=attention, norm_name="LayerNorm")
    same_weights(separator, library.eval())
    mixture = noise(1, 1, 2 * 64 + 32)
    pieces = [library(mixture[..., first : first + 96])[..., 16:80] for first in (0, 64)]
    torch.testing.assert_close(separator(mixture), torch.cat(pieces, -1))


@pytest.mark.parametrize("channels", [1, 2])
def test_bs_roformer_gives_what_the_library_gives_with_frames_half_a_hop_later(channels):
    from pymss_core.modules.bs_roformer import BSRoformer

    separator = build("bs_roformer", channels=channels)
    sizes = {"depth": 1, "heads": 2, "dim_head": 4, "freqs_per_bands": (4, 4, 9), "mlp_expansion_factor": 1}
    stft = {"stft_n_fft": 32, "stft_hop_length": 16, "stft_win_length": 32}
    each = {"time_transformer_depth": 1, "freq_transformer_depth": 1}
    library = BSRoformer(8, stereo=channels == 2, num_stems=3, **sizes, **stft, **each).eval()
    same_weights(separator, library)
    # Its frames are centred on every 16th sample, ours between them; at its ends it mirrors the sound.
    mixture = torch.zeros(1, channels, 96)
    mixture[..., 25:70] = noise(1, channels, 45)
    torch.testing.assert_close(separator(mixture), library(mixture[..., 8:88])[..., 8:72], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_open_unmix_finds_the_gains_that_the_library_finds_for_a_mixture_that_stands_there_once_per_output(channels):
    from openunmix.model import OpenUnmix

    separator = build("open_unmix", channels=channels)
    ours, library = separator.network.model, OpenUnmix(17, 3 * channels, 16, 1)
    library.bn1, library.bn2, library.bn3 = torch.nn.LayerNorm(16), torch.nn.LayerNorm(16), torch.nn.Identity()
    weights = ours.model.state_dict()
    # Its first layer looks at the first of them alone.
    weights["fc1.weight"] = torch.nn.functional.pad(weights["fc1.weight"], (0, 2 * channels * 17))
    library.load_state_dict(weights)
    mixture = noise(1, channels, 96)
    spectrum = ours.stft(mixture)
    magnitudes = library(spectrum.abs().transpose(2, 3).repeat(1, 3, 1, 1)).transpose(2, 3).unflatten(1, (3, channels))
    stems = ours.stft.inverse(torch.polar(magnitudes, spectrum.angle().unsqueeze(1).expand_as(magnitudes)))
    torch.testing.assert_close(separator(mixture), stems[..., 16:80], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LIBRARY)
def test_evaluation_sees_weights_that_changed_since_the_last_time(name):
    separator = build(name)
    mixture = noise(1, 1, separator.input_samples(64))
    with torch.inference_mode():
        separator(mixture)
    with torch.no_grad():
        for weight in separator.parameters():
            weight.mul_(1.5)
    assert torch.equal(separator(mixture), copy.deepcopy(separator).train()(mixture))
    # What was kept of a pass without gradients does not break one with them.
    separator(mixture).sum().backward()


@pytest.mark.parametrize("name", LIBRARY)
def test_a_training_in_bfloat16_computes_nearly_what_one_in_single_precision_does(name):
    separator = build(name, site="every_layer", outputs="queries").train()
    mixture, context = noise(1, 1, separator.input_samples(64)), torch.eye(3)[None, :2]
    expected = separator(mixture, context)
    with torch.autocast("cpu", torch.bfloat16):
        found = separator(mixture, context)
    found.square().sum().backward()
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_the_last_layer_of_scnet_gives_its_inverse_stft_single_precision_where_it_computes_in_bfloat16():
    # As on GPUs: on CPUs, autocast leaves transposed convolutions as they are.
    last = build("scnet").network.model.decoder[-1][1].bfloat16()
    assert last(torch.zeros(1, 8, 6, 4, dtype=torch.bfloat16), [3, 2, 1], [3, 7, 7]).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "settings", "module", "first", "stride", "frames"),
    [
        ("open_unmix", {}, "model/bn1", 3, 8, 12),
        ("bs_roformer", {"depth": 2}, "model/layers/0/1", 7, 16, 6),
        ("scnet", {}, "encoder/0/globalconv", 0, 16, 8),
        ("moises_light", {"n_enc": 2}, "dec_light_us/0/act", 0, 16, 8),
        ("moises_light", {"n_enc": 2}, "ds/1/act", 24, 64, 2),
    ],
)
def test_a_layer_has_the_context_of_its_own_frames(name, settings, module, first, stride, frames):
    separator = build(name, site="every_layer", outputs="queries", **settings)
    rows = {}
    for key, condition in separator.network.conditions.items():
        condition.register_forward_pre_hook(lambda _, inputs, key=key: rows.setdefault(key, inputs))
    separator(noise(1, 1, separator.input_samples(64)), torch.eye(3)[None, :2])
    assert rows.keys() == separator.config.sites()["every_layer"].keys()
    layer, _, grid = rows[module]
    assert (grid.first, grid.stride, grid.samples) == (first, stride, frames)
    assert layer.shape[:3] == (1, 2, frames) and layer.shape[-1] == separator.config.sites()["every_layer"][module]


# What they refuse


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "open_unmix",
            {"hop_length": 20, "segment_samples": 80, "margin_samples": 20},
            "hop_length must be at most half of n_fft, .*: hop_length 16 or n_fft 40;",
        ),
        ("open_unmix", {"n_fft": 33}, "n_fft and hop_length must be even"),
        ("scnet", {"n_fft": 36}, "margin_samples must be at least half of n_fft, .*: 32 or more"),
        ("open_unmix", {"hidden_size": 15}, "hidden_size must be even: 14 or 16"),
        ("scnet", {"num_dplayer": 3}, "num_dplayer must be even, .* before it gives: 2 or 4"),
        ("scnet", {"dims": [8, 10]}, "dims must be multiples of 4: instead of 10, 8 or 12"),
        ("scnet", {"dims": [2]}, "dims must be multiples of 4: instead of 2, 4"),
        (
            "bs_roformer",
            {"n_fft": 30, "hop_length": 8},
            "must have .* = 16 bins in all, not 17: n_fft 32 or 8 bins",
        ),
        ("bs_roformer", {"freqs_per_bands": [9, 9]}, "= 17 bins in all, not 18: n_fft 34 or 8 bins in the last band"),
        ("bs_roformer", {"freqs_per_bands": [17, 0]}, "freqs_per_bands must be at least 1 each"),
        ("bs_roformer", {"dim_head": 3}, "dim_head must be even, as features are rotated in pairs: 2 or 4"),
        ("moises_light", {"dim_head": 3}, "dim_head must be even, as features are rotated in pairs: 2 or 4"),
        ("moises_light", {"freq_dim": 20}, r"freq_dim must be a multiple of n_bands 2, .* n_fft / 2 \+ 1 = 17: 16"),
        ("moises_light", {"freq_dim": 15}, "freq_dim must be a multiple of n_bands 2, .*: 14 or 16"),
        ("moises_light", {"G": 5}, "G must be a multiple of n_bands 2: 4 or 6"),
        ("moises_light", {"bn_factor": 9}, "bn_factor must be at most the bins of a band, 8"),
        ("moises_light", {"segment_samples": 72}, "segment_samples must be a multiple of 16, .*: 64 or 80"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_nearest_that_do(name, settings, message):
    with pytest.raises(ConfigError, match=f"test: .*{message}"):
        config_of(name, **settings)


BANDS = [2] * 24 + [4] * 12 + [12] * 8 + [24] * 8 + [48] * 8 + [128, 129]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("open_unmix", {"n_fft": 4096, "hop_length": 1024, "hidden_size": 512, "segment_samples": 262144,
                        "margin_samples": 4096}),
        ("scnet", {"n_fft": 4096, "hop_length": 1024, "dims": [32, 64, 128], "num_dplayer": 6,
                   "segment_samples": 481280, "margin_samples": 2048}),
        ("bs_roformer", {"n_fft": 2048, "hop_length": 512, "dim": 384, "depth": 12, "heads": 8, "dim_head": 64,
                         "mlp_expansion_factor": 4, "freqs_per_bands": BANDS, "segment_samples": 352256}),
        ("moises_light", {"n_fft": 6144, "hop_length": 1024, "freq_dim": 2048, "G": 32, "n_split_enc": 3, "n_rope": 6,
                          "dim_head": 32, "segment_samples": 264192, "margin_samples": 3072}),
    ],
)  # fmt: skip
def test_the_published_size_is_possible(name, settings):
    config = parse_model({"network": name, "channels": 2, **settings}, "paper")
    assert config.geometry.smallest_window == settings["segment_samples"]


# Without the package


def test_networks_of_packages_say_which():
    assert {name: ", ".join(kind.packages) for name, kind in NETWORKS.items() if kind.packages} == LIBRARY


@pytest.mark.parametrize("name", LIBRARY)
def test_an_experiment_with_a_network_whose_package_is_missing_is_refused_before_it_starts(monkeypatch, name):
    (module,) = NETWORKS[name].packages.values()
    monkeypatch.setitem(sys.modules, module, None)  # as Python notes a module that cannot be imported
    message = (
        rf"^network: {name} needs the package {LIBRARY[name]}; got an environment without it. "
        r"To fix: pip install 'vimss\[networks\]', wherever trials run$"
    )
    training = {"output_samples": 8192, "batch_size": 4}
    alone = experiment(model={"network": name}, tune={}, controls={}, training=training)
    compared = experiment(model={}, compare={"model.network": ("wave_u_net", name)}, tune={}, controls={})
    tuned = experiment(model={}, tune={"model.network": {"choices": ("wave_u_net", name)}}, controls={})
    for each in (alone, compared, tuned):
        with pytest.raises(ConfigError, match=message):
            check_experiment(each, manifest(), Place(name="here"))
    with pytest.raises(ConfigError, match=message):
        build(name)


def test_without_the_packages_the_other_networks_and_all_settings_are_there(monkeypatch):
    for kind in NETWORKS.values():
        for module in kind.packages.values():
            monkeypatch.setitem(sys.modules, module, None)
    assert all(kind().geometry.smallest_window and kind().sites() for kind in NETWORKS.values())
    for name in set(NETWORKS) - set(LIBRARY):
        config_of(name).check_installed()
