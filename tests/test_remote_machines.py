"""Searches whose studies lie at s3://, which go on after all of their machines are gone."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from remote_search import AUDIO_SECONDS, experiment
from s3_server import BUCKET
from safetensors.torch import load_file

from vimss import api
from vimss.config import parse_config
from vimss.runtime import LOG, Place, rank_log
from vimss.search.lease import LEASE
from vimss.search.study import RECORD
from vimss.session import open_session
from vimss.shards.manifest import Manifest, open_shards
from vimss.storage import RemoteFolder
from vimss.train.config import Settings
from vimss.train.distribute import Job, fit

pytestmark = pytest.mark.slow

STUDIES = f"s3://{BUCKET}/studies"


class Machines:
    """Machines that share nothing but the bucket: each searches with a Ray and a store of its own."""

    def __init__(self, manifest: Manifest, folder: Path, trials: int, **place: int) -> None:
        self.folder = folder
        self.place = folder / "runtime.yaml"
        lines = (f"{name}: {value}\n" for name, value in {"studies": STUDIES, **place}.items())
        self.place.write_text("".join(lines), encoding="utf-8")
        self.shards = RemoteFolder(f"s3://{BUCKET}/shards/{manifest.folder.name}")
        for path in sorted(manifest.folder.glob("*.*")):
            self.shards.upload(path, path.name)
        program = str(Path(__file__).with_name("remote_search.py"))
        self.command = [sys.executable, program, str(self.place), self.shards.url, str(trials)]
        self.home = RemoteFolder(STUDIES)

    def start(self, name: str) -> subprocess.Popen:
        environment = {**os.environ, "VIMSS_STORE": str(self.folder / name), "PYTHONPATH": str(Path.cwd())}
        with (self.folder / f"{name}.txt").open("wb") as output:
            return subprocess.Popen(self.command, env=environment, stdout=output, stderr=output)

    def lose(self, name: str, is_time: Callable[[dict[str, dict[str, float]]], bool]) -> dict[str, dict[str, float]]:
        """Search on a machine until it is time, by the newest checkpoints, which are returned; it is gone then."""
        first = self.start(name)
        while not is_time(self.checkpoints()):
            assert first.poll() is None, self.printed(name)
            time.sleep(0.05)
        for process in (psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)):
            with suppress(psutil.Error):
                process.kill()
        first.wait()
        shutil.rmtree(self.folder / name)
        return self.checkpoints()

    def search(self, name: str) -> None:
        """Search on a machine to the end."""
        assert self.start(name).wait(timeout=400) == 0, self.printed(name)

    def printed(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text()

    def checkpoints(self) -> dict[str, dict[str, float]]:
        """The trials with checkpoints, and the metrics of their newest."""
        found: dict[str, dict[str, float]] = {}
        for name in sorted(name for name in self.home.sizes() if name.endswith("/state.json")):
            with suppress(FileNotFoundError):  # superseded meanwhile
                found[name.split("/")[2]] = json.loads(self.home.read_bytes(name))["metrics"]
        return found

    def records(self) -> dict[str, dict]:
        found = (json.loads(self.home.read_bytes(name)) for name in self.home.sizes() if name.endswith(f"/{RECORD}"))
        return {record["trial"]: record for record in found}

    def begins(self, log: str) -> dict[str, list[tuple[str, str]]]:
        """Of each trial, the step after which its processes began, and how, by a log of theirs."""
        logs = {
            name.split("/")[2]: self.home.read_bytes(name) for name in self.home.sizes() if name.endswith(f"/{log}")
        }
        return {
            trial: re.findall(r"begins after step (\d+) of \d+, (\w+)", log.decode()) for trial, log in logs.items()
        }


def losses_of(settings: Settings, manifest: Manifest, folder: Path, place: Place) -> list[float]:
    """The validation losses of a training without interruption."""
    values: list[float] = []
    job = Job(folder, settings, experiment().validation, manifest.folder, (), place)
    fit(job, lambda metrics: values.append(metrics["valid_loss"]))
    return values


def test_a_search_goes_on_after_all_of_its_machines_are_gone(s3, small_manifest, tmp_path, monkeypatch):
    machines = Machines(small_manifest, tmp_path, 2, max_concurrent_trials=1)
    seen = machines.lose(
        "one", lambda seen: len(seen) == 2 and min(metrics["audio_seconds"] for metrics in seen.values()) >= 8
    )
    (finished, interrupted) = sorted(seen, key=lambda trial: -seen[trial]["steps"])
    assert seen[finished]["audio_seconds"] >= AUDIO_SECONDS > seen[interrupted]["audio_seconds"]
    assert machines.records()[finished]["state"] == "finished"

    machines.search("two")
    states = {trial: record["state"] for trial, record in machines.records().items()}
    assert states == dict.fromkeys(seen, "finished")
    begins = machines.begins(LOG)
    assert begins[finished] == [("0", "anew")]
    steps, how = begins[interrupted][-1]
    assert how == "resumed" and 0 < int(steps) <= seen[interrupted]["steps"]
    assert not [name for name, size in machines.home.sizes().items() if name.endswith(("/stop", f"/{LEASE}")) and size]

    # A third machine reads it, and finds what a training without interruption gives.
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "three"))
    session = open_session(machines.place)
    manifest = open_shards(machines.shards, session.store)
    study = api.load_study(session, experiment(), manifest)
    (record,) = [record for record in study.records if record.trial == interrupted]
    undisturbed = losses_of(record.settings, manifest, tmp_path / "undisturbed", session.place)
    assert [report["valid_loss"] for report in record.reports] == undisturbed
    best = api.best_trial(experiment(), study)
    assert load_file(best.folder / "model/weights.safetensors")


def test_a_trial_of_two_workers_goes_on_after_all_of_its_machines_are_gone(s3, shared_ray, small_manifest, tmp_path):
    machines = Machines(small_manifest, tmp_path, 1, workers_per_trial=2)
    seen = machines.lose("one", lambda seen: any(metrics["audio_seconds"] >= 8 for metrics in seen.values()))
    machines.search("two")
    ((name, record),) = machines.records().items()
    assert record["state"] == "finished" and seen[name]["audio_seconds"] < AUDIO_SECONDS
    # The second rank had to fetch what the first one kept.
    for log in (rank_log(0), rank_log(1)):
        steps, how = machines.begins(log)[name][-1]
        assert how == "resumed" and 0 < int(steps) <= seen[name]["steps"]
    settings = parse_config(record["settings"], Settings, "settings")
    undisturbed = losses_of(settings, small_manifest, tmp_path / "undisturbed", Place(name="test", workers_per_trial=2))
    assert [report["valid_loss"] for report in record["reports"]] == undisturbed
