import itertools
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray
import torch
from ray._private.dict import flatten_dict
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from vimss.config import parse_config
from vimss.errors import DataError, PlaceError, StorageError, TrainingError
from vimss.experiment import Experiment
from vimss.model.separator import load_separator
from vimss.runtime import TRIAL_SLOT, Place
from vimss.search.events import (
    CellEnded,
    CellStarted,
    Event,
    TrialEnded,
    TrialReplayed,
    TrialReported,
    TrialStarted,
)
from vimss.search.failures import error_message, was_lost
from vimss.search.launch import RecordScheduler
from vimss.search.observer import Observer
from vimss.search.room import concurrent_trials, waits_for
from vimss.search.run import search
from vimss.search.study import Study, TrialRecord, read_study
from vimss.search.trial import TrialPlan, for_tune, trial_resources
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.train.objectives import figure_of

SMALL = {
    "question": "Does it run?",
    "expected": "yes",
    "shards": "small",
    "model": {
        "levels": 3, "filters": 4, "max_filters": 8, "down_kernel": 5, "outputs": "queries", "site": "decoder",
        "output_activation": "linear", "initial_output": "mixture",
    },
    "mixing": {"windows_per_clip": 2},
    "training": {"output_samples": 2005, "audio_seconds": 12, "report_seconds": 4, "learning_rate": 1e-3},
    "tune": {
        "training.batch_size": {"choices": [2, 4]},
        "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    },
    "search": {
        "trials": 2,
        "scheduler": "asha",
        "grace_seconds": 4,
        "first_trials": [{"training.batch_size": 4, "training.learning_rate": 3e-3}],
    },
    "validation": {"mixtures": 6, "seconds": 0.25},
    "controls": {"plain": {"model.outputs": "instruments", "model.site": "none"}, "again": {"model.site": "decoder"}},
}  # fmt: skip


def experiment(**changes) -> Experiment:
    return parse_config({**SMALL, "name": "small", **changes}, Experiment, "test")


def record(folder: Path, cell: str, trial: str, loss: float, state: str = "finished") -> None:
    path = folder / cell / trial
    (path / "model").mkdir(parents=True)
    kept = TrialRecord(
        cell=cell,
        trial=trial,
        state=state,
        chosen={},
        settings=experiment().settings(),
        reports=({"audio_seconds": 1.0, "valid_loss": loss},),
        begun=0.0,
        message="broken" if state == "failed" else "",
    )
    (path / "trial.json").write_text(kept.model_dump_json(), encoding="utf-8")


def test_the_best_trial_is_the_finished_one_with_the_lowest_loss(tmp_path):
    for trial, loss, state in (("a", -1.0, "finished"), ("b", -2.0, "finished"), ("c", -9.0, "pruned")):
        record(tmp_path, "search", trial, loss, state)
    assert read_study(tmp_path).best(["search"]).trial == "b"


def test_without_a_finished_trial_the_best_pruned_one_counts(tmp_path):
    record(tmp_path, "search", "a", -1.0, "pruned")
    assert read_study(tmp_path).best(["search"]).trial == "a"


def test_a_study_without_weights_tells_what_went_wrong(tmp_path):
    record(tmp_path, "search", "a", -1.0, "failed")
    shutil.rmtree(tmp_path / "search" / "a" / "model")
    with pytest.raises(TrainingError, match="must hold a trial with weights in search; got broken"):
        read_study(tmp_path).best(["search"])


class Started(NamedTuple):
    """What Tune tells its callbacks of a trial."""

    trial_id: str
    config: dict[str, Any]


def observed(folder: Path, *reports: dict[str, float]) -> tuple[TrialRecord, list[TrialReported]]:
    """The record and the events of a trial with these reports."""
    alone = experiment(tune={}, controls={})
    plan = TrialPlan(alone, {cell.name: cell for cell in alone.cells()}, folder, (), Place(name="test"), folder)
    events: list[Event] = []
    observer, trial = Observer(plan, (events.append,), "a set", itertools.count(1)), Started("t1", {})
    scheduler = RecordScheduler(observer.take_report)
    observer.on_trial_start(0, [], trial)
    for figures in reports:
        # As Tune gives it: with figures of its own.
        result = {
            **for_tune(figures, figure_of()),
            "pid": 1,
            "time_total_s": 2.0,
            "config": {},
            "trial_id": "t1",
            "done": False,
        }
        scheduler.on_trial_result(None, trial, flatten_dict(result))
    (record,) = read_study(folder).records
    return record, [event for event in events if isinstance(event, TrialReported)]


def test_every_figure_that_training_reports_is_recorded_and_told_by_its_name(tmp_path):
    figures = {"valid_loss": -1.0, "audio_seconds": 4.0, "steps": 8.0, "grad_norm": 0.5, "pid": 7.0, "a/b c": 1.0}
    record, events = observed(tmp_path, figures)
    assert record.reports == (figures,) == tuple(event.metrics for event in events)


def test_a_figure_that_is_not_finite_is_kept_as_it_is_and_told_once(tmp_path, caplog):
    odd = {"raw": math.nan, "norm": math.inf, "level": -math.inf}
    first, second = ({"valid_loss": -1.0, "audio_seconds": 4.0 * n, "steps": 8.0 * n, **odd} for n in (1, 2))
    record, _ = observed(tmp_path, first, second)
    assert [str(report[name]) for report in record.reports for name in odd] == ["nan", "inf", "-inf"] * 2
    said = [message for message in caplog.messages if "kept as it is" in message]
    assert said == [
        f"{name} is {odd[name]} in trial {record.trial} at 4 audio seconds, and kept as it is" for name in odd
    ]


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ('{"cell": ', r"got Expecting value"),
        ("[]", r"got 'list' object is not a mapping"),
        ('{"cell": "search"}', r"got trial\.json: 'trial' must be set"),
        ("null_loss", r"got trial\.json: reports.*valid_loss: must be a number"),
    ],
)
def test_a_record_that_cannot_be_read_is_named_with_what_to_do(tmp_path, content, got):
    record(tmp_path, "search", "a", -1.0)
    path = tmp_path / "search" / "a" / "trial.json"
    path.write_text(path.read_text().replace("-1.0", "null") if content == "null_loss" else content)
    with pytest.raises(DataError, match=rf"a/trial\.json must be the record of a trial; {got}.*fix: delete .*search/a"):
        read_study(tmp_path)


def test_a_trial_that_does_not_fit_the_cluster_is_refused():
    place = Place(name="x", workers_per_trial=4, gpus_per_worker=1)
    with pytest.raises(PlaceError) as error:
        concurrent_trials(place, [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}])
    assert str(error.value) == (
        "the nodes must hold one trial of 4 workers, each with 1 CPU, 1 GPU: 4 CPU, 4 GPU in all; got room for 2 "
        "workers: 8 CPU, 2 GPU; 8 CPU, 0 GPU. To fix: set workers_per_trial: 2 in the place's runtime.yaml, or lower "
        "what each worker takes"
    )


@pytest.mark.parametrize(
    ("place", "nodes", "fix"),
    [
        ({"cpus_per_worker": 6}, [{"CPU": 4.0}] * 2, "lower cpus_per_worker to 4 in the place's runtime.yaml"),
        ({"gpus_per_worker": 1}, [{"CPU": 4.0}], "lower gpus_per_worker to 0 in the place's runtime.yaml"),
        (
            {"cpus_per_worker": 6, "gpus_per_worker": 1},
            [{"CPU": 4.0, "GPU": 0.5}],
            "lower cpus_per_worker to 4 and gpus_per_worker to 0.5 in the place's runtime.yaml",
        ),
        (
            {"cpus_per_worker": 2, "gpus_per_worker": 1},
            [{"CPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}],
            "lower cpus_per_worker or gpus_per_worker until one node has both in the place's runtime.yaml",
        ),
        (
            {},
            [],
            "add a node with CPUs to the cluster, or name in autoscaled_nodes of runtime.yaml what its autoscaler adds",
        ),
        (
            {"cpus_per_worker": 6, "ray_address": "auto"},
            [{"CPU": 4.0}],
            "lower cpus_per_worker to 4 in the place's runtime.yaml, or name what its autoscaler adds in "
            "autoscaled_nodes there",
        ),
    ],
)
def test_the_error_says_what_would_fit(place, nodes, fix):
    with pytest.raises(PlaceError, match=r"got room for 0 workers: ") as error:
        concurrent_trials(Place(name="x", **place), nodes)
    assert error.value.fix == fix


def test_concurrency_is_what_fits_and_at_most_what_the_place_says():
    assert concurrent_trials(Place(name="x", workers_per_trial=2), [{"CPU": 5.0}]) == 2
    assert concurrent_trials(Place(name="x", max_concurrent_trials=1), [{"CPU": 5.0}]) == 1
    assert concurrent_trials(Place(name="x", workers_per_trial=2, cpus_per_worker=3), [{"CPU": 4.0}] * 2) == 1


@pytest.mark.parametrize(("share", "trials"), [(1, 1), (0.5, 2), (0.3, 3), (0.2, 5), (0.1, 10)])
def test_as_many_trials_share_a_gpu_as_ray_starts_there(share, trials):
    place = Place(name="x", gpus_per_worker=share)
    assert concurrent_trials(place, [{"CPU": 16.0, "GPU": 1.0}]) == trials
    assert concurrent_trials(place, [{"CPU": 16.0, "GPU": 1.0}, {"CPU": 16.0}]) == trials


def test_a_worker_must_fit_on_one_node():
    with pytest.raises(PlaceError, match=r"each with 6 CPU; got room for 0 workers: 2 x 4 CPU\."):
        concurrent_trials(Place(name="x", cpus_per_worker=6), [{"CPU": 4.0}, {"CPU": 4.0}])


GROWS = {"ray_address": "auto", "autoscaled_nodes": [{"cpus": 4, "most": 2}, {"cpus": 8, "gpus": 1, "most": 3}]}
HEAD = {"CPU": 0.0, "trial_slot": 1000.0}


@pytest.mark.parametrize(
    ("place", "nodes", "trials"),
    [
        ({}, [HEAD], 2 * 4 + 3 * 8),
        ({"gpus_per_worker": 1}, [HEAD], 3),
        ({"gpus_per_worker": 1, "workers_per_trial": 2}, [HEAD], 1),
        ({"cpus_per_worker": 3}, [HEAD], 2 * 1 + 3 * 2),
        ({}, [HEAD, {"CPU": 4.0}, {"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}], 2 * 4 + 3 * 8),
        ({}, [HEAD, {"CPU": 5.0}], 5 + 2 * 4 + 3 * 8),
        ({"max_concurrent_trials": 7}, [HEAD], 7),
    ],
    ids=["at zero", "GPUs", "several workers", "packed per node", "partly grown", "other nodes", "bounded"],
)
def test_nodes_that_an_autoscaler_can_add_count_once(place, nodes, trials):
    assert concurrent_trials(Place(name="x", **GROWS, **place), nodes) == trials


def test_what_no_node_of_an_autoscaler_holds_is_refused_with_the_arithmetic():
    with pytest.raises(PlaceError) as error:
        concurrent_trials(Place(name="x", **GROWS, cpus_per_worker=16, workers_per_trial=2), [HEAD])
    assert str(error.value) == (
        "the nodes must hold one trial of 2 workers, each with 16 CPU: 32 CPU in all; got room for 0 workers: 0 CPU; "
        "2 x 4 CPU; 3 x 8 CPU. To fix: lower cpus_per_worker to 8 in the place's runtime.yaml, or name what its "
        "autoscaler adds in autoscaled_nodes there"
    )


def test_a_trial_in_the_queue_says_what_it_waits_for():
    place = Place(name="x", **GROWS, workers_per_trial=2)
    assert waits_for(place, [HEAD, {"CPU": 4.0}], {"CPU": 1.0}) == (
        "2 workers, each with 1 CPU on one node; free: 1 CPU of 2 nodes with 0 CPU; 4 CPU; the autoscaler can add "
        "4 CPU; 3 x 8 CPU"
    )


def test_a_trial_of_one_worker_trains_on_any_node_and_one_of_several_waits_beside_the_search():
    assert trial_resources(Place(name="x", cpus_per_worker=2, gpus_per_worker=1)) == {"CPU": 2.0, "GPU": 1.0}
    assert trial_resources(Place(name="x", workers_per_trial=2)) == {TRIAL_SLOT: 1.0}


# Another validation set


@pytest.mark.slow
def test_an_error_of_ours_ends_the_search_as_it_is_and_leaves_the_trial_to_be_resumed(
    shared_ray, small_manifest, tmp_path
):
    """A disk that is full when a report is kept; Tune would wrap it in its own traceback, or blame the trial."""
    once = experiment(tune={}, controls={}, training={**SMALL["training"], "batch_size": 2})
    full = StorageError("the record must fit on the disk", got="0 MB free", fix="free some space")

    def fail(event):
        if isinstance(event, TrialReported):
            raise full

    place, store = Place(name="test"), Store(tmp_path)
    with pytest.raises(StorageError, match="the record must fit on the disk; got 0 MB free"):
        search(once, small_manifest, place, store, [fail])
    (left,) = read_study(next(store.studies.iterdir())).records
    assert left.state == "interrupted" and "the same command resumes it" in left.message
    (resumed,) = search(once, small_manifest, place, store).records
    assert resumed.state == "finished"


def worker_group_error(*failures: Exception) -> WorkerGroupError:
    """What Ray Train raises where workers end, each with the error of its health check."""
    wrapped = [WorkerHealthCheckFailedError("it failed", failure) for failure in failures]
    return WorkerGroupError("some workers failed", dict(enumerate(wrapped)))


def test_a_worker_that_is_gone_is_a_loss_unless_ours_say_why():
    gone, ours = ray.exceptions.ActorDiedError(), TrainingError("loss must be finite", got="nan", fix="lower it")
    assert was_lost(gone) and was_lost(worker_group_error(RuntimeError("gloo"), gone))
    assert was_lost(ray.exceptions.OutOfMemoryError("killed by Ray"))
    assert not was_lost(worker_group_error(gone, ours)) and not was_lost(ValueError("x")) and not was_lost(None)
    task_error = ray.exceptions.RayTaskError("train", "a traceback", ours).as_instanceof_cause()
    for error in (ours, task_error, worker_group_error(gone, ours), worker_group_error(task_error)):
        assert error_message(error, None) == "loss must be finite; got nan. To fix: lower it"


@pytest.fixture(scope="module")
def searched(shared_ray, small_manifest, tmp_path_factory):
    """A search whose trials have two gloo workers each, on a real Ray of several processes."""
    store = Store(tmp_path_factory.mktemp("searched"))
    place = Place(name="test", workers_per_trial=2)
    events: list = []
    study = search(experiment(), small_manifest, place, store, [events.append])
    return store, study, events


@pytest.mark.slow
def test_a_search_with_two_workers_per_trial_runs_to_the_end(searched):
    _, study, _ = searched
    trials = study.of_cell("search")
    assert len(trials) == 2
    assert all(trial.state in {"finished", "pruned"} for trial in trials)
    assert study.best(["search"]).state == "finished"
    first = experiment().search.first_trials[0]
    assert first in [trial.chosen for trial in trials]


@pytest.mark.slow
def test_the_best_weights_of_a_trial_load(searched):
    _, study, _ = searched
    assert load_separator(study.best(["search"]).folder / "model").labels


@pytest.mark.slow
def test_a_control_inherits_from_the_best_trial_and_sees_the_whole_budget(searched):
    _, study, _ = searched
    best, (control,) = study.best(["search"]), study.of_cell("plain")
    assert control.settings.training == best.settings.training
    assert control.settings.model.outputs == "instruments"
    assert control.reports[-1]["audio_seconds"] >= 12


@pytest.mark.slow
def test_a_cell_with_the_settings_of_a_finished_trial_takes_it_over(searched):
    _, study, _ = searched
    best, (again,) = study.best(["search"]), study.of_cell("again")
    assert (again.trial, again.begun, again.reports) == (best.trial, best.begun, best.reports)
    assert load_separator(again.folder / "model").config == load_separator(best.folder / "model").config


@pytest.mark.slow
def test_events_come_in_their_order(searched):
    _, _, events = searched
    for cell in ("search", "plain"):
        kinds = [type(event) for event in events if event.cell == cell]
        assert kinds[0] is CellStarted and kinds[-1] is CellEnded
    for cell, trial in {(event.cell, event.trial) for event in events if isinstance(event, TrialStarted)}:
        kinds = [type(event) for event in events if (event.cell, getattr(event, "trial", "")) == (cell, trial)]
        assert kinds[0] is TrialStarted and kinds[-1] is TrialEnded and TrialReported in kinds


@pytest.mark.slow
def test_the_same_command_again_runs_nothing_and_tells_everything(shared_ray, searched, small_manifest):
    store, study, events = searched
    again: list = []
    place = Place(name="test", workers_per_trial=2)
    repeated = search(experiment(), small_manifest, place, store, [again.append])
    assert repeated == study
    of_cells = [event for event in again if not isinstance(event, TrialReplayed)]
    assert of_cells == [event for event in events if isinstance(event, CellStarted | CellEnded)]
    told = {event.trial: event for event in again if isinstance(event, TrialReplayed)}
    assert {trial: (one.state, one.reports) for trial, one in told.items()} == {
        record.trial: (record.state, record.reports) for record in study.records
    }


@pytest.mark.slow
def test_a_trial_mixes_corpora_and_a_thread_makes_its_batches(
    shared_ray, small_recipe, small_store, small_manifest, tmp_path
):
    other = write_shards(small_recipe.model_copy(update={"seed": 5}), "other", small_store)
    blended = small_manifest.mixed_with([(other, 0.5)])
    place = Place(name="test", cpus_per_worker=2, loader_workers=1)
    chosen = experiment(tune={}, controls={}, search={"trials": 1, "grace_seconds": 4})
    study = search(chosen, blended, place, Store(tmp_path))
    alone = search(chosen, small_manifest, place, Store(tmp_path))
    (record,) = study.records
    assert record.state == "finished" and study.folder != alone.folder
    # Another half of the mixtures, another loss; the same validation set.
    assert record.reports[0]["train_loss"] != alone.records[0].reports[0]["train_loss"]
    assert record.reports[-1]["lost_clips"] == 0
    # The same batches, whoever made them.
    inline = search(chosen, small_manifest, Place(name="test"), Store(tmp_path / "inline"))
    assert inline.records[0].reports[0]["train_loss"] == pytest.approx(alone.records[0].reports[0]["train_loss"], 1e-6)


@pytest.mark.slow
def test_a_trial_whose_loss_is_not_finite_fails_with_its_position_and_the_search_goes_on(
    shared_ray, small_manifest, tmp_path
):
    wild = {"training.batch_size": 4, "training.learning_rate": 1.0}
    chosen = experiment(
        training={**SMALL["training"], "gradient_clip": 0, "loss": "mse", "audio_seconds": 100, "report_seconds": 4},
        tune={
            "training.batch_size": {"choices": [4]},
            "training.learning_rate": {"low": 1e-5, "high": 1.0, "log": True},
        },
        search={
            "trials": 2,
            "scheduler": "asha",
            "grace_seconds": 100,
            "first_trials": [wild, {**wild, "training.learning_rate": 1e-4}],
        },
        controls={},
    )
    place = Place(name="test")
    study = search(chosen, small_manifest, place, Store(tmp_path))
    by_rate = {trial.chosen["training.learning_rate"]: trial for trial in study.records}
    assert by_rate[1e-4].state == "finished"
    assert by_rate[1.0].state == "failed"
    assert "loss and gradient must be finite; got loss" in by_rate[1.0].message
    assert "audio seconds, batch" in by_rate[1.0].message
    assert math.isfinite(study.best(["search"]).value)
    assert_model_is_of_the_best_report(by_rate[1.0])


def assert_model_is_of_the_best_report(trial: TrialRecord) -> None:
    separator = load_separator(trial.folder / "model")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in separator.state_dict().values())
    card = json.loads((trial.folder / "model" / "model.json").read_text(encoding="utf-8"))
    assert card["card"]["valid_loss"] == trial.value


@pytest.mark.slow
def test_draws_that_go_together_in_no_network_fail_with_the_reason_and_equal_draws_leave_a_trial_alone(
    shared_ray, small_manifest, tmp_path
):
    """Three choices of which one is impossible: all three are drawn, and then there is nothing more to draw."""
    chosen = experiment(
        tune={"model.site": {"choices": ["none", "decoder", "bottleneck"]}}, search={"trials": 3}, controls={}
    )
    events: list = []
    study = search(chosen, small_manifest, Place(name="test"), Store(tmp_path), [events.append])
    by_site = {trial.chosen["model.site"]: trial for trial in study.records}
    assert len(study.records) == 3
    assert by_site["none"].state == "failed"
    assert "queries needs a site" in by_site["none"].message
    for site in ("decoder", "bottleneck"):
        assert by_site[site].state in {"finished", "pruned"}
        assert math.isfinite(by_site[site].value)
    assert sum(isinstance(event, TrialEnded) for event in events) == 3


@pytest.mark.rare  # tests/faults has one that always runs
def test_a_search_that_was_killed_goes_on_where_it_was(small_manifest, tmp_path):
    """Killed after the first report; the same command keeps the settings and ends with as many trials as asked for."""
    longer = {**SMALL["training"], "audio_seconds": 200, "report_seconds": 4}
    chosen = experiment(training=longer, controls={}, search={**SMALL["search"], "trials": 1})
    script = f"""
import json, os, signal
from pathlib import Path
from vimss.config import parse_config
from vimss.experiment import Experiment
from vimss.search.events import TrialReported
from vimss.runtime import TRIAL_SLOT, Place, ray_running
from vimss.search.room import concurrent_trials
from vimss.search.run import search
from vimss.shards.manifest import open_manifest
from vimss.storage import Store

def kill(event):
    if isinstance(event, TrialReported) and event.audio_seconds > 7:
        os.kill(os.getpid(), signal.SIGKILL)

place = Place(name="test")
content = json.loads({json.dumps(chosen.model_dump(mode="json"))!r})
experiment = parse_config({{**content, "name": "small"}}, Experiment, "test")
manifest = open_manifest(Path({str(small_manifest.folder)!r}))
with ray_running(place, num_cpus=2):
    search(experiment, manifest, place, Store(Path({str(tmp_path)!r})), [kill])
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, capture_output=True).returncode == -9
    (before,) = read_study(next(Store(tmp_path).studies.iterdir())).records
    assert before.state == "running"
    events: list = []
    place = Place(name="test")
    study = search(chosen, small_manifest, place, Store(tmp_path), [events.append])
    (after,) = study.records
    assert (after.trial, after.state) == (before.trial, "finished")
    first = next(event for event in events if isinstance(event, TrialReported))
    assert first.audio_seconds > before.reports[0]["audio_seconds"]
    assert (after.begun, after.reports[: len(before.reports)]) == (before.begun, before.reports)
    assert [report["steps"] for report in after.reports] == sorted({report["steps"] for report in after.reports})
    assert_model_is_of_the_best_report(after)


@pytest.mark.slow
def test_a_search_that_grows_trains_only_what_is_missing_and_deletes_nothing(shared_ray, small_manifest, tmp_path):
    """One more trial, another control and a wider axis; then everything as before, and nothing is trained again."""
    place, store = Place(name="test"), Store(tmp_path)
    plain = {"plain": {"model.outputs": "instruments", "model.site": "none"}}
    small = experiment(controls=plain, search={**SMALL["search"], "trials": 1})
    axis = {**SMALL["tune"], "training.batch_size": {"choices": [8, 4]}}
    grown = experiment(
        controls={**plain, "flat": {"model.op": "add"}},
        tune=axis,
        search={"trials": 2, "scheduler": "asha", "grace_seconds": 8, "first_trials": [{"training.batch_size": 8}]},
    )
    before = search(small, small_manifest, place, store)
    files = {path: path.stat().st_mtime_ns for path in before.folder.glob("*/*/model/*")}
    after = search(grown, small_manifest, place, store)
    events: list = []
    again = search(small, small_manifest, place, store, [events.append])
    assert after.folder == before.folder
    ((first,), trials) = before.of_cell("search"), after.of_cell("search")
    assert len(trials) == 2 and trials[0] == first and trials[1].chosen["training.batch_size"] == 8
    assert [len(after.of_cell(cell)) for cell in ("plain", "flat")] == [1, 1]
    best = after.best(["search"])
    assert after.of_cell("flat")[0].settings.training == best.settings.training
    # Of the smaller search, the trial is the same, and its control as well, whatever came between.
    assert again == before and [event.trial for event in events if isinstance(event, TrialReplayed)] == [
        record.trial for record in (*before.of_cell("search"), *before.of_cell("plain"))
    ]
    assert not any(isinstance(event, TrialStarted) for event in events)
    assert files == {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.rare
def test_seeds_are_compared_and_each_trains_other_weights(shared_ray, small_manifest, tmp_path):
    seeds = experiment(tune={}, controls={}, compare={"seed": [0, 1]}, search={"trials": 1})
    study = search(seeds, small_manifest, Place(name="test"), Store(tmp_path))
    zero, one = (study.of_cell(f"seed={seed}")[0] for seed in (0, 1))
    assert (zero.settings.seed, one.settings.seed) == (0, 1) and zero.value != one.value


def test_a_study_is_read_without_ray(tmp_path):
    record(tmp_path, "search", "a", -1.0)
    assert isinstance(read_study(tmp_path), Study)
