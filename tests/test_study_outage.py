"""A bucket of studies that does not answer for a while, when a trial ends."""

import json
import threading
from pathlib import Path

import pytest
import s3fs
from s3_server import BUCKET
from test_search import Started, experiment

from vimss.errors import OutageError
from vimss.runtime import Place
from vimss.search.failures import was_interrupted
from vimss.search.observer import INTERRUPTED, Observer
from vimss.search.study import TrialRecord
from vimss.search.trial import TrialPlan, for_tune
from vimss.storage import RemoteFolder, Store, mirror, origin_of, sha256
from vimss.train.checkpoint import ABOUT, TENSORS
from vimss.train.objectives import figure_of
from vimss.train.own_copy import own_copy

pytestmark = pytest.mark.slow

TRIAL = Started("a", {})


@pytest.fixture
def bucket(s3, monkeypatch):
    """One whose outages are noticed at once, and asked again soon."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(mirror, "SECONDS", 0.05)
    s3fs.S3FileSystem.clear_instance_cache()
    return s3


def answer_again(bucket, seconds: float = 0.3) -> None:
    threading.Timer(seconds, setattr, (bucket, "is_away", False)).start()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def observer(bucket, tmp_path):
    """Of a trial that has reported its whole budget, and whose checkpoint lies in the bucket alone."""
    alone = experiment(tune={}, controls={})
    store = Store(tmp_path / "store", studies_at=RemoteFolder(f"s3://{BUCKET}/studies"))
    plan = TrialPlan(
        alone, {cell.name: cell for cell in alone.cells()}, tmp_path, (), Place(name="test"), store.studies / "small-1"
    )
    observer = Observer(plan, (), "a set", iter(range(1, 100)))
    observer.on_trial_start(0, [], TRIAL)
    budget = observer.records["a"].settings.training.audio_seconds
    observer.take_report(
        TRIAL, for_tune({"valid_loss": -1.0, "audio_seconds": budget, "steps": 8.0}, figure_of())["reported"]
    )
    made = tmp_path / "made"
    write(made / TENSORS, "weights")
    write(made / "model/model.json", "a model")
    digests = {"sha256": sha256(made / TENSORS), "files": {"model/model.json": sha256(made / "model/model.json")}}
    write(made / ABOUT, json.dumps(digests))
    home = origin_of(observer.records["a"].folder)
    for name in (TENSORS, "model/model.json", ABOUT):
        home.upload(made / name, f"train/step_00000008/{name}")
    return observer


def record_of(observer: Observer) -> TrialRecord:
    (record,) = observer.records.values()
    return record


def model_of(observer: Observer) -> Path:
    return record_of(observer).folder / "model/model.json"


def test_a_trial_that_ends_in_an_outage_keeps_its_model_after_it(observer, bucket, caplog):
    bucket.is_away = True
    answer_again(bucket)
    observer.on_trial_complete(0, [], TRIAL)
    assert model_of(observer).read_text() == "a model" and record_of(observer).state == "finished"
    assert caplog.text.count("waiting for up to 300 s: s3://music/studies/small-1/") == 1 and observer.error is None


def test_an_outage_without_end_is_an_error_and_the_trial_has_not_ended(observer, bucket, monkeypatch):
    monkeypatch.setattr(mirror, "OUTAGE_SECONDS", 0.2)
    bucket.is_away = True
    with pytest.raises(OutageError, match="must be within reach"):
        observer.on_trial_complete(0, [], TRIAL)
    assert record_of(observer).state == "running"


def test_a_search_that_is_told_to_end_in_an_outage_leaves_the_trial_to_be_resumed(observer, bucket):
    bucket.is_away = True
    threading.Timer(0.2, observer.end).start()
    observer.on_trial_complete(0, [], TRIAL)
    record = record_of(observer)
    assert (record.state, record.message, record.ended_at) == ("interrupted", INTERRUPTED, 0)


def test_nobody_waits_for_the_model_of_a_trial_that_is_resumed(observer, bucket, caplog):
    bucket.is_away = True
    observer.interrupt()
    assert record_of(observer).state == "interrupted" and "waiting for up to" not in caplog.text


def test_a_training_uploads_its_checkpoints_after_an_outage_at_its_end(bucket, tmp_path):
    folder = Store(tmp_path, studies_at=RemoteFolder(f"s3://{BUCKET}/studies")).studies / "small-1/cell-1/a"
    with own_copy(folder, "log.txt") as own:
        write(own.path / "train/step_1/state.json", "{}")
        bucket.is_away = True
        answer_again(bucket)
    assert "train/step_1/state.json" in origin_of(folder).sizes()


def test_a_trial_that_an_outage_has_ended_is_started_again_as_a_lost_one_is():
    try:
        raise RuntimeError("of Ray") from OutageError("s3://a must be within reach", got="503", fix="look")
    except RuntimeError as error:
        assert was_interrupted(error)
