"""Tune's reports and callbacks as trial.json files and events, in the driver; trials without progress are ended."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any, Literal

import ray
from ray import tune

from vimss.errors import OutageError, PlaceError
from vimss.runtime import WarningReader, check_head, head_answers, is_forwarding
from vimss.runtime.placement import remove_orphans, waiting_groups
from vimss.search.events import Event, TrialContinues, TrialEnded, TrialReported, TrialStarted, TrialWaits
from vimss.search.failures import LOST, error_message, lost_message, pickled_error, was_interrupted, was_lost
from vimss.search.heartbeat import Heartbeat
from vimss.search.lease import check_lease
from vimss.search.remote import checkpoint_at_hand
from vimss.search.room import concurrent_trials, nodes_of, waits_for
from vimss.search.study import RECORD, TrialRecord, read_record, write_record
from vimss.search.trial import RUNG, TrialPlan
from vimss.storage import atomic_write, copy_folder, origin_of, outlast
from vimss.train.checkpoint import is_whole
from vimss.train.config import reaches
from vimss.train.distribute import checkpoint_name
from vimss.train.own_copy import CHECKPOINTS, PROGRESS, STOP

log = logging.getLogger(__name__)

INTERRUPTED = "the search was interrupted; the same command resumes it"

LOOK_SECONDS = 1.0
"""Between two looks at the running trials."""

SWEEP_SECONDS = 60.0
"""After a trial began or ended: in this time it turns out what dead ones hold."""

QUEUE_SECONDS = 10.0
"""Between two looks at the nodes of a cluster and at its queue."""


class Observer(tune.Callback):
    """Keeps the records, prunes by them and reports events while Tune runs. Lives in the driver."""

    def __init__(
        self,
        plan: TrialPlan,
        reporters: tuple[Callable[[Event], None], ...],
        validation: str,
        positions: Iterator[int],
        prune: Callable[[TrialRecord], float | None] = lambda _: None,
        provenance: Mapping[str, str] = MappingProxyType({}),
        set_limit: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.plan = plan
        self.home = origin_of(plan.folder)
        """Where the study lies, if behind a URL."""
        self.reporters = reporters
        self.validation = validation
        """Signature of the validation set that the trials are scored on."""
        self.positions = positions
        """The positions of the next events in the study."""
        self.prune = prune
        """The audio seconds at which a trial is pruned by its last report, or None."""
        self.provenance = dict(provenance)
        """Of the code and the machine that train."""
        self.set_limit = set_limit
        """Called with how many trials may run or wait in Ray's queue, as nodes join and leave."""
        self.records: dict[str, TrialRecord] = {}
        self.heartbeats: dict[str, Heartbeat] = {}
        """Heartbeats of the running trials."""
        self.last_look = self.last_change = time.monotonic()
        """When the trials were looked at, and when one began or ended."""
        self.last_queue = time.monotonic()
        """When the cluster's nodes and queue were looked at."""
        self.waited = 0.0
        """Seconds for which a trial has been in the queue at each look."""
        self.waited_said = 0.0
        """How many of them there were when it was last said what it waits for."""
        self.warnings: dict[str, WarningReader] = {}
        """Readers of the running trials' warnings, where those go to the terminal."""
        self.odd: set[str] = set()
        """Figures that were not finite."""
        self.ended: dict[str, str] = {}
        """Trials that were ended here, and why."""
        self.is_ending = False
        """Whether the search was told to end."""
        self.asked: set[str] = set()
        """Trials that were asked to write a checkpoint and end, since the search was told to end."""
        self.give_up = 0.0
        """When their time to do so is over."""
        self.error: Exception | None = None
        """The first error of our own, which Tune would hide behind its own or take for the trial's."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore that we do not use; reporters hold threads and connections.
        return {}

    def end(self) -> None:
        """Ask the running trials to write a checkpoint and end; called by a signal's handler, so that it only notes."""
        self.is_ending = True

    def interrupt(self) -> None:
        """Leave the trials that still run to be resumed, since Tune itself has ended."""
        for trial_id in list(self.heartbeats):
            self._close(trial_id, "interrupted", INTERRUPTED)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """End trials that have been silent for too long, and free what dead ones hold; several times a second."""
        if self.error is not None:
            raise self.error
        with self._own_errors():
            check_head()
            if self.home is not None:
                check_lease(self.home)
        now = time.monotonic()
        if self.is_ending:
            self._end_in_order(now)
        passed = now - self.last_look
        if passed < LOOK_SECONDS:
            return
        self.last_look = now
        if passed > 2 * LOOK_SECONDS:
            self.last_change += passed
            for heartbeat in self.heartbeats.values():
                heartbeat.pause(passed)
        for trial_id in self.warnings:
            self._forward_warnings(trial_id)
        for trial in trials:
            self._end_if_silent(trial, now)
        if not self.plan.place.ray_address:
            self._check_that_something_runs(trials, now)
        elif now - self.last_queue >= QUEUE_SECONDS and head_answers():
            self._look_at_the_queue(now)
        if self.plan.place.workers_per_trial > 1 and (not self.heartbeats or now - self.last_change <= SWEEP_SECONDS):
            self._free_what_dead_ones_hold()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Create a record, or continue that of an earlier search."""
        with self._own_errors():
            self._begin(trial)

    def take_report(self, trial: Any, metrics: dict[str, float]) -> bool:
        """Add a report to the record; return whether the trial is pruned by it.

        Called by Tune's scheduler, before Tune calls its callbacks. So that the same is decided after an interruption,
        when the report comes a second time, the decision is made from what is on disk.
        """
        with self._own_errors():
            self.heartbeats[trial.trial_id].report(time.monotonic())
            record = self.records[trial.trial_id]
            self._warn_of_odd(record, metrics)
            record = record.with_report(metrics, next(self.positions))
            self._keep(trial.trial_id, record)
            self._report(TrialReported(record.cell, record.trial, metrics["audio_seconds"], metrics))
            rung = None if RUNG in trial.config or self._is_done(trial, record) else self.prune(record)
            self.records[trial.trial_id] = record.model_copy(update={"rung": rung})
            return rung is not None

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Close the record of a trial that ended by itself or was pruned."""
        with self._own_errors():
            done = self._is_done(trial, self.records[trial.trial_id])
            if done or RUNG not in trial.config:
                self._close(trial.trial_id, "finished" if done else "pruned", "")
            else:
                self._close(trial.trial_id, "waiting", "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Close the record of a trial that failed, that was lost, or that was ended for its silence."""
        with self._own_errors():
            if trial.trial_id not in self.records:
                self._begin(trial)  # lost before it began
            error = pickled_error(trial)
            if self.error is not None:
                self._close(trial.trial_id, "interrupted", str(self.error))
                return
            if self.is_ending and (was_lost(error) or was_interrupted(error)):
                self._close(trial.trial_id, "interrupted", INTERRUPTED)
                return
            if trial.trial_id in self.ended:
                reason = self.ended[trial.trial_id]
            elif was_lost(error):
                reason = LOST
            elif was_interrupted(error):
                reason = error_message(error, trial).partition(". To fix: ")[0]
            else:
                self._close(trial.trial_id, "failed", error_message(error, trial))
                return
            message = lost_message(reason, self.records[trial.trial_id].retries, self.plan.place.max_retries)
            self._close(trial.trial_id, "interrupted", message)

    def _is_done(self, trial: Any, record: TrialRecord) -> bool:
        """Whether a training is at its own end: it has its budget, or lost its patience."""
        last = record.reports[-1] if record.reports else {}
        budget = self.plan.resolve(trial.config)[1].training.audio_seconds
        return reaches(last.get("audio_seconds", 0.0), budget) or bool(last.get("stopped_early"))

    def _warn_of_odd(self, record: TrialRecord, metrics: dict[str, float]) -> None:
        """Say once of each figure that it is not finite; it is kept as it is."""
        for name, value in metrics.items():
            if not math.isfinite(value) and name not in self.odd:
                self.odd.add(name)
                log.warning(
                    "%s is %s in trial %s at %.0f audio seconds, and kept as it is",
                    name,
                    value,
                    record.trial,
                    metrics["audio_seconds"],
                )

    def _begin(self, trial: Any) -> None:
        cell, settings, chosen = self.plan.resolve(trial.config)
        folder = self.plan.trial_folder(cell, settings)
        waited = False
        if (folder / RECORD).exists():
            # Interrupted, failed or waiting: it resumes from its checkpoint, and its earlier reports still count.
            record = read_record(folder / RECORD)
            waited = record.state == "waiting"
            again = {"cell": cell.name, "chosen": chosen, "settings": settings, "state": "running", "message": ""}
            record = record.model_copy(update={**again, "rung": None, "ended": None, "provenance": self.provenance})
            if record.validation != self.validation:
                # The training will score its checkpoint again on the current validation set.
                record = record.moved_to(self.validation)
        else:
            record = TrialRecord(
                cell=cell.name,
                trial=folder.name,
                is_control=cell.is_control,
                state="running",
                chosen=chosen,
                settings=settings,
                figure=self.plan.experiment.figure,
                validation=self.validation,
                drawn_at=next(self.positions),
                begun=time.time(),
                provenance=self.provenance,
                folder=folder,
            )
        place, now = self.plan.place, time.monotonic()
        shared = bool(place.ray_address) and place.workers_per_trial > 1
        self.heartbeats[trial.trial_id] = Heartbeat(folder / PROGRESS, now, waits_for_cores=shared)
        if is_forwarding():
            self.warnings[trial.trial_id] = WarningReader(folder)
        self.last_change = now
        self._keep(trial.trial_id, record)
        begun = TrialStarted(record.cell, record.trial, settings, chosen)
        self._report(TrialContinues(record.cell, record.trial) if waited else begun)

    def _close(
        self, trial_id: str, state: Literal["waiting", "finished", "pruned", "failed", "interrupted"], message: str
    ) -> None:
        self.heartbeats.pop(trial_id, None)
        if trial_id in self.asked:
            (self.records[trial_id].folder / STOP).unlink(missing_ok=True)
        self._forward_warnings(trial_id)
        self.warnings.pop(trial_id, None)
        self.last_change = time.monotonic()
        record = self.records[trial_id]
        resumes = state in {"interrupted", "failed"}
        try:
            outlast(lambda: _keep_model(record), lambda: not (resumes or self.is_ending))
        except OutageError as error:
            if not resumes and not self.is_ending:
                raise
            log.warning("the model of trial %s is not kept yet: %s", record.trial, error)
            if not resumes:  # it ends again from its checkpoint, since without a model it must not count
                state, message = "interrupted", INTERRUPTED
        rung = record.rung if state == "pruned" else None
        update: dict[str, Any] = {"state": state, "message": message, "rung": rung}
        if state != "waiting":
            update["ended"] = time.time()
        if state != "interrupted":
            update["ended_at"] = next(self.positions)
        record = record.model_copy(update=update)
        self._keep(trial_id, record)
        if state == "waiting":
            self._report(TrialWaits(record.cell, record.trial))
        else:
            self._report(TrialEnded(record.cell, record.trial, state, record.folder, message))

    def _end_in_order(self, now: float) -> None:
        """KeyboardInterrupt when the trials that ran have ended, or have had their time; no later one counts."""
        seconds = self.plan.place.grace_seconds
        if not self.give_up:
            self.give_up = now + seconds
            self.asked = set(self.heartbeats)
            log.warning(
                "stopping: trainings write a checkpoint, for up to %.0f s; a second signal stops at once",
                seconds,
            )
            for trial_id in self.asked:
                (self.records[trial_id].folder / STOP).touch()
        if now > self.give_up or not self.asked & self.heartbeats.keys():
            raise KeyboardInterrupt

    def _forward_warnings(self, trial_id: str) -> None:
        """Log what a trial's processes have warned of since the last call."""
        if trial_id in self.warnings:
            for text in self.warnings[trial_id].read():
                log.warning("trial %s: %s", self.records[trial_id].trial, text)

    def _end_if_silent(self, trial: Any, now: float) -> None:
        heartbeat, actor = self.heartbeats.get(trial.trial_id), trial.temporary_state.ray_actor
        if heartbeat is None or actor is None or trial.trial_id in self.ended:
            return
        heartbeat.poll(now)
        message = heartbeat.overdue(now, self.plan.place.silent_seconds)
        if message:
            self.ended[trial.trial_id] = message
            # Its workers, where it has some, end with it. Tune then reports an error of the trial.
            ray.kill(actor)

    def _free_what_dead_ones_hold(self) -> None:
        """Best done, but no reason to end: where it cannot be done, a head that is lost is told elsewhere."""
        try:
            remove_orphans()
        except Exception:  # Ray's private tables may answer with anything
            log.debug("placement groups could not be listed", exc_info=True)

    def _check_that_something_runs(self, trials: list[Any], now: float) -> None:
        """PlaceError where trials wait on this machine, which no other search shares, and none has run for too long."""
        waiting = sum(trial.status == "PENDING" for trial in trials)
        if self.heartbeats or not waiting or now - self.last_change <= self.plan.place.silent_seconds:
            return
        free = ray.available_resources()
        raise PlaceError(
            "trials must begin within silent_seconds of the place",
            got=f"{waiting} that wait, for {now - self.last_change:.0f} s, with "
            f"{free.get('CPU', 0):g} CPU, {free.get('GPU', 0):g} GPU free",
            fix="run the same command again, which resumes them; lower cpus_per_worker where no node has as many",
        )

    def _look_at_the_queue(self, now: float) -> None:
        """Let as many trials run as the cluster's nodes hold now; say what those wait for that are in Ray's queue.

        It is said at the second look at which one waits, and then each time silent_seconds have passed.
        """
        place, passed = self.plan.place, now - self.last_queue
        self.last_queue = now
        try:
            nodes, waiting, free = nodes_of(place), waiting_groups(), ray.available_resources()
        except Exception:  # Ray's private tables may answer with anything
            log.debug("the nodes and the queue could not be listed", exc_info=True)
            return
        with suppress(PlaceError):  # none at the moment: nodes may come back
            self.set_limit(concurrent_trials(place, nodes))
        if not waiting:
            self.waited = self.waited_said = 0.0
            return
        self.waited += passed
        if self.waited < 2 * QUEUE_SECONDS or 0 < self.waited_said > self.waited - place.silent_seconds:
            return
        self.waited_said = self.waited
        what = "a trial waits" if waiting == 1 else f"{waiting} trials wait"
        log.warning("%s in Ray's queue for %s", what, waits_for(place, nodes, free))

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """Keep our own error (a full disk, for example) for `search`, which raises it after Tune has ended."""
        try:
            yield
        # Tune would wrap any error in a traceback of its own; it is raised again.
        except Exception as error:
            self.error = self.error or error
            raise

    def _keep(self, trial_id: str, record: TrialRecord) -> None:
        self.records[trial_id] = record
        write_record(record)

    def _report(self, event: Event) -> None:
        for reporter in self.reporters:
            reporter(event)


def _keep_model(record: TrialRecord) -> None:
    """Copy the weights of the best checkpoint that there is into the trial's folder."""
    for report in sorted(record.reports, key=lambda report: record.figure.rank(report[record.figure.name])):
        model = record.folder / CHECKPOINTS / checkpoint_name(report["steps"]) / "model"
        # A worker may delete a checkpoint meanwhile, where a trial was stopped: the next best one is kept then.
        with checkpoint_at_hand(model.parent):
            try:
                if model.is_dir() and is_whole(model.parent):
                    with atomic_write(record.folder / "model") as temporary:
                        copy_folder(model, temporary)
                    return
            except FileNotFoundError:
                if model.is_dir():
                    raise
