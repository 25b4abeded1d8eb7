"""Evaluation: every kind of model gets its figures, and each figure is of whom it says."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from untrained_models import KINDS, saver

from vimss import api, evaluations, report
from vimss.baselines import BASELINES
from vimss.baselines.mixture import MixtureBaseline
from vimss.config import parse_config
from vimss.console import show_rate
from vimss.errors import ConfigError, ModelError
from vimss.evaluate import (
    Evaluation,
    TwoSources,
    evaluate,
    evaluate_piece,
    score_mixtures,
    two_source_mixtures,
)
from vimss.experiment import Experiment
from vimss.model.device import device_of_tasks, find_device
from vimss.pages.of_trial import excerpt_files
from vimss.promote import registry_figures
from vimss.runtime import Place
from vimss.search.study import Study, TrialRecord
from vimss.shards.manifest import open_manifest
from vimss.stream import fixed
from vimss.stream.mix import SOUND_ALONE
from vimss.stream.read import read_clips
from vimss.stream.scene import pieces_of
from vimss.systems import (
    BaselineSystem,
    baseline_systems,
    model_system,
)
from vimss.train.config import Settings

# Systems are scored by museval in most of them.
pytestmark = pytest.mark.slow

WITHOUT_NOTES = [name for name, kind in BASELINES.items() if kind.conditioned_on != "notes"]


@pytest.fixture(scope="module")
def save(small_manifest, small_features, tmp_path_factory):
    return saver(small_manifest, small_features, tmp_path_factory)


@pytest.fixture(scope="module", params=KINDS)
def kind(request, small_manifest, save):
    return model_system(save(KINDS[request.param]), small_manifest, request.param)


@pytest.fixture(scope="module")
def oracle(small_manifest):
    return evaluate(baseline("oracle ratio mask", small_manifest), small_manifest, "test")


def baseline(name, manifest):
    (system,) = baseline_systems(manifest, [name])
    return system


def on_two_sources(system, manifest) -> TwoSources:
    return evaluate(system, manifest, "test", whole_pieces=False).two_sources


def test_the_mixture_improves_nothing(small_manifest):
    two = on_two_sources(baseline("mixture", small_manifest), small_manifest)
    assert two.si_sdr_improvement == pytest.approx(0, abs=1e-6)
    assert two.absent_level == pytest.approx(0, abs=1e-6)


def test_the_oracle_is_far_above_the_wiener_filter(small_manifest, oracle):
    wiener = on_two_sources(baseline("Wiener filter per label", small_manifest), small_manifest)
    assert oracle.two_sources.si_sdr_improvement > wiener.si_sdr_improvement + 5
    assert np.isnan(oracle.two_sources.label_contrast) and math.isfinite(wiener.label_contrast)


def test_every_source_of_every_whole_piece_is_scored(small_manifest, oracle):
    expected = {(piece.name, label) for piece in pieces_of(small_manifest, "test") for label in piece.references}
    assert {(score.piece, score.label) for score in oracle.scores} == expected
    assert oracle.count(sources=2) + oracle.count(sources=3) + oracle.count(sources=4) == len(expected)


def test_medians_are_over_the_sources_chosen(oracle):
    chosen = [score.si_sdr_improvement for score in oracle.scores if score.sources == 4]
    assert oracle.median("si_sdr_improvement", sources=4) == pytest.approx(np.nanmedian(chosen))
    assert np.isnan(oracle.median("si_sdr_improvement", sources=9))


FEW_MIXTURES = 8


@pytest.fixture
def few_mixtures(monkeypatch):
    """Few mixtures of two sources."""
    monkeypatch.setattr("vimss.evaluate.scores.TWO_SOURCE_MIXTURES", FEW_MIXTURES)


@pytest.mark.usefixtures("few_mixtures")
def test_every_kind_of_model_gets_its_figures(small_manifest, kind):
    found = evaluate(kind, small_manifest, "test")
    # Untrained, it gives about the mixture.
    assert found.two_sources.si_sdr_improvement == pytest.approx(0, abs=3)
    assert found.median("si_sdr_improvement") == pytest.approx(0, abs=3)
    assert all(math.isfinite(score.si_sdr_improvement) for score in found.scores)
    defined = math.isfinite(found.two_sources.label_contrast), math.isfinite(found.two_sources.absent_level)
    assert defined == (kind.wrong_context != "none", kind.ordered)
    others = found.two_sources.values("other_picture")
    assert math.isfinite(others.median) == (kind.views.uses_players and kind.wrong_context != "none")
    row = report.mixture_rows([found])[0]
    assert (row[2] == "-", row[3] == "-") == (kind.wrong_context == "none", not kind.ordered)


@pytest.fixture
def decoded(monkeypatch):
    """The splits and parts that are decoded from shards for mixtures, in order."""
    calls = []

    def counted(manifest, split, shards=None, parts=("audio",), *rest, **more):
        calls.append((split, tuple(parts)))
        return read_clips(manifest, split, shards, parts, *rest, **more)

    monkeypatch.setattr(fixed, "read_clips", counted)
    return calls


@pytest.fixture
def bare_manifest(small_manifest, tmp_path):
    """The small corpus, with no mixtures beside its shards."""
    return open_manifest(
        shutil.copytree(small_manifest.folder, tmp_path / "shards", ignore=shutil.ignore_patterns(fixed.FOLDER))
    )


@pytest.mark.usefixtures("few_mixtures")
@pytest.mark.parametrize("split", ["test", "test_unseen_timbres", "promote", "valid"])
def test_several_systems_have_their_mixtures_decoded_once(bare_manifest, save, decoded, split):
    models = {"a": save(), "b": save(KINDS["slots"]), "c": save(KINDS["one output per label, frames"])}
    evaluations.evaluate_systems(bare_manifest, {}, split, baselines=("mixture",), whole_pieces=False)
    once = decoded.copy()
    assert once and set(once) == {(split, ("audio",))}
    decoded.clear()
    rows = evaluations.evaluate_systems(bare_manifest, models, split, whole_pieces=False)
    # A network that looks at pictures reads them, and nothing more.
    assert len(rows) == 3 + len(WITHOUT_NOTES) and set(decoded) == {(split, ("picture",))}
    assert {row.two_sources.mixtures for row in rows} == {FEW_MIXTURES}


def test_every_system_hears_the_same_mixtures_whatever_it_sees(bare_manifest, kind):
    plain = list(two_source_mixtures(baseline("mixture", bare_manifest), bare_manifest, "test"))
    seen = list(two_source_mixtures(kind, bare_manifest, "test")) if kind.views.features == "" else plain
    for one, other in zip(plain, seen, strict=True):
        np.testing.assert_array_equal(one.sound, other.sound)
        assert [source.label for source in one.sources] == [source.label for source in other.sources]


class InstrumentsSystem:
    """A network with one output per label, conditioned on all that sound; it follows its context, or ignores it."""

    name, views, ordered, weights, wrong_context = "instruments", SOUND_ALONE, True, "", "absent"

    def __init__(self, follows: bool) -> None:
        self.follows = follows

    def __call__(self, scene, queried):
        stems = scene.references
        return np.stack([stems.get(label, np.zeros_like(scene.mixture)) + 0.1 * scene.mixture for label in queried])

    def exchanged(self, scene, label, absent):
        assert label in scene.references and absent not in scene.references
        return scene.mixture if self.follows else self(scene, [label])[0]


def test_contrast_is_what_the_context_changes_in_one_and_the_same_output(small_manifest):
    following = on_two_sources(InstrumentsSystem(follows=True), small_manifest)
    ignoring = on_two_sources(InstrumentsSystem(follows=False), small_manifest)
    assert following.label_contrast > 10 and ignoring.label_contrast == 0
    assert following.si_sdr_improvement == ignoring.si_sdr_improvement


def test_the_wiener_filters_have_a_contrast_as_networks_have_and_the_mixture_has_none(small_manifest):
    for system in baseline_systems(small_manifest, ["Wiener filter per label", "Wiener filter, all labels"]):
        assert math.isfinite(on_two_sources(system, small_manifest).label_contrast)
    assert np.isnan(on_two_sources(baseline("mixture", small_manifest), small_manifest).label_contrast)


def test_every_kind_of_model_can_be_listened_to(small_manifest, kind):
    piece = next(pieces_of(small_manifest, "valid", kind.views)).beginning(16000)
    record = TrialRecord(cell="c", trial="t", state="finished", chosen={}, settings=Settings(), begun=0.0)
    experiment = Experiment(name="e", question="q", expected="x", shards="small")
    files = excerpt_files(experiment, record, kind, piece, 8000)
    assert files["listen.html"].count(b"<audio") == 1 + 2 * len(piece.references)
    assert (b"an oracle assigns outputs" in files["listen.html"]) == (not kind.ordered)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 22050}, "'old' must have the sample rate of the shards 'small', 8000; got 22050 in /"),
        (
            {"config": {**KINDS["queries by label"], "channels": 2}},
            "'old' must have the number of channels of the shards 'small', 1; got 2 in /",
        ),
        ({"labels": ("vn", "vc")}, "'old' must have the labels of the shards 'small', bn, .*; got vc, vn in /"),
    ],
)
def test_a_model_of_another_corpus_is_refused(small_manifest, save, change, message):
    with pytest.raises(ModelError, match=message + r".*To fix: evaluate it on shards of its own recipe; a champion"):
        evaluations.evaluate_systems(small_manifest, {"old": save(**change)}, "promote", baselines=())


@pytest.fixture(scope="module")
def study(save, tmp_path_factory):
    """Two cells and a control; one trial has the lowest loss but was stopped early, one failed without weights."""
    losses = {
        ("site=none", "worse", "finished"): -1.0, ("site=none", "stopped", "pruned"): -5.0,
        ("site=decoder", "better", "finished"): -2.0, ("blind", "baseline", "finished"): -9.0,
        ("site=decoder", "broken", "failed"): -8.0,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("study")
    records = []
    for (cell, trial, state), loss in losses.items():
        if state != "failed":
            shutil.copytree(save(), folder / trial / "model")
        records.append(
            TrialRecord(
                cell=cell, trial=trial, state=state, chosen={"model.site": trial}, settings=Settings(), begun=0.0,
                reports=({"valid_loss": loss, "audio_seconds": 1.0},), folder=folder / trial,
            )
        )  # fmt: skip
    return Study(folder, tuple(records))


EXPERIMENT = Experiment(
    name="e", question="q", expected="x", shards="small", compare={"model.site": ("none", "decoder")},
    controls={"blind": {"model.site": "none"}},
)  # fmt: skip


def test_the_table_of_cells_shows_the_trial_that_would_be_promoted(study):
    rows = {row[0]: row for row in report.comparison_rows(EXPERIMENT, study)}
    assert rows["site=none"] == ("site=none", "2", "1", "-1.00", "site worse")
    assert rows["site=decoder"] == ("site=decoder", "2", "1", "-2.00", "site better")
    assert api.best_trial(EXPERIMENT, study).trial == "better"
    assert {cell: trial.trial for cell, trial in api.best_trials(EXPERIMENT, study).items()} == {
        "site=none": "worse", "site=decoder": "better", "blind": "baseline",
    }  # fmt: skip


def seeded(folder, losses: dict[str, float]) -> Study:
    """A finished trial with that loss in each of these cells."""
    records = []
    for cell, loss in losses.items():
        (folder / cell / "model").mkdir(parents=True)
        records.append(
            TrialRecord(
                cell=cell, trial="t", state="finished", chosen={}, settings=Settings(), begun=0.0,
                reports=({"valid_loss": loss, "audio_seconds": 1.0},), folder=folder / cell,
            )
        )  # fmt: skip
    return Study(folder, tuple(records))


SEEDS = Experiment(
    name="e", question="q", expected="x", shards="small",
    compare={"seed": (0, 1, 2), "model.site": ("none", "decoder")},
    controls={"blind": {"model.site": "none"}, "blind 1": {"model.site": "none", "seed": 1}, "other": {}},
)  # fmt: skip


def test_cells_that_differ_in_their_seed_alone_are_one_group_with_mean_range_and_number(tmp_path, capsys):
    losses = {"seed=0,site=none": -1.0, "seed=1,site=none": -2.5, "seed=2,site=none": -4.0}
    losses |= {"seed=1,site=decoder": -3.0, "blind": -1.0, "blind 1": -2.0, "other": -9.0}
    study = seeded(tmp_path, losses)
    assert report.seed_rows(SEEDS, study) == [
        ("site=none", "3", "-2.50", "-4.00", "-1.00"),
        ("site=decoder", "1 of 3", "-3.00", "-3.00", "-3.00"),
        ("blind / blind 1", "2", "-1.50", "-2.00", "-1.00"),
    ]
    assert next(spread.figures for spread in report.seed_spreads(SEEDS, Study(tmp_path, ()))) == {
        "cells": 3, "with_figure": 0,
    }  # fmt: skip
    assert report.seed_rows(SEEDS, Study(tmp_path, ()))[0] == ("site=none", "0 of 3", "-", "-", "-")
    report.print_comparison(SEEDS, study)
    shown = capsys.readouterr().out
    assert "Cells that differ in their seed alone" in shown and "1 of 3" in shown


def test_without_two_seeds_there_is_no_spread_to_show(study, capsys):
    one_seed = EXPERIMENT.model_copy(update={"compare": {"seed": (4,), **EXPERIMENT.compare}})
    assert report.seed_rows(EXPERIMENT, study) == report.seed_rows(one_seed, study) == []
    report.print_comparison(EXPERIMENT, study)
    assert "seed" not in capsys.readouterr().out


def test_the_table_of_cells_says_which_part_of_the_validation_set_a_loss_is_of(study):
    slots = Settings.model_validate({"model": {"outputs": "slots", "slots": 3}})
    records = [record.model_copy(update={"settings": slots}) for record in study.of_cell("site=decoder")]
    rows = {row[0]: row for row in report.comparison_rows(EXPERIMENT, Study(study.folder, tuple(records)))}
    assert rows["site=decoder"][3] == "-2.00 (up to 3 sources)"


def test_the_registry_shows_the_best_trial_wherever_it_stands_in_the_table(study, small_manifest, capsys):
    models = {cell: study.best([cell]).folder / "model" for cell in ("site=none", "site=decoder")}
    tested = evaluations.evaluate_systems(small_manifest, models, "test", baselines=())
    best = api.best_trial(EXPERIMENT, study)
    assert tested[0].system == "site=none"
    assert registry_figures(best, tested)["test_pieces_sdr"] == tested[1].median("sdr")
    assert tested[0].median("sdr") != tested[1].median("sdr")
    assert registry_figures(best, tested[:1]) == {}
    evaluations.save_evaluations(study, "test", tested)
    assert registry_figures(best, evaluations.load_evaluations(study, "test")) == registry_figures(best, tested)
    report.print_evaluations("test", tested, best)
    assert "site=decoder on whole pieces" in capsys.readouterr().out


def test_systems_without_training_are_one_row_each(small_manifest):
    rows = evaluations.evaluate_systems(small_manifest, {}, "test", whole_pieces=False)
    assert [row.system for row in rows] == WITHOUT_NOTES
    assert {row.weights for row in rows} == {""}


def test_a_stem_that_is_not_scored_stays_in_the_mixture_and_changes_no_other_figure(small_manifest):
    oracle = baseline("oracle ratio mask", small_manifest)
    piece = next(piece for piece in pieces_of(small_manifest, "test") if len(piece.references) > 2)
    label = min(piece.references)
    whole = next(score for score in evaluate_piece(oracle, piece, 8000) if score.label == label)
    (alone,) = evaluate_piece(oracle, piece.restricted([label]), 8000)
    assert alone.model_dump() == pytest.approx(whole.model_dump(), nan_ok=True)
    assert alone.sources == len(piece.references)


def test_no_system_is_conditioned_on_labels_that_are_not_scored(small_manifest):
    class Curious(MixtureBaseline):
        def __call__(self, scene, labels):
            assert {*scene.references, *labels} <= {"vn", "vc", "fl"}
            return super().__call__(scene, labels)

    scores = score_mixtures(BaselineSystem("curious", Curious()), small_manifest, "test", ["fl", "vc", "vn"])
    found = TwoSources.of(scores)
    assert {label for score in scores for label in score.labels} <= {"fl", "vc", "vn"}
    assert 0 < found.mixtures < 64 and found.si_sdr_improvement == pytest.approx(0, abs=1e-6)


def test_parts_make_the_whole(small_manifest, oracle):
    (found,) = evaluations.evaluate_systems(small_manifest, {}, "test", baselines=("oracle ratio mask",))
    # As JSON, where an undefined figure equals itself.
    assert found.model_dump_json(exclude={"signature"}) == oracle.model_dump_json(exclude={"signature"})


def test_the_progress_of_an_evaluation_has_rate_and_time_left(small_manifest):
    seen, shown = [], []
    show = show_rate(shown.append, "parts")
    evaluations.evaluate_systems(
        small_manifest, {}, "test", baselines=("mixture",), whole_pieces=False,
        on_progress=lambda progress: (seen.append(progress), show(progress)),
    )  # fmt: skip
    assert [progress.done for progress in seen] == [0, 1, 2, 3, 4]
    assert (seen[-1].seconds, seen[-1].share) == (64 * 4, 1)
    assert re.fullmatch(r"4 of 4 parts, \d+ x real time, 0 s left, last mixture", shown[-1])


def test_all_systems_score_a_piece_before_the_next_one(small_manifest):
    seen, rows = [], ("mixture", "oracle ratio mask")
    found = evaluations.evaluate_systems(
        small_manifest, {}, "test", baselines=rows, whole_pieces=False,
        on_progress=lambda progress: seen.append(progress.last),
    )  # fmt: skip
    assert tuple(one.system for one in found) == rows
    assert seen == ["", *(4 * rows)]


def test_a_saved_evaluation_holds_an_interval_beside_every_median(small_manifest, oracle, tmp_path):
    study = Study(tmp_path, ())
    evaluations.save_evaluations(study, "test", [oracle])
    (loaded,) = evaluations.load_evaluations(study, "test")
    low, high = loaded.two_sources.intervals["si_sdr_improvement"]
    assert low < loaded.two_sources.si_sdr_improvement < high and loaded.two_sources.intervals["label_contrast"] is None
    assert set(loaded.intervals) == {"si_sdr_improvement", "sdr", "sir", "sar", "pes", "eps"}
    median = loaded.two_sources.si_sdr_improvement
    assert report.mixture_rows([loaded])[0][1] == f"{median:+.1f} ({low:+.1f} to {high:+.1f})"
    before = json.loads(oracle.model_dump_json(exclude={"intervals", "labels"}))
    assert parse_config(before, Evaluation, "old").intervals == {}


def test_a_table_of_one_piece_says_why_it_has_no_intervals(oracle, capsys):
    piece = oracle.scores[0].piece
    scores = tuple(score for score in oracle.scores if score.piece == piece)
    alone = oracle.model_copy(update={"scores": scores, "intervals": dict.fromkeys(oracle.intervals)})
    report.print_evaluations("test", [alone])
    assert "1 piece: no intervals, which need two" in " ".join(capsys.readouterr().out.split())


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == "cpu"
    for name, needed in (("cuda", "an NVIDIA or AMD GPU that PyTorch finds"), ("mps", "a Mac with an Apple GPU")):
        with pytest.raises(ConfigError, match=f"--device {name} needs {needed}; got only cpu, with PyTorch .*auto"):
            find_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == find_device("cuda") == "cuda"


def test_on_a_cluster_the_gpus_are_those_that_ray_counts(monkeypatch, caplog):
    cluster = Place(name="far", ray_address="10.0.0.1:6379")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": 2.0})
    assert [device_of_tasks(cluster, name) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0})
    assert device_of_tasks(cluster, "auto") == "cpu" and not caplog.messages
    with_gpus = cluster.model_copy(update={"gpus_per_worker": 0.5})
    assert device_of_tasks(with_gpus, "cpu") == "cpu" and not caplog.messages
    assert device_of_tasks(with_gpus, "auto") == "cpu"
    (told,) = caplog.messages
    assert re.fullmatch("networks run on the CPU: no GPU was found, though '.*' has gpus_per_worker: 0.5", told)
    with pytest.raises(ConfigError, match="--device cuda needs an NVIDIA or AMD GPU .*; got a cluster of 0 GPUs"):
        device_of_tasks(cluster, "cuda")
