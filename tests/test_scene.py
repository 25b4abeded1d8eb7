"""Scenes: what evaluation and pages hear and see of clips."""

import numpy as np

from vimss.model.interface import Interface
from vimss.model.networks.wave_u_net.config import WaveUNetConfig
from vimss.shards.clip import Clip, Player
from vimss.stream.scene import Scene, pieces_of, references_of, with_player_names


def test_pieces_show_every_player_that_sounds_for_as_long_as_it_sounds(small_manifest):
    rate, picture = small_manifest.recipe.sample_rate, small_manifest.recipe.picture
    frames = Interface(WaveUNetConfig(context="frames", site="output"), small_manifest.recipe.labels)
    for piece in pieces_of(small_manifest, "test", frames):
        assert set(piece.views) == set(piece.references)
        shape = (round(piece.mixture.shape[1] / rate * picture.frame_rate), picture.size, picture.size, 3)
        assert {view.shape for views in piece.views.values() for view in views} == {shape}


def test_the_beginning_of_a_piece_is_cut_between_two_pictures():
    sound = np.arange(100, dtype=np.float32)[None]
    late = np.where(sound < 60, 0, sound)
    view = np.arange(8)
    scene = Scene("p", sound, {"vn": sound, "vc": late}, {"vn": [view], "vc": [view]}).beginning(40)
    assert scene.mixture.shape == (1, 38) and scene.references["vn"].shape == (1, 38)  # 3 pictures of 12.5 samples
    assert list(scene.references) == list(scene.views) == ["vn"]
    np.testing.assert_array_equal(scene.views["vn"], [[0, 1, 2]])


def test_two_players_of_one_label_are_one_reference():
    ones = np.full((1, 4), 16384, np.int16)
    rest = np.zeros((1, 4), np.int16)
    players = (Player("vn", "1", ones), Player("vn", "2", ones), Player("fl", "3", rest))
    references = references_of(Clip("p", 0, 4, 8000, players))
    assert list(references) == ["vn"]
    np.testing.assert_allclose(references["vn"], 1.0)


def test_players_of_one_label_are_references_of_their_own_where_they_are_asked_for():
    ones = np.full((1, 4), 16384, np.int16)
    players = (Player("vn", "1", ones), Player("fl", "2", ones), Player("vn", "3", ones // 2))
    named = with_player_names(Clip("p", 0, 4, 8000, players))
    references = references_of(named)
    assert list(references) == ["vn 1", "fl", "vn 2"]
    np.testing.assert_allclose(references["vn 2"], 0.25)
