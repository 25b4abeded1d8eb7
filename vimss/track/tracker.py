"""The events of a search, written down for MLflow.

    study = TrackedStudy("quickstart", folder.name, "Which site ...?", {"manifest": digest, **provenance()})
    with Tracker(Tracking(store), study) as tracker:
        tracker(CellStarted("search", {}, is_control=False))
        tracker(TrialStarted("search", "a1b2", settings, {"model.site": "decoder"}))
        tracker(TrialReported("search", "a1b2", 120.0, {"objective": 3.1}))

A cell is a parent run and a trial its child; the step of every curve is audio seconds. The same events again, as
a resumed search reports them, change nothing.
"""

import json
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from vimss.axes import Scalar
from vimss.errors import PlaceError, StorageError
from vimss.search.events import (
    CellEnded,
    CellStarted,
    Event,
    TrialContinues,
    TrialEnded,
    TrialReported,
    TrialStarted,
    TrialWaits,
)
from vimss.track.delivery import Delivery, Undelivered, run_key
from vimss.track.spool import Spool
from vimss.track.store import VIEW_TAG, Tracking

STATUS = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}

MAX_NAME, MAX_TAG = 200, 5000
"""Characters; MLflow's limits are 250 and 8000."""

PACKAGES = ("vimss", "torch", "ray", "optuna", "mlflow", "numpy")
"""Whose versions a run records."""

FLUSH_SECONDS = 60.0


@dataclass(frozen=True)
class TrackedStudy:
    """Facts that all runs of a search share."""

    experiment: str
    """Name of the experiment, and of the registered model."""
    signature: str
    """Name of the study's folder, which ends with its signature."""
    description: str = ""
    """Markdown that MLflow shows above the runs: the question and what was expected."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of every run: seed, world size, manifest digest, and `provenance()`."""
    metrics: tuple[str, ...] = ()
    """Those that the table of runs shows, the objective first."""
    varied: tuple[str, ...] = ()
    """Key paths of the settings that differ between runs (compared or tuned), which the table shows beside them."""
    cells: Mapping[str, str] = field(default_factory=dict)
    """Name of a cell to that of its folder, which distinguishes it from an earlier cell of the same
    name, for example with another budget."""


class Tracker:
    """A callable for a search's events; it writes them down and returns, and a thread brings them to MLflow."""

    def __init__(self, tracking: Tracking, study: TrackedStudy) -> None:
        self.tracking = tracking
        self.study = study
        tracking.make()
        self._spool = Spool(tracking.spool)
        self._delivery = Delivery(tracking, self._spool)
        self._write("experiment", "", "", tags=_experiment_tags(study))
        self._delivery.start()

    def __call__(self, event: Event) -> None:
        """Write an event down. StorageError where the disk is full; MLflow's troubles are never raised here."""
        if isinstance(event, CellStarted):
            self._start_cell(event)
        elif isinstance(event, TrialStarted):
            self._start_trial(event)
        elif isinstance(event, TrialReported):
            metrics = {_metric_name(name): float(value) for name, value in event.metrics.items()}
            self._write("metrics", event.cell, event.trial, step=round(event.audio_seconds), metrics=metrics)
        elif isinstance(event, TrialWaits | TrialContinues):
            # MLflow's run stays open with a tag, since MLflow has no status for a waiting run.
            state = "waiting" if isinstance(event, TrialWaits) else "running"
            self._write("tags", event.cell, event.trial, tags={"state": state})
        elif isinstance(event, TrialEnded):
            self._end_trial(event)
        elif isinstance(event, CellEnded):
            self._end_cell(event)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def log_files(self, cell: str, trial: str, files: Mapping[str, bytes | Path]) -> None:
        """Keep files with a trial's run, or with the cell's where `trial` is empty.

        Args:
            cell: Name of the cell.
            trial: Name of the trial, or "".
            files: By their name in MLflow, such as "audio/mix.wav"; MLflow shows png, html, wav, mp4, json and csv.

        """
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise StorageError(
                    "an artifact's name must be a path inside the run",
                    got=repr(name),
                    fix="write for example audio/mix.wav",
                )
        self._write("files", cell, trial, folder=self._spool.attach(files))

    def describe(self, cell: str, trial: str, text: str) -> None:
        """Set the description (Markdown) that MLflow shows on a run."""
        self._write("tags", cell, trial, tags={"mlflow.note.content": text[:MAX_TAG]})

    def run_id(self, cell: str, trial: str) -> str:
        """MLflow's id of a trial's run, or of the cell's where `trial` is empty; PlaceError while MLflow lacks it."""
        left = self.flush(FLUSH_SECONDS)
        found = None if left.pending else self._delivery.find_run(self.study.experiment, self._key(cell, trial))
        if found is None:
            raise PlaceError(
                f"MLflow at {self.tracking.address} must hold the run of trial '{trial}' in cell '{cell}'",
                got=left.reason if left else "no such run",
                fix="start the tracking server, then run the same command again",
            )
        return found

    def flush(self, timeout_seconds: float = FLUSH_SECONDS) -> Undelivered:
        """Wait until all is delivered, or MLflow does not answer, or the time is over; returns what is left."""
        return self._delivery.flush(timeout_seconds)

    def close(self, timeout_seconds: float = 30.0) -> Undelivered:
        """Deliver what can be delivered in that time, and stop; what is left is sent at the next start."""
        return self._delivery.close(timeout_seconds)

    def _start_cell(self, event: CellStarted) -> None:
        overrides = {key: _text(value) for key, value in event.overrides.items()}
        kind = "control" if event.is_control else "cell"
        lines = [f"**{kind.capitalize()} {event.cell}**", *(f"- `{key}`: {value}" for key, value in overrides.items())]
        tags = {"kind": kind, "mlflow.note.content": "\n".join(lines)}
        # Every run has the experiment's seed, but for a cell with its own.
        tags |= {"seed": overrides["seed"]} if "seed" in overrides else {}
        # Not as params yet: those are the best trial's, whose settings contain these.
        self._start(
            event.cell, "", event.cell, {}, {**tags, **{f"compare.{key}": text for key, text in overrides.items()}}
        )

    def _start_trial(self, event: TrialStarted) -> None:
        settings = event.settings.model_dump(mode="json") if event.settings else {}
        chosen = [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in event.chosen.items()]
        name = " ".join([event.trial, *chosen])[:MAX_NAME]
        # Settings that go together in no network have no more than what was chosen.
        params = _flatten(settings) or {key: _text(value) for key, value in event.chosen.items()}
        seed = {"seed": str(event.settings.seed)} if event.settings else {}
        self._start(event.cell, event.trial, name, params, {"kind": "trial", **seed})
        content = json.dumps(settings, indent=1, sort_keys=True).encode()
        self.log_files(event.cell, event.trial, {"settings.json": content})

    def _start(self, cell: str, trial: str, name: str, params: dict[str, str], tags: dict[str, str]) -> None:
        shared = {
            "signature": self.study.signature,
            "cell": cell,
            **({"trial": trial} if trial else {}),
            **self.study.tags,
        }
        self._write("run", cell, trial, name=name, params=params, tags={**shared, **tags})

    def _end_trial(self, event: TrialEnded) -> None:
        tags = {"state": event.state, "folder": str(event.folder)}
        if event.message:
            tags["mlflow.note.content"] = f"**{event.state}**: {event.message}"[:MAX_TAG]
        self._write("tags", event.cell, event.trial, tags=tags)
        self._write("end", event.cell, event.trial, status=STATUS[event.state])

    def _end_cell(self, event: CellEnded) -> None:
        if event.best:
            metrics = {_metric_name(name): float(value) for name, value in event.metrics.items()}
            self._write("best", event.cell, event.best, metrics=metrics)
        self._write("end", event.cell, "", status="FINISHED" if event.best else "FAILED")

    def _write(self, do: str, cell: str, trial: str, **content: Any) -> None:
        study, known = self.study, self.study.cells.get(cell, cell)
        where = {"experiment": study.experiment, "study": study.signature, "cell": known, "trial": trial}
        self._spool.append({"do": do, "time": time.time_ns() // 1_000_000, **where, **content})

    def _key(self, cell: str, trial: str) -> str:
        return run_key(self.study.signature, self.study.cells.get(cell, cell), trial)


def provenance() -> dict[str, str]:
    """Tags for the code that ran: versions, and the commit where the package lies in a git checkout."""
    tags = {f"version.{name}": metadata.version(name) for name in PACKAGES if _is_installed(name)}
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
        tags["mlflow.source.git.commit"] = done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass  # an installed wheel, or the copy of the code that a Ray job runs
    return tags


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _experiment_tags(study: TrackedStudy) -> dict[str, str]:
    columns = [f"metrics.`{_metric_name(name)}`" for name in study.metrics]
    columns += [f"params.`{key}`" for key in study.varied]
    view = {
        "orderByKey": "attributes.start_time",  # the only order that keeps trials below their cell
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "searchFilter": "",
        "selectedColumns": [*columns, "tags.`state`", "attributes.`Duration`"],
    }
    return {
        "mlflow.note.content": study.description[:MAX_TAG],
        "mlflow.experimentKind": "custom_model_development",  # training runs rather than traces of language models
        VIEW_TAG: json.dumps(view),
    }


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _text(value)
    return flat


def _text(value: Scalar | list[Any] | None) -> str:
    """One spelling per value, so that 1 and 1.0 are the same param."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.10g}" if isinstance(value, float) else str(value)
    return json.dumps(value)


def _short(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else _text(value)


def _metric_name(name: str) -> str:
    """MLflow allows letters, digits and these signs."""
    return re.sub(r"[^\w\-./: ]", "_", name)
