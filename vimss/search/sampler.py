"""What Optuna draws for the trials of a cell: TPE over the axes, without repeated or impossible settings."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from vimss.experiment import Axis, Scalar, field_type, in_order
from vimss.runtime import sqlite_url
from vimss.study import OBJECTIVE, TrialRecord

_REDRAWS = 50
"""Draws without a new trial among them, after which a cell ends: its axes have hardly anything left to offer."""

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def suggest(trial: Any, axes: dict[str, Axis]) -> dict[str, Any]:
    """Choose for the axes, conditional ones only where their condition holds (define-by-run).

    `trial` is an optuna.Trial, or what Ray puts in its place to see what is chosen; constants to add are none.
    """
    chosen: dict[str, Any] = {}
    for key in in_order(axes):
        axis = axes[key]
        if any(chosen.get(other) not in values for other, values in axis.when.items()):
            continue
        if axis.choices:
            chosen[key] = trial.suggest_categorical(key, list(axis.choices))
        elif field_type(key) is int:
            chosen[key] = trial.suggest_int(key, int(axis.low), int(axis.high), log=axis.log)
        else:
            chosen[key] = trial.suggest_float(key, axis.low, axis.high, log=axis.log)
    return {}


def startup_trials(trials: int) -> int:
    """Random trials before TPE chooses. Optuna's default is 10; a small search would end before TPE has its turn."""
    return max(1, min(5, trials // 2))


class Draws(Searcher):
    """What Optuna draws, as far as it is admitted: two trials of equal settings would train in one folder.

    In place of a draw that is not admitted comes one at random, since TPE would choose its favourite again.
    """

    def __init__(
        self, chooser: OptunaSearch, at_random: OptunaSearch, admit: Callable[[dict[str, Scalar]], bool]
    ) -> None:
        super().__init__(metric=OBJECTIVE, mode="min")
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


def remember(
    storage: optuna.storages.BaseStorage, name: str, axes: Mapping[str, Axis], records: Sequence[TrialRecord]
) -> None:
    """Begin a study of Optuna with what trials of before have shown, where it does not exist yet.

    Records with values that the axes of now do not have are left out.
    """
    if name in {study.study_name for study in storage.get_all_studies()}:
        return
    study = optuna.create_study(storage=storage, study_name=name, direction="minimize")
    for record in records:
        known = all(key in axes and axes[key].allows(value) for key, value in record.chosen.items())
        if known and math.isfinite(record.objective):
            distributions = {key: _distribution(key, axes[key]) for key in record.chosen}
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(record.chosen), distributions=distributions, value=record.objective
                )
            )


def _distribution(key: str, axis: Axis) -> optuna.distributions.BaseDistribution:
    """What `suggest` draws from."""
    if axis.choices:
        return optuna.distributions.CategoricalDistribution(axis.choices)
    if field_type(key) is int:
        return optuna.distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.log)


def optuna_storage(folder: Path) -> optuna.storages.BaseStorage:
    """Optuna's database of a cell; trials of a search that died are marked as failed there."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(sqlite_url(folder / "optuna.db"))
    for study in storage.get_all_studies():
        for trial in storage.get_all_trials(study._study_id, states=(TrialState.RUNNING, TrialState.WAITING)):
            # Of a driver that died; what was cut off or not begun is among the first trials again.
            storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
    return storage
