"""Writes into MLflow what it lacks of one run: params, tags, points, files, its model, and the figures of that.

    writer = Writer(tracking, client, wanted, Known(experiment, runs, models), written)
    writer.write_figures()      # what lies in MLflow's database
    writer.write_files()        # what lies in its store of artifacts; that the run has ended comes last

Each request is such that the next sync finds what it wrote, though its answer was lost: nothing is written twice.
"""

import functools
import hashlib
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModel, Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from vimss.storage import sha256
from vimss.track.notes import with_note
from vimss.track.runs import put_files
from vimss.track.store import Tracking
from vimss.track.wanted import WantedDataset, WantedRun, WantedScore

MAX_METRICS, MAX_PARAMS = 1000, 100
"""MLflow's limits for one log_batch."""

KEY_TAG, FILES_TAG, PARAMS_TAG = "vimss.key", "vimss.files", "params of trial"
"""Tags of a run: which it is, the digest of each file that was uploaded, and the trial that its params are those of."""


@dataclass(frozen=True)
class Known:
    """What MLflow had of a study when a sync began."""

    experiment: str
    """Its name, and that of the models."""
    runs: Mapping[str, Run]
    """By their keys."""
    models: Mapping[str, Sequence[LoggedModel]]
    """The complete ones, by the id of the run that they are of."""


class Writer:
    """Writes the difference of one run, and counts what it writes in `written`."""

    def __init__(
        self, tracking: Tracking, client: MlflowClient, wanted: WantedRun, known: Known, written: Counter[str]
    ) -> None:
        self.tracking = tracking
        self.client = client
        self.wanted = wanted
        self.known = known
        self.run = known.runs[wanted.key]
        self.id: str = self.run.info.run_id
        self.written = written
        self.last: dict[str, Metric] = {metric.key: metric for metric in self.run.data.to_proto().metrics}
        """The last point that MLflow has of each curve."""

    def write_figures(self) -> None:
        """What lies in MLflow's database."""
        wanted = self.wanted
        tags = {**with_note(wanted.tags, self.run.data.tags), KEY_TAG: wanted.key}
        tags |= {tag: self.known.runs[key].info.run_id for tag, key in wanted.links.items()}
        if self.run.data.tags.get(PARAMS_TAG, wanted.params_of) == wanted.params_of and wanted.params:
            self._params(wanted.params)
            tags |= {PARAMS_TAG: wanted.params_of} if not wanted.trial else {}
        self._tags(tags)
        self._points(wanted)
        self._datasets(wanted.datasets)

    def write_files(self) -> None:
        """What lies in its store of artifacts; that the run has ended comes last."""
        self._files(self.wanted.files)
        if self.wanted.model is not None:
            self._model(self.wanted.model, self.wanted.scores)
        status = self.wanted.status
        if self.run.info.status != status:
            if status == "RUNNING":
                self.client.update_run(self.id, status=status)
            else:
                self.client.set_terminated(self.id, status=status, end_time=self.wanted.ended)
            self.written["states"] += 1

    def _params(self, wanted: Mapping[str, str]) -> None:
        new = [Param(name, value) for name, value in wanted.items() if name not in self.run.data.params]
        for some in _chunks(new, MAX_PARAMS):
            self.client.log_batch(self.id, params=some)
            self.written["params"] += len(some)

    def _tags(self, wanted: Mapping[str, str]) -> None:
        changed = [RunTag(name, value) for name, value in wanted.items() if self.run.data.tags.get(name) != value]
        for some in _chunks(changed, MAX_PARAMS):
            self.client.log_batch(self.id, tags=some)
            self.written["tags"] += len(some)

    def _points(self, wanted: WantedRun) -> None:
        """The points after the last one that MLflow has of each curve, and that one where its value was revised."""
        new: list[Metric] = []
        for name, points in wanted.curves.items():
            known = self.last.get(name)
            new += [Metric(name, p.value, p.time, p.step) for p in points if known is None or p.step > known.step]
            if known is None or name not in wanted.revised:
                continue
            end = points[-1]
            if end.step == known.step and not _same(known.value, end.value):
                # Of two points at a step, MLflow shows the later one.
                new.append(Metric(name, end.value, max(_now(), known.timestamp + 1), end.step))
        # In the order of their steps, so that what a broken connection cuts off is the end of the curves.
        new.sort(key=lambda metric: metric.step)
        for some in _chunks(new, MAX_METRICS):
            self.client.log_batch(self.id, metrics=some)
            self.written["points"] += len(some)
        self.last |= {metric.key: metric for metric in new}

    def _files(self, wanted: Mapping[str, bytes | Path]) -> None:
        """Files whose digest is not the one that a tag of the run has."""
        known: dict[str, str] = json.loads(self.run.data.tags.get(FILES_TAG, "{}"))
        digests = {name: _digest(content) for name, content in wanted.items()}
        new = [name for name, digest in digests.items() if known.get(name) != digest]
        if not new:
            return
        put_files(self.tracking, self.client, self.run, {name: wanted[name] for name in new})
        self._tags({FILES_TAG: json.dumps({**known, **digests})})
        self.written["files"] += len(new)

    def _datasets(self, wanted: Iterable[WantedDataset]) -> None:
        inputs = self.run.inputs.dataset_inputs if self.run.inputs else []
        known = {(each.dataset.name, each.dataset.digest) for each in inputs}
        new = [each for each in wanted if (each.name, each.digest) not in known]
        if new:
            self.client.log_inputs(self.id, datasets=[_dataset_input(each) for each in new])
            self.written["datasets"] += len(new)

    def _model(self, folder: Path, scores: Sequence[WantedScore]) -> None:
        from vimss.track.logged import DIGEST_TAG, log_model, weights_digest  # loads torch

        digest = weights_digest(folder)
        known = next(
            (model for model in self.known.models.get(self.id, ()) if model.tags.get(DIGEST_TAG) == digest), None
        )
        if self.run.data.tags.get(DIGEST_TAG) != digest:
            model_id = log_model(self.tracking, self.known.experiment, folder, self.id)
            self._tags({DIGEST_TAG: digest})
            self.written["models"] += 1
        elif known is not None:
            model_id = known.model_id
        else:
            return  # deleted in MLflow
        self._scores(model_id, (known.metrics if known else None) or (), scores)

    def _scores(self, model_id: str, known: Sequence[Metric], wanted: Sequence[WantedScore]) -> None:
        """The figures of the run's model of which MLflow has no value, or had another one last."""
        last = {(metric.key, metric.dataset_digest): metric for metric in sorted(known, key=lambda one: one.timestamp)}
        new: list[Metric] = []
        for name, point, dataset in wanted:
            before, of_run = last.get((name, dataset.digest)), self.last.get(name)
            if before is not None and _same(before.value, point.value):
                continue
            when = point.time
            # MLflow adds it to the curve of the run too, but for a point that is there: it must be the very same.
            if of_run is not None and of_run.step == point.step and _same(of_run.value, point.value):
                when = of_run.timestamp
            if before is not None:
                when = max(when, before.timestamp + 1)
            new.append(Metric(name, point.value, when, point.step, model_id, dataset.name, dataset.digest))
        if new:
            self.client.log_batch(self.id, metrics=new)
            self.written["scores"] += len(new)


def _dataset_input(wanted: WantedDataset) -> DatasetInput:
    dataset = Dataset(
        name=wanted.name,
        digest=wanted.digest,
        source_type="local",
        source=json.dumps({"uri": wanted.source}),
        profile=json.dumps(wanted.profile),
    )
    return DatasetInput(dataset, tags=[InputTag(MLFLOW_DATASET_CONTEXT, wanted.context)])


def _digest(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()[:10]
    about = content.stat()
    return _digest_of_file(content, about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=10_000)
def _digest_of_file(path: Path, changed: int, size: int) -> str:
    """Read again only where its time or size is another one."""
    return sha256(path)[:10]


def _same(known: float, value: float) -> bool:
    """Whether MLflow has the value; instead of infinity it keeps the largest number there is."""
    largest = sys.float_info.max
    return known == min(max(value, -largest), largest) or (math.isnan(known) and math.isnan(value))


def _now() -> int:
    return time.time_ns() // 1_000_000


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = list(items)
    return (items[start : start + size] for start in range(0, len(items), size))
