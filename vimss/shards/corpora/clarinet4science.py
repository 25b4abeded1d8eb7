"""Clarinetists 4 Science: videos of clarinettists, each alone, and the seconds at which notes begin.

The layout of the corpus on disk is not published, so a table gives it:

    SOURCE/clips.csv              video,player,piece,onsets
                                  videos/p1_mozart.mp4,p1,Mozart,onsets/p1_mozart.csv
                                  videos/p2_mozart.mp4,p2,Mozart,
    SOURCE/videos/p1_mozart.mp4   at the path in the table, below SOURCE
    SOURCE/onsets/p1_mozart.csv   a line per note, which starts with its second; the rest of the line is ignored

The column `onsets` may be empty or absent. Each video is a piece of one player with a stem and, where there is one, a
picture; the player's name is the timbre by which reports group. Splits are dealt by what is played: nobody plays in
training what another plays in the test.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from vimss.config import Config
from vimss.errors import DataError
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import Listing, Piece, common_seconds, cut_piece, deal, read_take
from vimss.shards.recipe import Recipe
from vimss.shards.source import Problems, did_you_mean, find_file, gone, plain_name, source_folder
from vimss.shards.table import number, read_records, read_table, read_text

TABLE = "clips.csv"
COLUMNS = ("video", "player", "piece")
LABEL = "cl"
FRACTION = re.compile(r"\d+(?![\w.,])")
"""How a word starts that may be what follows a decimal comma."""


VERSION = 1
"""Raised when what this reader gives for the same source and settings changes: shards are then written anew."""


class Options(Config):
    """The reader has no settings."""


@dataclass(frozen=True)
class _Line:
    video: Path
    player: str
    composition: str
    onsets: Path | None


def pieces(recipe: Recipe, options: Options, source: Path | None) -> Listing:
    """One piece per line of the table; DataError where a line is wrong, or a file that it names is not there."""
    lines = _lines(source_folder(source, recipe))
    splits = deal(sorted({line.composition for line in lines.values()}), recipe.seed)
    found: list[Piece] = []
    problems = Problems()
    for name, line in lines.items():
        with problems.of(name):
            if line.onsets is not None:
                _onsets(line.onsets)
            seconds = common_seconds([line.video], fix="copy it again, with sound")
            files = (line.video,) if line.onsets is None else (line.video, line.onsets)
            found.append(Piece(name, splits[line.composition], line.composition, seconds, files))
    return Listing(tuple(found), problems.missing(recipe, len(found)))


def read(piece: Piece, recipe: Recipe, options: Options, source: Path | None) -> Iterator[Clip]:
    """The clips of one video, each at most `recipe.clip_seconds` long."""
    folder = source_folder(source, recipe)
    line = _lines(folder).get(piece.name)
    if line is None:
        raise gone(piece.name, folder)
    take = read_take(line.video, recipe)
    audio, picture = take.audio, take.picture
    player = Player(
        LABEL,
        f"1-{LABEL}",
        audio,
        picture=picture,
        annotations={} if line.onsets is None else {"onsets": _onsets(line.onsets)},
        timbre=line.player,
    )
    frame_rate = 0.0 if picture is None else recipe.picture.frame_rate
    samples, rate = audio.shape[1], recipe.sample_rate
    yield from cut_piece(Clip(piece.name, 0, samples, rate, (player,), frame_rate, notes=take.notes), recipe)


def _lines(folder: Path) -> dict[str, _Line]:
    """The lines of the table by the names of their pieces, which are the paths of the videos."""
    table = folder / TABLE
    if not table.is_file():
        raise DataError(
            f"{folder} must hold {TABLE} with the columns {','.join(COLUMNS)} and, where you have them, onsets",
            got="no such file",
            fix="write a line for each video, or correct --source"
            + did_you_mean(folder, lambda near: (near / TABLE).is_file()),
        )
    lines: dict[str, _Line] = {}
    problems = Problems()
    columns, rows = read_records(table)
    if not set(COLUMNS) <= set(columns):
        raise DataError(
            f"{table}, line 1: {', '.join(COLUMNS)} must be there",
            got=", ".join(columns) or "an empty file",
            fix=f"begin the table with {','.join(COLUMNS)},onsets",
        )
    for line, words in rows:
        with problems.of(f"line {line}"):
            _add_line(lines, folder, words, f"{table}, line {line}")
    # A line that cannot be read gives no composition, and moves others to another split: none is left out.
    problems.refuse()
    return lines


def _add_line(lines: dict[str, _Line], folder: Path, words: dict[str, str], where: str) -> None:
    if not all(words.get(column) for column in COLUMNS):
        raise DataError(
            f"{where}: {', '.join(COLUMNS)} must be there",
            got=", ".join(f"{key}={value}" for key, value in words.items()),
            fix=f"begin the table with {','.join(COLUMNS)},onsets and fill these columns",
        )
    name = plain_name(Path(words["video"]).with_suffix("").as_posix())
    if name in lines:
        raise DataError(
            f"{where}: each video must stand in one line, and be called other than all others",
            got=f"{name} twice",
            fix="take the line away, or rename the video; only letters, digits, - and _ count",
        )
    onsets = _path(folder, words["onsets"], where) if words.get("onsets") else None
    composition = plain_name(words["piece"]).lower()
    lines[name] = _Line(_path(folder, words["video"], where), words["player"], composition, onsets)


def _path(folder: Path, text: str, where: str) -> Path:
    path = find_file(folder, text)
    if path is None:
        raise DataError(
            f"{where}: paths must be those of files below {folder}, relative to it",
            got=text,
            fix="correct the path, complete the download, or take the line away",
        )
    return path


def _onsets(path: Path) -> Float64[np.ndarray, "k 1"]:
    """Seconds at which notes begin, in order."""
    rows = read_table(path)
    if len(rows) > 1 and not any(letter.isdecimal() for letter in rows[0].words[0]):
        rows = rows[1:]  # a header
    # A row of one word is a whole second with a decimal comma, too.
    several = [row.words for row in rows if len(row.words) > 1]
    if several and all(FRACTION.match(words[1]) and words[0].isdecimal() for words in several) and _has_commas(path):
        raise DataError(
            f"the seconds in {path} must have decimal points, or semicolons after them",
            got=f"{','.join(several[0])}, which may be a decimal comma",
            fix="write 1.0 for a whole second",
        )
    try:
        seconds = np.array([number(row.words[0]) for row in rows], np.float64)
    except ValueError as error:
        raise DataError(
            f"every line of {path} must begin with seconds", got=str(error), fix="correct the line"
        ) from error
    if not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise DataError(f"the seconds in {path} must be 0 or more", got=str(seconds.min()), fix="correct them")
    return np.sort(seconds)[:, None]


def _has_commas(path: Path) -> bool:
    """Whether there is a comma in a file; where there is none, semicolons or tabs part its columns."""
    return "," in read_text(path)
