"""Networks of objectives that do not separate, in a folder: model.json and weights.safetensors.

    save_network(folder, network, card)
    network = load_network(folder)          # a Predictor; any objective's
    settings_of(read_card(folder))          # those that its objective depends on, the others as by default

A separator's folder is `vimss.model.separator`'s. The objective's name in model.json tells them apart.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file, save_file
from torch import nn

from vimss.config import parse_config
from vimss.errors import ModelError
from vimss.model.card import CARD, WEIGHTS
from vimss.model.separator import read_card
from vimss.renamed import with_current_names
from vimss.storage import atomic_write, sha256
from vimss.train.config import Settings
from vimss.train.objectives import OBJECTIVES
from vimss.train.objectives.protocol import Predictor


def save_network(folder: Path, network: Predictor, card: dict[str, Any]) -> None:
    """Write a network's folder, whole or not at all; `card` holds further facts about it, as JSON."""
    module, settings = cast(nn.Module, network), network.settings
    content = settings.model_dump(mode="json")
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
        save_file(state, temporary / WEIGHTS)
        description = {
            "objective": settings.objective,
            "config": _at_keys(content, OBJECTIVES[settings.objective].settings),
            "labels": list(network.labels),
            "sample_rate": network.sample_rate,
            "sha256": sha256(temporary / WEIGHTS),
            "card": card,
        }
        (temporary / CARD).write_text(json.dumps(description, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def load_network(folder: Path) -> Predictor:
    """The network in a folder, in evaluation mode, after a check of its digest.

    Raises:
        ModelError: it separates, or a file is missing or damaged.

    """
    about, path = read_card(folder), folder / WEIGHTS
    settings = settings_of(about)
    if OBJECTIVES[settings.objective].separates:
        raise ModelError(
            f"{folder} must hold a network of an objective that does not separate",
            got=f"one of the objective '{settings.objective}'",
            fix="load it with vimss.load_separator",
        )
    digest = sha256(path) if path.is_file() else "none"
    if digest != about["sha256"]:
        raise ModelError(
            f"{path} must have the SHA-256 digest in {CARD}, {about['sha256'][:10]}...",
            got=f"{digest[:10]}{'...' if path.is_file() else ''}",
            fix="copy the model again or use an older checkpoint",
        )
    # Everything is in the file: nothing may be downloaded again, nor read from a path of another machine.
    vision = settings.model.vision.model_copy(update={"weights": "random"})
    still = settings.model_copy(update={"model": settings.model.model_copy(update={"vision": vision})})
    network = new_network(still, tuple(about["labels"]), int(about["sample_rate"]))
    module = cast(nn.Module, network)
    state, wanted = load_file(path), module.state_dict()
    for name in sorted({*state, *wanted}):
        found, needed = (list(some[name].shape) if name in some else "none" for some in (state, wanted))
        if found != needed:
            raise ModelError(
                f"{path} must hold the weights of the network in {CARD}, with {name}: {needed}",
                got=f"{name}: {found}",
                fix=f"use the {CARD} that was saved with these weights, or train the model again",
            )
    module.load_state_dict(state)
    module.eval()
    network.settings = settings
    return network


def new_network(settings: Settings, labels: tuple[str, ...], sample_rate: int) -> Predictor:
    """The network of these settings with new weights; ModelError where those of its vision network cannot be had."""
    module, _, name = OBJECTIVES[settings.objective].network.partition(":")
    made: Predictor = getattr(import_module(module), name)(settings, labels, sample_rate)
    return made


def settings_of(about: dict[str, Any]) -> Settings:
    """The settings that the objective of a saved model depends on, from its model.json."""
    name = about.get("objective", "separation")
    if name not in OBJECTIVES:
        raise ModelError(
            f"the objective of a model must be one of {', '.join(OBJECTIVES)}",
            got=f"'{name}' in its {CARD}",
            fix="choose another model, or the version of VIMSS that trained it",
        )
    config = {"model": about["config"]} if OBJECTIVES[name].separates else about["config"]
    content = with_current_names({"objective": name, **config}, Settings)
    return parse_config(content, Settings, f"the {CARD} of a model")


def _at_keys(content: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The parts of nested settings at these key paths."""
    found: dict[str, Any] = {}
    for key in keys:
        *groups, last = key.split(".")
        source, target = content, found
        for group in groups:
            source, target = source[group], target.setdefault(group, {})
        target[last] = source[last]
    return found
