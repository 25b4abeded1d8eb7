"""Tables and lists that people write by hand or save from a spreadsheet, as rows of words.

    for row in read_table(Path("instruments.csv")):
        print(row.line, row.words)                  # 2 ['Track 07.wav', 'flute']

A table may come as UTF-8, UTF-16 or in a Western European code page, with a byte order mark or without, with commas,
semicolons or tabs between its columns, with quotes, empty rows and empty columns at the end, and any line ends.
"""

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vimss.errors import DataError
from vimss.shards.source import unreadable

SEPARATORS = ("\t", ";", ",")
"""Which of them parts columns is the first that stands in every row: names of files hold commas."""

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class Row:
    """A row that is not empty."""

    line: int
    """Number of its line in the file, from 1; of the last one, where words in quotes have several."""
    words: list[str]
    """Without the spaces around them, and without empty ones at the end."""


def read_table(path: Path) -> list[Row]:
    """The rows of a table that are not empty; DataError where it cannot be read as text."""
    text = read_text(path)
    lines = text.splitlines()
    # Excel names its separator so, where it is not that of the country.
    named = re.fullmatch(r"sep=(.)", lines[0].strip("\"' ")) if lines else None
    try:
        rows = _rows(text, named[1] if named else _separator(text))
    except csv.Error as error:
        raise DataError(f"{path} must be a table of words", got=str(error), fix="save it as CSV again") from error
    return rows[1:] if named else rows


def read_records(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a table's header, in small letters, and its rows: number of the line, and column to word.

    A column that a row lacks is empty; what stands beyond the last column is left out.
    """
    header, *rows = read_table(path) or [Row(1, [])]
    columns = [word.lower() for word in header.words]
    return columns, [(row.line, dict(zip(columns, row.words + [""] * len(columns), strict=False))) for row in rows]


def number(word: str) -> float:
    """A number with a decimal point or, as tables with semicolons have it, a comma; ValueError for other words."""
    return float(word.replace(",", "."))


def header_of(rows: Sequence[Row], *columns: Collection[str]) -> list[str] | None:
    """The first row in small letters where it has a name for each of the columns; None where it is data."""
    words = [word.lower() for word in rows[0].words] if rows else []
    return words if words and all(set(words) & set(names) for names in columns) else None


def read_text(path: Path) -> str:
    """The text of a file that a person or a spreadsheet wrote, in one form of Unicode; DataError where it is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(error, path) from error
    try:
        text = content.decode(_encoding(content))
    except UnicodeDecodeError:
        # Old spreadsheets write in the code page of their country; its letters matter in names of files alone.
        text = content.decode("cp1252", errors="replace")
    if "\0" in text:
        raise _binary(path)
    return unicodedata.normalize("NFC", text).removeprefix("\ufeff")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a list of any length that is in English; DataError where it is no text.

    Other letters are those of UTF-8 and UTF-16 alone.
    """
    try:
        with path.open("rb") as file:
            encoding = _encoding(file.read(4))
        with path.open(encoding=encoding, errors="replace") as file:
            for line in file:
                if "\0" in line:
                    raise _binary(path)
                yield line
    except OSError as error:
        raise unreadable(error, path) from error


def _binary(path: Path) -> DataError:
    return DataError(
        f"{path} must be a table as text",
        got="binary data",
        fix="save it as CSV, with UTF-8 where there is a choice",
    )


def _encoding(content: bytes) -> str:
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return encoding
    # UTF-16 without its mark: every other byte of Latin letters is zero.
    if content[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if content[:1] == b"\0" else "utf-8"


def _separator(text: str) -> str:
    for separator in SEPARATORS:
        rows = _rows(text, separator)
        if rows and all(len(row.words) > 1 for row in rows):
            return separator
    # A row with too few columns is for the reader of the table to name.
    return max(reversed(SEPARATORS), key=text.count)


def _rows(text: str, separator: str) -> list[Row]:
    # By lines with their ends, so that a name in quotes may hold one.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    rows: list[Row] = []
    for words in reader:
        words = [word.strip() for word in words]
        while words and not words[-1]:
            words.pop()
        if words:
            rows.append(Row(reader.line_num, words))
    return rows
