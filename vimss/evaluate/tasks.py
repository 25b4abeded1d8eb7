"""A table in parts for the cores: one task scores some mixtures, or the pieces of a shard, for one row.

table = Table(manifest.folder, "test")
rows = [Row("best trial", folder), *baseline_rows(manifest)]
tasks = evaluation_tasks(table, rows[0], manifest, whole_pieces=True)
evaluation = joined([run_evaluation(task) for task in tasks], table)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vimss.baselines import BASELINES
from vimss.evaluate.records import Evaluation, Part, SourceScore
from vimss.evaluate.scores import TWO_SOURCE_SECONDS, count_mixtures, evaluate_piece, score_mixtures
from vimss.shards.manifest import Manifest, Shard, open_manifest
from vimss.stream.read import has_notes, has_part
from vimss.stream.scene import Scene, pieces_of
from vimss.systems import (
    BaselineSystem,
    System,
    baseline_systems,
    model_system,
    named_system,
    separates_pieces,
    truth_of,
)

MIXTURES_AT_ONCE = 16
"""Mixtures of one task: several cores can share those of one system."""

MIXTURES_WITH_PICTURES_AT_ONCE = 64
"""The same where players are named: each task decodes the pictures of whole clips, which mixtures share."""


@dataclass(frozen=True)
class Table:
    """The shards, split and labels that all rows of a table share; plain values that travel to another process."""

    shards: Path
    split: str
    labels: tuple[str, ...] | None = None
    """Those that every model of the table has; without, all of the shards, of whose recipe the models must be."""
    sources: tuple[int, ...] = ()
    """Numbers of sources, of each of which mixtures of independent players are scored too."""


@dataclass(frozen=True)
class NamedBy:
    """The model that names the players of a row by their pictures."""

    name: str
    folder: Path
    row: str
    """The row in which the same separator is conditioned on the labels themselves."""


@dataclass(frozen=True)
class Row:
    """One system of a table: the model in a folder, or a baseline."""

    name: str
    model: Path | None = None
    names: tuple[tuple[str, str], ...] = ()
    """The table's labels with the model's own names for them; where the table has labels."""
    baseline: BaselineSystem | None = None
    device: str = "cpu"
    named_by: NamedBy | None = None
    """Where the model, which is conditioned on labels, gets those that another one names from pictures."""
    whole_pieces: bool = True
    """Whether whole pieces are separated too, where the table has them."""


@dataclass(frozen=True)
class EvaluationTask:
    """Some mixtures, or the whole pieces of a shard, for one row."""

    table: Table
    row: Row
    mixtures: range | None
    shard: Shard | None
    sources: int | None = None
    """Of each of the mixtures; without, they are the two-source mixtures."""

    @property
    def seconds(self) -> float:
        """Seconds of sound that the row separates."""
        return self.shard.seconds if self.shard is not None else len(self.mixtures or ()) * TWO_SOURCE_SECONDS


def baseline_rows(manifest: Manifest, names: Sequence[str] = tuple(BASELINES)) -> list[Row]:
    """Rows of baselines, fitted here once; the tasks get the fitted ones."""
    return [Row(system.name, baseline=system) for system in baseline_systems(manifest, names)]


def usable_baselines(manifest: Manifest, split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The baselines that these shards have all for, and sentences about those that they have not."""
    left_out: dict[str, str] = {}
    if "train" not in manifest.splits or not has_part(manifest, "train", "audio"):
        reason = f"'{manifest.name}' has no train split with stems to fit them on"
        left_out |= {name: reason for name, baseline in BASELINES.items() if baseline.fitted}
    if not has_notes(manifest, split):
        reason = f"not all players of the split '{split}' of '{manifest.name}' have notes"
        left_out |= {name: reason for name, baseline in BASELINES.items() if baseline.conditioned_on == "notes"}
    sentences = []
    for reason in dict.fromkeys(left_out.values()):
        names = [f"'{name}'" for name, own in left_out.items() if own == reason]
        sentences.append(f"no row{'s' * (len(names) > 1)} {' and '.join(names)}: {reason}")
    return tuple(name for name in BASELINES if name not in left_out), tuple(sentences)


def evaluation_tasks(table: Table, row: Row, manifest: Manifest, whole_pieces: bool) -> list[EvaluationTask]:
    """One row in parts for the cores, pieces first: they are longer. A piece lies in one shard."""
    separated = whole_pieces and row.whole_pieces and (row.baseline is None or separates_pieces(row.baseline))
    shards = manifest.of_split(table.split) if separated else ()
    at_once = MIXTURES_AT_ONCE if row.named_by is None else MIXTURES_WITH_PICTURES_AT_ONCE
    tasks = [EvaluationTask(table, row, None, shard) for shard in shards]
    for sources in (None, *table.sources):
        # Some baselines separate two sources alone.
        if sources is None or sources == 2 or row.baseline is None or separates_pieces(row.baseline):
            count = count_mixtures(manifest, table.split, sources)
            numbers = [range(first, min(first + at_once, count)) for first in range(0, count, at_once)]
            tasks += [EvaluationTask(table, row, some, None, sources) for some in numbers]
    return tasks


def run_evaluation(task: EvaluationTask) -> Part:
    """Run a task and return its scores."""
    manifest, table = open_manifest(task.table.shards), task.table
    system = system_of(task.row, manifest, table)
    found = Part(system.name, system.weights, (), (), task.seconds, truth_of(system))
    if task.mixtures is not None:
        scored = tuple(score_mixtures(system, manifest, table.split, table.labels, task.mixtures, task.sources))
        return replace(found, mixtures=scored) if task.sources is None else replace(found, independent=scored)
    assert task.shard is not None, "a task without mixtures has a shard"  # noqa: S101
    scores: list[SourceScore] = []
    for piece in _pieces(system, manifest, table, task.shard):
        scores += evaluate_piece(system, piece, manifest.recipe.sample_rate)
    return replace(found, scores=tuple(scores))


def _pieces(system: System, manifest: Manifest, table: Table, shard: Shard) -> Iterator[Scene]:
    for piece in pieces_of(manifest, table.split, system.views, [shard]):
        scene = piece if table.labels is None else piece.restricted(table.labels)
        if scene.references or scene.without_example:
            yield scene


def system_of(row: Row, manifest: Manifest, table: Table) -> System:
    """The system of a row, with its weights loaded."""
    if row.baseline is not None:
        return row.baseline
    assert row.model is not None, "a row is a baseline or a model"  # noqa: S101
    names = None if table.labels is None else dict(row.names)
    if row.named_by is not None:
        return named_system(row.model, manifest, row.name, (row.named_by.name, row.named_by.folder), names)
    return model_system(row.model, manifest, row.name, names, row.device)


def joined(parts: Sequence[Part], table: Table) -> Evaluation:
    """The evaluation of one row, from the parts of all its tasks in order."""
    mixtures = tuple(score for part in parts for score in part.mixtures)
    scores = tuple(score for part in parts for score in part.scores)
    independent = tuple(score for part in parts for score in part.independent)
    whole = replace(parts[0], mixtures=mixtures, scores=scores, independent=independent)
    return Evaluation.of(whole, table.split, table.labels or ())
