"""Settings of one training: network, mixing and how the weights are found.

Budgets, decay and reports count audio seconds, because batch size changes what a step is.

A setting that changes nothing under the others, such as `op` without a `site`, is idle: `RULES` lists them all. A file
that asks for one is refused (see `vimss.experiment`); where one part of a file makes another idle, as a control does
that takes the context away, `without_idle` leaves it out, so that equal trainings have equal settings.
"""

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from vimss.config import Config, Rule
from vimss.model.config import VisionConfig
from vimss.model.contexts import CONTEXTS
from vimss.model.networks import BY_NETWORK, DEFAULT, NETWORKS, AnyNetwork
from vimss.stream.config import MixingConfig
from vimss.train.objective_settings import InstrumentsConfig
from vimss.train.start_from import StartFrom

if TYPE_CHECKING:
    from vimss.train.objectives import Entry

MUCH_WAITING = 0.1
"""Share of the time that a loop may wait for batches before a warning says what to change."""


class TrainingConfig(Config):
    """How the weights are found."""

    batch_size: int = Field(16, ge=1, description="mixtures per optimiser step, over all workers")
    output_samples: int = Field(
        16389, ge=1, description="output window, audio samples; the network says which are legal"
    )
    audio_seconds: float = Field(
        36000.0, gt=0, description="budget: batch_size x output window / sample rate, summed over steps"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="adamw: AdamW for all weights; muon: Muon for the matrices of convolutions, AdamW for the rest",
    )
    learning_rate: float = Field(1e-4, gt=0, le=1, description="at the start")
    learning_rate_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="the rate falls exponentially to this share of itself at the end of the budget; 1 keeps it",
    )
    warmup_seconds: float = Field(
        0.0, ge=0, description="audio seconds over which the rate rises linearly; 0 starts with the whole rate"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled (AdamW); 0 is none")
    gradient_clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0 does not clip")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the moving average of the weights per step; 0 keeps none")
    loss: Literal["snr", "l1", "mse", "si_sdr", "l1_stft"] = Field(
        "snr", description="see vimss.train.objectives.separation"
    )
    absent_weight: float = Field(
        1.0, ge=0, description="weight of outputs whose target is silence, in the snr and si_sdr losses"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16 autocast; refused where the device has no such units"
    )
    compile: Literal["off", "compile", "cuda_graphs"] = Field(
        "off", description="compile: by torch.compile; cuda_graphs: replayed as CUDA graphs too, on GPUs only"
    )
    gradient_compression: Literal["none", "bfloat16"] = Field(
        "none", description="how gradients travel between workers; bfloat16 halves the bytes"
    )
    patience_seconds: float = Field(
        0.0,
        ge=0,
        description="training stops after so many audio seconds without a lower validation loss; 0 never stops early",
    )
    report_seconds: float = Field(
        3600.0, gt=0, description="about so many audio seconds between validations, each with a checkpoint"
    )
    start_from: Annotated[StartFrom, WithJsonSchema({"type": "string"})] = Field(
        StartFrom(),
        description="new: new weights; or those of a model, all of them or, of another objective or network, those of "
        "its vision network: a folder, models:/NAME@ALIAS or models:/NAME/VERSION",
    )

    @field_validator("optimizer", mode="before")
    @classmethod
    def _name_is_that_of_now(cls, name: Any) -> Any:
        if name == "adam":
            raise ValueError("the optimizer that was called adam is AdamW: write adamw")
        return name

    @model_validator(mode="after")
    def _reports_fit_the_budget(self) -> "TrainingConfig":
        if self.report_seconds > self.audio_seconds:
            raise ValueError(
                f"report_seconds ({self.report_seconds:g}) must not exceed audio_seconds ({self.audio_seconds:g})"
            )
        if self.warmup_seconds > self.audio_seconds:
            raise ValueError(
                f"warmup_seconds ({self.warmup_seconds:g}) must not exceed audio_seconds ({self.audio_seconds:g}): "
                "the learning rate would never be reached"
            )
        return self

    @property
    def num_reports(self) -> int:
        """Validations in the whole budget, evenly spread; the last is at its end."""
        return max(1, round(self.audio_seconds / self.report_seconds))

    @property
    def longest_patience(self) -> float:
        """Patience that can still stop a training: counted from the first report, over by the last but one."""
        return max(0.0, self.audio_seconds * (self.num_reports - 2) / self.num_reports)


VALIDATION_SOURCES = (2, 3, 4)
"""Sources of the validation mixtures, in equal shares."""


class ValidationConfig(Config):
    """The fixed set that steers a search: the same mixtures for every trial and network."""

    mixtures: int = Field(
        24,
        ge=6,
        multiple_of=6,
        description="2, 3 and 4 sources, aligned and random, in equal shares, as far as the split has such mixtures; "
        "more begin with the same ones, and weights that were found before are scored again",
    )
    seconds: float = Field(2.0, gt=0, description="length of each mixture")


def reaches(audio_seconds: float, goal: float) -> bool:
    """Whether so many audio seconds reach the goal; steps times seconds may miss it by a rounding."""
    return audio_seconds >= goal or math.isclose(audio_seconds, goal, rel_tol=1e-9)


def _known_objective(name: str) -> str:
    if name not in _objectives():
        raise ValueError(f"must be one of {', '.join(_objectives())}")
    return name


def _objectives() -> "Mapping[str, Entry]":
    # Imported late: an objective is made from the settings of this module.
    from vimss.train.objectives import OBJECTIVES

    return OBJECTIVES


ObjectiveName = Annotated[str, AfterValidator(_known_objective)]
"""Type of a field that names an objective."""


class Settings(Config):
    """Everything that one training is a function of, besides the shards."""

    model: AnyNetwork = DEFAULT
    mixing: MixingConfig = MixingConfig()
    training: TrainingConfig = TrainingConfig()
    seed: int = Field(0, ge=0, description="seed of weights, batches and sampler")
    objective: ObjectiveName = Field("separation", description="what is learned; see vimss.train.objectives")
    instruments: InstrumentsConfig = InstrumentsConfig()

    @model_validator(mode="after")
    def _has_no_idle_setting(self) -> "Settings":
        for key in idle_settings(self):
            raise ValueError(f"{key} needs {rule_at(self, key).needs}; got {describe_idle(self, key)}")
        return self


def _is_conditioned(settings: Settings) -> bool:
    return settings.model.site != "none"


def _rules_of_networks() -> dict[str, Rule]:
    """The rules of the networks' own settings, by key path; settings of one name in two networks share the words."""
    found: dict[str, Rule] = {}
    for kind in NETWORKS.values():
        for name, rule in kind.idle_rules.items():
            key, depends_on = f"model.{name}", tuple(f"model.{other}" for other in rule.depends_on)
            works = functools.partial(_works_in_its_network, name)
            before = found.get(key, Rule(rule.needs, (), works))
            found[key] = Rule(before.needs, tuple(dict.fromkeys((*before.depends_on, *depends_on))), works)
    return found


def _works_in_its_network(key: str, settings: Settings) -> bool:
    rule = settings.model.idle_rules.get(key)
    return rule is None or rule.works(settings.model)


_SITE = "a model.site other than none"


def _of_contexts(setting: str) -> Rule:
    """When a setting of the model works that some contexts depend on."""
    names = [name for name, context in CONTEXTS.items() if setting in context.settings]
    return Rule(
        f"model.context: {' or '.join(names)}, and {_SITE}",
        ("model.context", "model.site"),
        lambda settings: _is_conditioned(settings) and settings.model.context in names,
    )


OF_SOME_OBJECTIVES = (
    *(f"model.{name}" for name in dict.fromkeys(name for kind in NETWORKS.values() for name in kind.model_fields)),
    *(f"model.vision.{name}" for name in VisionConfig.model_fields),
    "training.loss",
    "training.absent_weight",
    *(f"instruments.{name}" for name in InstrumentsConfig.model_fields),
)
"""Key paths of the settings that only those objectives depend on that say so; all objectives depend on all others."""


def _has_use_for(objective: str, key: str) -> bool:
    """Whether an objective depends on a setting."""
    used = _objectives()[objective].settings
    return key not in OF_SOME_OBJECTIVES or any(key == one or key.startswith(f"{one}.") for one in used)


def _rule_of_objectives(key: str) -> Rule:
    """When a setting works that only some objectives depend on."""
    names = [name for name in _objectives() if _has_use_for(name, key)]
    return Rule(
        f"objective: {' or '.join(names)}", ("objective",), lambda settings: _has_use_for(settings.objective, key)
    )


RULES: dict[str, Rule] = {
    "model.context": Rule(_SITE, ("model.site",), _is_conditioned),
    "model.op": Rule(_SITE, ("model.site",), _is_conditioned),
    "model.slots": Rule("model.outputs: slots", ("model.outputs",), lambda settings: settings.model.outputs == "slots"),
    **_rules_of_networks(),
    **{
        f"model.{setting}": _of_contexts(setting)
        for setting in dict.fromkeys(setting for context in CONTEXTS.values() for setting in context.settings)
    },
    "mixing.aligned_probability": Rule(
        "mixtures of several sources", ("mixing.max_sources",), lambda settings: settings.mixing.max_sources > 1
    ),
    "mixing.absent_probability": Rule(
        "model.outputs: queries", ("model.outputs",), lambda settings: settings.model.outputs == "queries"
    ),
    "mixing.queries": Rule(
        "model.outputs: queries", ("model.outputs",), lambda settings: settings.model.outputs == "queries"
    ),
    "mixing.swap_channels": Rule(
        "model.channels: 2", ("model.channels",), lambda settings: settings.model.channels == 2
    ),
    "mixing.remix_probability": Rule(
        "several mixtures in a batch, of several sources",
        ("training.batch_size", "mixing.max_sources"),
        lambda settings: settings.training.batch_size > 1 and settings.mixing.max_sources > 1,
    ),
    "mixing.curriculum_epochs": Rule(
        "a mixing.max_sources above mixing.min_sources",
        ("mixing.min_sources", "mixing.max_sources"),
        lambda settings: settings.mixing.max_sources > settings.mixing.min_sources,
    ),
    "training.absent_weight": Rule(
        "training.loss: snr or si_sdr", ("training.loss",), lambda settings: settings.training.loss in {"snr", "si_sdr"}
    ),
    "training.patience_seconds": Rule(
        "a report that comes so long after the first one, and is not the last",
        ("training.audio_seconds", "training.report_seconds"),
        lambda settings: settings.training.patience_seconds <= settings.training.longest_patience,
    ),
}
"""Key paths of settings to when they change something. Settings that are not listed always do."""


def rule_at(settings: Settings, key: str) -> Rule:
    """The rule that decides about a setting: that of the objective or, where a separator is trained, that in RULES."""
    entry = _objectives()[settings.objective]
    if not _has_use_for(settings.objective, key):
        return _rule_of_objectives(key)
    if key in entry.rules:
        return entry.rules[key]
    of_separators = entry.separates or key not in OF_SOME_OBJECTIVES
    return RULES[key] if key in RULES and of_separators else _rule_of_objectives(key)


def keys_with_rules() -> tuple[str, ...]:
    """Key paths of all settings that may change nothing."""
    # `model.vision` is a group, whose own keys are looked at.
    return tuple(key for key in dict.fromkeys((*RULES, *OF_SOME_OBJECTIVES)) if key != "model.vision")


def is_idle(settings: Settings, key: str) -> bool:
    """Whether the setting at a key path changes nothing under the others."""
    return not rule_at(settings, key).works(settings)


def idle_settings(settings: Settings) -> list[str]:
    """Key paths of the settings that are not the defaults, though they change nothing."""
    return [
        key
        for key in keys_with_rules()
        if has_key(settings, key) and is_idle(settings, key) and value_at(settings, key) != default_of(key, settings)
    ]


def reasons(settings: Settings, key: str) -> list[str]:
    """Key paths of the settings that decide whether another changes something; of those that the network has."""
    return [other for other in rule_at(settings, key).depends_on if has_key(settings, other)]


def describe_idle(settings: Settings, key: str) -> str:
    """An idle setting beside those that make it so, for an error."""
    others = ", ".join(f"{other}: {value_at(settings, other)}" for other in reasons(settings, key))
    return f"{key}: {value_at(settings, key)} with {others}"


def unchecked(content: Mapping[str, Any]) -> Settings | None:
    """The settings of plain groups, idle ones too; None where a group is wrong by itself."""
    try:
        return Settings.model_construct(
            model=BY_NETWORK.parse(content.get("model", {})),
            mixing=MixingConfig.model_validate(content.get("mixing", {})),
            training=TrainingConfig.model_validate(content.get("training", {})),
            seed=content.get("seed", 0),
            objective=content.get("objective", Settings.model_fields["objective"].default),
            instruments=InstrumentsConfig.model_validate(content.get("instruments", {})),
        )
    except ValidationError:
        return None


def without_idle(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same plain groups without what changes nothing: equal trainings, equal settings."""
    settings = unchecked(content)
    if settings is None or settings.objective not in _objectives():
        return dict(content)  # parsing it names the error
    kept = dict(content)
    for key in idle_settings(settings):
        kept = _without(kept, key.split("."))
    changes = settings.model.canonical()
    return {**kept, "model": {**kept["model"], **changes}} if changes else kept


def has_key(settings: Settings, key: str) -> bool:
    """Whether there is such a setting: those of `model` depend on the network."""
    value: Any = settings
    for part in key.split("."):
        if not isinstance(value, Config) or part not in type(value).model_fields:
            return False
        value = getattr(value, part)
    return True


def value_at(settings: Settings, key: str) -> Any:
    """The value at a key path."""
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


def default_of(key: str, settings: Settings | None = None) -> Any:
    """The default at a key path, of the settings' own network; that of feature_size depends on the other settings."""
    if key == "model.feature_size" and settings is not None:
        return settings.model.vision.feature_size
    if settings is not None and key.startswith("model."):
        return value_at(_defaults(settings.model.network), key)
    return value_at(next(_defaults(name) for name in NETWORKS if has_key(_defaults(name), key)), key)


def _without(content: Mapping[str, Any], path: list[str]) -> dict[str, Any]:
    first, *rest = path
    kept = dict(content)
    if rest:
        kept[first] = _without(dict(kept[first]), rest)
    else:
        del kept[first]
    return kept


@functools.cache
def _defaults(network: str) -> Settings:
    model = BY_NETWORK.parse({"network": network})
    return Settings.model_construct(
        model=model, mixing=MixingConfig(), training=TrainingConfig(), seed=0, objective="separation"
    )


def scored_sources(settings: Settings) -> int:
    """The most sources of the validation mixtures that these networks are scored on: no more than they have slots."""
    most = max(VALIDATION_SOURCES)
    return min(settings.model.slots, most) if settings.model.outputs == "slots" else most
