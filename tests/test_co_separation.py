"""Co-separation beyond the contract of all objectives: what is compared, what the classifier teaches, and refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from test_objectives import SMALL, open_case, share

from vimss.config import parse_config
from vimss.errors import ConfigError
from vimss.model.separator import Separator, load_separator
from vimss.search.consistency import load_experiment
from vimss.train.config import Settings
from vimss.train.objectives import OBJECTIVES
from vimss.train.start import start
from vimss.train.start_from import StartFrom

NAME = "co_separation"


@pytest.fixture
def opened(small_manifest, monkeypatch):
    """With four players in each mixture, two in each video, and a batch of three."""
    training = {**SMALL[NAME]["training"], "consistency_weight": 0}
    four = {"min_sources": 4, "max_sources": 4, "queries": 4}
    monkeypatch.setitem(SMALL, NAME, {**SMALL[NAME], "mixing": four, "training": training})
    return open_case(NAME, small_manifest)


def test_stems_are_compared_as_the_sum_of_each_video(opened):
    _, objective, network, batch = opened
    moved = batch.targets.copy()
    moved[:, 0], moved[:, 1] = 0.3 * batch.targets[:, 1], batch.targets[:, 0] + 0.7 * batch.targets[:, 1]
    everywhere = replace(batch, present=np.ones_like(batch.present))
    same = share(objective, network, replace(everywhere, targets=moved), everywhere)
    torch.testing.assert_close(same, share(objective, network, everywhere, everywhere))
    moved[:, 1], moved[:, 2] = batch.targets[:, 2], batch.targets[:, 1]
    other = share(objective, network, replace(everywhere, targets=moved), everywhere)
    assert not torch.allclose(other, same)


def test_the_classifier_teaches_the_separator(opened):
    _, objective, network, batch = opened
    weight = network.network.head.weight
    gradients = []
    for consistency in (0.0, 1.0):
        training = objective.settings.training.model_copy(update={"consistency_weight": consistency})
        objective.settings = objective.settings.model_copy(update={"training": training})
        network.zero_grad()
        share(objective, network, batch, batch).backward()
        gradients.append(weight.grad.clone())
    assert not torch.allclose(gradients[0], gradients[1])


def test_a_saved_model_is_a_separator_without_the_classifier(opened, tmp_path):
    _, objective, network, _ = opened
    objective.save(tmp_path / "model", network, {})
    with safe_open(tmp_path / "model" / "weights.safetensors", "pt") as file:
        assert not [name for name in file.keys() if name.startswith("classifier")]  # noqa: SIM118
    assert type(load_separator(tmp_path / "model")) is Separator


def test_it_starts_from_a_model_of_its_own_or_from_any_separator_of_its_network(opened, tmp_path):
    chosen, objective, network, _ = opened
    objective.save(tmp_path / "model", network, {})
    begun = StartFrom.model_validate(str(tmp_path / "model"))
    again = chosen.model_copy(update={"training": chosen.training.model_copy(update={"start_from": begun})})
    another = objective.build()
    start(another, again)
    expected, found = network.state_dict(), another.state_dict()
    kept = [name for name in expected if not name.startswith("classifier")]
    assert all(torch.equal(found[name], expected[name]) for name in kept)


def test_it_is_compared_with_separation_by_the_same_figure():
    assert OBJECTIVES[NAME].figure == OBJECTIVES["separation"].figure


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"site": "decoder", "outputs": "queries"}},
            "objective: co_separation needs model.outputs: queries and a model.context of players, frames, features, "
            "skeleton, motion or example; got model.outputs: queries, model.context: labels",
        ),
        (
            {"mixing": {"min_sources": 2, "max_sources": 4, "queries": 4}},
            "objective: co_separation needs all players of two videos queried, so mixing.min_sources, "
            "mixing.max_sources and mixing.queries alike, at least 2; got mixing.min_sources: 2, mixing.max_sources: 4",
        ),
        (
            {"mixing": {"min_sources": 2, "max_sources": 2, "absent_probability": 0.5}},
            "mixing.absent_probability needs queries of absent players, which objective: separation has",
        ),
    ],
)
def test_settings_that_it_cannot_train_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"objective": NAME, **SMALL[NAME], **changes}, Settings, "here")


def test_its_weight_is_refused_for_other_objectives(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("question: q\nexpected: e\nshards: quickstart\ntraining: {consistency_weight: 2}\n")
    with pytest.raises(ConfigError, match="training.consistency_weight needs objective: co_separation; got"):
        load_experiment(path)
