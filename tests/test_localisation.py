"""Where a sound comes from; what every objective must do is in test_objectives.py."""

import numpy as np
import pytest
import torch
from test_train import one_thread  # noqa: F401 - a fixture that all use

from vimss.errors import DataError
from vimss.runtime import Place
from vimss.search.checks import check_settings
from vimss.shards.clip import Clip, Player
from vimss.stream.batch import Batch
from vimss.train.config import Settings
from vimss.train.objectives import OBJECTIVES
from vimss.train.objectives.correspondence_network import CorrespondenceNetwork
from vimss.train.objectives.localisation import F1, Localisation
from vimss.train.objectives.scenes import METHODS, max_f1, overlap, scores_of

SIDE = 16


def settings() -> Settings:
    vision = {"network": "compact", "weights": "random", "frozen": False}
    return Settings.model_validate(
        {"objective": "localisation", "model": {"vision": vision}, "training": {"output_samples": 8000}}
    )


@pytest.fixture
def objective(small_recipe):
    """On no shards in particular."""
    return Localisation(settings(), small_recipe)


class Brightness(CorrespondenceNetwork):
    """A network that needs no training: a sound comes from where the picture is as bright as the sound is loud."""

    def maps(self, sound, pictures):
        bright = pictures.float().mean(-1).unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
        return -(bright[:, :, None] - 100 * sound[:, None, :, 0, 0, None, None]).abs().clamp(max=10)


class Blind(Brightness):
    """The same, but it does not listen."""

    def maps(self, sound, pictures):
        return super().maps(torch.full_like(sound, 0.9), pictures)


def scene(sounding=3, resting=1) -> Batch:
    """Players of different brightness, each a square in the middle of a dark picture, and those who rest."""
    count = sounding + resting
    pictures = np.zeros((1, count, SIDE, SIDE, 4), np.uint8)
    for player in range(count):
        pictures[0, player, 4:12, 4:12] = [*[90 + 50 * player] * 3, 1]
    stems = (
        np.ones((1, sounding, 1, 8), np.float32) * (0.9 + 0.5 * np.arange(sounding, dtype=np.float32))[:, None, None]
    )
    real, present = np.ones((1, count), bool), np.ones((1, sounding), bool)
    return Batch(stems.sum(1), stems, present, pictures, real, np.zeros(1, bool))


def kept(objective, network=Brightness, batch=None):
    network = network(objective.settings, ("vn",), 8000).eval()
    with torch.no_grad():
        return objective.examine(network, batch or scene(), torch.device("cpu"))[None]


def test_a_network_that_hears_who_sounds_points_at_the_player(objective):
    rows = kept(objective)
    found = objective.beside(rows)
    assert objective.value(rows) == 1 and found["cIoU at box share"] > 0.8 and found["AP50 at box share"] == 1
    assert found["pointing, oracle"] == 1 and found["cIoU at box share, oracle"] > 0.8


def test_one_that_does_not_listen_points_at_the_same_player_for_all(objective):
    assert objective.value(kept(objective, Blind)) == pytest.approx(1 / 3)


def test_of_half_of_the_pixels_no_method_has_an_overlap_of_a_half_where_players_are_many(objective):
    found = objective.beside(kept(objective))
    assert found["AP50 of half"] == found["AP50 of half, oracle"] == 0
    # A box of 64 of 1,024 pixels: twice its share, where all of it is found.
    assert found["cIoU of half, oracle"] == pytest.approx(64 / 512, abs=0.01)


def test_the_prior_is_one_map_for_all_sounds_and_random_and_centre_know_nothing(objective):
    rows = torch.cat([kept(objective)] * 2)
    found = objective.beside(rows)
    assert found["pointing, prior"] in (0, pytest.approx(1 / 3)) and found["pointing, random"] < 1
    assert found["pointing, centre"] == 0  # between two of four players
    assert objective.value(objective.guess(rows)) == found["pointing, centre"]


def test_what_is_found_where_all_rest_is_wrong(objective):
    assert objective.beside(kept(objective))[F1] == 1
    # The same confidence with and without the player who sounds: as much is wrong as can be.
    sure = torch.tensor([[2.0, 1, 2.0], [1, 1, 1]], dtype=torch.float64)
    assert max_f1(sure) == pytest.approx(2 / 3)
    assert max_f1(torch.tensor([[2.0, 1, 0], [1.5, 0, 0]], dtype=torch.float64)) == pytest.approx(2 / 3)
    assert max_f1(sure[:0]) == 0


def test_players_who_are_silent_are_not_looked_for(objective):
    silent = scene()
    silent.present[:] = False
    assert np.isnan(objective.value(kept(objective, batch=silent)))
    silent.present[0, 1] = True
    rows = kept(objective, batch=silent)
    assert objective.value(rows) == 1 and rows[0, len(METHODS) * 5] == 1


def test_the_scores_of_maps_by_hand():
    box = torch.zeros(4, 4, dtype=torch.bool)
    box[0] = True  # a quarter of the scene
    right = torch.arange(16, 0, -1, dtype=torch.float64).reshape(4, 4)
    assert scores_of(right, box) == [1, 0.5, 1, 1, 1]
    assert scores_of(-right, box) == [0, 0, 0, 0, 0]
    # A map that says nothing is the whole scene, and points at all of it.
    assert scores_of(torch.zeros(4, 4, dtype=torch.float64), box) == [0.25, 0.25, 0, 0.25, 0]
    assert np.isnan(scores_of(torch.full((4, 4), torch.nan, dtype=torch.float64), box)).all()
    assert overlap(~box, box) == 0


def test_a_corpus_without_boxes_is_refused(objective):
    shown = objective.validation_interface
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    clip = Clip("piece", 0, 8, 8, (Player("vn", "1-vn", picture=pictures),))
    with pytest.raises(DataError, match="needs the boxes of players in their pictures; got none of '1-vn' in piece_0"):
        shown.of_player(clip, clip.players[0])


def test_boxes_are_a_fourth_channel(objective):
    boxes = np.array([[[1, 0, 3, 2]], [[0, 0, 1, 1]]], np.int16)
    player = Player("vn", "1-vn", picture=np.zeros((1, 4, 4, 3), np.uint8), boxes=boxes)
    found = objective.validation_interface.of_player(Clip("piece", 0, 8, 8, (player,)), player)
    assert found.shape == (1, 4, 4, 4) and found[0, :, :, 3].sum() == 4 and found[0, 1, 2, 3] == 1


def test_its_table_says_what_the_usual_figure_is_worth():
    assert "AP50 of half is 0 for every method" in OBJECTIVES["localisation"].meaning


@pytest.mark.slow
def test_shards_without_boxes_are_refused_before_a_search(moving_manifest):
    place = Place.model_construct(name="here", workers_per_trial=1, gpus_per_worker=0.0)
    with pytest.raises(DataError, match="objective: localisation needs shards with boxes of players; got none in the"):
        check_settings(settings(), moving_manifest, place)
