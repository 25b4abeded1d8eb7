"""The Sound of Pixels beyond the contract of all networks: its masks, its refusals, and the sound of every place."""

import copy

import numpy as np
import pytest
import torch
from test_networks import build, config_of, mixture_for
from test_separate import CARD, PICTURE, columns, sound
from untrained_models import VISION

from vimss import media
from vimss.errors import ConfigError
from vimss.model import parse_model
from vimss.model.networks.sound_of_pixels import SoundOfPixelsConfig
from vimss.model.pixels import shows_pixels, sound_of_places
from vimss.model.separator import Separator, save_separator
from vimss.model.vision import Vision
from vimss.model.vision_config import VisionConfig
from vimss.pages.pixels import colours_of, pixels_png
from vimss.separate import separate_recording

NAME = "sound_of_pixels"


def test_a_mask_is_the_inner_product_of_maps_and_values():
    network = build(NAME, site="output", outputs="queries", channels=2).network
    maps, values = torch.randn(2, 6, 2, 5, 7), torch.rand(2, 3, 5, 6)
    expected = torch.einsum("bmcnk,bqnm,m->bqcnk", maps, values, network.weight[0]) + network.bias
    torch.testing.assert_close(network.masks_of(maps, values), torch.sigmoid(expected))


def test_the_maps_are_made_once_for_all_queries():
    separator, made = build(NAME, site="output", outputs="queries"), []
    maps_of = separator.network.maps_of
    separator.network.maps_of = lambda bands: made.append(maps_of(bands)) or made[-1]
    assert separator(mixture_for(separator), torch.rand(2, 3, 3)).shape[1] == 3
    assert len(made) == 1 and made[0][0].shape[:2] == (2, 6)


def test_binary_masks_are_ratio_masks_in_training():
    ratio, binary = (build(NAME, masks=masks) for masks in ("ratio", "binary"))
    mixture = mixture_for(ratio)
    assert not torch.equal(binary(mixture), ratio(mixture))
    assert torch.equal(binary.train()(mixture), ratio.train()(mixture))


def test_binary_masks_give_all_of_a_frequency_or_nothing():
    separator = build(NAME, masks="binary")
    mixture = mixture_for(separator)
    margin = separator.geometry.context // 2
    for bias, gain in ((-50, 0), (50, 1)):
        with torch.no_grad():
            separator.network.bias.fill_(bias)
        expected = gain * mixture[:, None, :, margin:-margin].expand(-1, 3, -1, -1)
        torch.testing.assert_close(separator(mixture), expected, atol=1e-5, rtol=0)


def test_the_published_size_is_possible():
    paper = SoundOfPixelsConfig(
        n_fft=1022, hop_length=256, bins=256, depth=7, filters=64, maps=32, masks="binary", site="output"
    )
    assert paper.widths() == (64, 128, 256, 512, 512, 512, 512) and paper.geometry.smallest_window == 32768
    with torch.device("meta"):
        assert paper.build(1, 512, 22.6).head.weight.shape[0] == 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"site": "bottleneck"}, "network: sound_of_pixels has no such site: choose from none, output; got"),
        ({"site": "output", "op": "film"}, "network: sound_of_pixels has no such op: choose from multiply; got"),
        (
            {"frequency": "log", "bins": 300, "n_fft": 512},
            r"bins must be at most n_fft / 2 \+ 1 = 257, the bins of the",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=f"m: .*{message}"):
        parse_model({"network": NAME, **settings}, "m")


# The sound of every place


@pytest.fixture(scope="module")
def looking():
    """A separator that looks at pictures."""
    torch.manual_seed(0)
    config = config_of(NAME, context="frames", site="output", outputs="queries", vision=VISION)
    return Separator(config, ("fl", "vc"), 8000).eval()


def test_places_have_the_features_whose_mean_a_picture_has():
    vision = Vision(VisionConfig(network="resnet18", weights="random"))
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        places = vision.places(pictures)
        torch.testing.assert_close(places.mean((2, 3)), vision(pictures[None, None])[0, 0], atol=1e-2, rtol=1e-2)
    assert places.shape == (2, 512, 2, 2)


def test_places_share_the_energy_as_their_masks_do(looking):
    assert shows_pixels(looking) and not shows_pixels(build(NAME))
    sound, pictures = 0.1 * torch.randn(1, 30000), torch.randint(0, 256, (2, 5, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        looking.network.bias.fill_(50)
        whole = sound_of_places(looking, lambda first, last: sound[:, first:last], 30000, pictures)
        looking.network.bias.fill_(0)
        some = sound_of_places(looking, lambda first, last: sound[:, first:last], 30000, pictures)
    assert whole.share.shape == (2, 8, 12) and whole.share == pytest.approx(1)
    assert 0 < some.share.min() < some.share.max() < 1


def test_places_have_the_binary_masks_that_stems_have(looking):
    binary = copy.deepcopy(looking).eval()
    binary.network.config = binary.network.config.model_copy(update={"masks": "binary"})
    sound, pictures = 0.1 * torch.randn(1, 4000), torch.randint(0, 256, (1, 1, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        binary.network.bias.fill_(9)  # ratio masks would be just below 1
        found = sound_of_places(binary, lambda first, last: sound[:, first:last], 4000, pictures)
    assert (found.share == pytest.approx(1, abs=1e-6)) and binary.network.config.masks == "binary"


def test_places_of_like_values_have_one_colour():
    values = np.zeros((1, 2, 2, 5), np.float32)
    values[0, 0, :, 1] = 1
    values[0, 1, 1, 3] = 1
    colours = colours_of(values)
    assert np.allclose(colours[0, 0, 0], colours[0, 0, 1]) and not np.allclose(colours[0, 1, 0], colours[0, 1, 1])
    assert colours.min() >= 0 and colours.max() <= 1


def test_the_picture_of_places_is_a_png_with_a_column_per_player(looking):
    pictures = torch.randint(0, 256, (2, 1, 32, 32, 3), dtype=torch.uint8)
    silent = sound_of_places(looking, lambda first, last: torch.zeros(1, last - first), 4000, pictures)
    assert not silent.share.any()
    assert pixels_png(silent, ("fl", "vc")).startswith(b"\x89PNG")


def test_a_separation_shows_the_sound_of_every_pixel_beside_the_stems(looking, tmp_path):
    save_separator(tmp_path / "model", looking, CARD | {"picture": PICTURE})
    media.write_video(tmp_path / "duet.mp4", columns(60, 180), 5.0, sound(), 8000)
    found = separate_recording(tmp_path / "duet.mp4", tmp_path / "model", tmp_path / "out", "fl,vc")
    assert found.pixels == tmp_path / "out" / "pixels.png" and found.pixels.read_bytes().startswith(b"\x89PNG")
    assert found.summary["pixels"] == str(found.pixels)
    assert f"the sound of every pixel: {found.pixels}" in found.sentences
