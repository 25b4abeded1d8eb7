"""What a search would take: trials, audio seconds, hours and gigabytes, from measured steps. Nothing is trained.

estimate = estimate_search(experiment, recipe, place, records)
estimate.at_once, estimate.hours
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from vimss.axes import Scalar, topological_order
from vimss.config import signature
from vimss.errors import ConfigError
from vimss.experiment import Cell, Experiment, sample_values
from vimss.runtime import Place
from vimss.search.remaining import Progress, longest, trainings_left
from vimss.search.room import concurrent_trials, nodes_of
from vimss.search.study import TrialRecord
from vimss.search.top_k import value_at_rung
from vimss.shards.recipe import Recipe
from vimss.train.config import Settings
from vimss.train.distribute import KEPT_CHECKPOINTS
from vimss.train.measure import MeasuredStep, measure_step
from vimss.train.objectives import OBJECTIVES

TRAINING_OVERHEAD = 1.3
"""Seconds of a search per second of its steps: batches, validation, and two trials at once under Ray."""

_STATES: dict[str, Literal["running", "waiting", "finished", "over"]] = {
    "running": "running",
    "interrupted": "running",
    "waiting": "waiting",
    "finished": "finished",
    "pruned": "over",
}
"""States of records that count as trials, in the words of `Progress`."""


@dataclass(frozen=True)
class CellEstimate:
    """One cell of a search, and what it has left."""

    cell: str
    trials: int
    """Of the whole cell; 0 where it is refused."""
    begun: int
    """Of these, those that began before."""
    audio_seconds: float
    """Left; for asha and median the most that may be."""
    step_seconds: float | None
    """Of the first of its settings, with one worker; None where it was not measured."""
    core_hours: float | None
    """Of what is left, one trial after the other; None where steps run on GPUs or on other machines."""
    gigabytes: float | None
    """Of the weights and checkpoints of the trials that have not begun."""
    refused: str = ""
    """Why this machine cannot train it."""


@dataclass(frozen=True)
class Estimate:
    """What a search would take from here; None stands for what was not measured."""

    cells: tuple[CellEstimate, ...]
    at_once: int
    """Trials that the place runs at the same time."""
    hours: float | None

    @property
    def trials(self) -> int:
        """Of all cells, those that began before among them."""
        return sum(cell.trials for cell in self.cells)

    @property
    def audio_seconds(self) -> float:
        """Left."""
        return sum(cell.audio_seconds for cell in self.cells)

    @property
    def gigabytes(self) -> float | None:
        """Still to be written."""
        known = [cell.gigabytes for cell in self.cells if cell.gigabytes is not None]
        return sum(known) if known else None


def estimate_search(
    experiment: Experiment, recipe: Recipe, place: Place, records: Iterable[TrialRecord] = ()
) -> Estimate:
    """What a search has left, given the records of its cells. PlaceError where the place can hold no trial.

    A cell is measured with the first of its settings; cells that differ in their seed alone are measured once.
    """
    at_once = concurrent_trials(place, nodes_of(place))
    progress, known = progress_of(records, experiment.search.grace_seconds), dict[str, MeasuredStep]()
    rounds = trainings_left(experiment, progress)
    cells, rates = list[CellEstimate](), dict[str, float]()
    for cell in experiment.cells():
        step, refused = None, ""
        left = sum(each.audio_seconds for trainings in rounds for each in trainings if each.cell == cell.name)
        try:
            settings = first_settings(experiment, cell)
            if OBJECTIVES[settings.objective].separates:
                step = _measured(settings, recipe, place, known)
                if runs_on_these_cores(place):
                    rates[cell.name] = TRAINING_OVERHEAD * per_audio_second(step.seconds, settings, recipe)
        except ConfigError as error:  # no units for its precision, or a control that conflicts with what it inherits
            rates[cell.name] = 0.0
            refused = str(error) if left else ""  # a cell that another machine has trained needs nothing here
        trials = 0 if refused else experiment.search.trials if experiment.tune and not cell.is_control else 1
        begun = min(trials, len(progress.get(cell.name, ())))
        rate = rates.get(cell.name)
        cells.append(
            CellEstimate(
                cell=cell.name,
                trials=trials,
                begun=begun,
                audio_seconds=0.0 if refused else left,
                step_seconds=step.seconds if step and rate else None,
                core_hours=None if rate is None else left * rate * place.workers_per_trial / 3600,
                gigabytes=None if step is None else (trials - begun) * _trial_bytes(step) / 1e9,
                refused=refused,
            )
        )
    if len(rates) < len(cells):
        return Estimate(tuple(cells), at_once, None)
    seconds = [[each.audio_seconds * rates[each.cell] for each in trainings] for trainings in rounds]
    return Estimate(tuple(cells), at_once, longest(seconds, at_once) / 3600)


def _trial_bytes(step: MeasuredStep) -> int:
    return KEPT_CHECKPOINTS * step.checkpoint_bytes + step.weights_bytes


def runs_on_these_cores(place: Place) -> bool:
    """Whether a step that is measured here is one of the place: neither on GPUs nor on a cluster."""
    return not (place.ray_address or place.gpus_per_worker)


def first_settings(experiment: Experiment, cell: Cell) -> Settings:
    """The settings of a cell's first trial, or of the first value of each axis; a control inherits them too.

    ConfigError where they go together in no network.
    """
    config = experiment.search
    point: dict[str, Scalar] = dict(*config.first_trials[:1])
    if not point:
        for key in topological_order(experiment.tune):
            axis = experiment.tune[key]
            if all(point.get(other) in values for other, values in axis.when.items()):
                point[key] = sample_values(key, axis)[0]
    if not cell.is_control:
        return experiment.settings({**cell.overrides, **point})
    of_best = {**experiment.cells()[0].overrides, **point}
    inherited = {key: value for key, value in of_best.items() if key in experiment.inherited}
    return experiment.settings({**inherited, **cell.overrides})


def step_threads(place: Place) -> int:
    """The cores of a worker without those of its loader."""
    return max(1, int(place.cpus_per_worker) - place.loader_workers)


def per_audio_second(step: float, settings: Settings, recipe: Recipe) -> float:
    """Seconds of steps per audio second of training."""
    return step * recipe.sample_rate / (settings.training.batch_size * settings.training.output_samples)


def _measured(settings: Settings, recipe: Recipe, place: Place, known: dict[str, MeasuredStep]) -> MeasuredStep:
    """A step of one worker, of which those of a trial share the batch; each of `known` is measured once."""
    share = max(1, settings.training.batch_size // place.workers_per_trial)
    # Elsewhere the step tells the size of a checkpoint alone, and these cores may lack units that the place has.
    precision = settings.training.precision if runs_on_these_cores(place) else "float32"
    training = settings.training.model_copy(update={"batch_size": share, "precision": precision})
    alone = settings.model_copy(update={"training": training})
    # Neither the seed nor the mixtures nor the learning rate change what a step costs.
    rate = {"learning_rate": 1.0, "learning_rate_decay": 1.0, "constant_seconds": 0.0}
    name = signature(alone.model, alone.training.model_copy(update=rate))
    if name not in known:
        known[name] = measure_step(alone, recipe, step_threads(place))
    return known[name]


def progress_of(records: Iterable[TrialRecord], rung: float) -> dict[str, list[Progress]]:
    """The progress of the trials of an earlier run, by cell. Failed ones are left out, because others replace them.

    `rung` is where trials are compared, in audio seconds.
    """
    found: dict[str, list[Progress]] = {}
    for record in records:
        if record.state in _STATES:
            trained = max((report["audio_seconds"] for report in record.reports), default=0.0)
            value = value_at_rung(record, rung)
            rank = None if value is None else record.figure.rank(value)
            found.setdefault(record.cell, []).append(Progress(trained, _STATES[record.state], rank))
    return found
