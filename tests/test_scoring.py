"""Weights of before on another validation set."""

import shutil
from pathlib import Path

import pytest
import torch
from test_search import SMALL, experiment

from vimss.errors import ConfigError, DataError
from vimss.experiment import Cell
from vimss.model.separator import Separator, load_separator, save_separator
from vimss.runtime import Place
from vimss.search.consistency import check_same_validation_mixtures
from vimss.search.events import (
    TrialsScoredAgain,
)
from vimss.search.run import search
from vimss.search.scoring import score_again
from vimss.search.study import TrialRecord, read_study, study_folder, write_record
from vimss.storage import Store
from vimss.train.config import ValidationConfig
from vimss.train.objectives import open_objective
from vimss.train.validation import Validation, validation_spec

LARGER = ValidationConfig(mixtures=12, seconds=0.25)


def trained(folder: Path, manifest, trial: str, state: str = "finished", seed: int = 0, **changes) -> TrialRecord:
    """A trial of the cell "search" with real weights, whose losses are of the smaller validation set."""
    chosen = experiment(**changes).settings()
    torch.manual_seed(seed)
    separator = Separator(chosen.model, manifest.recipe.labels, manifest.recipe.sample_rate)
    path = folder / "search" / trial
    save_separator(path / "model", separator, {})
    reports = (
        {
            "audio_seconds": 4.0,
            "steps": 2.0,
            "train_loss": 0.5,
            "valid_loss": -2.0 - seed,
            "valid_loss_raw": -1.0,
            "valid_loss/kazoo": -9.0,
        },
        {"audio_seconds": 8.0, "steps": 4.0, "train_loss": 0.4, "valid_loss": -1.0, "valid_loss_raw": -1.0},
    )
    kept = TrialRecord(
        cell="search", trial=trial, state=state, chosen={}, settings=chosen, reports=reports, validation="smaller",
        begun=float(seed), folder=path,
    )  # fmt: skip
    write_record(kept)
    return kept


def losses_of(record: TrialRecord, manifest, config=LARGER) -> dict[str, float]:
    """The loss of the weights, and those of its parts."""
    validate = Validation(open_objective(record.settings, manifest), record.settings, manifest, config)
    return {"valid_loss": validate(load_separator(record.folder / "model")), **validate.parts}


def test_weights_of_before_are_scored_on_the_set_of_now_and_the_best_is_chosen_there(small_manifest, tmp_path):
    before = [
        trained(tmp_path, small_manifest, name, state, seed)
        for seed, (name, state) in enumerate([("a", "finished"), ("b", "pruned"), ("c", "failed"), ("d", "finished")])
    ]
    # Of a version whose settings this one does not know.
    unknown = trained(tmp_path, small_manifest, "e", seed=4)
    write_record(unknown.model_copy(update={"settings": None}))
    events: list = []
    score_again(tmp_path, small_manifest, LARGER, events.append)
    study, signature = read_study(tmp_path), validation_spec(small_manifest, LARGER).signature(small_manifest)
    for record, old in zip(study.of_cell("search")[:4], before, strict=True):
        assert (record.state, record.validation, record.earlier) == (old.state, signature, {"smaller": old.reports})
        (report,) = record.reports
        losses = losses_of(record, small_manifest)
        assert report == {"audio_seconds": 4.0, "steps": 2.0, "train_loss": 0.5, **losses} and len(losses) > 3
    (tmp_path / "search" / "e" / "trial.json").unlink()
    study = read_study(tmp_path)
    finished = {record.trial: record.value for record in study.records if record.state == "finished"}
    assert study.best(["search"]).trial == min(finished, key=finished.__getitem__)
    assert events == [TrialsScoredAgain(number, 4) for number in (1, 2, 3, 4)]
    # The same command again scores nothing.
    score_again(tmp_path, small_manifest, LARGER, events.append)
    assert len(events) == 4 and read_study(tmp_path) == study


def test_a_study_that_goes_back_to_a_set_has_the_losses_of_then(small_manifest, tmp_path):
    trained(tmp_path, small_manifest, "a")
    small = ValidationConfig(mixtures=6, seconds=0.25)
    for config in (small, LARGER):
        score_again(tmp_path, small_manifest, config, lambda _: None)
    (larger,) = read_study(tmp_path).records
    events: list = []
    score_again(tmp_path, small_manifest, small, events.append)
    (back,) = read_study(tmp_path).records
    assert events == [] and back.reports == larger.earlier[back.validation] and back.validation != larger.validation
    assert back.earlier[larger.validation] == larger.reports and "smaller" in back.earlier


def test_what_has_no_losses_or_is_not_over_is_not_scored(small_manifest, tmp_path):
    running = trained(tmp_path, small_manifest, "a", "interrupted")
    bare = trained(tmp_path, small_manifest, "b", "failed", seed=1)
    shutil.rmtree(bare.folder / "model")
    events: list = []
    score_again(tmp_path, small_manifest, LARGER, events.append)
    left, without = read_study(tmp_path).of_cell("search")
    assert left == running and events == []
    assert without.reports == () and without.earlier == {"smaller": bare.reports}


def test_a_trial_whose_weights_are_damaged_goes_on_from_its_checkpoint(small_manifest, tmp_path):
    whole, broken = (trained(tmp_path, small_manifest, name, seed=seed) for seed, name in enumerate("ab"))
    (broken.folder / "model" / "weights.safetensors").write_bytes(b"damaged")
    score_again(tmp_path, small_manifest, LARGER, lambda _: None)
    first, second = read_study(tmp_path).of_cell("search")
    assert (first.state, second.state) == ("finished", "interrupted") and second.reports == ()
    assert second.message.startswith("its weights could not be scored on another validation set: ")
    assert "weights.safetensors must have the SHA-256" in second.message
    assert read_study(tmp_path).best(["search"]).trial == whole.trial


def test_trials_on_different_sets_are_not_compared(small_manifest, tmp_path):
    trained(tmp_path, small_manifest, "a")
    other = trained(tmp_path, small_manifest, "b", seed=1)
    write_record(other.moved_to("larger", other.reports))
    rule = r"must be scored on one validation set before the best is chosen; got 1 on smaller, 1 on larger.*fix: run"
    with pytest.raises(DataError, match=rule):
        read_study(tmp_path).best(["search"])


def test_a_network_that_is_scored_on_a_part_is_the_best_only_among_its_kind(small_manifest, tmp_path):
    slots = {**SMALL["model"], "outputs": "slots", "site": "none", "slots": 2}
    part = trained(tmp_path, small_manifest, "part", seed=7, model=slots)
    assert read_study(tmp_path).best(["search"]).trial == "part" and part.scored_sources == 2
    trained(tmp_path, small_manifest, "whole")
    assert read_study(tmp_path).best(["search"]).trial == "whole"


def test_a_sampler_is_not_given_trials_that_are_scored_on_different_parts():
    free = {**SMALL["model"], "outputs": "slots", "site": "none"}
    fix = r"networks for up to 2 and up to 4 sources.*put model.outputs and model.slots under `compare`"
    for tune in (
        {"model.slots": {"choices": [2, 4]}},
        {"model.slots": {"low": 2, "high": 8}},
        {"model.outputs": {"choices": ["slots", "instruments"]}},
    ):
        with pytest.raises(ConfigError, match=fix):
            check_same_validation_mixtures(experiment(model=free, tune=tune), Cell("search", {}))
    for tune in ({"model.slots": {"choices": [4, 8]}}, {"model.levels": {"choices": [2, 3]}}):
        check_same_validation_mixtures(experiment(model=free, tune=tune), Cell("search", {}))
    check_same_validation_mixtures(experiment(tune={"model.slots": {"choices": [2, 4]}}), Cell("search", {}))


@pytest.mark.slow
def test_a_larger_validation_set_extends_a_search_without_training_again(shared_ray, small_manifest, tmp_path):
    place, store = Place(name="test"), Store(tmp_path)
    few = experiment(controls={})
    more = experiment(
        controls={}, validation={"mixtures": 12, "seconds": 0.25}, search={**SMALL["search"], "trials": 3}
    )
    before = search(few, small_manifest, place, store)
    if study_folder(more, small_manifest, store) != before.folder:
        before.folder.rename(study_folder(more, small_manifest, store))
    events: list = []
    after = search(more, small_manifest, place, store, [events.append])
    old = {record.trial: record for record in before.records}
    assert len(old) == 2 and len(after.records) == 3
    assert [event for event in events if isinstance(event, TrialsScoredAgain)][-1] == TrialsScoredAgain(2, 2)
    assert len({record.validation for record in after.records}) == 1
    for record in after.records:
        assert record.value == pytest.approx(losses_of(record, small_manifest)["valid_loss"], abs=1e-5)
        if record.trial in old:
            assert record.earlier == {old[record.trial].validation: old[record.trial].reports}
            assert record.begun == old[record.trial].begun
