"""Canonical instrument codes: the 13 of the URMP dataset (Li et al., 2018), with their names, and labels in file names.

label_of("Violin 2 close", ("vn", "vc"))  # "vn", for files
label_named("Violin 2", ("vn", "vc"))  # "vn"; None for anything more
"""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

INSTRUMENTS = {
    "bn": "bassoon",
    "cl": "clarinet",
    "db": "double bass",
    "fl": "flute",
    "hn": "horn",
    "ob": "oboe",
    "sax": "saxophone",
    "tba": "tuba",
    "tbn": "trombone",
    "tpt": "trumpet",
    "va": "viola",
    "vc": "cello",
    "vn": "violin",
}
"""Code to English name, in the order of the 13 output channels."""

WITH_DIGITS, WITHOUT_DIGITS = r"[\W_]+", r"[\W_\d]+"
"""Separators of the words of a name: a number is part of a label ("guitar 1") or numbers the players ("vn2")."""


def label_of(text: str, labels: Sequence[str]) -> str | None:
    """The label that a name starts with, as a code or in English: "vn-2", "violin 2", "double_bass", "DoubleBass".

    None where it starts with none of the labels, or with what stands for several of them.
    """
    for parting in (WITH_DIGITS, WITHOUT_DIGITS):
        words = _words(text, parting)
        names = [(name, label) for label in labels for name in _names(label, parting)]
        count = Counter(name for name, _ in names)
        fitting = {name: label for name, label in names if words == name or words.startswith(f"{name} ")}
        if fitting:
            longest = max(fitting, key=len)
            return fitting[longest] if count[longest] == 1 else None
    return None


def label_named(text: str, labels: Sequence[str]) -> str | None:
    """The label that the whole of a text names, as `label_of` has names, with at most a number behind: "vn2".

    A number before a name is none of it, for "2 violins" are two. None where the text names none, or several.
    """
    if text in labels:
        return text
    text = unicodedata.normalize("NFC", text)
    numbered = re.fullmatch(r"(.*[^\W\d_])[\s_-]*\d+", text.strip())
    for name in (text, numbered[1]) if numbered else (text,):
        fitting = {label for label in labels if _words(name, WITH_DIGITS) in _names(label, WITH_DIGITS)}
        if fitting:
            return fitting.pop() if len(fitting) == 1 else None
    return None


def nearest_label(text: str, labels: Sequence[str]) -> str | None:
    """The label with the name that is most like a text; None where none is."""
    names = {name: label for label in labels for name in _names(label, WITH_DIGITS)}
    near = difflib.get_close_matches(_words(text, WITH_DIGITS), names, n=1)
    return names[near[0]] if near else None


def _names(label: str, parting: str) -> Iterator[str]:
    """All names of a label, each once."""
    called = [_words(label, parting)]
    if label in INSTRUMENTS:
        called.append(INSTRUMENTS[label])
    yield from {name: None for one in called for name in (one, one.replace(" ", "")) if name}


def _words(text: str, parting: str) -> str:
    # Composed first: in the file names of a Mac, accents are characters of their own, which would part words.
    return re.sub(parting, " ", unicodedata.normalize("NFC", text)).strip().casefold()
