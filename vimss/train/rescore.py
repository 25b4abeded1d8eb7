"""Scores a trial's weights on another validation set than that of its training.

score(ScoringTask(folder / "model", settings, manifest.folder, ValidationConfig(mixtures=48)))  # Score(value=-7.2, ...)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vimss.errors import ModelError
from vimss.shards.manifest import open_manifest
from vimss.train.config import Settings, ValidationConfig
from vimss.train.objectives import figure_of, open_objective
from vimss.train.validation import Validation


@dataclass(frozen=True)
class ScoringTask:
    """Weights to score, and the validation set; plain values that can be sent to another process."""

    model: Path
    settings: Settings
    shards: Path
    validation: ValidationConfig


@dataclass(frozen=True)
class Score:
    """The result of a task."""

    model: Path
    value: float = math.nan
    parts: Mapping[str, float] = field(default_factory=dict)
    """Of each label and number of sources, by its name in reports: see `Validation.parts`."""
    error: str = ""
    """The reason if there is no value."""


def score(task: ScoringTask) -> Score:
    """The figure of the weights, on the CPU; errors of the data are raised, those of the weights returned."""
    try:
        manifest = open_manifest(task.shards)
        objective = open_objective(task.settings, manifest)
        network = objective.load(task.model)
        validate = Validation(objective, task.settings, manifest, task.validation)
        value = validate(network)
    except ModelError as error:
        return Score(task.model, error=str(error))
    if math.isfinite(value):
        return Score(task.model, value, validate.parts)
    return Score(task.model, error=f"the {figure_of(task.settings.objective).title} is {value}")
