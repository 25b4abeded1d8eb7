"""Optuna's draws for the trials of a cell: TPE over the axes, without repeated or impossible settings."""

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import create_trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from vimss.experiment import Axis, Scalar, field_type, topological_order
from vimss.search.study import TrialRecord
from vimss.train.figure import Figure

_REDRAWS = 50
"""Draws without a new trial among them, after which a cell ends: its axes have hardly anything left to offer."""

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def suggest(trial: Any, axes: dict[str, Axis]) -> dict[str, Any]:
    """Choose for the axes, conditional ones only where their condition holds (define-by-run).

    `trial` is an optuna.Trial, or what Ray puts in its place to see what is chosen; constants to add are none.
    """
    chosen: dict[str, Any] = {}
    for key in topological_order(axes):
        axis = axes[key]
        if any(chosen.get(other) not in values for other, values in axis.when.items()):
            continue
        match distribution_of(key, axis):
            case CategoricalDistribution(choices=choices):
                chosen[key] = trial.suggest_categorical(key, list(choices))
            case IntDistribution(low=low, high=high, log=log):
                chosen[key] = trial.suggest_int(key, low, high, log=log)
            case FloatDistribution(low=low, high=high, log=log):
                chosen[key] = trial.suggest_float(key, low, high, log=log)
    return {}


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


class DeduplicatingSearcher(Searcher):
    """Optuna's draws that are admitted: two trials of equal settings would train in one folder.

    In place of a draw that is not admitted comes one at random, since TPE would choose its favourite again.
    """

    def __init__(
        self, chooser: OptunaSearch, at_random: OptunaSearch, admit: Callable[[dict[str, Scalar]], bool]
    ) -> None:
        super().__init__(metric=chooser.metric, mode=chooser.mode)
        self.chooser = chooser
        self.at_random = at_random
        self.admit = admit
        self.drawn: dict[str, tuple[OptunaSearch, str]] = {}
        """Tune's name of a trial to who drew it, and its name there: a draw that was not admitted had its own."""

    def suggest(self, trial_id: str) -> Any:
        """The next configuration, or Searcher.FINISHED."""
        for number in range(_REDRAWS):
            searcher, name = self.at_random if number else self.chooser, f"{trial_id}-{number}"
            chosen = searcher.suggest(name)
            if self.admit(chosen):
                self.drawn[trial_id] = searcher, name
                return chosen
            searcher.on_trial_complete(name, error=True)
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on a report."""
        searcher, name = self.drawn[trial_id]
        searcher.on_trial_result(name, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on the end of a trial."""
        searcher, name = self.drawn[trial_id]
        searcher.on_trial_complete(name, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Tune saves its searcher for a restore that we do not use."""


def known_to_optuna(
    name: str, axes: dict[str, Axis], values: Iterable[tuple[TrialRecord, float | None]], figure: Figure
) -> BaseStorage:
    """Optuna's study of that name, in memory, with what the trials of the records chose and their figures, if any.

    Made anew from the records for each search: a study in a file refuses an axis that has changed, and may lack what
    the driver that died knew.
    """
    storage = InMemoryStorage()
    study = optuna.create_study(
        storage=storage, study_name=name, direction={"min": "minimize", "max": "maximize"}[figure.direction]
    )
    for record, value in values:
        if value is not None and math.isfinite(value):
            distributions = {key: distribution_of(key, axes[key]) for key in record.chosen}
            study.add_trial(create_trial(params=record.chosen, distributions=distributions, value=value))
    return storage
