"""Weights to start from: all of another model, or the part of it that looks at players.

    check_start(settings, recipe)        # before a search starts: do they fit?
    start(network, settings)             # load them into a new network

All weights are loaded from a model of the same objective and network, or from a separator of the same network, whatever
it was trained by; from another one those of the parts that both have: the vision network, or the convolutions over
motion.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from vimss.errors import ConfigError, ModelError
from vimss.model.card import WEIGHTS
from vimss.model.contexts import contexts_with
from vimss.model.contexts.motion import ENCODER
from vimss.model.separator import read_card
from vimss.shards.recipe import Recipe
from vimss.storage import sha256
from vimss.train.config import Settings, default_of, value_at
from vimss.train.objectives import OBJECTIVES
from vimss.train.objectives.co_separation import CLASSIFIER
from vimss.train.start_from import MODELS

UNSAVED = f"{CLASSIFIER}."
"""How the names of weights begin that only a training has."""

PARTS = {"vision.": "vision network", f"{ENCODER}.": "convolutions over motion"}
"""Prefix of the names of weights that mean the same in every model, and what they are of."""

AT_MOST_NAMED = 8
"""Maximum number of misfits that an error names."""


def check_start(settings: Settings, recipe: Recipe) -> None:
    """ModelError if the weights to start from do not fit; reads only their names and shapes."""
    chosen = settings.training.start_from
    if not chosen.folder:
        return
    if chosen.folder.startswith(MODELS):
        raise ConfigError(
            f"training.start_from: {chosen.folder} must be looked up in the registry before a search",
            got="the name alone",
            fix="call vimss.api.resolve_models(session, experiment) and use the experiment that it returns",
        )
    # A check must not download weights.
    vision = settings.model.vision.model_copy(update={"weights": "random"})
    model = settings.model.model_copy(update={"vision": vision})
    with torch.device("meta"):
        network = OBJECTIVES[settings.objective].make(settings.model_copy(update={"model": model}), recipe).build()
    _fitting(settings, network)


def start(network: nn.Module, settings: Settings) -> None:
    """Load the weights that the settings name into a network.

    Raises:
        ModelError: the weights do not fit, or have changed since the settings were made.

    """
    chosen = settings.training.start_from
    if not chosen.folder:
        return
    names = _fitting(settings, network)
    path = chosen.path / WEIGHTS
    if sha256(path) != chosen.sha256:
        raise ModelError(
            f"{path} must stay as it was when the search began, {chosen.sha256[:10]}...",
            got=f"{sha256(path)[:10]}...",
            fix="run the same command again: with other weights it is another trial",
        )
    with safe_open(path, "pt") as file:
        network.load_state_dict({name: file.get_tensor(name) for name in names}, strict=False)


def _is_of_the_same_kind(about: dict[str, Any], settings: Settings) -> bool:
    """Whether a saved model is of the objective and the network of these settings."""
    entry = OBJECTIVES[settings.objective]
    # A separator's card names no objective: what it learned by is not in its weights.
    separates = "objective" not in about
    if separates != entry.separates or (not separates and about["objective"] != settings.objective):
        return False
    found: Any = {"model": about["config"]} if entry.separates else about["config"]
    for part in entry.kind.split("."):
        # Models that were saved before there was a choice are of the default kind.
        found = found.get(part, {})
    return (found or default_of(entry.kind)) == value_at(settings, entry.kind)


def _check_parts(folder: Path, wanted: Collection[str], found: Collection[str]) -> None:
    """ModelError unless two networks of different kinds have one of the parts in common, and the same ones."""
    ours, theirs = (_parts_in(names) for names in (wanted, found))
    if ours and ours == theirs:
        return
    missing, where = (" and ".join(ours), "that model") if ours else (PARTS["vision."], "this training")
    looking = " or ".join(contexts_with("vision.frozen"))
    raise ModelError(
        f"training.start_from: {folder} is of another objective or network, so its {missing} alone is taken",
        got=f"no {missing} in {where}",
        fix=f"set model.context: {looking} with a model.site, or model.context: motion with model.motion_encoder: "
        "convolutions, or start from a model of the same kind",
    )


def _parts_in(names: Collection[str]) -> list[str]:
    return [part for prefix, part in PARTS.items() if any(name.startswith(prefix) for name in names)]


def _fitting(settings: Settings, network: nn.Module) -> list[str]:
    """Names of the weights to load; ModelError with all misfits."""
    folder = settings.training.start_from.path
    begin = ("",) if _is_of_the_same_kind(read_card(folder), settings) else tuple(PARTS)
    wanted = {
        name: list(tensor.shape)
        for name, tensor in network.state_dict().items()
        if name.startswith(begin) and not name.startswith(UNSAVED)
    }
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys() if name.startswith(begin)}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{folder / WEIGHTS} must be a safetensors file", got=str(error), fix="save the model again"
        ) from error
    if begin != ("",):
        _check_parts(folder, wanted, found)
    misfits = [
        f"{name}: {found.get(name, 'none')} for {wanted.get(name, 'none')}"
        for name in sorted({*wanted, *found})
        if wanted.get(name) != found.get(name)
    ]
    if misfits:
        more = f"; {len(misfits) - AT_MOST_NAMED} more" if len(misfits) > AT_MOST_NAMED else ""
        raise ModelError(
            f"training.start_from: the weights in {folder} must have the names and shapes of this training's",
            got=f"{'; '.join(misfits[:AT_MOST_NAMED])}{more}",
            fix="use the settings of that model's network, labels and channels, or other weights",
        )
    return list(wanted)
