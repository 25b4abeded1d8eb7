"""The runs that MLflow is to hold for a study, from the records on disk alone.

    wanted = wanted_study(experiment, manifest, in_cells(experiment, read_study(folder)), is_searched=False)
    wanted.runs[0].tags["cell"]

A cell is a run and each of its trials a child of it; the step of every curve is audio seconds. The same records give
the same runs, whenever and wherever they are read.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vimss.axes import Scalar
from vimss.config import signature
from vimss.errors import DataError
from vimss.experiment import SEED, Cell, Experiment
from vimss.model.card import CARD
from vimss.search.study import CODE, COMPARE_FOLDER, FILES, Study, TrialRecord, best_of_cell, cell_folder
from vimss.shards.manifest import Manifest
from vimss.storage import TEMPORARY
from vimss.track.notes import NOTE
from vimss.track.views import CHARTS_TAG, VIEW_TAG, charts_view, metric_name, table_view

STATUS = {
    "finished": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "waiting": "KILLED",
}
"""MLflow's word for the state of a trial that no search holds."""

MAX_NAME, MAX_TAG, MAX_PARAM = 200, 5000, 6000
"""Characters; MLflow's limits are 250, 8000 and 6000."""


class Point(NamedTuple):
    """A point of a curve."""

    step: int
    value: float
    time: int
    """Milliseconds since 1970."""


@dataclass(frozen=True)
class WantedDataset:
    """The shards of one split of a recipe, which a run reads."""

    name: str
    digest: str
    context: str
    """Its use: "training", "validation" or "evaluation"."""
    source: str
    profile: Mapping[str, int | float]


class WantedScore(NamedTuple):
    """A figure of the model of a run, for the table in which MLflow compares models."""

    name: str
    point: Point
    dataset: WantedDataset


@dataclass(frozen=True)
class WantedRun:
    """The run of a trial, or of a cell where `trial` is empty."""

    key: str
    cell: str
    trial: str
    name: str
    begun: int
    """Milliseconds since 1970, like `ended`, of which 0 is not yet."""
    ended: int
    status: str
    tags: Mapping[str, str]
    links: Mapping[str, str] = field(default_factory=dict)
    """Tags that hold the id of another run, by its key."""
    params: Mapping[str, str] = field(default_factory=dict)
    params_of: str = ""
    """The trial that has these params. They never change in MLflow: a run with those of another trial keeps them."""
    curves: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    """In the order of their steps."""
    revised: frozenset[str] = frozenset()
    """The curves whose last point may get another value: figures, which change with the validation set."""
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    datasets: tuple[WantedDataset, ...] = ()
    model: Path | None = None
    """Folder of the weights that MLflow lists as a model of the run."""
    scores: tuple[WantedScore, ...] = ()
    """Of this model."""


@dataclass(frozen=True)
class WantedStudy:
    """All runs of a study, cells before their trials, and the experiment in MLflow that holds them."""

    experiment: str
    """Its name, and that of the registered model."""
    folder: Path
    """The study's, whose name is the signature that its runs share."""
    tags: Mapping[str, str]
    runs: tuple[WantedRun, ...]


def wanted_study(experiment: Experiment, manifest: Manifest, study: Study, is_searched: bool) -> WantedStudy:
    """The runs of the experiment's cells that have trials.

    `study` holds the trials of these cells: see `in_cells`. Where no process searches it, what a record calls running
    was left by one that died.
    """
    every = (manifest, *(other for other, _ in manifest.more))
    shared = {
        "signature": study.folder.name,
        "shards": ", ".join(f"{one.name} {one.digest}" for one in every),
        "mlflow.source.name": f"vimss search {experiment.name}",
        "mlflow.source.type": "LOCAL",
    }
    datasets = (*(_dataset(one, "train", "training") for one in every), _dataset(manifest, "valid", "validation"))
    runs: list[WantedRun] = []
    for cell in experiment.cells():
        records = study.of_cell(cell.name)
        if records:
            names = {"cell": cell.name, "cell without seed": _without_seed(cell)}
            names |= {"variant": cell.variant} if cell.variant else {}
            own = _CellRuns(experiment, manifest, study, cell, {**shared, **names}, datasets, is_searched)
            parent = own.of_cell(records)
            runs += [parent, *(own.of_trial(record, parent.params_of) for record in records)]
    return WantedStudy(experiment.name, study.folder, _experiment_tags(experiment), tuple(runs))


@dataclass(frozen=True)
class _CellRuns:
    """A cell with what its runs share."""

    experiment: Experiment
    manifest: Manifest
    study: Study
    cell: Cell
    shared: Mapping[str, str]
    datasets: tuple[WantedDataset, ...]
    is_searched: bool

    def key(self, trial: str = "") -> str:
        """The key of a trial's run, or of the cell's own."""
        # The cell's folder, since it may have another budget than an earlier cell of its name.
        return signature(self.study.folder.name, cell_folder(self.experiment, self.cell), trial)

    def of_cell(self, records: Sequence[TrialRecord]) -> WantedRun:
        """The cell's own run, which shows the best trial so far."""
        best, status = self.best(), self.status(records)
        overrides = {key: _text(value) for key, value in self.cell.overrides.items()}
        kind = "control" if self.cell.is_control else "cell"
        lines = [
            f"**{kind.capitalize()} {self.cell.name}**",
            *(f"- `{key}`: {text}" for key, text in overrides.items()),
        ]
        tags = {"kind": kind, NOTE: "\n".join(lines)[:MAX_TAG]}
        tags |= {"seed": overrides.get(SEED, str(self.experiment.seed))}
        tags |= {f"compare.{key}": text for key, text in overrides.items()}
        ended = _milliseconds(max(record.newest_time for record in records))
        # Step 0 throughout: MLflow shows the value of the highest step, and a later best may have fewer audio seconds.
        figures = {} if best is None else best.best_report
        curves = {metric_name(name): (Point(0, float(value), ended),) for name, value in figures.items()}
        if best is not None:
            tags["best trial"] = best.trial
        # Params cannot change, so they wait for the end of the cell.
        shown = best if status == "FINISHED" else None
        return WantedRun(
            key=self.key(),
            cell=self.cell.name,
            trial="",
            name=self.cell.name[:MAX_NAME],
            # Before its trials: MLflow's pages show them below it only in this order.
            begun=min(_milliseconds(record.begun) for record in records) - 1,
            ended=0 if status == "RUNNING" else ended,
            status=status,
            tags={**self.shared, **(best or records[-1]).provenance, **tags},
            links={} if best is None else {"best run": self.key(best.trial)},
            params={} if shown is None else _params(shown),
            params_of="" if shown is None else shown.trial,
            curves=curves,
            revised=frozenset(curves),
            files={
                "trials.csv": _table(self.experiment, records).encode(),
                **_files(self.study.folder / cell_folder(self.experiment, self.cell) / FILES),
                **{
                    f"{COMPARE_FOLDER}/{name}": path
                    for name, path in _files(self.study.folder / COMPARE_FOLDER).items()
                },
            },
            datasets=self.datasets,
        )

    def of_trial(self, record: TrialRecord, best_trial: str) -> WantedRun:
        """The run of one of its trials; the model is that of the best one, once the cell has ended."""
        model = record.folder / "model"
        state = record.state if self.is_searched or record.state != "running" else "interrupted"
        # MLflow has no word for a trial that waits for others: its run stays open, and a tag says so.
        status = "RUNNING" if self.is_searched and state in {"running", "waiting"} else STATUS[state]
        tags = {"kind": "trial", "trial": record.trial, "state": state, "folder": str(record.folder)}
        if record.settings is not None:
            tags["seed"] = str(record.settings.seed)
        # Empty too: that of an earlier end would stay.
        tags[NOTE] = f"**{state}**: {record.message}"[:MAX_TAG] if record.message else ""
        files: dict[str, bytes | Path] = dict(_files(record.folder / FILES))
        if record.settings is not None:
            content = json.dumps(record.settings.model_dump(mode="json"), indent=1, sort_keys=True)
            files["settings.json"] = content.encode()
        changes = self.study.folder / CODE / f"{record.provenance.get('changes')}.diff"
        if changes.is_file():
            files["changes.diff"] = changes
        curves = _curves(record)
        is_kept = record.trial == best_trial and (model / CARD).is_file()
        scores = self.scores(record) if is_kept and record.reports else ()
        evaluated = {score.dataset.digest: score.dataset for score in scores if score.dataset.context == "evaluation"}
        return WantedRun(
            key=self.key(record.trial),
            cell=self.cell.name,
            trial=record.trial,
            name=_trial_name(self.cell, record),
            begun=_milliseconds(record.begun),
            ended=0 if status == "RUNNING" else _milliseconds(record.newest_time),
            status=status,
            tags={**self.shared, **record.provenance, **tags},
            links={"mlflow.parentRunId": self.key()},
            params=_params(record),
            params_of=record.trial,
            curves=curves,
            revised=frozenset(name for name in curves if name.startswith(metric_name(record.figure.name))),
            files=files,
            datasets=(*self.datasets, *evaluated.values()),
            model=model if is_kept else None,
            scores=scores,
        )

    def scores(self, record: TrialRecord) -> tuple[WantedScore, ...]:
        """The figures of a trial's weights: of the validation set, and those that `vimss evaluate` kept."""
        from vimss.evaluate.kept import figures_by_weights, kept_files  # loads torch

        best, figure = record.best_report, record.figure.name
        step, reported = round(best["audio_seconds"]), _reported(record, best)
        validated = {name: value for name, value in best.items() if name == figure or name.startswith(f"{figure}/")}
        found = [(validated, reported, self.datasets[-1])]
        weights = json.loads((record.folder / "model" / CARD).read_text(encoding="utf-8"))["sha256"]
        for split, path in kept_files(self.study.folder).items():
            if split in self.manifest.splits:
                figures = figures_by_weights(path).get(weights, {})
                dataset = _dataset(self.manifest, split, "evaluation")
                found.append((figures, _milliseconds(path.stat().st_mtime), dataset))
        return tuple(
            WantedScore(metric_name(name), Point(step, float(value), time), dataset)
            for figures, time, dataset in found
            for name, value in figures.items()
            if math.isfinite(value)  # MLflow's table of models has 0 for what is not defined
        )

    def best(self) -> TrialRecord | None:
        try:
            return best_of_cell(self.study, self.cell.name)
        except DataError:  # its trials are about to be scored on one validation set
            return None

    def status(self, records: Sequence[TrialRecord]) -> str:
        """Whether all trials of the cell have ended, and one of them with weights."""
        most = self.experiment.search.trials if self.experiment.tune and not self.cell.is_control else 1
        counting = [record for record in records if record.counts]
        is_open = any(record.state in {"running", "waiting", "interrupted"} for record in counting)
        # A search may end with fewer, where its axes have no more values.
        if is_open or (self.is_searched and len(counting) < most):
            return "RUNNING" if self.is_searched else "KILLED"
        return "FAILED" if self.best() is None else "FINISHED"


def _without_seed(cell: Cell) -> str:
    """The name that the cells of all seeds share."""
    parts = cell.name.split(",")
    return ",".join(part for part in parts if not part.startswith(f"{SEED}=")) or cell.name


def _trial_name(cell: Cell, record: TrialRecord) -> str:
    """What was chosen for it, or what is special about its cell; its own name, which says nothing, comes last."""
    chosen = [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in record.chosen.items()]
    last = f" {record.trial}"
    return (" ".join(chosen) or cell.name)[: MAX_NAME - len(last)] + last


def _dataset(manifest: Manifest, split: str, context: str) -> WantedDataset:
    shards = manifest.of_split(split)
    return WantedDataset(
        name=manifest.name,
        digest=signature(sorted((shard.name, shard.sha256) for shard in shards)),
        context=context,
        source=str(manifest.home),
        profile={
            "shards": len(shards),
            "clips": manifest.clips(split),
            "seconds": round(sum(shard.seconds for shard in shards), 3),
            "sample_rate": manifest.recipe.sample_rate,
        },
    )


def _params(record: TrialRecord) -> dict[str, str]:
    """All settings; those that go together in no network have no more than what was chosen."""
    if record.settings is None:
        return {key: _text(value)[:MAX_PARAM] for key, value in record.chosen.items()}
    return {key: text[:MAX_PARAM] for key, text in _flatten(record.settings.model_dump(mode="json")).items()}


def _curves(record: TrialRecord) -> dict[str, tuple[Point, ...]]:
    """All figures of the reports; of two in one audio second the first counts."""
    found: dict[str, dict[int, Point]] = {}
    for report in record.reports:
        step = round(report["audio_seconds"])
        time = _reported(record, report)
        for name, value in report.items():
            found.setdefault(metric_name(name), {}).setdefault(step, Point(step, float(value), time))
    return {name: tuple(points[step] for step in sorted(points)) for name, points in found.items()}


def _reported(record: TrialRecord, report: Mapping[str, float]) -> int:
    return _milliseconds(record.times.get(round(report.get("steps", 0)), record.begun))


def _table(experiment: Experiment, records: Iterable[TrialRecord]) -> str:
    """The trials of a cell as CSV, the best first."""
    text = io.StringIO()
    varied = [key for key in experiment.varied if key in experiment.tune]
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", "state", experiment.figure.name, "audio_seconds", *varied])
    for record in sorted(records, key=lambda record: (not record.reports, record.figure.rank(record.value))):
        seconds = record.reports[-1]["audio_seconds"] if record.reports else 0.0
        value = f"{record.value:.6g}" if record.reports else ""
        chosen = [_text(record.chosen[key]) if key in record.chosen else "" for key in varied]
        table.writerow([record.trial, record.state, value, f"{seconds:g}", *chosen])
    return text.getvalue()


def _files(folder: Path) -> dict[str, Path]:
    """Every file below a folder by its path there."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and TEMPORARY not in str(path))
    return {path.relative_to(folder).as_posix(): path for path in found}


def _experiment_tags(experiment: Experiment) -> dict[str, str]:
    return {
        NOTE: f"**{experiment.question}**\n\nExpected: {experiment.expected}"[:MAX_TAG],
        "mlflow.experimentKind": "custom_model_development",  # training runs rather than traces of language models
        VIEW_TAG: json.dumps(table_view(experiment)),
        CHARTS_TAG: json.dumps(charts_view(experiment)),
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


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
