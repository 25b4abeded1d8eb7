"""What question: one YAML file per question in experiments/, as checked settings, and the cells it asks for.

    experiment = load_experiment("quickstart")  # experiments/quickstart.yaml
    for cell in experiment.cells():             # every combination of `compare`, then the baselines
        ...

`compare` lists the variables of the question, which may be `seed`: every combination is a cell, with a budget of its
own, and a row of the result table. `tune` is what Optuna chooses inside a cell. `baselines` are cells with one trial,
which take batch size, learning rate and its decay from the best trial, run the whole budget and are never pruned. Their
seed is the experiment's, whatever the best trial's is, where they do not set one.

The end of the file holds the events that a search reports, so that tracking need not know Ray.
"""

import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from vimss.config import (
    Config,
    check_file_name,
    differences,
    find_yaml,
    load_yaml,
    parse_config,
    parse_loosely,
    signature,
)
from vimss.errors import ConfigError
from vimss.model.config import ModelConfig
from vimss.model.geometry import geometry
from vimss.runtime import Place
from vimss.shards.manifest import Manifest
from vimss.train.config import (
    RULES,
    VALIDATION_SOURCES,
    Settings,
    TrainingConfig,
    ValidationConfig,
    reaches,
    unchecked,
    without_idle,
)
from vimss.train.idle import check_uses, idle_error

Scalar = bool | int | float | str

GROUPS = ("model", "mixing", "training")
"""Groups of settings that an experiment sets, compares and tunes."""

SEED = "seed"
"""Key of the seed of weights, batches and sampler, which is compared like a setting of these groups, but not tuned."""

EXPERIMENTS = "experiments/*.yaml"
"""Where the experiments lie in a repository."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_NAME_RULE = (
    "the name of an experiment's file must consist of letters from a to z, digits, - and _, first a letter or digit"
)

TUNE_FOLDER = "tune"
"""Folder of a study that Ray uses while a search runs."""

INHERITED = ("training.batch_size", "training.learning_rate", "training.learning_rate_decay")
"""What a baseline always takes from the best trial; see `Experiment.inherited`."""

_MOST_DRAWS = 10_000
"""Draws that are looked at to count different trainings: more than any search has trials."""

_WINDOW_KEYS = {
    "training.output_samples",
    "model.levels",
    "model.down_kernel",
    "model.up_kernel",
    "model.padding",
}
"""What decides whether an output window is legal."""


class Axis(Config):
    """What Optuna may choose for one setting: some choices, or a range."""

    choices: tuple[Scalar, ...] = Field((), description="values to choose from")
    low: float = Field(0.0, description="lower end of a range")
    high: float = Field(0.0, description="upper end of a range")
    log: bool = Field(False, description="draw on a logarithmic scale")
    when: dict[str, tuple[Scalar, ...]] = Field(
        default_factory=dict, description="only where these other tuned settings have one of these values"
    )

    @model_validator(mode="after")
    def _is_choices_or_range(self) -> "Axis":
        if bool(self.choices) == (self.low < self.high):
            raise ValueError("an axis has either `choices` or a range with `low` below `high`")
        if self.choices and (self.low or self.high or self.log):
            raise ValueError("an axis with `choices` has no `low`, `high` or `log`: they are for a range")
        if len(set(self.choices)) < len(self.choices):
            raise ValueError("an axis must list each choice once")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range needs `low` above 0")
        return self

    def allows(self, value: Scalar) -> bool:
        """Whether this value may be drawn."""
        if self.choices:
            return value in self.choices
        return not isinstance(value, str | bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.choices))}" if self.choices else f"{self.low:g} to {self.high:g}"


class SearchConfig(Config):
    """How the trials of a cell are chosen and stopped."""

    trials: int = Field(8, ge=1, description="trials per cell")
    first_trials: tuple[dict[str, Scalar], ...] = Field(
        (), description="settings to try first, before the sampler's own"
    )
    scheduler: Literal["asha", "top_k"] = Field(
        "asha",
        description="asha: at each rung a trial goes on or is pruned at once (Li et al. 2020); top_k: at the first "
        "rung trials wait for each other, and the best `keep` go on to the whole budget: one round of synchronous "
        "successive halving (Karnin et al. 2013, Jamieson and Talwalkar 2016)",
    )
    grace_seconds: float = Field(
        3600.0, gt=0, description="audio seconds to the first rung, which every trial sees before it can be pruned"
    )
    reduction_factor: int = Field(3, ge=2, description="asha: of the trials at a rung, one in this many goes on")
    keep: int = Field(1, ge=1, description="top_k: trials that go on from the rung to the whole budget")

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> "SearchConfig":
        fields = SearchConfig.model_fields
        if self.scheduler == "asha" and self.keep != fields["keep"].default:
            raise ValueError(f"keep ({self.keep}) needs `scheduler: top_k`; asha has `reduction_factor`")
        if self.scheduler == "top_k" and self.reduction_factor != fields["reduction_factor"].default:
            raise ValueError(f"reduction_factor ({self.reduction_factor}) needs `scheduler: asha`; top_k has `keep`")
        if self.scheduler == "top_k" and self.keep >= self.trials:
            raise ValueError(f"keep ({self.keep}) must be below trials ({self.trials}), or no trial is pruned")
        return self


class Experiment(Config):
    """One question."""

    name: str = Field(exclude=True, description="name of the file; part of folders, and of MLflow's runs and models")
    question: str = Field(description="what this experiment asks")
    expected: str = Field(description="the number that its author expects")
    shards: str = Field(description="name of the recipe, or path of its YAML")
    recipe: dict[str, Any] = Field(default_factory=dict, description="differences from the recipe")
    more_shards: dict[str, float] = Field(
        default_factory=dict,
        description="other recipes, and the share of training's mixtures that each gives; `shards` alone validates and "
        "evaluates",
    )
    seed: int = Field(0, ge=0, description="seed of weights, batches and sampler; given, it is the recipe's too")
    model: dict[str, Any] = Field(default_factory=dict, description="differences from the network's defaults")
    mixing: dict[str, Any] = Field(default_factory=dict, description="differences from the defaults of mixing")
    training: dict[str, Any] = Field(default_factory=dict, description="differences from the defaults of training")
    compare: dict[str, tuple[Scalar, ...]] = Field(
        default_factory=dict, description="variables of the question; `seed` may be one, and replaces the one above"
    )
    tune: dict[str, Axis] = Field(default_factory=dict, description="what Optuna chooses inside a cell")
    search: SearchConfig = SearchConfig()
    validation: ValidationConfig = ValidationConfig()
    baselines: dict[str, dict[str, Scalar]] = Field(
        default_factory=dict, description="cells with one whole trial, and what they change"
    )

    def settings(self, overrides: Mapping[str, Scalar] | None = None) -> Settings:
        """The settings with `overrides` ("training.batch_size": 4) put over the file's.

        What changes nothing under the others is left out: equal trainings have equal settings.
        """
        return parse_config(without_idle(self._content(overrides or {})), Settings, f"experiment {self.name}")

    def _content(self, overrides: Mapping[str, Scalar]) -> dict[str, Any]:
        content: dict[str, Any] = {
            "model": dict(self.model),
            "mixing": dict(self.mixing),
            "training": dict(self.training),
            "seed": self.seed,
        }
        for key, value in overrides.items():
            group, _, name = key.partition(".")
            if key == SEED:
                content[SEED] = value
                continue
            if group not in GROUPS or not name:
                raise ConfigError(
                    f"experiment {self.name}: a varied key must be model.*, mixing.* or training.*, or seed",
                    got=repr(key),
                    fix="write for example training.batch_size",
                )
            content[group][name] = value
        return content

    def cell_signature(self, cell: "Cell") -> str:
        """Of what a cell fixes, its budget among it: not of what is tuned in it, nor of what a baseline inherits.

        Cells of equal signatures train the same, so it tells a cell from another one that had its name before.
        """
        free = set(self.inherited) - set(cell.overrides) if cell.baseline else set(self.tune)
        fixed = differences(parse_loosely(self._content(cell.overrides), Settings))
        for group in GROUPS:
            kept = {name: value for name, value in fixed.pop(group, {}).items() if f"{group}.{name}" not in free}
            fixed |= {group: kept} if kept else {}
        return signature(fixed, cell.baseline)

    def as_written(self, overrides: Mapping[str, Scalar]) -> Settings | None:
        """The same with what changes nothing; None where a group is wrong by itself."""
        return unchecked(self._content(overrides))

    def audio_seconds(self, cell: "Cell") -> float:
        """The budget of a trial of the cell; the largest one where it is tuned."""
        key, default = "training.audio_seconds", TrainingConfig.model_fields["audio_seconds"].default
        axis = self.tune.get(key)
        if axis is not None and not cell.baseline:
            return float(max(axis.choices)) if axis.choices else axis.high
        return float(cell.overrides.get(key, self.training.get("audio_seconds", default)))

    @property
    def inherited(self) -> tuple[str, ...]:
        """Keys that a baseline takes from the best trial, so that its training differs in its own keys alone.

        Its network is its own: of what is tuned in `model` it takes nothing.
        """
        tuned = (key for key in self.tune if not key.startswith("model."))
        return tuple(dict.fromkeys((*INHERITED, *tuned)))

    def alone(self) -> "Experiment":
        """The same without variables: its own settings as one cell with one trial."""
        return self.model_copy(update={"compare": {}, "tune": {}, "baselines": {}})

    def cells(self) -> tuple["Cell", ...]:
        """The cells of `compare` crossed, then the baselines."""
        crossed = [dict(zip(self.compare, values, strict=True)) for values in itertools.product(*self.compare.values())]
        cells = [Cell(name=cell_name(overrides), overrides=overrides) for overrides in crossed]
        return (*cells, *(Cell(name, dict(overrides), baseline=True) for name, overrides in self.baselines.items()))


@dataclass(frozen=True)
class Cell:
    """One combination of the compared variables: one row of the table."""

    name: str
    overrides: dict[str, Scalar]
    baseline: bool = False
    inherited: dict[str, Scalar] = field(default_factory=dict)
    """What a baseline takes from the best trial, where it does not set it itself."""

    @property
    def fixes(self) -> dict[str, Scalar]:
        """What every trial of the cell has, by key path."""
        return {**self.inherited, **self.overrides}


def load_experiment(name: str | Path, overrides: Sequence[str] = (), seed: int | None = None) -> Experiment:
    """The experiment called `name` in experiments/, or at that path where it has / or ends in .yaml; fully checked."""
    overrides = [*([] if seed is None else [f"seed={seed}"]), *overrides]
    path = find_yaml(name, EXPERIMENTS)
    if path.is_file():
        check_file_name(path, "experiment", _NAME, _NAME_RULE)
    experiment = load_yaml(path, Experiment, overrides, {"name": path.stem})
    _check(experiment)
    _check_idle(experiment, path, overrides)
    _check_trials(experiment)
    return experiment


def field_type(key: str) -> Any:
    """The type of the setting at a key path such as training.batch_size; None where there is no such setting."""
    if key == SEED:
        return Settings.model_fields[SEED].annotation
    group, _, name = key.partition(".")
    # Each group is a model of its own, which pydantic's types do not tell.
    fields = Settings.model_fields[group].annotation.model_fields if group in GROUPS else {}  # type: ignore[union-attr]
    return fields[name].annotation if name in fields else None


def in_order(axes: Mapping[str, Axis]) -> Iterator[str]:
    """The keys of the axes, each after those that its `when` names; ConfigError where they run in a circle."""
    waiting = dict(axes)
    while waiting:
        ready = [key for key, axis in waiting.items() if not set(axis.when) & set(waiting)]
        if not ready:
            raise ConfigError("`when` must not run in a circle", got=", ".join(waiting), fix="remove one of them")
        for key in ready:
            del waiting[key]
            yield key


def check_experiment(experiment: Experiment, manifest: Manifest, place: Place) -> None:
    """Refuse what the shards or the place do not allow, before any trial starts.

    What depends on several tuned settings shows when it is drawn: see `check_settings`.
    """
    trainings = []
    for cell in experiment.cells():
        tuned = {} if cell.baseline else experiment.tune
        alone = [{key: value} for key, axis in tuned.items() for value in _samples(key, axis)]
        points: list[dict[str, Scalar]] = [{}, *(experiment.search.first_trials if tuned else ()), *alone]
        for point in points:
            try:
                settings = experiment.settings({**cell.overrides, **point})
            except ConfigError:
                if not tuned:
                    raise
                continue  # needs the other axes too
            check_settings(settings, manifest, place, undecided=set(tuned) - set(point))
            trainings.append(settings)
    check_uses(trainings, f"experiment {experiment.name}", manifest, place)


def check_settings(settings: Settings, manifest: Manifest, place: Place, undecided: Collection[str] = ()) -> None:
    """ConfigError where a training with these settings could not start on these shards at this place.

    Checks that need one of the `undecided` keys are left out.
    """
    recipe, model, mixing, training = manifest.recipe, settings.model, settings.mixing, settings.training
    open_keys = set(undecided)
    if not open_keys & _WINDOW_KEYS:
        try:
            geometry(model).input_samples(training.output_samples)
        except ConfigError as error:
            raise ConfigError(f"training.output_samples: {error.rule}", got=error.got, fix=error.fix) from error
    if "training.output_samples" not in open_keys:
        lengths = [min(piece.seconds, recipe.clip_seconds) for piece in manifest.pieces if piece.split == "train"]
        longest = round(max(lengths, default=recipe.clip_seconds) * recipe.sample_rate)
        if training.output_samples > longest:
            raise ConfigError(
                f"training.output_samples must not exceed the clips of '{manifest.name}', the longest of which has "
                f"{longest} samples",
                got=f"{training.output_samples}",
                fix=f"use at most {geometry(model).window_at_most(longest)}, or shards with longer clips",
            )
    workers = place.workers_per_trial
    if "training.batch_size" not in open_keys and training.batch_size % workers:
        raise ConfigError(
            f"training.batch_size must be a multiple of the place's workers_per_trial, {workers}",
            got=f"{training.batch_size}",
            fix=f"use {max(workers, training.batch_size // workers * workers)}",
        )
    if "training.compile" not in open_keys and training.compile == "cuda_graphs" and not place.gpus_per_worker:
        raise ConfigError(
            "training.compile: cuda_graphs needs a place with GPUs",
            got=f"gpus_per_worker: 0 in '{place.name}'",
            fix="set training.compile: compile or off, or choose another place with --on",
        )
    counted = not open_keys & {"model.outputs", "model.slots", "mixing.max_sources"}
    if counted and model.outputs == "slots" and mixing.max_sources > model.slots:
        raise ConfigError(
            "model.slots must not be fewer than mixing.max_sources: each source needs a slot",
            got=f"{model.slots} slots and up to {mixing.max_sources} sources",
            fix="raise model.slots or lower mixing.max_sources",
        )
    typed = not open_keys & {"model.outputs", "model.output_type"}
    if typed and (model.output_type, model.outputs) == ("difference", "instruments") and len(recipe.labels) == 1:
        raise ConfigError(
            f"model.output_type: difference needs shards with several labels, unlike '{manifest.name}': the one output "
            "would be the mixture",
            got=f"the label {recipe.labels[0]}",
            fix="remove model.output_type",
        )
    if "model.channels" not in open_keys and model.channels != recipe.channels:
        raise ConfigError(
            f"model.channels must be as in the shards '{manifest.name}', {recipe.channels}",
            got=f"{model.channels}",
            fix=f"set model.channels: {recipe.channels}",
        )


def _check_names(experiment: Experiment) -> None:
    """A cell's name is a folder of the study, beside Ray's own, and a row of the table."""
    for key, values in experiment.compare.items():
        if not values:
            raise ConfigError(
                f"experiment {experiment.name}: compare.{key} must list values", got="[]", fix="remove the key"
            )
    names = [cell.name for cell in experiment.cells()]
    for name in experiment.baselines:
        if names.count(name) > 1 or name in {"", TUNE_FOLDER} or name.startswith(".") or "/" in name:
            raise ConfigError(
                f"experiment {experiment.name}: a baseline's name must be a folder's name that no other cell has",
                got=repr(name),
                fix="choose another name",
            )


def cell_name(overrides: Mapping[str, Scalar]) -> str:
    """Name of the cell of `compare` with these values."""
    return ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in overrides.items()) or "search"


def _check(experiment: Experiment) -> None:
    """Every cell, first trial and value of an axis must resolve, now rather than an hour into the search."""
    for key, axis in experiment.tune.items():
        _check_axis(experiment, key, axis)
    list(in_order(experiment.tune))
    _check_names(experiment)
    for cell in experiment.cells():
        if cell.baseline or not experiment.tune:
            experiment.settings(cell.overrides)
        else:
            _check_tuned(experiment, cell)
            _check_scored_alike(experiment, cell)
    _check_rung(experiment)
    _check_cells_differ(experiment)


def _check_trials(experiment: Experiment) -> None:
    """Trials of equal settings are one: there must be enough different ones."""
    allowed = _count_settings(experiment)
    if experiment.search.trials > allowed:
        raise ConfigError(
            f"experiment {experiment.name}: search.trials must not exceed the number of settings that `tune` allows",
            got=f"{experiment.search.trials} trials of {allowed} settings",
            fix=f"set search.trials: {allowed}, or add choices",
        )


def _check_cells_differ(experiment: Experiment) -> None:
    """Two cells of `compare` that fix the same, as 2 and 2.0 do, would be one."""
    names: dict[str, str] = {}
    for cell in (cell for cell in experiment.cells() if not cell.baseline):
        fixed = experiment.cell_signature(cell)
        if fixed in names:
            raise ConfigError(
                f"experiment {experiment.name}: no two values of a key in `compare` may mean the same",
                got=f"the cells {names[fixed]} and {cell.name}",
                fix="remove one of the values",
            )
        names[fixed] = cell.name


def _count_settings(experiment: Experiment) -> int | float:
    """Different settings that can be drawn in a cell, the one that has the most; no end where nobody need count."""
    if not all(axis.choices for axis in experiment.tune.values()) or not experiment.tune:
        return math.inf
    most = 0
    for cell in experiment.cells():
        if not cell.baseline:
            found: set[str] = set()
            for draw in itertools.islice(_draws(experiment.tune, experiment.tune), _MOST_DRAWS):
                with suppress(ConfigError):  # a draw that goes together in no network becomes no trial
                    found.add(signature(experiment.settings({**cell.overrides, **draw})))
                if len(found) == experiment.search.trials:
                    return math.inf
            most = max(most, len(found))
    draws = math.prod(len(axis.choices) for axis in experiment.tune.values())
    return most if draws <= _MOST_DRAWS else math.inf


def _draws(axes: Mapping[str, Axis], keys: Collection[str]) -> Iterator[dict[str, Scalar]]:
    """What may be drawn for these of the axes, with those that their `when` names; some values stand for a range."""
    wanted = set(keys)
    order = list(in_order(axes))
    for key in reversed(order):
        wanted |= set(axes[key].when) if key in wanted else set()

    def extend(draw: dict[str, Scalar], left: Sequence[str]) -> Iterator[dict[str, Scalar]]:
        if not left:
            yield draw
            return
        key, axis = left[0], axes[left[0]]
        if all(draw.get(other) in values for other, values in axis.when.items()):
            for value in _samples(key, axis):
                yield from extend({**draw, key: value}, left[1:])
        else:
            yield from extend(draw, left[1:])

    return extend({}, [key for key in order if key in wanted])


def _check_rung(experiment: Experiment) -> None:
    """`top_k` compares trials at a rung before the end of their budgets."""
    if experiment.search.scheduler != "top_k" or not experiment.tune:
        return
    for cell in experiment.cells():
        budget = experiment.audio_seconds(cell)
        if not cell.baseline and experiment.search.grace_seconds >= budget:
            raise ConfigError(
                f"experiment {experiment.name}: search.grace_seconds must be below the budget, "
                f"training.audio_seconds {budget:g}, or top_k prunes no trial",
                got=f"{experiment.search.grace_seconds:g}",
                fix=f"set for example search.grace_seconds: {budget / 4:g}",
            )


def _check_axis(experiment: Experiment, key: str, axis: Axis) -> None:
    where = f"experiment {experiment.name}: tune.{key}"
    if key == SEED:
        raise ConfigError(
            f"{where} must stand in `compare`: the best of several seeds is luck, which no other training repeats",
            got=f"{axis} to choose from",
            fix="write compare: {seed: [0, 1, 2]}; the table then shows their spread",
        )
    for value in axis.choices or (axis.low, axis.high):
        _check_alone(experiment, {key: value})
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


def _check_tuned(experiment: Experiment, cell: "Cell") -> None:
    _check_alone(experiment, cell.overrides)
    both = sorted(set(cell.overrides) & set(experiment.tune))
    if both:
        raise ConfigError(
            f"experiment {experiment.name}: a key stands in `compare` or in `tune`",
            got=f"{both[0]} in both",
            fix="remove one",
        )
    for first in experiment.search.first_trials:
        _check_first(experiment, first)
        experiment.settings({**cell.overrides, **first})


def _check_scored_alike(experiment: Experiment, cell: "Cell") -> None:
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
        # Optuna would draw another value in its place, and say so in a warning that nobody sees.
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


def _samples(key: str, axis: Axis) -> tuple[Scalar, ...]:
    """Values to try an axis with; of integers two neighbours, which show whether every integer will do."""
    if axis.choices:
        return axis.choices
    return (int(axis.low), int(axis.low) + 1, int(axis.high)) if field_type(key) is int else (axis.low, axis.high)


def _check_alone(experiment: Experiment, overrides: Mapping[str, Scalar]) -> None:
    """The keys must exist and take these values. What they do not go with shows when a trial is drawn."""
    try:
        experiment.settings(overrides)
    except ConfigError as error:
        cause = error.__cause__
        if not isinstance(cause, ValidationError) or any(len(part["loc"]) > 1 for part in cause.errors()):
            raise


def _check_idle(experiment: Experiment, path: Path, overrides: Sequence[str]) -> None:
    """Refuse what the file asks for though it changes no training of the experiment.

    What changes none because of a `--set` stands there for good reason, and is left out.
    """
    found = _find_idle(experiment)
    given = {override.partition("=")[0] for override in overrides}
    if found and given:
        try:
            before = _find_idle(load_yaml(path, Experiment, (), {"name": path.stem}))
        except ConfigError:
            before = {}  # a file that needs its --set
        found = {where: error for where, error in found.items() if where in before or where in given}
    for error in found.values():
        raise error


def _find_idle(experiment: Experiment) -> dict[str, ConfigError]:
    """What is asked for and changes nothing, by where it stands."""
    found = {}
    for where, key, points in _asked_for(experiment):
        settings = [settings for point in points if (settings := experiment.as_written(point)) is not None]
        error = idle_error(settings, key, experiment.name, where)
        if error is not None:
            found[where] = error
    for name in experiment.search.model_fields_set if not experiment.tune else ():
        value = getattr(experiment.search, name)
        if value != SearchConfig.model_fields[name].default:
            found[f"search.{name}"] = ConfigError(
                f"experiment {experiment.name}: search.{name} needs `tune`: without it a cell has one trial",
                got=f"search.{name}: {value}",
                fix=f"remove search.{name}, or add `tune`",
            )
    return found


def _asked_for(experiment: Experiment) -> Iterator[tuple[str, str, list[dict[str, Scalar]]]]:
    """Where a setting that may be idle stands, its key path, and what is put over the file where it holds."""
    axes, cells = experiment.tune, experiment.cells()
    for key, rule in RULES.items():
        relevant = {key, *rule.depends_on} & set(axes)
        searched = [
            (draw, {**cell.overrides, **draw}) for cell in cells if not cell.baseline for draw in _draws(axes, relevant)
        ]
        # A control takes some settings from the best trial.
        controls = [
            (cell, {**draw, **cell.overrides})
            for cell in cells
            if cell.baseline
            for draw in _draws(axes, relevant & set(experiment.inherited))
        ]
        points = [point for _, point in (*searched, *controls)]
        yield key, key, [{}, *(point for point in points if key not in point)]
        if key in experiment.compare:
            yield f"compare.{key}", key, [point for _, point in searched]
        if key in axes:
            yield f"tune.{key}", key, [point for draw, point in searched if key in draw]
        for first in experiment.search.first_trials:
            if key in first:
                yield f"search.first_trials.{key}", key, [{**point, **first} for _, point in searched]
        for name in experiment.baselines:
            if key in experiment.baselines[name]:
                yield f"baselines.{name}.{key}", key, [point for cell, point in controls if cell.name == name]


@dataclass(frozen=True)
class TrialsScoredAgain:
    """Weights of earlier trials were scored on the validation set of now, before any cell begins."""

    done: int
    total: int


@dataclass(frozen=True)
class Progress:
    """How far a trial is."""

    audio_seconds: float = 0.0
    state: Literal["running", "waiting", "finished", "over"] = "running"
    """Over: pruned, failed or interrupted."""


def audio_left(experiment: Experiment, progress: Mapping[str, Sequence[Progress]]) -> list[list[float]]:
    """What a search has still to train, in audio seconds: a list per round, in which trainings run side by side.

    A round begins when the one before has ended. For ASHA it is the most that may be left: no trial is pruned.

    Args:
        experiment: of the search.
        progress: of the trials that began, by cell.

    """
    config, rounds, controls = experiment.search, list[list[float]](), list[float]()
    for cell in experiment.cells():
        known, budget = progress.get(cell.name, ()), experiment.audio_seconds(cell)
        running = [trial.audio_seconds for trial in known if trial.state == "running"]
        if cell.baseline or not experiment.tune:
            left = [budget - seen for seen in running] + [budget] * (not known)
            if cell.baseline:
                controls += left
            else:
                rounds.append(left)
            continue
        begun = [*running, *[0.0] * max(0, config.trials - len(known))]
        if config.scheduler == "asha":
            rounds.append([budget - seen for seen in begun])
            continue
        rung = min(config.grace_seconds, budget)
        to_rung = [seen for seen in begun if not reaches(seen, rung)]
        beyond = [seen for seen in begun if reaches(seen, rung)]
        at_rung = sum(trial.state == "waiting" for trial in known) + len(to_rung)
        places = config.keep - len(beyond) - sum(trial.state == "finished" for trial in known)
        beyond += [rung] * max(0, min(places, at_rung))
        rounds += [[rung - seen for seen in to_rung], [budget - seen for seen in beyond]]
    if trained_beside(experiment):
        rounds[-1] += controls
        controls = []
    return [[max(0.0, left) for left in each] for each in (*rounds, controls)]


def trained_beside(experiment: Experiment) -> bool:
    """Whether the baselines train beside the one trial that goes on: it is known at the rung what they inherit."""
    searched = sum(not cell.baseline for cell in experiment.cells())
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


@dataclass(frozen=True)
class CellStarted:
    """A cell begins."""

    cell: str
    overrides: dict[str, Scalar]
    baseline: bool


@dataclass(frozen=True)
class TrialStarted:
    """A trial begins, or begins again after an interruption."""

    cell: str
    trial: str
    settings: Settings | None
    """None where what was chosen goes together in no network."""
    chosen: dict[str, Scalar]
    """What the sampler chose, by key path."""


@dataclass(frozen=True)
class TrialReported:
    """A trial was validated."""

    cell: str
    trial: str
    audio_seconds: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrialWaits:
    """A trial has reached the rung, and waits for the others there."""

    cell: str
    trial: str


@dataclass(frozen=True)
class TrialContinues:
    """A trial that waited goes on from the rung to the whole budget."""

    cell: str
    trial: str


@dataclass(frozen=True)
class TrialEnded:
    """A trial is over."""

    cell: str
    trial: str
    state: Literal["finished", "pruned", "failed", "interrupted"]
    """Interrupted trials resume when the same search runs again."""
    folder: Path
    """Of the trial; `folder / "model"` holds the best weights where there are any."""
    message: str = ""


@dataclass(frozen=True)
class CellEnded:
    """A cell is over; `best` is its best trial, empty where every trial failed."""

    cell: str
    best: str
    metrics: dict[str, float] = field(default_factory=dict)


Event = (
    TrialsScoredAgain
    | CellStarted
    | TrialStarted
    | TrialReported
    | TrialWaits
    | TrialContinues
    | TrialEnded
    | CellEnded
)
