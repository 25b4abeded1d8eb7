"""The validation set, and what networks score on it."""

import dataclasses

import numpy as np
import pytest
import torch
from test_train import one_thread, run, settings  # noqa: F401 - a fixture that all use

from vimss.errors import DataError
from vimss.metrics import si_sdr_improvement
from vimss.model.separator import Separator, load_separator
from vimss.search.trial import REPORTED, for_tune
from vimss.stream.batch import Position
from vimss.train.checkpoint import State, Trained
from vimss.train.config import ValidationConfig, scored_sources
from vimss.train.device import context_of
from vimss.train.loop import Training, _scored_again, train
from vimss.train.objectives import figure_of, open_objective
from vimss.train.objectives.separation import Separation, negative_snr
from vimss.train.validation import Validation, validation_spec

NETWORKS = {
    "levels 3": {},
    "levels 6": {"levels": 6},
    "zeros at the ends": {"padding": "same"},
    "one output per label": {"outputs": "instruments"},
    "four slots": {"outputs": "slots", "site": "none", "slots": 4},
    "no context": {"outputs": "instruments", "site": "none"},
    "pictures": {"context": "frames", "vision": {"network": "compact", "weights": "random"}},
}
VALIDATION = ValidationConfig(mixtures=6, seconds=0.25)


def validation(manifest, model=(), config=VALIDATION, share=(0, 1)) -> Validation:
    chosen = settings(model=dict(model))
    return Validation(open_objective(chosen, manifest), chosen, manifest, config, share)


def stems(batch) -> set[bytes]:
    """The stems that are asked for, in no order."""
    return {target.tobytes() for target in batch.targets[0] if target.any()}


@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS)
def test_every_network_is_scored_on_the_same_excerpts_to_the_bit(small_manifest, model):
    expected, found = validation(small_manifest), validation(small_manifest, model)
    assert found.signature == expected.signature
    assert [stems(batch) for batch in found.batches] == [stems(batch) for batch in expected.batches]
    assert [batch.present.sum() for batch in found.batches] == [batch.present.sum() for batch in expected.batches]
    assert {batch.targets.shape[-1] for batch in found.batches} == {2000}
    first = found.window.margin
    for one, other in zip(found.batches, expected.batches, strict=True):
        at = expected.window.margin
        np.testing.assert_array_equal(one.mixture[..., first : first + 2000], other.mixture[..., at : at + 2000])


@pytest.mark.parametrize("model", [{}, {"levels": 6}, {"padding": "same"}], ids=["3", "6", "same"])
def test_an_excerpt_lies_where_the_network_answers_it(small_manifest, model):
    """A network that gives back its input scores what the mixture scores."""
    chosen, validate = settings(model=model), validation(small_manifest, model)
    separator = Separator(chosen.model, small_manifest.recipe.labels, small_manifest.recipe.sample_rate)
    head = separator.unet.head
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:, -1:] = 1
        head.bias.zero_()
    losses = []
    for batch in validate.batches:
        targets = torch.from_numpy(batch.targets)
        first = validate.window.margin
        mixture = torch.from_numpy(batch.mixture)[:, None, :, first : first + 2000].expand_as(targets)
        losses += negative_snr(mixture, targets)[torch.from_numpy(batch.present)].tolist()
    assert validate(separator) == pytest.approx(np.mean(losses), abs=1e-4)
    assert validate.parts["valid_loss/SI-SDRi"] == pytest.approx(0, abs=1e-4)


def test_a_network_with_few_slots_is_scored_on_the_part_that_it_can_answer(small_manifest):
    whole = validation(small_manifest)
    part = validation(small_manifest, {"outputs": "slots", "site": "none", "slots": 2})
    expected = [batch for batch in whole.batches if batch.present.shape[1] == 2]
    assert 0 < len(expected) < len(whole.batches)
    assert [stems(batch) for batch in part.batches] == [stems(batch) for batch in expected]
    assert scored_sources(settings(model={"outputs": "slots", "site": "none", "slots": 2})) == 2
    assert scored_sources(settings(model={"outputs": "slots", "site": "none", "slots": 9})) == 4


def test_a_network_with_one_slot_has_nothing_to_be_scored_on(small_manifest):
    with pytest.raises(DataError, match=r"with 1 slots must have validation mixtures .*got none in the split 'valid'"):
        validation(small_manifest, {"outputs": "slots", "site": "none", "slots": 1})


def test_ranks_share_the_set(small_manifest):
    whole = validation(small_manifest)
    shares = [validation(small_manifest, share=(rank, 4)) for rank in range(4)]
    assert [len(share.batches) for share in shares] == [2, 2, 1, 1]
    for number, batch in enumerate(whole.batches):
        assert np.array_equal(shares[number % 4].batches[number // 4].mixture, batch.mixture)


@pytest.mark.parametrize("model", [{}, NETWORKS["pictures"]], ids=["labels", "pictures"])
def test_a_batch_is_made_anew_each_time_and_is_always_the_same(small_manifest, model):
    batches = validation(small_manifest, model).batches
    first, again = batches[1], batches[1]
    assert not np.shares_memory(first.mixture, again.mixture)
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert np.array_equal(batches[-1].mixture, batches[4:][1].mixture)


def test_more_validation_mixtures_begin_with_the_same_and_are_another_set(small_manifest):
    few, more = (
        validation(small_manifest),
        validation(small_manifest, config=ValidationConfig(mixtures=12, seconds=0.25)),
    )
    assert few.signature != more.signature and len(more.batches) == 12
    for one, other in zip(few.batches, more.batches, strict=False):
        assert np.array_equal(one.mixture, other.mixture)


PARTS = ["valid_loss/2 sources", "valid_loss/3 sources", "valid_loss/4 sources"]


def test_the_figure_is_that_of_each_number_of_sources_too(small_manifest):
    validate = validation(small_manifest)
    separator = open_objective(settings(), small_manifest).build()
    whole = validate(separator)
    with torch.no_grad():
        examined = [validate.objective.examine(separator.eval(), one, validate.device) for one in validate.batches]
    rows = torch.stack(examined)
    assert set(PARTS) < set(validate.parts)
    for count in (2, 3, 4):
        total, number = rows[validate.sources == count].sum(0)[:2].tolist()
        assert validate.parts[f"valid_loss/{count} sources"] == pytest.approx(total / number)
    assert whole == pytest.approx(float(rows[:, 0].sum() / rows[:, 1].sum()))


@pytest.mark.parametrize("name", ["levels 3", "one output per label", "four slots", "pictures"])
def test_the_figure_is_that_of_each_label_too(small_manifest, name):
    sounding = sum(batch.present[0] for batch in validation(small_manifest, NETWORKS["one output per label"]).batches)
    counts = {f"valid_loss/{label}": n for label, n in zip(small_manifest.recipe.labels, sounding, strict=True) if n}
    validate = validation(small_manifest, NETWORKS[name])
    whole = validate(open_objective(settings(model=NETWORKS[name]), small_manifest).build())
    found = {part: value for part, value in validate.parts.items() if part not in PARTS and "SI-SDRi" not in part}
    assert set(found) == set(counts) and len(set(counts.values())) > 1
    sums = [found[part] * n for part, n in counts.items()]
    # Sums of both signs, one in float32: the error is a share of what was summed, not of the little that is left.
    rounding = 1e-6 * sum(map(abs, sums))
    assert sum(sums) == pytest.approx(whole * sum(counts.values()), rel=0, abs=rounding)


def test_the_figure_of_a_label_of_any_script_and_sign_can_be_tracked(small_manifest):
    validate = validation(small_manifest)
    labels = tuple(f"{label} (ö)" for label in small_manifest.recipe.labels)
    validate.objective.recipe = small_manifest.recipe.model_copy(update={"labels": labels})
    report = {"valid_loss": validate(open_objective(settings(), small_manifest).build()), **validate.parts}
    assert for_tune({**report, "audio_seconds": 4.0, "steps": 2.0}, figure_of())[REPORTED].keys() > report.keys()
    of_labels = {part for part in validate.parts if "source" not in part} - {"valid_loss/SI-SDRi"}
    assert len(of_labels) > 1 and all(name.endswith(" _ö_") for name in of_labels)


def test_the_figure_of_a_label_is_that_of_its_own_sources(small_manifest):
    model = NETWORKS["one output per label"]
    validate = validation(small_manifest, model)
    separator = open_objective(settings(model=model), small_manifest).build().eval()
    validate(separator)
    values: dict[str, list[float]] = {}
    for batch in validate.batches:
        with torch.no_grad():
            estimates = separator(torch.from_numpy(batch.mixture), *context_of(batch, torch.device("cpu")))
        first = (estimates.shape[-1] - batch.targets.shape[-1]) // 2
        estimates = estimates[..., first : first + batch.targets.shape[-1]]
        found = negative_snr(estimates, torch.from_numpy(batch.targets))[0].tolist()
        # The output for a label stands at its place in the recipe.
        for label, value, sounds in zip(small_manifest.recipe.labels, found, batch.present[0], strict=True):
            if sounds:
                values.setdefault(label, []).append(value)
    for label, own in values.items():
        assert validate.parts[f"valid_loss/{label}"] == pytest.approx(sum(own) / len(own))


def test_beside_the_figure_is_the_improvement_of_si_sdr(small_manifest):
    model = NETWORKS["one output per label"]
    validate = validation(small_manifest, model)
    separator = open_objective(settings(model=model), small_manifest).build().eval()
    validate(separator)
    gains: dict[str, list[float]] = {}
    for batch, sources in zip(validate.batches, validate.sources.tolist(), strict=True):
        with torch.no_grad():
            estimates = separator(torch.from_numpy(batch.mixture), *context_of(batch, torch.device("cpu")))[0].numpy()
        samples = batch.targets.shape[-1]
        cut = (estimates.shape[-1] - samples) // 2
        # Every player is a target: what is improved is their sum.
        mixture = batch.targets[0].sum(0)
        for place in np.flatnonzero(batch.present[0]):
            estimate = estimates[place, :, cut : cut + samples]
            gain = si_sdr_improvement(mixture, batch.targets[0, place], estimate, small_manifest.recipe.sample_rate)
            gains.setdefault(small_manifest.recipe.labels[place], []).append(gain)
            gains.setdefault(f"{sources} sources", []).append(gain)
            gains.setdefault("", []).append(gain)
    found = {name: value for name, value in validate.parts.items() if "SI-SDRi" in name}
    assert len(gains) > 5 and set(found) == {f"valid_loss/SI-SDRi {name}".rstrip() for name in gains}
    for name, own in gains.items():
        assert found[f"valid_loss/SI-SDRi {name}".rstrip()] == pytest.approx(np.mean(own), abs=1e-3), name


def test_rows_of_other_numbers_have_no_figure_of_labels(small_recipe):
    """As of an objective that derives from separation and keeps its own."""
    objective, labels = Separation(settings(), small_recipe), len(small_recipe.labels)
    assert objective.by_label(torch.ones(3, 4, dtype=torch.float64)) == {}
    assert objective.improvements(torch.ones(3, 4, dtype=torch.float64)) is None
    assert set(objective.by_label(torch.ones(3, 2 + 2 * labels, dtype=torch.float64))) == set(small_recipe.labels)


def test_a_checkpoint_that_is_scored_again_keeps_no_figure_of_the_other_set(small_manifest):
    validate = validation(small_manifest)
    metrics = {"audio_seconds": 4.0, "steps": 2.0, "valid_loss": -9.0, "valid_loss/kazoo": -9.0}
    state = State("", "other", 2, Position(), -9.0, 4.0, metrics, (metrics,))
    found = _scored_again(state, validate, Trained(validate.objective.build(), None, ())).metrics
    assert found["valid_loss"] != -9.0 and set(found) == {*metrics, *validate.parts} - {"valid_loss/kazoo"}


def test_the_seed_of_a_training_does_not_change_the_set_and_that_of_the_recipe_does(small_manifest):
    recipe = small_manifest.recipe.model_copy(update={"seed": 9})
    spec = validation_spec(small_manifest, VALIDATION)
    assert validation_spec(small_manifest.model_copy(update={"recipe": recipe}), VALIDATION) != spec
    chosen = settings().model_copy(update={"seed": 9})
    other = Validation(open_objective(chosen, small_manifest), chosen, small_manifest, VALIDATION)
    assert other.signature == spec.signature(small_manifest)


def test_excerpts_longer_than_a_clip_are_as_long_as_a_clip(small_manifest):
    spec = validation_spec(small_manifest, ValidationConfig(seconds=100))
    assert spec.samples == small_manifest.recipe.clip_samples


@pytest.mark.parametrize("average", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
@pytest.mark.slow
def test_a_training_that_goes_on_with_another_set_scores_its_checkpoint_again(small_manifest, tmp_path, average):
    chosen = settings(training={"ema": average})
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    few = run(small_manifest, tmp_path / "a", chosen)
    reports, larger = [], ValidationConfig(mixtures=12, seconds=0.25)
    training = Training(chosen, small_manifest, larger)
    train(training, lambda metrics, _: reports.append(metrics), resume=tmp_path / "a" / "0")
    separator = load_separator(tmp_path / "a" / "0" / "model")
    expected = Validation(open_objective(chosen, small_manifest), chosen, small_manifest, larger)(separator)
    assert reports[0]["valid_loss"] == expected != few[0]["valid_loss"]
    assert ("valid_loss_raw" in reports[0]) == bool(average)
    same = ("audio_seconds", "train_loss", "steps")
    assert [[report[name] for name in same] for report in reports] == [
        [report[name] for name in same] for report in few
    ]
    straight: list = []
    train(training, lambda metrics, _: straight.append(metrics))
    assert reports[-1]["valid_loss"] == straight[-1]["valid_loss"]
