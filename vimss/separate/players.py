"""Players and their outputs: from the instruments given, the file and the model to queries and names of stems.

players = players_of("violin, VC", file, separator)      # ("vn", "vc")
parts = parts_of(separator, Recording(file, players, card))
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vimss.errors import ConfigError, ModelError
from vimss.media import probe
from vimss.model.contexts import Recording
from vimss.model.contexts.motion import SPARE_SECONDS
from vimss.model.separator import Separator
from vimss.shards.instruments import label_named, nearest_label

LONGEST_NAME = 3
"""Words of the longest name of an instrument that is looked for among words without commas."""
MOST_PLAYERS = 10
"""Most players of one instrument, where a number gives how many."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The outputs of a model for a recording, and their names."""

    names: tuple[str, ...]
    """Names of the stems, each once, in the order given."""
    rows: tuple[tuple[int, str], ...]
    """Output number and the stem that it is added to."""
    context: torch.Tensor | None


def players_of(instruments: str, file: Path, separator: Separator, *, assigned: bool = False) -> tuple[str, ...]:
    """Labels of the players, checked; empty where the model's outputs have no labels and are not assigned to players.

    Instruments are parted by commas or semicolons. Each is a label of the model or its English name, in small letters
    or capitals, maybe with a number behind it ("violin 2"). ConfigError names the label that was probably
    meant by anything else.
    """
    known = ", ".join(separator.labels)
    if separator.interface.any_order and not assigned:
        if instruments:
            raise ConfigError(
                "the outputs of this model have no labels",
                got=f"--instruments {instruments}",
                fix="leave --instruments out, or add --alignment to assign the outputs to players",
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
                "every instrument must be one of the model's labels",
                got=repr(part) if given else f"{part!r} in the metadata of {file}",
                fix=f"{hint}choose from {known}, separated by commas",
            )
    return tuple(label for label in labels if label is not None)


def _meant(text: str, labels: Sequence[str]) -> list[str]:
    """The labels that were probably meant by "2 violins", "violin cello" or "vln"; empty where none is near."""
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
    """The names of the stems of these players, each once; ModelError where they cannot be names of files."""
    return checked_names(tuple(dict.fromkeys(stem for _, stem in separator.interface.stems_of(players))))


def checked_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same names; ModelError where they cannot be names of files."""
    if not all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise ModelError(
            "labels must be words, for they become names of files",
            got=", ".join(names),
            fix="rename the labels of the model",
        )
    return names


def about_picture(separator: Separator, recording: Recording) -> tuple[str, ...]:
    """A sentence where a model looks at a picture that stops before the sound."""
    interface = separator.interface
    if not interface.uses_players or interface.example_seconds or recording.allow_truncated:
        return ()
    found = probe(recording.file)
    missing = max(found.sound_seconds[recording.stream :][:1], default=0.0) - found.picture_seconds
    if missing <= SPARE_SECONDS:
        return ()
    return (f"the picture stops {missing:.1f} s before the sound: players are shown as they are in its last one",)


def parts_of(separator: Separator, recording: Recording) -> Parts:
    """The outputs for the players of a recording, with their context."""
    interface = separator.interface
    context = interface.of_recording(recording)
    return Parts(
        stem_names(separator, recording.players),
        interface.stems_of(recording.players),
        None if context is None else torch.from_numpy(context),
    )
