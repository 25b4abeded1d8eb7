"""Evaluation: every kind of model gets its figures, and each figure is of whom it says."""

import io
import itertools
import json
import math
import re
import shutil
import tarfile

import numpy as np
import pytest
import torch

from vimss import api, evaluations, report
from vimss.config import parse_config
from vimss.console import show_rate
from vimss.errors import ConfigError, DataError, ModelError
from vimss.evaluate import (
    Evaluation,
    TwoSources,
    evaluate,
    evaluate_piece,
    evaluate_two_sources,
    score_mixtures,
    two_source_mixtures,
)
from vimss.experiment import Experiment
from vimss.features import compute_features
from vimss.media.resample import resample
from vimss.model.config import ModelConfig, VisionConfig
from vimss.model.device import device_of_tasks, find_device, on_device
from vimss.model.fit import fit_models, known_labels
from vimss.model.separator import Separator, load_separator, save_separator
from vimss.pages.of_trial import excerpt_files
from vimss.promote import registry_figures
from vimss.runtime import Place
from vimss.shards.clip import Clip, Player
from vimss.shards.manifest import Manifest, PieceEntry, Shard, open_manifest
from vimss.shards.recipe import load_recipe
from vimss.shards.task import clip_members
from vimss.storage import sha256
from vimss.stream import fixed
from vimss.stream.read import read_clips
from vimss.study import Study, TrialRecord
from vimss.systems import (
    AdaptedSystem,
    InformedWienerSystem,
    MixtureSystem,
    ModelSystem,
    OracleSystem,
    Scene,
    System,
    WienerSystem,
    equally_informed,
    fit_wiener,
    model_system,
    pieces_of,
    references_of,
)
from vimss.train.config import Settings

VISION = VisionConfig(network="resnet18", weights="random")
TINY = {
    "levels": 3, "filters": 4, "down_kernel": 5, "output_activation": "linear", "initial_output": "mixture",
    "vision": VISION, "feature_size": VISION.feature_size,
}  # fmt: skip
KINDS = {
    "one output per label": {"outputs": "instruments", "site": "none"},
    "one output per label, told labels": {"outputs": "instruments", "site": "every_layer"},
    "one output per label, frames": {"outputs": "instruments", "site": "decoder", "context": "frames"},
    "one output per label, features": {"outputs": "instruments", "site": "decoder", "context": "features"},
    "queries by label": {"outputs": "queries", "site": "decoder"},
    "queries by frames": {"outputs": "queries", "site": "bottleneck", "context": "frames"},
    "queries by features": {"outputs": "queries", "site": "decoder", "context": "features"},
    "slots": {"outputs": "slots", "slots": 3},
}


@pytest.fixture(scope="module")
def save(small_manifest, tmp_path_factory):
    """A function that saves an untrained network of the small corpus, with changes, and returns its folder."""
    card = {"features": compute_features(small_manifest, VISION)}
    seeds = itertools.count()

    def make(config=KINDS["queries by label"], labels=small_manifest.recipe.labels, rate=8000, card=card):
        folder = tmp_path_factory.mktemp("model") / "model"
        torch.manual_seed(next(seeds))
        save_separator(folder, Separator(ModelConfig(**TINY, **config), labels, rate), card)
        return folder

    return make


@pytest.fixture(scope="module", params=KINDS)
def kind(request, small_manifest, save):
    return model_system(save(KINDS[request.param]), small_manifest, request.param)


@pytest.fixture(scope="module")
def oracle(small_manifest):
    return evaluate(OracleSystem(small_manifest.recipe.sample_rate), small_manifest, "test")


def test_the_mixture_improves_nothing(small_manifest):
    two = evaluate_two_sources(MixtureSystem(), small_manifest, "test")
    assert two.si_sdr_improvement == pytest.approx(0, abs=1e-6)
    assert two.absent_level == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "row"),
    [
        ({"outputs": "instruments", "site": "decoder"}, "Wiener, all labels told"),
        ({"outputs": "instruments", "site": "none"}, "Wiener filter per label"),
        ({"outputs": "queries", "site": "decoder"}, "Wiener filter per label"),
        ({"outputs": "slots", "site": "none"}, "Wiener filter per label"),
    ],
)
def test_a_model_stands_beside_the_wiener_filter_that_is_told_as_much(settings, row):
    assert equally_informed(ModelConfig(**settings)) == row


def test_the_oracle_is_far_above_the_wiener_filter(small_manifest, oracle):
    wiener = evaluate_two_sources(WienerSystem(fit_wiener(small_manifest)), small_manifest, "test")
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


def test_every_kind_of_model_gets_its_figures(small_manifest, kind):
    found = evaluate(kind, small_manifest, "test")
    # Untrained, it gives about the mixture.
    assert found.two_sources.si_sdr_improvement == pytest.approx(0, abs=3)
    assert found.median("si_sdr_improvement") == pytest.approx(0, abs=3)
    assert all(math.isfinite(score.si_sdr_improvement) for score in found.scores)
    defined = math.isfinite(found.two_sources.label_contrast), math.isfinite(found.two_sources.absent_level)
    assert defined == (kind.wrong_context != "none", kind.ordered)
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


@pytest.mark.parametrize("split", ["test", "test_unheard", "promote", "valid"])
def test_several_systems_have_their_mixtures_decoded_once(bare_manifest, save, decoded, split):
    models = {"a": save(), "b": save(KINDS["slots"]), "c": save(KINDS["one output per label, frames"])}
    evaluations.evaluate_systems(bare_manifest, {}, split, references=("mixture",), whole_pieces=False)
    once = decoded.copy()
    assert once and set(once) == {(split, ("audio",))}
    decoded.clear()
    rows = evaluations.evaluate_systems(bare_manifest, models, split, whole_pieces=False)
    # A network that looks at pictures reads them, and nothing more.
    assert len(rows) == 7 and set(decoded) == {(split, ("picture",))}
    assert {row.two_sources.mixtures for row in rows} == {64}


def test_every_system_hears_the_same_mixtures_whatever_it_sees(bare_manifest, kind):
    plain = list(two_source_mixtures(MixtureSystem(), bare_manifest, "test"))
    seen = list(two_source_mixtures(kind, bare_manifest, "test")) if kind.features == "" else plain
    for one, other in zip(plain, seen, strict=True):
        np.testing.assert_array_equal(one.sound, other.sound)
        assert [source.label for source in one.sources] == [source.label for source in other.sources]


class Told(System):
    """A network with one output per label, told all that sound, which does as it is told; or not."""

    name = "told"
    wrong_context = "absent"

    def __init__(self, obeys: bool) -> None:
        self.obeys = obeys

    def __call__(self, scene, asked):
        stems = scene.references
        return np.stack([stems.get(label, np.zeros_like(scene.mixture)) + 0.1 * scene.mixture for label in asked])

    def exchanged(self, scene, label, absent):
        assert label in scene.references and absent not in scene.references
        return scene.mixture if self.obeys else self(scene, [label])[0]


def test_contrast_is_what_the_context_changes_in_one_and_the_same_output(small_manifest):
    obedient = evaluate_two_sources(Told(obeys=True), small_manifest, "test")
    deaf = evaluate_two_sources(Told(obeys=False), small_manifest, "test")
    assert obedient.label_contrast > 10 and deaf.label_contrast == 0
    assert obedient.si_sdr_improvement == deaf.si_sdr_improvement


def test_the_wiener_filters_have_a_contrast_as_networks_have_and_the_mixture_has_none(small_manifest):
    filters = fit_wiener(small_manifest)
    for system in (WienerSystem(filters), InformedWienerSystem(filters)):
        assert math.isfinite(evaluate_two_sources(system, small_manifest, "test").label_contrast)
    assert np.isnan(evaluate_two_sources(MixtureSystem(), small_manifest, "test").label_contrast)


def test_every_kind_of_model_can_be_listened_to(small_manifest, kind):
    piece = next(pieces_of(small_manifest, "valid", kind.cue, kind.features)).beginning(16000)
    record = TrialRecord(cell="c", trial="t", state="finished", chosen={}, settings=Settings(), begun=0.0)
    experiment = Experiment(name="e", question="q", expected="x", shards="small")
    files = excerpt_files(experiment, record, kind, piece, 8000)
    assert files["listen.html"].count(b"<audio") == 1 + 2 * len(piece.references)
    assert (b"an oracle tells outputs" in files["listen.html"]) == (not kind.ordered)


def test_an_output_does_not_depend_on_what_else_is_asked(small_manifest, kind):
    piece = next(pieces_of(small_manifest, "test", kind.cue, kind.features))
    first, second = sorted(piece.references)[:2]
    both, alone = kind(piece, [first, second]), kind(piece, [second])
    if kind.ordered:
        np.testing.assert_allclose(both[1], alone[0], atol=1e-6)
    assert both.shape == (2, *piece.mixture.shape)


@pytest.mark.parametrize("name", ["queries by frames", "queries by features"])
def test_players_of_one_label_are_asked_for_by_picture_and_added(small_manifest, save, name):
    system = model_system(save(KINDS[name]), small_manifest, name)
    piece = next(pieces_of(small_manifest, "test", system.cue, system.features))
    left, right = (cues[0] for cues in list(piece.cues.values())[:2])
    answers = [system(Scene("p", piece.mixture, {}, {"vn": cues}), ["vn"]) for cues in ([left], [right], [left, right])]
    np.testing.assert_allclose(answers[2], answers[0] + answers[1], atol=1e-5)
    assert np.abs(answers[0] - answers[1]).max() > 1e-4


def test_features_of_a_frozen_network_are_heard_as_its_pictures(small_manifest, save):
    answers = []
    for context in ("frames", "features"):
        config = ModelConfig(**TINY, outputs="queries", site="decoder", context=context)
        torch.manual_seed(0)
        separator = Separator(config, small_manifest.recipe.labels, 8000)
        system = ModelSystem(separator, context, compute_features(small_manifest, VISION))
        piece = next(pieces_of(small_manifest, "test", system.cue, system.features))
        answers.append(system(piece, sorted(piece.references)))
    # Features are kept in half precision.
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-3 * np.abs(answers[0]).max())


def test_slots_are_told_apart_by_an_oracle(small_manifest, save):
    system = model_system(save({"outputs": "slots", "slots": 2, "output_type": "difference"}), small_manifest, "slots")
    sound = next(pieces_of(small_manifest, "test")).mixture
    slots = system(Scene("p", sound, {"a": sound}, {}), ["a"])
    outputs = np.concatenate([slots, sound - slots])
    # True stems that are the outputs are found again, in whatever order they are asked for.
    references = {"vn": outputs[1], "vc": outputs[0], "fl": outputs[1]}
    found = system(Scene("p", sound, references, {}), ["vn", "vc"])
    np.testing.assert_allclose(found, [references["vn"], references["vc"]], atol=1e-5)
    # No two sources get one slot as long as there are enough.
    both = {"vn": outputs[0], "vc": outputs[0] + 0.1 * outputs[1]}
    np.testing.assert_allclose(system(Scene("p", sound, both, {}), ["vn", "vc"]), outputs, atol=1e-5)
    # A source beyond the number of slots takes the one that fits it best.
    found = system(Scene("p", sound, references, {}), ["vn", "vc", "fl"])
    np.testing.assert_allclose(found, [references[label] for label in ("vn", "vc", "fl")], atol=1e-5)


def test_pieces_show_every_player_that_sounds_for_as_long_as_it_sounds(small_manifest):
    rate, picture = small_manifest.recipe.sample_rate, small_manifest.recipe.picture
    for piece in pieces_of(small_manifest, "test", "frames"):
        assert set(piece.cues) == set(piece.references)
        frames = round(piece.mixture.shape[1] / rate * picture.frame_rate)
        assert {cue.shape for cues in piece.cues.values() for cue in cues} == {(frames, picture.size, picture.size, 3)}


def test_the_beginning_of_a_piece_is_cut_between_two_pictures():
    sound = np.arange(100, dtype=np.float32)[None]
    late = np.where(sound < 60, 0, sound)
    cue = np.arange(8)
    scene = Scene("p", sound, {"vn": sound, "vc": late}, {"vn": [cue], "vc": [cue]}).beginning(40)
    assert scene.mixture.shape == (1, 38) and scene.references["vn"].shape == (1, 38)  # 3 pictures of 12.5 samples
    assert list(scene.references) == list(scene.cues) == ["vn"]
    np.testing.assert_array_equal(scene.cues["vn"], [[0, 1, 2]])


def test_two_players_of_one_label_are_one_reference():
    ones = np.full((1, 4), 16384, np.int16)
    rest = np.zeros((1, 4), np.int16)
    players = (Player("vn", "1", ones), Player("vn", "2", ones), Player("fl", "3", rest))
    references = references_of(Clip("p", 0, 4, 8000, players))
    assert list(references) == ["vn"]
    np.testing.assert_allclose(references["vn"], 1.0)


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
        evaluations.evaluate_systems(small_manifest, {"old": save(**change)}, "promote", references=())


def test_a_model_that_does_not_name_its_features_is_refused(small_manifest, save):
    folder = save(KINDS["queries by features"], card={})
    with pytest.raises(ModelError, match=r"card of the model 'm', whose context is features, must name them; got none"):
        model_system(folder, small_manifest, "m")


def test_features_that_were_never_computed_are_asked_for(small_manifest, save):
    folder = save(KINDS["queries by features"], card={"features": "resnet18-0000000000"})
    with pytest.raises(DataError, match=r"'resnet18-0000000000'.* must be complete.*run `vimss features small`"):
        model_system(folder, small_manifest, "m")


@pytest.fixture(scope="module")
def study(save, tmp_path_factory):
    """Two cells and a baseline; one trial has the lowest loss but was stopped early, one failed without weights."""
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
    baselines={"blind": {"model.site": "none"}},
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
    baselines={"blind": {"model.site": "none"}, "blind 1": {"model.site": "none", "seed": 1}, "other": {}},
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
        "cells": 3, "with_loss": 0,
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
    tested = evaluations.evaluate_systems(small_manifest, models, "test", references=())
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
    assert [row.system for row in rows] == [
        "mixture", "Wiener filter per label", "Wiener, all labels told", "oracle ratio mask",
    ]  # fmt: skip
    assert {row.weights for row in rows} == {""}


def fitted(manifest, split="test", **folders):
    return fit_models({name: load_separator(folder) for name, folder in folders.items()}, manifest, split)


def test_a_model_hears_other_shards_at_its_own_rate_with_its_channels_and_its_names(small_manifest, save):
    config = {**KINDS["queries by label"], "channels": 2}
    folder = save(config, labels=("kazoo", "violin", "cello"), rate=4000)
    fit = fitted(small_manifest, a=folder)
    assert fit.names["a"] == {"vc": "cello", "vn": "violin"} and fit.labels == ("vc", "vn")
    system = model_system(folder, small_manifest, "a", fit.names["a"])
    piece = next(piece for piece in pieces_of(small_manifest, "test") if "vn" in piece.references)
    (found,) = system(piece.restricted(fit.labels), ["vn"])
    assert found.shape == piece.mixture.shape
    low = np.repeat(resample(piece.mixture, 8000.0, 4000.0), 2, axis=0)
    (own,) = ModelSystem(load_separator(folder), "a")(Scene("p", low, {"violin": low}, {}), ["violin"])
    expected = resample(own.mean(axis=0, keepdims=True), 4000.0, 8000.0)
    np.testing.assert_allclose(found[:, :8000], expected[:, :8000], atol=1e-6)


def test_stereo_is_heard_as_its_mean_by_a_mono_model_whose_answer_stands_in_both_channels(small_manifest, save):
    names = {"vn": "vn"}
    model = ModelSystem(load_separator(save()), "a")
    system = AdaptedSystem(model, 8000, names)
    sound = np.random.default_rng(0).normal(0, 0.1, (2, 5000)).astype(np.float32)
    mono = sound.mean(axis=0, keepdims=True)
    (found,) = system(Scene("p", sound, {"vn": sound}, {}), ["vn"])
    (own,) = model(Scene("p", mono, {"vn": mono}, {}), ["vn"])
    np.testing.assert_allclose(found, np.repeat(own, 2, axis=0), atol=1e-7)


def test_what_is_changed_and_left_out_for_a_model_is_said(small_manifest, save):
    config = {**KINDS["queries by label"], "channels": 2}
    fit = fitted(small_manifest, a=save(config, labels=("violin", "cello"), rate=4000), b=save(labels=("vn", "fl")))
    first, second, third, last = fit.sentences
    assert first == (
        "a: resampled from 8000 Hz to its 4000 Hz and back; it gives nothing above 2000 Hz, which its figures include; "
        "it hears mono in both channels, and the mean of its answer is scored"
    )
    assert second.startswith("a: vc is its cello; vn is its violin; it does not know bn, cl, ")
    assert third.startswith("b: it does not know bn, ")
    assert last.startswith("scored in every row: vn; bn, ") and "stay in the mixtures, no row is told of them" in last
    assert fitted(small_manifest, own=save()).sentences == ()


def test_names_that_are_one_to_a_model_are_left_out(save):
    separator = load_separator(save(labels=("guitar", "vn")))
    assert known_labels(separator, ["guitar 1", "guitar 2", "violin"]) == {"violin": "vn"}


def test_a_label_is_known_by_any_name_of_its_instrument(save):
    separator = load_separator(save(labels=("violin", "double_bass", "Vocals")))
    names = known_labels(separator, ["vn", "db", "vocals", "vc"])
    assert names == {"vn": "violin", "db": "double_bass", "vocals": "Vocals"}


@pytest.mark.parametrize("name", ["slots", "queries by frames"])
def test_outputs_without_labels_can_be_scored_for_any(small_manifest, save, name):
    assert set(fitted(small_manifest, a=save(KINDS[name], labels=("kazoo",))).labels) == set(
        small_manifest.recipe.labels
    )


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        (
            {"a": ("kazoo",)},
            ModelError,
            "'a' must know a label of the split 'test' of 'small': bn, .*; got a model of kaz",
        ),
        (
            {"a": ("vn",), "b": ("vc",)},
            ModelError,
            "must have a label of the split 'test' of 'small' in common; got 'a' knows vn; 'b' knows vc. To fix: ev",
        ),
    ],
)
def test_models_without_a_common_label_are_refused(small_manifest, save, models, error, message):
    with pytest.raises(error, match=message):
        fitted(small_manifest, **{name: save(labels=labels) for name, labels in models.items()})


def written_alone(folder, players):
    """Shards of one test clip of these players."""
    recipe = load_recipe("quickstart", ["clip_seconds=1"])
    clip = Clip("p", 0, 8000, 8000, tuple(players))
    with tarfile.open(folder / "test-000000.tar", "w") as tar:
        for name, content in clip_members(clip, recipe).items():
            info = tarfile.TarInfo(f"{clip.key}.{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    size = (folder / "test-000000.tar").stat().st_size
    shard = Shard(
        name="test-000000.tar", split="test", clips=1, seconds=1, size=size, sha256=sha256(folder / "test-000000.tar")
    )
    labels = tuple(sorted({player.instrument for player in players}))
    piece = PieceEntry(name="p", split="test", composition="p", seconds=1, instruments=labels)
    return Manifest(
        folder=folder, name="alone", recipe=recipe, signature="s", shards=(shard,), pieces=(piece,)
    )  # fmt: skip


SOUND = np.full((1, 8000), 1000, np.int16)


@pytest.mark.parametrize(
    ("players", "kind", "message"),
    [
        ([Player("vn", "1"), Player("vc", "2")], "queries by label", "must hold stems, .*; got mixtures alone"),
        ([Player("vn", "1", SOUND)], "queries by label", "must have two labels, to make mixtures of; got only vn"),
        (
            [Player("vn", "1", SOUND), Player("vc", "2", SOUND)],
            "queries by frames",
            "'a', whose context is frames, needs pictures of the players; got none in the split 'test' of",
        ),
    ],
)
def test_shards_that_cannot_be_scored_on_are_refused(save, tmp_path, players, kind, message):
    with pytest.raises(DataError, match=message):
        fitted(written_alone(tmp_path, players), a=save(KINDS[kind]))


def test_without_a_train_split_the_filters_are_left_out_and_that_is_said(save, tmp_path):
    manifest = written_alone(tmp_path, [Player("vn", "1", SOUND), Player("vc", "2", SOUND)])
    checked = evaluations.models_on_shards({"a": save()}, manifest, "test")
    assert checked.references == ("mixture", "oracle ratio mask")
    assert checked.sentences[-1] == (
        "no rows 'Wiener filter per label' and 'Wiener, all labels told': 'alone' has no train split with stems to fit "
        "them on"
    )


def test_a_stem_that_is_not_scored_stays_in_the_mixture_and_changes_no_other_figure(small_manifest):
    oracle = OracleSystem(8000)
    piece = next(piece for piece in pieces_of(small_manifest, "test") if len(piece.references) > 2)
    label = min(piece.references)
    whole = next(score for score in evaluate_piece(oracle, piece, 8000) if score.label == label)
    (alone,) = evaluate_piece(oracle, piece.restricted([label]), 8000)
    assert alone.model_dump() == pytest.approx(whole.model_dump(), nan_ok=True)
    assert alone.sources == len(piece.references)


def test_labels_that_are_not_scored_are_told_to_nobody(small_manifest):
    class Curious(MixtureSystem):
        def __call__(self, scene, asked):
            assert {*scene.references, *asked} <= {"vn", "vc", "fl"}
            return super().__call__(scene, asked)

    scores = score_mixtures(Curious(), small_manifest, "test", ["fl", "vc", "vn"])
    found = TwoSources.of(scores)
    assert {label for score in scores for label in score.labels} <= {"fl", "vc", "vn"}
    assert 0 < found.mixtures < 64 and found.si_sdr_improvement == pytest.approx(0, abs=1e-6)


def test_parts_make_the_whole(small_manifest):
    (found,) = evaluations.evaluate_systems(small_manifest, {}, "test", references=("oracle ratio mask",))
    # As JSON, where an undefined figure equals itself.
    assert found.model_dump_json() == evaluate(OracleSystem(8000), small_manifest, "test").model_dump_json()


def test_the_progress_of_an_evaluation_has_rate_and_time_left(small_manifest):
    seen, shown = [], []
    show = show_rate(shown.append, "parts")
    evaluations.evaluate_systems(
        small_manifest, {}, "test", references=("mixture",), whole_pieces=False,
        on_progress=lambda progress: (seen.append(progress), show(progress)),
    )  # fmt: skip
    assert [progress.done for progress in seen] == [0, 1, 2, 3, 4]
    assert (seen[-1].seconds, seen[-1].share) == (64 * 4, 1)
    assert re.fullmatch(r"4 of 4 parts, \d+ x real time, 0 s left, last mixture", shown[-1])


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_estimates_of_the_cpu(small_manifest, kind, save):
    piece = next(pieces_of(small_manifest, "test", kind.cue, kind.features))
    labels = sorted(piece.references)
    expected = kind(piece, labels)
    on_device(kind.separator, "cuda")
    found = kind(piece, labels)
    on_device(kind.separator, "cpu")
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_on_a_cluster_the_gpus_are_those_that_ray_counts(monkeypatch):
    cluster = Place(name="far", ray_address="10.0.0.1:6379")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": 2.0})
    assert [device_of_tasks(cluster, name) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0})
    assert device_of_tasks(cluster, "auto") == "cpu"
    with pytest.raises(ConfigError, match="--device cuda needs an NVIDIA or AMD GPU .*; got a cluster of 0 GPUs"):
        device_of_tasks(cluster, "cuda")
