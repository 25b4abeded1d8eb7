"""MLflow is made to hold what the records of a study say: compare the two, and write the difference.

    synced = sync(tracking, experiment, manifest, study_folder(experiment, manifest, store))
    synced.run_ids["search", "a1b2"]

    with syncing(tracking, experiment, manifest, folder):   # in a thread, while a search writes records
        search(experiment, manifest, place, store)

Nothing is remembered but on disk and in MLflow, so the next call writes whatever MLflow has missed, be it that a server
was away or lost its newest data, or that a process was killed. Runs are found by the tag `vimss.key`. Processes that
sync one study take turns.
"""

import fcntl
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus, Run, ViewType
from mlflow.exceptions import MlflowException

from vimss.errors import DataError, VimssError
from vimss.experiment import Experiment
from vimss.search.lock import is_searched
from vimss.search.study import RECORD, in_cells, read_study
from vimss.shards.manifest import Manifest
from vimss.storage import explain_os_errors
from vimss.track.notes import with_note
from vimss.track.store import Tracking, explain_mlflow_errors, one_line
from vimss.track.wanted import WantedRun, WantedStudy, wanted_study
from vimss.track.writer import KEY_TAG, Known, Writer

log = logging.getLogger(__name__)

INTERVAL_SECONDS, PAUSE_RATIO = 5.0, 10.0
"""Between two calls while a search runs: at least so long, and so many times as long as the last one took."""

LONGEST_PAUSE_SECONDS = 30.0
"""Between attempts while MLflow is away."""

CLOSE_SECONDS = 30.0
"""How long the end of a search waits for MLflow."""

LOCK = "lock-sync"
"""File in a study's folder that the process which syncs it holds."""

REFUSED = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST"}
"""MLflow's error codes for what it will not take another time either."""


@dataclass
class Synced:
    """What a call has found and written."""

    experiment: str
    run_ids: dict[tuple[str, str], str] = field(default_factory=dict)
    """Cell and trial, which is empty for the cell's own run, to MLflow's id of the run."""
    written: Counter[str] = field(default_factory=Counter)
    """How many of what was written: runs, points, params, tags, files, models, scores, states."""
    notes: list[str] = field(default_factory=list)
    """Sentences about what was restored or refused."""

    def __str__(self) -> str:
        parts = [f"{count} {kind}" for kind, count in self.written.items()]
        found = f"{len(self.run_ids)} runs of {self.experiment} are in MLflow"
        return ". ".join([f"{found}; written: {', '.join(parts) or 'nothing new'}", *self.notes])


def sync(tracking: Tracking, experiment: Experiment, manifest: Manifest, folder: Path) -> Synced:
    """Write what MLflow lacks of the records in a study's folder; a second call writes nothing.

    A run that MLflow refuses is noted and holds up no other. PlaceError where MLflow does not answer: what was written
    until then stays, and the next call writes the rest.
    """
    # Read while no other process syncs: an older state of the records must not come after a newer one.
    with _alone(folder):
        study = in_cells(experiment, read_study(folder))
        return write(tracking, wanted_study(experiment, manifest, study, is_searched=is_searched(folder)))


def write(tracking: Tracking, wanted: WantedStudy) -> Synced:
    """Write what MLflow lacks of these runs, as `sync` does."""
    synced = Synced(wanted.experiment)
    with explain_mlflow_errors(tracking):
        client = tracking.client()
        experiment_id = _experiment(tracking, client, wanted, synced)
        runs = _runs(client, experiment_id, wanted, synced)
        for run in wanted.runs:
            if run.key not in runs:
                runs[run.key] = _create(client, experiment_id, run, runs)
                synced.written["runs"] += 1
            synced.run_ids[run.cell, run.trial] = runs[run.key].info.run_id
        has_models = any(run.model is not None for run in wanted.runs)
        known = Known(wanted.experiment, runs, _models(client, experiment_id) if has_models else {})
        writers = [Writer(tracking, client, run, known, synced.written) for run in wanted.runs]
        # The figures of all runs come before the files of any: the store of artifacts may be away alone.
        for write_part in (Writer.write_figures, Writer.write_files):
            for writer in list(writers):
                try:
                    write_part(writer)
                except MlflowException as error:
                    if error.error_code not in REFUSED:
                        raise
                    run = writer.wanted
                    synced.notes.append(f"MLflow refuses the run {run.name} of {run.cell}: {one_line(error)}")
                    writers.remove(writer)
    return synced


def _experiment(tracking: Tracking, client: MlflowClient, wanted: WantedStudy, synced: Synced) -> str:
    """The id of MLflow's experiment, made or restored if need be, with its description and the columns of its table."""
    found = client.get_experiment_by_name(wanted.experiment)
    if found is None:
        location = tracking.artifacts.as_uri() if tracking.is_local else None
        client.create_experiment(wanted.experiment, artifact_location=location)
        found = client.get_experiment_by_name(wanted.experiment)
    elif found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
        synced.notes.append(f"the experiment {wanted.experiment} had been deleted in MLflow and was restored")
    for name, value in with_note(wanted.tags, found.tags).items():
        if found.tags.get(name) != value:
            client.set_experiment_tag(found.experiment_id, name, value)
    return str(found.experiment_id)


def _runs(client: MlflowClient, experiment_id: str, wanted: WantedStudy, synced: Synced) -> dict[str, Run]:
    """The runs of a study that MLflow has, by their keys; those that were deleted are restored."""
    keys = {run.key for run in wanted.runs}
    found: dict[str, Run] = {}
    token = None
    while token != "":
        page = client.search_runs(
            [experiment_id],
            f"tags.signature = '{wanted.folder.name}'",
            run_view_type=ViewType.ALL,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        for run in page:
            found.setdefault(run.data.tags.get(KEY_TAG, ""), run)
        token = page.token or ""
    deleted = [key for key in keys & found.keys() if found[key].info.lifecycle_stage == "deleted"]
    for key in deleted:
        client.restore_run(found[key].info.run_id)
    if deleted:
        synced.notes.append(
            f"deleted in MLflow and restored: {len(deleted)} of the runs whose trials are in {wanted.folder}"
        )
    return found


def _models(client: MlflowClient, experiment_id: str) -> dict[str, list[LoggedModel]]:
    """The complete models of an experiment, by the id of the run that they are of."""
    found: dict[str, list[LoggedModel]] = {}
    token = None
    while token != "":
        page = client.search_logged_models([experiment_id], page_token=token)
        for model in page:
            if model.status == LoggedModelStatus.READY:
                found.setdefault(model.source_run_id, []).append(model)
        token = page.token or ""
    return found


def _create(client: MlflowClient, experiment_id: str, wanted: WantedRun, runs: Mapping[str, Run]) -> Run:
    """With the tags by which it is found again, in one request: a server may be killed after any."""
    tags = {**with_note(wanted.tags, {}), KEY_TAG: wanted.key}
    # A cell's best trial comes after it.
    tags |= {tag: runs[key].info.run_id for tag, key in wanted.links.items() if key in runs}
    return client.create_run(experiment_id, start_time=wanted.begun, tags=tags, run_name=wanted.name)


@contextmanager
def syncing(tracking: Tracking, experiment: Experiment, manifest: Manifest, folder: Path) -> Iterator[None]:
    """Sync in a thread while the block runs, whenever a record has changed, and once more at its end.

    That MLflow is away is logged once each time; no error reaches the block, and no request holds it up.
    """
    thread = _Syncing(lambda: sync(tracking, experiment, manifest, folder), folder, tracking.address, experiment.name)
    thread.start()
    try:
        yield
    finally:
        thread.close()


class _Syncing(threading.Thread):
    """The thread of `syncing`: a daemon, since nothing is lost where the process ends before it."""

    def __init__(self, write: Callable[[], Synced], folder: Path, address: str, experiment: str) -> None:
        super().__init__(name="vimss-sync", daemon=True)
        self._write = write
        self._folder = folder
        self._address = address
        self._again = f"vimss sync {experiment}"
        self._closing = threading.Event()
        self._failures = 0
        self._written: dict[Path, int] = {}
        """The records that MLflow has, and when they changed."""
        self._said: set[str] = set()

    def run(self) -> None:
        """Until it is closed; waits longer after each failure in a row."""
        while not self._closing.wait(self._attempt()):
            pass
        self._written = {}
        self._attempt()

    def close(self) -> None:
        """Write what the last records say, where MLflow takes it in time."""
        self._closing.set()
        self.join(CLOSE_SECONDS)
        if self.is_alive():
            log.warning("MLflow at %s is slow: `%s` writes what it does not have yet", self._address, self._again)

    def _attempt(self) -> float:
        """One call; returns the seconds until the next."""
        begin = time.monotonic()
        try:
            records = {path: path.stat().st_mtime_ns for path in self._folder.glob(f"*/*/{RECORD}")}
            if records != self._written:
                self._log(self._write().notes)
            self._written = records
        except DataError:  # records that are about to be scored on another validation set, which the search reports
            log.debug("the records cannot be written into MLflow yet", exc_info=True)
            return INTERVAL_SECONDS
        # Whatever goes wrong here must reach neither the search nor end the thread: the records are on disk.
        except Exception as error:
            self._failures += 1
            if self._failures == 1:
                other = f"MLflow at {self._address} must take the runs; got {type(error).__name__}, {one_line(error)}"
                reason = error if isinstance(error, VimssError) else other
                log.warning(
                    "%s. The search goes on; its records are kept, and MLflow gets them from this or a later command, "
                    "or by `%s`",
                    reason,
                    self._again,
                )
            # Of an outage of a day, 2 ** failures would be no float.
            return min(INTERVAL_SECONDS * 2 ** min(self._failures - 1, 9), LONGEST_PAUSE_SECONDS)
        if self._failures:
            log.info("MLflow at %s answers again and has all runs", self._address)
            self._failures = 0
        return max(INTERVAL_SECONDS, PAUSE_RATIO * (time.monotonic() - begin))

    def _log(self, notes: Iterable[str]) -> None:
        """Each once: what MLflow refuses, it refuses every time."""
        for note in notes:
            if note not in self._said:
                log.warning("%s", note)
        self._said.update(notes)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process syncs the study, and keep others from it: two would each create its runs."""
    with explain_os_errors(folder):
        file = (folder / LOCK).open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
