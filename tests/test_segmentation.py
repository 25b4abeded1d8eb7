"""What the objective `segmentation` teaches and counts; the contract of all objectives is in test_objectives.py."""

import numpy as np
import pytest
import torch

from vimss.api import experiment_recipe
from vimss.errors import ConfigError, DataError
from vimss.search.consistency import load_experiment
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora.chamber.skeleton import JOINTS
from vimss.train.objectives.segmentation import (
    EXCHANGED,
    INSTRUMENT,
    JOINT,
    PLAYER,
    Segmentation,
    losses_of,
    sums_of,
    truth_of,
    with_maps,
    with_truth,
)
from vimss.train.objectives.segmentation_network import BODY, CLASSES, places_of

RECIPE = experiment_recipe(load_experiment("segmentation"))
SIDE = 40
PLACES = torch.tensor([(0.5, 0.2), (0.5, 0.4), (0.3, 0.4), (0.2, 0.6), (0.4, 0.7), (0.7, 0.4), (0.8, 0.6), (0.6, 0.7)])
"""Of BODY: right shoulder, elbow and hand are at the picture's left."""


def shown(joints=PLACES):
    """A picture of a player with an instrument in front."""
    masks = np.zeros((2, 1, SIDE, SIDE), bool)
    masks[0, 0, 4:36, 10:30] = True
    masks[1, 0, 20:24, 5:35] = True
    masks[0] &= ~masks[1]
    places = np.zeros((3, len(JOINTS)), np.float16)
    places[:2, : len(BODY)], places[2, : len(BODY)] = joints.T.nan_to_num(0), ~joints[:, 0].isnan()
    return torch.from_numpy(with_truth(np.zeros((1, SIDE, SIDE, 3), np.uint8), masks, places.reshape(1, -1)))


def perfect(taught):
    """Maps that are sure of what is taught."""
    classes = torch.where(taught[..., 4] > 0, 2, taught[..., 3].long())
    given = 20 * torch.nn.functional.one_hot(classes, len(CLASSES)).movedim(-1, 1).float()
    return torch.cat([given, (taught[..., 5:].movedim(-1, 1) / 255 + 1e-6).log()], dim=1)


def test_what_is_written_beside_a_picture_is_read_again():
    unseen = PLACES.clone()
    unseen[4] = torch.nan
    truth = truth_of(shown(unseen))
    assert truth.classes.unique(return_counts=True)[1].tolist() == [920, 560, 120]
    torch.testing.assert_close(truth.joints[0], unseen, atol=0.004, rtol=0, equal_nan=True)


def test_the_mean_around_the_highest_place_is_where_a_joint_is():
    maps = with_maps(shown())[..., 5:].movedim(-1, 1)
    found = places_of((maps / 255 + 1e-6).log())
    torch.testing.assert_close(found[0], PLACES, atol=0.006, rtol=0)


def test_what_is_true_has_the_best_figures_and_a_guess_the_share_of_the_pixels():
    objective = Segmentation(load_experiment("segmentation").settings(), RECIPE)
    kept = sums_of(perfect(with_maps(shown())), truth_of(shown()))
    beside = objective.beside(kept)
    assert objective.value(kept) == beside[PLAYER] == beside[INSTRUMENT] == 1 and beside[JOINT] < 0.01
    guessed = objective.beside(objective.guess(kept))
    assert guessed[PLAYER] == pytest.approx(560 / SIDE**2) and guessed[INSTRUMENT] == pytest.approx(120 / SIDE**2)
    away = (PLACES - 0.5).norm(dim=1).mean() * SIDE / 32
    assert guessed[JOINT] == pytest.approx(float(away), abs=0.005)


def test_half_of_a_mask_is_a_half():
    maps = perfect(with_maps(shown()))
    maps[:, 1:3, :, SIDE // 2 :] = -20
    half = sums_of(maps, truth_of(shown()))[0]
    assert (half[0] / half[1], half[2] / half[3]) == (0.5, 0.5)


def test_numbers_that_are_not_finite_have_no_figure():
    maps = perfect(with_maps(shown()))
    maps[0, 0, 0, 0] = torch.inf
    assert sums_of(maps, truth_of(shown())).isnan().all()


def test_sides_of_a_mirrored_picture_are_exchanged_as_by_the_renderer():
    taught = with_maps(shown())
    mirrored = taught.flip(2)
    other = torch.stack([1 - PLACES[:, 0], PLACES[:, 1]], dim=1)[list(EXCHANGED)]
    expected = losses_of(perfect(with_maps(shown(other))), with_maps(shown(other)))
    torch.testing.assert_close(losses_of(perfect(with_maps(shown(other))), mirrored), expected, atol=0.01, rtol=0)
    assert losses_of(perfect(mirrored), mirrored) > expected + 0.2


def test_joints_that_are_not_seen_are_not_taught():
    maps = with_maps(shown(torch.full_like(PLACES, torch.nan)))
    found = perfect(maps)
    changed = torch.cat([found[:, : len(CLASSES)], torch.randn(1, len(BODY), SIDE, SIDE)], dim=1)
    assert torch.equal(losses_of(found, maps), losses_of(changed, maps))


def test_shards_without_masks_or_joints_of_drawn_players_are_refused():
    interface = Segmentation(load_experiment("segmentation").settings(), RECIPE).interface
    picture, masks = np.zeros((1, SIDE, SIDE, 3), np.uint8), np.zeros((2, 1, SIDE, SIDE), bool)
    other = np.zeros((1, 9), np.float16)
    for given, missing in (({}, "masks"), ({"masks": masks, "skeleton": other}, "skeleton of a drawn player")):
        player = Player("vn", "1-vn", picture=picture, **given)
        with pytest.raises(DataError, match=f"needs masks and joints .*; got no {missing} of '1-vn' in p_000000000"):
            interface.of_player(Clip("p", 0, 8000, 8000, (player,), 1.0), player)


def test_a_vision_network_without_levels_is_refused():
    with pytest.raises(
        ConfigError, match="objective: segmentation needs model.vision.network: compact; got .*resnet18"
    ):
        load_experiment("segmentation", ["model.vision={network: resnet18}"])
