"""Solos and duets that Juan F. Montesinos collected ("home-made Sound of Pixels"): eight instruments, sound only.

    SOURCE/wav/train/cello12.wav        a solo: cello, clarinet, erhu, flute, trumpet, tuba, violin or xylophone, or its
                                        letters in the duets (c, cl, e, f, t, tu, v, x), and a number
    SOURCE/wav/train/cltu3.wav          a duet of clarinet and tuba
    SOURCE/wav/test/...                 the test split, as it comes; the others are dealt from train/, per code
    SOURCE/segment_times.csv            the stretches that are good to use: lines of file,to,tf under that header, which
                                        are name, first and last second; not needed
    SOURCE/segment_times.json           or as [{"file": "cello12", "to": [0.5], "tf": [61.0]}, ...]
    SOURCE/video/train/cello12.mp4      not needed: the picture that belongs to a sound file

Each stretch is a piece, NAME-NUMBER; without a table every file is one piece. A recording without a stretch is left out
and listed as missing, as is one that only the table has.

A solo is one player with a stem. A duet is two players without stems, and the recording as mixture; both have
the whole picture, because who stands where is not recorded.

The corpus comes with segment_times.npy, which is a pickle: opening one runs whatever program it holds. It is not opened
here; convert it where you trust it.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vimss.config import Config
from vimss.errors import DataError
from vimss.media import columns, middle_square
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import Listing, Piece, common_seconds, cut_piece, deal, read_pictures, read_take
from vimss.shards.recipe import Recipe
from vimss.shards.source import Problems, did_you_mean, file_called, gone, source_folder, visible
from vimss.shards.table import number, read_records, read_text

SOLOS = {
    "cello": "vc",
    "clarinet": "cl",
    "erhu": "erhu",
    "flute": "fl",
    "trumpet": "tpt",
    "tuba": "tba",
    "violin": "vn",
    "xylophone": "xylophone",
}
"""Name and label."""
LETTERS = {"c": "vc", "cl": "cl", "e": "erhu", "f": "fl", "t": "tpt", "tu": "tba", "v": "vn", "x": "xylophone"}
DUETS = {
    "cf": ("vc", "fl"),
    "clc": ("cl", "vc"),
    "clf": ("cl", "fl"),
    "clt": ("cl", "tpt"),
    "cltu": ("cl", "tba"),
    "clv": ("cl", "vn"),
    "ct": ("vc", "tpt"),
    "tf": ("tpt", "fl"),
    "tut": ("tba", "tpt"),
    "tuv": ("tba", "vn"),
    "vc": ("vn", "vc"),
    "vf": ("vn", "fl"),
    "vt": ("vn", "tpt"),
    "xf": ("xylophone", "fl"),
}
CODES = {code: (label,) for code, label in (SOLOS | LETTERS).items()} | DUETS
"""What a name starts with, and the labels of the players."""
TABLE = "segment_times"
CONVERT = (
    'python -c "import json, numpy; '
    f"table = numpy.load('{TABLE}.npy', allow_pickle=True, encoding='latin1').tolist(); "
    f"json.dump(table, open('{TABLE}.json', 'w'), default=lambda array: array.tolist())\""
)
"""NumPy 2 and the Python 2 of the corpus: latin1 is how their texts meet."""

Stretch = tuple[float, float]
WHOLE = [(0.0, math.inf)]


VERSION = 1
"""Raised when what this reader gives for the same source and settings changes: shards are then written anew."""


class Options(Config):
    """The reader has no settings."""


@dataclass(frozen=True)
class _Recording:
    path: Path
    code: str
    part: str
    """The folder: train or test."""


def pieces(recipe: Recipe, options: Options, source: Path | None) -> Listing:
    """One piece per stretch; DataError where a name, the table or a stretch is not what it must be."""
    folder = source_folder(source, recipe)
    recordings, table = _recordings(folder), _table(folder)
    splits = _dealt(recordings, recipe.seed)
    found: list[Piece] = []
    problems, wrong_stretches = Problems(), Problems()
    missing = [] if table is None else sorted(set(table) - set(recordings))
    for name, recording in recordings.items():
        stretches = WHOLE if table is None else table.get(name, [])
        if not stretches:
            missing.append(name)
            continue
        with problems.of(name):
            seconds, video = common_seconds([recording.path], fix="copy it again"), _video(folder, recording)
            files = (recording.path,) if video is None else (recording.path, video)
            for place, (begin, end) in enumerate(stretches):
                with wrong_stretches.of(name):
                    _check_stretch(begin, end, seconds, f"stretch {place} of {name}", recording.path)
                    length = min(end, seconds) - begin
                    found.append(Piece(f"{name}-{place}", splits[name], name, length, files))
    # A mistake in the table is no piece that the source lacks.
    wrong_stretches.refuse()
    return Listing(tuple(found), (*missing, *problems.missing(recipe, len(found))))


def read(piece: Piece, recipe: Recipe, options: Options, source: Path | None) -> Iterator[Clip]:
    """The clips of one stretch, each at most `recipe.clip_seconds` long."""
    folder = source_folder(source, recipe)
    name, _, number = piece.name.rpartition("-")
    recording, table = _recordings(folder).get(name), _table(folder)
    stretches = WHOLE if table is None else table.get(name, [])
    if recording is None or int(number) >= len(stretches):
        raise gone(piece.name, folder)
    begin, end = stretches[int(number)]
    take = read_take(recording.path, recipe, begin, end)
    audio, samples = take.audio, take.audio.shape[1]
    labels = CODES[recording.code]
    picture, met = _picture(folder, recording, recipe, begin, samples / recipe.sample_rate)
    players = tuple(
        Player(label, f"{place + 1}-{label}", audio if len(labels) == 1 else None, picture=picture)
        for place, label in enumerate(labels)
    )
    frame_rate = 0.0 if picture is None else recipe.picture.frame_rate
    mixture = None if len(labels) == 1 else audio
    whole = Clip(piece.name, 0, samples, recipe.sample_rate, players, frame_rate, mixture, (*take.notes, *met))
    yield from cut_piece(whole, recipe)


def _check_stretch(begin: float, end: float, seconds: float, name: str, path: Path) -> None:
    if not 0 <= begin < min(end, seconds):
        raise DataError(
            f"{name} in {TABLE} must lie in {path}, {seconds:.2f} s long",
            got=f"{begin:g} to {end:g} s",
            fix="correct the table; its times are seconds",
        )


def _recordings(folder: Path) -> dict[str, _Recording]:
    found: dict[str, _Recording] = {}
    problems = Problems()
    for part in ("train", "test"):
        for path in _wavs(folder / "wav" / part):
            with problems.of(path.name):
                match = re.fullmatch(r"([a-z]+)\d+", path.stem)
                if match is None or match[1] not in CODES:
                    raise DataError(
                        f"{path} must be called by one of {', '.join(CODES)}, and a number",
                        got=path.stem,
                        fix="rename it, or take it away",
                    )
                if path.stem in found:
                    raise DataError(
                        f"a recording must lie in one of {folder / 'wav'}/train and test",
                        got=f"{path.name} in both",
                        fix="take one away, or rename it where it is another recording",
                    )
                found[path.stem] = _Recording(path, match[1], part)
    # A name without instruments gives no label, and moves others to another split: it is never left out.
    problems.refuse()
    if not found:
        raise DataError(
            f"{folder} must hold the folders wav/train and wav/test",
            got="no file that ends in .wav there",
            fix="name the folder that holds wav/ with --source"
            + did_you_mean(folder, lambda near: any(_wavs(near / "wav" / part) for part in ("train", "test"))),
        )
    return found


def _wavs(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.suffix.lower() == ".wav"]


def _dealt(recordings: dict[str, _Recording], seed: int) -> dict[str, str]:
    """Recording to split. Each code is dealt by itself, so that every split has every instrument."""
    splits = {name: "test" for name, recording in recordings.items() if recording.part == "test"}
    for code in CODES:
        names = [name for name, found in recordings.items() if found.part == "train" and found.code == code]
        dealt = deal(sorted(names), seed)
        # There is a test split already.
        splits |= {name: "train" if split == "test" else split for name, split in dealt.items()}
    return splits


def _table(folder: Path) -> dict[str, list[Stretch]] | None:
    """The stretches of each recording; None where there is no table."""
    as_csv, as_json = folder / f"{TABLE}.csv", folder / f"{TABLE}.json"
    if as_csv.exists():
        return _parse(as_csv, _read_rows)
    if as_json.exists():
        return _parse(as_json, lambda path: json.loads(read_text(path)))
    if (folder / f"{TABLE}.npy").exists():
        raise DataError(
            f"{folder} must hold {TABLE}.csv or {TABLE}.json",
            got=f"only {TABLE}.npy, a pickle, which may hold any program and is not opened here",
            fix=f"where you trust it, run in {folder}: {CONVERT}",
        )
    return None


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of the table; a second that is not there is None."""
    columns, rows = read_records(path)
    if not {"file", "to", "tf"} <= set(columns):
        raise KeyError(f"columns {', '.join(columns)}")
    return [
        {"file": row["file"]} | {key: number(row[key]) if row[key] else None for key in ("to", "tf")} for _, row in rows
    ]


def _parse(path: Path, load: Callable[[Path], Any]) -> dict[str, list[Stretch]]:
    table: dict[str, list[Stretch]] = {}
    try:
        for row in load(path):
            begins, ends = (np.atleast_1d(np.array(row[key], float)).tolist() for key in ("to", "tf"))
            table.setdefault(Path(row["file"]).stem, []).extend(zip(begins, ends, strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} must hold file, to and tf: a name, and the first and last second of each stretch",
            got=f"{type(error).__name__}: {error}",
            fix="write it again; vimss/shards/corpora/sopjfm.py shows how",
        ) from error
    return table


def _picture(
    folder: Path, recording: _Recording, recipe: Recipe, begin: float, seconds: float
) -> tuple[UInt8[np.ndarray, "v h w 3"] | None, tuple[str, ...]]:
    """The picture of all players, and notes; None where there is no video."""
    video = _video(folder, recording)
    if video is None:
        return None, ()
    box = middle_square(video) if len(CODES[recording.code]) == 1 else columns(video, 1)[0]
    (picture,), notes = read_pictures(video, [box], recipe, seconds, begin)
    return picture, notes


def _video(folder: Path, recording: _Recording) -> Path | None:
    return file_called(folder / "video" / recording.part, recording.path.stem, [".mp4"])
