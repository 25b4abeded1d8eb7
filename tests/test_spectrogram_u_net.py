"""The spectrogram U-Net beyond the contract of all networks: its transforms, masks, windows and refusals."""

import math

import pytest
import torch
from naive_apply import naive_separation

from vimss.errors import ConfigError
from vimss.model import parse_model
from vimss.model.apply import separate_all
from vimss.model.networks.spectra.transform import Stft, log_frequency
from vimss.model.networks.spectra.u_net import COMPRESSION
from vimss.model.networks.spectrogram_u_net import SpectrogramUNetConfig
from vimss.model.separator import Separator

LABELS = ("fl", "va", "vc")
KINDS = [
    {"frequency": frequency, "estimate": estimate} for frequency in ("linear", "log") for estimate in ("mask", "map")
]


def small(**settings) -> SpectrogramUNetConfig:
    own = {"n_fft": 64, "hop_length": 16, "depth": 2, "filters": 4, "kernel_size": 3, "network": "spectrogram_u_net"}
    bands = {"bins": 20} if settings.get("frequency") == "log" else {}
    return parse_model({**own, **bands, **settings}, "test")


def build(**settings) -> Separator:
    torch.manual_seed(0)
    separator = Separator(small(**settings), LABELS, 8000).eval()
    with torch.no_grad():
        for parameter in separator.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return separator


def noise(*shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def with_output(separator: Separator, number: float) -> Separator:
    """The last layer gives the same number everywhere."""
    with torch.no_grad():
        separator.network.head.weight.zero_()
        separator.network.head.bias.fill_(number)
    return separator


# Transforms


@pytest.mark.parametrize(("n_fft", "hop_length"), [(64, 16), (64, 32), (64, 48), (62, 10), (16, 2)])
def test_a_signal_comes_back_from_its_spectrum(n_fft, hop_length):
    stft, signal = Stft(n_fft, hop_length), noise(2, 1, 20 * hop_length)
    spectrum = stft(signal)
    assert spectrum.shape == (2, 1, 20, n_fft // 2 + 1)
    inner = slice(n_fft, -n_fft)
    torch.testing.assert_close(stft.inverse(spectrum)[..., inner], signal[..., inner], atol=1e-5, rtol=0)


def test_a_sine_of_full_scale_has_a_magnitude_of_one_at_its_frequency():
    sine = torch.sin(2 * math.pi * 5 / 64 * torch.arange(640))
    magnitude = Stft(64, 16)(sine[None]).abs()[0, 4:-4]
    torch.testing.assert_close(magnitude[:, 5], torch.ones(len(magnitude)))
    assert magnitude[:, 10:].max() < 1e-5


def test_a_click_is_in_the_frames_around_its_own_stretch_alone():
    click = torch.zeros(1, 640)
    click[0, 328] = 1  # the middle of the 21st stretch of 16 samples
    energy = Stft(64, 16)(click).abs().square().sum(-1)[0]
    assert energy.argmax() == 20 and energy.nonzero().ravel().tolist() == [19, 20, 21] and energy[19] == energy[21]


@pytest.mark.parametrize("bands", [20, 60, 129])
def test_what_is_equal_at_all_frequencies_is_so_on_bands_and_back(bands):
    to_bands, to_bins = log_frequency(129, bands)
    torch.testing.assert_close(to_bands @ torch.ones(129), torch.ones(bands))
    torch.testing.assert_close(to_bins @ torch.ones(bands), torch.ones(129))


def test_bands_lie_on_the_grid_of_the_sound_of_pixels():
    to_bands, _ = log_frequency(1001, 65)
    centres = to_bands @ torch.arange(1001.0) / 1000
    wanted = (21 ** (torch.arange(65) / 64) - 1) / 20
    # The triangles of both ends lack a half.
    torch.testing.assert_close(centres[1:-1], wanted[1:-1], atol=1e-3, rtol=0)
    assert to_bands[0, 0] > 0.1 and to_bands[-1, -1] > 0


def test_a_slope_over_the_bands_is_the_logarithm_of_the_frequency():
    _, to_bins = log_frequency(129, 60)
    wanted = torch.log1p(20 * torch.arange(129) / 128) / math.log(21)
    torch.testing.assert_close(to_bins @ (torch.arange(60) / 59), wanted)


# Estimates


@pytest.mark.parametrize("frequency", ["linear", "log"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("number", "share"), [(30.0, 1.0), (0.0, 0.5), (-30.0, 0.0)])
def test_a_known_mask_gives_that_share_of_the_mixture(frequency, channels, number, share):
    separator = with_output(build(frequency=frequency, channels=channels), number)
    mixture = noise(1, channels, separator.input_samples(640))
    margin = separator.geometry.context // 2
    wanted = share * mixture[:, None, :, margin:-margin].expand(1, 3, channels, 640)
    torch.testing.assert_close(separator(mixture), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("frequency", ["linear", "log"])
def test_a_known_map_gives_its_magnitude_with_the_phase_of_the_mixture(frequency):
    level = 0.1
    wanted = math.log1p(COMPRESSION * level)
    separator = with_output(build(frequency=frequency, estimate="map"), math.log(math.expm1(wanted)))
    mixture, stft = noise(1, 1, separator.input_samples(640)), separator.network.stft
    margin = separator.geometry.context // 2
    spectrum = stft(mixture)
    own = stft.inverse(level * spectrum / spectrum.abs())[..., margin:-margin]
    torch.testing.assert_close(separator(mixture)[:, 0], own, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", KINDS)
def test_silence_gives_silence_and_gradients_stay_finite(settings):
    separator = build(**settings, channels=2)
    mixture = noise(1, 2, separator.input_samples(640))
    mixture[:, 1] = 0
    mixture.requires_grad_()
    out = separator(mixture)
    assert (out[:, :, 1] == 0).all() and (out[:, :, 0] != 0).any()
    out.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in separator.parameters())
    assert mixture.grad.isfinite().all()
    assert (separator(torch.zeros_like(mixture)) == 0).all()


def test_a_loud_map_stays_within_full_scale():
    separator = with_output(build(estimate="map"), 1e4)
    assert separator(noise(1, 1, separator.input_samples(640))).isfinite().all()


# Windows and sizes


def test_the_defaults_have_the_layers_of_the_paper_and_nearly_the_windows_of_the_wave_u_net():
    config = SpectrogramUNetConfig()
    assert config.widths() == (16, 32, 64, 128, 256, 512)
    assert (config.geometry.window_at_least(1), config.geometry.input_samples(16384)) == (16384, 147456)


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize(("hop_length", "depth", "length"), [(16, 2, 700), (48, 3, 2000), (10, 2, 333)])
def test_blocks_equal_one_pass_for_all_sizes(settings, kernel_size, hop_length, depth, length):
    own = {"kernel_size": kernel_size, "hop_length": hop_length, "depth": depth, "channels": 2, "max_filters": 8}
    separator = build(**settings, **own)
    mixture = noise(2, length)
    blocks = separate_all(separator, mixture, block_samples=100)
    assert (blocks - naive_separation(separator, mixture)).abs().max() < 2e-6


@pytest.mark.parametrize("site", ["every_layer", "decoder", "bottleneck", "output"])
def test_layers_before_the_first_condition_run_once_for_all_queries(site):
    separator = build(outputs="queries", site=site)
    rows = []
    for layer in separator.network.conditions.values():
        layer.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[1]))
    separator(noise(1, 1, separator.input_samples(64)), torch.eye(3)[None])
    assert rows == [1] + [3] * (len(rows) - 1)


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_fft": 63}, "n_fft and hop_length must be even: a frame is centred on the samples that it stands for"),
        ({"hop_length": 15}, "n_fft and hop_length must be even"),
        (
            {"hop_length": 50},
            "hop_length must be at most 3/4 of n_fft: the STFT could not be inverted where windows end",
        ),
        ({"kernel_size": 4}, "kernel_size must be odd: an even kernel moves every frame by half a frame"),
        ({"frequency": "log", "bins": 34}, r"bins must be at most n_fft / 2 \+ 1 = 33, the bins of the STFT"),
        ({"depth": 6}, "depth halves 33 frequencies: at most 5 times"),
        ({"frequency": "log", "depth": 5}, "depth halves 20 frequencies: at most 4 times"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(settings, message):
    with pytest.raises(ConfigError, match=f"test: .*{message}"):
        small(**settings)


def test_equal_widths_have_one_spelling():
    assert small(filters=24, max_filters=16).canonical() == {"filters": 16}
    assert small(filters=400, max_filters=900).canonical() == {"max_filters": 800}
    assert small(filters=400, max_filters=600).canonical() == {}
