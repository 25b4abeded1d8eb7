"""Who plays, and what a model gives for them: from what was asked for, the file and the model to outputs and names.

players = players_of("violin, VC", file, separator)      # ("vn", "vc")
parts = parts_of(separator, players, file, card)
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vimss.errors import ConfigError, ModelError
from vimss.media import probe, read_video
from vimss.model.separator import Separator
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.recipe import Picture

LONGEST_NAME = 3
"""Words of the longest name of an instrument that is looked for among words without commas."""
MOST_PLAYERS = 10
"""Of one instrument, where a number says how many were meant."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Which outputs a model gives for a recording, and what they are called."""

    names: tuple[str, ...]
    """Of the stems, each once, in the order asked for."""
    rows: tuple[tuple[int, str], ...]
    """Output number and the stem that it is added to."""
    context: torch.Tensor | None


def players_of(instruments: str, file: Path, separator: Separator) -> tuple[str, ...]:
    """Labels of the players, checked; empty where the model's outputs have no labels.

    Instruments are parted by commas or semicolons. Each is a label of the model or its English name, in small letters
    or capitals. ConfigError says which label was probably meant by anything else.
    """
    known = ", ".join(separator.labels)
    if separator.config.outputs == "slots":
        if instruments:
            raise ConfigError(
                "the outputs of this model have no labels",
                got=f"--instruments {instruments}",
                fix="leave --instruments out",
            )
        return ()
    given = tuple(part.strip() for part in re.split("[,;]", instruments) if part.strip())
    players = given if instruments.strip() else probe(file).instruments
    if not players:
        raise ConfigError(
            f"{file} must say who plays: in its metadata, or by --instruments",
            got="neither" if not instruments.strip() else repr(instruments),
            fix=f"add --instruments with some of {known}, separated by commas, left to right as in the picture",
        )
    labels = [_label(part, separator.labels) for part in players]
    for part, label in zip(players, labels, strict=True):
        if label is None:
            meant = ",".join(_meant(part, separator.labels))
            hint = f"did you mean '{meant}'? " if meant else ""
            raise ConfigError(
                "every instrument must be a label that the model knows",
                got=repr(part) if given else f"{part!r} in the metadata of {file}",
                fix=f"{hint}choose from {known}, separated by commas",
            )
    return tuple(label for label in labels if label is not None)


def _label(text: str, labels: Sequence[str]) -> str | None:
    """The one label that is meant by a code or an English name; None where it is none, or not one alone."""
    if text in labels:
        return text
    wanted = _plain(text)
    fitting = [label for label in labels if wanted in (_plain(label), _plain(INSTRUMENTS.get(label, label)))]
    return fitting[0] if len(fitting) == 1 else None


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text).strip().casefold()


def _meant(text: str, labels: Sequence[str]) -> list[str]:
    """The labels that were probably meant by "2 violins", "violin cello" or "vln"; empty where nobody knows."""
    words = re.findall(r"[^\W\d_]+|\d+", text)
    meant: list[str] = []
    place, count = 0, 1
    while place < len(words):
        if words[place].isdigit():
            # Before a name, how many there are; behind it, which of them: "2 violins", "violin 2".
            count = int(words[place]) if not meant or place + 1 < len(words) else 1
            place += 1
            continue
        for length in range(min(LONGEST_NAME, len(words) - place), 0, -1):
            label = _singular(" ".join(words[place : place + length]), labels)
            if label is not None:
                meant += [label] * min(count, MOST_PLAYERS)
                place, count = place + length, 1
                break
        else:
            if words[place].casefold() not in ("and", "x"):
                return [] if meant else _nearest(text, labels)
            place += 1
    return meant


def _singular(text: str, labels: Sequence[str]) -> str | None:
    found = (_label(text.removesuffix(ending), labels) for ending in ("", "s", "es") if text.endswith(ending))
    return next((label for label in found if label is not None), None)


def _nearest(text: str, labels: Sequence[str]) -> list[str]:
    names = {name: label for label in labels for name in _names(label)}
    near = difflib.get_close_matches(_plain(text), names, n=1)
    return [names[near[0]]] if near else []


def _names(label: str) -> Iterator[str]:
    yield _plain(label)
    if label in INSTRUMENTS:
        yield INSTRUMENTS[label]


def parts_of(
    separator: Separator, players: tuple[str, ...], file: Path, card: Mapping[str, Any], allow_truncated: bool = False
) -> Parts:
    """The outputs for these players, with what the model is told about them."""
    names = tuple(dict.fromkeys(players))
    if not all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise ModelError(
            "labels must be words, for they become names of files",
            got=", ".join(names),
            fix="rename the labels of the model",
        )
    config = separator.config
    if config.outputs == "slots":
        names = tuple(f"slot_{number}" for number in range(1, config.slots + 1))
        return Parts(names, tuple(enumerate(names)), None)
    looks = separator.listens and config.context != "labels"
    context = None
    if looks:
        context = look(separator, len(players), file, card, allow_truncated)
    elif separator.listens:
        context = separator.label_context(names)[0]
    if config.outputs == "instruments":
        return Parts(names, tuple((separator.labels.index(name), name) for name in names), context)
    return Parts(names, tuple(enumerate(players if looks else names)), context)


def look(
    separator: Separator, players: int, file: Path, card: Mapping[str, Any], allow_truncated: bool = False
) -> torch.Tensor:
    """Pictures "p v h w 3" of the players in equal columns, or their features "p v d"."""
    picture = Picture.model_validate(card.get("picture", {}))
    size = (picture.size, picture.size * players)
    row = read_video(file, size, picture.frame_rate, allow_truncated=allow_truncated)
    pictures = torch.from_numpy(np.stack(np.split(row, players, axis=2)))
    if separator.config.context == "frames":
        return pictures
    return _features(separator, pictures, card)


def _features(separator: Separator, pictures: torch.Tensor, card: Mapping[str, Any]) -> torch.Tensor:
    """Features "p v d" by the network whose features the model was trained on, as far as its card tells."""
    # Only models that look pay for importing torchvision.
    from vimss.features import weights_digest
    from vimss.model.vision import Vision

    config = separator.config
    if config.vision.feature_size != config.feature_size:
        raise ModelError(
            f"this model needs features of {config.feature_size} numbers per picture",
            got=f"{config.vision.network}, which gives {config.vision.feature_size}",
            fix="train with vision.network set to the network of the features",
        )
    vision = Vision(config.vision).eval()
    name = f"{config.vision.network}-{weights_digest(vision)[:10]}"
    if card.get("features", name) != name or config.vision.weights == "random":
        wanted = f", {card['features']}" if "features" in card else ""
        raise ModelError(
            f"this model needs the vision network of its features{wanted}",
            got=f"{name}, with vision.weights: {config.vision.weights}",
            fix="train with vision.weights set to the file of the network that made the features",
        )
    with torch.inference_mode():
        return vision(pictures[None])[0]
