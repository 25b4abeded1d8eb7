"""A user's own stems: a folder per piece, a sound file per player, and a video of all of them where there is one.

    SOURCE/PIECE/vn.wav            the instrument is the first word of the name: a label or its English name,
    SOURCE/PIECE/violin-2.flac     then, of several players, whatever tells them apart
    SOURCE/PIECE/instruments.csv   instead, for names that say something else: lines of file,instrument
    SOURCE/PIECE/mixture.wav       the recorded mix, where it is not the sum of the stems
    SOURCE/PIECE/video.mp4         the players side by side in equal columns, in the order of the stems' names (of the
                                   lines of instruments.csv, where there is one)

Pieces are dealt to the splits by the recipe's seed, unless their folders lie in folders of the splits' names:
SOURCE/train/PIECE, SOURCE/test/PIECE and so on. Each piece counts as a work of its own.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vimss.config import Config
from vimss.errors import DataError
from vimss.media import columns, fitting_gain, quantise, read_audio, read_crops
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import SHARES, Listing, Piece, common_seconds, cut_piece, deal, plain_name, source_folder
from vimss.shards.instruments import label_of
from vimss.shards.recipe import SPLITS, Picture, Recipe

SOUNDS = {".wav", ".flac", ".aiff", ".aif", ".mp3", ".m4a", ".ogg", ".w64"}
"""Endings of the files that are stems."""
TABLE, MIXTURE, VIDEO = "instruments.csv", "mixture", "video"


class Options(Config):
    """The folder reader has no settings."""


@dataclass(frozen=True)
class _Stem:
    path: Path
    instrument: str


def pieces(recipe: Recipe, options: Options, source: Path | None) -> Listing:
    """One piece per folder, probed; DataError where a stem has no instrument, or its piece another length or rate."""
    found: list[Piece] = []
    for split, folder in _dealt(recipe, source_folder(source, recipe)):
        paths = [stem.path for stem in _stems(folder, recipe)] + _files(folder, MIXTURE, SOUNDS)
        seconds = common_seconds(paths, fix="export all stems of a piece from its beginning to its end, at one rate")
        if any(piece.name == plain_name(folder.name) for piece in found):
            raise DataError(
                "every piece must have a name of its own, of letters, digits, - and _",
                got=f"{plain_name(folder.name)} twice, once from {folder}",
                fix="rename one of the folders",
            )
        found.append(Piece(plain_name(folder.name), split, plain_name(folder.name), seconds))
    return Listing(tuple(found))


def read(piece: Piece, recipe: Recipe, options: Options, source: Path | None) -> Iterator[Clip]:
    """The clips of one piece, each at most `recipe.clip_seconds` long."""
    dealt = _dealt(recipe, source_folder(source, recipe))
    (folder,) = [folder for _, folder in dealt if plain_name(folder.name) == piece.name]
    stems = _stems(folder, recipe)
    sounds = [read_audio(stem.path, recipe.sample_rate, recipe.channels) for stem in stems]
    mixes = [read_audio(path, recipe.sample_rate, recipe.channels) for path in _files(folder, MIXTURE, SOUNDS)]
    samples = min(sound.shape[1] for sound in (*sounds, *mixes))
    # One gain for all: stems louder than full scale would be cut off, and apart they would no longer fit the mix.
    gain = fitting_gain(*sounds, *mixes)
    parts = [quantise(gain * sound[:, :samples]) for sound in sounds]
    mix = quantise(gain * mixes[0][:, :samples]) if mixes else None
    pictures = _pictures(folder, len(stems), samples / recipe.sample_rate, recipe.picture)
    players = tuple(
        Player(
            instrument=stem.instrument,
            part=f"{place + 1}-{stem.instrument}",
            audio=part,
            picture=pictures[place] if pictures else None,
        )
        for place, (stem, part) in enumerate(zip(stems, parts, strict=True))
    )
    frame_rate = recipe.picture.frame_rate if pictures else 0.0
    yield from cut_piece(Clip(piece.name, 0, samples, recipe.sample_rate, players, frame_rate, mix), recipe)


def _dealt(recipe: Recipe, source: Path) -> list[tuple[str, Path]]:
    """Split and folder of each piece."""
    named = [(split, folder) for split in SPLITS for folder in _folders(source / split)]
    if named:
        return named
    folders = _folders(source)
    if not folders:
        return []  # an error of its own, for every corpus, where shards are written
    if len(folders) < len(SHARES):
        raise DataError(
            f"{source} must hold at least {len(SHARES)} pieces, one for each of {', '.join(SHARES)}",
            got=str(len(folders)),
            fix="cut long pieces into several, or sort them into folders of the splits' names",
        )
    splits = deal([folder.name for folder in folders], recipe.seed)
    return sorted((splits[folder.name], folder) for folder in folders)


def _folders(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [path for path in found if not path.name.startswith(".")]


def _files(folder: Path, name: str, endings: set[str] | None = None) -> list[Path]:
    """The files of a folder that are called `name`, whatever their format."""
    found = sorted(path for path in folder.iterdir() if path.stem == name and path.is_file())
    return [path for path in found if endings is None or path.suffix.lower() in endings]


def _stems(folder: Path, recipe: Recipe) -> list[_Stem]:
    """The stems of a piece, in the order of the table or of their names."""
    table = folder / TABLE
    if table.exists():
        rows = [row for row in csv.reader(table.read_text(encoding="utf-8").splitlines()) if row]
        stems = [_Stem(folder / row[0].strip(), _label(row[-1].strip(), table, recipe)) for row in rows]
    else:
        paths = sorted(
            path for path in folder.iterdir() if path.suffix.lower() in SOUNDS and path.stem not in (MIXTURE, VIDEO)
        )
        stems = [_Stem(path, _label(path.stem, path, recipe)) for path in paths]
    if not stems:
        raise DataError(
            f"{folder} must hold the stems of a piece",
            got=f"no file that ends in {', '.join(sorted(SOUNDS))}",
            fix="put one sound file per player there, or take the folder away",
        )
    return stems


def _label(text: str, path: Path, recipe: Recipe) -> str:
    """The label that a name begins with; DataError where it begins with none."""
    label = label_of(text, recipe.labels)
    if label is None:
        raise DataError(
            f"{path} must begin with an instrument: one of {', '.join(recipe.labels)}, or its English name",
            got=repr(text),
            fix=f"rename it, or write a {TABLE} with lines of file,instrument, or change `labels` of the recipe",
        )
    return label


def _pictures(folder: Path, players: int, seconds: float, picture: Picture) -> list[UInt8[np.ndarray, "v h w 3"]]:
    """The column of each player, over the whole piece; nothing where there is no video."""
    videos = _files(folder, VIDEO)
    if not videos:
        return []
    return read_crops(videos[0], columns(videos[0], players), picture.size, picture.frame_rate, seconds)
