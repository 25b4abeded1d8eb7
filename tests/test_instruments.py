"""Which instruments play, by pictures: a network that others start from, and that separates nothing."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_train import one_thread, run, settings  # noqa: F401 - a fixture that all use

from vimss.errors import ConfigError, ModelError
from vimss.features import load_vision
from vimss.model.separator import Separator, load_separator
from vimss.model.vision import Vision
from vimss.runtime import Place
from vimss.search.checks import check_settings
from vimss.search.consistency import load_experiment
from vimss.train.config import Settings
from vimss.train.objective_settings import InstrumentsConfig
from vimss.train.objectives.instruments import PlayersInterface, average_precision
from vimss.train.objectives.instruments_network import InstrumentsNetwork
from vimss.train.start import check_start, start

VISION = {"network": "compact", "weights": "random", "frozen": False}
CHOSEN = Settings.model_validate(
    {
        "objective": "instruments",
        "model": {"vision": VISION},
        "training": {"batch_size": 2, "output_samples": 4000, "audio_seconds": 2, "report_seconds": 1},
    }
)


@pytest.fixture(scope="module")
def trained(small_manifest, tmp_path_factory):
    """The reports and the model of a short training."""
    folder = tmp_path_factory.mktemp("instruments")
    return run(small_manifest, folder, CHOSEN), folder / "1" / "model"


def test_the_loop_reports_its_figure_and_keeps_its_network(trained, small_manifest):
    reports, _ = trained
    assert [0 < report["valid_map"] <= 1 for report in reports] == [True, True]
    assert reports[0]["train_loss"] > 0 and "valid_loss" not in reports[0]


def test_it_separates_nothing_and_says_so(trained):
    with pytest.raises(ModelError, match="must hold a network that separates; got one of the objective 'instruments'"):
        load_separator(trained[1])


def test_a_network_that_looks_at_players_starts_from_its_vision_network(trained, small_recipe):
    chosen = settings(model={"context": "frames", "vision": VISION}, training={"start_from": str(trained[1])})
    check_start(chosen, small_recipe)
    network = Separator(chosen.model, small_recipe.labels, small_recipe.sample_rate)
    before = network.unet.head.weight.clone()
    start(network, chosen)
    taken = Vision(load_vision("compact", trained[1] / "weights.safetensors")).state_dict()
    assert all(torch.equal(weight, taken[name]) for name, weight in network.vision.state_dict().items())
    new = Vision(load_vision("compact", "random")).state_dict()
    assert not torch.equal(taken["network.what.weight"], new["network.what.weight"])
    assert torch.equal(network.unet.head.weight, before)


def test_one_that_also_hears_starts_from_the_vision_network_of_one_that_only_sees(trained, small_recipe):
    both = {"instruments": {"inputs": "both"}, "training": {"start_from": str(trained[1])}}
    chosen = Settings.model_validate({"objective": "instruments", "model": {"vision": VISION}, **both})
    check_start(chosen, small_recipe)
    network = InstrumentsNetwork(chosen, small_recipe.labels, small_recipe.sample_rate)
    before = network.joint.weight.clone()
    start(network, chosen)
    taken = load_file(trained[1] / "weights.safetensors")
    assert torch.equal(network.vision.network.what.weight, taken["vision.network.what.weight"])
    assert torch.equal(network.joint.weight, before)
    hears = Settings.model_validate({"objective": "instruments", **both, "instruments": {"inputs": "sound"}})
    with pytest.raises(ModelError, match="vision network alone is taken; got no vision network in this training"):
        check_start(hears, small_recipe)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "objective: instruments\ninstruments: {inputs: sound}\nmodel: {vision: {frozen: false}}",
            "model.vision.frozen needs instruments.inputs: pictures or both; got model.vision.frozen: False with "
            "instruments.inputs: sound. To fix: remove model.vision.frozen, or change instruments.inputs",
        ),
        (
            "objective: instruments\ninstruments: {inputs: sound, every: 1}",
            "instruments.every needs instruments.inputs: pictures or both; got instruments.every: 1.0 with",
        ),
        (
            "instruments: {inputs: sound}",
            "instruments.inputs needs objective: instruments; got .* objective: separation",
        ),
        ("compare: {instruments.inputs: [sound, both]}", "compare.instruments.inputs needs objective: instruments"),
    ],
)
def test_a_setting_without_effect_is_refused(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(f"question: q\nexpected: e\nshards: quickstart\n{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"experiment mine: {message}"):
        load_experiment(path)


@pytest.mark.parametrize(("every", "places"), [(0.5, [3]), (0.25, [1, 4]), (0.0, [0, 1, 2, 3, 4, 5])])
def test_few_pictures_of_a_player_are_seen_evenly_spread_over_the_window(small_recipe, every, places):
    # Half a second of six pictures.
    chosen = CHOSEN.model_copy(update={"instruments": InstrumentsConfig(every=every)})
    view = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1) * np.ones((1, 2, 2, 3), np.uint8)
    assert PlayersInterface(chosen, small_recipe).spread(view)[:, 0, 0, 0].tolist() == places


def test_sound_alone_is_recognised_whatever_its_level():
    torch.manual_seed(0)
    hears = Settings.model_validate({"objective": "instruments", "instruments": {"inputs": "sound"}})
    network = InstrumentsNetwork(hears, ("vn", "vc"), 8000).eval()
    sound = torch.randn(2, 1, 8000)
    with torch.no_grad():
        torch.testing.assert_close(network(sound, None, None), network(0.1 * sound, None, None), rtol=0, atol=0.02)
        assert not torch.allclose(*network(sound, None, None), atol=1e-4)


def test_no_window_or_channels_of_a_separator_are_asked_for(small_manifest):
    # 4000 samples are no window of the Wave-U-Net.
    check_settings(CHOSEN, small_manifest, Place.model_construct(name="here", workers_per_trial=1, gpus_per_worker=0.0))


def test_the_highest_of_all_players_counts_and_padding_does_not():
    torch.manual_seed(0)
    network = InstrumentsNetwork(CHOSEN, ("vn", "vc"), 8000).eval()
    pictures = torch.randint(0, 255, (1, 3, 2, 32, 32, 3), dtype=torch.uint8)
    real = torch.tensor([[True, True, False]])
    with torch.no_grad():
        both = network(None, pictures, real)
        each = [network(None, pictures[:, [k]], torch.ones(1, 1, dtype=torch.bool)) for k in (0, 1)]
    torch.testing.assert_close(both, torch.maximum(*each), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([4, 3, 2, 1], (1 + 2 / 3) / 2),
        ([1, 2, 3, 4], (2 / 4 + 1 / 2) / 2),
        ([1, 1, 1, 1], 0.5),
        ([np.nan] * 4, np.nan),
    ],
)
def test_average_precision_is_that_of_the_definition(scores, expected):
    given, plays = np.array(scores, np.float64)[:, None], np.array([True, False, True, False])[:, None]
    assert average_precision(given, plays).item() == pytest.approx(expected, nan_ok=True)
