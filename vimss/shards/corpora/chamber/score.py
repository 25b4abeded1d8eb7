"""Score files of the installed music21 package as plain lists of notes, one voice per part.

    score = read_score("bach/bwv66.6.mxl")
    score.parts[0][0]  # Note(start=0.0, length=0.5, pitch=73): quarter notes and MIDI pitch

music21 itself is not imported: that alone takes about a second, and its parser 0.3 s for a chorale and 1.5 s for a
quartet movement. The few elements that are needed (pitch, start, length, ties, barlines) are read from compressed
MusicXML (MusicXML 4.0, W3C Community Group) in 5 to 90 ms. Repeats are played once, grace notes are dropped, and of a
double stop only the first written note is kept, so that every part is one melody.
"""

import io
import xml.etree.ElementTree as ElementTree
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from vimss.errors import DataError

MAX_XML_BYTES = 40_000_000
"""The largest score of the package unpacks to 7 MB; an archive of far more is damaged or hostile."""

_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


class Note(NamedTuple):
    """One note: start and length in quarter notes from the beginning of the score, MIDI pitch."""

    start: float
    length: float
    pitch: int


@dataclass(frozen=True)
class Score:
    """The parts of a score from top to bottom, and the starts of its bars, in quarter notes."""

    parts: tuple[tuple[Note, ...], ...]
    bars: tuple[float, ...]

    @property
    def quarters(self) -> float:
        """Length of the score."""
        return max((part[-1].start + part[-1].length for part in self.parts), default=0.0)


def corpus_folder() -> Path:
    """The folder of music21's scores, found without importing it."""
    spec = find_spec("music21")
    folder = Path(spec.origin).parent / "corpus" if spec and spec.origin else Path("music21/corpus")
    if not (folder / "bach").is_dir():
        raise DataError(
            "the scores of the chamber corpus must be installed with the package music21",
            got="no folder music21/corpus/bach",
            fix="pip install --force-reinstall music21",
        )
    return folder


@lru_cache(maxsize=8)  # the five long scores of test_unseen_style come in turn
def read_score(name: str) -> Score:
    """The score `name`, a path below music21's corpus folder; DataError if it cannot be read."""
    path = corpus_folder() / name
    try:
        root = ElementTree.fromstring(_unpack(path))  # noqa: S314 - installed file, size capped, expat limits entities
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise DataError(
            f"{path} must be a compressed MusicXML score",
            got=f"{type(error).__name__}: {error}",
            fix="pip install --force-reinstall music21",
        ) from error
    parts = [_read_part(part) for part in root.iter("part")]
    sounding = tuple(notes for notes, _ in parts if notes)
    if not sounding:
        raise DataError(
            f"{path} must hold notes", got="a score without any", fix="pip install --force-reinstall music21"
        )
    return Score(sounding, tuple(parts[0][1]))


def _unpack(path: Path) -> bytes:
    """The MusicXML text in an .mxl archive."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        entry = next(
            i for i in archive.infolist() if i.filename.endswith("xml") and not i.filename.startswith("META-INF")
        )
        if entry.file_size > MAX_XML_BYTES:
            raise ValueError(f"{entry.file_size} bytes unpacked, at most {MAX_XML_BYTES} are read")
        return archive.read(entry)


def _read_part(part: ElementTree.Element) -> tuple[tuple[Note, ...], list[float]]:
    """Notes of the part's first voice, and the starts of its bars."""
    notes: list[Note] = []
    bars: list[float] = []
    divisions, bar = 1.0, 0.0
    for measure in part:
        bars.append(bar)
        now = end = bar
        for element in measure:
            if element.tag == "attributes":
                divisions = float(element.findtext("divisions") or divisions)
            elif element.tag in ("backup", "forward"):
                step = float(element.findtext("duration") or 0) / divisions
                now += step if element.tag == "forward" else -step
            elif element.tag == "note" and element.find("chord") is None and element.find("grace") is None:
                start, length = now, float(element.findtext("duration") or 0) / divisions
                now += length
                pitch = element.find("pitch")
                last = notes[-1] if notes else None
                # A rest, a second voice of the staff, or a note while another one sounds.
                if pitch is None or length <= 0 or element.findtext("voice", "1") not in ("1", "5"):
                    continue
                free = last.start + last.length if last else 0.0
                if free > start + 1e-6:
                    continue
                midi = 12 * (int(pitch.findtext("octave") or 4) + 1) + _STEPS[pitch.findtext("step") or "C"]
                midi += round(float(pitch.findtext("alter") or 0))
                tied = any(tie.get("type") == "stop" for tie in element.iter("tie"))
                if last and tied and last.pitch == midi and abs(free - start) < 1e-6:
                    notes[-1] = Note(last.start, last.length + length, midi)
                else:
                    notes.append(Note(start, length, midi))
            end = max(end, now)
        bar = end
    return tuple(notes), bars
