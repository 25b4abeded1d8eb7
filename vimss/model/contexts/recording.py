"""A recording that is to be separated, and the pictures of its players.

recording = Recording(Path("duet.mp4"), ("vn", "vc"), card)
pictures = pictures_during_sound(recording)     # UInt8 "p v h w 3"
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from vimss.config import parse_config
from vimss.errors import MediaError, ModelError
from vimss.model.card import CARD
from vimss.shards.recipe import Picture

LEAST_COLUMN = 8
"""Pixels across that a player must have in the picture."""


@dataclass(frozen=True)
class Recording:
    """A file and who plays in it."""

    file: Path
    players: tuple[str, ...]
    """Labels, left to right as in the picture."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """The model's card: the size and rate of the pictures that it was trained on, and the name of its features."""
    allow_truncated: bool = False
    """Whether a truncated file is read up to where it ends."""
    stream: int = 0
    """Number of the sound stream that is separated, from 0."""
    examples: Mapping[str, Sequence[Float32[np.ndarray, " t"]]] = field(default_factory=dict)
    """Label to the sound of each of its players alone, from left to right: as long as the model's examples, at its
    rate."""

    @property
    def picture(self) -> Picture:
        """Size and rate of the pictures that the model was trained on; ModelError where its card does not say."""
        return picture_of(self.card)


def picture_of(card: Mapping[str, Any]) -> Picture:
    """Size and rate of the pictures that a model was trained on; ModelError where its card does not say."""
    if "picture" not in card:
        raise ModelError(
            f"the card in the {CARD} of a model that looks at players must have the key 'picture', with the size and "
            "frame_rate of the pictures that it was trained on",
            got="none",
            fix="train it again, or add the `picture` of its recipe",
        )
    return parse_config(card["picture"], Picture, f"picture in the card in {CARD}")


def pictures_during_sound(recording: Recording) -> UInt8[np.ndarray, "p v h w 3"]:
    """Pictures of the players for as long as the sound lasts: views are spread evenly over it.

    Where the picture stops before, the last one stays. Of a file that was cut off the header is wrong, so it is not
    looked at. Errors as in `player_pictures`.
    """
    from vimss.media import probe

    pictures, sounds = player_pictures(recording), probe(recording.file).sound_seconds
    if recording.allow_truncated or recording.stream >= len(sounds):
        return pictures
    count = max(1, round(sounds[recording.stream] * recording.picture.frame_rate))
    return pictures[:, np.minimum(np.arange(count), pictures.shape[1] - 1)]


def player_pictures(recording: Recording) -> UInt8[np.ndarray, "p v h w 3"]:
    """Pictures of the players, in equal columns of the video.

    Raises:
        MediaError: no picture, one that is too narrow for the players, or more of it than fits into memory.
        ModelError: the card does not say what pictures the model was trained on.

    """
    from vimss.media import read_video  # loads av, which those who only check settings can do without

    count, picture = len(recording.players), recording.picture
    size = (picture.size, picture.size * count)
    fix = "name only the players that are in the picture, or use a model that is conditioned on labels"
    check_columns(recording.file, count, fix)
    if not recording.allow_truncated:  # a file that was cut off is shorter than its header has it
        _check_length(recording.file, picture, count)
    row = read_video(recording.file, size, picture.frame_rate, allow_truncated=recording.allow_truncated)
    return np.stack(np.split(row, count, axis=2))


def check_columns(file: Path, players: int, fix: str) -> None:
    """MediaError where the picture, if there is one, is too narrow for so many players side by side."""
    from vimss.media import probe

    size = probe(file).size
    if size is not None and size[1] < players * LEAST_COLUMN:
        raise MediaError(
            f"the picture of {file} must have a column of {LEAST_COLUMN} or more pixels for each of {players} players",
            got=f"{size[1]} pixels",
            fix=fix,
        )


def _check_length(file: Path, picture: Picture, players: int) -> None:
    """MediaError where the pictures would not fit into memory, before an hour of them is decoded."""
    from vimss.media import container, probe

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
