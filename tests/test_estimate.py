"""What a search would take: its arithmetic, and that nothing starts and nothing is written."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import yaml
from test_search import SMALL, experiment

from vimss.errors import PlaceError
from vimss.runtime import Place, machine_resources, ray_running
from vimss.search.estimate import TRAINING_OVERHEAD, estimate_search, first_settings, progress_of
from vimss.search.remaining import Progress
from vimss.search.room import check_cluster, check_room, nodes_of
from vimss.search.run import search
from vimss.search.study import TrialRecord
from vimss.storage import Store
from vimss.stream.config import MixingConfig
from vimss.train.distribute import KEPT_CHECKPOINTS
from vimss.train.measure import measure_step

ONE = Place(name="here", max_concurrent_trials=1)
PLAIN = {"tune": {}, "controls": {}, "search": {}}
"""Changes that leave an experiment with fixed cells alone."""


def test_trials_and_audio_seconds_are_those_of_the_experiment(small_recipe):
    found = estimate_search(experiment(), small_recipe, ONE)
    assert [(cell.cell, cell.trials, cell.audio_seconds) for cell in found.cells] == [
        ("search", 2, 24.0), ("plain", 1, 12.0), ("again", 1, 12.0)
    ]  # fmt: skip
    assert (found.trials, found.audio_seconds, found.at_once) == (4, 48.0, 1)


def test_hours_are_steps_times_their_seconds_and_the_overhead(small_recipe):
    chosen = experiment(**PLAIN, training={**SMALL["training"], "batch_size": 4})
    found = estimate_search(chosen, small_recipe, ONE)
    (cell,) = found.cells
    steps = 12 * small_recipe.sample_rate / (4 * 2005)
    assert cell.core_hours == found.hours == pytest.approx(TRAINING_OVERHEAD * steps * cell.step_seconds / 3600)


def test_a_trial_keeps_its_checkpoints_and_its_weights(small_recipe, tmp_path):
    chosen = experiment(**PLAIN)
    step = measure_step(first_settings(chosen, chosen.cells()[0]), small_recipe, at_most=0.0)
    # Weights for use, raw ones, and the two moments of AdamW.
    assert 4 * step.weights_bytes < step.checkpoint_bytes < 4.2 * step.weights_bytes
    expected = (KEPT_CHECKPOINTS * step.checkpoint_bytes + step.weights_bytes) / 1e9
    assert estimate_search(chosen, small_recipe, ONE).gigabytes == pytest.approx(expected)


def test_what_was_trained_before_is_not_counted_again(small_recipe):
    chosen = experiment(controls={})
    reports = ({"audio_seconds": 8.0, "valid_loss": 0.0},)
    begun = [
        TrialRecord(cell="search", trial=state, state=state, chosen={}, settings=None, reports=reports, begun=0.0)
        for state in ("interrupted", "finished")
    ]
    found = estimate_search(chosen, small_recipe, ONE, begun)
    assert (found.cells[0].begun, found.audio_seconds, found.gigabytes) == (2, 4.0, 0.0)


def test_the_progress_of_records_has_the_rank_at_the_rung():
    reports = tuple({"audio_seconds": seconds, "valid_loss": -seconds} for seconds in (2.0, 4.0, 8.0))
    record = TrialRecord(
        cell="search", trial="a", state="interrupted", chosen={}, settings=None, reports=reports, begun=0.0
    )
    assert progress_of([record], rung=4.0) == {"search": [Progress(8.0, "running", rank=-4.0)]}
    assert progress_of([record], rung=12.0) == {"search": [Progress(8.0, "running")]}


def test_a_conditional_axis_is_measured_only_where_it_is_drawn():
    tuned = {
        "mixing.max_sources": {"choices": [4, 3], "when": {"training.batch_size": [2]}},
        "training.batch_size": {"choices": [8, 2]},
    }
    chosen = experiment(tune=tuned, search={"trials": 2}, controls={})
    settings = first_settings(chosen, chosen.cells()[0])
    assert (settings.training.batch_size, settings.mixing.max_sources) == (8, MixingConfig().max_sources)


def test_a_control_is_measured_with_what_it_inherits():
    chosen = experiment()
    (plain,) = [cell for cell in chosen.cells() if cell.name == "plain"]
    settings = first_settings(chosen, plain)
    assert settings.training.batch_size == 4 and settings.model.site == "none"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, Place(name="gpu", gpus_per_worker=1)),
        ({"objective": "instruments", "model": {}, "training": {}}, ONE),
    ],
)
def test_steps_of_gpus_and_of_other_objectives_are_not_measured(small_recipe, monkeypatch, changes, place):
    monkeypatch.setattr("vimss.search.room.machine_resources", lambda with_gpus: {"CPU": 2.0, "GPU": float(with_gpus)})
    found = estimate_search(experiment(**PLAIN, **changes), small_recipe, place)
    assert found.hours is None and found.cells[0].core_hours is None


def test_cells_that_the_machine_cannot_train_are_named_and_the_others_counted(small_recipe, monkeypatch):
    monkeypatch.setattr("vimss.train.device.has_bfloat16_units", lambda device: False)
    controls = {"half": {"training.precision": "bfloat16"}}
    found = estimate_search(experiment(controls=controls), small_recipe, ONE)
    assert found.cells[1].refused.startswith("training.precision: bfloat16 needs a device with bfloat16 units; got cpu")
    assert not found.cells[0].refused and found.hours > 0 and found.audio_seconds == 24.0 and found.trials == 2


BIG = Place(name="big", cpus_per_worker=4096)
TOO_BIG = (
    r"the nodes must hold one trial of 1 worker, each with 4096 CPU; got room for 0 workers: (\d+) CPU\. "
    r"To fix: lower cpus_per_worker to \1 in"
)


def test_a_place_that_this_machine_can_never_hold_is_refused_before_ray_starts(small_manifest, tmp_path):
    with pytest.raises(PlaceError, match=TOO_BIG):
        search(experiment(), small_manifest, BIG, Store(tmp_path))
    with pytest.raises(PlaceError, match=TOO_BIG):
        estimate_search(experiment(), small_manifest.recipe, BIG)
    assert not ray.is_initialized() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["train", "quickstart"], ["quickstart"]], ids=" ".join)
def test_a_command_refuses_it_within_five_seconds_without_torch(tmp_path, words):
    """In seconds of its processor: those on the clock depend on what else runs."""
    (tmp_path / "runtime.yaml").write_text("{workers_per_trial: 2, cpus_per_worker: 4096}", encoding="utf-8")
    code = "import sys; from vimss import cli\ntry: cli.main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, *words, "--on", tmp_path]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "VIMSS_STORE": str(tmp_path)})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (ended.returncode, ended.stdout) == (1, "False\n") and "Traceback" not in ended.stderr
    assert re.search(
        r"each with 4096 CPU: 8192 CPU in all; got room for 0 workers: (\d+) CPU\. To fix: lower cpus_per_worker to \1",
        " ".join(ended.stderr.split()),
    )
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5.0


def test_a_cluster_that_is_not_there_is_no_error_beforehand():
    for check in (check_room, check_cluster):
        check(BIG.model_copy(update={"ray_address": "127.0.0.1:1"}))


@pytest.mark.slow
def test_this_machine_has_what_a_ray_of_our_own_counts():
    with ray_running(Place(name="here")):
        (node,) = nodes_of(Place(name="here"))
    assert {kind: node.get(kind, 0.0) for kind in ("CPU", "GPU")} == machine_resources()


@pytest.fixture
def asked(small_recipe, small_store, small_manifest, tmp_path, monkeypatch):
    """The path of a small experiment whose shards are written."""
    content = {**experiment().model_dump(mode="json", exclude_defaults=True), "shards": str(tmp_path / "small.yaml")}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_recipe.model_dump(mode="json")))
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "asked.yaml"


def content_of(folder: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
def test_a_dry_run_prints_what_it_would_take_and_writes_nothing(asked, vimss_says, small_store, monkeypatch):
    monkeypatch.setenv("VIMSS_STORE", str(small_store.root))
    before = content_of(small_store.root)
    code, out, err = vimss_says("search", asked, "--dry-run")
    assert (code, err) == (0, "")
    assert "4 trials in 3 cells, " in out and "at most 48 audio seconds left" in out
    assert "time: at most about " in out and ", by steps measured on this machine" in out
    code, out, _ = vimss_says("search", asked, "--dry-run", "--json")
    summary = json.loads(out)
    assert code == 0 and [cell["cell"] for cell in summary.pop("cells")] == ["search", "again", "plain"]
    assert {"trials": 4, "audio_seconds": 48.0}.items() <= summary.items() and summary["hours"] > 0
    assert content_of(small_store.root) == before and not ray.is_initialized()
