"""Promotion: a challenger becomes the champion where its gain is significant, and only there."""

import shutil
from pathlib import Path

import pytest
import torch

from vimss.errors import ModelError
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, save_separator
from vimss.promote import Decision, champion_to_beat, decide, promote
from vimss.storage import Store
from vimss.track import Tracking, find_alias, find_version, register

ITEMS = [(f"piece {number // 2}", ("vn", "vc")[number % 2]) for number in range(12)]
CHAMPION = {item: 2.0 + 0.1 * number for number, item in enumerate(ITEMS)}


def better_by(gains: list[float]) -> dict[tuple[str, str], float]:
    return {item: CHAMPION[item] + gains[number % len(gains)] for number, item in enumerate(ITEMS)}


def test_a_significant_gain_is_promoted() -> None:
    decision = decide(better_by([0.5, 0.7]), CHAMPION, "version 3")
    assert decision.promoted
    assert decision.gain == pytest.approx(0.6)
    assert decision.low == pytest.approx(0.6) == decision.high  # all pieces agree
    assert decision.sentence.startswith("Promoted: +0.60 dB against version 3 (95 % interval over pieces +0.60")
    assert "12 sources in 6 pieces" in decision.sentence


def test_a_gain_within_its_own_spread_is_refused() -> None:
    decision = decide(better_by([-3.0, -2.0, 3.5, 2.5]), CHAMPION, "version 3")
    assert not decision.promoted
    assert decision.gain == pytest.approx(0.25)
    assert decision.sentence.startswith("Not promoted: +0.25 dB against version 3")
    assert decision.sentence.endswith("the interval must lie above 0.")


def test_a_loss_is_refused() -> None:
    assert not decide(better_by([-0.5, -0.7]), CHAMPION, "version 3").promoted


def test_a_gain_is_paired() -> None:
    spread = {item: 20.0 * number for number, item in enumerate(ITEMS)}
    assert decide({item: score + 0.1 for item, score in spread.items()}, spread, "the baseline").promoted


def test_too_few_pairs_are_refused_whatever_the_gain() -> None:
    few = dict(list(CHAMPION.items())[:6])
    decision = decide({item: score + 5 for item, score in few.items()}, few, "the baseline")
    assert not decision.promoted
    assert decision.sentence == (
        "Not promoted: 6 sources in 3 pieces are too few to decide: at least 4 pieces are needed."
    )


def test_no_pairs_are_refused() -> None:
    assert "0 sources in 0 pieces are too few" in decide({}, {}, "the baseline").sentence


def test_a_challenger_without_a_finite_score_is_refused() -> None:
    decision = decide({**better_by([5.0]), ("piece 1", "vc"): float("nan")}, CHAMPION, "version 3")
    assert not decision.promoted
    assert "no finite score for vc in piece 1, where version 3 does" in decision.sentence


def test_what_the_champion_has_no_score_for_is_left_out() -> None:
    undefined = {("piece 1", "vc"): float("nan")}
    decision = decide({**better_by([1.0, 2.0]), **undefined}, {**CHAMPION, **undefined}, "version 3")
    assert decision.promoted
    assert decision.num_pieces == 6
    assert "11 sources in 6 pieces, without 1 for which version 3 has no finite score" in decision.sentence


def test_scores_of_other_pieces_are_an_error() -> None:
    challenger = {**better_by([1.0]), ("piece 9", "fl"): 4.0}
    with pytest.raises(
        ModelError, match="must be scored on the same pieces and labels; got 1 that only one has, fl in"
    ):
        decide(challenger, CHAMPION, "version 3")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """Three versions of `quickstart`, none with an alias."""
    tracking = Tracking(Store(tmp_path_factory.mktemp("registry")))
    client = tracking.client()
    run_id = client.create_run(client.create_experiment("quickstart", str(tracking.artifacts))).info.run_id
    for seed in range(3):
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp("model") / "model"
        save_separator(folder, Separator(WaveUNetConfig(levels=1, filters=1), ("vn", "vc"), 8000), {})
        assert register(tracking, "quickstart", folder, run_id, {}, {}) == seed + 1
    return tracking


@pytest.fixture
def versions(registry: Tracking, tmp_path: Path) -> Tracking:
    tracking = Tracking(Store(tmp_path / "store"))
    shutil.copytree(registry.folder, tracking.folder)
    return tracking


GAIN = decide(better_by([0.5, 0.7]), CHAMPION, "the baseline")
NO_GAIN = decide(better_by([-3.0, -2.0, 3.5, 2.5]), CHAMPION, "version 1")


def aliases(tracking: Tracking) -> dict[str, int]:
    found = {alias: find_alias(tracking, "quickstart", alias) for alias in ("champion", "previous")}
    return {alias: version.version for alias, version in found.items() if version is not None}


@pytest.mark.slow
def test_the_first_champion_has_no_predecessor(versions: Tracking) -> None:
    assert promote(versions, "quickstart", 1, GAIN)
    assert aliases(versions) == {"champion": 1}


@pytest.mark.slow
def test_a_new_champion_makes_the_old_one_the_previous(versions: Tracking) -> None:
    for version in (1, 2, 3):
        promote(versions, "quickstart", version, GAIN)
    assert aliases(versions) == {"champion": 3, "previous": 2}


@pytest.mark.slow
def test_promoting_again_changes_nothing(versions: Tracking) -> None:
    for version in (1, 2, 2):
        assert promote(versions, "quickstart", version, GAIN)
    assert aliases(versions) == {"champion": 2, "previous": 1}


@pytest.mark.slow
def test_a_challenger_must_beat_the_champion_and_the_champion_the_one_before(versions: Tracking) -> None:
    assert champion_to_beat(versions, "quickstart", 1) is None
    promote(versions, "quickstart", 1, GAIN)
    assert champion_to_beat(versions, "quickstart", 1) is None
    assert champion_to_beat(versions, "quickstart", 2) == 1
    promote(versions, "quickstart", 2, GAIN)
    assert champion_to_beat(versions, "quickstart", 2) == 1
    assert champion_to_beat(versions, "quickstart", 1) == 2


@pytest.mark.slow
def test_a_promotion_that_was_cut_off_is_finished(versions: Tracking) -> None:
    promote(versions, "quickstart", 1, GAIN)
    versions.client().set_registered_model_alias("quickstart", "previous", "1")
    promote(versions, "quickstart", 2, GAIN)
    assert aliases(versions) == {"champion": 2, "previous": 1}


@pytest.mark.slow
def test_a_refused_version_gets_no_alias_and_says_why(versions: Tracking) -> None:
    promote(versions, "quickstart", 1, GAIN)
    assert not promote(versions, "quickstart", 2, NO_GAIN)
    assert aliases(versions) == {"champion": 1}
    assert find_version(versions, "quickstart", "2").tags["promotion"] == NO_GAIN.sentence


@pytest.mark.slow
def test_a_champion_says_how_it_was_promoted(versions: Tracking) -> None:
    promote(versions, "quickstart", 1, Decision(True, 0.6, 0.5, 0.7, 12, "the baseline", "Promoted: ..."))
    tags = find_version(versions, "quickstart", "champion").tags
    assert (tags["promoted_gain_db"], tags["promoted_interval_db"]) == ("0.600", "0.500 to 0.700")
    assert tags["promoted_against"] == "the baseline"


@pytest.mark.slow
def test_a_version_that_does_not_exist_cannot_be_promoted(versions: Tracking) -> None:
    with pytest.raises(ModelError, match="must have a version or alias '9'; got versions 1, 2, 3; aliases none"):
        promote(versions, "quickstart", 9, GAIN)
