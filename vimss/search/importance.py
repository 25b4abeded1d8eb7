"""How much each axis of a search matters: PED-ANOVA and fANOVA over the trials of a cell.

    found, refused = importances(experiment, {"op=film": [records of seed 0, records of seed 1]})
    found[0].evaluator, found[0].shares["training.learning_rate"]      # "fANOVA", (0.71, 0.68, ...)

PED-ANOVA (Watanabe, Bansal and Hutter 2023) asks which axes decide whether a trial is among the best quarter; fANOVA
(Hutter, Hoos and Leyton-Brown 2014) which axes explain the variance of all values, by a forest of random trees. They
answer different questions, so both are shown. Each search, one per seed of the experiment, is rated by itself, fANOVA
with several forests: what they disagree about is not known.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import BaseImportanceEvaluator, FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, create_trial

from vimss.experiment import Experiment
from vimss.search.sampler import distribution_of
from vimss.search.study import TrialRecord
from vimss.search.top_k import value_at_rung

LEAST_TRIALS = 20
"""Of one search: PED-ANOVA should have five among the best (documentation of Optuna 5), which are a quarter here."""

BEST = 0.25
"""The share of trials that PED-ANOVA takes as the best; Optuna's tenth would need fifty trials."""

FORESTS = 5
"""Seeds of fANOVA's random trees."""

EVALUATORS: dict[str, Callable[[], list[BaseImportanceEvaluator]]] = {
    "PED-ANOVA": lambda: [PedAnovaImportanceEvaluator(target_quantile=BEST)],
    "fANOVA": lambda: [FanovaImportanceEvaluator(seed=seed) for seed in range(FORESTS)],
}
"""By name, each with all of its seeds; PED-ANOVA has no chance in it."""


@dataclass(frozen=True)
class Importance:
    """What one evaluator says about the axes of a row's trials."""

    row: str
    evaluator: str
    trials: int
    """With a value, in all searches of the row."""
    basis: str
    """What the values are."""
    shares: Mapping[str, tuple[float, ...]]
    """Of each axis, by its key, its share of the whole importance: one per search and seed of the evaluator. An axis
    that an evaluator does not rate is missing."""


def importances(
    experiment: Experiment, searches: Mapping[str, Sequence[Sequence[TrialRecord]]]
) -> tuple[list[Importance], list[str]]:
    """The importances of each row that has enough trials, and a sentence for each that has not.

    `searches` are by row the trials of each of its searches, one per seed.
    """
    found: list[Importance] = []
    refused: list[str] = []
    if not experiment.tune:
        return found, refused
    basis = value_basis(experiment)
    for row, records in searches.items():
        rated = [[trial for one in of if (trial := _for_rating(experiment, one))] for of in records]
        enough = [trials for trials in rated if len(trials) >= LEAST_TRIALS]
        counts = ", ".join(str(len(trials)) for trials in rated)
        if not enough:
            refused.append(
                f"no importance of the axes of {row}: a search needs {LEAST_TRIALS} trials with a value, got {counts}"
            )
            continue
        if len({trial.value for trials in enough for trial in trials}) == 1:
            refused.append(f"no importance of the axes of {row}: all of its trials have one value")
            continue
        for name, evaluators in EVALUATORS.items():
            ratings = [_rating(experiment, trials, evaluator) for trials in enough for evaluator in evaluators()]
            # A conditional axis that fANOVA does not rate is in none of them.
            axes = [axis for axis in experiment.tune if all(axis in rating for rating in ratings)]
            shares = {axis: tuple(rating[axis] for rating in ratings) for axis in axes}
            found.append(Importance(row, name, sum(map(len, enough)), basis, shares))
    return found, refused


def value_basis(experiment: Experiment) -> str:
    """What the values of the trials are, which must be comparable."""
    if experiment.search.scheduler == "none":
        return f"{experiment.figure.title}, best of each finished trial"
    return f"{experiment.figure.title} at the first rung, {experiment.search.grace_seconds:g} audio seconds"


def comparable_value(experiment: Experiment, record: TrialRecord) -> float | None:
    """The value of a trial that can be compared with those of others: they may have trained less or longer."""
    if experiment.search.scheduler == "none":
        value = record.value if record.state == "finished" else None
    else:
        value = value_at_rung(record, experiment.search.grace_seconds)
    return value if value is not None and math.isfinite(value) else None


def _for_rating(experiment: Experiment, record: TrialRecord) -> FrozenTrial | None:
    value = comparable_value(experiment, record)
    if value is None or record.is_control:
        return None
    axes = {key: distribution_of(key, experiment.tune[key]) for key in record.chosen}
    return create_trial(value=value, params=dict(record.chosen), distributions=axes)


def _rating(
    experiment: Experiment, trials: Sequence[FrozenTrial], evaluator: BaseImportanceEvaluator
) -> dict[str, float]:
    study = optuna.create_study(direction={"min": "minimize", "max": "maximize"}[experiment.figure.direction])
    study.add_trials(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=True)
