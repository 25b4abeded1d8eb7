"""What separates by label: models of every kind answer for what they are asked."""

import numpy as np
import pytest
import torch
from untrained_models import KINDS, TINY, saver

from vimss.errors import DataError, ModelError
from vimss.media.resample import resample
from vimss.model.device import on_device
from vimss.model.fit import fit_models
from vimss.model.networks.wave_u_net.config import WaveUNetConfig
from vimss.model.separator import Separator, load_separator
from vimss.stream.scene import Scene, pieces_of
from vimss.systems import (
    AdaptedSystem,
    ModelSystem,
    equally_informed,
    model_system,
)


@pytest.fixture(scope="module")
def save(small_manifest, small_features, tmp_path_factory):
    return saver(small_manifest, small_features, tmp_path_factory)


@pytest.fixture(scope="module", params=KINDS)
def kind(request, small_manifest, save):
    return model_system(save(KINDS[request.param]), small_manifest, request.param)


@pytest.mark.parametrize(
    ("settings", "row"),
    [
        ({"outputs": "instruments", "site": "decoder"}, "Wiener filter, all labels"),
        ({"outputs": "instruments", "site": "none"}, "Wiener filter per label"),
        ({"outputs": "queries", "site": "decoder"}, "Wiener filter per label"),
        ({"outputs": "queries", "site": "decoder", "share_mixture": True}, "Wiener filter, all labels"),
        ({"outputs": "slots", "site": "none"}, "Wiener filter per label"),
    ],
)
def test_a_model_stands_beside_the_wiener_filter_with_the_same_labels(settings, row):
    assert equally_informed(WaveUNetConfig(**settings)) == row


def test_an_output_does_not_depend_on_what_else_is_asked(small_manifest, kind):
    piece = next(pieces_of(small_manifest, "test", kind.views))
    first, second = sorted(piece.references)[:2]
    both, alone = kind(piece, [first, second]), kind(piece, [second])
    if kind.ordered:
        np.testing.assert_allclose(both[1], alone[0], atol=1e-6)
    assert both.shape == (2, *piece.mixture.shape)


@pytest.mark.parametrize("name", ["queries by frames", "queries by features"])
def test_players_of_one_label_are_asked_for_by_picture_and_added(small_manifest, save, name):
    system = model_system(save(KINDS[name]), small_manifest, name)
    piece = next(pieces_of(small_manifest, "test", system.views))
    left, right = (cues[0] for cues in list(piece.views.values())[:2])
    answers = [system(Scene("p", piece.mixture, {}, {"vn": cues}), ["vn"]) for cues in ([left], [right], [left, right])]
    np.testing.assert_allclose(answers[2], answers[0] + answers[1], atol=1e-5)
    assert np.abs(answers[0] - answers[1]).max() > 1e-4


def test_features_of_a_frozen_network_give_the_same_output_as_its_pictures(small_manifest, small_features):
    answers = []
    for context in ("frames", "features"):
        config = WaveUNetConfig(**TINY, outputs="queries", site="decoder", context=context)
        torch.manual_seed(0)
        separator = Separator(config, small_manifest.recipe.labels, 8000)
        system = ModelSystem(separator, context, small_features)
        piece = next(pieces_of(small_manifest, "test", system.views))
        answers.append(system(piece, sorted(piece.references)))
    # Features are kept in half precision.
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-3 * np.abs(answers[0]).max())


def test_slots_are_assigned_by_an_oracle(small_manifest, save):
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


def test_a_model_that_does_not_name_its_features_is_refused(small_manifest, save):
    folder = save(KINDS["queries by features"], card={})
    with pytest.raises(
        ModelError, match=r"card of the model 'm', whose context is features, must name its features; got none"
    ):
        model_system(folder, small_manifest, "m")


def test_features_that_were_never_computed_are_asked_for(small_manifest, save):
    folder = save(KINDS["queries by features"], card={"features": "resnet18-0000000000"})
    with pytest.raises(DataError, match=r"'resnet18-0000000000'.* must be complete.*run `vimss features small --net"):
        model_system(folder, small_manifest, "m")


def test_a_model_hears_other_shards_at_its_own_rate_with_its_channels_and_its_names(small_manifest, save):
    config = {**KINDS["queries by label"], "channels": 2}
    folder = save(config, labels=("kazoo", "violin", "cello"), rate=4000)
    fit = fit_models({"a": load_separator(folder)}, small_manifest, "test")
    assert fit.names["a"] == {"vc": "cello", "vn": "violin"} and fit.labels == ("vc", "vn")
    system = model_system(folder, small_manifest, "a", fit.names["a"])
    piece = next(piece for piece in pieces_of(small_manifest, "test") if "vn" in piece.references)
    (found,) = system(piece.restricted(fit.labels), ["vn"])
    assert found.shape == piece.mixture.shape
    low = np.repeat(resample(piece.mixture, 8000.0, 4000.0), 2, axis=0)
    (own,) = ModelSystem(load_separator(folder), "a")(Scene("p", low, {"violin": low}, {}), ["violin"])
    expected = resample(own.mean(axis=0, keepdims=True), 4000.0, 8000.0)
    np.testing.assert_allclose(found[:, :8000], expected[:, :8000], atol=1e-6)


def test_a_mono_model_takes_the_mean_of_stereo_and_its_output_stands_in_both_channels(small_manifest, save):
    names = {"vn": "vn"}
    model = ModelSystem(load_separator(save()), "a")
    system = AdaptedSystem(model, 8000, names)
    sound = np.random.default_rng(0).normal(0, 0.1, (2, 5000)).astype(np.float32)
    mono = sound.mean(axis=0, keepdims=True)
    (found,) = system(Scene("p", sound, {"vn": sound}, {}), ["vn"])
    (own,) = model(Scene("p", mono, {"vn": mono}, {}), ["vn"])
    np.testing.assert_allclose(found, np.repeat(own, 2, axis=0), atol=1e-7)


@pytest.mark.gpu
def test_a_gpu_gives_the_estimates_of_the_cpu(small_manifest, kind):
    piece = next(pieces_of(small_manifest, "test", kind.views))
    labels = sorted(piece.references)
    expected = kind(piece, labels)
    on_device(kind.separator, "cuda")
    found = kind(piece, labels)
    on_device(kind.separator, "cpu")
    np.testing.assert_allclose(found, expected, atol=1e-4)
