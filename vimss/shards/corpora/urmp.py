"""URMP: 44 duets to quintets, each player recorded alone, one video of all, notes and pitch written down.

    SOURCE/01_Jupiter_vn_vc/                  number, composition, then the instruments in the order of the parts
        AuSep_1_vn_01_Jupiter.wav             the stem of part 1, 48 kHz, 24 bits
        AuSep_2_vc_01_Jupiter.wav
        AuMix_01_Jupiter_vn_vc.wav            the mix, where it is there
        Vid_01_Jupiter_vn_vc.mp4              the players from left to right in the order of the parts
        Notes_1_vn_01_Jupiter.txt             lines of onset_s pitch_hz duration_s
        F0s_1_vn_01_Jupiter.txt               lines of time_s f0_hz, 0 Hz where nothing sounds
        boxes.csv                             yours, where equal columns do not fit: lines of
                                              part,left,top,right,bottom in pixels of the video
    SOURCE/44_K515_vn_vn_va_va_vc/ ...        SOURCE/Dataset/01_Jupiter_vn_vc works too; other folders are ignored

A part's instrument is that in the folder's name: the files of part 3 of 15_Surprise_tpt_tpt_tbn have tpt. Two violins
are two players. Arrangements of one composition share takes (the viola of 24 and 25 is one file), so compositions are
in one split as a whole. Players are recorded one by one and put side by side: what one does is never in another's
picture.
"""

import fnmatch
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from pydantic import Field, model_validator

from vimss.config import Config
from vimss.errors import DataError
from vimss.media import Box, columns, fitting_gain, quantise
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import Listing, Piece, common_seconds, cut_piece, read_pictures, read_sounds
from vimss.shards.recipe import Recipe
from vimss.shards.source import Problems, did_you_mean, source_folder, visible
from vimss.shards.table import read_table

_FOLDERS = """
01_Jupiter_vn_vc 02_Sonata_vn_vn 03_Dance_fl_cl 04_Allegro_fl_fl 05_Entertainer_tpt_tpt 06_Entertainer_sax_sax
07_GString_tpt_tbn 08_Spring_fl_vn 09_Jesus_tpt_vn 10_March_tpt_sax 11_Maria_ob_vc 12_Spring_vn_vn_vc 13_Hark_vn_vn_va
14_Waltz_fl_fl_cl 15_Surprise_tpt_tpt_tbn 16_Surprise_tpt_tpt_sax 17_Nocturne_vn_fl_cl 18_Nocturne_vn_fl_tpt
19_Pavane_cl_vn_vc 20_Pavane_tpt_vn_vc 21_Rejouissance_cl_tbn_tba 22_Rejouissance_sax_tbn_tba
23_Rejouissance_cl_sax_tba 24_Pirates_vn_vn_va_vc 25_Pirates_vn_vn_va_sax 26_King_vn_vn_va_vc 27_King_vn_vn_va_sax
28_Fugue_fl_ob_cl_bn 29_Fugue_fl_fl_ob_cl 30_Fugue_fl_fl_ob_sax 31_Slavonic_tpt_tpt_hn_tbn 32_Fugue_vn_vn_va_vc
33_Elise_tpt_tpt_hn_tbn 34_Fugue_tpt_tpt_hn_tbn 35_Rondeau_vn_vn_va_db 36_Rondeau_vn_vn_va_vc 37_Rondeau_fl_vn_va_cl
38_Jerusalem_vn_vn_va_vc_db 39_Jerusalem_vn_vn_va_sax_db 40_Miserere_fl_fl_ob_cl_bn 41_Miserere_fl_fl_ob_sax_bn
42_Arioso_tpt_tpt_hn_tbn_tba 43_Chorale_tpt_tpt_hn_tbn_tba 44_K515_vn_vn_va_va_vc
"""
NAMES = tuple(_FOLDERS.split())
"""The folders of the pieces."""
BOXES = "boxes.csv"
NAME_IT = "name the folder that holds them: --source DIR"
ANNOTATIONS = {"notes": ("Notes", ("onset_s", "pitch_hz", "duration_s")), "f0": ("F0s", ("time_s", "f0_hz"))}
"""Name of the annotation: the word that its files begin with, and its columns."""
SUM_TOLERANCE = 1e-6
"""Power of mix minus sum of the stems, per power of the mix, up to which they are the same: -60 dB."""


def _composition(name: str) -> str:
    return name.split("_")[1].lower()


def _instruments(name: str) -> list[str]:
    return name.split("_")[2:]


VERSION = 1
"""Raised when what this reader gives for the same source and settings changes: shards are then written anew."""


class Options(Config):
    """Compositions of the splits; all others are for training.

    The defaults were chosen so that training (24 pieces) and test (10) have all 13 instruments and duets to quintets.
    Double bass and bassoon are in two compositions each, so valid and promote (5 each) lack them; promote also lacks
    oboe and tuba. The five fugues may be several works, but the name does not distinguish them.
    """

    valid: tuple[str, ...] = Field(("dance", "maria", "king", "chorale"), description="compositions in valid")
    promote: tuple[str, ...] = Field(("march", "waltz", "pirates", "elise"), description="compositions in promote")
    test: tuple[str, ...] = Field(
        ("jupiter", "jesus", "nocturne", "slavonic", "jerusalem", "miserere", "arioso"),
        description="compositions in test",
    )

    @model_validator(mode="after")
    def _compositions_are_known_and_unique(self) -> "Options":
        known = {_composition(name) for name in NAMES}
        named = (*self.valid, *self.promote, *self.test)
        for composition in named:
            if composition not in known:
                raise ValueError(f"{composition} is none of the compositions {', '.join(sorted(known))}")
            if named.count(composition) > 1:
                raise ValueError(f"{composition} must stand in one split")
        return self

    def split(self, composition: str) -> str:
        """The split of a composition."""
        named = {"valid": self.valid, "promote": self.promote, "test": self.test}
        return next((split for split, compositions in named.items() if composition in compositions), "train")


def pieces(recipe: Recipe, options: Options, source: Path | None) -> Listing:
    """The pieces whose folders are there; DataError where a folder lacks a stem, or its files differ in length."""
    dataset = _dataset(source, recipe)
    there = [name for name in NAMES if (dataset / name).is_dir()]
    near = did_you_mean(dataset, lambda path: any((path / name).is_dir() for name in NAMES)) if not there else ""
    if near:
        raise DataError(
            f"{dataset} must hold {len(NAMES)} pieces, in folders such as {NAMES[0]}",
            got="0 pieces",
            fix=NAME_IT + near,
        )
    found, problems = [], Problems()
    for name in there:
        with problems.of(name):
            found.append(_piece(dataset / name, recipe, options))
    absent = tuple(name for name in NAMES if name not in there)
    return Listing(tuple(found), absent + problems.missing(recipe, len(found)))


def read(piece: Piece, recipe: Recipe, options: Options, source: Path | None) -> Iterator[Clip]:
    """The clips of one piece, each at most `recipe.clip_seconds` long."""
    folder = _dataset(source, recipe) / piece.name
    stems = _stems(folder)
    paths = [*stems, *_files(folder, "AuMix_*.wav")]
    read_ones, notes = read_sounds([(path, 0) for path in paths], recipe, piece.seconds)
    sounds, mixes, samples = read_ones[: len(stems)], read_ones[len(stems) :], read_ones[0].shape[1]
    # One gain for all, the mix too where it is not stored: stems of their own gains would no longer fit it.
    gain = fitting_gain(*sounds, *mixes)
    pictures, met = _pictures(folder, len(sounds), samples / recipe.sample_rate, recipe)
    players = tuple(
        Player(
            instrument=instrument,
            part=f"{place + 1}-{instrument}",
            audio=quantise(gain * sounds[place]),
            picture=pictures[place] if pictures else None,
            annotations=_annotations(folder, place + 1),
        )
        for place, instrument in enumerate(_instruments(piece.name))
    )
    mixture = quantise(gain * mixes[0]) if mixes and not _is_sum(mixes[0], sounds) else None
    frame_rate = recipe.picture.frame_rate if pictures else 0.0
    whole = Clip(piece.name, 0, samples, recipe.sample_rate, players, frame_rate, mixture, (*notes, *met))
    yield from cut_piece(whole, recipe)


def _dataset(source: Path | None, recipe: Recipe) -> Path:
    """The folder of the pieces, which in the archive is called Dataset."""
    folder = source_folder(source, recipe)
    return folder / "Dataset" if (folder / "Dataset").is_dir() else folder


def _piece(folder: Path, recipe: Recipe, options: Options) -> Piece:
    composition = _composition(folder.name)
    paths = [*_stems(folder), *_files(folder, "AuMix_*.wav")]
    seconds = common_seconds(paths, "copy or download this piece again", recipe.allow_truncated)
    return Piece(folder.name, options.split(composition), composition, seconds, (folder,))


def _stems(folder: Path) -> list[Path]:
    """One stem per part, in their order. Names of files have the instrument too, but not always the right one."""
    stems: list[Path] = []
    for number, instrument in enumerate(_instruments(folder.name), 1):
        found = _files(folder, f"AuSep_{number}_*.wav")
        if not found:
            raise DataError(
                f"{folder} must hold the stem of part {number}, {instrument}",
                got=f"no file AuSep_{number}_*.wav",
                fix="copy or download this piece again",
            )
        stems += found
    return stems


def _files(folder: Path, pattern: str) -> list[Path]:
    """The one file that fits a pattern, in small letters or capitals, or none."""
    found = [path for path in visible(folder) if fnmatch.fnmatchcase(path.name.lower(), pattern.lower())]
    if len(found) > 1:
        raise DataError(
            f"{folder} must hold one file {pattern}",
            got=", ".join(path.name for path in found),
            fix="take away those that are not part of URMP",
        )
    return found


def _is_sum(mix: Float32[np.ndarray, "c t"], sounds: Sequence[Float32[np.ndarray, "c t"]]) -> bool:
    difference = mix - np.sum(sounds, axis=0)
    return bool(np.square(difference).sum() <= SUM_TOLERANCE * np.square(mix).sum())


def _pictures(
    folder: Path, players: int, seconds: float, recipe: Recipe
) -> tuple[list[UInt8[np.ndarray, "v h w 3"]], tuple[str, ...]]:
    """The picture of each player over the whole piece, and notes; nothing where there is no video."""
    videos = _files(folder, "Vid_*.mp4")
    if not videos:
        return [], ()
    boxes = _boxes(folder / BOXES, players) if (folder / BOXES).exists() else columns(videos[0], players)
    return read_pictures(videos[0], boxes, recipe, seconds)


def _boxes(path: Path, players: int) -> list[Box]:
    boxes: dict[int, Box] = {}
    for row in read_table(path):
        words = row.words
        if [word.lower() for word in words] == ["part", "left", "top", "right", "bottom"]:
            continue
        if len(words) != 5 or not all(word.isdecimal() for word in words) or int(words[0]) in boxes:
            raise DataError(
                f"{path} must have one line part,left,top,right,bottom for each part, in whole pixels",
                got=",".join(words),
                fix="correct this line",
            )
        part, left, top, right, bottom = map(int, words)
        boxes[part] = (left, top, right, bottom)
    if set(boxes) != set(range(1, players + 1)):
        raise DataError(
            f"{path} must have a box for each part from 1 to {players}",
            got=f"parts {', '.join(map(str, sorted(boxes)))}",
            fix="add or take away lines, or delete the file to use equal columns",
        )
    return [boxes[part] for part in sorted(boxes)]


def _annotations(folder: Path, part: int) -> dict[str, Float64[np.ndarray, "k n"]]:
    """The annotations of a part that are there."""
    return {
        kind: _read_rows(path, names)
        for kind, (prefix, names) in ANNOTATIONS.items()
        for path in _files(folder, f"{prefix}_{part}_*.txt")
    }


def _read_rows(path: Path, names: Sequence[str]) -> Float64[np.ndarray, "k n"]:
    """Lines of numbers between white space, in order of their first column, time."""
    rows: list[list[float]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            row = []
        if len(row) != len(names) or not np.isfinite(row).all():
            raise DataError(
                f"line {number} of {path} must be {len(names)} numbers: {' '.join(names)}",
                got=repr(line),
                fix="copy or download this piece again",
            )
        rows.append(row)
    return np.array(sorted(rows), np.float64).reshape(-1, len(names))
