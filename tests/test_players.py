"""Evaluation by player: one separation of a duo, ordered by an oracle, by the picture and by the swapped picture."""

import numpy as np
import pytest
import ray
import torch
from clapping_duos import RATE, duo_shards, save_alignment
from small_separator import build

from vimss import report
from vimss.errors import ConfigError, DataError, ModelError
from vimss.evaluate import Row, Table, score_mixtures, two_source_mixtures
from vimss.evaluate.assigned import AssignedSystem, assigned_system
from vimss.evaluate.players import (
    PieceScore,
    PlayersEvaluation,
    evaluate_players,
    joined_players,
    players_tasks,
    score_players,
)
from vimss.evaluations import ModelsOnSplit, evaluate_assigned
from vimss.media import write_wav
from vimss.metrics import si_sdr_improvement
from vimss.model.separator import save_separator
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.scene import pieces_of, scene_of
from vimss.systems import ModelSystem, System, baseline_systems


class TrueSlots(ModelSystem):
    """Gives the true stems in the wrong order, each with a tenth of the other."""

    def slots(self, scene):
        stems = np.stack(list(scene.references.values()))
        return stems[::-1] + 0.1 * stems


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("duos")
    return duo_shards(root / "corpus", Store(root / "store"))


@pytest.fixture(scope="module")
def alignment(tmp_path_factory):
    return save_alignment(tmp_path_factory.mktemp("models") / "alignment")


@pytest.fixture(scope="module")
def slots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "slots"
    separator = build(torch.float32, outputs="slots")
    separator.labels = ("vn", "va")
    save_separator(folder, separator, {})
    return folder


@pytest.fixture(scope="module")
def system(shards, slots, alignment):
    assigned = assigned_system(slots, alignment, shards, "true stems")
    assigned.model = TrueSlots(assigned.model.separator, "true stems")
    return assigned


@pytest.fixture(scope="module")
def pieces(shards, system):
    return list(pieces_of(shards, "test", system.views, by_player=True))


@pytest.mark.slow
def test_scenes_of_duos_have_a_reference_and_the_motion_of_each_player(pieces):
    assert len(pieces) == 3
    for piece in pieces:
        assert list(piece.references) == list(piece.views) == ["vn 1", "vn 2"]
        assert {views[0].shape for views in piece.views.values()} == {(200, 64)}
        np.testing.assert_allclose(sum(piece.references.values()), piece.mixture, atol=1e-4)


def test_a_duo_has_no_scene_by_label(shards):
    assert list(pieces_of(shards, "test")) == []


def test_the_picture_gives_the_order_of_the_oracle_and_the_swapped_picture_the_other(system, pieces):
    for piece in pieces:
        score = score_players(system, piece, 8000)
        gains = score.si_sdr_improvement
        assert score.right and score.confidence > 0.9 and score.players == ("vn 1", "vn 2")
        assert gains["picture"] == gains["oracle"] and min(gains["picture"]) > 10
        assert max(gains["swapped picture"]) < -10


def test_in_a_mixture_of_two_equal_players_each_of_them_is_scored(shards, system):
    (oracle,) = baseline_systems(shards, ["oracle ratio mask"])
    for one in (system.model, oracle):
        for score in score_mixtures(one, shards, "test", numbers=range(3)):
            assert score.labels == ("vn 1", "vn 2") and min(score.si_sdr_improvement) > 4


def test_a_system_of_labels_has_one_output_for_both_of_them_and_no_contrast(shards):
    for name in ("mixture", "Wiener filter per label", "Wiener filter, all labels"):
        (baseline,) = baseline_systems(shards, [name])
        (score,) = score_mixtures(baseline, shards, "test", numbers=range(1))
        assert len(score.si_sdr_improvement) == 2 and score.label_contrast == ()
        assert score.si_sdr_improvement == pytest.approx((0, 0), abs=3)


def test_a_network_queried_by_motion_is_scored_with_the_right_motion_and_with_that_of_the_other_player(shards):
    separator = build(torch.float32, outputs="queries", context="motion", site="decoder")
    separator.labels = ("vn", "va")
    network = ModelSystem(separator, "motion", features="motion-1")
    (score,) = score_mixtures(network, shards, "test", numbers=range(1))
    assert score.labels == ("vn 1", "vn 2") and len(score.label_contrast) == 2
    (scene,) = (scene_of(mixture, "0", by_player=True) for mixture in two_source_mixtures(network, shards, "test", [0]))
    first, second = network(scene, ["vn 1", "vn 2"])
    of_first = scene.mixture, scene.references["vn 1"]
    assert score.si_sdr_improvement[0] == pytest.approx(si_sdr_improvement(*of_first, first, 8000))
    assert score.other_picture[0] == pytest.approx(si_sdr_improvement(*of_first, second, 8000))


def test_a_system_gives_the_slots_of_the_players_that_are_asked_for(system, pieces):
    for order, expected in (("picture", ["vn 1", "vn 2"]), ("swapped picture", ["vn 2", "vn 1"])):
        one = AssignedSystem(system.model, system.alignment, system.views, order)
        assert isinstance(one, System)
        found = one(pieces[0], ["vn 2", "vn 1"])
        wanted = [pieces[0].references[name] for name in reversed(expected)]
        assert all(np.corrcoef(a[0], b[0])[0, 1] > 0.9 for a, b in zip(found, wanted, strict=True))


def test_tasks_of_a_table_are_joined_and_printed(shards, slots, alignment, capsys):
    tasks = players_tasks(Table(shards.folder, "test"), Row("duos", slots), alignment, shards)
    found = joined_players([evaluate_players(task) for task in tasks], "test")
    assert [len(piece.players) for piece in found.pieces] == [2, 2, 2] and found.weights
    report.print_players("test", [found])
    shown = capsys.readouterr().out
    assert "duos, ordered by the swapped picture" in shown and "confidence at least" in shown
    assert "Split test, whole pieces (6 players, 3 pieces)" in shown


def evaluation(*pieces) -> PlayersEvaluation:
    scores = tuple(
        PieceScore(
            piece=str(number),
            players=("vn 1", "vn 2"),
            si_sdr_improvement={
                "oracle": (4.0, 6.0),
                "picture": (4.0, 6.0) if right else (-3.0, -5.0),
                "swapped picture": (-3.0, -5.0) if right else (4.0, 6.0),
            },
            right=right,
            margin=20 * confidence,
            confidence=confidence,
        )
        for number, (confidence, right) in enumerate(pieces)
    )
    return PlayersEvaluation(system="duos", weights="", alignment="", split="test", pieces=scores)


def test_the_curve_leaves_out_what_is_less_certain():
    found = evaluation((0.5, False), (0.75, True), (0.96, True), (0.999, True))
    assert found.share_right == 0.75 and found.swapped_contrast == 7.0
    curve = {one.least_confidence: (one.coverage, one.right) for one in found.risk_coverage}
    assert curve[0.0] == (1.0, 0.75) and curve[0.6] == (0.75, 1.0) and curve[0.99] == (0.25, 1.0)
    assert found.risk_coverage[0].si_sdr_improvement < found.risk_coverage[1].si_sdr_improvement == 5.0


def test_a_few_pieces_that_are_all_right_prove_no_certainty():
    low, high = evaluation(*[(0.9, True)] * 16).share_interval
    assert low == pytest.approx(0.025 ** (1 / 16)) and high == 1


def test_a_threshold_that_no_piece_reaches_has_no_figure():
    last = evaluation((0.5, True), (0.6, True)).risk_coverage[-1]
    assert last.coverage == 0 and np.isnan(last.right) and np.isnan(last.si_sdr_improvement)
    assert report.coverage_rows(evaluation((0.5, True)))[-1] == ("0.99", "0.00", "-", "-")


def test_more_players_than_slots_are_refused(system, pieces):
    (view,) = pieces[0].views["vn 1"]
    pieces[0].views["va"] = [view]
    try:
        with pytest.raises(ConfigError, match="separates at most 2 players; got 3: vn 1, vn 2, va"):
            system.separate(pieces[0])
    finally:
        del pieces[0].views["va"]


def test_a_split_whose_pieces_have_too_many_players_is_refused_before_ray_starts(shards, alignment, tmp_path):
    separator = build(torch.float32, outputs="slots", slots=1)
    separator.labels = ("vn", "va")
    save_separator(tmp_path / "slots", separator, {})
    with pytest.raises(ConfigError, match="a model with 1 slot separates 1 player; got 2: vn, vn. To fix: use a"):
        evaluate_assigned(ModelsOnSplit(shards, {"slots": tmp_path / "slots"}, "test"), alignment)
    assert not ray.is_initialized()


def test_a_split_of_soloists_is_refused(slots, alignment, tmp_path):
    manifest = solo_shards(tmp_path)
    with pytest.raises(
        DataError, match="'test' of 'solos' must have pieces of two or more players that sound; got 1 of one player"
    ):
        evaluate_assigned(ModelsOnSplit(manifest, {"slots": slots}, "test"), alignment)


def solo_shards(folder):
    """One piece of one player in each split."""
    for seed, split in enumerate(("train", "valid", "promote", "test")):
        (folder / "corpus" / split / f"{split} 1").mkdir(parents=True)
        noise = np.random.default_rng(seed).uniform(-0.1, 0.1, (1, 2 * RATE)).astype(np.float32)
        write_wav(folder / "corpus" / split / f"{split} 1" / "vn.wav", noise, RATE)
    recipe = load_recipe("folder", [f"sample_rate={RATE}", "labels=[vn, va]"])
    return write_shards(recipe, "solos", Store(folder / "store"), source=folder / "corpus")


def test_a_model_without_slots_is_refused(shards, alignment, tmp_path):
    save_separator(tmp_path / "labels", build(torch.float32, outputs="instruments"), {})
    with pytest.raises(ModelError, match="must be slots, whose order is unknown; got outputs: instruments"):
        assigned_system(tmp_path / "labels", alignment, shards, "labels")


def test_motion_that_was_never_computed_is_asked_for(small_manifest, alignment, tmp_path):
    separator = build(torch.float32, outputs="slots")
    separator.labels = small_manifest.recipe.labels
    save_separator(tmp_path / "slots", separator, {})
    with pytest.raises(DataError, match="motion needs at least 10 pictures a second"):
        assigned_system(tmp_path / "slots", alignment, small_manifest, "slots")
