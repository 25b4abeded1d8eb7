"""Clarinetists 4 Science: videos of clarinettists, each alone, and the seconds at which notes begin.

How the corpus lies on disk is not published, so a table says it:

    SOURCE/clips.csv              video,player,piece,onsets
                                  videos/p1_mozart.mp4,p1,Mozart,onsets/p1_mozart.csv
                                  videos/p2_mozart.mp4,p2,Mozart,
    SOURCE/videos/p1_mozart.mp4   wherever the table says, below SOURCE
    SOURCE/onsets/p1_mozart.csv   a line per note, which begins with its second; the rest of the line is ignored

The column `onsets` may be empty or absent. Each video is a piece of one player with a stem and, where there is one, a
picture; the player's name is the timbre by which reports group. Splits are dealt by what is played: nobody plays in
training what another plays in the test.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from vimss.config import Config
from vimss.errors import DataError
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import Listing, Piece, common_seconds, cut_piece, deal, plain_name, read_take, source_folder
from vimss.shards.recipe import Recipe

TABLE = "clips.csv"
COLUMNS = ("video", "player", "piece")
LABEL = "cl"


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
    for name, line in lines.items():
        if line.onsets is not None:
            _onsets(line.onsets)
        seconds = common_seconds([line.video], fix="copy it again, with sound")
        found.append(Piece(name, splits[line.composition], line.composition, seconds))
    return Listing(tuple(found))


def read(piece: Piece, recipe: Recipe, options: Options, source: Path | None) -> Iterator[Clip]:
    """The clips of one video, each at most `recipe.clip_seconds` long."""
    line = _lines(source_folder(source, recipe))[piece.name]
    audio, picture = read_take(line.video, recipe)
    player = Player(
        LABEL,
        f"1-{LABEL}",
        audio,
        picture=picture,
        annotations={} if line.onsets is None else {"onsets": _onsets(line.onsets)},
        timbre=line.player,
    )
    frame_rate = 0.0 if picture is None else recipe.picture.frame_rate
    yield from cut_piece(Clip(piece.name, 0, audio.shape[1], recipe.sample_rate, (player,), frame_rate), recipe)


def _lines(folder: Path) -> dict[str, _Line]:
    """The lines of the table by the names of their pieces, which are the paths of the videos."""
    table = folder / TABLE
    if not table.is_file():
        raise DataError(
            f"{folder} must hold {TABLE} with the columns {','.join(COLUMNS)} and, where you have them, onsets",
            got="no such file",
            fix="write a line for each video, or correct --source",
        )
    rows = csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines())
    lines: dict[str, _Line] = {}
    for row in rows:
        # More fields than columns stand under None; fewer are None.
        words = {key: (value or "").strip() for key, value in row.items() if key is not None}
        where = f"{table}, line {rows.line_num}"
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
    return lines


def _path(folder: Path, text: str, where: str) -> Path:
    path = folder / text
    if Path(text).is_absolute() or ".." in Path(text).parts or not path.is_file():
        raise DataError(
            f"{where}: paths must be those of files below {folder}, as seen from there",
            got=text,
            fix="correct the path, complete the download, or take the line away",
        )
    return path


def _onsets(path: Path) -> Float64[np.ndarray, "k 1"]:
    """Seconds at which notes begin, in order."""
    rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
    try:
        seconds = np.array([float(row[0]) for row in rows], np.float64)
    except ValueError as error:
        raise DataError(
            f"every line of {path} must begin with seconds", got=str(error), fix="take headers away"
        ) from error
    if not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise DataError(f"the seconds in {path} must be 0 or more", got=str(seconds.min()), fix="correct them")
    return np.sort(seconds)[:, None]
