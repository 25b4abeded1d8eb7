"""A trial alone, and in Tune where Ray is slow: nothing is lost, nothing waits without end."""

import functools
import math
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from ray import tune
from test_search import SMALL, experiment

from vimss.errors import TrainingError
from vimss.model.separator import read_card
from vimss.runtime import LOG, Place
from vimss.search.events import TrialReported
from vimss.search.run import search
from vimss.search.trial import REPORTED, TrialPlan, for_tune, run_trial, trial_resources
from vimss.storage import TEMPORARY, Store
from vimss.train.checkpoint import reported_value
from vimss.train.config import ValidationConfig
from vimss.train.distribute import Job, checkpoint_name, fit
from vimss.train.objectives import figure_of

LATE_SECONDS = 4.0
"""As on a loaded machine; the trial's function returns before the first report was read."""


def job(manifest, storage, **training) -> Job:
    once = experiment(tune={}, controls={}, training={**SMALL["training"], "batch_size": 2, **training})
    return Job(storage, once.settings(), once.validation, manifest.folder, (), Place(name="test"))


WHOLE = {"valid_loss": -1.0, "audio_seconds": 4.0, "steps": 8.0}


def test_every_figure_of_a_report_travels_apart_from_those_of_tune():
    figures = {**WHOLE, "grad_norm": math.inf, "pid": 3, "done": 1.0, "weights/mean": 0.5}
    assert for_tune(figures, figure_of()) == {**WHOLE, REPORTED: figures}


@pytest.mark.parametrize("name", ["valid_loss", "audio_seconds", "steps"])
@pytest.mark.parametrize("value", [None, math.nan, -math.inf])
def test_a_report_without_what_a_search_needs_is_an_error_of_the_trial(name, value):
    report = {key: figure for key, figure in WHOLE.items() if key != name} | ({} if value is None else {name: value})
    got = f"no {name} among " if value is None else f"{name}: {value}"
    with pytest.raises(TrainingError, match=f"every report must hold a finite {name}; got {got}.*checkpoint is kept"):
        for_tune(report, figure_of())


@pytest.mark.parametrize("value", ["0.5", None, True, np.float32(1), [1.0]])
def test_a_figure_that_is_no_number_is_an_error_of_the_trial(value):
    with pytest.raises(TrainingError, match="every figure of a report must be a number; got mood: .*report float"):
        for_tune({**WHOLE, "mood": value}, figure_of())


@pytest.mark.parametrize("name", ["", "50%", "a\nb", "x" * 201])
def test_a_figure_whose_name_could_not_be_tracked_is_an_error_of_the_trial(name):
    with pytest.raises(TrainingError, match="a figure of a report must have a name of at most 200 letters.*rename it"):
        for_tune({**WHOLE, name: 1.0}, figure_of())


@pytest.mark.parametrize("label", ["Flöte", "ピアノ", "R&B", "guitar (clean)", "vn/va", "Fl\N{COMBINING DIAERESIS}te"])
def test_the_figure_of_any_label_has_a_name_that_can_be_tracked(label):
    name = figure_of().part_name(label)
    assert for_tune({**WHOLE, name: 1.0}, figure_of())[REPORTED][name] == 1.0 and name.count("/") == 1


def steps_of(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def test_the_newest_checkpoint_and_the_best_before_it_are_kept_and_the_same_job_goes_on_from_the_newest(
    small_manifest, tmp_path
):
    reports: list[dict[str, float]] = []

    def interrupt(metrics):
        reports.append(metrics)
        if len(reports) == 3:
            raise KeyboardInterrupt

    # Such a learning rate makes it worse and worse: the first checkpoint stays the best.
    hopeless = job(small_manifest, tmp_path, audio_seconds=8, report_seconds=2, learning_rate=0.03)
    with pytest.raises(KeyboardInterrupt):
        fit(hopeless, interrupt)
    kept = {min(reports[:-1], key=lambda report: report["valid_loss"])["steps"], reports[-1]["steps"]}
    assert steps_of(tmp_path / "train") == sorted(checkpoint_name(steps) for steps in kept)
    # What a process that was killed while it wrote has left.
    (tmp_path / "train" / f"{TEMPORARY}step_99999999").mkdir()
    fit(hopeless, reports.append)
    assert reports[3] == reports[2]  # once more, in case nobody noted it
    assert [report["steps"] for report in reports[3:]] == sorted({report["steps"] for report in reports[2:]})
    assert len(steps_of(tmp_path / "train")) <= 2


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_a_damaged_newest_checkpoint_is_deleted_and_training_goes_on_from_the_one_before(
    small_manifest, tmp_path, file
):
    reports: list[dict[str, float]] = []
    better = job(small_manifest, tmp_path, audio_seconds=2, report_seconds=1)
    fit(better, reports.append)
    newest = tmp_path / "train" / checkpoint_name(reports[-1]["steps"])
    before = next(path for path in (tmp_path / "train").iterdir() if path != newest)
    (newest / file).write_bytes(b"damaged")
    again: list[dict[str, float]] = []
    fit(better, again.append)
    assert checkpoint_name(again[0]["steps"]) == before.name and again[-1] == reports[-1] | {
        name: again[-1][name] for name in ("audio_seconds_per_second", "loader_wait", "peak_memory_gib")
    }
    assert newest.name in steps_of(tmp_path / "train")


def test_a_checkpoint_of_another_validation_set_is_no_better_than_one_of_this_set(small_manifest, tmp_path):
    """What was kept as the best on the set of before goes: its loss says nothing beside those of now."""

    def stop_after(count):
        def report(metrics):
            reports.append(metrics)
            if len(reports) == count:
                raise KeyboardInterrupt

        return report

    reports: list[dict[str, float]] = []
    hopeless = job(small_manifest, tmp_path, audio_seconds=20, report_seconds=2, learning_rate=0.03)
    with pytest.raises(KeyboardInterrupt):
        fit(hopeless, stop_after(3))
    kept = set(steps_of(tmp_path / "train"))
    assert len(kept) == 2
    (best,) = kept - {checkpoint_name(reports[2]["steps"])}
    larger = replace(hopeless, validation=ValidationConfig(mixtures=12, seconds=0.25))
    with pytest.raises(KeyboardInterrupt):
        fit(larger, stop_after(5))
    assert reports[3]["steps"] == reports[2]["steps"] and reports[3]["valid_loss"] != reports[2]["valid_loss"]
    assert steps_of(tmp_path / "train") == [checkpoint_name(report["steps"]) for report in reports[3:]] != [best]
    for report in reports[3:]:
        # Weights, state and record say the same of it.
        folder = tmp_path / "train" / checkpoint_name(report["steps"])
        assert (
            reported_value(folder, figure_of())[1]
            == read_card(folder / "model")["card"]["valid_loss"]
            == report["valid_loss"]
        )


def test_one_job_after_the_other_in_one_process_trains_as_each_alone(small_manifest, tmp_path):
    reports: dict[str, list[float]] = {"first": [], "second": [], "second alone": []}
    for name, seconds in (("first", 1), ("second", 2), ("second alone", 2)):
        made = job(small_manifest, tmp_path / name, audio_seconds=seconds, report_seconds=1)
        fit(made, lambda metrics, name=name: reports[name].append(metrics["train_loss"]))
    assert reports["second"] == reports["second alone"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.faults)])
def test_a_trial_whose_reports_are_read_late_ends_with_all_of_them(shared_ray, small_manifest, tmp_path, workers):
    def on_a_slow_machine(config, plan):
        """The trial, in a process where each look into a queue of Ray or of Tune begins late."""
        import ray.util.queue
        from ray.train._internal import session

        def late(function):
            @functools.wraps(function)
            def wait(*arguments, **options):
                time.sleep(LATE_SECONDS)
                return function(*arguments, **options)

            return wait

        ray.util.queue.Queue.get = late(ray.util.queue.Queue.get)
        session._TrainSession.get_next = late(session._TrainSession.get_next)
        run_trial(config, plan)

    once = experiment(tune={}, controls={}, training={**SMALL["training"], "audio_seconds": 4, "batch_size": 2})
    place = Place(name="test", workers_per_trial=workers)
    plan = TrialPlan(once, {cell.name: cell for cell in once.cells()}, small_manifest.folder, (), place, tmp_path)
    trainable = tune.with_resources(functools.partial(on_a_slow_machine, plan=plan), trial_resources(place))
    config = tune.RunConfig(name="late", storage_path=str(tmp_path / "tune"), verbose=0)
    (result,) = tune.Tuner(trainable, run_config=config).fit()
    assert result.error is None and result.metrics["audio_seconds"] >= 4


@pytest.mark.slow
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.gpu), pytest.param(2, marks=pytest.mark.gpu(2))])
def test_a_search_on_a_place_with_gpus_trains_on_them(shared_ray, small_manifest, tmp_path, workers):
    short = {**SMALL["training"], "audio_seconds": 4, "batch_size": 2}
    once, store = experiment(tune={}, controls={}, training=short), Store(tmp_path).make()
    place = Place(name="test", workers_per_trial=workers, gpus_per_worker=1)
    (record,) = search(once, small_manifest, place, store).records
    assert record.state == "finished" and math.isfinite(record.reports[-1]["valid_loss"])


@pytest.mark.gpu
@pytest.mark.slow
def test_two_trials_train_on_one_gpu_each_within_its_share_of_the_memory(shared_ray, small_manifest, tmp_path):
    short = {**SMALL["training"], "audio_seconds": 8, "batch_size": 2}
    rates = {"training.learning_rate": {"choices": [1e-3, 2e-3]}}
    chosen = {"trials": 2, "sampler": "grid", "scheduler": "none"}
    both = experiment(tune=rates, search=chosen, controls={}, training=short)
    place = Place(name="test", gpus_per_worker=0.5)
    records = search(both, small_manifest, place, Store(tmp_path).make()).records
    assert [record.state for record in records] == ["finished"] * 2
    for record in records:
        assert math.isfinite(record.reports[-1]["valid_loss"])
        assert re.search(r"has 0\.5 of a GPU: at most \d", (record.folder / LOG).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_two_trials_with_half_a_gpu_each_run_at_once_and_see_the_same_one(tmp_path):
    # Ray counts a GPU that is not there; each trial waits for the other one.
    code = """
import os, pathlib, sys, time
import ray
from ray import tune
from vimss.runtime import LOG, Place
from vimss.search.trial import trial_resources
folder = pathlib.Path(sys.argv[1])
def trial(config):
    (folder / config["name"]).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.1)
ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
halves = tune.with_resources(trial, trial_resources(Place(name="here", gpus_per_worker=0.5)))
run = tune.RunConfig(storage_path=str(folder.parent / "tune"), verbose=0)
tune.Tuner(halves, param_space={"name": tune.grid_search(["one", "other"])}, run_config=run).fit()
"""
    folder = tmp_path / "seen"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, check=True, timeout=100)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"one": "0", "other": "0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "process", "meets", "message"),
    [
        pytest.param(
            *(1, "ImplicitFunc", psutil.Process.suspend, r"no progress for \d+ s, at most \d+ allowed .* resumes it"),
            marks=pytest.mark.faults, id="stands still",
        ),
        pytest.param(
            *(1, "ImplicitFunc", psutil.Process.kill, r"its process died .* the same command resumes it"),
            marks=pytest.mark.faults, id="is killed",
        ),
        pytest.param(
            *(2, "RayTrainWorker", psutil.Process.kill, r"its process died .* the same command resumes it"),
            marks=pytest.mark.faults, id="loses a worker",
        ),
        pytest.param(
            *(1, "ImplicitFunc", psutil.Process.terminate, r"training must not be interrupted; got SIG.*resumes it"),
            marks=pytest.mark.rare, id="is told to end",
        ),
    ],
)  # fmt: skip
def test_a_trial_that_is_lost_is_named_and_resumed_by_the_same_search(
    shared_ray, small_manifest, tmp_path, workers, process, meets, message
):
    """Its process is stopped, so that nothing of it answers any more, or killed, after the first report."""
    longer = {**SMALL["training"], "audio_seconds": 60, "report_seconds": 4, "batch_size": 2}
    once, store = experiment(tune={}, controls={}, training=longer), Store(tmp_path).make()
    lost: list[psutil.Process] = []

    def lose(event):
        if isinstance(event, TrialReported) and not lost:
            below = psutil.Process().children(recursive=True)
            lost.extend([one for one in below if process in " ".join(one.cmdline())][:1])
            for one in lost:
                meets(one)

    # Longer than the process takes to its first step, where the machine is slow.
    place = Place(name="test", workers_per_trial=workers, silent_seconds=30, max_retries=0)
    (first,) = search(once, small_manifest, place, store, [lose]).records
    assert lost and first.state == "interrupted" and re.fullmatch(message, first.message)
    (resumed,) = search(once, small_manifest, place, store).records
    assert resumed.state == "finished" and resumed.reports[0] == first.reports[0]
    assert not any(one.is_running() for one in lost)
