"""Studies at s3://: their copies and their lease."""

import logging
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
import ray
import torch
from remote_search import experiment
from s3_server import BUCKET, reset
from small_separator import build

from vimss import api, console, doctor
from vimss.errors import ConfigError, DataError, StorageError, TrainingError
from vimss.model.separator import load_separator, save_separator
from vimss.runtime import LOG, Node, Place, open_store
from vimss.search import lease, remote
from vimss.search.lease import LEASE, check_lease, check_renewed, leased
from vimss.search.lock import is_searched, locked
from vimss.search.remote import mirrored, pull, pull_records, push
from vimss.search.study import RECORD, study_folder
from vimss.session import open_session
from vimss.shards.manifest import open_manifest, open_shards, with_manifests
from vimss.storage import RemoteFolder, Store, mirror, origin_of
from vimss.train.own_copy import forget_stop, own_copy

STUDIES = f"s3://{BUCKET}/studies"
STUDY = RemoteFolder(f"{STUDIES}/small-0123456789")


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """What takes seconds elsewhere takes moments."""
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(mirror, "SECONDS", 0.05)


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


def test_a_copy_knows_where_its_original_lies(tmp_path):
    assert origin_of(copy_in(tmp_path) / "cell-1" / "trial") == STUDY / "cell-1/trial"
    assert origin_of(Store(tmp_path).studies / STUDY.name) is None
    assert origin_of(tmp_path / "studies-at" / "home" / STUDY.name) is None


def test_a_place_or_the_environment_says_where_studies_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path))
    place = Place(name="x", studies=f"{STUDIES}/")
    assert origin_of(open_store(place).studies) == RemoteFolder(STUDIES)
    monkeypatch.setenv("VIMSS_STUDIES", "s3://mine")
    assert origin_of(open_store(place).studies) == RemoteFolder("s3://mine")
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


def test_a_study_that_takes_long_to_fetch_says_how_far_it_is(s3, small_manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path))
    monkeypatch.setenv("VIMSS_STUDIES", STUDIES)
    session = open_session()
    folder = study_folder(experiment(), small_manifest, session.store)
    for number in range(3):
        origin_of(folder).write_if(f"cell-1/a/files/{number}", bytes(1_000_000), "")
    with pytest.raises(DataError, match="must have been searched first"):
        api.load_study(session, experiment(), small_manifest)
    lines = capsys.readouterr().err.splitlines()
    numbers = r"MB, [\d.]+ MB/s, \d+ s left"
    expected = [rf"  fetch {folder.name}: {number} of 3 files, {number}.0 of 3.0 {numbers}" for number in (1, 2, 3)]
    assert len(lines) == 3 and all(re.fullmatch(*pair) for pair in zip(expected, lines, strict=True))


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
        with own_copy(trial, LOG) as own:
            write(own.path / "progress", "1 0.5")
            write(own.path / LOG, "begins")
            wait_until((trial / "progress").exists)
            for step in ("step_1", "step_2"):
                write(own.path / "train" / step / "state.json", step)
                own.upload_checkpoints()
            shutil.rmtree(own.path / "train" / "step_1")
            own.upload_checkpoints()
            assert {name for name in home.sizes() if name.startswith("train/")} == {"train/step_2/state.json"}
            (trial / "stop").touch()
            wait_until((own.path / "stop").exists)
            write(own.path / "train/step_3/state.json", "between two reports")
        assert not own.path.exists() and not (trial / "train").exists()
        # Its next process, before the driver has removed it.
        forget_stop(trial)
        assert "stop" not in home.sizes()
        (trial / "stop").unlink()
    # Other processes, which may be on other machines.
    elsewhere = copy_in(tmp_path / "other") / "cell-1/a"
    with own_copy(elsewhere, LOG) as own:
        assert files_in(own.path) == {
            LOG: "begins",
            "train/step_2/state.json": "step_2",
            "train/step_3/state.json": "between two reports",
        }
    with own_copy(elsewhere, "log_rank1.txt", keeps_checkpoints=False) as own:
        own.fetch_checkpoint("step_2")
        assert files_in(own.path) == {"train/step_2/state.json": "step_2"}
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


def test_what_ends_the_work_counts_and_not_the_outage_meanwhile(s3, tmp_path, caplog):
    folder = copy_in(tmp_path)
    with pytest.raises(KeyboardInterrupt), mirrored(folder):
        write(folder / "cell-1/a/trial.json", "running")
        s3.refused.add("PUT")
        raise KeyboardInterrupt
    with pytest.raises(TrainingError, match="interrupted"), own_copy(folder / "cell-1/a", "log.txt") as own:
        write(own.path / "train/step_00000001/state.json", "{}")
        raise TrainingError("interrupted", got="a signal", fix="resume")
    assert caplog.text.count("what is here was not all uploaded") == 2


def test_a_bucket_that_is_gone_in_the_middle_takes_nothing_from_the_copy(s3, tmp_path, caplog):
    folder = copy_in(tmp_path)
    with pytest.raises(StorageError, match=r"the bucket of s3://music/studies/small-.* must exist"), mirrored(folder):
        write(folder / "cell-1/a/trial.json", "running")
        wait_until(lambda: "cell-1/a/trial.json" in STUDY.sizes())
        reset(s3)
        write(folder / "cell-1/a/trial.json", "finished")
        wait_until(lambda: "must exist" in caplog.text)
    with pytest.raises(StorageError, match="must exist"):
        pull(folder)
    assert files_in(folder) == {"cell-1/a/trial.json": "finished"}


def test_one_driver_at_a_time_searches_a_study(s3, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("vimss"), "propagate", True)
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
        time.sleep(3 * lease.RENEW_SECONDS)
        order.append("one")
    thread.join()
    assert order == ["one", "other"] and not is_searched(one)
    # Of the one that was refused, and of the one that waited.
    assert len({record.created for record in caplog.records if "waiting up to" in record.getMessage()}) == 2


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


def test_a_lease_that_another_one_takes_at_the_last_moment_stays_theirs(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 60.0)
    other = tmp_path / LEASE
    write(other, "another one\n")
    path = f"/{STUDY.url.removeprefix('s3://')}/{LEASE}"
    with leased(STUDY, "one"):
        for method in ("PUT", "DELETE"):
            s3.before[method, path] = lambda: STUDY.upload(other, LEASE)
    assert STUDY.read_bytes(LEASE) == b"another one\n"


def test_a_lease_whose_last_renewal_got_no_answer_is_given_back(s3, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 60.0)
    with leased(STUDY, "one"):
        monkeypatch.setattr(lease._held[STUDY], "tag", '"of the renewal before"')
    assert STUDY.read_bytes(LEASE) == b"" and not lease.is_leased(STUDY)


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
    for known in ({"HTTP_IF_MATCH"}, {"HTTP_IF_NONE_MATCH"}):
        s3.conditions = known
        assert finding().found == f"{STUDIES} has no conditional writes"
    s3.refused.add("PUT")
    assert not finding().ok and "must be open to your credentials" in finding().found
    node = Node("b", {"CPU": 1.0}, {}, store="No such file")
    found = doctor._nodes(Place(name="x"), [node], {}, is_shared=False)
    assert "store on nodes" not in {finding.what for finding in found}
