"""A network that does not separate is searched, evaluated, promoted and served, and others start from it."""

import json

import mlflow
import numpy as np
import pytest
import soxr
import torch
from safetensors.torch import load_file
from test_train import one_thread  # noqa: F401 - a fixture that all use

from vimss import api, named_models
from vimss.errors import ModelError
from vimss.evaluate.figures import GUESS
from vimss.experiment import Experiment
from vimss.promote import judge_best, promote_best
from vimss.session import open_session
from vimss.track import find_version, register, set_alias
from vimss.track.names import registered_versions
from vimss.train.config import Settings
from vimss.train.objectives import OBJECTIVES
from vimss.train.objectives.saved import load_network
from vimss.train.start import check_start, start

# Ray and MLflow's database are part of it.
pytestmark = pytest.mark.slow

CARD = {"labels": ["vn"], "licence": "GPL-3.0-or-later"}
EXPERIMENT = Experiment(
    name="ears",
    question="Does it run?",
    expected="yes",
    shards="small",
    objective="instruments",
    instruments={"inputs": "sound"},
    training={
        "output_samples": 4000,
        "batch_size": 4,
        "audio_seconds": 40,
        "report_seconds": 40,
        "learning_rate": 1e-3,
    },
    validation={"mixtures": 6, "seconds": 0.5},
)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A store of the test's own; its registry is SQLite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIMSS_STORE", str(tmp_path_factory.mktemp("ears") / "store"))
        return open_session("local")


@pytest.fixture(scope="module")
def flow(session, small_manifest):
    """The table of the split test, and the promotion, of a short search."""
    with session:
        study = api.run_search(session, EXPERIMENT, small_manifest)
        api.write_pictures(EXPERIMENT, small_manifest, study)
        table = api.evaluate_experiment(EXPERIMENT, small_manifest, study, "test")
        promotion = promote_best(session, EXPERIMENT, small_manifest, study)
    api.check_finished(EXPERIMENT, study)
    return study, table, promotion


def test_the_table_has_the_best_trial_and_the_constant_guess(flow):
    study, table, _ = flow
    assert [row.system for row in table] == ["search", GUESS]
    assert 0 < table[0].value <= 1 and 0 < table[1].value < 1 and len(table[0].rows) == 96
    assert json.loads((study.folder / "evaluation-test.json").read_text())[1]["system"] == GUESS


def test_a_second_evaluation_keeps_the_row(flow, small_manifest):
    study, table, _ = flow
    said = []
    assert api.evaluate_experiment(EXPERIMENT, small_manifest, study, "test", note=said.append) == table
    assert said[0].startswith("1 of 1 row is kept from the last evaluation; delete")


def test_it_is_promoted_where_it_beats_the_guess(flow, session):
    _, table, promotion = flow
    assert (promotion.name, promotion.version, promotion.cell) == ("ears", 1, "search")
    assert f"mean average precision against the row '{GUESS}' (95 % interval over pieces" in promotion.decision.sentence
    assert promotion.is_champion == promotion.decision.promoted
    tags = find_version(session.tracking, "ears", "1").tags
    assert tags["promotion"] == promotion.decision.sentence and tags["convention"] == "mean average precision"
    assert float(tags["metric.test_map"]) == pytest.approx(table[0].value, rel=1e-4)
    assert ("promoted_gain" in tags) == promotion.decision.promoted
    (version,) = registered_versions(session.tracking.database)
    assert version.scores.keys() == {"test_map"}


def test_the_next_one_must_beat_the_champion(flow, session, small_manifest):
    study, _, promotion = flow
    set_alias(session.tracking, "ears", "champion", promotion.version)
    torch.manual_seed(9)
    settings = study.best(["search"]).settings
    objective = OBJECTIVES["instruments"].make(settings, small_manifest.recipe)
    best = study.best(["search"])
    folder = best.folder.parent / "other" / "model"
    objective.save(folder, objective.build(), {})
    with session:
        run_id = api.sync_runs(session, EXPERIMENT, small_manifest).run_ids[best.cell, best.trial]
        assert register(session.tracking, "ears", folder, run_id, {}, CARD) == 2
        set_alias(session.tracking, "ears", "champion", 2)
        tried = judge_best(session, EXPERIMENT, small_manifest, study)
        again = promote_best(session, EXPERIMENT, small_manifest, study)
    set_alias(session.tracking, "ears", "champion", 1)
    assert again.version == 1 and again.decision.against == "the champion, version 2"
    assert tried == again.decision and "challenger 1 of this champion on this split" in tried.sentence


@pytest.fixture
def champion(flow, session):
    """The registered model as MLflow loads it."""
    set_alias(session.tracking, "ears", "champion", flow[2].version)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(session.tracking.address)
    yield mlflow.pyfunc.load_model("models:/ears@champion")
    mlflow.set_tracking_uri(before)


def test_the_served_model_gives_the_probability_of_each_label_at_any_rate(champion, flow):
    network = load_network(flow[0].best(["search"]).folder / "model")
    sound = np.random.default_rng(0).normal(0, 0.1, (2, 1, 8000)).astype(np.float32)
    with torch.no_grad():
        expected = torch.sigmoid(network(torch.from_numpy(sound), None, None)).numpy()
    found = champion.predict({"mixture": sound})
    assert tuple(found) == network.labels
    np.testing.assert_allclose(np.stack(list(found.values()), 1), expected, rtol=1e-4)
    faster = np.stack([soxr.resample(one.T, 8000, 16000).T for one in sound]).astype(np.float32)
    resampled = champion.predict({"mixture": faster}, params={"sample_rate": 16000})
    np.testing.assert_allclose(np.stack(list(resampled.values()), 1), expected, atol=0.05)


def test_the_served_model_has_a_signature(champion):
    inputs, outputs = champion.metadata.signature.inputs, champion.metadata.signature.outputs
    assert [(given.name, given.type) for given in inputs.inputs] == [("mixture", np.dtype(np.float32))]
    assert {given.name for given in outputs.inputs} >= {"vn", "vc"}
    with pytest.raises(mlflow.exceptions.MlflowException, match="Failed to enforce schema"):
        champion.predict({"mixture": np.zeros((1, 1, 8000), np.float64)})


def test_a_training_starts_from_the_champion(champion, flow, session, small_recipe):
    from_champion = EXPERIMENT.model_copy(
        update={"training": {**EXPERIMENT.training, "start_from": "models:/ears@champion"}}
    )
    settings = api.resolve_models(session, from_champion).settings()
    check_start(settings, small_recipe)
    torch.manual_seed(5)
    network = OBJECTIVES["instruments"].make(settings, small_recipe).build()
    start(network, settings)
    expected = load_file(flow[0].best(["search"]).folder / "model" / "weights.safetensors")
    assert all(torch.equal(weight, expected[name]) for name, weight in network.state_dict().items())


def test_the_registered_vision_network_goes_on_in_a_separator(flow, session, small_manifest, tmp_path):
    vision = {"network": "resnet18", "weights": "random", "frozen": False}
    eyes = Settings.model_validate({"objective": "instruments", "model": {"vision": vision}})
    objective = OBJECTIVES["instruments"].make(eyes, small_manifest.recipe)
    network = objective.build()
    with torch.no_grad():
        network.vision.network.conv1.weight.add_(1)
    objective.save(tmp_path / "model", network, {})
    best = flow[0].best(["search"])
    run_id = api.sync_runs(session, EXPERIMENT, small_manifest).run_ids[best.cell, best.trial]
    version = register(session.tracking, "eyes", tmp_path / "model", run_id, {}, CARD)
    set_alias(session.tracking, "eyes", "champion", version)
    looks = Experiment(
        name="looks", question="q", expected="e", shards="small",
        model={
            "context": "frames", "site": "decoder", "outputs": "queries", "levels": 2, "filters": 4, "vision": vision,
        },
        training={"start_from": "models:/eyes@champion"},
    )  # fmt: skip
    settings = api.resolve_models(session, looks).settings()
    check_start(settings, small_manifest.recipe)
    separator = OBJECTIVES["separation"].make(settings, small_manifest.recipe).build()
    start(separator, settings)
    assert torch.equal(separator.vision.network.conv1.weight, network.vision.network.conv1.weight)


def test_it_separates_no_recording(champion, session, tmp_path):
    from vimss.media import write_wav

    write_wav(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype(np.float32), 8000)
    with pytest.raises(
        ModelError,
        match="must hold a network that separates; got one of the objective 'instruments'. To fix: choose ",
    ):
        named_models.separate_file(session, tmp_path / "a.wav", "models:/ears", "vn", tmp_path / "out")
    assert not (tmp_path / "out").exists()
