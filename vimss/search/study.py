"""Studies on disk: the record of each trial, and the best among them.

    study = in_cells(experiment, read_study(study_folder(experiment, manifest, store)))
    study.best(["search"]).folder / "model"

Needs neither Ray nor torch. A study is a folder per cell, and in it a folder per trial:

    CELL-SIGNATURE/TRIAL/trial.json    its settings, reports and state
    CELL-SIGNATURE/TRIAL/model/        its best weights
    CELL-SIGNATURE/TRIAL/files/        pictures and pages, for its run in MLflow; CELL-SIGNATURE/files/ for the cell's
    code/DIGEST.diff                   how the code of a trial differed from its commit

The draws, reports and ends of all trials are numbered in the order in which they came. So the records say what was
known whenever a search decided something, and every decision can be made again from them.

The signatures: a study's is that of its data and its validation set, a cell's that of what it fixes, and a trial's name
is that of its settings. So a study grows with its experiment. Which trials lie in a cell is decided by their settings
(see `in_cells`), wherever their folders are: more trials, other axes, cells or controls find what was trained before.
"""

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from vimss.axes import Axis, Scalar, topological_order
from vimss.config import Config, differences, parse_config, signature
from vimss.errors import ConfigError, DataError, TrainingError, VimssError
from vimss.experiment import Cell, Experiment, field_type
from vimss.renamed import current_key, with_current_names
from vimss.shards.manifest import Manifest
from vimss.storage import TEMPORARY, Store, atomic_write, finish_replacement, origin_of
from vimss.train.config import Settings, has_key, scored_sources, value_at
from vimss.train.figure import Figure
from vimss.train.objectives import figure_of
from vimss.yaml_files import MAX_NAME

RECORD = "trial.json"

FILES = "files"
"""Folder, in that of a trial or a cell, of the files that its run in MLflow holds too."""

COMPARE_FOLDER = "compare"
"""Folder of a study with what `vimss compare` wrote, in a folder for each split."""

CODE = "code"
"""Folder of a study for the changes of the code that no commit holds."""


class TrialRecord(Config):
    """The settings, reports and state of a trial; `trial.json` in its folder."""

    # Figures of reports may be anything, and JSON has no NaN.
    model_config = Config.model_config | {"allow_inf_nan": True, "ser_json_inf_nan": "strings"}

    cell: str
    trial: str = Field(description="signature of the settings; name of the folder")
    is_control: bool = Field(False, description="trained for a control: whatever its settings, no draw of a search")
    state: Literal["running", "waiting", "finished", "pruned", "failed", "interrupted"] = Field(
        description="running, interrupted, or waiting for others at the rung: the same search again resumes it"
    )
    chosen: dict[str, Scalar]
    settings: Settings | None = Field(description="null where what was drawn goes together in no network")
    reports: tuple[dict[str, float], ...] = ()
    figure: Figure = Field(figure_of(), description="by which reports, and so trials, are compared")
    validation: str = Field(
        "", description="signature of the validation set that the losses in `reports` belong to; empty of older records"
    )
    earlier: dict[str, tuple[dict[str, float], ...]] = Field(
        default_factory=dict, description="reports on other validation sets, by their signatures"
    )
    message: str = ""
    number: int | None = Field(
        None, description="its place among the trials of its cell, from 0; null of older records, and without a draw"
    )
    is_refused: bool = Field(False, description="a draw that cannot be trained, and so no trial, in place of `number`")
    draw_seed: int | None = Field(None, description="seed of the sampler for this draw; null as above")
    drawn_at: int = Field(0, description="position of the draw among the events of the study; 0 of older records")
    reported_at: dict[int, int] = Field(
        default_factory=dict, description="steps of a report to its position among the events of the study"
    )
    ended_at: int = Field(0, description="position of its end among the events of the study; 0 before")
    times: dict[int, float] = Field(
        default_factory=dict,
        description="steps of a report to when it came, in seconds since 1970; not in older records",
    )
    ended: float | None = Field(
        None, description="when it ended or was interrupted, in seconds since 1970; null before, and of older records"
    )
    provenance: dict[str, str] = Field(
        default_factory=dict, description="what trained it last: commit, versions, machine; empty of older records"
    )
    rung: float | None = Field(None, description="audio seconds at which the scheduler pruned it")
    is_continued: bool = Field(
        False, description="started by `vimss search --continue`: trains to its full budget and is never pruned"
    )
    retries: int = Field(
        0, description="how often the newest call of search started it again after it was lost; a new call counts anew"
    )
    begun: float = Field(description="seconds since 1970")
    folder: Path = Field(Path(), exclude=True)

    @property
    def best_report(self) -> dict[str, float]:
        """The report with the best figure; empty before the first."""
        return min(self.reports, key=lambda report: self.figure.rank(report[self.figure.name]), default={})

    @property
    def value(self) -> float:
        """The best value of the figure; before the first report the worst possible, which is infinite."""
        return self.best_report.get(self.figure.name, self.figure.worst)

    @property
    def scored_sources(self) -> int:
        """The most sources of the validation mixtures that the objective is a mean over; 0 without a network."""
        return scored_sources(self.settings) if self.settings else 0

    @property
    def counts(self) -> bool:
        """Whether it is one of the trials that an experiment asks for: older records do not say why they failed."""
        return not self.is_refused and (self.state != "failed" or self.number is not None)

    @property
    def is_unfinished_continuation(self) -> bool:
        """Whether it was started by `vimss search --continue` and has not ended yet."""
        return self.is_continued and self.state in {"running", "interrupted", "waiting"}

    @property
    def newest_time(self) -> float:
        """When it ended, in seconds since 1970; where it has not, or its process was killed, when it last reported."""
        return self.ended or max(self.times.values(), default=self.begun)

    @property
    def newest_position(self) -> int:
        """The position of its newest event in the study."""
        return max(self.drawn_at, self.ended_at, *self.reported_at.values(), 0)

    def position_of(self, report: Mapping[str, float]) -> int:
        """The position of a report among the events of the study; 0 in older records."""
        return self.reported_at.get(round(report.get("steps", 0)), 0)

    def with_report(self, metrics: dict[str, float], position: int) -> "TrialRecord":
        """The same with another report; one that comes again, after an interruption, keeps its position and time."""
        steps = round(metrics["steps"])
        earlier = itertools.takewhile(lambda report: report["steps"] < steps, self.reports)
        reported_at, times = {steps: position, **self.reported_at}, {steps: time.time(), **self.times}
        return self.model_copy(update={"reports": (*earlier, metrics), "reported_at": reported_at, "times": times})

    def as_of(self, position: int) -> "TrialRecord":
        """The record as it was before the event at this position."""
        update: dict[str, Any] = {
            "reports": tuple(report for report in self.reports if self.position_of(report) < position)
        }
        if self.ended_at >= position:
            update |= {"state": "running", "message": "", "rung": None, "ended_at": 0}
        return self.model_copy(update=update)

    def moved_to(self, validation: str, reports: Iterable[dict[str, float]] = ()) -> "TrialRecord":
        """The same with `reports` on another validation set; the previous ones are kept in `earlier`."""
        earlier = {**self.earlier, **({self.validation: self.reports} if self.reports else {})}
        earlier.pop(validation, None)
        return self.model_copy(update={"validation": validation, "reports": tuple(reports), "earlier": earlier})


@dataclass(frozen=True)
class Study:
    """All trials of an experiment that are in its folder."""

    folder: Path
    records: tuple[TrialRecord, ...]

    def of_cell(self, cell: str) -> tuple[TrialRecord, ...]:
        """The trials of one cell, in the order of their draws; older records, which have no order, by their start."""
        of_cell = (record for record in self.records if record.cell == cell)
        return tuple(sorted(of_cell, key=lambda record: (record.drawn_at, record.begun)))

    def events(self) -> Iterator[int]:
        """The positions of the events that come next in the study, whatever the cell."""
        return itertools.count(1 + max((record.newest_position for record in self.records), default=0))

    def best(self, cells: Iterable[str]) -> TrialRecord:
        """The trial with the best value among those that finished in these cells; where none has, among the others.

        One that `vimss search --continue` trains further counts only when it has finished.
        A network with few slots is scored on the part of the validation set that has as few sources: it is the best
        only where all trials are scored on that part. DataError where trials were scored on different sets.
        """
        names = set(cells)
        able = [
            record
            for record in self.records
            if record.cell in names and not record.is_unfinished_continuation and (record.folder / "model").is_dir()
        ]
        finished = [record for record in able if record.state == "finished"] or able
        if not finished:
            raise TrainingError(
                f"{self.folder} must hold a trial with weights in {', '.join(sorted(names))}",
                got="; ".join(dict.fromkeys(record.message for record in self.records if record.message)) or "none",
                fix="read the messages of the failed trials, correct the experiment and run it again",
            )
        sets = Counter(record.validation or "an unknown one" for record in finished if record.reports)
        if len(sets) > 1:
            raise DataError(
                f"the trials of {self.folder} must be scored on one validation set before the best is chosen",
                got=", ".join(f"{count} on {validation}" for validation, count in sets.items()),
                fix="run `vimss search` with the same experiment again: it scores their weights on the set of now",
            )
        most = max(record.scored_sources for record in finished)
        return min(
            (record for record in finished if record.scored_sources == most),
            key=lambda record: record.figure.rank(record.value),
        )


def study_folder(experiment: Experiment, manifest: Manifest, store: Store) -> Path:
    """The folder of an experiment's trials: its name, and the signature of the shards and of the validation set.

    The size of the validation set does not count: weights are scored again on a larger one.
    """
    data: list[tuple[str | float, ...]] = [(manifest.name, manifest.signature)]
    data += [(other.name, other.signature, share) for other, share in manifest.more]
    validation = {key: value for key, value in differences(experiment.validation).items() if key != "mixtures"}
    return store.studies / f"{experiment.name}-{signature(data, validation)}"


def cell_folder(experiment: Experiment, cell: Cell) -> str:
    """Name of the folder of a cell's new trials, in that of the study."""
    name = cell.name.encode()[:MAX_NAME].decode(errors="ignore")
    return f"{name}-{experiment.cell_signature(cell)}"


def in_cells(experiment: Experiment, study: Study) -> Study:
    """The trials in the current cells of an experiment, each with the name of its cell.

    In a cell with `tune` lie the trials of searches that have what it fixes, and of each axis a value that the axis
    allows. A cell without, and a control, has one trial: the one that was trained for it, or a finished one of the
    same settings. All others stay on disk, and count again when the experiment has them again.
    """
    searched = [cell for cell in experiment.cells() if not cell.is_control]
    records = (_drawn if experiment.tune else _fixed)(experiment, searched, study.records)
    try:
        best = Study(study.folder, tuple(records)).best(cell.name for cell in searched)
    except TrainingError:  # nothing to inherit from yet
        return Study(study.folder, tuple(records))
    return Study(study.folder, (*records, *_fixed(experiment, resolved_controls(experiment, best), study.records)))


def resolved_controls(experiment: Experiment, best: TrialRecord) -> list[Cell]:
    """The controls of an experiment, with what they inherit from the best trial of its other cells."""
    inherited = {key: value_at(best.settings, key) for key in experiment.inherited} if best.settings else {}
    return [replace(cell, inherited=inherited) for cell in experiment.cells() if cell.is_control]


def _fixed(experiment: Experiment, cells: Iterable[Cell], records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials of cells that have one each."""
    by_settings: dict[str, list[TrialRecord]] = {}
    for record in records:
        if record.settings is not None:
            by_settings.setdefault(signature(record.settings), []).append(record)
    found = []
    for cell in cells:
        try:
            same = by_settings.get(signature(experiment.settings(cell.fixes)), [])
        except ConfigError:
            continue  # a control that conflicts with what it inherits; the search reports it
        able = [record for record in same if record.state == "finished" or record.is_control == cell.is_control]
        able.sort(key=lambda record: (record.drawn_at, record.begun))
        able.sort(key=lambda record: (record.state != "finished", record.is_control != cell.is_control))
        found += [record.model_copy(update={"cell": cell.name, "chosen": {}}) for record in able[:1]]
    return found


def _drawn(experiment: Experiment, cells: Sequence[Cell], records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials of cells in which settings are tuned; each is in one of them."""
    homes = {cell_folder(experiment, cell): cell for cell in cells}
    found = []
    for record in records:
        # Start with the cell that the folder names: it is nearly always the right one.
        home = homes.get(record.folder.parent.name)
        for cell in sorted(cells, key=lambda cell: cell is not home) if not record.is_control else ():
            chosen = _chosen(experiment, cell, record, cell is home)
            if chosen is not None:
                found.append(record.model_copy(update={"cell": cell.name, "chosen": chosen}))
                break
    return found


def _chosen(experiment: Experiment, cell: Cell, record: TrialRecord, is_home: bool) -> dict[str, Scalar] | None:
    """The values of a cell's axes in a trial; None where the trial is not in the cell."""
    axes = experiment.tune
    if record.settings is None:
        # A draw that fits no network is identified by the drawn values alone.
        fits = all(key in axes and _allowed(key, axes[key], value) for key, value in record.chosen.items())
        return record.chosen if is_home and fits and record.state == "failed" else None
    chosen: dict[str, Scalar] = {}
    for key in topological_order(axes):
        axis = axes[key]
        if any(chosen.get(other) not in values for other, values in axis.when.items()):
            continue
        if not has_key(record.settings, key):
            return None  # its network has no such setting
        # The drawn value first, any other value last: a setting that changes nothing may be missing.
        value = value_at(record.settings, key)
        values = (record.chosen.get(key, value), value, *(axis.choices or (axis.low,)))
        chosen[key] = next(one for one in values if _allowed(key, axis, one))
    try:
        settings = experiment.settings({**cell.fixes, **chosen})
    except ConfigError:
        return None
    return chosen if signature(settings) == signature(record.settings) else None


def _allowed(key: str, axis: Axis, value: Scalar) -> bool:
    # The ends of a range of integers are rounded down when it is drawn from.
    whole = not axis.choices and field_type(key) is int
    return axis.model_copy(update={"low": int(axis.low), "high": int(axis.high)} if whole else {}).allows(value)


def read_study(folder: Path) -> Study:
    """All trials of a study's folder, also those of cells that the experiment no longer has; see `in_cells`.

    DataError names a record that cannot be read.
    """
    return Study(folder, tuple(read_record(path) for path in record_paths(folder)))


def record_paths(folder: Path) -> list[Path]:
    """The files of all records in a study's folder."""
    return [path for path in sorted(folder.glob(f"*/*/{RECORD}")) if not path.parent.name.startswith(TEMPORARY)]


def read_record(path: Path) -> TrialRecord:
    """One trial.json; DataError where it cannot be read.

    Keys of another version of VIMSS that this one lacks are ignored. Settings with unknown keys are None: no cell of
    this version has them.
    """
    finish_replacement(path.parent / "model")
    try:
        content = _with_current_names({**json.loads(path.read_text(encoding="utf-8")), "folder": path.parent})
        known = {key: value for key, value in content.items() if key in TrialRecord.model_fields}
        if isinstance(known.get("settings"), dict) and not _is_known(known["settings"]):
            known["settings"] = None
        return parse_config(known, TrialRecord, "trial.json")
    except (ConfigError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} must be the record of a trial",
            got=f"{error.rule}, {error.got}" if isinstance(error, VimssError) else str(error),
            fix=f"delete {origin_of(path.parent) or path.parent} and run the same command again: this trial is then "
            "trained anew",
        ) from error


def _with_current_names(content: dict[str, Any]) -> dict[str, Any]:
    """A record in current names of keys; also, controls used to be called baselines, and AdamW adam."""
    if "baseline" in content:
        content = {"is_control": content["baseline"], **content}
    if isinstance(content.get("chosen"), dict):
        content = {**content, "chosen": {current_key(Settings, key): value for key, value in content["chosen"].items()}}
    if not isinstance(content.get("settings"), dict):
        return content
    settings = with_current_names(content["settings"], Settings)
    match settings:
        case {"training": {"optimizer": "adam", **training}}:
            settings = {**settings, "training": {**training, "optimizer": "adamw"}}
    return {**content, "settings": settings}


def _is_known(settings: dict[str, object]) -> bool:
    try:
        Settings.model_validate(settings)
    except ValidationError:
        return False
    return True


def write_record(record: TrialRecord) -> None:
    """Put a record into its folder."""
    with atomic_write(record.folder / RECORD) as temporary:
        temporary.write_text(record.model_dump_json(indent=1), encoding="utf-8")


def best_of_cell(study: Study, cell: str) -> TrialRecord | None:
    """The best trial of a cell; None where no trial has weights."""
    try:
        return study.best([cell])
    except TrainingError:
        return None
