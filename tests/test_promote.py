"""Promotion: a challenger becomes the champion where its gain is significant, and only there."""

import csv
import io
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pages import Tags, runs_its_own_alone
from test_track import EXPERIMENT, REPORTS, bring, trial

from vimss.errors import DataError, ModelError
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, save_separator
from vimss.promote import (
    Bar,
    Decision,
    Terms,
    challenger_of_run,
    champion_to_beat,
    count_challenger,
    decide,
    interface_change,
    level_of,
    promote,
    promote_challenger,
    rollback,
    settle,
)
from vimss.runtime import Place
from vimss.search.study import Study
from vimss.session import Session
from vimss.shards.manifest import Manifest
from vimss.storage import Store
from vimss.track import Tracking, find_alias, find_version, model_folder, register, registered_as, set_alias
from vimss.train.config import Settings

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


def test_what_a_model_has_no_example_of_is_left_out_whoever_needs_it() -> None:
    missing = ("piece 1", "vc")
    undefined = {missing: float("nan")}
    for challenger, champion in (
        ({**better_by([1.0]), **undefined}, CHAMPION),
        (better_by([1.0]), CHAMPION | undefined),
    ):
        decision = decide(challenger, champion, "version 3", without_example=[missing])
        assert decision.promoted
        assert "11 sources in 6 pieces, leaving out 1 whose player has no example)" in decision.sentence
    broken = {**better_by([5.0]), **undefined, ("piece 2", "vn"): float("nan")}
    assert not decide(broken, CHAMPION, "version 3", without_example=[missing]).promoted


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
def test_promotions_that_begin_together_are_settled_one_after_the_other(versions: Tracking) -> None:
    promote(versions, "quickstart", 1, GAIN)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(settle, versions, "quickstart", version, 1, GAIN) for version in (2, 3)]
    errors = [each.exception() for each in both]
    winner = 2 + errors.index(None)
    assert [type(error) for error in errors if error] == [ModelError] and "run the same command again" in str(errors)
    assert aliases(versions) == {"champion": winner, "previous": 1}


@pytest.mark.slow
def test_challengers_that_are_judged_together_have_different_numbers(versions: Tracking) -> None:
    def count(letter: str) -> int:
        return count_challenger(versions, "quickstart", 1, "0" * 64, letter * 64)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(count, "abcd")) == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_folder_is_known_by_the_version_that_it_was_registered_as(versions: Tracking, small_model: Path) -> None:
    assert registered_as(versions, "quickstart", model_folder("models:/quickstart/2", versions)) == 2
    assert registered_as(versions, "quickstart", small_model) is None


@pytest.fixture(scope="module")
def of_runs(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path, small_store: Store, small_manifest: Manifest
) -> tuple[Session, list[str]]:
    """A store with the runs of two trials, and their ids."""
    store = Store(tmp_path_factory.mktemp("runs"), small_store.shards)
    tracking = Tracking(store)
    shutil.copytree(empty_database, tracking.folder)
    home = store.studies / "quickstart-3f9c2a1b07"
    records = [
        trial(home, name, reports=REPORTS, settings=Settings(seed=seed)) for seed, name in enumerate(("a1", "b2"))
    ]
    for record in records:
        torch.manual_seed(len(record.trial) + (record.trial == "b2"))
        config = WaveUNetConfig(levels=2, filters=2, down_kernel=5, site="decoder", outputs="queries", padding="same")
        shutil.rmtree(record.folder / "model")
        save_separator(record.folder / "model", Separator(config, small_manifest.recipe.labels, 8000), {})
    found = bring(tracking, Study(home, tuple(records)), small_manifest, experiment=EXPERIMENT).run_ids
    return Session(Place(name="test"), store, tracking), [found["search", name] for name in ("a1", "b2")]


@pytest.mark.slow
def test_a_run_is_promoted_under_a_name_of_its_own_and_both_versions_keep_the_report(
    of_runs: tuple[Session, list[str]],
) -> None:
    session, (first, second) = of_runs
    tracking, seen = session.tracking, list[float]()
    forced = promote_challenger(session, challenger_of_run(session, first, "other"), Terms(forced="it is the first"))
    assert (forced.name, forced.version, forced.is_champion) == (
        "other",
        1,
        True,
    ) and forced.forced == "it is the first"
    by_name = tracking.client().get_run(second).info.run_name
    challenger = challenger_of_run(session, by_name, "other")
    outcome = promote_challenger(session, challenger, on_progress=lambda progress: seen.append(progress.share))
    assert (outcome.version, challenger.trial.trial, challenger.question) == (2, "b2", "Which batch?")
    assert {0.0, 1.0} <= set(seen)
    pages = {
        version: find_version(tracking, "other", version).tags[f"{tag}_report"]
        for version, tag in (("1", "challenge_2"), ("2", "promotion"))
    }
    assert pages == {
        version: f"runs:/{run}/promotions/other-2-against-1/page.html" for version, run in (("1", first), ("2", second))
    }
    folder = Path(outcome.report).parent
    assert json.loads((folder / "decision.json").read_text())["sentence"] == outcome.decision.sentence
    challenger_scores, champion_scores = json.loads((folder / "scores.json").read_text())
    lines = list(csv.DictReader(io.StringIO((folder / "scores.csv").read_text())))
    assert len(lines) == len(challenger_scores["scores"]) == len(champion_scores["scores"]) > 4
    html = Path(outcome.report).read_text()
    assert html.count("<audio") == 15 and "violin" in html and outcome.decision.sentence in unescape(html)
    tags = Tags(html)
    assert tags.open == []
    (policy,) = [attributes["content"] for tag, attributes in tags.found if "http-equiv" in attributes]
    assert policy and runs_its_own_alone(html, policy) and not re.search(r"https?://|@import", html)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0" * 32, "RUN must be the id of one run in MLflow, its name or its trial's; got no runs for '000"),
        ("search", "got no runs for 'search'. To fix: copy it from the pages"),
        ("cell", "RUN must be the run of a trial; got that of the cell 'search'. To fix: promote the best of its"),
    ],
)
def test_what_is_no_run_of_a_trial_is_refused(of_runs: tuple[Session, list[str]], given: str, message: str) -> None:
    session, (first, _) = of_runs
    if given == "cell":
        given = session.tracking.client().get_run(first).data.tags["mlflow.parentRunId"]
    with pytest.raises(ModelError, match=message):
        challenger_of_run(session, given)


@pytest.mark.slow
def test_a_run_whose_trial_or_shards_are_elsewhere_is_refused(
    of_runs: tuple[Session, list[str]], tmp_path: Path
) -> None:
    session, (first, _) = of_runs
    with pytest.raises(DataError, match="the trial a1 was trained on must be in the store; got none with the digest"):
        challenger_of_run(replace(session, store=replace(session.store, shards_at=None)), first)
    with pytest.raises(DataError, match="a1 of quickstart must be in the store; .* To fix: set VIMSS_STORE"):
        challenger_of_run(replace(session, store=replace(session.store, root=tmp_path)), first)


@pytest.mark.slow
def test_a_model_of_another_vocabulary_is_refused_with_the_reason_and_nothing_is_scored(
    of_runs: tuple[Session, list[str]], tmp_path: Path
) -> None:
    session, (first, _) = of_runs
    save_separator(tmp_path / "m", Separator(WaveUNetConfig(levels=1, filters=1), ("vn", "vc"), 8000), {})
    version = register(session.tracking, "narrow", tmp_path / "m", first, {}, {})
    set_alias(session.tracking, "narrow", "champion", version)
    outcome = promote_challenger(session, challenger_of_run(session, first, "narrow"))
    assert not outcome.is_champion and outcome.report == ""
    assert "Not promoted: it has other labels" in outcome.decision.sentence
