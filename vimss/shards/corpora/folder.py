"""A user's own stems: a folder per piece, a sound file per player, and a video of all of them where there is one.

    SOURCE/PIECE/vn.wav            the instrument is the first word of the name: a label or its English name,
    SOURCE/PIECE/violin-2.flac     then, of several players, whatever distinguishes them
    SOURCE/PIECE/instruments.csv   instead, for names without instruments: lines of file,instrument
    SOURCE/PIECE/mixture.wav       the recorded mix, where it is not the sum of the stems
    SOURCE/PIECE/video.mp4         the players side by side in equal columns, in the order of the stems' names (of the
                                   lines of instruments.csv, where there is one)

Pieces are dealt to the splits by the recipe's seed, unless their folders lie in folders of the splits' names:
SOURCE/train/PIECE, SOURCE/test/PIECE and so on. Each piece counts as a work of its own. Names may be in any script.
instruments.csv is read as spreadsheets save it, with a header or without; sounds that it does not name are left out.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vimss.config import Config
from vimss.errors import DataError
from vimss.media import columns, fitting_gain, quantise
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import SHARES, Listing, Piece, common_seconds, cut_piece, deal, read_pictures, read_sounds
from vimss.shards.instruments import label_of
from vimss.shards.recipe import SPLITS, Recipe
from vimss.shards.source import (
    Problems,
    did_you_mean,
    find_file,
    first_of,
    folded,
    gone,
    partials,
    plain_name,
    source_folder,
    visible,
)
from vimss.shards.table import header_of, read_table

SOUNDS = {".wav", ".flac", ".aiff", ".aif", ".mp3", ".m4a", ".ogg", ".w64"}
"""Endings of the files that are stems."""
TABLE, MIXTURE, VIDEO = "instruments.csv", "mixture", "video"
TABLES = {".csv", ".tsv", ".txt"}
"""Endings under which spreadsheets save a table as text."""
FILE, INSTRUMENT = (
    {"file", "files", "filename", "file name", "name", "path", "stem", "track", "sound"},
    {"instrument", "instruments", "label"},
)
"""Words of a header, in small letters."""
SAME_LENGTH = "export all stems of a piece from its beginning to its end, at one rate"


VERSION = 1
"""Raised when what this reader gives for the same source and settings changes: shards are then written anew."""


class Options(Config):
    """The folder reader has no settings."""


@dataclass(frozen=True)
class _Stem:
    path: Path
    instrument: str


def pieces(recipe: Recipe, options: Options, source: Path | None) -> Listing:
    """One piece per folder, probed; DataError where a stem has no instrument, or its piece another length or rate."""
    source = source_folder(source, recipe)
    found: dict[str, Piece] = {}
    problems = Problems()
    for split, folder in _dealt(recipe, source):
        name = plain_name(folder.name)
        with problems.of(name):
            paths = [stem.path for stem in _stems(folder, recipe)[0]] + _mixtures(folder)
            seconds = common_seconds(paths, SAME_LENGTH, recipe.allow_truncated)
            if name in found:
                raise DataError(
                    "every piece must have a name of its own, of letters, digits, - and _",
                    got=f"{name} twice, once from {folder}",
                    fix="rename one of the folders",
                )
            found[name] = Piece(name, split, name, seconds, (folder,))
    return Listing(tuple(found.values()), problems.missing(recipe, len(found)), notes=tuple(_left_out(source)))


def read(piece: Piece, recipe: Recipe, options: Options, source: Path | None) -> Iterator[Clip]:
    """The clips of one piece, each at most `recipe.clip_seconds` long."""
    source = source_folder(source, recipe)
    folder = next((folder for _, folder in _dealt(recipe, source) if plain_name(folder.name) == piece.name), None)
    if folder is None:
        raise gone(piece.name, source)
    (stems, left_out), mixtures = _stems(folder, recipe), _mixtures(folder)
    sounds, notes = read_sounds(
        [(path, 0) for path in [*(stem.path for stem in stems), *mixtures]], recipe, piece.seconds
    )
    # One gain for all: stems louder than full scale would be cut off, and apart they would no longer fit the mix.
    gain = fitting_gain(*sounds)
    parts = [quantise(gain * sound) for sound in sounds]
    samples = parts[0].shape[1]
    pictures, met = _pictures(folder, len(stems), samples / recipe.sample_rate, recipe)
    players = tuple(
        Player(
            instrument=stem.instrument,
            part=f"{place + 1}-{stem.instrument}",
            audio=parts[place],
            picture=pictures[place] if pictures else None,
        )
        for place, stem in enumerate(stems)
    )
    frame_rate, mix = recipe.picture.frame_rate if pictures else 0.0, parts[-1] if mixtures else None
    notes = (*left_out, *notes, *met)
    yield from cut_piece(Clip(piece.name, 0, samples, recipe.sample_rate, players, frame_rate, mix, notes), recipe)


def _dealt(recipe: Recipe, source: Path) -> list[tuple[str, Path]]:
    """Split and folder of each piece."""
    named = [(split, folder) for split in SPLITS for parent in _of_split(source, split) for folder in _folders(parent)]
    if named:
        return named
    # Composed, so that the splits are those of a copy on another system.
    folders = sorted(_folders(source), key=lambda folder: unicodedata.normalize("NFC", folder.name))
    if not any(_sounds(folder) for folder in folders):
        _refuse_other_levels(source)
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


def _refuse_other_levels(source: Path) -> None:
    """DataError where the stems lie in the source itself, or in folders of its folders."""
    loose = _sounds(source)
    near = did_you_mean(source, _holds_pieces, levels_above=1 if loose else 0)
    if loose or any(_folders(folder) for folder in _folders(source)):
        raise DataError(
            f"{source} must hold one folder per piece, with the stems in it",
            got=f"stems without a folder: {first_of([path.name for path in loose])}"
            if loose
            else "only folders in folders",
            fix=f"give the folder in which the pieces' folders lie: --source DIR{near}",
        )


def _holds_pieces(folder: Path) -> bool:
    return sum(bool(_sounds(inner)) for inner in _folders(folder)) > 1


def _of_split(source: Path, split: str) -> list[Path]:
    return [folder for folder in _folders(source) if folder.name.lower() == split]


def _left_out(source: Path) -> Iterator[str]:
    """Sentences about what lies beside the folders of pieces and is none."""
    by_split = any(_folders(parent) for split in SPLITS for parent in _of_split(source, split))
    for folder in _folders(source) if by_split else []:
        if folder.name.lower() not in SPLITS:
            yield f"{folder.name} is no folder of a split ({', '.join(SPLITS)}), and was left out"
    for path in _sounds(source):
        yield f"{path.name} lies in no folder of a piece, and was left out"


def _folders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_dir()]


def _sounds(folder: Path) -> list[Path]:
    """The sound files of a folder that are stems, links to nothing among them."""
    found = [path for path in visible(folder) if path.suffix.lower() in SOUNDS and not path.is_dir()]
    return [path for path in found if path.stem.lower() not in (MIXTURE, VIDEO)]


def _mixtures(folder: Path) -> list[Path]:
    """The recorded mix, or nothing."""
    mixture = _the_one(folder, MIXTURE, SOUNDS)
    return [] if mixture is None else [mixture]


def _the_one(folder: Path, name: str, endings: set[str] | None = None) -> Path | None:
    """The file of a folder that is called `name`, whatever its format; DataError where there are several."""
    found = [path for path in visible(folder) if path.stem.lower() == name and not path.is_dir()]
    found = [path for path in found if endings is None or path.suffix.lower() in endings]
    if len(found) > 1:
        raise DataError(
            f"{folder} must hold one file called {name}",
            got=", ".join(path.name for path in found),
            fix="take away or rename all but one",
        )
    return found[0] if found else None


def _stems(folder: Path, recipe: Recipe) -> tuple[list[_Stem], list[str]]:
    """The stems of a piece, in the order of the table or of their names, and sentences about what was left out."""
    sounds, left_out = _sounds(folder), partials(folder)
    table = _table(folder)
    if table is not None:
        stems = _listed_stems(table, sounds, recipe)
        unlisted = [path.name for path in sounds if path not in {stem.path for stem in stems}]
        return stems, [*left_out, *(f"{name} is not in {table.name}, and was left out" for name in unlisted)]
    problems, stems = Problems(), []
    for path in sounds:
        with problems.of(path.name):
            stems.append(_Stem(path, _label(path.stem, path, recipe)))
    problems.refuse()
    if not stems:
        deeper = [inner.name for inner in _folders(folder) if _sounds(inner)]
        raise DataError(
            f"{folder} must hold the stems of a piece",
            got=f"no file that ends in {', '.join(sorted(SOUNDS))}"
            + (f", only the folder {first_of(deeper)} with some" if deeper else "")
            + "".join(f"; {sentence}" for sentence in left_out),
            fix="put one sound file per player there, or take the folder away",
        )
    return stems, left_out


def _table(folder: Path) -> Path | None:
    """The table of the instruments, where there is one; DataError where it is not text."""
    found = _the_one(folder, Path(TABLE).stem)
    if found is not None and found.suffix.lower() not in TABLES:
        raise DataError(f"{found} must be a table as text", got=found.suffix, fix=f"save it as {TABLE}")
    return found


def _listed_stems(table: Path, sounds: list[Path], recipe: Recipe) -> list[_Stem]:
    """The stems that a table names, in its order."""
    rows = read_table(table)
    header = header_of(rows, INSTRUMENT) or []
    instrument = next((place for place, word in enumerate(header) if word in INSTRUMENT), None)
    others = [place for place in range(len(header)) if place != instrument] or [0]
    file = next((place for place in others if header and header[place] in FILE), others[0])
    problems, stems = Problems(), {}
    for row in rows[1:] if header else rows:
        where = f"line {row.line} of {table}"
        with problems.of(where):
            words = dict(enumerate(row.words))
            text, given = words.pop(file, ""), words.pop(instrument, "") if instrument is not None else ""
            path = _listed_file(text, table.parent, sounds, where)
            if path in stems:
                raise DataError(f"{where} must name a file of its own", got=f"{text} twice", fix="take one line away")
            # Further columns are comments.
            labels = [label_of(word, recipe.labels) for word in ([given] if given else words.values())]
            label = next((label for label in labels if label is not None), None)
            if label is None:
                raise DataError(
                    f"{where} must be file,instrument with one of {', '.join(recipe.labels)}, or its English name",
                    got=", ".join(row.words),
                    fix="correct the line, or change `labels` of the recipe",
                )
            stems[path] = _Stem(path, label)
    problems.refuse()
    if not stems:
        raise DataError(
            f"{table} must name the stems", got="no line", fix="write lines of file,instrument, or delete it"
        )
    return list(stems.values())


def _listed_file(text: str, folder: Path, sounds: list[Path], where: str) -> Path:
    """The file that a line names: by its name or without the ending, whatever wrote its accents and capitals."""
    found = find_file(folder, text)
    if found is not None:
        return found
    fitting = [path for path in sounds if folded(path.stem) == folded(text)]
    if len(fitting) != 1:
        raise DataError(
            f"{where} must name a file of {folder}",
            got=f"{text!r}" + (f", which may be {first_of([path.name for path in fitting])}" if fitting else ""),
            fix=f"correct the line; there are: {first_of([path.name for path in sounds]) or 'no sounds'}",
        )
    return fitting[0]


def _label(text: str, path: Path, recipe: Recipe) -> str:
    """The label that a name starts with; DataError where it starts with none."""
    label = label_of(text, recipe.labels)
    if label is None:
        raise DataError(
            f"{path} must begin with an instrument: one of {', '.join(recipe.labels)}, or its English name",
            got=repr(text),
            fix=f"rename it, or write a {TABLE} with lines of file,instrument, or change `labels` of the recipe",
        )
    return label


def _pictures(
    folder: Path, players: int, seconds: float, recipe: Recipe
) -> tuple[list[UInt8[np.ndarray, "v h w 3"]], tuple[str, ...]]:
    """The column of each player, over the whole piece, and what was met; nothing where there is no video."""
    video = _the_one(folder, VIDEO)
    return ([], ()) if video is None else read_pictures(video, columns(video, players), recipe, seconds)
