"""MLflow's table of models: the figures of a model on each split, once, whatever happens in between."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from test_track import CARD, REPORTS, bring, curve, runs_by_trial, three

from vimss.errors import PlaceError
from vimss.evaluate import Evaluation
from vimss.evaluate.records import MixtureScore, Part, SourceScore
from vimss.evaluations import save_evaluations
from vimss.search.study import Study
from vimss.shards.manifest import Manifest
from vimss.track import Tracking, register

pytestmark = pytest.mark.slow

BEST = {
    "valid_loss": -2.0,
    "test_si_sdr_improvement": 3.5,
    "test_label_contrast": 1.0,
    "test_pieces_si_sdr_improvement": 5.0,
    "test_pieces_sdr": 6.0,
}


def evaluation(weights: str, gain: float = 3.5, contrast: float = 1.0) -> Evaluation:
    mixture = MixtureScore(
        mixture=0, pieces=("p", "q"), aligned=False, labels=("vn",), si_sdr_improvement=(gain,),
        label_contrast=(contrast,), absent_level=(),
    )  # fmt: skip
    piece = SourceScore(
        piece="p", label="vn", sources=2, si_sdr_improvement=5.0, sdr=6.0, sir=0.0, sar=0.0, pes=0.0, eps=0.0
    )
    return Evaluation.of(Part("a1", weights, (mixture,), (piece,)), "test")


@pytest.fixture
def study(tmp_path: Path, small_model: Path) -> Study:
    """Whose best trial has a model that was evaluated."""
    study = three(tmp_path / "quickstart-3f9c2a1b07")
    shutil.copytree(small_model, study.records[0].folder / "model", dirs_exist_ok=True)
    save_evaluations(study, "test", [evaluation("of another model", 9.0), evaluation(weights(study))])
    return study


def weights(study: Study) -> str:
    return json.loads((study.records[0].folder / "model" / "model.json").read_text())["sha256"]


def only_model(tracking: Tracking) -> LoggedModel:
    client = tracking.client()
    (found,) = client.search_logged_models([client.get_experiment_by_name("quickstart").experiment_id])
    return found


def values(model: LoggedModel) -> dict[str, list[float]]:
    """The values that each figure has had, in the order of their times."""
    found: dict[str, list[float]] = {}
    for metric in sorted(model.metrics, key=lambda metric: metric.timestamp):
        found.setdefault(metric.key, []).append(metric.value)
    return found


def test_a_model_has_the_figures_of_its_weights_on_each_split(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    assert bring(tracking, study, small_manifest).written["scores"] == len(BEST)
    model, run = only_model(tracking), runs_by_trial(tracking)["a1"]
    assert values(model) == {name: [value] for name, value in BEST.items()}
    read = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
    on = {metric.key: (metric.dataset_name, metric.dataset_digest) for metric in model.metrics}
    for name, context in {"valid_loss": "validation", "test_pieces_sdr": "evaluation"}.items():
        assert on[name] == (read[context].name, read[context].digest) and on[name][0] == small_manifest.name
    assert {metric.step for metric in model.metrics} == {60}
    client, experiment = tracking.client(), [run.info.experiment_id]
    assert client.search_logged_models(experiment, "metrics.test_si_sdr_improvement > 3")
    assert not client.search_logged_models(experiment, "metrics.test_si_sdr_improvement > 4")


def test_a_registered_version_leads_to_the_same_figures(
    tracking: Tracking, study: Study, small_manifest: Manifest, small_model: Path
) -> None:
    run_id = bring(tracking, study, small_manifest).run_ids["search", "a1"]
    version = register(tracking, "quickstart", small_model, run_id, {}, CARD)
    client = tracking.client()
    source = client.get_model_version("quickstart", str(version)).source
    found = client.get_logged_model(source.removeprefix("models:/"))
    assert json.loads(found.tags["mlflow.modelVersions"]) == [{"name": "quickstart", "version": str(version)}]
    assert register(tracking, "quickstart", small_model, run_id, {}, CARD) == version
    assert only_model(tracking).tags == found.tags
    assert values(found) == {name: [value] for name, value in BEST.items()}


def test_the_same_records_again_write_no_figure(tracking: Tracking, study: Study, small_manifest: Manifest) -> None:
    bring(tracking, study, small_manifest)
    assert not bring(tracking, study, small_manifest).written
    run = runs_by_trial(tracking)["a1"]
    assert curve(tracking, run, "valid_loss") == [(30, 1.0), (60, -2.0)]
    assert curve(tracking, run, "test_si_sdr_improvement") == [(60, 3.5)]


def test_a_later_evaluation_takes_the_place_of_the_last_one_and_so_does_another_validation_set(
    tracking: Tracking, study: Study, small_manifest: Manifest
) -> None:
    bring(tracking, study, small_manifest)
    save_evaluations(study, "test", [evaluation(weights(study), gain=4.0, contrast=math.nan)])
    first, *others = study.records
    moved = Study(study.folder, (first.moved_to("new", [{**REPORTS[1], "valid_loss": -1.5}]), *others))
    assert bring(tracking, moved, small_manifest).written["scores"] == 2
    assert not bring(tracking, moved, small_manifest).written
    model, run = only_model(tracking), runs_by_trial(tracking)["a1"]
    # What is not defined would be 0 there.
    revised = {"valid_loss": [-2.0, -1.5], "test_si_sdr_improvement": [3.5, 4.0]}
    assert values(model) == {name: [value] for name, value in BEST.items()} | revised
    assert run.data.metrics["valid_loss"] == -1.5 and run.data.metrics["test_si_sdr_improvement"] == 4.0
    assert curve(tracking, run, "valid_loss") == [(30, 1.0), (60, -2.0), (60, -1.5)]


@pytest.fixture(params=["_log_metrics", "_log_model_metrics", "log_batch"])
def deaths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The server dies after each of its steps that write metrics of models, before it can answer."""
    died: list[str] = []
    owner = MlflowClient if request.param == "log_batch" else SqlAlchemyStore
    whole = getattr(owner, request.param)

    def die(self: Any, run_id: str, metrics: Any = (), *arguments: Any, **named: Any) -> None:
        whole(self, run_id, metrics, *arguments, **named)
        if any(metric.model_id for metric in metrics):
            died.append(run_id)
            if len(died) < 4:
                raise MlflowException("connection reset")

    monkeypatch.setattr(owner, request.param, die)
    yield died
    assert died


def test_a_server_that_dies_in_between_gets_each_figure_once(
    tracking: Tracking, study: Study, small_manifest: Manifest, deaths: list[str]
) -> None:
    for _ in range(10):
        try:
            bring(tracking, study, small_manifest)
        except PlaceError:
            continue
        break
    assert deaths and not bring(tracking, study, small_manifest).written
    assert values(only_model(tracking)) == {name: [value] for name, value in BEST.items()}
    run = runs_by_trial(tracking)["a1"]
    assert curve(tracking, run, "valid_loss") == [(30, 1.0), (60, -2.0)]
    assert curve(tracking, run, "test_pieces_sdr") == [(60, 6.0)]
