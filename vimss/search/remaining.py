"""The training that a search has left, for an estimate of its time.

rounds = audio_left(experiment, {"search": [Progress(225.0, "waiting"), Progress(100.0)]})
seconds = longest(rounds, at_once=2) / audio_seconds_per_second
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vimss.experiment import Experiment
from vimss.train.config import reaches


@dataclass(frozen=True)
class Progress:
    """The progress of a trial."""

    audio_seconds: float = 0.0
    state: Literal["running", "waiting", "finished", "over"] = "running"
    """Over: pruned, failed or interrupted."""
    rank: float | None = None
    """Of its best figure up to the rung, the lower the better: see `Figure.rank`. None where it is not known."""


@dataclass(frozen=True)
class Training:
    """A training that is left, or the part of one up to the rung or from there."""

    cell: str
    audio_seconds: float


def audio_left(experiment: Experiment, progress: Mapping[str, Sequence[Progress]]) -> list[list[float]]:
    """The training that a search has left, in audio seconds: see `trainings_left`."""
    return [[left.audio_seconds for left in each] for each in trainings_left(experiment, progress)]


def trainings_left(
    experiment: Experiment, progress: Mapping[str, Sequence[Progress]], left_out: Collection[str] = ()
) -> list[list[Training]]:
    """The training that a search has left: a list per round, in which trainings run side by side.

    A round starts when the one before has ended. For asha and median it is the most that may be left, as if no trial
    were pruned.

    Args:
        experiment: of the search.
        progress: of the trials that began, by cell.
        left_out: cells that are not trained.

    """
    config, rounds, controls = experiment.search, list[list[Training]](), list[Training]()
    for cell in (cell for cell in experiment.cells() if cell.name not in left_out):

        def of_cell(seconds: Iterable[float], name: str = cell.name) -> list[Training]:
            return [Training(name, max(0.0, left)) for left in seconds]

        known, budget = progress.get(cell.name, ()), experiment.audio_seconds(cell)
        running = [trial.audio_seconds for trial in known if trial.state == "running"]
        if cell.is_control or not experiment.tune:
            left = of_cell([budget - trained for trained in running] + [budget] * (not known))
            if cell.is_control:
                controls += left
            elif rounds:  # cells without axes train side by side
                rounds[0] += left
            else:
                rounds.append(left)
            continue
        begun = [*running, *[0.0] * max(0, config.trials - len(known))]
        if config.scheduler != "top_k":
            rounds.append(of_cell(budget - trained for trained in begun))
            continue
        rung = min(config.grace_seconds, budget)
        to_rung = [trained for trained in begun if not reaches(trained, rung)]
        beyond = [trained for trained in begun if reaches(trained, rung)]
        at_rung = sum(trial.state == "waiting" for trial in known) + len(to_rung)
        beyond += [rung] * max(0, min(config.keep - _places_taken(known, rung, config.keep), at_rung))
        rounds.append(of_cell(rung - trained for trained in to_rung))
        rounds.append(of_cell(budget - trained for trained in beyond))
    if trained_beside(experiment) and rounds:
        rounds[-1] += controls
        controls = []
    return [*rounds, controls]


def _places_taken(trials: Sequence[Progress], rung: float, keep: int) -> int:
    """How many of the best `keep` trials continue beyond the rung, or have finished.

    A trial of `vimss search --continue` does so too where others are better, which leaves their places free.
    """
    there = [
        trial
        for trial in trials
        if trial.state == "finished" or (trial.state != "over" and reaches(trial.audio_seconds, rung))
    ]
    ranks = sorted(trial.rank for trial in there if trial.rank is not None)
    last = ranks[keep - 1] if len(ranks) >= keep else math.inf
    return sum(trial.state != "waiting" and (trial.rank is None or trial.rank <= last) for trial in there)


def trained_beside(experiment: Experiment) -> bool:
    """Whether the controls train beside the one trial that continues: what they inherit is known at the rung."""
    searched = sum(not cell.is_control for cell in experiment.cells())
    return experiment.search.scheduler == "top_k" and experiment.search.keep == searched == 1


def longest(rounds: Sequence[Sequence[float]], at_once: int) -> float:
    """How long the rounds take one after the other: in each, the longest training left goes to the first free place."""
    total = 0.0
    for trainings in rounds:
        places = [0.0] * max(1, at_once)
        for training in sorted(trainings, reverse=True):
            places[places.index(min(places))] += training
        total += max(places)
    return total
