"""When a setting has an effect: the rules of the settings of a training.

    idle_settings(settings)          # ["model.op"]: set, and without effect, since model.site is none
    rule_at(settings, "model.op")    # what it needs, and which settings decide that

A setting that changes nothing under the others, such as `op` without a `site`, is idle: `RULES` lists them all. A file
that sets one is refused (see `vimss.experiment`). Where one part of a file makes another idle, such as a control that
removes the context, `vimss.train.idle.without_idle` drops it, so that equal trainings have equal settings.
"""

import functools

from vimss.config import Rule, key_paths
from vimss.model.contexts import CONTEXT_KEYS, contexts_with
from vimss.model.networks import NETWORKS
from vimss.train.config import Settings, default_of, has_key, value_at
from vimss.train.objective_settings import (
    AlignmentConfig,
    CorrespondenceConfig,
    InstrumentsConfig,
    WeakLabelsConfig,
)
from vimss.train.objectives import ANY_PLAYER_CONTEXT, OBJECTIVES, PLAYER_CONTEXTS


def _is_conditioned(settings: Settings) -> bool:
    return settings.model.site != "none"


def _rules_of_networks() -> dict[str, Rule]:
    """The rules of the networks' own settings, by key path; two networks' settings of one name share a rule's text."""
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
    """The rule for a model setting that only some contexts use."""
    names = contexts_with(setting)
    return Rule(
        f"model.context: {' or '.join(names)}, and {_SITE}",
        ("model.context", "model.site"),
        lambda settings: _is_conditioned(settings) and settings.model.context in names,
    )


OF_SOME_OBJECTIVES = (
    *dict.fromkeys(f"model.{key}" for kind in NETWORKS.values() for key in key_paths(kind)),
    "training.loss",
    "training.absent_weight",
    "training.dissimilarity_weight",
    "training.slot_order",
    "training.consistency_weight",
    *(f"instruments.{name}" for name in InstrumentsConfig.model_fields),
    *(f"alignment.{name}" for name in AlignmentConfig.model_fields),
    *(f"correspondence.{name}" for name in CorrespondenceConfig.model_fields),
    *(f"weak_labels.{name}" for name in WeakLabelsConfig.model_fields),
)
"""Key paths of the settings that an objective uses only if it lists them; every objective uses all other settings."""


@functools.cache
def _has_use_for(objective: str, key: str) -> bool:
    """Whether an objective uses a setting."""
    used = OBJECTIVES[objective].settings
    return key not in OF_SOME_OBJECTIVES or any(key == one or key.startswith(f"{one}.") for one in used)


@functools.cache
def _rule_of_objectives(key: str) -> Rule:
    """The rule for a setting that only some objectives use."""
    names = [name for name in OBJECTIVES if _has_use_for(name, key)]
    return Rule(
        f"objective: {' or '.join(names)}", ("objective",), lambda settings: _has_use_for(settings.objective, key)
    )


RULES: dict[str, Rule] = {
    "model.context": Rule(_SITE, ("model.site",), _is_conditioned),
    "model.op": Rule(_SITE, ("model.site",), _is_conditioned),
    "model.slots": Rule("model.outputs: slots", ("model.outputs",), lambda settings: settings.model.outputs == "slots"),
    "model.share_mixture": Rule(
        "outputs with levels that can be compared: a training.loss other than si_sdr",
        ("training.loss",),
        lambda settings: settings.training.loss != "si_sdr",
    ),
    **_rules_of_networks(),
    **{f"model.{setting}": _of_contexts(setting) for setting in CONTEXT_KEYS},
    "mixing.aligned_probability": Rule(
        "mixtures of several sources", ("mixing.max_sources",), lambda settings: settings.mixing.max_sources > 1
    ),
    "mixing.same_label_probability": Rule(
        "mixtures of several independent sources",
        ("mixing.max_sources", "mixing.aligned_probability"),
        lambda settings: settings.mixing.max_sources > 1 and settings.mixing.aligned_probability < 1,
    ),
    "mixing.absent_probability": Rule(
        "model.outputs: queries", ("model.outputs",), lambda settings: settings.model.outputs == "queries"
    ),
    "mixing.queries": Rule(
        "model.outputs: queries", ("model.outputs",), lambda settings: settings.model.outputs == "queries"
    ),
    "mixing.shuffle_pictures": Rule(
        f"players who are shown: a model.context of {ANY_PLAYER_CONTEXT}, and {_SITE}",
        ("model.context", "model.site"),
        lambda settings: _is_conditioned(settings) and settings.model.context in PLAYER_CONTEXTS,
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
    "training.dissimilarity_weight": Rule(
        "training.loss: mse", ("training.loss",), lambda settings: settings.training.loss == "mse"
    ),
    "training.slot_order": Rule(
        "model.outputs: slots, and two or more of them",
        ("model.outputs", "model.slots"),
        lambda settings: settings.model.outputs == "slots" and settings.model.slots > 1,
    ),
    "training.constant_seconds": Rule(
        "a training.learning_rate_decay below 1",
        ("training.learning_rate_decay",),
        lambda settings: settings.training.learning_rate_decay < 1,
    ),
    "training.patience_seconds": Rule(
        "to be over before the last report, counted from the first",
        ("training.audio_seconds", "training.report_seconds"),
        lambda settings: settings.training.patience_seconds <= settings.training.longest_patience,
    ),
}
"""Key path of a setting -> when it has an effect. Settings that are not listed always have one."""


def rule_at(settings: Settings, key: str) -> Rule:
    """The rule of a setting: that of the objective or, if a separator is trained, the one in RULES."""
    entry = OBJECTIVES[settings.objective]
    if not _has_use_for(settings.objective, key):
        return _rule_of_objectives(key)
    if key in entry.rules:
        return entry.rules[key]
    of_separators = entry.separates or key not in OF_SOME_OBJECTIVES
    return RULES[key] if key in RULES and of_separators else _rule_of_objectives(key)


def keys_with_rules() -> tuple[str, ...]:
    """Key paths of all settings that may be idle."""
    of_entries = (key for entry in OBJECTIVES.values() for key in entry.rules)
    return tuple(dict.fromkeys((*RULES, *OF_SOME_OBJECTIVES, *of_entries)))


def is_idle(settings: Settings, key: str) -> bool:
    """Whether the setting at a key path has no effect under the others."""
    return not rule_at(settings, key).works(settings)


def idle_settings(settings: Settings) -> list[str]:
    """Key paths of the settings that differ from their defaults but have no effect."""
    return [
        key
        for key in keys_with_rules()
        if has_key(settings, key) and is_idle(settings, key) and value_at(settings, key) != default_of(key, settings)
    ]


def deciding_keys(settings: Settings, key: str) -> list[str]:
    """Key paths of the settings, among those of this network, that decide whether another one has an effect."""
    return [other for other in rule_at(settings, key).depends_on if has_key(settings, other)]


def describe_idle(settings: Settings, key: str) -> str:
    """An idle setting and the settings that make it idle, for an error."""
    others = ", ".join(f"{other}: {value_at(settings, other)}" for other in deciding_keys(settings, key))
    return f"{key}: {value_at(settings, key)} with {others}"
