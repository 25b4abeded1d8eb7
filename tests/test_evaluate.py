import numpy as np
import pytest

from vimss.evaluate import (
    MixtureSystem,
    ModelSystem,
    OracleSystem,
    WienerSystem,
    evaluate,
    evaluate_two_sources,
    fit_wiener,
    pieces_of,
    references_of,
)
from vimss.model.config import ModelConfig
from vimss.model.separator import Separator
from vimss.shards.clip import Clip, Player

TINY = {"levels": 3, "filters": 4, "down_kernel": 5, "output_activation": "linear", "initial_output": "mixture"}


@pytest.fixture(scope="module")
def oracle(small_manifest):
    return evaluate(OracleSystem(small_manifest.recipe.sample_rate), small_manifest, "test")


def test_the_mixture_improves_nothing(small_manifest):
    two = evaluate_two_sources(MixtureSystem(), small_manifest, "test")
    assert two.si_sdr_improvement == pytest.approx(0, abs=1e-6)
    assert two.absent_level == pytest.approx(0, abs=1e-6)


def test_the_oracle_is_far_above_the_wiener_filter(small_manifest, oracle):
    wiener = evaluate_two_sources(WienerSystem(fit_wiener(small_manifest)), small_manifest, "test")
    assert oracle.two_sources.si_sdr_improvement > wiener.si_sdr_improvement + 5
    assert oracle.two_sources.label_contrast > 10


def test_every_source_of_every_whole_piece_is_scored(small_manifest, oracle):
    expected = {(piece.name, label) for piece in pieces_of(small_manifest, "test") for label in piece.references}
    assert {(score.piece, score.label) for score in oracle.scores} == expected
    assert oracle.count(sources=2) + oracle.count(sources=3) + oracle.count(sources=4) == len(expected)


def test_medians_are_over_the_sources_chosen(oracle):
    chosen = [score.si_sdr_improvement for score in oracle.scores if score.sources == 4]
    assert oracle.median("si_sdr_improvement", sources=4) == pytest.approx(np.nanmedian(chosen))
    assert np.isnan(oracle.median("si_sdr_improvement", sources=9))


@pytest.mark.parametrize(
    "config",
    [
        {"outputs": "queries", "site": "decoder"},
        {"outputs": "instruments", "site": "none"},
        {"outputs": "instruments", "site": "every_layer"},
    ],
)
def test_every_kind_of_model_answers_by_label(small_manifest, config):
    separator = Separator(ModelConfig(**TINY, **config), small_manifest.recipe.labels, 8000)
    piece = next(pieces_of(small_manifest, "test"))
    estimates = ModelSystem(separator, "tiny")(piece.mixture, piece.references, ["vn", "tba"])
    assert estimates.shape == (2, *piece.mixture.shape)
    alone = ModelSystem(separator, "tiny")(piece.mixture, piece.references, ["tba"])
    np.testing.assert_allclose(estimates[1], alone[0], atol=1e-6)


def test_two_players_of_one_label_are_one_reference():
    ones = np.full((1, 4), 16384, np.int16)
    rest = np.zeros((1, 4), np.int16)
    players = (Player("vn", "1", ones), Player("vn", "2", ones), Player("fl", "3", rest))
    references = references_of(Clip("p", 0, 4, 8000, players))
    assert list(references) == ["vn"]
    np.testing.assert_allclose(references["vn"], 1.0)
