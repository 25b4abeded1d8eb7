"""Which search policy finds the best of 24 random trainings with the fewest audio seconds, on real learning curves.

    policies = Policies(folder, shards, orders=40, replicates=8)
    policies.train(), policies.play("over the whole length")

Random trainings are stored whole, so that policies which choose among them are played in many orders; those that draw
by TPE train what they propose, with several seeds of the sampler. Each seed of the training has its own target: the
best of its 24 random trainings, and 0.1 dB more.
"""

import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from curves import BUDGET, DECAYS, RUNGS, SEEDS, TRIALS, Curves, Reports, random_points, side_by_side, small_experiment
from replay import Played, Propose, Train, by_sampler, in_order, play
from scipy.stats import spearmanr

from vimss.axes import Scalar
from vimss.experiment import Experiment, SearchConfig
from vimss.search.sampler import Space
from vimss.search.study import TrialRecord
from vimss.shards.manifest import open_manifest
from vimss.train.config import Settings, reaches

TOLERANCE = 0.1
"""dB."""

RESAMPLES = 2000


@dataclass(frozen=True)
class Policy:
    """How a search chooses and stops its trials."""

    name: str
    search: SearchConfig
    warm_start: float = 0.0
    """Audio seconds of each of the 24 trials of an earlier study, with another seed, that the sampler knows."""
    anew: bool = False
    """Whether random trials are others than those whose best is the target."""

    @property
    def is_random(self) -> bool:
        """Whether its trials are those of the random search, in any order."""
        return self.search.sampler == "random" and not self.anew


def _search(sampler: str, scheduler: str, **more: float) -> SearchConfig:
    pruning = {} if scheduler == "none" else {"grace_seconds": RUNGS[0]}
    return SearchConfig.model_validate(
        {"trials": TRIALS, "sampler": sampler, "scheduler": scheduler, **pruning, **more}
    )


_DEFAULT = SearchConfig()
POLICIES = (
    Policy("random, whole", _search("random", "none")),
    Policy("top-K after 1/9, K = 3", _search("random", "top_k", keep=3)),
    Policy("top-K after 1/9, K = 2", _search("random", "top_k", keep=2)),
    Policy("top-K after 1/9, K = 1", _search("random", "top_k", keep=1)),
    Policy("ASHA, 1/9 and 1/3", _search("random", "asha")),
    Policy("ASHA + TPE", _search("tpe", "asha")),
    Policy("other random trials, top-K, K = 2", _search("random", "top_k", keep=2), anew=True),
    Policy("TPE + top-K, K = 3", _search("tpe", "top_k", keep=3)),
    Policy("TPE + top-K, K = 2", _search("tpe", "top_k", keep=2)),
    Policy("TPE + top-K, K = 2, warm-started", _search("tpe", "top_k", keep=2), warm_start=BUDGET),
)
RANDOM, TOP_K = POLICIES[0], POLICIES[1]
OURS = next(
    policy
    for policy in POLICIES
    if all(getattr(policy.search, name) == getattr(_DEFAULT, name) for name in ("sampler", "scheduler", "keep"))
)
"""The defaults of a search."""

ANOTHER = Policy("ASHA with a reduction factor of 4", _search("random", "asha", reduction_factor=4))
"""One that nobody has played before."""


@dataclass(frozen=True)
class Task:
    """One search to play."""

    folder: Path
    shards: Path
    policy: Policy
    decay: str
    seed: int
    order: int
    """Of the random trials, or of the sampler's seeds; 0 is as they were drawn."""


def play_task(task: Task) -> Played:
    """Play a search, by a process of its own if it has to train."""
    return play_with(Curves(task.folder, open_manifest(task.shards)), task)


def play_with(curves: Curves, task: Task) -> Played:
    """Play a search over these curves."""
    experiment = experiment_of(task.decay, task.seed)
    train = trainer(curves, experiment)
    search = task.policy.search
    return play(search, _proposals(curves, experiment, task), train, experiment.figure, BUDGET)


@functools.cache
def experiment_of(decay: str, seed: int) -> Experiment:
    """The small experiment with this schedule."""
    return small_experiment(DECAYS[decay], seed)


@functools.cache
def points_of(seed: int) -> list[dict[str, Scalar]]:
    """The random trials of a seed; they do not depend on the schedule."""
    return random_points(experiment_of(next(iter(DECAYS)), seed), seed)


def trainer(curves: Curves, experiment: Experiment) -> Train:
    """The function that gives the reports of a trial; settings are parsed once for each point."""
    parsed: dict[tuple[tuple[str, Scalar], ...], Settings] = {}

    def train(chosen: Mapping[str, Scalar], until: float) -> Reports:
        key = tuple(sorted(chosen.items()))
        if key not in parsed:
            parsed[key] = experiment.settings(chosen)
        return curves.reports(parsed[key], until)

    return train


def _proposals(curves: Curves, experiment: Experiment, task: Task) -> Propose:
    policy, search, earlier = task.policy, task.policy.search, tuple[TrialRecord, ...]()
    if policy.is_random:
        points = points_of(task.seed)
        order = np.random.default_rng((task.seed, task.order)).permutation(TRIALS) if task.order else range(TRIALS)
        return in_order([points[number] for number in order])
    if policy.warm_start:
        other = SEEDS[(SEEDS.index(task.seed) + 1) % len(SEEDS)]
        earlier = earlier_records(curves, experiment_of(task.decay, other), other, policy.warm_start)
    seed = task.seed + 1000 * (task.order + policy.anew)
    return by_sampler(Space(experiment.tune, experiment.figure, search, seed, earlier))


def earlier_records(curves: Curves, experiment: Experiment, seed: int, until: float) -> tuple[TrialRecord, ...]:
    """The finished trials of an earlier study of random trials, of which each has trained so long."""
    train = trainer(curves, experiment)
    return tuple(
        TrialRecord(
            cell="search",
            trial=str(number),
            state="finished",
            chosen=chosen,
            settings=None,
            figure=experiment.figure,
            reports=train(chosen, until),
            number=number,
            begun=float(number),
        )
        for number, chosen in enumerate(points_of(seed))
    )


def train_random(task: Task) -> float:
    """Train one random trial whole: the one of this number in its order; returns audio seconds."""
    curves = Curves(task.folder, open_manifest(task.shards))
    trainer(curves, experiment_of(task.decay, task.seed))(points_of(task.seed)[task.order], BUDGET)
    return curves.trained_seconds


class Policies:
    """All policies over the curves of a folder."""

    def __init__(self, folder: Path, shards: Path, orders: int, replicates: int) -> None:
        """`orders` of the random trials, and `replicates` of the sampler's seeds, for each seed of the training."""
        self.folder = folder
        self.shards = shards
        self.orders = orders
        self.replicates = replicates

    def task(self, policy: Policy, decay: str, seed: int, order: int) -> Task:
        """One search."""
        return Task(self.folder, self.shards, policy, decay, seed, order)

    def train(self) -> float:
        """Train whole what the random search draws; returns audio seconds that were missing."""
        tasks = [
            self.task(RANDOM, decay, seed, number)
            for seed, number, decay in itertools.product(SEEDS, range(TRIALS), DECAYS)
        ]
        curves = self.curves()
        missing = [task for task in tasks if not _is_stored(curves, task)]
        return sum(side_by_side(train_random, missing)) if missing else 0.0

    def curves(self) -> Curves:
        """The stored curves."""
        return Curves(self.folder, open_manifest(self.shards))

    def play(self, decay: str, draw: bool) -> dict[str, list[list[Played]]]:
        """Each policy, seed and order; with `draw` also those that draw by themselves, side by side: they may train."""
        drawn = [policy for policy in POLICIES if draw and not policy.is_random]
        wanted = list(itertools.product(drawn, SEEDS, range(self.replicates)))
        results = iter(side_by_side(play_task, [self.task(policy, decay, *rest) for policy, *rest in wanted]))
        found = {policy.name: [[next(results) for _ in range(self.replicates)] for _ in SEEDS] for policy in drawn}
        curves = self.curves()
        for policy in POLICIES:
            if policy.is_random:
                orders = [[self.task(policy, decay, seed, order) for order in range(self.orders)] for seed in SEEDS]
                found[policy.name] = [[play_with(curves, task) for task in tasks] for tasks in orders]
        return {policy.name: found[policy.name] for policy in POLICIES if policy.name in found}

    def replay_seconds(self, policy: Policy = ANOTHER) -> float:
        """Wall time from the stored curves to the result of a policy, with all seeds and both schedules."""
        begin = time.perf_counter()
        curves = self.curves()
        for decay, seed in itertools.product(DECAYS, SEEDS):
            play_with(curves, self.task(policy, decay, seed, 0))
        return time.perf_counter() - begin

    def targets(self, decay: str) -> list[float]:
        """For each seed, the value that counts as found: 0.1 dB above the best of its random trials."""
        curves = self.curves()
        return [play_with(curves, self.task(RANDOM, decay, seed, 0)).best + TOLERANCE for seed in SEEDS]

    def rank_correlations(self, decay: str) -> list[list[float]]:
        """Spearman's between the value at each rung and that of the whole training; for each rung and seed."""
        curves, found = self.curves(), []
        for rung in RUNGS:
            of_seeds = []
            for seed in SEEDS:
                train, figure = trainer(curves, experiment_of(decay, seed)), experiment_of(decay, seed).figure
                reports = [train(chosen, BUDGET) for chosen in points_of(seed)]
                early = [_best(figure.name, [r for r in each if not _is_after(r, rung)]) for each in reports]
                of_seeds.append(float(spearmanr(early, [_best(figure.name, each) for each in reports]).statistic))
            found.append(of_seeds)
        return found


def _is_stored(curves: Curves, task: Task) -> bool:
    experiment = experiment_of(task.decay, task.seed)
    return curves.has(experiment.settings(points_of(task.seed)[task.order]), BUDGET)


def _best(name: str, reports: Sequence[Mapping[str, float]]) -> float:
    return min(report[name] for report in reports)


def _is_after(report: Mapping[str, float], rung: float) -> bool:
    """Whether a report came after the first one at the rung."""
    return reaches(report["audio_seconds"], rung + RUNGS[0] / 2)


Values = Sequence[Sequence[float]]
"""Of a policy, for each seed and order."""


def median_of(values: Values) -> tuple[float, float, float]:
    """The median of a policy's values, with its 95 % interval."""
    return _interval([values], lambda drawn: float(np.median(drawn[0])))


def ratio_of_medians(values: Values, others: Values) -> tuple[float, float, float]:
    """The median of a policy's values against that of another one's, with its 95 % interval."""
    return _interval([values, others], lambda drawn: float(np.median(drawn[0]) / np.median(drawn[1])))


def _interval(values: Sequence[Values], statistic: Callable[[list[np.ndarray]], float]) -> tuple[float, float, float]:
    """A statistic of some policies' values, with its interval: seeds and, in each, orders are resampled."""
    generator = np.random.default_rng(0)
    arrays = [[np.asarray(of_seed) for of_seed in of_policy] for of_policy in values]
    whole = statistic([np.concatenate(of_policy) for of_policy in arrays])
    found = []
    for _ in range(RESAMPLES):
        seeds = generator.integers(len(arrays[0]), size=len(arrays[0]))
        found.append(
            statistic(
                [
                    np.concatenate([generator.choice(of_policy[seed], len(of_policy[seed])) for seed in seeds])
                    for of_policy in arrays
                ]
            )
        )
    # A search that never finds it costs infinitely much, between which nothing can be interpolated.
    low, high = np.percentile(found, [2.5, 97.5], method="inverted_cdf")
    return whole, float(low), float(high)
