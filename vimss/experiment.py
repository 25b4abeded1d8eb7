"""Experiments: one YAML file per question in experiments/, as checked settings, and its cells.

    experiment = load_experiment("quickstart")  # experiments/quickstart.yaml
    for cell in experiment.cells():             # every combination of `compare`, then the controls
        ...

`compare` lists the variables of the question, which may be `seed`: every combination is a cell, with a budget of its
own, and a row of the result table. `variants` is one more such variable, whose values are named settings that belong
together, as those of a network do. `tune` is what Optuna chooses inside a cell. `controls` are cells with one trial,
which take batch size, learning rate, its decay and whatever else is tuned outside `model` from the best trial, run the
whole budget and are never pruned. Their seed is the experiment's, whatever the best trial's is, where they do not set
one. `systems` are rows of the evaluation alone.

This is the file's schema. `vimss.search.consistency.load_experiment` checks its parts against each other, and
`vimss.search.checks` against shards and place.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from vimss.axes import Axis, Scalar
from vimss.choice import choice_of
from vimss.config import Config, differences, load_yaml, parse_config, parse_loosely, signature
from vimss.errors import ConfigError
from vimss.model.networks import BY_NETWORK
from vimss.renamed import first_key
from vimss.system_config import SystemConfig
from vimss.train.config import (
    ObjectiveName,
    Settings,
    TrainingConfig,
    ValidationConfig,
)
from vimss.train.figure import Figure
from vimss.train.idle import unchecked_settings, without_idle
from vimss.train.objectives import figure_of
from vimss.yaml_files import check_file_name, find_yaml

GROUPS = ("model", "mixing", "training", "instruments", "alignment", "correspondence", "weak_labels")
"""Groups of settings that an experiment sets, compares and tunes."""

SEED = "seed"
"""Key of the seed of weights, batches and sampler, which is compared like a setting of these groups, but not tuned."""

OBJECTIVE = "objective"
"""Key of the objective, which is compared like them where the figures are equal, but not tuned."""

EXPERIMENTS = "experiments/*.yaml"
"""Where the experiments lie in a repository."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_NAME_RULE = (
    "the name of an experiment's file must consist of letters from a to z, digits, - and _, first a letter or digit"
)

TUNE_FOLDER = "tune"
"""Folder of a study that Ray uses while a search runs."""

INHERITED = ("training.batch_size", "training.learning_rate", "training.learning_rate_decay")
"""Keys that a control always takes from the best trial; see `Experiment.inherited`."""

FIRST_RUNG = 9
"""Of the audio seconds of a whole training, one in this many is before the first rung where the experiment does not
say. Measured on real learning curves: "Search policies" in experiments/joint.md."""

NETWORK = "model.network"
"""Key of the network, which decides what other keys `model` has."""


class SearchConfig(Config):
    """How the trials of a cell are chosen and stopped."""

    trials: int = Field(8, ge=1, description="trials per cell")
    first_trials: tuple[dict[str, Scalar], ...] = Field(
        (), description="settings to try first, before the sampler's own"
    )
    sampler: Literal["tpe", "gp", "random", "grid"] = Field(
        "tpe",
        description="of Optuna. tpe: tree-structured Parzen estimators, over all axes together (Bergstra et al. 2011, "
        "Falkner et al. 2018); gp: a Gaussian process, which learns from whole trials alone; random; grid: each "
        "combination once, in random order",
    )
    warm_start: tuple[str, ...] = Field(
        (),
        description="studies with the same axes and the same figure, by the names of their folders in the store: the "
        "sampler knows the values of their trials too",
    )
    scheduler: Literal["asha", "median", "top_k", "none"] = Field(
        "top_k",
        description="top_k: at the first rung trials wait for each other, and the best `keep` continue to the whole "
        "budget: one round of synchronous successive halving (Karnin et al. 2013, Jamieson and Talwalkar 2016); asha: "
        "at each rung a trial continues or is pruned at once (Li et al. 2020); median: a trial is pruned where it is "
        "worse than the median of the others' averages (Golovin et al. 2017); none: no trial is pruned",
    )
    grace_seconds: float = Field(
        4000.0,
        gt=0,
        description="audio seconds to the first rung, which every trial trains before it can be pruned; where an "
        "experiment does not say, a ninth of its training.audio_seconds",
    )
    reduction_factor: int = Field(3, ge=2, description="asha: of the trials at a rung, one in this many continues")
    keep: int = Field(2, ge=1, description="top_k: trials that continue from the rung to the whole budget")

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> "SearchConfig":
        fields, scheduler = SearchConfig.model_fields, self.scheduler
        if scheduler != "top_k" and self.keep != fields["keep"].default:
            other = "; asha has `reduction_factor`" if scheduler == "asha" else ""
            raise ValueError(f"keep ({self.keep}) needs `scheduler: top_k`{other}")
        if scheduler != "asha" and self.reduction_factor != fields["reduction_factor"].default:
            other = "; top_k has `keep`" if scheduler == "top_k" else ""
            raise ValueError(f"reduction_factor ({self.reduction_factor}) needs `scheduler: asha`{other}")
        if scheduler == "none" and self.grace_seconds != fields["grace_seconds"].default:
            raise ValueError(f"grace_seconds ({self.grace_seconds:g}) needs a scheduler that prunes")
        if scheduler == "top_k" and self.keep >= self.trials and self.keep != fields["keep"].default:
            raise ValueError(f"keep ({self.keep}) must be below trials ({self.trials}), or no trial is pruned")
        return self


class Experiment(Config):
    """One question."""

    renamed: ClassVar = {"baselines": "controls"}

    name: str = Field(exclude=True, description="name of the file; part of folders, and of MLflow's runs and models")
    question: str = Field(description="the question that this experiment answers")
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
    objective: ObjectiveName = Field("separation", description="what is learned; see vimss.train.objectives")
    instruments: dict[str, Any] = Field(default_factory=dict, description="settings of `objective: instruments`")
    alignment: dict[str, Any] = Field(default_factory=dict, description="settings of `objective: alignment`")
    correspondence: dict[str, Any] = Field(default_factory=dict, description="settings of `objective: correspondence`")
    weak_labels: dict[str, Any] = Field(default_factory=dict, description="settings of `objective: weak_labels`")
    compare: dict[str, tuple[Scalar, ...]] = Field(
        default_factory=dict, description="variables of the question; `seed` may be one, and replaces the one above"
    )
    variants: dict[str, dict[str, Scalar]] = Field(
        default_factory=dict,
        description="settings that belong together, by name: one more variable of the question, crossed with `compare`",
    )
    tune: dict[str, Axis] = Field(default_factory=dict, description="what Optuna chooses inside a cell")
    search: SearchConfig = SearchConfig()
    validation: ValidationConfig = ValidationConfig()
    controls: dict[str, dict[str, Scalar]] = Field(
        default_factory=dict, description="cells with one whole trial, and what they change"
    )
    systems: dict[str, SystemConfig] = Field(
        default_factory=dict, description="rows of the evaluation that need no training of their own, by name"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_first_rung(cls, content: Any) -> Any:
        """The first rung of a search that does not name it, by its shortest budget."""
        groups = [content.get(name, {}) for name in ("search", "compare", "training", "variants")]
        if not content.get("tune") or not all(isinstance(group, dict) for group in groups):
            return content
        search, compare, training, variants = groups
        key = "training.audio_seconds"
        own = [variant.get(key) for variant in variants.values() if isinstance(variant, dict)]
        budgets = [*(compare.get(key) or [training.get("audio_seconds")]), *own]
        known = [budget for budget in budgets if isinstance(budget, int | float) and budget > 0]
        if "grace_seconds" in search or search.get("scheduler") == "none" or not known:
            return content
        return {**content, "search": {**search, "grace_seconds": min(known) / FIRST_RUNG}}

    def settings(self, overrides: Mapping[str, Scalar] | None = None) -> Settings:
        """The settings with `overrides` ("training.batch_size": 4) put over the file's.

        Settings that change nothing under the others are left out: equal trainings have equal settings.
        """
        return parse_config(without_idle(self._content(overrides or {})), Settings, f"experiment {self.name}")

    def _content(self, overrides: Mapping[str, Scalar]) -> dict[str, Any]:
        content: dict[str, Any] = {
            "model": dict(self.model),
            "mixing": dict(self.mixing),
            "training": dict(self.training),
            "instruments": dict(self.instruments),
            "alignment": dict(self.alignment),
            "correspondence": dict(self.correspondence),
            "weak_labels": dict(self.weak_labels),
            "seed": self.seed,
            "objective": self.objective,
        }
        for key, value in overrides.items():
            group, _, name = key.partition(".")
            if key in (SEED, OBJECTIVE):
                content[key] = value
                continue
            if group not in GROUPS or not name:
                *most, last = (f"{one}.*" for one in GROUPS)
                groups = f"{', '.join(most)} or {last}"
                raise ConfigError(
                    f"experiment {self.name}: a varied key must be {groups}, seed or objective",
                    got=repr(key),
                    fix="write for example training.batch_size",
                )
            *within, last = name.split(".")
            inner = content[group]
            for step in within:  # of a group in the group, as in model.vision.weights
                given = inner.get(step)
                inner[step] = dict(given) if isinstance(given, Mapping) else {}
                inner = inner[step]
            inner[last] = value
        content["model"] = self._of_its_network(content["model"], overrides)
        return content

    def _of_its_network(self, model: dict[str, Any], overrides: Mapping[str, Scalar]) -> dict[str, Any]:
        """The model's settings without those that the file gives for another of the networks it trains."""
        own = self.model.get("network", BY_NETWORK.default)
        searched = self.tune[NETWORK].choices if NETWORK in self.tune else self.compare.get(NETWORK, (own,))
        named = [*self.controls.values(), *self.variants.values()]
        trained = [*searched, *(changes.get(NETWORK, own) for changes in named)]
        known = set(BY_NETWORK.kind_of(model).model_fields)
        return {
            name: value
            for name, value in model.items()
            if name in known
            or f"model.{name}" in overrides
            or not any(other in trained for other in BY_NETWORK.having(name))
        }

    def cell_signature(self, cell: "Cell") -> str:
        """The signature of a cell's fixed settings, its budget among them, without tuned and inherited ones.

        Cells of equal signatures train the same, so it distinguishes a cell from an earlier one of the same name.
        """
        free = set(self.inherited) - set(cell.overrides) if cell.is_control else set(self.tune)
        free = {first_key(Settings, key) for key in free}
        fixed = differences(parse_loosely(self._content(cell.overrides), Settings))
        for group in GROUPS:
            kept = {name: value for name, value in fixed.pop(group, {}).items() if f"{group}.{name}" not in free}
            fixed |= {group: kept} if kept else {}
        return signature(fixed, cell.is_control)

    def as_written(self, overrides: Mapping[str, Scalar]) -> Settings | None:
        """The same with what changes nothing; None where a group is wrong by itself."""
        return unchecked_settings(self._content(overrides))

    def audio_seconds(self, cell: "Cell") -> float:
        """The budget of a trial of the cell; the largest one where it is tuned."""
        key, default = "training.audio_seconds", TrainingConfig.model_fields["audio_seconds"].default
        axis = self.tune.get(key)
        if axis is not None and not cell.is_control:
            return float(max(axis.choices)) if axis.choices else axis.high
        return float(cell.overrides.get(key, self.training.get("audio_seconds", default)))

    @property
    def figure(self) -> Figure:
        """The figure by which trials are compared and pruned: that of the objective."""
        return figure_of(self.objective)

    @property
    def inherited(self) -> tuple[str, ...]:
        """Keys that a control takes from the best trial, so that its training differs in its own keys alone.

        Its network is its own: of what is tuned in `model` it takes nothing.
        """
        tuned = (key for key in self.tune if not key.startswith("model."))
        return tuple(dict.fromkeys((*INHERITED, *tuned)))

    def with_values(self, key: str, replace: Callable[[str], str]) -> "Experiment":
        """The same with other words for the strings at a key path, wherever they are set."""
        *path, last = key.split(".")
        content = self.model_dump(include={path[0]})
        group = content[path[0]]
        for name in path[1:]:
            group = group.get(name, {})
        if isinstance(group.get(last), str):
            group[last] = replace(group[last])

        def fixed(overrides: Mapping[str, Scalar]) -> dict[str, Scalar]:
            return {one: replace(v) if one == key and isinstance(v, str) else v for one, v in overrides.items()}

        compare = {
            one: tuple(replace(value) if one == key and isinstance(value, str) else value for value in values)
            for one, values in self.compare.items()
        }
        named = {
            group: {name: fixed(overrides) for name, overrides in getattr(self, group).items()}
            for group in ("variants", "controls")
        }
        return self.model_copy(update={**content, "compare": compare, **named})

    def without_search(self) -> "Experiment":
        """The same without variables: its own settings as one cell with one trial."""
        return self.model_copy(update={"compare": {}, "variants": {}, "tune": {}, "controls": {}, "systems": {}})

    def cells(self) -> tuple["Cell", ...]:
        """The cells of `variants` and `compare` crossed, then the controls."""
        crossed = [dict(zip(self.compare, values, strict=True)) for values in itertools.product(*self.compare.values())]
        cells = [
            Cell(cell_name(compared, variant), {**fixed, **compared}, variant=variant)
            for variant, fixed in (self.variants or {"": {}}).items()
            for compared in crossed
        ]
        return (*cells, *(Cell(name, dict(overrides), is_control=True) for name, overrides in self.controls.items()))

    @property
    def varied(self) -> tuple[str, ...]:
        """Keys that differ between the trials of the cells, controls aside."""
        fixed = (key for variant in self.variants.values() for key in variant)
        return tuple(dict.fromkeys((*fixed, *self.compare, *self.tune)))


@dataclass(frozen=True)
class Cell:
    """One combination of the compared variables: one row of the table."""

    name: str
    overrides: dict[str, Scalar]
    is_control: bool = False
    variant: str = ""
    """The name of its variant, in an experiment that has some."""
    inherited: dict[str, Scalar] = field(default_factory=dict)
    """Settings that a control takes from the best trial, where it does not set them itself."""

    @property
    def fixes(self) -> dict[str, Scalar]:
        """The settings of every trial of the cell, by key path."""
        return {**self.inherited, **self.overrides}


def find_experiment(name: str | Path) -> Path:
    """The file of the experiment called `name` in experiments/, or at that path where it has / or ends in .yaml."""
    path = find_yaml(name, EXPERIMENTS)
    if path.is_file():
        check_file_name(path, "experiment", _NAME, _NAME_RULE)
    return path


def read_experiment(name: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """An experiment whose keys and values are legal by themselves; `load_experiment` checks them together too."""
    path = find_experiment(name)
    return load_yaml(path, Experiment, overrides, {"name": path.stem})


def field_type(key: str) -> Any:
    """The type of the setting at a key path such as training.batch_size; None where there is no such setting."""
    if key in (SEED, OBJECTIVE):
        return Settings.model_fields[key].annotation
    group, _, name = key.partition(".")
    if group not in GROUPS:
        return None
    if key == NETWORK:
        return str
    # Each group is a model of its own, which pydantic's types do not show; `model` is one for each network.
    choice = choice_of(Settings.model_fields[group])
    kinds: Any = choice.kinds.values() if choice else [Settings.model_fields[group].annotation]
    return next((kind.model_fields[name].annotation for kind in kinds if name in kind.model_fields), None)


def sample_values(key: str, axis: Axis) -> tuple[Scalar, ...]:
    """Values to try an axis with; of integers two neighbours, which show whether every integer will do."""
    if axis.choices:
        return axis.choices
    return (int(axis.low), int(axis.low) + 1, int(axis.high)) if field_type(key) is int else (axis.low, axis.high)


def cell_name(compared: Mapping[str, Scalar], variant: str = "") -> str:
    """Name of the cell of this variant with these values of `compare`."""
    values = (f"{key.rpartition('.')[2]}={value}" for key, value in compared.items())
    named = ",".join([*([variant] if variant else ()), *values]) or "search"
    # It is the name of a folder, and a value may be a path.
    return named.replace("/", "_")
