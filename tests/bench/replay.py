"""Search policies played over learning curves, one trial at a time, by the functions that a search uses.

    played = play(SearchConfig(trials=24, scheduler="asha", grace_seconds=30), propose, train, figure, budget=270)
    played.until(-2.0)        # audio seconds until a trial was that good; infinite where none was

`propose` gives the settings of a trial, by its number and the records before it; `train` the reports of these settings
as far as they are wanted, from stored curves or from a training.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vimss.axes import Scalar
from vimss.experiment import SearchConfig
from vimss.search.sampler import Space, draws
from vimss.search.schedulers import SCHEDULERS
from vimss.search.study import TrialRecord
from vimss.search.top_k import choose
from vimss.train.config import reaches
from vimss.train.figure import Figure

Propose = Callable[[int, Sequence[TrialRecord]], dict[str, Scalar]]
Train = Callable[[Mapping[str, Scalar], float], Sequence[dict[str, float]]]


@dataclass(frozen=True)
class Played:
    """What a search spent, and what it found for it."""

    figure: Figure
    spent: tuple[float, ...]
    """Audio seconds of all trials, at each report in its turn."""
    values: tuple[float, ...]

    def until(self, target: float) -> float:
        """Audio seconds until a trial was as good as the target."""
        pairs = zip(self.spent, self.values, strict=True)
        return next((spent for spent, value in pairs if not self.figure.better(target, than=value)), math.inf)

    @property
    def total(self) -> float:
        """Audio seconds of the whole search."""
        return self.spent[-1]

    @property
    def best(self) -> float:
        """The best value of all."""
        return self.figure.best(self.values)


def in_order(points: Sequence[dict[str, Scalar]]) -> Propose:
    """Proposes these settings one after the other, whatever the records say."""
    return lambda number, records: points[number]


def by_sampler(space: Space) -> Propose:
    """Proposes what the sampler of a search draws."""

    def propose(number: int, records: Sequence[TrialRecord]) -> dict[str, Scalar]:
        known = [record.chosen for record in records]
        return next(draw.chosen for draw in draws(space, number, records) if draw.chosen not in known)

    return propose


def play(search: SearchConfig, propose: Propose, train: Train, figure: Figure, budget: float) -> Played:
    """A search from its first trial to its end."""
    played = _Search(search, train, figure, budget)
    goal = search.grace_seconds if search.scheduler == "top_k" else budget
    for number in range(search.trials):
        played.begin(number, propose(number, played.records))
        played.train_to(number, goal)
    if search.scheduler == "top_k":
        for record in choose(played.records, search.grace_seconds, search.keep)[0]:
            played.train_to(played.records.index(record), budget)
    spent, values = zip(*played.path, strict=True)
    return Played(figure, spent, values)


class _Search:
    """The records of a search, and its path."""

    def __init__(self, search: SearchConfig, train: Train, figure: Figure, budget: float) -> None:
        self.search = search
        self.train = train
        self.figure = figure
        self.budget = budget
        self.records: list[TrialRecord] = []
        self.positions = itertools.count(1)
        self.spent = 0.0
        self.path: list[tuple[float, float]] = []

    def begin(self, number: int, chosen: dict[str, Scalar]) -> None:
        """A new trial."""
        position = next(self.positions)
        self.records.append(
            TrialRecord(
                cell="search",
                trial=str(number),
                state="running",
                chosen=chosen,
                settings=None,
                figure=self.figure,
                number=number,
                drawn_at=position,
                begun=float(position),
            )
        )

    def train_to(self, number: int, goal: float) -> None:
        """Train a trial until it reaches the goal, or is pruned."""
        record = self.records[number]
        others = [other for other in self.records if other is not record]
        seconds, rung = record.reports[-1]["audio_seconds"] if record.reports else 0.0, None
        while rung is None and not reaches(seconds, goal):
            wanted = self.train(record.chosen, min(goal, self._next_decision(seconds)))
            for report in wanted[len(record.reports) :]:
                self.spent += report["audio_seconds"] - seconds
                seconds = report["audio_seconds"]
                self.path.append((self.spent, report[self.figure.name]))
                record = record.with_report(report, next(self.positions))
                rung = SCHEDULERS[self.search.scheduler](record, others, self.search)
                if rung is not None:
                    break
        state = "pruned" if rung is not None else "finished" if reaches(seconds, self.budget) else "waiting"
        ended = {} if state == "waiting" else {"ended_at": next(self.positions)}
        self.records[number] = record.model_copy(update={"state": state, "rung": rung, **ended})

    def _next_decision(self, seconds: float) -> float:
        """Audio seconds at which the scheduler may prune the trial next."""
        rung = self.search.grace_seconds
        match self.search.scheduler:
            case "asha":
                while reaches(seconds, rung):
                    rung *= self.search.reduction_factor
            case "median":
                rung = rung if seconds < rung else 1.01 * seconds  # the next report
            case _:
                rung = self.budget
        return rung
