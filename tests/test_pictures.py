"""What pictures are worth: the four numbers of a claim, and when they are called a gain."""

import math
from dataclasses import replace

import numpy as np
import pytest

from vimss import report
from vimss.config import parse_config
from vimss.evaluate import Evaluation, MixtureScore, SourceScore, TwoSources
from vimss.evaluate.pictures import claim, naming, trained_as, with_claims
from vimss.evaluate.records import PIECE_FIGURES, NamedPlayer
from vimss.evaluations import claims_of_experiment
from vimss.experiment import Experiment
from vimss.search.study import TrialRecord
from vimss.train.config import Settings

PIECES = 12


def row(name: str, gains: float | list[float], other: float | None = None, named: str = "") -> Evaluation:
    """Two sources of each piece, which vary by a tenth of a dB."""
    gains = [gains] * PIECES if isinstance(gains, float) else gains
    scores = [
        MixtureScore(
            mixture=number,
            pieces=(f"p{number}",),
            aligned=False,
            labels=("vc", "vn"),
            si_sdr_improvement=(gain, gain + 0.1 * (number % 2)),
            label_contrast=(),
            absent_level=(),
            other_picture=() if other is None else (other, other),
            named=[NamedPlayer(label="vc", named=named, probability=0.4)] if named else (),
        )
        for number, gain in enumerate(gains)
    ]
    return Evaluation(system=name, split="test", two_sources=TwoSources.of(scores))


def settings(**model) -> Settings:
    looks = {"outputs": "queries", "site": "decoder", "context": "motion", **model}
    return Settings.model_validate({"model": looks})


def shuffled(chosen: Settings) -> Settings:
    return chosen.model_copy(update={"mixing": chosen.mixing.model_copy(update={"shuffle_pictures": True})})


# The numbers


def test_the_gain_is_what_the_right_pictures_have_above_the_shuffled_control():
    found = claim(row("m", 3.0, other=-2.0), row("s", 1.0), row("l", 3.5))
    assert (found.right, found.other, found.shuffled, found.label) == pytest.approx((3.05, -2.0, 1.05, 3.55), abs=0.06)
    assert found.gain == pytest.approx(2.0) and found.is_gain
    assert found.sentence == "gain from pictures: +2.0 dB (+2.0 to +2.0)"


def test_it_is_no_gain_where_the_interval_touches_zero():
    varied = list(np.random.default_rng(0).normal(1.3, 3.0, PIECES))
    found = claim(row("m", varied, other=0.0), row("s", 1.0), None)
    assert found.interval[0] <= 0 < found.interval[1] and not found.is_gain and math.isnan(found.label)
    assert found.sentence.startswith("no gain: right minus shuffled is ")
    assert found.sentence.endswith("and the interval touches 0")


def test_pictures_may_cost_something():
    found = claim(row("m", 0.0, other=0.0), row("s", 1.0), None)
    assert not found.is_gain and found.sentence == "no gain: pictures cost -1.0 dB (-1.0 to -1.0)"


def test_without_a_control_there_is_no_claim_and_it_is_said_how_to_get_one():
    found = claim(row("m", 3.0, other=0.0), None, row("l", 1.0), "add this")
    assert math.isnan(found.shuffled) and math.isnan(found.gain) and found.interval is None and not found.is_gain
    assert found.sentence == "no claim: no control with mixing.shuffle_pictures; add this"


def test_one_piece_is_no_claim():
    (score,) = row("m", [3.0], other=0.0).two_sources.scores
    alone = row("m", [3.0], other=0.0)
    found = claim(alone, row("s", [1.0]), None)
    assert score.pieces == ("p0",) and not found.is_gain
    assert found.sentence == "no claim: right minus shuffled is +2.0 dB, and one piece gives no interval"


def test_how_often_players_were_named_rightly_is_said():
    assert naming(row("m", 1.0)) == ""
    assert naming(row("m", 1.0, named="vc")) == "pictures named 12 of 12 players rightly; unsure of 12"
    assert naming(row("m", 1.0, named="va")).startswith("pictures named 0 of 12")


def test_a_claim_about_examples_names_them():
    trained = {
        name: trained_as(chosen)
        for name, chosen in (("m", settings(context="example")), ("s", shuffled(settings(context="example"))))
    }
    (found, _) = with_claims([row("m", 3.0, other=0.0), row("s", 1.0, other=0.0)], trained)
    assert found.pictures.sentence == "gain from examples: +2.0 dB (+2.0 to +2.0)"


def test_a_claim_about_examples_says_how_many_sources_had_none():
    trained = {"m": trained_as(settings(context="example"))}
    undefined = dict.fromkeys(PIECE_FIGURES, math.nan)
    scores = [
        SourceScore(piece="p", label=label, sources=2, has_example=label == "vn", **undefined) for label in ("vc", "vn")
    ]
    (found,) = with_claims([row("m", 3.0, other=0.0).model_copy(update={"scores": tuple(scores)})], trained)
    assert found.pictures.sentence.endswith("; whole pieces without 1 of 2 sources, for want of an example")


# Who is whose control


def test_the_control_differs_in_its_pictures_alone():
    own = trained_as(settings())
    assert trained_as(shuffled(settings())).is_control_of(own) and not own.is_control_of(own)
    assert not trained_as(shuffled(settings(filters=12))).is_control_of(own)
    assert trained_as(shuffled(settings(filters=12)), ["model.filters"]).is_control_of(
        trained_as(settings(), ["model.filters"])
    )
    seeded = settings().model_copy(update={"seed": 3})
    assert trained_as(shuffled(seeded)).is_control_of(own)


def test_of_two_controls_the_one_with_the_same_seed_is_taken():
    again = settings().model_copy(update={"seed": 1})
    trained = {
        "m": trained_as(again), "first": trained_as(shuffled(settings())), "second": trained_as(shuffled(again)),
    }  # fmt: skip
    rows = [row("m", 3.0, other=0.0), row("first", 1.0, other=1.0), row("second", 2.0, other=2.0)]
    assert with_claims(rows, trained)[0].pictures.gain == pytest.approx(1.0)


def test_where_a_network_is_conditioned_may_be_searched():
    tuned = ["model.site", "model.context"]
    own, control = trained_as(settings(), tuned), trained_as(shuffled(settings(site="output")), tuned)
    assert control.is_control_of(own) and own.looks
    unconditioned = Settings.model_validate({"model": {"outputs": "slots", "site": "none"}})
    assert not trained_as(unconditioned, tuned).looks


def test_the_label_row_differs_in_its_context_alone():
    own, by_label = trained_as(settings(motion_encoder="convolutions")), trained_as(settings(context="labels"))
    assert by_label.is_by_label(own) and not own.is_by_label(own)
    assert not trained_as(settings(context="labels", filters=12)).is_by_label(own)


def test_the_label_row_may_be_trained_without_mixtures_of_two_equal_players():
    mixing = {"same_label_probability": 0.5, "aligned_probability": 0.5}
    own = Settings.model_validate({"model": settings().model.model_dump(), "mixing": mixing})
    assert trained_as(settings(context="labels")).is_by_label(trained_as(own))
    louder = Settings.model_validate({"model": settings().model.model_dump(), "mixing": {**mixing, "gain_db": 9}})
    assert not trained_as(settings(context="labels")).is_by_label(trained_as(louder))


def test_rows_that_look_at_players_get_a_claim_and_controls_and_others_do_not():
    trained = {
        "motion": trained_as(settings()),
        "shuffled pictures": trained_as(shuffled(settings())),
        "labels": trained_as(settings(context="labels")),
    }
    rows = [
        row("motion", 3.0, other=0.0),
        row("shuffled pictures", 1.0, other=1.0),
        row("labels", 2.0),
        row("mix", 0.0),
    ]
    found = with_claims(rows, trained)
    assert [one.pictures is not None for one in found] == [True, False, False, False]
    assert found[0].pictures.shuffled == pytest.approx(1.05, abs=0.06)
    assert found[0].pictures.label == pytest.approx(2.05, abs=0.06)


def test_a_separator_asked_by_pictures_has_its_own_row_of_labels_and_the_control_of_the_namer():
    labels = trained_as(settings(context="labels"))
    namer = {"model.filters": 4, "mixing.shuffle_pictures": False}
    asked = replace(labels, label_row="labels", add="a", namer=namer)
    control = replace(asked, namer={**namer, "mixing.shuffle_pictures": True})
    rows = [row("labels", 2.0), row("asked", 1.9, other=-3.0), row("control", -4.0, other=-4.0)]
    found = with_claims(rows, {"labels": labels, "asked": asked, "control": control})
    assert [one.pictures is not None for one in found] == [False, True, False]
    assert found[1].pictures.is_gain and found[1].pictures.label == found[0].two_sources.si_sdr_improvement


def trial(cell: str, chosen: Settings) -> TrialRecord:
    return TrialRecord(cell=cell, trial=cell, state="finished", chosen={}, settings=chosen, begun=0.0)


def test_an_experiment_without_the_control_names_the_one_to_add(capsys):
    asked = Experiment(
        name="e", question="q", expected="x", shards="s", compare={"model.context": ("labels", "motion")},
        model={"outputs": "queries", "site": "decoder"},
    )  # fmt: skip
    trials = {cell.name: trial(cell.name, asked.settings(cell.overrides)) for cell in asked.cells()}
    rows = [row("context=labels", 2.0), row("context=motion", 3.0, other=0.0)]
    plain, looking = claims_of_experiment(rows, asked, trials)
    assert plain.pictures is None and looking.pictures.label == plain.two_sources.si_sdr_improvement
    control = "{model.context: motion, mixing.shuffle_pictures: true}"
    assert looking.pictures.sentence.endswith(f"add `controls: {{shuffled pictures: {control}}}` and search again")
    report.print_claims([plain, looking])
    shown = " ".join(capsys.readouterr().out.split())
    assert "right picture" in shown and "no claim: no control with mixing.shuffle_pictures" in shown
    with_it = asked.model_copy(
        update={"controls": {"shuffled": {"model.context": "motion", "mixing.shuffle_pictures": True}}}
    )
    trials["shuffled"] = trial("shuffled", with_it.settings(with_it.controls["shuffled"]))
    found = claims_of_experiment([*rows, row("shuffled", 1.0, other=1.0)], with_it, trials)
    assert found[1].pictures.is_gain


def test_a_table_without_pictures_prints_nothing_about_them(capsys):
    report.print_claims([row("m", 1.0)])
    assert capsys.readouterr().out == ""


def test_a_saved_table_holds_the_claim_and_one_of_before_has_none():
    found = row("m", 3.0, other=0.0).model_copy(update={"pictures": claim(row("m", 3.0, other=0.0), None, None)})
    content = found.model_dump(mode="json")
    again = parse_config(content, Evaluation, "saved")
    assert again.pictures.sentence == found.pictures.sentence and math.isnan(again.pictures.shuffled)
    del content["pictures"]
    for score in content["two_sources"]["scores"]:
        del score["other_picture"], score["named"]
    assert parse_config(content, Evaluation, "old").pictures is None
