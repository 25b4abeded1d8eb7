"""Which picture belongs to which sound; what every objective must do is in test_objectives.py."""

import numpy as np
import pytest
import torch
import torchvision
from pydantic import ValidationError
from test_train import one_thread  # noqa: F401 - a fixture that all use
from torch import nn

from vimss.errors import ConfigError
from vimss.model.cost import num_weights
from vimss.search.consistency import load_experiment
from vimss.shards.manifest import Manifest
from vimss.stream.batch import Batch, whole_batch
from vimss.stream.mix import Source, Window, mix
from vimss.train.config import Settings, ValidationConfig, scored_sources
from vimss.train.objectives import CANDIDATES
from vimss.train.objectives.correspondence import BESIDE, Correspondence, PicturesInterface
from vimss.train.objectives.correspondence_network import CorrespondenceNetwork
from vimss.train.validation import validation_spec

COMPACT = {"vision": {"network": "compact", "weights": "random", "frozen": False}}


def settings(mixing=None, model=None, **correspondence) -> Settings:
    given = {"mixing": mixing or {}, "model": COMPACT if model is None else model, "correspondence": correspondence}
    return Settings.model_validate({"objective": "correspondence", "training": {"output_samples": 8000}, **given})


@pytest.fixture
def objective(small_recipe):
    """On no shards in particular."""
    return Correspondence(settings(), small_recipe)


def players(count, sounding=None) -> Batch:
    """A mixture of players; what they sound and look like says nothing, their networks answer what a test gives."""
    present = np.arange(count)[None] < (count if sounding is None else sounding)
    stems = np.zeros((1, count, 1, 8), np.float32)
    pictures = np.zeros((1, count, 4, 4, 3), np.uint8)
    return Batch(stems[:, 0], stems, present, pictures, np.ones((1, count), bool), np.zeros(1, bool))


class Answers(nn.Module):
    """A network that gives these log-odds, pictures by sounds, whatever it gets."""

    def __init__(self, log_odds):
        super().__init__()
        self.log_odds = torch.tensor(log_odds, dtype=torch.float32)[None]

    def forward(self, sound, pictures):
        return self.log_odds


def kept(objective, log_odds, sounding=None):
    """What is kept of a mixture for a network with these answers."""
    return objective.examine(Answers(log_odds), players(len(log_odds), sounding), torch.device("cpu"))[None]


def test_a_perfect_network_finds_every_pair(objective):
    rows = kept(objective, 9.0 * np.eye(8) - 5)
    assert objective.value(rows) == 1 and set(objective.beside(rows).values()) == {1.0}


def test_a_blind_network_is_at_chance_which_is_the_guess(objective):
    rows = kept(objective, np.zeros((8, 8)))
    assert objective.value(rows) == pytest.approx(1 / 8)
    assert objective.beside(rows)[BESIDE[2]] == objective.beside(rows)[BESIDE[3]] == 0.5
    assert torch.allclose(objective.guess(kept(objective, 9.0 * np.eye(8))), rows)


def test_both_ways_are_told_apart(objective):
    # Picture 0 is the highest for every sound; the other pictures have their own sound as the highest.
    answers = np.diag([1.0, 2, 3, 4])
    answers[0] = [8, 9, 9, 9]
    rows = kept(objective, answers)
    ways = objective.beside(rows)
    assert ways["picture to sound, recall@1"] == pytest.approx(3 / 4)
    assert ways["sound to picture, recall@1"] == pytest.approx(1 / 4) and objective.value(rows) == pytest.approx(1 / 2)


def test_players_who_are_silent_are_no_candidates(objective):
    # Of four players the last two are silent, and their sounds have the highest numbers.
    answers = np.full((4, 4), 7.0) * (np.arange(4) >= 2) + np.eye(4)
    assert objective.value(kept(objective, answers, sounding=2)) == 1
    assert np.isnan(objective.value(kept(objective, answers, sounding=1)))


def test_numbers_that_are_not_finite_have_no_figure(objective):
    assert np.isnan(objective.value(kept(objective, np.full((3, 3), np.nan))))


def loss_of(objective, log_odds, sounding=None) -> float:
    batch = players(len(log_odds), sounding)
    return float(objective.loss(Answers(log_odds), batch, torch.from_numpy(objective.totals(batch)).float()))


@pytest.mark.parametrize("loss", ["pairs", "info_nce"])
def test_the_loss_is_small_for_right_pairs_and_silent_players_have_none(small_recipe, loss):
    objective = Correspondence(settings(loss=loss), small_recipe)
    right = 40.0 * np.eye(4) - 20
    blind = {"pairs": np.log(2), "info_nce": np.log(4)}[loss]
    assert loss_of(objective, right) < 1e-6
    assert loss_of(objective, np.zeros((4, 4))) == pytest.approx(blind)
    assert loss_of(objective, -right) > 10
    silent = right.copy()
    silent[2:], silent[:, 2:] = -right[2:], 20.0
    assert loss_of(objective, silent, sounding=2) < 1e-6


def test_right_and_wrong_pairs_have_equal_weight(objective):
    # One wrong pair of three is sure to be right: a third of the wrong half of one of four players.
    answers = 40.0 * np.eye(4) - 20
    answers[0, 1] = 20
    assert loss_of(objective, answers) == pytest.approx(20 / 3 / 2 / 4)


def source(place, pictures=5) -> Source:
    """A player of a mixture, whose pictures have the number of their time."""
    view = np.zeros((pictures, 4, 4, 3), np.uint8) + np.arange(pictures, dtype=np.uint8)[:, None, None, None]
    return Source("vn", 10 * place + view, f"clip {place}", "piece", "", np.full((1, 8), 0.1 * place, np.float32))


def test_each_player_is_shown_by_the_middle_picture_with_the_stem(small_recipe):
    shown = PicturesInterface(settings(mixing={"max_sources": 4}), small_recipe)
    targets, rows = shown.query(
        mix([source(1), source(2)], (), aligned=False), settings().mixing, np.random.default_rng(0)
    )
    assert [len(each) for each in targets] == [1, 1, 0, 0]  # as many outputs as a mixture may have players
    assert [row[0, 0, 0] for row in rows] == [12, 22] and rows[0].shape == (4, 4, 3)


def test_as_many_players_as_the_figure_needs_are_one_batch(small_recipe):
    shown = PicturesInterface(settings(), small_recipe)
    mixture = mix([source(place) for place in range(1, CANDIDATES + 1)], (), aligned=False)
    batch = whole_batch(mixture, Window(8, 8, 8), shown)
    assert batch.present.all() and batch.context.shape == (1, CANDIDATES, 4, 4, 3)


@pytest.mark.parametrize(("labels", "players_of_one"), [(("vn", "va", "vc"), 3), (tuple("abcdefghij"), 8)])
def test_the_validation_set_is_of_eight_instruments_or_of_all_that_there_are(small_recipe, labels, players_of_one):
    recipe = small_recipe.model_copy(update={"labels": labels})
    manifest = Manifest(name="mine", recipe=recipe, signature="", shards=(), pieces=())
    spec = validation_spec(manifest, ValidationConfig(seconds=1), "correspondence")
    assert set(spec.kinds) == {(players_of_one, False)} and scored_sources(settings()) == 8


def test_avol_net_is_as_sure_as_its_surest_place():
    torch.manual_seed(0)
    network = CorrespondenceNetwork(settings(network="avol_net"), ("vn", "vc"), 8000).eval()
    sound, pictures = 0.1 * torch.randn(1, 2, 1, 4000), torch.randint(0, 255, (1, 3, 32, 48, 3), dtype=torch.uint8)
    with torch.no_grad():
        maps = network.maps(sound, pictures)
        assert maps.shape == (1, 3, 2, 4, 6)
        assert torch.equal(network(sound, pictures), maps.amax((3, 4)))
    found = network.predict({"mixture": sound[:, 0].numpy(), "frames": pictures[:, :, None].numpy()})
    assert np.allclose(found["places"].max((2, 3)), found["correspondence"])


def test_the_published_streams_have_the_places_of_the_paper():
    with torch.device("meta"):
        network = CorrespondenceNetwork(settings(model={}, streams="published"), ("vn",), 48000)
        pictures = torch.zeros(2, 224, 224, 3, dtype=torch.uint8)
        assert network.vision.places(pictures).shape == (2, 512, 14, 14)
        assert network(torch.zeros(1, 3, 1, 48000), pictures[None]).shape == (1, 2, 3)
    assert [num_weights(stream) // 1000 for stream in (network.vision, network.sound)] == [4687, 4686]


@pytest.mark.parametrize("name", ["ave_net", "avol_net"])
def test_the_published_streams_learn_and_are_saved_whole(small_recipe, tmp_path, name):
    objective = Correspondence(settings(model={}, streams="published", network=name), small_recipe)
    network = objective.build()
    sound, pictures = 0.1 * torch.randn(1, 2, 1, 4000), torch.randint(0, 256, (1, 2, 32, 48, 3), dtype=torch.uint8)
    found = network(sound, pictures)
    found.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())
    objective.save(tmp_path, network, {})
    with torch.no_grad():
        assert torch.equal(objective.load(tmp_path)(sound, pictures), network(sound, pictures))


# Settings


def test_a_vision_network_beside_the_published_streams_is_refused():
    with pytest.raises(
        ValidationError, match=r"vision.network needs .* correspondence.streams: small; got .*published"
    ):
        settings(streams="published")


def test_mixtures_of_one_player_are_refused(small_recipe):
    objective = Correspondence(settings(mixing={"min_sources": 1, "max_sources": 2}), small_recipe)
    with pytest.raises(
        ConfigError, match="needs mixtures of several players.*; got mixing.min_sources: 1. To fix: set"
    ):
        objective.window()


@pytest.mark.parametrize(("vision", "stride"), [("compact", 8), ("resnet18", 32), ("mobilenet_v2", 32)])
def test_avol_net_has_the_places_of_any_vision_network(small_recipe, tmp_path, vision, stride):
    weights = "random"
    if vision == "mobilenet_v2":  # which takes none
        weights = str(tmp_path / "weights.pth")
        torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), weights)
    chosen = {"vision": {"network": vision, "weights": weights, "frozen": False}}
    objective = Correspondence(settings(model=chosen, network="avol_net"), small_recipe)
    assert objective.window().output_samples == 8000
    network = objective.build()
    pictures = torch.randint(0, 256, (1, 2, 64, 96, 3), dtype=torch.uint8)
    maps = network.maps(torch.randn(1, 3, 1, 8000), pictures)
    assert maps.shape == (1, 2, 3, 64 // stride, 96 // stride) and maps.isfinite().all()
    maps.sum().backward()
    first = next(network.vision.network.parameters())
    assert first.grad is not None and first.grad.isfinite().all()


def test_its_settings_belong_to_it(tmp_path):
    path = tmp_path / "mine.yaml"
    head = "question: q\nexpected: e\nshards: quickstart\n"
    path.write_text(f"{head}correspondence: {{loss: info_nce}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="correspondence.loss needs objective: correspondence or localisation; got"):
        load_experiment(path)
    path.write_text(f"{head}objective: localisation\ncorrespondence: {{network: avol_net}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="correspondence.network needs objective: correspondence; got"):
        load_experiment(path)
