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
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16, UInt8
from pydantic import Field

from vimss.config import Config
from vimss.errors import ConfigError, DataError
from vimss.media import Probe, fitting_gain, probe, quantise, read_audio, read_video
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import Piece, stretches
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.recipe import SPLITS, Picture, Recipe

SOUNDS = {".wav", ".flac", ".aiff", ".aif", ".mp3", ".m4a", ".ogg", ".w64"}
"""Endings of the files that are stems."""
TABLE, MIXTURE, VIDEO = "instruments.csv", "mixture", "video"
DEALT = dict(zip(SPLITS[:4], (0.7, 0.1, 0.1, 0.1), strict=True))
"""Share of the pieces in each split, where their folders do not say; at least one piece in each."""


class Options(Config):
    """Settings of the folder reader."""

    most_silent: float = Field(
        0.5, ge=0, le=1, description="share of the stems that may be silent from beginning to end before it is an error"
    )


@dataclass(frozen=True)
class _Stem:
    path: Path
    instrument: str


def pieces(recipe: Recipe, options: Options, source: Path | None) -> list[Piece]:
    """One piece per folder, probed; DataError where a stem has no instrument, or its piece another length or rate."""
    found: list[Piece] = []
    for split, folder in _dealt(recipe, _source(source)):
        paths = [stem.path for stem in _stems(folder, recipe)] + _files(folder, MIXTURE, SOUNDS)
        lengths = {path: probe(path) for path in paths}
        _check_alike(lengths)
        if any(piece.name == _name(folder) for piece in found):
            raise DataError(
                "every piece must have a name of its own, of letters, digits, - and _",
                got=f"{_name(folder)} twice, once from {folder}",
                fix="rename one of the folders",
            )
        found.append(Piece(_name(folder), split, _name(folder), next(iter(lengths.values())).seconds))
    return found


def read(piece: Piece, recipe: Recipe, options: Options, source: Path | None) -> Iterator[Clip]:
    """The clips of one piece, each at most `recipe.clip_seconds` long."""
    (folder,) = [folder for _, folder in _dealt(recipe, _source(source)) if _name(folder) == piece.name]
    stems = _stems(folder, recipe)
    sounds = [read_audio(stem.path, recipe.sample_rate, recipe.channels) for stem in stems]
    mixes = [read_audio(path, recipe.sample_rate, recipe.channels) for path in _files(folder, MIXTURE, SOUNDS)]
    samples = min(sound.shape[1] for sound in (*sounds, *mixes))
    _check_silence([bool(sound.any()) for sound in sounds], options.most_silent, folder)
    # One gain for all: stems louder than full scale would be cut off, and apart they would no longer fit the mix.
    gain = fitting_gain(*sounds, *mixes)
    parts = [quantise(gain * sound[:, :samples]) for sound in sounds]
    mix = quantise(gain * mixes[0][:, :samples]) if mixes else None
    frames = max(1, round(samples / recipe.sample_rate * recipe.picture.frame_rate))
    pictures = _pictures(folder, len(stems), frames, recipe.picture)
    for heard, seen in stretches(samples, frames, recipe):
        players = []
        for place, (stem, part) in enumerate(zip(stems, parts, strict=True)):
            audio: Int16[np.ndarray, "c t"] = part[:, heard]
            silent = not audio.any()
            players.append(
                Player(
                    instrument=stem.instrument,
                    part=f"{place + 1}-{stem.instrument}",
                    audio=None if silent else audio,
                    silent=silent,
                    picture=pictures[place][seen] if pictures else None,
                )
            )
        yield Clip(
            piece=piece.name,
            offset=heard.start,
            samples=heard.stop - heard.start,
            sample_rate=recipe.sample_rate,
            players=tuple(players),
            frame_rate=recipe.picture.frame_rate if pictures else 0.0,
            mixture=None if mix is None else mix[:, heard],
        )


def _source(source: Path | None) -> Path:
    if source is None:
        raise ConfigError(
            "the corpus 'folder' needs the folder with the pieces", got="no source", fix="give it: --source DIR"
        )
    return source


def _dealt(recipe: Recipe, source: Path) -> list[tuple[str, Path]]:
    """Split and folder of each piece."""
    named = [(split, folder) for split in SPLITS for folder in _folders(source / split)]
    if named:
        return named
    folders = _folders(source)
    if not folders:
        return []  # an error of its own, for every corpus, where shards are written
    if len(folders) < len(DEALT):
        raise DataError(
            f"{source} must hold at least {len(DEALT)} pieces, one for each of {', '.join(DEALT)}",
            got=str(len(folders)),
            fix="cut long pieces into several, or sort them into folders of the splits' names",
        )
    order = np.random.default_rng(recipe.seed).permutation(len(folders))
    counts = {split: max(1, round(share * len(folders))) for split, share in DEALT.items()}
    splits = [split for split in ("valid", "promote", "test") for _ in range(counts[split])]
    splits += ["train"] * (len(folders) - len(splits))
    return sorted((split, folders[place]) for split, place in zip(splits, order, strict=True))


def _folders(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [path for path in found if not path.name.startswith(".")]


def _files(folder: Path, name: str, endings: set[str] | None = None) -> list[Path]:
    """The files of a folder that are called `name`, whatever their format."""
    found = sorted(path for path in folder.iterdir() if path.stem == name and path.is_file())
    return [path for path in found if endings is None or path.suffix.lower() in endings]


def _name(folder: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name)


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
    """The label that a name begins with, as a code or in English: "vn-2", "violin 2", "double_bass"."""
    words = re.sub(r"[\W_\d]+", " ", text).strip().lower()
    names = {label.lower(): label for label in recipe.labels}
    names |= {INSTRUMENTS[label]: label for label in recipe.labels if label in INSTRUMENTS}
    fitting = [name for name in names if words == name or words.startswith(f"{name} ")]
    if not fitting:
        raise DataError(
            f"{path} must begin with an instrument: one of {', '.join(recipe.labels)}, or its English name",
            got=repr(text),
            fix=f"rename it, or write a {TABLE} with lines of file,instrument, or change `labels` of the recipe",
        )
    return names[max(fitting, key=len)]


def _check_alike(probes: dict[Path, Probe]) -> None:
    (first, one), *others = probes.items()
    if one.sample_rate is None:
        raise DataError(f"{first} must hold sound", got="none", fix="give a sound file")
    for path, other in others:
        # Containers round lengths; a tenth of a second is heard as an echo.
        if other.sample_rate != one.sample_rate or abs(other.seconds - one.seconds) > 0.05:
            raise DataError(
                f"{path} must be as long as {first.name} and have its sample rate",
                got=f"{other.seconds:.2f} s at {other.sample_rate} Hz, not {one.seconds:.2f} s at {one.sample_rate} Hz",
                fix="export all stems of a piece from its beginning to its end, at one rate",
            )


def _check_silence(sounds: list[bool], most_silent: float, folder: Path) -> None:
    silent = sounds.count(False)
    if silent > most_silent * len(sounds):
        raise DataError(
            f"at most a share of {most_silent:g} of the stems in {folder} may be silent",
            got=f"{silent} of {len(sounds)}",
            fix="export them again, take the silent ones away, or raise options.most_silent",
        )


def _pictures(folder: Path, players: int, frames: int, picture: Picture) -> list[UInt8[np.ndarray, "v h w 3"]]:
    """The column of each player, a row per picture of the whole piece; nothing where there is no video."""
    videos = _files(folder, VIDEO)
    if not videos:
        return []
    size = picture.size
    seen = read_video(videos[0], (size, players * size), picture.frame_rate, frames / picture.frame_rate)
    # A video that ends before the sound keeps its last picture.
    seen = np.concatenate([seen[:frames], np.repeat(seen[-1:], max(0, frames - len(seen)), axis=0)])
    return [np.ascontiguousarray(seen[:, :, place * size : (place + 1) * size]) for place in range(players)]
