"""Tune's callbacks turned into trial.json files and events, in the driver; trials that fall silent are ended."""

import itertools
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ray
from ray import cloudpickle, tune

from vimss.errors import VimssError
from vimss.experiment import Event, TrialEnded, TrialReported, TrialStarted
from vimss.storage import publish
from vimss.study import OBJECTIVE, RECORD, TrialRecord, read_record, write_record
from vimss.train.distribute import CHECKPOINTS, PROGRESS, checkpoint_name
from vimss.trial import TrialPlan

LOST = "its process has ended without a word (killed, or out of memory); the same command resumes it"
"""Message of a trial whose process is gone."""

INTERVALS = 10.0
"""A trial may be silent for this many of its longest intervals between reports."""

LOOK_SECONDS = 1.0
"""Between two looks at the running trials."""

_METRICS = (
    "audio_seconds",
    OBJECTIVE,
    "valid_loss_raw",
    "train_loss",
    "learning_rate",
    "steps",
    "audio_seconds_per_second",
    "loader_wait",
    "micro_batch",
    "lost_clips",
    "mixture_level_db",
    "turned_down",
    "stopped_early",
)


class Observer(tune.Callback):
    """Turns Tune's callbacks into trial.json files and events. Lives in the driver."""

    def __init__(self, plan: TrialPlan, reporters: tuple[Callable[[Event], None], ...]) -> None:
        self.plan = plan
        self.reporters = reporters
        self.records: dict[str, TrialRecord] = {}
        self.signs: dict[str, Signs] = {}
        """Of the trials that run."""
        self.looked = 0.0
        self.ended: dict[str, str] = {}
        """Trials that were ended here, and why."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore that we do not use; reporters hold threads and connections.
        return {**self.__dict__, "reporters": ()}

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """End the trials that have been silent for too long; Tune calls this several times a second."""
        now = time.monotonic()
        if now - self.looked < LOOK_SECONDS:
            return
        self.looked = now
        for trial in trials:
            signs, actor = self.signs.get(trial.trial_id), trial.temporary_state.ray_actor
            if signs is None or actor is None or trial.trial_id in self.ended:
                continue
            signs.look(now)
            limit = max(self.plan.place.silent_seconds, INTERVALS * signs.longest_interval)
            if now - signs.last > limit:
                self.ended[trial.trial_id] = (
                    f"no progress for {now - signs.last:.0f} s, at most {limit:.0f} allowed (silent_seconds of the "
                    "place): it was ended, and the same command resumes it"
                )
                # Its workers, where it has some, end with it. Tune hears of it as an error.
                ray.kill(actor)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Begin a record, or go on with that of an earlier search."""
        cell, settings, chosen = self.plan.resolve(trial.config)
        folder = self.plan.trial_folder(cell, settings)
        if (folder / RECORD).exists():
            # Cut off, or failed: it goes on from its checkpoint, and what it reported before still counts.
            record = read_record(folder / RECORD).model_copy(update={"state": "running", "message": ""})
        else:
            record = TrialRecord(
                cell=cell.name,
                trial=folder.name,
                state="running",
                chosen=chosen,
                settings=settings,
                begun=time.time(),
                folder=folder,
            )
        self.signs[trial.trial_id] = Signs(folder / PROGRESS, time.monotonic())
        self._keep(trial.trial_id, record)
        self._tell(TrialStarted(record.cell, record.trial, settings, chosen))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Add a report to the record."""
        self.signs[trial.trial_id].report(time.monotonic())
        metrics = {key: float(result[key]) for key in _METRICS if key in result and math.isfinite(result[key])}
        if OBJECTIVE not in metrics:
            return
        record = self.records[trial.trial_id]
        # After an interruption a report may come a second time.
        earlier = itertools.takewhile(lambda report: report["steps"] < metrics["steps"], record.reports)
        self._keep(trial.trial_id, record.model_copy(update={"reports": (*earlier, metrics)}))
        self._tell(TrialReported(record.cell, record.trial, metrics["audio_seconds"], metrics))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Close the record of a trial that ended by itself or was pruned."""
        record = self.records[trial.trial_id]
        last = record.reports[-1] if record.reports else {}
        budget = self.plan.resolve(trial.config)[1].training.audio_seconds
        # Training that lost its patience came to its own end too; ASHA only ever stops what would have gone on.
        done = last.get("audio_seconds", 0.0) >= budget or bool(last.get("stopped_early"))
        self._finish(trial, "finished" if done else "pruned", "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Close the record of a trial that failed, that lost its process, or that was ended for its silence."""
        error = _pickled_error(trial)
        if trial.trial_id in self.ended:
            self._finish(trial, "interrupted", self.ended[trial.trial_id])
        elif isinstance(error, ray.exceptions.RayActorError):
            self._finish(trial, "interrupted", LOST)
        else:
            self._finish(trial, "failed", error_message(error, trial))

    def _finish(self, trial: Any, state: Literal["finished", "pruned", "failed", "interrupted"], message: str) -> None:
        self.signs.pop(trial.trial_id, None)
        record = self.records[trial.trial_id].model_copy(update={"state": state, "message": message})
        for report in sorted(record.reports, key=lambda report: report[OBJECTIVE]):
            model = record.folder / CHECKPOINTS / checkpoint_name(report["steps"]) / "model"
            if model.is_dir():
                with publish(record.folder / "model") as temporary:
                    shutil.copytree(model, temporary)
                break
        self._keep(trial.trial_id, record)
        self._tell(TrialEnded(record.cell, record.trial, state, record.folder, message))

    def _keep(self, trial_id: str, record: TrialRecord) -> None:
        self.records[trial_id] = record
        write_record(record)

    def _tell(self, event: Event) -> None:
        for reporter in self.reporters:
            reporter(event)


class Signs:
    """The signs of life of one trial; seconds are those of a clock that never jumps."""

    def __init__(self, progress: Path, now: float) -> None:
        self.progress = progress
        self.seen = self._read()
        self.last = now
        self.reported = now
        self.longest_interval = 0.0
        """From the beginning to the first report, or between two."""

    def report(self, now: float) -> None:
        """The trial has reported."""
        self.longest_interval = max(self.longest_interval, now - self.reported)
        self.last = self.reported = now

    def look(self, now: float) -> None:
        """Whether training has gone on since the last look."""
        seen = self._read()
        if seen != self.seen:
            self.seen, self.last = seen, now

    def _read(self) -> str:
        try:
            return self.progress.read_text(encoding="utf-8")
        except OSError:  # not written yet, or a mount that does not answer
            return ""


def _pickled_error(trial: Any) -> BaseException | None:
    """The exception that ended a trial, as Tune keeps it; None where it cannot be pickled or loaded."""
    try:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes()) if trial.pickled_error_file else None
    except Exception:  # what another process pickled may fail to load in any way; its text is read instead
        return None


def error_message(error: BaseException | None, trial: Any) -> str:
    """The message of the exception that ended a trial, without the tracebacks of the processes it came through."""
    while error is not None:
        if isinstance(error, VimssError):
            return str(error)
        error = getattr(error, "cause", None) or error.__cause__
    text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ours = [line.partition(": ")[2] for line in lines if line.startswith("vimss.errors.")]
    return (ours or lines or ["unknown"])[-1]
