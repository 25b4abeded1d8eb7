"""Settings of one training: network, mixing and optimisation.

Budgets, decay and reports count audio seconds, because batch size changes what a step is.

Settings that do not go together are refused, and so is one that changes nothing under the others: see
`vimss.train.rules`.
"""

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, field_validator, model_validator

from vimss.config import Config
from vimss.model.networks import BY_NETWORK, DEFAULT, NETWORKS, AnyNetwork
from vimss.stream.config import MixingConfig
from vimss.train.objective_settings import (
    AlignmentConfig,
    CorrespondenceConfig,
    InstrumentsConfig,
    WeakLabelsConfig,
)
from vimss.train.start_from import StartFrom

if TYPE_CHECKING:
    from vimss.train.objectives import Entry

MUCH_WAITING = 0.1
"""Share of its time that a loop may wait for batches before it logs a warning."""

AGAINST_WAITING = (
    "raise loader_workers of the place; where `train` has more clips than mixing.pool_clips, each of which is decoded "
    "anew for every pool, raise mixing.windows_per_clip; where pictures are decoded, compute features once with "
    "`vimss features`"
)
"""Advice for a training that waits more than that."""


class TrainingConfig(Config):
    """Settings of the optimisation."""

    batch_size: int = Field(16, ge=1, description="mixtures per optimiser step, over all workers")
    output_samples: int = Field(
        16389, ge=1, description="output window, audio samples; the network defines the legal ones"
    )
    audio_seconds: float = Field(
        36000.0, gt=0, description="budget: batch_size x output window / sample rate, summed over steps"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="adamw: AdamW for all weights; muon: Muon for the matrices of convolutions, AdamW for the rest",
    )
    learning_rate: float = Field(1e-4, gt=0, le=1, description="initial learning rate")
    learning_rate_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="final learning rate as a share of the initial one, reached exponentially; 1 keeps it constant",
    )
    warmup_seconds: float = Field(0.0, ge=0, description="audio seconds of linear warm-up; 0: none")
    constant_seconds: float = Field(0.0, ge=0, description="audio seconds before the decay begins, with the warm-up")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay (AdamW); 0: none")
    gradient_clip: float = Field(1.0, ge=0, description="maximum gradient norm; 0: no clipping")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay per step of the moving average of the weights; 0: no average"
    )
    loss: Literal["snr", "l1", "mse", "si_sdr", "l1_stft", "cross_entropy"] = Field(
        "snr", description="see vimss.train.objectives.separation"
    )
    absent_weight: float = Field(
        1.0, ge=0, description="weight of outputs whose target is silence, in the snr and si_sdr losses"
    )
    dissimilarity_weight: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="weight of the squared error of each output to the other targets that sound, which the mse loss "
        "is lowered by; 0: none",
    )
    consistency_weight: float = Field(1.0, ge=0, description="weight of the classifier of estimates, in co_separation")
    slot_order: Literal["best", "pitch"] = Field(
        "best",
        description="which target each slot is trained on. best: in each window that of the order with the least error "
        "(permutation-invariant training, Kolbæk et al. 2017); pitch: from the highest target to the lowest (as Weng "
        "et al. 2015), so that slots keep their players from window to window; best where one of them is silent",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="float32: on NVIDIA GPUs with TF32 in convolutions, as PyTorch has it; bfloat16: autocast, refused "
        "if the device has no bfloat16 units",
    )
    compile: Literal["off", "compile", "cuda_graphs"] = Field(
        "off", description="compile: torch.compile; cuda_graphs: torch.compile with CUDA graphs, on GPUs only"
    )
    gradient_compression: Literal["none", "bfloat16"] = Field(
        "none", description="compression of the gradients that workers exchange; bfloat16 halves the bytes"
    )
    patience_seconds: float = Field(
        0.0,
        ge=0,
        description="audio seconds without a better figure after which training stops; 0: never stop early",
    )
    report_seconds: float = Field(
        3600.0, gt=0, description="approximate audio seconds between validations, each of which writes a checkpoint"
    )
    start_from: Annotated[StartFrom, WithJsonSchema({"type": "string"})] = Field(
        StartFrom(),
        description="initial weights. new: random; else a model: a folder, models:/NAME@ALIAS or models:/NAME/VERSION. "
        "From a model of another objective or network, only the weights of its vision network or of its convolutions "
        "over motion are loaded",
    )

    @field_validator("optimizer", mode="before")
    @classmethod
    def _name_is_current(cls, name: Any) -> Any:
        if name == "adam":
            raise ValueError("the optimizer is AdamW: write adamw")
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
        if self.constant_seconds >= self.audio_seconds:
            raise ValueError(
                f"constant_seconds ({self.constant_seconds:g}) must be below audio_seconds ({self.audio_seconds:g}): "
                "the learning rate would never decay"
            )
        return self

    @property
    def num_reports(self) -> int:
        """Number of validations, evenly spaced; the last one is at the end of the budget."""
        return max(1, round(self.audio_seconds / self.report_seconds))

    @property
    def longest_patience(self) -> float:
        """The longest patience that can still stop a training, between the first report and the last but one."""
        return max(0.0, self.audio_seconds * (self.num_reports - 2) / self.num_reports)


VALIDATION_SOURCES = (2, 3, 4)
"""Sources of the validation mixtures of most objectives, in equal shares."""


class ValidationConfig(Config):
    """The fixed set that steers a search: the same mixtures for every trial and network."""

    mixtures: int = Field(
        24,
        ge=6,
        multiple_of=6,
        description="2, 3 and 4 sources, aligned and random, in equal shares, as far as the split has such mixtures; "
        "a larger number extends the same set, and existing weights are scored again",
    )
    seconds: float = Field(2.0, gt=0, description="length of each mixture")


def reaches(audio_seconds: float, goal: float) -> bool:
    """Whether `audio_seconds` reach the goal, within the rounding of steps times seconds."""
    return audio_seconds >= goal or math.isclose(audio_seconds, goal, rel_tol=1e-9)


def _known_objective(name: str) -> str:
    if name not in _objectives():
        raise ValueError(f"must be one of {', '.join(_objectives())}")
    return name


def _objectives() -> "Mapping[str, Entry]":
    # Imported late: objectives are built from the settings of this module.
    from vimss.train.objectives import OBJECTIVES

    return OBJECTIVES


ObjectiveName = Annotated[str, AfterValidator(_known_objective)]
"""Type of a field that names an objective."""


class Settings(Config):
    """Everything besides the shards that determines a training."""

    model: AnyNetwork = DEFAULT
    mixing: MixingConfig = MixingConfig()
    training: TrainingConfig = TrainingConfig()
    seed: int = Field(0, ge=0, description="seed of weights, batches and sampler")
    objective: ObjectiveName = Field("separation", description="learning task; see vimss.train.objectives")
    instruments: InstrumentsConfig = InstrumentsConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    correspondence: CorrespondenceConfig = CorrespondenceConfig()
    weak_labels: WeakLabelsConfig = WeakLabelsConfig()

    @model_validator(mode="after")
    def _suits_its_objective(self) -> "Settings":
        # Imported late: rules are made of the settings of this module.
        from vimss.train.rules import describe_idle, idle_settings, rule_at

        for rule in _objectives()[self.objective].requires:
            if not rule.works(self):
                given = ", ".join(f"{key}: {value_at(self, key)}" for key in rule.depends_on)
                raise ValueError(f"objective: {self.objective} needs {rule.needs}; got {given}")
        for key in idle_settings(self):
            raise ValueError(f"{key} needs {rule_at(self, key).needs}; got {describe_idle(self, key)}")
        return self


def has_key(settings: Settings, key: str) -> bool:
    """Whether the setting exists: those of `model` depend on the network."""
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
    """The default at a key path, of the settings' own network; it may depend on the other settings of its group."""
    if settings is None or not has_key(settings, key):
        settings = next(_defaults(name) for name in NETWORKS if has_key(_defaults(name), key))
    *groups, last = key.split(".")
    group = value_at(settings, ".".join(groups)) if groups else settings
    field = type(group).model_fields[last]
    return field.get_default(call_default_factory=True, validated_data=group.__dict__)


@functools.cache
def _defaults(network: str) -> Settings:
    model = BY_NETWORK.parse({"network": network})
    return Settings.model_construct(
        model=model, mixing=MixingConfig(), training=TrainingConfig(), seed=0, objective="separation"
    )


def scored_sources(settings: Settings) -> int:
    """The largest number of sources in the validation mixtures that a network is scored on: at most its slots."""
    most = max(_objectives()[settings.objective].sources)
    return min(settings.model.slots, most) if settings.model.outputs == "slots" else most
