"""An experiment, read and checked against itself: every cell, axis and first trial must be a training.

    experiment = load_experiment("quickstart", overrides=["search.trials=4"])

So a mistake shows now rather than an hour into the search. Against shards and place: `vimss.search.checks`.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vimss.axes import Axis, Scalar, topological_order
from vimss.config import signature
from vimss.errors import ConfigError
from vimss.experiment import (
    NETWORK,
    OBJECTIVE,
    SEED,
    TUNE_FOLDER,
    Cell,
    Experiment,
    field_type,
    find_experiment,
    read_experiment,
)
from vimss.model.config import ModelConfig
from vimss.model.contexts import CONTEXTS
from vimss.search.idle_settings import check_idle, draws_of
from vimss.train.config import VALIDATION_SOURCES
from vimss.train.objectives import OBJECTIVES

_MOST_DRAWS = 10_000
"""Draws that are looked at to count different trainings: more than any search has trials."""


def load_experiment(name: str | Path, overrides: Sequence[str] = (), seed: int | None = None) -> Experiment:
    """The experiment called `name` in experiments/, or at that path where it has / or ends in .yaml; fully checked."""
    overrides = [*([] if seed is None else [f"seed={seed}"]), *overrides]
    experiment = read_experiment(name, overrides)
    if seed is not None and SEED in experiment.compare:
        raise _seeds_are_compared(experiment, seed)
    _check(experiment)
    check_idle(experiment, find_experiment(name), overrides)
    _check_trials(experiment)
    return experiment


def _seeds_are_compared(experiment: Experiment, seed: int) -> ConfigError:
    """The error of --seed where each cell has a seed of its own, which it would not replace."""
    return ConfigError(
        f"experiment {experiment.name}: --seed must be left out where compare.{SEED} lists the seeds of the cells",
        got=f"--seed {seed} and compare.{SEED}: {list(experiment.compare[SEED])}",
        fix=f"write --set 'compare.{SEED}=[{seed}]' for cells of that seed, "
        f"or --set {SEED}={seed} for that of corpus, sampler and controls",
    )


def _check(experiment: Experiment) -> None:
    """Every cell, first trial and value of an axis must resolve, now rather than an hour into the search."""
    for key, axis in experiment.tune.items():
        _check_axis(experiment, key, axis)
    list(topological_order(experiment.tune))
    _check_names(experiment)
    _check_systems(experiment)
    _check_objectives(experiment)
    for cell in experiment.cells():
        if cell.is_control or not experiment.tune:
            experiment.settings(cell.overrides)
        else:
            _check_tuned(experiment, cell)
            check_same_validation_mixtures(experiment, cell)
    _check_rung(experiment)
    check_grid(experiment)
    _check_cells_differ(experiment)


def _check_names(experiment: Experiment) -> None:
    """A cell's name is a folder of the study, beside Ray's own, and a row of the table."""
    for key, values in experiment.compare.items():
        if not values:
            raise ConfigError(
                f"experiment {experiment.name}: compare.{key} must list values", got="[]", fix="remove the key"
            )
    for name, fixed in experiment.variants.items():
        _check_variant(experiment, name, fixed)
    names = [cell.name for cell in experiment.cells()]
    for name in experiment.controls:
        if names.count(name) > 1 or name in {"", TUNE_FOLDER} or name.startswith(".") or "/" in name:
            raise ConfigError(
                f"experiment {experiment.name}: a control's name must be a folder's name that no other cell has",
                got=repr(name),
                fix="choose another name",
            )


def _check_variant(experiment: Experiment, name: str, fixed: Mapping[str, Scalar]) -> None:
    """Its name begins the names of its cells, and what it sets is set nowhere else."""
    if not name or name.startswith(".") or "/" in name or "," in name:
        raise ConfigError(
            f"experiment {experiment.name}: the name of a variant begins names of cells, which are folders",
            got=repr(name),
            fix="choose a name without / and comma, which does not begin with a dot",
        )
    both = sorted(set(fixed) & set(experiment.compare))
    if both:
        raise ConfigError(
            f"experiment {experiment.name}: a key stands in `compare`, `variants` or `tune`",
            got=f"{both[0]} in both",
            fix="remove one",
        )


def _check_systems(experiment: Experiment) -> None:
    """A system is a row of the evaluation, of the network of a cell, which must be conditioned on labels."""
    cells = {cell.name: cell for cell in experiment.cells()}
    for name, system in experiment.systems.items():
        where = f"experiment {experiment.name}: systems.{name}"
        if not OBJECTIVES[experiment.objective].separates:
            raise ConfigError(
                f"{where} must be of an experiment whose networks separate",
                got=f"objective: {experiment.objective}",
                fix="remove `systems`",
            )
        if not name or name in cells:
            raise ConfigError(
                f"{where} must have a name that no cell has, as it is a row of their table",
                got=repr(name),
                fix="choose another name",
            )
        if system.cell and system.cell not in cells:
            raise ConfigError(
                f"{where}.cell must name a cell, one of {', '.join(cells)}",
                got=repr(system.cell),
                fix="correct the name, or remove `cell`",
            )
        asked = [cells[system.cell]] if system.cell else [cell for cell in cells.values() if not cell.is_control]
        if not any(_may_take_labels(experiment, cell) for cell in asked):
            raise ConfigError(
                f"{where} needs a network that is conditioned on labels, to be asked by those that pictures name",
                got=f"none in {', '.join(cell.name for cell in asked)}",
                fix="set model.site, with model.context: labels, or name another cell in `cell`",
            )


def _may_take_labels(experiment: Experiment, cell: Cell) -> bool:
    """Whether the network of some trial of a cell may be conditioned on labels."""
    if not cell.is_control and {"model.site", "model.context"} & set(experiment.tune):
        return True
    model = {**experiment.model, **{key.removeprefix("model."): value for key, value in cell.overrides.items()}}
    defaults = ModelConfig.model_fields
    site, context = (model.get(name, defaults[name].default) for name in ("site", "context"))
    return site != "none" and context in CONTEXTS and not CONTEXTS[context].uses_players


def _check_objectives(experiment: Experiment) -> None:
    """A study has one figure and one validation set, by which all of its trials are compared."""
    own = OBJECTIVES[experiment.objective]
    places = [("compare", name) for name in experiment.compare.get(OBJECTIVE, ())]
    for group in ("variants", "controls"):
        named = getattr(experiment, group)
        places += [(f"{group}.{name}", fixed[OBJECTIVE]) for name, fixed in named.items() if OBJECTIVE in fixed]
    for place, name in places:
        other = OBJECTIVES.get(str(name))
        if other is None:
            raise ConfigError(
                f"experiment {experiment.name}: {place}.{OBJECTIVE} must name one of {', '.join(OBJECTIVES)}",
                got=repr(name),
                fix="correct the name",
            )
        if (other.figure, other.distractors) != (own.figure, own.distractors):
            raise ConfigError(
                f"experiment {experiment.name}: {place}.{OBJECTIVE} must name objectives with the figure of "
                f"'{experiment.objective}', {own.figure.name}, or their trials cannot be compared",
                got=f"'{name}', whose figure is {other.figure.name}",
                fix="write an experiment of its own for that objective",
            )


def _check_trials(experiment: Experiment) -> None:
    """Trials with equal settings are one trial, so enough different settings must exist."""
    allowed = _count_settings(experiment)
    if not allowed:
        draw = next(draws_of(experiment.tune, experiment.tune))
        try:
            experiment.settings({**experiment.cells()[0].overrides, **draw})
        except ConfigError as error:
            example = ", ".join(f"{key}: {value}" for key, value in draw.items())
            raise ConfigError(
                f"experiment {experiment.name}: `tune` must allow at least one training",
                got=f"none; for example with {example}: {error.rule.removeprefix(f'experiment {experiment.name}: ')}",
                fix="change these values, or the settings that they do not fit",
            ) from error
    if experiment.search.trials > allowed:
        raise ConfigError(
            f"experiment {experiment.name}: search.trials must not exceed the number of settings that `tune` allows",
            got=f"{experiment.search.trials} trials of {allowed} settings",
            fix=f"set search.trials: {allowed}, or add choices",
        )


def _check_cells_differ(experiment: Experiment) -> None:
    """Two cells that fix the same, as values 2 and 2.0 do, would be one."""
    names: dict[str, str] = {}
    for cell in (cell for cell in experiment.cells() if not cell.is_control):
        fixed = experiment.cell_signature(cell)
        if fixed in names:
            raise ConfigError(
                f"experiment {experiment.name}: no two variants or values in `compare` may mean the same",
                got=f"the cells {names[fixed]} and {cell.name}",
                fix="remove one of them",
            )
        names[fixed] = cell.name


def _count_settings(experiment: Experiment) -> int | float:
    """Different settings that can be drawn in the cell that has the most; infinite where counting is not needed."""
    if not all(axis.choices for axis in experiment.tune.values()) or not experiment.tune:
        return math.inf
    most = 0
    for cell in experiment.cells():
        if not cell.is_control:
            found: set[str] = set()
            for draw in itertools.islice(draws_of(experiment.tune, experiment.tune), _MOST_DRAWS):
                with suppress(ConfigError):  # a draw that goes together in no network becomes no trial
                    found.add(signature(experiment.settings({**cell.overrides, **draw})))
                if len(found) == experiment.search.trials:
                    return math.inf
            most = max(most, len(found))
    draws = math.prod(len(axis.choices) for axis in experiment.tune.values())
    return most if draws <= _MOST_DRAWS else math.inf


def _check_rung(experiment: Experiment) -> None:
    """`top_k` compares trials at a rung before the end of their budgets."""
    if experiment.search.scheduler != "top_k" or not experiment.tune:
        return
    for cell in experiment.cells():
        budget = experiment.audio_seconds(cell)
        if not cell.is_control and experiment.search.grace_seconds >= budget:
            raise ConfigError(
                f"experiment {experiment.name}: search.grace_seconds must be below the budget, "
                f"training.audio_seconds {budget:g}, or top_k prunes no trial",
                got=f"{experiment.search.grace_seconds:g}",
                fix=f"set for example search.grace_seconds: {budget / 4:g}",
            )


def check_grid(experiment: Experiment) -> None:
    """A grid has a finite number of combinations."""
    for key, axis in experiment.tune.items():
        if experiment.search.sampler == "grid" and not axis.choices and field_type(key) is not int:
            raise ConfigError(
                f"experiment {experiment.name}: search.sampler: grid needs choices or whole numbers in tune.{key}",
                got=f"a range from {axis}",
                fix=f"write tune.{key}: {{choices: [{axis.low:g}, {axis.high:g}]}}, or use another sampler",
            )


def _check_axis(experiment: Experiment, key: str, axis: Axis) -> None:
    where = f"experiment {experiment.name}: tune.{key}"
    if key == OBJECTIVE:
        raise ConfigError(
            f"{where} must stand in `compare`, and only where the figures are equal: what is learned is no "
            "hyper-parameter",
            got=f"{axis} to choose from",
            fix="write an experiment for each objective",
        )
    if key == "training.start_from":
        raise ConfigError(
            f"{where} must stand in `compare` or under `controls`: it says which question is asked",
            got=f"{axis} to choose from",
            fix="write for example controls: {from scratch: {training.start_from: new}}",
        )
    if key == SEED:
        raise ConfigError(
            f"{where} must stand in `compare`: the best of several seeds is luck, which no other training repeats",
            got=f"{axis} to choose from",
            fix="write compare: {seed: [0, 1, 2]}; the table then shows their spread",
        )
    # Some keys are of one network alone, which must be the one that is drawn.
    network = {NETWORK: axis.when[NETWORK][0]} if axis.when.get(NETWORK) else {}
    for value in axis.choices or (axis.low, axis.high):
        _check_alone(experiment, {**network, key: value})
    if not axis.choices and field_type(key) not in {int, float}:
        raise ConfigError(f"{where} must list `choices`: only numbers have a range", got=str(axis), fix="list them")
    for other, values in axis.when.items():
        if other not in experiment.tune:
            raise ConfigError(f"{where}.when must name a tuned key", got=other, fix="correct `when`")
        for value in values:
            if not experiment.tune[other].allows(value):
                raise ConfigError(
                    f"{where}.when must name values of tune.{other}, {experiment.tune[other]}",
                    got=repr(value),
                    fix="correct the value, or add it to the axis",
                )


def _check_tuned(experiment: Experiment, cell: Cell) -> None:
    _check_alone(experiment, cell.overrides)
    for key, axis in experiment.tune.items():
        if NETWORK in cell.overrides and key.startswith("model."):
            _check_alone(experiment, {**cell.overrides, key: axis.choices[0] if axis.choices else axis.low})
    both = sorted(set(cell.overrides) & set(experiment.tune))
    if both:
        raise ConfigError(
            f"experiment {experiment.name}: a key stands in `compare`, `variants` or `tune`",
            got=f"{both[0]} in both",
            fix="remove one",
        )
    _check_budget(experiment, cell)
    for first in experiment.search.first_trials:
        _check_first(experiment, first)
        experiment.settings({**cell.overrides, **first})


def _check_budget(experiment: Experiment, cell: Cell) -> None:
    """Reports, warm-up and constant rate must fit a budget; where those are drawn, some draw must be a training."""
    keys = [key for key in experiment.tune if key.startswith("training.") and key.endswith("_seconds")]
    for draw in draws_of(experiment.tune, keys):
        try:
            experiment.settings({**cell.overrides, **draw})
        except ConfigError as error:
            refused = error
            if not isinstance(error.__cause__, ValidationError) or error.__cause__.errors()[0]["loc"] != ("training",):
                return
        else:
            return
    raise refused


def check_same_validation_mixtures(experiment: Experiment, cell: Cell) -> None:
    """The sampler compares the trials of a cell, so all must be scored on the same validation mixtures."""
    model = {**experiment.model, **{key.removeprefix("model."): value for key, value in cell.overrides.items()}}

    def possible(name: str) -> tuple[Any, ...]:
        axis = experiment.tune.get(f"model.{name}")
        if axis is None:
            return (model.get(name, ModelConfig.model_fields[name].default),)
        return axis.choices or (int(axis.low), int(axis.high))

    most = max(VALIDATION_SOURCES)
    outputs = possible("outputs")
    scored = {min(slots, most) for slots in possible("slots")} if "slots" in outputs else set()
    scored |= {most} if set(outputs) - {"slots"} else set()
    if len(scored) > 1:
        raise ConfigError(
            f"experiment {experiment.name}: the trials of a cell must be scored on the same validation mixtures, and a "
            "network with K slots is scored on those of K sources or fewer",
            got=f"`tune` with networks for up to {' and up to '.join(map(str, sorted(scored)))} sources",
            fix=f"put model.outputs and model.slots under `compare`, or allow only slots of {most} or more",
        )


def _check_first(experiment: Experiment, first: Mapping[str, Scalar]) -> None:
    unknown = sorted(set(first) - set(experiment.tune))
    if unknown:
        raise ConfigError(
            f"experiment {experiment.name}: a first trial sets only what `tune` lists",
            got=", ".join(unknown),
            fix=f"choose from {', '.join(experiment.tune)}",
        )
    for key, value in first.items():
        # Optuna would silently draw another value instead.
        if not experiment.tune[key].allows(value):
            raise ConfigError(
                f"experiment {experiment.name}: a first trial's {key} must be a value of its axis, "
                f"{experiment.tune[key]}",
                got=repr(value),
                fix="correct the value, or add it to the axis",
            )
        for other, values in experiment.tune[key].when.items():
            if other in first and first[other] not in values:
                raise ConfigError(
                    f"experiment {experiment.name}: a first trial sets {key} only where its `when` holds",
                    got=f"{other}: {first[other]}",
                    fix=f"leave {key} out of this first trial",
                )


def _check_alone(experiment: Experiment, overrides: Mapping[str, Scalar]) -> None:
    """The keys must exist and take these values. Conflicts with other settings show when a trial is drawn."""
    try:
        experiment.settings(overrides)
    except ConfigError as error:
        cause = error.__cause__
        if not isinstance(cause, ValidationError) or any(len(part["loc"]) > 1 for part in cause.errors()):
            raise
