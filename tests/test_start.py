"""Trainings that start from the weights of another model."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from test_train import one_thread, settings  # noqa: F401 - a fixture that all use

from vimss.errors import ConfigError, ModelError
from vimss.experiment import Experiment
from vimss.model.separator import Separator, save_separator
from vimss.search.trial import trial_name
from vimss.train.config import Settings
from vimss.train.objectives.alignment import Alignment
from vimss.train.start import check_start, start

FRAMES = {"context": "frames", "vision": {"network": "compact", "weights": "random"}}


@pytest.fixture
def other(small_recipe, tmp_path):
    """The folder of a model that was trained."""
    return saved(small_recipe, tmp_path / "other", {})


def saved(recipe, folder, model):
    torch.manual_seed(7)
    chosen = settings(model=model)
    save_separator(folder, Separator(chosen.model, recipe.labels, recipe.sample_rate), {})
    return folder


def new(recipe, chosen):
    return Separator(chosen.model, recipe.labels, recipe.sample_rate)


def test_a_model_of_the_same_kind_gives_all_of_its_weights(small_recipe, other):
    chosen = settings(training={"start_from": str(other)})
    check_start(chosen, small_recipe)
    network = new(small_recipe, chosen)
    start(network, chosen)
    expected = load_file(other / "weights.safetensors")
    assert all(torch.equal(weight, expected[name]) for name, weight in network.state_dict().items())


def test_weights_that_do_not_fit_are_named_with_both_shapes(small_recipe, other):
    chosen = settings(model={"filters": 6}, training={"start_from": str(other)})
    with pytest.raises(ModelError, match=r"must have the names and shapes .*unet\.\S+: \[.*\] for \[.*\]; unet"):
        check_start(chosen, small_recipe)


def test_a_model_without_pictures_has_nothing_for_a_network_of_another_kind(small_recipe, other):
    card = (other / "model.json").read_text().replace('"wave_u_net"', '"other_net"')
    (other / "model.json").write_text(card)
    chosen = settings(training={"start_from": str(other)})
    with pytest.raises(ModelError, match="vision network alone is taken; got no vision network in this training"):
        check_start(chosen, small_recipe)
    looks = settings(model=FRAMES, training={"start_from": str(other)})
    with pytest.raises(ModelError, match="got no vision network in that model"):
        check_start(looks, small_recipe)


def test_the_weights_decide_about_the_trial_and_not_their_place(small_recipe, other, tmp_path):
    same = shutil.copytree(other, tmp_path / "same")
    changed = saved(small_recipe, tmp_path / "changed", {"filters": 6})
    names = [trial_name(settings(training={"start_from": str(folder)})) for folder in (other, same, changed)]
    assert names[0] == names[1] != names[2]
    assert trial_name(settings(training={"start_from": "new"})) == trial_name(settings()) not in names


def test_weights_that_changed_after_the_search_began_are_refused(small_recipe, other):
    chosen = settings(training={"start_from": str(other)})
    saved(small_recipe, other.parent / "newer", {})
    network = new(small_recipe, chosen)
    torch.nn.init.ones_(network.unet.head.bias)
    shutil.rmtree(other)
    save_separator(other, network, {})
    with pytest.raises(ModelError, match="must stay as it was when the search began"):
        start(network, chosen)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"must hold model\.json and weights\.safetensors; got no model\.json"):
        settings(training={"start_from": str(tmp_path)})


def test_a_name_of_the_registry_is_looked_up_before_a_search(small_recipe):
    chosen = settings(training={"start_from": "models:/mine@champion"})
    with pytest.raises(ConfigError, match="models:/mine@champion must be looked up in the registry before a search"):
        check_start(chosen, small_recipe)


def test_names_of_the_registry_are_replaced_wherever_they_are_set():
    experiment = Experiment(
        name="mine", question="q", expected="e", shards="quickstart",
        model={"vision": {"weights": "models:/eyes/3"}}, training={"start_from": "models:/ears/1"},
        controls={"other": {"training.start_from": "models:/ears/2"}, "scratch": {"training.start_from": "new"}},
    )  # fmt: skip
    found = experiment.with_values("training.start_from", str.upper).with_values("model.vision.weights", str.upper)
    assert found.training["start_from"] == "MODELS:/EARS/1" and found.model["vision"]["weights"] == "MODELS:/EYES/3"
    assert found.controls == {
        "other": {"training.start_from": "MODELS:/EARS/2"}, "scratch": {"training.start_from": "NEW"}
    }  # fmt: skip
    assert experiment.training["start_from"] == "models:/ears/1"


MOTION = {"context": "motion", "motion_encoder": "convolutions"}


@pytest.fixture
def aligned(small_recipe, tmp_path):
    """The folder of a model of the objective `alignment`."""
    chosen = Settings.model_validate({"objective": "alignment"})
    objective = Alignment(chosen, small_recipe)
    objective.save(tmp_path / "aligned", objective.build(), {})
    return tmp_path / "aligned"


def test_a_network_that_sees_motion_starts_from_the_convolutions_of_alignment(small_recipe, aligned):
    chosen = settings(model=MOTION, training={"start_from": str(aligned)})
    check_start(chosen, small_recipe)
    network = new(small_recipe, chosen)
    head = network.unet.head.weight.clone()
    start(network, chosen)
    expected = load_file(aligned / "weights.safetensors")
    taken = {name: weight for name, weight in network.state_dict().items() if name.startswith("of_motion.")}
    assert len(taken) == 8 and all(torch.equal(weight, expected[name]) for name, weight in taken.items())
    assert torch.equal(network.unet.head.weight, head)


def test_alignment_has_nothing_for_a_network_without_convolutions_over_motion(small_recipe, aligned, other):
    plain = settings(model={"context": "motion"}, training={"start_from": str(aligned)})
    with pytest.raises(
        ModelError, match=r"got no vision network in this training. To fix: .* motion with model.motion_encoder: conv"
    ):
        check_start(plain, small_recipe)
    looks = settings(model=FRAMES, training={"start_from": str(aligned)})
    with pytest.raises(ModelError, match="its vision network alone is taken; got no vision network in that model"):
        check_start(looks, small_recipe)
    from_labels = settings(model={**MOTION, "filters": 6}, training={"start_from": str(other)})
    with pytest.raises(ModelError, match="names and shapes"):
        check_start(from_labels, small_recipe)
