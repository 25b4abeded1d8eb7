"""Carries the spool to MLflow in a thread, in batches, and again after a failure; everything in it may be repeated.

    delivery = Delivery(tracking, Spool(tracking.spool))
    delivery.start()
    delivery.flush(timeout_seconds=10)   # -> Undelivered, which is empty where all went well

Runs are found by the tag `vimss.key`, a signature of study, cell and trial, so that an entry can name a run which
does not exist yet.
The operations (`do`):

    experiment   the experiment exists, with description and tags
    run          the run exists, is RUNNING, with name, params and tags; a trial's parent is its cell's run
    metrics      values at a step; a step that MLflow already has is left as it is
    tags         sets tags
    files        uploads what was attached
    end          status and end time
    best         the cell's run gets params and metrics of its best trial
"""

import logging
import math
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from vimss.config import signature
from vimss.track.spool import Entry, Spool
from vimss.track.store import Tracking

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
"""Entries gather this long, so that several trials share one request."""

LONGEST_PAUSE_SECONDS = 30.0
"""Between attempts while MLflow is away."""

LAST_ATTEMPTS = 3
"""Failures after which a tracker that is being closed leaves the rest to the next start."""

MAX_METRICS, MAX_PARAMS = 1000, 100
"""MLflow's limits for one log_batch."""

KEY_TAG = "vimss.key"

PERMANENT = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST"}
"""MLflow's error codes that are not worth retrying."""


@dataclass(frozen=True)
class Undelivered:
    """Undelivered entries: how many wait, how many MLflow refused for good, why, and where they are."""

    pending: int
    rejected: int
    reason: str
    folder: Path

    def __bool__(self) -> bool:
        return bool(self.pending or self.rejected)

    def __str__(self) -> str:
        if not self:
            return "everything has reached MLflow"
        parts = []
        if self.pending:
            parts.append(f"{self.pending} entries wait for MLflow and are sent at the next start")
        if self.rejected:
            parts.append(f"{self.rejected} were refused and stand in {self.folder / 'rejected.log'}")
        return f"{'; '.join(parts)} ({self.reason})"


class _RefusedError(Exception):
    """An entry that can never be delivered."""


class Delivery(threading.Thread):
    """The thread between spool and MLflow."""

    def __init__(self, tracking: Tracking, spool: Spool) -> None:
        super().__init__(name="vimss-track", daemon=True)
        self._tracking = tracking
        self._spool = spool
        self._changed = threading.Condition()
        self._urgent = False
        self._closing = False
        self._rejected = 0
        self._problem = ""
        self._refusal = ""
        self._attempts = 0
        self._runs: dict[str, str] = {}
        self._experiments: dict[str, str] = {}
        self._steps: dict[tuple[str, str], set[int]] = {}
        self._client: MlflowClient | None = None

    def run(self) -> None:
        """Deliver until closed; waits longer after each failure in a row."""
        failures = 0
        while True:
            try:
                self._deliver()
                if failures:
                    log.info("MLflow at %s answers again: all entries were sent", self._tracking.address)
                failures, self._problem = 0, ""
            # Whatever goes wrong here must reach neither the search nor end the thread: the entries are safe on disk.
            except Exception as error:
                failures += 1
                self._problem = _one_line(error)
                if failures == 1:
                    self._warn()
            with self._changed:
                self._attempts += 1
                self._changed.notify_all()
                # Entries may have come while others were delivered: without a failure, only none left is the end.
                if self._closing and (failures >= LAST_ATTEMPTS or not (failures or self._spool.num_pending())):
                    return
                pause = min(INTERVAL_SECONDS * 2**failures, LONGEST_PAUSE_SECONDS) if failures else INTERVAL_SECONDS
                if self._closing or self._urgent:
                    pause = min(pause, INTERVAL_SECONDS / 2) if failures else 0.01
                self._urgent = False
                self._changed.wait(pause)

    def _warn(self) -> None:
        """Log that entries have to wait; called once per outage."""
        log.warning(
            "MLflow at %s must accept data; got %s. To fix: check that it runs, and read its log. The search goes on; "
            "its data waits in %s and is sent by this or a later command",
            self._tracking.address,
            self._problem,
            self._spool.folder,
        )

    def flush(self, timeout_seconds: float) -> Undelivered:
        """Wait until everything so far is delivered, two attempts have failed, or the time is over."""
        end = time.monotonic() + timeout_seconds
        with self._changed:
            first = self._attempts
        while self._spool.num_pending() and self.is_alive():
            with self._changed:
                left = end - time.monotonic()
                if left <= 0 or (self._attempts >= first + 3 and self._problem):
                    break
                self._urgent = True
                self._changed.notify_all()
                self._changed.wait(min(left, INTERVAL_SECONDS))
        return self.undelivered()

    def close(self, timeout_seconds: float) -> Undelivered:
        """Deliver what can be delivered in the time given, and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.join(timeout_seconds)
        left = self.undelivered()
        if not self.is_alive():
            self._spool.close()
        return left

    def undelivered(self) -> Undelivered:
        """The entries that wait now."""
        pending = self._spool.num_pending()
        reason = self._problem or self._refusal or "no answer in time"
        return Undelivered(pending, self._rejected, reason, self._spool.folder)

    def find_run(self, experiment: str, key: str) -> str | None:
        """The id of the run with this key, where MLflow has it."""
        if key not in self._runs:
            found = self._connect().search_runs(
                [self._experiment(experiment)],
                f"tags.`{KEY_TAG}` = '{key}'",
                max_results=1,
                order_by=["start_time ASC"],
            )
            if not found:
                return None
            self._runs[key] = found[0].info.run_id
        return self._runs[key]

    def _connect(self) -> MlflowClient:
        if self._client is None:
            self._client = self._tracking.client()
        return self._client

    def _deliver(self) -> None:
        for segment in self._spool.segments():
            entries = segment.pending()
            for batch, position in _batches(entries):
                self._deliver_batch(batch)
                segment.acknowledge(position)
            self._spool.forget_if_abandoned(segment)

    def _deliver_batch(self, batch: list[Entry]) -> None:
        """Deliver entries together; where MLflow refuses them, one by one, to put aside only the one at fault."""
        try:
            self._send(batch)
        except (MlflowException, _RefusedError) as error:
            if isinstance(error, MlflowException) and error.error_code not in PERMANENT:
                raise
            if len(batch) > 1:
                for entry in batch:
                    self._deliver_batch([entry])
                return
            self._refusal = _one_line(error)
            self._spool.reject(batch[0], self._refusal)
            self._rejected += 1

    def _send(self, batch: list[Entry]) -> None:
        senders = {
            "experiment": self._send_experiment,
            "run": self._send_run,
            "tags": self._send_tags,
            "files": self._send_files,
            "end": self._send_end,
            "best": self._send_best,
        }
        first = batch[0]
        try:
            if first["do"] == "metrics":
                self._send_metrics(batch)
            else:
                senders[first["do"]](first)
        except (KeyError, TypeError) as error:  # a damaged line of the spool
            raise _RefusedError(f"an entry that cannot be understood: {error!r}") from error

    def _send_experiment(self, entry: Entry) -> None:
        experiment = self._experiment(entry["experiment"])
        for name, value in entry["tags"].items():
            self._connect().set_experiment_tag(experiment, name, value)

    def _send_run(self, entry: Entry) -> None:
        client, key = self._connect(), run_key(entry["study"], entry["cell"], entry["trial"])
        tags = {**entry["tags"], KEY_TAG: key}
        if entry["trial"]:
            tags["mlflow.parentRunId"] = self._existing_run({**entry, "trial": ""})
        run_id = self.find_run(entry["experiment"], key)
        if run_id is None:
            experiment = self._experiment(entry["experiment"])
            run_id = client.create_run(
                experiment, start_time=entry["time"], tags=tags, run_name=entry["name"]
            ).info.run_id
            self._runs[key] = run_id
        run = client.get_run(run_id)
        if run.info.status != "RUNNING":
            client.update_run(run_id, status="RUNNING")
        self._log_params(run, entry["params"], tags)

    def _send_metrics(self, batch: list[Entry]) -> None:
        """Several reports, of any runs, as one log_batch for each run."""
        points: dict[str, list[Metric]] = {}
        for entry in batch:
            run_id = self._existing_run(entry)
            for name, value in entry["metrics"].items():
                known = self._known_steps(run_id, name)
                # Kept as known only after MLflow took it; within the batch, the first report of a step counts.
                if entry["step"] in known or any(
                    (p.key, p.step) == (name, entry["step"]) for p in points.get(run_id, ())
                ):
                    continue
                points.setdefault(run_id, []).append(Metric(name, value, entry["time"], entry["step"]))
        for run_id, metrics in points.items():
            for some in _chunks(metrics, MAX_METRICS):
                self._connect().log_batch(run_id, metrics=some)
                for point in some:
                    self._steps[run_id, point.key].add(point.step)

    def _send_tags(self, entry: Entry) -> None:
        self._log_params(self._connect().get_run(self._existing_run(entry)), {}, entry["tags"])

    def _send_files(self, entry: Entry) -> None:
        folder = self._spool.attachments / entry["folder"]
        if not folder.is_dir():
            raise _RefusedError(f"attached files that are gone: {folder}")
        client, run_id = self._connect(), self._existing_run(entry)
        here = self._tracking.here(client.get_run(run_id).info.artifact_uri)
        if here is None:
            client.log_artifacts(run_id, str(folder))
        else:
            shutil.copytree(folder, here, dirs_exist_ok=True)
        shutil.rmtree(folder)

    def _send_end(self, entry: Entry) -> None:
        self._connect().set_terminated(self._existing_run(entry), status=entry["status"], end_time=entry["time"])

    def _send_best(self, entry: Entry) -> None:
        """Params cannot change in MLflow: where a resumed search found a better trial, a tag names theirs."""
        client = self._connect()
        parent = client.get_run(self._existing_run({**entry, "trial": ""}))
        best = client.get_run(self._existing_run(entry))
        owner = parent.data.tags.get("params of trial", entry["trial"])
        tags = {"best trial": entry["trial"], "best run": best.info.run_id, "params of trial": owner}
        self._log_params(parent, best.data.params if owner == entry["trial"] else {}, tags)
        wanted = {**best.data.metrics, **entry["metrics"]}
        # NaN is not even equal to itself.
        changed = {
            name: value
            for name, value in wanted.items()
            if not (name in parent.data.metrics and _same(parent.data.metrics[name], value))
        }
        # Step 0 throughout: MLflow shows the value of the highest step, and a later best may have fewer audio seconds.
        metrics = [Metric(name, value, entry["time"], 0) for name, value in changed.items()]
        for some in _chunks(metrics, MAX_METRICS):
            client.log_batch(parent.info.run_id, metrics=some)

    def _log_params(self, run: Run, params: dict[str, str], tags: dict[str, str]) -> None:
        """Params that the run does not have, and all tags."""
        new = [Param(name, value) for name, value in params.items() if name not in run.data.params]
        for some in _chunks(new, MAX_PARAMS):
            self._connect().log_batch(run.info.run_id, params=some)
        changed = [RunTag(name, value) for name, value in tags.items() if run.data.tags.get(name) != value]
        for some in _chunks(changed, MAX_PARAMS):
            self._connect().log_batch(run.info.run_id, tags=some)

    def _existing_run(self, entry: Entry) -> str:
        run_id = self.find_run(entry["experiment"], run_key(entry["study"], entry["cell"], entry["trial"]))
        if run_id is None:
            raise _RefusedError(f"no run of cell '{entry['cell']}', trial '{entry['trial']}' was started")
        return run_id

    def _known_steps(self, run_id: str, name: str) -> set[int]:
        """Steps of a metric that MLflow already has: a resumed search reports some of them again."""
        if (run_id, name) not in self._steps:
            self._steps[run_id, name] = {point.step for point in self._connect().get_metric_history(run_id, name)}
        return self._steps[run_id, name]

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            client = self._connect()
            found = client.get_experiment_by_name(name)
            if found is None:
                location = self._tracking.artifacts.as_uri() if self._tracking.is_local else None
                self._experiments[name] = client.create_experiment(name, artifact_location=location)
            else:
                if found.lifecycle_stage == "deleted":
                    client.restore_experiment(found.experiment_id)
                self._experiments[name] = found.experiment_id
        return self._experiments[name]


def run_key(study: str, cell: str, trial: str) -> str:
    """The key of a run; an empty trial is the cell's own run."""
    return signature(study, cell, trial)


def _batches(entries: list[tuple[Entry, int]]) -> Iterator[tuple[list[Entry], int]]:
    """Consecutive reports together, everything else alone; with the position after each batch."""
    batch: list[Entry] = []
    position = 0
    for entry, end in entries:
        if batch and (entry["do"] != "metrics" or len(batch) == MAX_METRICS):
            yield batch, position
            batch = []
        if entry["do"] == "metrics":
            batch.append(entry)
        else:
            yield [entry], end
        position = end
    if batch:
        yield batch, position


def _same(known: float, value: float) -> bool:
    """Whether MLflow has the value; instead of infinity it keeps the largest number there is."""
    largest = sys.float_info.max
    return known == min(max(value, -largest), largest) or (math.isnan(known) and math.isnan(value))


def _one_line(error: BaseException) -> str:
    """The error with its innermost cause, or that alone, where MLflow wraps a refused connection four times."""
    root = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    texts = [" ".join(str(part).split())[:160] or type(part).__name__ for part in (error, root)]
    if root is not error and "failed with exception" in texts[0]:
        return texts[1]
    return texts[0] if root is error or texts[1] in texts[0] else f"{texts[0]} ... {texts[1]}"


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = list(items)
    return (items[start : start + size] for start in range(0, len(items), size))
