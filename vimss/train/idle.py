"""Errors for settings that a file sets although they have no effect.

    error = idle_error(trainings, "model.op", "mine", "compare.model.op")   # None: it affects one of them
    check_uses(trainings, "experiment mine", manifest, place)

`vimss.train.rules.RULES` makes a setting idle whatever the data is; this module adds the shards and the place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vimss.errors import ConfigError
from vimss.model.networks import BY_NETWORK
from vimss.runtime import Place
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import Recipe
from vimss.stream.config import MixingConfig
from vimss.train.config import (
    Settings,
    TrainingConfig,
    default_of,
    has_key,
    value_at,
)
from vimss.train.objective_settings import (
    AlignmentConfig,
    CorrespondenceConfig,
    InstrumentsConfig,
    WeakLabelsConfig,
)
from vimss.train.objectives import OBJECTIVES
from vimss.train.rules import deciding_keys, describe_idle, idle_settings, is_idle, rule_at


def idle_error(trainings: Sequence[Settings], key: str, experiment: str, where: str) -> ConfigError | None:
    """The error for a setting at `where` in an experiment if it is idle in all these trainings; otherwise None.

    A default is never refused. Trainings whose network lacks the setting do not count.
    """
    trainings = [settings for settings in trainings if has_key(settings, key)]
    set_in = [settings for settings in trainings if value_at(settings, key) != default_of(key, settings)]
    if not set_in or not all(is_idle(settings, key) for settings in trainings):
        return None
    rule = rule_at(set_in[0], key)
    return ConfigError(
        f"experiment {experiment}: {where} needs {rule.needs}",
        got=describe_idle(set_in[0], key),
        fix=f"remove {where}, or change {' or '.join(deciding_keys(set_in[0], key))}",
    )


@dataclass(frozen=True)
class _Use:
    """A setting that the shards or the place may make idle."""

    needs: str
    fix: str
    idle_because: Callable[[Settings, Recipe, Place], str]
    """What makes it idle; empty if nothing does."""


def _one_worker(settings: Settings, recipe: Recipe, place: Place) -> str:
    return f"workers_per_trial: 1 in '{place.name}'" if place.workers_per_trial == 1 else ""


def _one_mixture(settings: Settings, recipe: Recipe, place: Place) -> str:
    batch, workers = settings.training.batch_size, place.workers_per_trial
    return f"batch_size: {batch} with workers_per_trial: {workers} in '{place.name}'" if batch <= workers else ""


def _long_step(settings: Settings, recipe: Recipe, place: Place) -> str:
    training = settings.training
    step = training.batch_size * training.output_samples / recipe.sample_rate
    if training.warmup_seconds > step:
        return ""
    return f"{training.warmup_seconds:g}, and steps of {step:g} audio seconds"


def _short_room(settings: Settings, recipe: Recipe, place: Place) -> str:
    seconds, rate = settings.mixing.room_seconds, recipe.sample_rate
    return f"{seconds:g} at {rate} Hz" if seconds * rate < 1 else ""


_USES = {
    "training.gradient_compression": _Use(
        "a place where several workers exchange gradients", "remove it, or choose another place with --on", _one_worker
    ),
    "mixing.remix_probability": _Use(
        "several mixtures in the batch of each worker", "remove it, or raise training.batch_size", _one_mixture
    ),
    "training.warmup_seconds": _Use("to be longer than one step", "remove it, or make it longer", _long_step),
    "mixing.room_seconds": _Use("to be longer than one audio sample", "remove it, or make it longer", _short_room),
}


def check_uses(trainings: Sequence[Settings], origin: str, manifest: Manifest, place: Place) -> None:
    """ConfigError if a setting of `origin` affects none of its trainings on these shards at this place."""
    for key, use in _USES.items():
        set_in = [settings for settings in trainings if value_at(settings, key) != default_of(key)]
        found = [use.idle_because(settings, manifest.recipe, place) for settings in set_in]
        if found and all(found):
            raise ConfigError(f"{origin}: {key} needs {use.needs}", got=found[0], fix=use.fix)


def unchecked_settings(content: Mapping[str, Any]) -> Settings | None:
    """Settings from plain groups without the check for idle ones; None if a group is invalid by itself."""
    try:
        return Settings.model_construct(
            model=BY_NETWORK.parse(content.get("model", {})),
            mixing=MixingConfig.model_validate(content.get("mixing", {})),
            training=TrainingConfig.model_validate(content.get("training", {})),
            seed=content.get("seed", 0),
            objective=content.get("objective", Settings.model_fields["objective"].default),
            instruments=InstrumentsConfig.model_validate(content.get("instruments", {})),
            alignment=AlignmentConfig.model_validate(content.get("alignment", {})),
            correspondence=CorrespondenceConfig.model_validate(content.get("correspondence", {})),
            weak_labels=WeakLabelsConfig.model_validate(content.get("weak_labels", {})),
        )
    except ValidationError:
        return None


def without_idle(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same plain groups without idle settings: equal trainings, equal settings."""
    settings = unchecked_settings(content)
    if settings is None or settings.objective not in OBJECTIVES:
        return dict(content)  # parsing it names the error
    kept = dict(content)
    for key in idle_settings(settings):
        kept = _without(kept, key.split("."))
    changes = settings.model.canonical()
    return {**kept, "model": {**kept["model"], **changes}} if changes else kept


def _without(content: Mapping[str, Any], path: list[str]) -> dict[str, Any]:
    first, *rest = path
    kept = dict(content)
    if rest:
        kept[first] = _without(dict(kept[first]), rest)
    else:
        del kept[first]
    return kept
