"""What question: one YAML file per question in experiments/, as checked settings, and the cells it asks for.

    experiment = load_experiment("quickstart")  # experiments/quickstart.yaml
    for cell in experiment.cells():             # every combination of `compare`, then the baselines
        ...

`compare` lists the variables of the question: every combination is a cell, a study of its own and a row of the
result table. `tune` is what Optuna chooses inside a cell. `baselines` are cells with one trial, which take
batch size, learning rate and its decay from the best trial, run the whole budget and are never pruned.

The end of the file holds the events that a search reports, so that tracking need not know Ray.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from vimss.config import Config, load_yaml, parse_config, signature
from vimss.errors import ConfigError
from vimss.train.config import Settings, ValidationConfig

Scalar = bool | int | float | str

INHERITED = ("training.batch_size", "training.learning_rate", "training.learning_rate_decay")
"""What a baseline takes from the best trial, so that only its own keys differ."""


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
        if self.log and not self.choices and self.low <= 0:
            raise ValueError("a logarithmic range needs `low` above 0")
        return self


class SearchConfig(Config):
    """How the trials of a cell are chosen and stopped."""

    trials: int = Field(8, ge=1, description="trials per cell")
    first_trials: tuple[dict[str, Scalar], ...] = Field(
        (), description="settings to try first, before the sampler's own"
    )
    grace_seconds: float = Field(
        3600.0, gt=0, description="audio seconds that every trial may see before it can be stopped"
    )
    reduction_factor: int = Field(3, ge=2, description="of the trials at a rung, one in this many goes on (ASHA)")


class Experiment(Config):
    """One question."""

    name: str = Field(exclude=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="name of the file")
    question: str = Field(description="what this experiment asks")
    expected: str = Field(description="the number that its author expects")
    shards: str = Field(description="name of the recipe, or path of its YAML")
    seed: int = Field(0, ge=0, description="seed of weights, batches and sampler")
    model: dict[str, Any] = Field(default_factory=dict, description="differences from the network's defaults")
    mixing: dict[str, Any] = Field(default_factory=dict, description="differences from the defaults of mixing")
    training: dict[str, Any] = Field(default_factory=dict, description="differences from the defaults of training")
    compare: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict, description="variables of the question")
    tune: dict[str, Axis] = Field(default_factory=dict, description="what Optuna chooses inside a cell")
    search: SearchConfig = SearchConfig()
    validation: ValidationConfig = ValidationConfig()
    baselines: dict[str, dict[str, Scalar]] = Field(
        default_factory=dict, description="cells with one whole trial, and what they change"
    )

    @property
    def signature(self) -> str:
        """Names the study: equal settings, equal signature. Question and expectation do not count."""
        return signature(self.model_dump(mode="json", exclude={"question", "expected"}))

    def settings(self, overrides: Mapping[str, Scalar] | None = None) -> Settings:
        """The settings with `overrides` ("training.batch_size": 4) put over the file's."""
        content: dict[str, Any] = {
            "model": dict(self.model),
            "mixing": dict(self.mixing),
            "training": dict(self.training),
            "seed": self.seed,
        }
        for key, value in (overrides or {}).items():
            group, _, name = key.partition(".")
            if group not in {"model", "mixing", "training"} or not name:
                raise ConfigError(
                    f"experiment {self.name}: a varied key must be model.*, mixing.* or training.*",
                    got=repr(key),
                    fix="write for example training.batch_size",
                )
            content[group][name] = value
        return parse_config(content, Settings, f"experiment {self.name}")

    def alone(self) -> "Experiment":
        """The same without variables: its own settings as one cell with one trial."""
        return self.model_copy(update={"compare": {}, "tune": {}, "baselines": {}})

    def cells(self) -> tuple["Cell", ...]:
        """The cells of `compare` crossed, then the baselines."""
        crossed = [dict(zip(self.compare, values, strict=True)) for values in itertools.product(*self.compare.values())]
        cells = [Cell(name=_cell_name(overrides), overrides=overrides) for overrides in crossed]
        return (*cells, *(Cell(name, dict(overrides), baseline=True) for name, overrides in self.baselines.items()))


@dataclass(frozen=True)
class Cell:
    """One combination of the compared variables: one study, one row of the table."""

    name: str
    overrides: dict[str, Scalar]
    baseline: bool = False


def load_experiment(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment called `name` in experiments/, or at the path `name` where it ends in .yaml; fully checked."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else Path("experiments") / f"{name}.yaml"
    experiment = load_yaml(path, Experiment, [f"name={path.stem}", *overrides])
    _check(experiment)
    return experiment


def _cell_name(overrides: Mapping[str, Scalar]) -> str:
    return ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in overrides.items()) or "search"


def _check(experiment: Experiment) -> None:
    """Every cell, first trial and value of an axis must resolve, now rather than an hour into the search."""
    for key, axis in experiment.tune.items():
        for value in axis.choices or (axis.low, axis.high):
            _check_alone(experiment, {key: value})
        for other in axis.when:
            if other not in experiment.tune:
                raise ConfigError(
                    f"experiment {experiment.name}: tune.{key}.when must name a tuned key",
                    got=other,
                    fix="correct `when`",
                )
    for cell in experiment.cells():
        if cell.baseline or not experiment.tune:
            experiment.settings(cell.overrides)
        else:
            _check_tuned(experiment, cell)


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
        unknown = sorted(set(first) - set(experiment.tune))
        if unknown:
            raise ConfigError(
                f"experiment {experiment.name}: a first trial sets only what `tune` lists",
                got=", ".join(unknown),
                fix=f"choose from {', '.join(experiment.tune)}",
            )
        experiment.settings({**cell.overrides, **first})


def _check_alone(experiment: Experiment, overrides: Mapping[str, Scalar]) -> None:
    """The keys must exist and take these values. What they do not go with shows when a trial is drawn."""
    try:
        experiment.settings(overrides)
    except ConfigError as error:
        cause = error.__cause__
        if not isinstance(cause, ValidationError) or any(len(part["loc"]) > 1 for part in cause.errors()):
            raise


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
    settings: Settings
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
class TrialEnded:
    """A trial is over."""

    cell: str
    trial: str
    state: Literal["finished", "pruned", "failed"]
    folder: Path
    """Of the trial; `folder / "model"` holds the best weights where there are any."""
    message: str = ""


@dataclass(frozen=True)
class CellEnded:
    """A cell is over; `best` is its best trial, empty where every trial failed."""

    cell: str
    best: str
    metrics: dict[str, float] = field(default_factory=dict)


Event = CellStarted | TrialStarted | TrialReported | TrialEnded | CellEnded
