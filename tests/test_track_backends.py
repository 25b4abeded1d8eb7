"""MLflow as a team runs it: runs in PostgreSQL, files and models in an object store; each may be killed or away."""

import logging
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import s3fs
from free_ports import free_ports
from s3_server import BUCKET, Server, serving
from servers import START_SECONDS, MlflowServer, PostgreSql
from test_track import CARD, EXPERIMENT, REPORTS, bring, runs_by_trial, three, trial

from vimss.errors import PlaceError
from vimss.model.card import WEIGHTS
from vimss.search.study import FILES, Study, read_record, write_record
from vimss.storage import Store
from vimss.track import Tracking, model_folder, register, set_alias
from vimss.track.sync import sync, syncing

pytestmark = pytest.mark.slow

SYNC = "vimss.track.sync"


@pytest.fixture(scope="module")
def s3_for_all() -> Iterator[Server]:
    """A server that speaks S3, with a bucket, which the environment names for processes too."""
    with serving() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.address)
        patch.setenv("AWS_ACCESS_KEY_ID", "me")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(BUCKET)
        yield server


@pytest.fixture
def s3(s3_for_all) -> Iterator[Server]:
    """The same, which takes everything again after a test."""
    yield s3_for_all
    s3_for_all.refused.clear()


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSql]:
    server = PostgreSql()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def server(database, s3_for_all) -> Iterator[MlflowServer]:
    """MLflow's server on both, as platform/compose starts it."""
    (port,) = free_ports(1)
    where = ("--host", "127.0.0.1", "--port", port, "--workers", "1")
    kept = ("--backend-store-uri", database.uri, "--artifacts-destination", f"s3://{BUCKET}/mlflow")
    server = MlflowServer([sys.executable, "-m", "mlflow", "server", *where, *kept], port)
    server.start()
    server.wait()
    yield server
    server.kill()


@pytest.fixture
def team(server, tmp_path, monkeypatch) -> Tracking:
    """The server as a search knows it, with the pauses of a search shortened."""
    monkeypatch.setattr(f"{SYNC}.INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr(f"{SYNC}.PAUSE_RATIO", 0.0)
    monkeypatch.setattr(f"{SYNC}.LONGEST_PAUSE_SECONDS", 0.4)
    return Tracking(Store(tmp_path / "store"), server.address)


@pytest.fixture
def study(tmp_path) -> Study:
    """A study of the test's own, whose best trial has a sound to hear."""
    folder = tmp_path / f"quickstart-{tmp_path.name}"
    _, *others = three(folder).records
    # With the seed of the experiment, of which `sync` takes no other.
    first = trial(folder, "a1", reports=REPORTS, number=0)
    audio = first.folder / FILES / "audio"
    audio.mkdir(parents=True)
    (audio / "mix.wav").write_bytes(b"RIFF of a mixture")
    return Study(folder, (first, *others))


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + START_SECONDS
    while not holds():
        assert time.monotonic() < end
        # Each look is a process of PostgreSQL, and takes the cores from what is waited for.
        time.sleep(0.3)


def runs_of(database: PostgreSql, study: Study) -> list[tuple[str]]:
    """The ids of a study's runs, as they stand in the database."""
    return database.rows("SELECT run_uuid FROM tags WHERE key = 'signature' AND value = %s", study.folder.name)


def points(database: PostgreSql, study: Study) -> list[tuple[int, float]]:
    """Step and value of every point in the curve of the first trial."""
    return database.rows(
        "SELECT step, metrics.value FROM metrics JOIN tags trial USING (run_uuid) JOIN tags study USING (run_uuid) "
        "WHERE trial.key = 'trial' AND trial.value = 'a1' AND study.key = 'signature' AND study.value = %s "
        "AND metrics.key = 'valid_loss' ORDER BY step",
        study.folder.name,
    )


def sound_of(run_id: str) -> bytes:
    """The one file with the sound of a run, as it lies in the object store."""
    store = s3fs.S3FileSystem()
    store.invalidate_cache()
    (sound,) = store.glob(f"{BUCKET}/mlflow/*/{run_id}/artifacts/audio/mix.wav")
    return store.cat(sound)


def write_reports(study: Study, until: int) -> float:
    """Lengthen the first trial to `until` reports, each in a record of its own; the longest time that one took."""
    record, longest = read_record(study.records[0].folder / "trial.json"), 0.0
    for number in range(len(record.reports) + 1, until + 1):
        begin = time.monotonic()
        step = {"audio_seconds": 30.0 * number, "steps": 3.0 * number, "valid_loss": -float(number), "train/loss": 0.5}
        record = record.with_report(step, number)
        write_record(record)
        longest = max(longest, time.monotonic() - begin)
    return longest


def test_nothing_is_lost_or_doubled_when_database_and_server_are_killed_during_a_sync(
    team, server, database, study, small_manifest
):
    """Both with SIGKILL while runs and points are being written."""
    with syncing(team, EXPERIMENT, small_manifest, study.folder):
        wait_until(lambda: len(runs_of(database, study)) >= 2)
        database.kill()
        longest = write_reports(study, 20)
        database.start()
        wait_until(lambda: len(points(database, study)) >= 20)
        write_reports(study, 40)
        server.kill()
        longest = max(longest, write_reports(study, 60))
        server.start()
        server.wait()
        wait_until(lambda: len(points(database, study)) >= 60)
    assert longest < 5, "the search waits for MLflow, whose timeout is 20 s"
    sync(team, EXPERIMENT, small_manifest, study.folder)
    assert not sync(team, EXPERIMENT, small_manifest, study.folder).written
    assert len(runs_of(database, study)) == 4
    found = points(database, study)
    assert found[2:] == [(30 * number, -float(number)) for number in range(3, 61)] and len(found) == 60


def test_a_model_and_a_sound_lie_in_the_object_store_and_come_back(team, study, small_manifest, small_model):
    shutil.copytree(small_model, study.records[0].folder / "model", dirs_exist_ok=True)
    run_id = sync(team, EXPERIMENT, small_manifest, study.folder).run_ids["search", "a1"]
    assert sound_of(run_id) == b"RIFF of a mixture"
    version = register(team, "quickstart", small_model, run_id, {"si_sdr_improvement": 3.1}, CARD)
    set_alias(team, "quickstart", "champion", version)
    folder = model_folder("models:/quickstart@champion", team)
    assert (folder / WEIGHTS).read_bytes() == (small_model / WEIGHTS).read_bytes()


def test_figures_reach_the_database_while_the_object_store_takes_nothing_and_files_follow(
    team, database, s3, study, small_manifest, monkeypatch, caplog
):
    monkeypatch.setattr(logging.getLogger("vimss"), "propagate", True)
    s3.refused.add("PUT")
    with syncing(team, EXPERIMENT, small_manifest, study.folder):
        wait_until(lambda: bool(caplog.messages))
        said = "MLflow's artifacts at mlflow-artifacts:/.* must be within reach; got .* 500 .*'s log. The search goes"
        assert re.match(said, caplog.messages[0])
        assert points(database, study) == [(30, 1.0), (60, -2.0)] and len(runs_of(database, study)) == 4
        s3.refused.clear()
    run_ids = sync(team, EXPERIMENT, small_manifest, study.folder).run_ids
    assert sound_of(run_ids["search", "a1"]) == b"RIFF of a mixture"
    assert not sync(team, EXPERIMENT, small_manifest, study.folder).written
    assert points(database, study) == [(30, 1.0), (60, -2.0)]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        (f"s3://{BUCKET}/runs", "S3UploadFailedError, .*AccessDenied"),
        ("file:///proc/runs", "FileNotFoundError, .*/proc"),
    ],
)
def test_a_store_of_artifacts_that_takes_nothing_is_said(tracking, s3, study, small_manifest, location, reason):
    """By the client of the store itself, as where an experiment has a location of its own."""
    s3.refused.add("PUT")
    tracking.client().create_experiment("quickstart", artifact_location=location)
    with pytest.raises(PlaceError, match=f"MLflow's artifacts at {location}/.* must be within reach; got {reason}"):
        bring(tracking, study, small_manifest)
    assert runs_by_trial(tracking)["a1"].data.metrics["valid_loss"] == -2.0
