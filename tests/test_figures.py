"""Networks that do not separate, judged by the figure of their objective: evaluated, compared and promoted by it."""

import json
import math

import numpy as np
import pytest
import torch

from vimss import report
from vimss.comparison.figures import ObjectiveFigures
from vimss.config import parse_config
from vimss.errors import ModelError
from vimss.evaluate import Row, Table, figures
from vimss.evaluate.figures import (
    GUESS,
    MIXTURES,
    SECONDS,
    FigureEvaluation,
    FigurePart,
    FigureTask,
    MixtureRow,
    check_model,
    constant_guess,
    evaluation_by_figure,
    examine_mixtures,
    figure_spec,
    figure_tasks,
    gain_of,
)
from vimss.evaluations import load_figure_evaluations, save_evaluations
from vimss.pages.of_trial import figure_bars
from vimss.promote import MIN_PIECES, decide_by_figure
from vimss.search.study import Study
from vimss.stream.fixed import fixed_set
from vimss.train.config import Settings, ValidationConfig
from vimss.train.objectives import OBJECTIVES
from vimss.train.objectives.saved import load_network
from vimss.train.validation import validation_spec

SOUND = Settings.model_validate({"objective": "instruments", "instruments": {"inputs": "sound"}})


@pytest.fixture(scope="module")
def model(small_recipe, tmp_path_factory):
    """The folder of a network that was not trained."""
    return saved(small_recipe, tmp_path_factory.mktemp("figures") / "model")


def saved(recipe, folder, seed=0):
    torch.manual_seed(seed)
    objective = OBJECTIVES["instruments"].make(SOUND, recipe)
    objective.save(folder, objective.build(), {})
    return folder


def examined(manifest, model, numbers=range(6)):
    return examine_mixtures(FigureTask(Table(manifest.folder, "promote"), Row("mine", model), numbers))


def judged(manifest, scores, present, pieces=None, name="mine"):
    """An evaluation from the numbers that a network gave and the labels that play, "m i" each."""
    count = len(scores)
    pieces = pieces or [(f"piece {number % 8}",) for number in range(count)]
    rows = [
        MixtureRow(mixture=number, pieces=pieces[number], kept=(*map(float, scores[number]), *map(float, plays)))
        for number, plays in enumerate(present)
    ]
    return evaluation_by_figure([FigurePart(name, "", tuple(rows))], "instruments", manifest, "promote")


@pytest.fixture(scope="module")
def plays(small_manifest):
    """Which labels play in 48 mixtures."""
    return np.random.default_rng(0).random((48, len(small_manifest.recipe.labels))) < 0.4


@pytest.fixture(scope="module")
def perfect(small_manifest, plays):
    """The evaluation of a network that knows all."""
    return judged(small_manifest, plays, plays)


@pytest.fixture(scope="module")
def guess(small_manifest, perfect):
    """That of one that knows nothing."""
    return constant_guess(perfect, small_manifest)


# The fixed set


def test_the_set_is_drawn_as_the_validation_set_is_from_another_split(small_manifest):
    spec = figure_spec(small_manifest, "promote", "instruments")
    # Clips of three seconds: half of one.
    config = ValidationConfig(mixtures=96, seconds=1.5)
    assert spec == validation_spec(small_manifest, config, "instruments", "promote")
    assert (spec.split, spec.seed, spec.distractors) == ("promote", small_manifest.recipe.seed, True)
    assert figure_spec(small_manifest, "valid", "instruments") == validation_spec(small_manifest, config, "instruments")


def test_every_mixture_is_one_row_with_the_pieces_of_its_sources(small_manifest, model):
    found = examined(small_manifest, model)
    kept = fixed_set(small_manifest, figure_spec(small_manifest, "promote", "instruments"))
    assert [row.mixture for row in found.rows] == list(range(6))
    for row, drawn in zip(found.rows, kept.drawn, strict=False):
        assert row.pieces == tuple(sorted({source.piece for source in drawn.sources}))
        plays = {label for label, kept in zip(small_manifest.recipe.labels, row.kept[13:26], strict=True) if kept}
        assert plays == {source.label for source in drawn.sources}


def test_parts_for_the_cores_make_the_whole_set(small_manifest, model):
    tasks = figure_tasks(Table(small_manifest.folder, "promote"), Row("mine", model))
    assert [number for task in tasks for number in task.mixtures] == list(range(MIXTURES))
    assert sum(task.seconds for task in tasks) == MIXTURES * SECONDS
    one, two = examined(small_manifest, model, range(4)), examined(small_manifest, model, range(4, 6))
    assert (*one.rows, *two.rows) == examined(small_manifest, model).rows


# Figures


def test_a_constant_guess_has_the_share_of_the_mixtures_in_which_a_label_plays(small_manifest, plays, perfect, guess):
    assert perfect.value == 1 and guess.value == pytest.approx(plays.mean())
    assert list(guess.labels) == list(small_manifest.recipe.labels)
    np.testing.assert_allclose(list(guess.labels.values()), plays.mean(0))
    assert guess.interval[0] < guess.value < guess.interval[1]
    assert (guess.system, guess.weights) == ("constant guess", "")


def test_the_gain_over_the_guess_is_paired(small_manifest, perfect, guess):
    gain = gain_of([perfect], [guess], small_manifest)
    assert gain.mean == pytest.approx(1 - guess.value) and gain.significant
    assert (gain.sources, gain.pieces) == (48, 8)
    same = gain_of([perfect], [perfect], small_manifest)
    assert (same.mean, same.low, same.high) == (0, 0, 0) and not same.significant
    assert gain_of([guess], [perfect], small_manifest).high < 0


@pytest.mark.slow
def test_figures_of_seeds_are_averaged_before_pieces_are_drawn(small_manifest, perfect, guess):
    both = {"mine": [perfect, guess], GUESS: [guess]}
    figures = ObjectiveFigures(both, perfect.figure, small_manifest)
    assert figures.value("mine") == pytest.approx((1 + guess.value) / 2) and figures.over_seeds("mine")[0] == 1
    assert figures.interval("mine")[0] < figures.value("mine") < figures.interval("mine")[1]
    # Half of the perfect one's gain over the guess, in every resample.
    whole, half = gain_of([perfect], [guess], small_manifest), figures.gain("mine", GUESS)
    assert (half.mean, half.low) == pytest.approx((whole.mean / 2, whole.low / 2))
    assert math.isnan(figures.gain("mine", "nobody").mean)


def test_of_a_figure_that_falls_the_lower_value_gains(small_manifest, perfect, guess, monkeypatch):
    falling = OBJECTIVES["instruments"].figure.model_copy(update={"direction": "min"})
    monkeypatch.setattr(figures, "figure_of", lambda objective: falling)
    assert gain_of([guess], [perfect], small_manifest).low > 0


def test_other_mixtures_cannot_be_compared(small_manifest, plays):
    one = judged(small_manifest, plays, plays, name="one")
    other = judged(small_manifest, plays[:24], plays[:24], name="other")
    with pytest.raises(ModelError, match="'one' and 'other' must be judged on the same mixtures; got 48 and 24 mixtur"):
        gain_of([one], [other], small_manifest)


def test_a_table_is_kept_in_the_study(perfect, guess, tmp_path):
    table = [perfect, guess]
    save_evaluations(Study(tmp_path, ()), "test", table)
    assert load_figure_evaluations(Study(tmp_path, ()), "test") == table
    assert load_figure_evaluations(Study(tmp_path, ()), "valid") == []


def test_a_figure_that_is_not_finite_is_kept_too(small_manifest, plays):
    broken = judged(small_manifest, plays * np.nan, plays)
    assert np.isnan(broken.value) and broken.interval is None
    again = parse_config(json.loads(broken.model_dump_json()), FigureEvaluation, "here")
    assert np.isnan(again.value) and np.isnan(again.labels["vn"])


def test_the_table_has_the_guess_as_a_row_and_the_labels_as_rows_of_a_second_one(plays, perfect, guess, capsys):
    report.print_figures("promote", [perfect, guess])
    shown = capsys.readouterr().out
    assert "Split promote (48 mixtures, 8 pieces)" in shown and "mean average precision" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["mine", "1.00", "1.00", "to", "1.00"] in lines
    assert any(line[:3] == ["constant", "guess", f"{plays.mean():.2f}"] for line in lines)
    assert ["violin", "1.00", f"{guess.labels['vn']:.2f}"] in lines and "Higher is better." in shown


def test_the_table_is_drawn_as_bars(perfect, guess):
    assert figure_bars([perfect, guess]).startswith(b"\x89PNG")


# Promotion


def test_a_network_that_knows_is_promoted_over_the_guess(small_manifest, perfect, guess):
    decision = decide_by_figure(perfect, guess, "the row", small_manifest)
    assert decision.promoted and decision.unit == ""
    assert decision.sentence.startswith("Promoted: +0.6") and decision.sentence.endswith(", 48 mixtures of 8 pieces).")
    assert " mean average precision against the row (95 % interval over pieces +0." in decision.sentence


def test_a_network_that_knows_nothing_is_not(small_manifest, plays, guess):
    noise = judged(small_manifest, np.random.default_rng(1).normal(size=plays.shape), plays)
    decision = decide_by_figure(noise, guess, "the row", small_manifest)
    assert not decision.promoted and decision.sentence.endswith(": the interval must lie above 0.")


def test_with_too_few_pieces_the_refusal_is_that_of_separation(small_manifest, plays):
    pieces = [(f"piece {number % (MIN_PIECES - 1)}",) for number in range(48)]
    few = judged(small_manifest, plays, plays, pieces)
    decision = decide_by_figure(few, constant_guess(few, small_manifest), "the row", small_manifest)
    assert not decision.promoted
    assert decision.sentence == (
        "Not promoted: 48 mixtures of 3 pieces are too few to decide: at least 4 pieces are needed."
    )


def test_a_network_without_a_finite_figure_is_refused(small_manifest, plays, guess):
    broken = judged(small_manifest, plays * np.nan, plays)
    decision = decide_by_figure(broken, guess, "the row", small_manifest)
    assert decision.sentence == "Not promoted: its mean average precision is not finite."


# Models that do not fit


def test_a_model_that_separates_is_not_judged_by_a_figure(small_manifest, small_model):
    with pytest.raises(
        ModelError,
        match="the model 'x' must be of the objective 'instruments', to have its mean average precision; got one of "
        "the objective 'separation' in .* To fix: give an experiment with another objective another name",
    ):
        check_model(small_model, "x", "instruments", small_manifest)
    with pytest.raises(
        ModelError, match="must hold a network of an objective that does not separate; got one of the o"
    ):
        load_network(small_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"labels": ["vn"]}, r"must have labels: \('bn',.*; got labels"), ({"sample_rate": 16000}, "sample_rate: 8000")],
)
def test_a_model_of_other_labels_or_another_rate_is_refused(small_recipe, model, change, message):
    other = small_recipe.model_copy(update={**change, **({"labels": ("vn",)} if "labels" in change else {})})
    folder_of = OBJECTIVES["instruments"].make(SOUND, other)
    with pytest.raises(ModelError, match="the model in .* must have .* To fix: choose another model, or shards of the"):
        folder_of.load(model)


def test_a_damaged_model_is_refused(small_recipe, tmp_path):
    folder = saved(small_recipe, tmp_path / "model")
    (folder / "weights.safetensors").write_bytes(b"cut off")
    with pytest.raises(
        ModelError, match=r"weights.safetensors must have the SHA-256 digest in model.json, .* copy the"
    ):
        load_network(folder)


def test_a_model_of_an_objective_that_is_not_known_is_refused(small_recipe, tmp_path):
    folder = saved(small_recipe, tmp_path / "model")
    text = (folder / "model.json").read_text().replace('"instruments",', '"denoising",', 1)
    (folder / "model.json").write_text(text)
    with pytest.raises(
        ModelError, match="must be one of separation, .*instruments.*; got 'denoising' in its model.json"
    ):
        load_network(folder)
