"""Promotion: a challenger becomes the champion where its gain is significant, and only there."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vimss.errors import ModelError
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, save_separator
from vimss.promote import (
    Bar,
    Decision,
    champion_to_beat,
    count_challenger,
    decide,
    interface_change,
    level_of,
    promote,
    rollback,
    settle,
)
from vimss.storage import Store
from vimss.track import Tracking, find_alias, find_version, model_folder, register, registered_as

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


def test_the_whole_interval_must_lie_above_the_margin() -> None:
    small, large = (decide(better_by([0.5, 0.7]), CHAMPION, "version 3", Bar(margin)) for margin in (0.55, 0.65))
    assert small.promoted and small.sentence.endswith(": the interval lies above 0.55 dB.")
    assert not large.promoted and large.sentence.endswith(": the interval must lie above 0.65 dB.")


def test_a_later_challenger_needs_a_surer_gain_and_the_sentence_says_so() -> None:
    gains = better_by([0.1, 0.2, 0.3, 0.6])
    first, fifth = (decide(gains, CHAMPION, "version 3", Bar(number=number)) for number in (1, 5))
    assert first.promoted and not fifth.promoted and first.gain == fifth.gain
    assert first.sentence == decide(gains, CHAMPION, "version 3").sentence.replace(
        "12 sources", "challenger 1 of this champion on this split, 12 sources"
    )
    assert "(99.75 % interval over pieces" in fifth.sentence and "challenger 5 of this champion" in fifth.sentence


def test_all_challengers_of_a_champion_together_have_one_chance_in_twenty_to_be_promoted_in_error() -> None:
    errors = [(1 - level_of(number)) / 2 for number in range(1, 2000)]
    assert level_of(1) == 0.95 and sorted(errors, reverse=True) == errors and 0.0499 < sum(errors) <= 0.05
    random, promoted = np.random.default_rng(0), 0
    for _ in range(300):
        drawn = random.normal(size=(10, len(ITEMS)))
        promoted += any(
            decide(dict(zip(ITEMS, scores, strict=True)), dict.fromkeys(ITEMS, 0.0), "it", Bar(number=number)).promoted
            for number, scores in enumerate(drawn.tolist(), 1)
        )
    assert promoted / 300 <= 0.07  # 0.22 with 95 % for all


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


@pytest.mark.parametrize(
    ("labels", "rate", "channels", "change"),
    [
        (("vn", "vc"), 8000, 1, ""),
        (("vn", "fl"), 8000, 1, "it has other labels (vn, fl instead of vn, vc)"),
        (("vn", "vc"), 16000, 1, "it has another sample rate (16000 instead of 8000 Hz)"),
        (
            ("vn", "vc"),
            8000,
            2,
            "it has another signature (float32 mixture (-1, 2, -1) to vn, vc instead of float32 mixt",
        ),
    ],
)
def test_a_change_that_users_of_the_alias_would_notice_is_named(
    tmp_path: Path, labels: tuple[str, ...], rate: int, channels: int, change: str
) -> None:
    before = Separator(WaveUNetConfig(levels=1, filters=1), ("vn", "vc"), 8000)
    save_separator(tmp_path / "before", before, {})
    after = Separator(WaveUNetConfig(levels=2, filters=1, channels=channels, site="decoder"), labels, rate)
    save_separator(tmp_path / "after", after, {})
    found = interface_change(tmp_path / "after", tmp_path / "before")
    assert found.startswith(change) and bool(found) == bool(change)


@pytest.mark.slow
def test_a_rollback_exchanges_champion_and_previous(versions: Tracking, vimss_says) -> None:
    for version in (1, 2):
        promote(versions, "quickstart", version, GAIN)
    code, out, _ = vimss_says("promote", "quickstart", "--rollback")
    assert (code, out) == (0, "quickstart version 1 is the champion again; version 2 is the previous one.\n")
    assert aliases(versions) == {"champion": 1, "previous": 2}
    assert find_version(versions, "quickstart", "2").tags["rolled_back"].endswith("version 1 is the champion again")
    assert rollback(versions, "quickstart") == (2, 1)
    assert aliases(versions) == {"champion": 2, "previous": 1}


@pytest.mark.slow
def test_a_rollback_needs_a_previous_champion(versions: Tracking) -> None:
    with pytest.raises(ModelError, match="must have a version or alias 'champion'"):
        rollback(versions, "quickstart")
    promote(versions, "quickstart", 1, GAIN)
    for _ in range(2):
        with pytest.raises(
            ModelError, match="needs the champion before this one, .* got version 1 as the champion, and"
        ):
            rollback(versions, "quickstart")
        versions.client().set_registered_model_alias("quickstart", "previous", "1")  # as a rollback that was cut off
    assert aliases(versions) == {"champion": 1, "previous": 1}


@pytest.mark.slow
def test_a_forced_version_is_the_champion_and_keeps_the_reason(versions: Tracking) -> None:
    promote(versions, "quickstart", 1, GAIN)
    assert promote(versions, "quickstart", 2, NO_GAIN, "it is faster")
    assert aliases(versions) == {"champion": 2, "previous": 1}
    tags = find_version(versions, "quickstart", "2").tags
    assert (tags["promotion_forced"], tags["promotion"]) == ("it is faster", NO_GAIN.sentence)
    assert "promoted_gain_db" not in tags
    assert promote(versions, "quickstart", 2, NO_GAIN)  # it is the champion still


@pytest.mark.slow
def test_challengers_of_a_champion_are_counted_once_each_and_apart_for_other_shards(versions: Tracking) -> None:
    asked = [("0" * 64, "a" * 64), ("0" * 64, "b" * 64), ("0" * 64, "a" * 64), ("1" * 64, "b" * 64)]
    assert [count_challenger(versions, "quickstart", 1, *each) for each in asked] == [1, 2, 1, 1]
    assert count_challenger(versions, "quickstart", 2, *asked[1]) == 1


@pytest.mark.slow
def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(versions: Tracking) -> None:
    promote(versions, "quickstart", 1, GAIN)
    incumbent = champion_to_beat(versions, "quickstart", 2)
    assert settle(versions, "quickstart", 3, incumbent, GAIN)
    with pytest.raises(
        ModelError, match="compared with version 1, which .* got version 3 as the champion. To fix: run"
    ):
        settle(versions, "quickstart", 2, incumbent, GAIN)
    assert aliases(versions) == {"champion": 3, "previous": 1}
    assert settle(versions, "quickstart", 3, champion_to_beat(versions, "quickstart", 3), GAIN)


@pytest.mark.slow
def test_a_folder_is_known_by_the_version_that_it_was_registered_as(versions: Tracking, small_model: Path) -> None:
    assert registered_as(versions, "quickstart", model_folder("models:/quickstart/2", versions)) == 2
    assert registered_as(versions, "quickstart", small_model) is None
