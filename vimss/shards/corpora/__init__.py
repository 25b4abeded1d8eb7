"""Readers of corpora: one module or package per corpus, named like its recipe's `corpus`.

Each has

    Options                                      the settings under `options:` of the recipe (a Config)
    pieces(recipe, options, source)              a Listing of what there is and what is missing, cheaply
    read(piece, recipe, options, source)         the clips of one piece, in order

`source` is the folder with the corpus on disk, None for a corpus that is generated.
"""

import importlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Int16, UInt8

from vimss.errors import ConfigError, DataError, MediaError
from vimss.shards.clip import Clip, Player
from vimss.shards.recipe import SPLITS, Recipe

SHARES = dict(zip(SPLITS[:4], (0.7, 0.1, 0.1, 0.1), strict=True))
"""Share of the pieces in each split, where a corpus has no splits of its own."""


@dataclass(frozen=True)
class Piece:
    """One piece of a corpus, before anything of it is read."""

    name: str
    """Unique in the corpus; letters, digits, `-` and `_`."""
    split: str
    """One of vimss.shards.recipe.SPLITS."""
    composition: str
    """What must not stand in two splits: the work, not its arrangement."""
    seconds: float


@dataclass(frozen=True)
class Listing:
    """What a reader finds."""

    pieces: tuple[Piece, ...]
    missing: tuple[str, ...] = ()
    """Names or ids of pieces that the corpus has and the source lacks, as far as a list tells."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Names of two solos of the test split each, where a corpus has a frozen list of mixtures for evaluation."""


def cut_piece(whole: Clip, recipe: Recipe) -> Iterator[Clip]:
    """A piece from its beginning to its end, as clips that the recipe allows; `vimss.stream.read.join_clips` undoes it.

    They are as few as can be, of nearly one length, and each begins with a picture. A player who plays nothing in a
    clip is silent there.
    """
    frame_rate = recipe.picture.frame_rate
    frames = max(1, round(whole.samples / whole.sample_rate * frame_rate))
    longest = max(1, int(recipe.clip_seconds * frame_rate + 1e-9))
    count = -(-frames // longest)
    cuts = [round(number * frames / count) for number in range(count + 1)]
    offsets = [int(cut * whole.sample_rate / frame_rate) for cut in cuts[:-1]] + [whole.samples]
    for number in range(count):
        heard, seen = slice(offsets[number], offsets[number + 1]), slice(cuts[number], cuts[number + 1])
        # Players who share a picture share its part too, which is then stored once.
        pictures = {id(player.picture): _rows(player.picture, seen) for player in whole.players}
        yield replace(
            whole,
            offset=whole.offset + heard.start,
            samples=heard.stop - heard.start,
            players=tuple(
                _cut_player(player, pictures[id(player.picture)], heard, seen, whole.sample_rate)
                for player in whole.players
            ),
            mixture=None if whole.mixture is None else whole.mixture[:, heard],
        )


def _cut_player(player: Player, picture: Any, heard: slice, seen: slice, sample_rate: int) -> Player:
    audio = None if player.audio is None else player.audio[:, heard]
    silent = player.silent if audio is None else not audio.any()
    return replace(
        player,
        audio=None if silent else audio,
        silent=silent,
        picture=picture,
        features=_rows(player.features, seen),
        masks=None if player.masks is None else player.masks[:, seen],
        boxes=None if player.boxes is None else player.boxes[:, seen],
        annotations={
            name: _within(rows, heard.start / sample_rate, heard.stop / sample_rate)
            for name, rows in player.annotations.items()
        },
    )


def _rows(array: Any, rows: slice) -> Any:
    return None if array is None else array[rows]


def _within(rows: np.ndarray, begin: float, end: float) -> np.ndarray:
    """The rows whose first column, seconds, lies in a stretch, with seconds from its begin."""
    kept = rows[(rows[:, 0] >= begin) & (rows[:, 0] < end)]
    return np.concatenate([kept[:, :1] - begin, kept[:, 1:]], axis=1)


def deal(names: Sequence[str], seed: int) -> dict[str, str]:
    """Name to split, for a corpus without splits of its own: at random, at least one in each of four.

    Deal the names that a corpus has, not those that are there: then a file that is missing moves no other to another
    split. Fewer than four names are all for training.
    """
    if len(names) < len(SHARES):
        return dict.fromkeys(names, "train")
    counts = {split: max(1, round(share * len(names))) for split, share in SHARES.items()}
    splits = [split for split in ("valid", "promote", "test") for _ in range(counts[split])]
    splits += ["train"] * (len(names) - len(splits))
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[place]: split for split, place in zip(splits, order, strict=True)}


def read_take(
    path: Path, recipe: Recipe, begin: float = 0.0, end: float = math.inf
) -> tuple[Int16[np.ndarray, "c t"], UInt8[np.ndarray, "v h w 3"] | None]:
    """Sound of a recording between two seconds, and the middle square of its picture where it has one.

    Raises:
        MediaError: The file cannot be read, or ends before `begin`.

    """
    # Imported here: listing a corpus needs no codecs.
    from vimss.media import fitting_gain, middle_square, probe, quantise, read_audio, read_crops

    rate, picture = recipe.sample_rate, recipe.picture
    sound = read_audio(path, rate, recipe.channels)
    sound = sound[:, round(begin * rate) : None if math.isinf(end) else round(end * rate)]
    if not sound.shape[1]:
        raise MediaError(f"{path} must be longer than {begin:g} s", got="an earlier end", fix="copy or export it again")
    audio = quantise(fitting_gain(sound) * sound)
    if probe(path).size is None:
        return audio, None
    seconds = audio.shape[1] / rate
    (seen,) = read_crops(path, [middle_square(path)], picture.size, picture.frame_rate, seconds, begin)
    return audio, seen


def common_seconds(paths: Sequence[Path], fix: str) -> float:
    """The length that the sound files of a piece have in common; DataError with `fix` where they differ, or in rate."""
    # Imported here: listing a corpus needs no codecs.
    from vimss.media import probe

    first, one = paths[0], probe(paths[0])
    if one.sample_rate is None:
        raise DataError(f"{first} must hold sound", got="none", fix="give a sound file")
    for path in paths[1:]:
        other = probe(path)
        # Containers round lengths; a tenth of a second is heard as an echo.
        if other.sample_rate != one.sample_rate or abs(other.seconds - one.seconds) > 0.05:
            raise DataError(
                f"{path} must be as long as {first.name} and have its sample rate",
                got=f"{other.seconds:.2f} s at {other.sample_rate} Hz, not {one.seconds:.2f} s at {one.sample_rate} Hz",
                fix=fix,
            )
    return one.seconds


def plain_name(text: str) -> str:
    """A name of letters, digits, `-` and `_`, as pieces have."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)


def source_folder(source: Path | None, recipe: Recipe) -> Path:
    """The folder of a corpus that lies on disk; ConfigError where there is none."""
    if source is None or not source.is_dir():
        raise ConfigError(
            f"the corpus '{recipe.corpus}' needs the folder that it lies in",
            got="no --source" if source is None else f"no folder {source}",
            fix=f"give it: --source DIR. To obtain the data: {recipe.obtain}",
        )
    return source


def reader_of(corpus: str) -> ModuleType:
    """The reader's module. It is imported only now, because readers need heavy libraries."""
    return importlib.import_module(f"{__name__}.{corpus}")
