"""Settings of one training: network, mixing and how the weights are found.

Budgets, decay and reports count audio seconds, because batch size changes what a step is.
"""

import math
from typing import Literal

from pydantic import Field, model_validator

from vimss.config import Config
from vimss.model.config import ModelConfig
from vimss.stream.config import MixingConfig

MUCH_WAITING = 0.1
"""Share of the time that a loop may wait for batches before it is said what to change."""


class TrainingConfig(Config):
    """How the weights are found."""

    batch_size: int = Field(16, ge=1, description="mixtures per optimiser step, over all workers")
    output_samples: int = Field(
        16389, ge=1, description="output window, audio samples; the network says which are legal"
    )
    audio_seconds: float = Field(
        36000.0, gt=0, description="budget: batch_size x output window / sample rate, summed over steps"
    )
    optimizer: Literal["adam", "muon"] = Field(
        "adam",
        description="adam: AdamW for all weights; muon: Muon for the matrices of convolutions, AdamW for the rest",
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
    loss: Literal["snr", "l1", "mse", "si_sdr", "l1_stft"] = Field("snr", description="see vimss.train.loss")
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

    @model_validator(mode="after")
    def _reports_fit_the_budget(self) -> "TrainingConfig":
        if self.report_seconds > self.audio_seconds:
            raise ValueError(
                f"report_seconds ({self.report_seconds:g}) must not exceed audio_seconds ({self.audio_seconds:g})"
            )
        return self


class ValidationConfig(Config):
    """The fixed set that steers a search: the same mixtures for every trial."""

    mixtures: int = Field(
        24,
        ge=6,
        multiple_of=6,
        description="2, 3 and 4 sources, aligned and random, in equal shares, as far as the split has such mixtures",
    )
    seconds: float = Field(2.0, gt=0, description="length of each mixture")


def reaches(audio_seconds: float, goal: float) -> bool:
    """Whether so many audio seconds reach the goal; steps times seconds may miss it by a rounding."""
    return audio_seconds >= goal or math.isclose(audio_seconds, goal, rel_tol=1e-9)


class Settings(Config):
    """Everything that one training is a function of, besides the shards."""

    model: ModelConfig = ModelConfig()
    mixing: MixingConfig = MixingConfig()
    training: TrainingConfig = TrainingConfig()
    seed: int = Field(0, ge=0, description="seed of weights, batches and sampler")
