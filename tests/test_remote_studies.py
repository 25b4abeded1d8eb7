"""Studies at s3://: their copies, their lease, and a search that goes on after all of its machines are gone."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
import torch
from remote_search import AUDIO_SECONDS, experiment
from s3_server import BUCKET
from safetensors.torch import load_file
from small_separator import build

from vimss import api, doctor
from vimss.errors import ConfigError, StorageError
from vimss.model.separator import load_separator, save_separator
from vimss.runtime import Node, Place, open_store
from vimss.search import lease, remote
from vimss.search.lease import LEASE, check_lease, check_renewed, leased
from vimss.search.lock import is_searched, locked
from vimss.search.remote import mirrored, own_copy, pull, pull_records, push
from vimss.search.study import RECORD
from vimss.session import open_session
from vimss.shards.manifest import open_manifest, open_shards, with_manifests
from vimss.storage import RemoteFolder, Store, folder_at, origin_of
from vimss.train import distribute
from vimss.train.distribute import Job, fit

STUDIES = f"s3://{BUCKET}/studies"
STUDY = RemoteFolder(f"{STUDIES}/small-0123456789")


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """What takes seconds elsewhere takes moments."""
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(remote, "SECONDS", 0.05)


def copy_in(root: Path) -> Path:
    """The folder of the study in the copy of one machine."""
    return Store(root, studies_at=RemoteFolder(STUDIES)).studies / STUDY.name


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def files_in(folder: Path) -> dict[str, str]:
    """The files that are not the copy's own."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in found.items() if name not in {"mirror.json", "lock", "lock-copy"}}


def wait_until(holds):
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_names_are_those_of_training():
    names = remote.CHECKPOINTS, remote.PROGRESS, remote.STOP
    assert names == (distribute.CHECKPOINTS, distribute.PROGRESS, distribute.STOP)


def test_a_copy_knows_where_its_original_lies(tmp_path):
    assert origin_of(copy_in(tmp_path) / "cell-1" / "trial") == STUDY / "cell-1/trial"
    assert origin_of(Store(tmp_path).studies / STUDY.name) is None


def test_a_place_or_the_environment_says_where_studies_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path))
    place = Place(name="x", studies=f"{STUDIES}/")
    assert origin_of(open_store(place).studies) == RemoteFolder(STUDIES)
    monkeypatch.setenv("VIMSS_STUDIES", "s3://mine")
    assert origin_of(open_store(place).studies) == RemoteFolder("s3://mine")
    with pytest.raises(ConfigError, match="must train with one worker, since several share a folder; got workers_per_"):
        open_store(Place(name="x", workers_per_trial=2))
    monkeypatch.setenv("VIMSS_STUDIES", "/studies")
    with pytest.raises(ConfigError, match=r"studies must lie at s3://BUCKET or .*; got '/studies'"):
        open_store(place)


def test_what_one_machine_writes_another_one_reads(s3, tmp_path):
    one, other = copy_in(tmp_path / "one"), copy_in(tmp_path / "other")
    with mirrored(one):
        write(one / "cell-1/a/trial.json", "running")
        write(one / "cell-1/a/model/model.json", "first")
        wait_until(lambda: "cell-1/a/trial.json" in STUDY.sizes())
        pull_records(other)
        assert files_in(other) == {"cell-1/a/trial.json": "running"}
        pull(other)
        assert files_in(other) == {"cell-1/a/trial.json": "running", "cell-1/a/model/model.json": "first"}
        write(one / "cell-1/a/stop", "")
        wait_until(lambda: "cell-1/a/stop" in STUDY.sizes())
        (one / "cell-1/a/stop").unlink()
        write(one / "cell-1/a/model/model.json", "better")
        write(one / "cell-1/a/trial.json", "finished")
    pull(other)
    assert files_in(other) == {"cell-1/a/trial.json": "finished", "cell-1/a/model/model.json": "better"}
    write(other / "cell-1/a/files/curve.svg", "a picture")
    write(other / "cell-1/a/trial.json", "changed by mistake")
    push(other)
    pull(one)
    assert (
        files_in(one)["cell-1/a/files/curve.svg"] == "a picture" and files_in(one)["cell-1/a/trial.json"] == "finished"
    )
    STUDY.delete("cell-1/a/model/model.json")
    s3.requests.clear()
    pull(one)
    assert not (one / "cell-1/a/model").exists()
    # Nothing but the listing is asked for.
    assert {path for _, path in s3.requests} == {f"/{BUCKET}"}


def test_a_record_comes_after_all_that_it_speaks_of(s3, tmp_path):
    folder = copy_in(tmp_path)
    with mirrored(folder):
        for name in (
            "cell-1/a/trial.json",
            "cell-1/a/model/model.json",
            "cell-1/a/model/weights",
            "cell-1/z/trial.json",
        ):
            write(folder / name, name)
        s3.requests.clear()
    order = [path.rpartition("/")[2] for method, path in s3.requests if method == "PUT"]
    assert sorted(order[:-2]) == ["model.json", "weights"] and order[-2:] == [RECORD, RECORD]


def test_no_object_is_fetched_to_outside_the_copy(s3, tmp_path):
    for name in ("../../evil", "cell-1//evil", "cell-1/a/fine"):
        STUDY.write_if(name, b"x", "")
    folder = copy_in(tmp_path)
    pull(folder)
    assert files_in(folder) == {"cell-1/a/fine": "x"} and not list(tmp_path.rglob("evil"))


def test_a_trial_and_its_search_meet_at_the_bucket_alone(s3, tmp_path):
    folder = copy_in(tmp_path)
    trial, home = folder / "cell-1/a", STUDY / "cell-1/a"
    with mirrored(folder):
        write(trial / RECORD, "running")
        with own_copy(trial) as (own, keep):
            write(own / "progress", "1 0.5")
            wait_until((trial / "progress").exists)
            for step in ("step_1", "step_2"):
                write(own / "train" / step / "state.json", step)
                keep()
            shutil.rmtree(own / "train" / "step_1")
            keep()
            assert {name for name in home.sizes() if name.startswith("train/")} == {"train/step_2/state.json"}
            (trial / "stop").touch()
            wait_until((own / "stop").exists)
            write(own / "train/step_3/state.json", "between two reports")
        assert not own.exists() and not (trial / "train").exists()
        (trial / "stop").unlink()
    # Another process, which may be on another machine.
    with own_copy(copy_in(tmp_path / "other") / "cell-1/a") as (own, _):
        assert files_in(own) == {
            "progress": "1 0.5",
            RECORD: "running",
            "train/step_2/state.json": "step_2",
            "train/step_3/state.json": "between two reports",
        }
    with remote.checkpoint_at_hand(trial / "train/step_2"):
        assert (trial / "train/step_2/state.json").read_text() == "step_2"
    assert not (trial / "train/step_2").exists()


def test_a_node_that_shares_no_folder_gets_manifest_and_weights(s3, small_manifest, tmp_path):
    node = Store(tmp_path / "node", studies_at=RemoteFolder(STUDIES)).make()
    shards = RemoteFolder(f"s3://{BUCKET}/shards/small")
    for path in sorted(small_manifest.folder.glob("*.*")):
        shards.upload(path, path.name)
    manifest = open_shards(shards, node)
    model = node.studies / STUDY.name / "cell-1/a/model"

    work = with_manifests(lambda _: (open_manifest(manifest.folder), load_separator(model)), [manifest.folder])
    shutil.rmtree(node.root)
    for filters in (4, 6):  # another version of the weights
        save_separator(tmp_path / "model", build(torch.float32, filters=filters), {})
        for path in (tmp_path / "model").iterdir():
            (STUDY / "cell-1/a/model").upload(path, path.name)
        found, separator = work(None)
        assert found == manifest and separator.config.filters == filters


def test_a_search_outlives_an_outage(s3, tmp_path, caplog):
    folder = copy_in(tmp_path)
    with mirrored(folder):
        s3.refused.add("PUT")
        write(folder / "cell-1/a/trial.json", "running")
        wait_until(lambda: "what is not uploaded follows" in caplog.text)
        s3.refused.clear()
        wait_until(lambda: "cell-1/a/trial.json" in STUDY.sizes())
    with pytest.raises(StorageError, match="must be open to your credentials"), mirrored(folder):
        s3.refused.add("PUT")
        write(folder / "cell-1/a/trial.json", "finished")
    s3.refused.clear()
    # The same command again: what is newer here alone stays, and follows.
    with mirrored(folder):
        pass
    assert STUDY.read_bytes("cell-1/a/trial.json") == b"finished"


def test_one_driver_at_a_time_searches_a_study(s3, tmp_path):
    one, other = copy_in(tmp_path / "one"), copy_in(tmp_path / "other")
    waited, order = [], []

    def wait_for_it():
        with locked(other, waited.append):
            order.append("other")

    with locked(one):
        assert is_searched(other) and is_searched(one)
        message = (
            r"one process at a time may search the study small-0123456789; got process \d+ on .*, which searches it"
        )
        with pytest.raises(StorageError, match=message), locked(other):
            pass
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        wait_until(lambda: waited)
        order.append("one")
    thread.join()
    assert order == ["one", "other"] and not is_searched(one)


def test_the_lease_of_a_dead_driver_is_taken_and_one_that_was_paused_ends(s3, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    STUDY.write_if(LEASE, b"a dead one\n", "")
    began = time.monotonic()
    with leased(STUDY, "the next one"):
        assert time.monotonic() - began >= lease.LEASE_SECONDS
        check_renewed(STUDY)
        monkeypatch.setattr(lease._held[STUDY], "renewed", 0.0)
        with pytest.raises(
            StorageError, match="the lease of small-0123456789 must be renewed before its study is written"
        ):
            check_renewed(STUDY)
        check_lease(STUDY)
        with STUDY.atomic_write(LEASE) as path:
            path.write_text("another one\n")
        wait_until(lambda: lease._held[STUDY].taken_by)
        with pytest.raises(
            StorageError, match="must hold the study small-0123456789 while it searches it; got another on"
        ):
            check_lease(STUDY)
    assert STUDY.read_bytes(LEASE) == b"another one\n"


@pytest.mark.parametrize(
    ("studies", "refused", "message"),
    [
        ("s3://none/studies", set(), r"the bucket of s3://none/studies.* must exist; got"),
        (STUDIES, {"PUT"}, r"must be open to your credentials; got PermissionError"),
    ],
)
def test_a_bucket_that_cannot_be_written_ends_a_search_at_once(
    s3, small_manifest, tmp_path, monkeypatch, studies, refused, message
):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path))
    monkeypatch.setenv("VIMSS_STUDIES", studies)
    s3.refused |= refused
    s3.requests.clear()
    with pytest.raises(StorageError, match=message):
        api.run_search(open_session(), experiment(), small_manifest)
    # Nothing is tried again for long, and nothing is trained.
    assert len(s3.requests) < 10 and not ray.is_initialized() and not list(tmp_path.rglob(RECORD))


@pytest.mark.slow
def test_doctor_finds_a_bucket_that_holds_no_studies(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path))

    def finding() -> doctor.Finding:
        return next(found for found in doctor._store(Place(name="x", studies=STUDIES)) if found.what == "studies")

    assert finding() == doctor.Finding("studies", f"at {STUDIES}") and not STUDY.sizes()
    s3.has_conditions = False
    assert finding().found == f"{STUDIES} has no conditional writes"
    s3.refused.add("PUT")
    assert not finding().ok and "must be open to your credentials" in finding().found
    node = Node("b", {"CPU": 1.0}, {}, store="No such file")
    found = doctor._nodes(Place(name="x"), [node], {}, is_shared=False)
    assert "store on nodes" not in {finding.what for finding in found}


@pytest.mark.slow
def test_a_search_goes_on_after_all_of_its_machines_are_gone(s3, small_manifest, tmp_path, monkeypatch):
    place = tmp_path / "runtime.yaml"
    place.write_text(f"studies: {STUDIES}\nmax_concurrent_trials: 1\n", encoding="utf-8")
    shards = folder_at(f"s3://{BUCKET}/shards/{small_manifest.folder.name}")
    for path in sorted(small_manifest.folder.glob("*.*")):
        shards.upload(path, path.name)
    home = RemoteFolder(STUDIES)
    code = [sys.executable, str(Path(__file__).with_name("remote_search.py")), str(place), shards.url]

    def start(machine: str) -> subprocess.Popen:
        environment = {**os.environ, "VIMSS_STORE": str(tmp_path / machine), "PYTHONPATH": str(Path.cwd())}
        with (tmp_path / f"{machine}.txt").open("wb") as output:
            return subprocess.Popen(code, env=environment, stdout=output, stderr=output)

    def checkpoints() -> dict[str, dict[str, float]]:
        """The trials with checkpoints, and the metrics of their newest."""
        found: dict[str, dict[str, float]] = {}
        for name in sorted(name for name in home.sizes() if name.endswith("/state.json")):
            with suppress(FileNotFoundError):  # superseded meanwhile
                found[name.split("/")[2]] = json.loads(home.read_bytes(name))["metrics"]
        return found

    def records() -> dict[str, dict]:
        found = (json.loads(home.read_bytes(name)) for name in home.sizes() if name.endswith(f"/{RECORD}"))
        return {record["trial"]: record for record in found}

    first = start("one")
    while len(seen := checkpoints()) < 2 or min(metrics["audio_seconds"] for metrics in seen.values()) < 8:
        assert first.poll() is None, (tmp_path / "one.txt").read_text()
        time.sleep(0.05)
    for process in (psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)):
        with suppress(psutil.Error):
            process.kill()
    first.wait()
    shutil.rmtree(tmp_path / "one")
    seen = checkpoints()
    (finished, interrupted) = sorted(seen, key=lambda trial: -seen[trial]["steps"])
    assert seen[finished]["audio_seconds"] >= AUDIO_SECONDS > seen[interrupted]["audio_seconds"]
    assert records()[finished]["state"] == "finished"

    second = start("two")
    assert second.wait(timeout=200) == 0, (tmp_path / "two.txt").read_text()
    assert {trial: record["state"] for trial, record in records().items()} == dict.fromkeys(seen, "finished")
    logs = {name.split("/")[2]: home.read_bytes(name).decode() for name in home.sizes() if name.endswith("/log.txt")}
    begins = {trial: re.findall(r"begins after step (\d+) of \d+, (\w+)", log) for trial, log in logs.items()}
    assert begins[finished] == [("0", "anew")]
    steps, how = begins[interrupted][-1]
    assert how == "resumed" and 0 < int(steps) <= seen[interrupted]["steps"]
    assert not [name for name in home.sizes() if name.endswith(("/stop", "/lease.txt"))]

    # A third machine reads it, and finds what a training without interruption gives.
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "three"))
    session = open_session(place)
    manifest = open_shards(shards, session.store)
    study = api.load_study(session, experiment(), manifest)
    (record,) = [record for record in study.records if record.trial == interrupted]
    values: list[float] = []
    undisturbed = Job(
        tmp_path / "undisturbed", record.settings, experiment().validation, manifest.folder, (), session.place
    )
    fit(undisturbed, lambda metrics: values.append(metrics["valid_loss"]))
    assert [report["valid_loss"] for report in record.reports] == values
    best = api.best_trial(experiment(), study)
    assert load_file(best.folder / "model/weights.safetensors")
