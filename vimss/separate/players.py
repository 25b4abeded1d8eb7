"""Who plays, and what a model gives for them: from what was asked for, the file and the model to outputs and names.

players = players_of("violin, VC", file, separator)      # ("vn", "vc")
parts = parts_of(separator, players, file, card)
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vimss.errors import ConfigError, MediaError, ModelError
from vimss.media import container, probe, read_video
from vimss.model.separator import Separator
from vimss.shards.instruments import label_named, nearest_label
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
    or capitals, maybe with a number behind it ("violin 2"). ConfigError says which label was probably meant by anything
    else.
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
    labels = [label_named(part, separator.labels) for part in players]
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
        until_number = sum(1 for _ in itertools.takewhile(lambda word: not word.isdigit(), words[place:]))
        for length in range(min(LONGEST_NAME, until_number), 0, -1):
            label = _singular(" ".join(words[place : place + length]), labels)
            if label is not None:
                meant += [label] * min(count, MOST_PLAYERS)
                place, count = place + length, 1
                break
        else:
            if words[place].casefold() not in ("and", "x"):
                near = None if meant else nearest_label(text, labels)
                return [] if near is None else [near]
            place += 1
    return meant


def _singular(text: str, labels: Sequence[str]) -> str | None:
    found = (label_named(text.removesuffix(ending), labels) for ending in ("", "s", "es") if text.endswith(ending))
    return next((label for label in found if label is not None), None)


def stem_names(separator: Separator, players: tuple[str, ...]) -> tuple[str, ...]:
    """What the stems of these players are called, each once; ModelError where files cannot be called so."""
    if separator.config.outputs == "slots":
        return tuple(f"slot_{number}" for number in range(1, separator.config.slots + 1))
    names = tuple(dict.fromkeys(players))
    if not all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise ModelError(
            "labels must be words, for they become names of files",
            got=", ".join(names),
            fix="rename the labels of the model",
        )
    return names


def parts_of(
    separator: Separator, players: tuple[str, ...], file: Path, card: Mapping[str, Any], allow_truncated: bool = False
) -> Parts:
    """The outputs for these players, with what the model is told about them."""
    names, config = stem_names(separator, players), separator.config
    if config.outputs == "slots":
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
    if not allow_truncated:  # a file that was cut off is shorter than its header has it
        _check_length(file, picture, players)
    row = read_video(file, size, picture.frame_rate, allow_truncated=allow_truncated)
    pictures = torch.from_numpy(np.stack(np.split(row, players, axis=2)))
    if separator.config.context == "frames":
        return pictures
    return _features(separator, pictures, card)


def _check_length(file: Path, picture: Picture, players: int) -> None:
    """MediaError where the pictures would not fit into memory, before an hour of them is decoded."""
    most = container.MAX_PICTURE_BYTES / (3 * picture.size**2 * players * picture.frame_rate)
    seconds = probe(file).picture_seconds
    if seconds > most + 1 / picture.frame_rate:
        raise MediaError(
            f"{file} must be at most {_duration(most)} long for a model that looks at {players} players",
            got=_duration(seconds),
            fix="cut the recording into parts, or use a model that is conditioned on labels",
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"


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
