"""The context `motion`: where and how much each player moves from picture to picture.

    write_motion(manifest)                                # features/motion-1/, beside the shards
    Motion(config, labels).of_player(clip, player)        # Float16 "v 64"

A row has 64 numbers per picture, an 8x8 grid over the player's crop from the top left: the log energy of the difference
from the picture before, on grey pictures of 40 pixels. 0 is stillness; a bow or an arm gives about 1. No network is
needed: it costs hardly more than decoding the pictures.

A network gets these numbers, or with model.motion_encoder: convolutions what a stack of convolutions over time makes
of them, which is trained along (see `vimss.model.motion`) and can start from a model of the objective `alignment`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Float16, Float32, UInt8
from pydantic import Field

from vimss.config import Config
from vimss.errors import DataError, MediaError
from vimss.model.contexts.recording import Recording, check_columns, pictures_during_sound
from vimss.model.contexts.refusals import misfit, no_view, shape_of
from vimss.model.contexts.vectors import PlayerVectors
from vimss.shards.clip import Clip, Player
from vimss.shards.computed import ComputedEntry, available_features, features_command, read_entry
from vimss.shards.manifest import Manifest, Shard
from vimss.storage import Folder

if TYPE_CHECKING:
    import torch

    # Loads av, which those who only train can do without: the functions below import it.
    from vimss.stream.compute import Computation

NETWORK = "motion"
"""Its name in `vimss features --network`: not a network, but written beside the shards as features are."""

VERSION = 1
"""Raised when other numbers are made of the same pictures, so that old ones are not used."""

FOLDER = f"{NETWORK}-{VERSION}"
"""Folder beside the shards, below `features`."""

GRID = 8
"""Cells in a row and in a column."""

SIDE = 5 * GRID
"""Pixels to which pictures are scaled before they are compared: less than a hand, more than the noise of a codec."""

QUIET = 1e-5
"""Energy added in each cell before the logarithm, where white is 1: a difference of 0.8 of 255 grey levels."""

NATS = 4.0
"""Of the logarithm per 1 in a row: motion in chamber music is about as far above QUIET."""

LEAST_RATE = 10.0
"""Pictures per second: a bow that turns five times a second, as in fast passages, has two pictures for each stroke."""

SPARE_SECONDS = 1.0
"""By which a picture may be shorter than its sound, as last pictures of videos often are."""

PICTURES_AT_ONCE = 64
"""Scaled together, as floats, so that a long recording takes no more memory than a short one."""


ENCODER = "of_motion"
"""Name of the encoder's weights in a separator, and in a model of the objective `alignment`."""

ENCODED_SIZE = 32
"""Numbers per vector that the encoder gives, about 1 each."""


class MotionSettings(Config):
    """How motion becomes what the network is conditioned on."""

    motion_encoder: Literal["none", "convolutions"] = Field(
        "none",
        description="of a `motion` context; none: the numbers of each picture by themselves; convolutions: a small "
        "stack over time, trained along; training.start_from may name a model of `objective: alignment` for it",
    )


class MotionEntry(ComputedEntry):
    """Contents of a folder of motion."""

    version: int = Field(description="of the way in which motion is computed")


def motion_of(pictures: UInt8[np.ndarray, "v h w 3"]) -> Float16[np.ndarray, "v d"]:
    """A row per picture. The first one has none before it, and gets the row of the second."""
    grey = _scaled_grey(pictures)
    energy = np.square(np.diff(grey, axis=0)).reshape(-1, GRID, SIDE // GRID, GRID, SIDE // GRID).mean((2, 4))
    rows = np.log(energy.reshape(-1, GRID * GRID) / QUIET + 1) / NATS
    first = rows[:1] if len(rows) else np.zeros((len(pictures), GRID * GRID))
    return np.concatenate([first, rows]).astype(np.float16)


def _scaled_grey(pictures: UInt8[np.ndarray, "v h w 3"]) -> Float32[np.ndarray, "v s s"]:
    """Grey pictures of SIDE x SIDE pixels from 0 to 1, each the mean of the area that it covers."""
    height, width = pictures.shape[1:3]
    down, across = _areas(height), np.repeat(_areas(width) / (3 * 255), 3, axis=1)
    grey = np.empty((len(pictures), SIDE, SIDE), np.float32)
    for first in range(0, len(pictures), PICTURES_AT_ONCE):
        some = slice(first, first + PICTURES_AT_ONCE)
        lines = pictures[some].reshape(-1, width * 3).astype(np.float32) @ across.T
        grey[some] = down @ lines.reshape(-1, height, SIDE)
    return grey


@functools.cache
def _areas(pixels: int) -> Float32[np.ndarray, "s n"]:
    """The share that each of `pixels` has in each of SIDE equal parts of their row."""
    starts, edges = np.arange(pixels), np.linspace(0, pixels, SIDE + 1)
    ends = np.minimum(edges[1:, None], starts + 1)
    covered = np.clip(ends - np.maximum(edges[:-1, None], starts), 0, None)
    return (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)


def compute_motion(
    manifest: Manifest, shards: Sequence[Shard] | None = None, progress: Callable[[float], None] | None = None
) -> str:
    """Write the motion of every player in `shards` (default: all), and return the folder's name.

    Raises:
        DataError: too few pictures per second, or no player has a picture.

    """
    from vimss.stream.compute import write_arrays

    check_rate(manifest)
    write_arrays(manifest, motion_computation(), shards, progress)
    return FOLDER


def write_motion(manifest: Manifest, on_done: Callable[[int], None] = lambda count: None) -> Folder:
    """`compute_motion` in parallel, one Ray task per shard; returns the folder.

    `on_done` is called with the number of shards that are done.
    """
    from vimss.stream.compute import write_in_parallel

    check_rate(manifest)
    return write_in_parallel(manifest, motion_computation, on_done)


def motion_computation(device: str = "cpu") -> "Computation":
    """The motion in pictures, for which a core is fast enough whatever the device."""
    from vimss.stream.compute import Computation

    return Computation(FOLDER, motion_of, functools.partial(MotionEntry, version=VERSION))


def check_rate(manifest: Manifest) -> None:
    """DataError where the pictures follow each other too slowly for motion."""
    rate = manifest.recipe.picture.frame_rate
    if rate < LEAST_RATE:
        raise DataError(
            f"motion needs at least {LEAST_RATE:g} pictures a second, or it shows that somebody moved and not when",
            got=f"picture.frame_rate: {rate:g} in '{manifest.name}'",
            fix=f"run `vimss shard {manifest.name} --set picture.frame_rate=25`, and set the same in the recipe",
        )


def check_visible(recording: Recording, purpose: str, otherwise: str) -> None:
    """MediaError unless the motion of every player can be seen for as long as the sound lasts.

    `purpose` says what for, and `otherwise` what helps where it cannot be seen.
    """
    from vimss.media import probe  # loads av, which those who only train can do without

    file, count, found = recording.file, len(recording.players), probe(recording.file)
    if found.size is None:
        raise MediaError(f"{file} must be a video of its players, {purpose}", got="no picture", fix=otherwise)
    if found.frame_rate < LEAST_RATE:
        raise MediaError(
            f"{file} must have at least {LEAST_RATE:g} pictures a second, {purpose}",
            got=f"{found.frame_rate:g}",
            fix=f"use a video with more, or {otherwise}",
        )
    check_columns(file, count, f"name the players that are in the picture by --instruments, or {otherwise}")
    sounds = found.sound_seconds
    seconds = sounds[recording.stream] if recording.stream < len(sounds) else 0.0
    if not recording.allow_truncated and found.picture_seconds < seconds - SPARE_SECONDS:
        raise MediaError(
            f"the picture of {file} must last as long as its sound, {purpose}",
            got=f"{found.picture_seconds:.1f} s of picture and {seconds:.1f} s of sound",
            fix=f"cut the sound to the length of the picture, or {otherwise}",
        )


@dataclass(frozen=True)
class Motion(PlayerVectors):
    """Differences of neighbouring pictures, computed before."""

    config: MotionSettings

    Settings: ClassVar[type[Config]] = MotionSettings
    members: ClassVar[tuple[str, ...]] = ("features",)
    source: ClassVar[str] = "picture"
    computed: ClassVar[bool] = True
    plural: ClassVar[str] = "motion"

    @property
    def is_encoded(self) -> bool:
        """Whether convolutions come before the network."""
        return self.config.motion_encoder == "convolutions"

    @property
    def view_shape(self) -> tuple[int, ...]:
        """The shape of a row, "v d": one number per cell of the grid."""
        return (-1, GRID * GRID)

    @property
    def width(self) -> int:
        """One number per cell of the grid, or those that the encoder gives."""
        return ENCODED_SIZE if self.is_encoded else GRID * GRID

    @property
    def norm(self) -> float:
        """Motion is about 1 in each cell, and so are the numbers of the encoder."""
        return self.width**0.5

    def modules(self, sample_rate: int) -> dict[str, Any]:
        """The encoder, where there is one."""
        if not self.is_encoded:
            return {}
        from vimss.model.motion import MotionEncoder

        return {ENCODER: MotionEncoder(GRID * GRID)}

    def encode(
        self, array: "torch.Tensor", players: "torch.Tensor | None", modules: Mapping[str, Any], dtype: "torch.dtype"
    ) -> "torch.Tensor":
        """Motion "b p v 64" as it is, or as vectors "b p v 32"."""
        if array.ndim != 4 or array.shape[-1] != GRID * GRID:
            raise misfit(f"motion as batch x players x frames x {GRID * GRID}", shape_of(tuple(array.shape)))
        rows = array.to(dtype)
        if not self.is_encoded:
            return rows
        encoded: torch.Tensor = modules[ENCODER](rows.flatten(0, 1))
        return encoded.unflatten(0, array.shape[:2])

    def prepare(self, manifest: Manifest, folder: str = "") -> str:
        """The complete folder of motion beside the shards, after a check of every file.

        Raises:
            DataError: where there is none, or where it is damaged, of other shards or of another version.

        """
        check_rate(manifest)
        again = features_command(manifest, f"--network {NETWORK}")
        found = [name for name in available_features(manifest) if name.rpartition("-")[0] == NETWORK]
        others = [name for name in (*found, folder) if name not in ("", FOLDER)]
        if others and (folder or FOLDER not in found):
            raise DataError(
                f"motion must be of this version of VIMSS, {FOLDER}, in what a model was trained on and beside "
                f"{manifest.home}",
                got=", ".join(dict.fromkeys(others)),
                fix=f"{again}, and train the model again" if folder else again,
            )
        if not found:
            raise DataError(
                f"a `{NETWORK}` context needs the motion of the players beside {manifest.home}", got="none", fix=again
            )
        read_entry(manifest, FOLDER, MotionEntry, again)
        return FOLDER

    def of_player(self, clip: Clip, player: Player) -> Float[np.ndarray, "v d"]:
        """The motion in the player's pictures."""
        if player.features is None:
            fix = f"run `vimss features RECIPE --network {NETWORK}` for this recipe"
            raise no_view(NETWORK, "the motion", clip, player, fix=fix)
        return player.features

    def of_recording(self, recording: Recording) -> Float16[np.ndarray, "p v d"]:
        """Motion in the players' parts of the video; MediaError where it cannot be seen."""
        purpose = "for a model that is conditioned on motion"
        check_visible(recording, purpose, "use a model that is conditioned on labels")
        return np.stack([motion_of(pictures) for pictures in pictures_during_sound(recording)])
