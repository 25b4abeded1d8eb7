"""Networks that do not separate, judged by the figure of their objective on one fixed set of mixtures of a split.

    part = examine_mixtures(FigureTask(Table(manifest.folder, "test"), Row("best", folder), range(16)))
    evaluation = evaluation_by_figure([part], "instruments", manifest, "test")
    gain_of([evaluation], [constant_guess(evaluation, manifest)], manifest)

The set is drawn as the validation set is: a function of the shards, the recipe's seed and the objective alone. What
`examine` keeps of each mixture stands in the record, with the pieces that the mixture is of: the figure, its interval
and every comparison are made of these rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from pydantic import Field
from torch import Tensor

from vimss.config import Config
from vimss.errors import ModelError
from vimss.evaluate.records import SIGNATURE
from vimss.evaluate.tasks import MIXTURES_AT_ONCE, Row, Table
from vimss.intervals import Gain, Interval, gain_over_pieces, interval_over_pieces
from vimss.model.device import on_device
from vimss.model.separator import read_card
from vimss.shards.manifest import Manifest, open_manifest
from vimss.stream.fixed import FixedSpec, fixed_set
from vimss.train.config import Settings, ValidationConfig
from vimss.train.figure import Figure
from vimss.train.objectives import OBJECTIVES, Entry, figure_of, open_objective
from vimss.train.objectives.protocol import FigureObjective, Objective
from vimss.train.objectives.saved import settings_of
from vimss.train.validation import FixedBatches, validation_spec

MIXTURES = 96
"""Of a split: for most objectives 16 for each number of sources, aligned and random."""

SECONDS = Entry.seconds
"""Length of a mixture, as in the validation set, for most objectives; half a clip where clips are short."""

GUESS = "constant guess"
"""Name of the row of a network that knows nothing: see `FigureObjective.guess`."""

_WITH_NAN = Config.model_config | {"allow_inf_nan": True, "ser_json_inf_nan": "strings"}


class MixtureRow(Config):
    """The values that the objective keeps of one mixture."""

    model_config = _WITH_NAN

    mixture: int
    pieces: tuple[str, ...] = Field(description="that its sources are from: one where they are aligned")
    kept: tuple[float, ...]


class FigureEvaluation(Config):
    """The figure of one system on one split."""

    model_config = _WITH_NAN

    system: str
    weights: str = Field("", description="SHA-256 of the model's weights; empty where nothing was trained")
    signature: str = Field("", description=SIGNATURE)
    split: str
    objective: str
    value: float = Field(description="the objective's figure")
    interval: Interval | None = Field(description="95 %, over pieces; null where undefined")
    labels: dict[str, float] = Field(description="the figure of each label that has one")
    beside: dict[str, float] = Field({}, description="further figures of the same mixtures, by what they are of")
    rows: tuple[MixtureRow, ...]

    @property
    def figure(self) -> Figure:
        """The figure that `value` is of."""
        return figure_of(self.objective)

    @property
    def num_pieces(self) -> int:
        """Pieces that the mixtures are from."""
        return len({piece for row in self.rows for piece in row.pieces})


@dataclass(frozen=True)
class FigureTask:
    """Some mixtures of the set for one model; plain values that travel to another process."""

    table: Table
    row: Row
    mixtures: range
    mixture_seconds: float = SECONDS

    @property
    def seconds(self) -> float:
        """Seconds of sound in its mixtures."""
        return len(self.mixtures) * self.mixture_seconds


@dataclass(frozen=True)
class FigurePart:
    """The rows of one task."""

    system: str
    weights: str
    rows: tuple[MixtureRow, ...]
    seconds: float = 0.0


def figure_spec(manifest: Manifest, split: str, objective: str) -> FixedSpec:
    """The mixtures that networks of an objective are judged on, the same for all of them."""
    entry, longest = OBJECTIVES[objective], manifest.recipe.clip_seconds
    most = longest / 2
    if entry.least_seconds:
        # A small corpus has short pieces in its smaller splits; half of the clips are long enough for the mixtures.
        pieces = [piece.seconds for piece in manifest.pieces if piece.split == split]
        clips = [seconds / math.ceil(seconds / longest) for seconds in pieces]
        most = max(entry.least_seconds, math.floor(10 * median(clips or [longest])) / 10)
    seconds = min(entry.seconds, most)
    return validation_spec(manifest, ValidationConfig(mixtures=MIXTURES, seconds=seconds), objective, split)


def figure_tasks(table: Table, row: Row, mixture_seconds: float = SECONDS) -> list[FigureTask]:
    """One model in parts for the cores."""
    numbers = range(MIXTURES)
    parts = [numbers[first : first + MIXTURES_AT_ONCE] for first in numbers[::MIXTURES_AT_ONCE]]
    return [FigureTask(table, row, part, mixture_seconds) for part in parts]


def check_model(folder: Path, name: str, objective: str, manifest: Manifest) -> tuple[Objective, torch.nn.Module]:
    """The objective and the network of a model that is to be judged on these shards.

    Raises:
        DataError: it needs vision features that are not beside the shards.
        ModelError: it is of another objective, or of other labels or another rate than the shards.

    """
    settings = settings_of(read_card(folder))
    if settings.objective != objective:
        raise ModelError(
            f"the model '{name}' must be of the objective '{objective}', to have its {figure_of(objective).title}",
            got=f"one of the objective '{settings.objective}' in {folder}",
            fix="give an experiment with another objective another name",
        )
    judge = open_objective(settings, manifest)
    return judge, judge.load(folder)


@torch.no_grad()
def examine_mixtures(task: FigureTask) -> FigurePart:
    """Run a task and return its rows."""
    assert task.row.model is not None, "a row of a model"  # noqa: S101
    manifest, about = open_manifest(task.table.shards), read_card(task.row.model)
    objective, network = check_model(task.row.model, task.row.name, about["objective"], manifest)
    network = on_device(network, task.row.device)
    kept = fixed_set(manifest, figure_spec(manifest, task.table.split, about["objective"]))
    window = objective.window_around(kept.spec.samples)
    batches = FixedBatches(kept, manifest, window, objective.validation_interface, task.mixtures)
    rows = []
    for number, batch in zip(task.mixtures, batches, strict=True):
        pieces = tuple(sorted({source.piece for source in kept.drawn[number].sources}))
        found = objective.examine(network, batch, torch.device(task.row.device))
        rows.append(MixtureRow(mixture=number, pieces=pieces, kept=tuple(found.tolist())))
    return FigurePart(task.row.name, about["sha256"], tuple(rows), task.seconds)


def evaluation_by_figure(
    parts: Sequence[FigurePart], objective: str, manifest: Manifest, split: str
) -> FigureEvaluation:
    """The evaluation of one system, from the parts of all its tasks in order."""
    rows = tuple(row for part in parts for row in part.rows)
    judge, kept = _judge(objective, manifest), _kept(rows)
    return FigureEvaluation(
        system=parts[0].system,
        weights=parts[0].weights,
        split=split,
        objective=objective,
        value=judge.value(kept),
        interval=interval_over_pieces([row.pieces for row in rows], lambda weights: _resampled(judge, kept, weights)),
        labels=judge.by_label(kept),
        beside=judge.beside(kept),
        rows=rows,
    )


def constant_guess(evaluation: FigureEvaluation, manifest: Manifest) -> FigureEvaluation:
    """The evaluation of a network that knows nothing on the same mixtures."""
    guessed = _judge(evaluation.objective, manifest).guess(_kept(evaluation.rows)).tolist()
    rows = [row.model_copy(update={"kept": tuple(each)}) for row, each in zip(evaluation.rows, guessed, strict=True)]
    part = FigurePart(GUESS, "", tuple(rows))
    return evaluation_by_figure([part], evaluation.objective, manifest, evaluation.split)


def by_piece(evaluation: FigureEvaluation, manifest: Manifest) -> dict[str, float]:
    """The figure over the mixtures of each piece alone; a mixture of two pieces counts for both."""
    judge, kept = _judge(evaluation.objective, manifest), _kept(evaluation.rows)
    names = sorted({piece for row in evaluation.rows for piece in row.pieces})
    chosen = {name: [place for place, row in enumerate(evaluation.rows) if name in row.pieces] for name in names}
    return {name: judge.value(kept[places]) for name, places in chosen.items()}


def gain_of(
    challengers: Sequence[FigureEvaluation], incumbents: Sequence[FigureEvaluation], manifest: Manifest
) -> Gain:
    """How much better the challenger's figure is, with an interval: in each resample both have the same pieces.

    Each is one evaluation, or one per seed, whose figures are averaged.

    Raises:
        ModelError: they were not judged on the same mixtures.

    """
    first = challengers[0]
    for one in (*challengers, *incumbents):
        if [(row.mixture, row.pieces) for row in one.rows] != [(row.mixture, row.pieces) for row in first.rows]:
            raise ModelError(
                f"'{first.system}' and '{one.system}' must be judged on the same mixtures",
                got=f"{len(first.rows)} and {len(one.rows)} mixtures, which differ",
                fix="evaluate both again on the same shards",
            )
    rank = np.vectorize(first.figure.rank, otypes=[np.float64])

    def difference(weights: Int[np.ndarray, "b n"]) -> Float[np.ndarray, " b"]:
        return rank(_mean_figure(incumbents, manifest, weights)) - rank(_mean_figure(challengers, manifest, weights))

    return gain_over_pieces([row.pieces for row in first.rows], difference)


def interval_of(evaluations: Sequence[FigureEvaluation], manifest: Manifest) -> Interval | None:
    """The confidence interval, over pieces, of the mean of the figures of several seeds on the same mixtures."""
    pieces = [row.pieces for row in evaluations[0].rows]
    return interval_over_pieces(pieces, lambda weights: _mean_figure(evaluations, manifest, weights))


def _mean_figure(
    evaluations: Sequence[FigureEvaluation], manifest: Manifest, weights: Int[np.ndarray, "b n"]
) -> Float[np.ndarray, " b"]:
    judge = _judge(evaluations[0].objective, manifest)
    return np.mean([_resampled(judge, _kept(one.rows), weights) for one in evaluations], axis=0)


def _judge(objective: str, manifest: Manifest) -> FigureObjective:
    """An objective with the settings of no particular network: its figure depends on the labels alone."""
    judge = OBJECTIVES[objective].make(Settings(objective=objective), manifest.recipe)
    assert isinstance(judge, FigureObjective), "only networks that do not separate are judged by a figure"  # noqa: S101
    return judge


def _kept(rows: Sequence[MixtureRow]) -> Float64[Tensor, "m k"]:
    return torch.tensor([row.kept for row in rows], dtype=torch.float64)


def _resampled(
    judge: FigureObjective, kept: Float64[Tensor, "m k"], weights: Int[np.ndarray, "b m"]
) -> Float[np.ndarray, " b"]:
    """The figure where each mixture stands as often as its weight says, for each row of weights."""
    repeats = torch.from_numpy(weights)
    return np.array([judge.value(kept.repeat_interleave(each, 0)) if each.any() else np.nan for each in repeats])
