"""A folder as people have it: without the system's own files, with every bad piece named, under names that stay apart.

folder = source_folder(source, recipe)
problems = Problems()
for path in visible(folder):
    with problems.of(path.name):
        look_at(path)
missing = problems.missing(recipe, len(found))
"""

import hashlib
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from vimss.errors import ConfigError, DataError, MediaError, VimssError
from vimss.shards.recipe import Recipe

MADE_ANEW = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "icon\uf00d", "__macosx", "@eadir"),
    *(".ds_store", ".directory", ".localized", ".appledouble", ".fseventsd", ".thumbnails"),
}
"""Small-letter names of what file managers and storage servers write into a folder that they show, and write again
where it is gone. SMB shows the carriage return of a Mac as U+F00D."""
SYSTEM_FILES = {*MADE_ANEW, "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"}
"""Small-letter names of all that operating systems leave in folders; hidden files are left out too."""

PARTIAL = {".part", ".partial", ".crdownload", ".ytdl", ".download", ".filepart", ".opdownload", ".!ut", ".!qb"}
"""Endings of downloads that are not finished."""

NEAR_FOLDERS = 200
"""So many folders below a wrong one are looked into for the right one."""


def is_partial(path: Path) -> bool:
    """Whether a name is that of a download that is not finished."""
    return path.suffix.lower() in PARTIAL


def is_made_anew(name: str) -> bool:
    """Whether a file or folder may be lost, because the system that wrote it does so again."""
    return name.lower() in MADE_ANEW or name.startswith("._")


def is_junk(name: str) -> bool:
    """Whether a file or folder belongs to the system, an editor or a download that is not finished."""
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in SYSTEM_FILES or is_partial(Path(name))


def visible(folder: Path) -> list[Path]:
    """The content of a folder by name, without files of the operating system; nothing where there is no such folder."""
    try:
        return sorted(path for path in folder.iterdir() if not is_junk(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(error, folder) from error


def partials(folder: Path) -> list[str]:
    """Sentences about the downloads in a folder that are not finished."""
    names = sorted(path.name for path in folder.iterdir() if is_partial(path) and not path.name.startswith("."))
    return [f"{name} is a download that is not finished, and was left out" for name in names]


def file_called(folder: Path, stem: str, endings: Sequence[str]) -> Path | None:
    """The file of this name with the first of the endings that is there, in small letters or in capitals."""
    paths = (folder / f"{stem}{kind}" for ending in endings for kind in (ending, ending.upper()))
    return next((path for path in paths if path.is_file()), None)


def find_file(folder: Path, text: str) -> Path | None:
    """The file below a folder at a path written by hand: accents, capitals and slashes may differ."""
    found = folder
    for part in PurePosixPath(text.replace("\\", "/")).parts:
        if part in ("/", ".."):
            return None
        fitting = [found / part] if (found / part).exists() else []
        fitting = fitting or [path for path in visible(found) if folded(path.name) == folded(part)]
        if len(fitting) != 1:
            return None
        found = fitting[0]
    return found if found.is_file() else None


def folded(name: str) -> str:
    """A name in one form of Unicode and in small letters: equal ones may be one on another disk."""
    return unicodedata.normalize("NFC", name).casefold()


def source_folder(source: str | Path | None, recipe: Recipe) -> Path:
    """The folder of a corpus that lies on disk; ConfigError where there is none, or nothing in it can be read."""
    folder = None if source is None else Path(source)
    try:
        got = _not_a_folder(folder)
    except OSError as error:
        raise unreadable(error, folder or Path()) from error
    if got or folder is None:
        raise ConfigError(
            f"the corpus '{recipe.corpus}' needs the folder that it lies in",
            got=got,
            fix=f"give it: --source DIR. To obtain the data: {recipe.obtain}",
        )
    return folder


def _not_a_folder(folder: Path | None) -> str:
    """What is in place of a readable folder, in words; empty where it is one."""
    if folder is None:
        return "no --source"
    if folder.is_dir():
        next(folder.iterdir(), None)  # fails at once where it may not be read
        return ""
    if folder.is_symlink() and not folder.exists():
        return f"a link to nothing, {folder}"
    return f"the file {folder}" if folder.exists() else f"no folder {folder}"


def did_you_mean(folder: Path, holds: Callable[[Path], bool], levels_above: int = 2) -> str:
    """The end of a sentence that names the folder below or above for which `holds` is true; nothing where none is."""
    below: list[Path] = []
    level = [folder]
    for _ in range(3):
        level = [path for inner in level for path in _folders(inner)][:NEAR_FOLDERS]
        below += level
    above = list(folder.absolute().parents)[:levels_above]
    found = next((path for path in (*below, *above) if _safely(holds, path)), None)
    return "" if found is None else f"; did you mean --source {found}?"


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in visible(folder) if path.is_dir() and not path.is_symlink()]
    except (OSError, DataError):
        return []


def _safely(holds: Callable[[Path], bool], path: Path) -> bool:
    try:
        return holds(path)
    except (OSError, VimssError):
        return False


def unreadable(error: OSError, path: Path) -> DataError:
    """The error for a file or folder of a corpus that cannot be read, or is gone."""
    met = error.filename if isinstance(error.filename, str) else path
    gone = isinstance(error, FileNotFoundError)
    return DataError(
        f"{met} must be there and readable",
        got=error.strerror or type(error).__name__,
        fix="put it back, and run the same command again"
        if gone
        else "correct its permissions, or copy the corpus again",
    )


def gone(name: str, folder: Path) -> DataError:
    """The error for a piece that was listed but is not found when it is read."""
    return DataError(
        f"{folder} must keep its pieces while shards are written from it",
        got=f"no {name} any more",
        fix="put it back, and run the same command again",
    )


def plain_name(text: str) -> str:
    """A name of letters, digits, `-` and `_`, as pieces have: it becomes part of names in tar files.

    Spaces and the like become `-`. Where letters of other scripts were lost, or all that was there, the first digits of
    the name's SHA-256 keep it apart from others: "Für Elise" is F-r-Elise-5ef0dad4. Both ways to write an
    accent are one.
    """
    text = unicodedata.normalize("NFC", text)
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", text)
    if text.isascii() and (plain == text or re.search("[A-Za-z0-9]", plain)):
        return plain
    return f"{plain.strip('-')}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}".lstrip("-")


def first_of(names: Sequence[str], most: int = 10, between: str = ", ") -> str:
    """The first names, and how many more there are."""
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class SeveralError(DataError):
    """The errors of several files or pieces as one."""

    errors: tuple[VimssError, ...] = ()


class Problems:
    """Errors of single pieces, gathered so that one run names all of them."""

    def __init__(self) -> None:
        self.found: list[tuple[str, VimssError]] = []
        """Name of the piece or file, and what is wrong with it."""

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Note the error that ends the block, if it is about a corpus or its files."""
        try:
            yield
        except (DataError, MediaError) as error:
            self.found.append((name, error))
        except OSError as error:
            self.found.append((name, unreadable(error, Path(name))))

    def refuse(self) -> None:
        """Raise what was found: one error as it is, several as one."""
        if self.found:
            raise together([error for _, error in self.found])

    def missing(self, recipe: Recipe, num_whole: int) -> tuple[str, ...]:
        """Names of pieces that must be left out, with the reason; raises them where the recipe may lack none."""
        if not recipe.may_lack_pieces and self.found:
            raise together([error for _, error in self.found], _leave_out(num_whole, len(self.found)))
        return tuple(f"{name}: {error}" for name, error in self.found)


def together(errors: Sequence[VimssError], otherwise: str = "") -> VimssError:
    """A single error unchanged; several as one that names at most ten, with another fix than repairing them."""
    # An error from another process has lost the errors that it was made of, and counts as one.
    errors = [one for error in errors for one in (getattr(error, "errors", ()) or (error,))]
    if len(errors) == 1:
        return errors[0]
    messages = [f"({number}) {error.rule}; got {error.got}" for number, error in enumerate(errors, 1)]
    fixes = list(dict.fromkeys(error.fix for error in errors))
    several = SeveralError(
        "every piece of a corpus must be whole and as its reader expects",
        got=f"{len(errors)} errors: {first_of(messages, between='. ')}",
        fix=first_of(fixes, 3, "; or ") + otherwise,
    )
    several.errors = tuple(errors)
    return several


def _leave_out(num_whole: int, num_bad: int) -> str:
    if not num_whole:
        return ""
    share = math.ceil(100 * num_bad / (num_whole + num_bad)) / 100
    return (
        "; or leave these pieces out and list them as missing: "
        f"--set 'expect={{pieces: {num_whole + num_bad}, most_missing: {share:g}}}'"
    )
