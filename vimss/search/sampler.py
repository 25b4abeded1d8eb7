"""What Optuna draws for a trial: a function of the seed, the trial's number and the records before it.

    space = Space(experiment.tune, experiment.figure, experiment.search, experiment.seed)
    for draw in draws(space, number=3, records=records):   # until one of them is admitted
        ...

Optuna's study is made anew in memory for each trial, from the records, and its sampler with a seed of its own. So a
search that was killed draws as one that was not, and a study with other axes than before keeps what was trained.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from vimss.axes import Axis, Scalar, topological_order
from vimss.experiment import SearchConfig, field_type
from vimss.search.schedulers import values_at_rungs
from vimss.search.study import TrialRecord
from vimss.search.top_k import value_at_rung
from vimss.train.figure import Figure

_REDRAWS = 50
"""Draws without a new trial among them, after which a cell ends: its axes have hardly anything left to offer."""

# Its warnings are about its own installation, such as greenlet for a faster gp.
optuna.logging.set_verbosity(optuna.logging.ERROR)


def tpe(seed: int, trials: int) -> BaseSampler:
    """Tree-structured Parzen estimators; running trials count as bad ones (constant liar)."""
    return TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=startup_trials(trials)
    )


def gp(seed: int, trials: int) -> BaseSampler:
    """A Gaussian process; conditional axes, which it cannot model, are drawn at random. It reads no pruned trials."""
    return GPSampler(seed=seed, n_startup_trials=startup_trials(trials), warn_independent_sampling=False)


def at_random(seed: int, trials: int) -> BaseSampler:
    """Each axis by itself."""
    return RandomSampler(seed=seed)


def grid(seed: int, trials: int) -> BaseSampler:
    """A combination that no trial has yet. Optuna's GridSampler knows no conditional axes; this one does."""
    return BruteForceSampler(seed=seed)


SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {"tpe": tpe, "gp": gp, "random": at_random, "grid": grid}
"""Samplers by name, made from a seed and the number of trials of the search."""


def sampler_of(name: str, seed: int, trials: int) -> BaseSampler:
    """The sampler of a name, without Optuna's warnings that multivariate groups and the grid are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](seed, trials)


@dataclass(frozen=True)
class Space:
    """What all draws of a cell have in common."""

    axes: dict[str, Axis]
    figure: Figure
    config: SearchConfig
    seed: int
    earlier: tuple[TrialRecord, ...] = ()
    """Trials of other studies, whose values the sampler knows too."""


@dataclass(frozen=True)
class Draw:
    """A draw for a trial."""

    number: int
    """Of the trial in its cell."""
    seed: int
    """Of the sampler."""
    chosen: dict[str, Scalar]


def draws(space: Space, number: int, records: Sequence[TrialRecord]) -> Iterator[Draw]:
    """The draws for a trial in the order in which to try them: the next one is for where that before is not admitted.

    First the first trials that no record has, then the sampler's draw; then draws at random, since TPE would choose its
    favourite again.
    """
    # Those that an earlier call of the same search refused for this trial are drawn and refused again.
    records = [record for record in records if not (record.is_refused and record.number == number)]
    first_trials, refused = still_to_try(space.config.first_trials, records), list[FrozenTrial]()
    for attempt in range(len(first_trials) + _REDRAWS):
        study = optuna_study(space, records)
        study.add_trials(refused)
        if attempt < len(first_trials):
            study.enqueue_trial(first_trials[attempt])
        seed = draw_seed(space.seed, number, attempt)
        repeated = attempt > len(first_trials) and space.config.sampler != "grid"
        study.sampler = sampler_of("random" if repeated else space.config.sampler, seed, space.config.trials)
        trial = study.ask()
        suggest(trial, space.axes)
        yield Draw(number, seed, dict(trial.params))
        refused.append(
            create_trial(state=TrialState.FAIL, params=trial.params, distributions=dict(trial.distributions))
        )


def draw_seed(seed: int, number: int, attempt: int) -> int:
    """The seed of the sampler for one draw: independent of those of all others."""
    return int(np.random.SeedSequence((seed, number, attempt)).generate_state(1)[0])


def free_number(records: Sequence[TrialRecord]) -> int:
    """The number of the next trial: the first that is free, where older records without one have the first ones."""
    taken = {record.number for record in records if record.counts}
    unnumbered = sum(record.counts and record.number is None for record in records)
    numbers = (number for number in range(len(records) + 1) if number not in taken)
    return next(number for place, number in enumerate(numbers) if place == unnumbered)


def still_to_try(
    first_trials: Sequence[Mapping[str, Scalar]], records: Sequence[TrialRecord]
) -> list[dict[str, Scalar]]:
    """The first trials that no record has yet; one may set a part of the axes."""
    return [
        dict(first) for first in first_trials if not any(first.items() <= record.chosen.items() for record in records)
    ]


def optuna_study(space: Space, records: Sequence[TrialRecord]) -> optuna.Study:
    """Optuna's study in memory, with the trials of the records, and the values of those of other studies."""
    study = optuna.create_study(direction={"min": "minimize", "max": "maximize"}[space.figure.direction])
    earlier = [for_optuna(space, record) for record in space.earlier]
    # Of another study only values count: what failed or was pruned there may do well here.
    study.add_trials([trial for trial in earlier if trial.state == TrialState.COMPLETE])
    # What cannot be trained is known by its draw alone, which may be from before an axis changed.
    drawn = [record for record in records if set(record.chosen) == set(_axes_of(record.chosen, space.axes))]
    study.add_trials([for_optuna(space, record) for record in drawn])
    return study


def for_optuna(space: Space, record: TrialRecord) -> FrozenTrial:
    """A record as a trial of Optuna, which ranks pruned trials by the last rung that they reached, and value there.

    For top_k every trial that has been at the rung is complete, with its value there: those can be compared, while the
    values at the end of the few that continue are better for their longer training.
    """
    state, value = TrialState.RUNNING, None
    if record.state == "failed":
        state = TrialState.FAIL
    elif space.config.scheduler == "top_k":
        value = value_at_rung(record, space.config.grace_seconds)
    elif record.state == "finished":
        value = record.value
    elif record.state == "pruned":
        state = TrialState.PRUNED
    if value is not None:
        state = TrialState.COMPLETE if math.isfinite(value) else TrialState.FAIL
    trial = create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE else None,
        # In the order in which they are drawn, which the grid needs.
        params={key: record.chosen[key] for key in _axes_of(record.chosen, space.axes)},
        distributions={key: distribution_of(key, space.axes[key]) for key in _axes_of(record.chosen, space.axes)},
        intermediate_values=values_at_rungs(record, space.config) if space.config.scheduler != "top_k" else {},
    )
    # Local times without a zone, as Optuna has them.
    trial.datetime_start = datetime.fromtimestamp(record.begun)
    trial.datetime_complete = datetime.fromtimestamp(record.newest_time) if state.is_finished() else None
    return trial


def _axes_of(chosen: Mapping[str, Scalar], axes: Mapping[str, Axis]) -> Iterator[str]:
    """The axes that are drawn where these values are chosen, in their order; `chosen` may grow meanwhile."""
    for key in topological_order(axes):
        if all(chosen.get(other) in values for other, values in axes[key].when.items()):
            yield key


def suggest(trial: Any, axes: dict[str, Axis]) -> None:
    """Let a trial of Optuna choose for the axes, conditional ones only where their condition holds (define-by-run)."""
    chosen: dict[str, Any] = {}
    for key in _axes_of(chosen, axes):
        match distribution_of(key, axes[key]):
            case CategoricalDistribution(choices=choices):
                chosen[key] = trial.suggest_categorical(key, list(choices))
            case IntDistribution(low=low, high=high, log=log):
                chosen[key] = trial.suggest_int(key, low, high, log=log)
            case FloatDistribution(low=low, high=high, log=log):
                chosen[key] = trial.suggest_float(key, low, high, log=log)


def distribution_of(key: str, axis: Axis) -> BaseDistribution:
    """Optuna's distribution for an axis."""
    if axis.choices:
        return CategoricalDistribution(axis.choices)
    if field_type(key) is int:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def startup_trials(trials: int) -> int:
    """Random trials before TPE chooses. Optuna's default is 10; a small search would end before TPE has its turn."""
    return max(1, min(5, trials // 2))
