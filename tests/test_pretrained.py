"""The model that comes with VIMSS: it names drawn players out of the box, and its weights stay what they are."""

import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from vimss import named_models
from vimss.api import resolve_models
from vimss.errors import ConfigError, DataError, ModelError
from vimss.features import compute_features, load_vision
from vimss.model import VisionConfig
from vimss.model.card import CARD, WEIGHTS
from vimss.model.contexts import CONTEXTS
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.pretrained import PRETRAINED, pretrained_folder, vision_digest
from vimss.model.separator import load_separator, read_card
from vimss.model.vision import Vision, weights_digest
from vimss.namer import load_namer
from vimss.search.consistency import load_experiment
from vimss.session import open_session
from vimss.shards.cache import FEATURES
from vimss.shards.corpora.chamber.drawing import draw
from vimss.shards.corpora.chamber.motion import Tone, move
from vimss.shards.corpora.chamber.styles import SEEN, draw_style
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.manifest import open_manifest
from vimss.shards.recipe import load_recipe
from vimss.shards.write import shards_signature
from vimss.storage import sha256

DIGESTS = {"chamber": "2126c7235da68417ad9480c9986741a3dd61d00508a33731255247354e6e997e"}
"""SHA-256 of the weights. What was trained with them has their name in its signature, not this: do not change it here,
but give other weights another name in PRETRAINED."""

CHAMBER = VisionConfig(network="compact", weights="chamber")


def film_of(label: str, seed: int) -> np.ndarray:
    """Pictures of a player who is drawn in a style that training may have had."""
    rng = np.random.default_rng((7, seed))
    tones = [Tone(0.3 * step, 0.3 * step + 0.26, 55 + step * 7 % 12, 0.9) for step in range(5)]
    return draw(label, move(tones, 8, 5.0, rng), 80, rng, draw_style(rng, SEEN)).picture


def test_players_are_named_by_their_pictures():
    namer = load_namer(pretrained_folder("chamber"), "chamber")
    choices = namer.choices(tuple(INSTRUMENTS))
    asked = [(label, seed) for label in INSTRUMENTS for seed in range(2)]
    right = [namer.name_player(film_of(label, seed), choices).label == label for label, seed in asked]
    assert np.mean(right) > 0.8


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_weights_of_a_name_stay_what_they_are(name):
    folder = pretrained_folder(name)
    assert sha256(folder / WEIGHTS) == read_card(folder)["sha256"] == DIGESTS[name]


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_file_is_small_and_says_where_it_comes_from(name):
    path = pretrained_folder(name) / WEIGHTS
    with safe_open(path, "pt") as file:
        about = file.metadata()
    assert path.stat().st_size < 600_000
    assert about["licence_of_weights"] == "GPL-3.0-or-later" and "test_unseen_style" in about["players_named_rightly"]
    assert about.items() <= read_card(path.parent)["card"].items()
    assert {str(tensor.dtype) for tensor in load_file(path).values()} == {"torch.float16"}


def test_the_recipe_that_it_was_trained_on_is_the_one_that_ships():
    about = read_card(pretrained_folder("chamber"))["card"]
    assert about["recipe_signature"] == shards_signature(load_recipe("players"))


def test_its_card_has_the_digest_of_its_vision_network():
    assert vision_digest("chamber") == weights_digest(Vision(CHAMBER))


def test_another_name_is_none():
    assert pretrained_folder("./chamber") is None


# Taken by its name


def test_its_vision_network_is_taken_by_name():
    assert load_vision("compact", "chamber") == CHAMBER
    random = CHAMBER.model_copy(update={"weights": "random"})
    assert weights_digest(Vision(CHAMBER)) != weights_digest(Vision(random))


def test_it_is_of_one_vision_network():
    rule = "vimss features: chamber are weights of compact, not of resnet18: set network: compact; got .* one of the"
    with pytest.raises(ConfigError, match=rule):
        load_vision("resnet18", "chamber")


def test_it_names_players_and_starts_trainings_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "store"))
    folder = pretrained_folder("chamber")
    with open_session("local") as session:
        assert named_models.instrument_namers(session, ["chamber"]) == {"chamber": folder}
        experiment = load_experiment("players", ["training.start_from=chamber"])
        start = resolve_models(session, experiment).settings().training.start_from
    assert (start.path, start.sha256) == (folder, sha256(folder / WEIGHTS))


def test_the_path_of_weights_is_made_whole_for_processes_in_other_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    with open_session("local") as session:
        for given, expected in (("eyes/weights.pth", str(tmp_path / "eyes/weights.pth")), ("random", "random")):
            experiment = load_experiment("instruments", [f"model.vision.weights={given}"])
            assert resolve_models(session, experiment).settings().model.vision.weights == expected


def test_it_separates_nothing():
    with pytest.raises(ModelError, match="must hold a network that separates; got one of the objective 'instruments'"):
        load_separator(pretrained_folder("chamber"))


def test_a_folder_without_the_name_of_a_model_is_no_model(tmp_path, monkeypatch):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "store"))
    with open_session("local") as session, pytest.raises(ModelError, match=f"chambre must hold {CARD}"):
        named_models.instrument_namers(session, ["chambre"])


# Its features


@pytest.mark.slow
def test_features_of_other_weights_are_not_taken_for_its_own(small_manifest, tmp_path):
    # A copy, beside which are no features of other tests.
    folder = shutil.copytree(small_manifest.folder, tmp_path / "small", ignore=shutil.ignore_patterns(FEATURES))
    manifest = open_manifest(folder)
    config = WaveUNetConfig(context="features", features_every=1, site="decoder", outputs="queries", vision=CHAMBER)
    context = CONTEXTS["features"](config, manifest.recipe.labels)
    other = compute_features(manifest, CHAMBER.model_copy(update={"weights": "random"}), every=1.0)
    name = f"compact-1s-{vision_digest('chamber')[:10]}"
    message = f"one complete folder of {name} features beside .*; got {other}. To fix: run `vimss features small "
    with pytest.raises(
        DataError, match=message + "--network compact --weights chamber --every 1`, with the --set that its shards"
    ):
        context.prepare(manifest)
    assert compute_features(manifest, CHAMBER, every=1.0) == name
    assert context.prepare(manifest) == name
