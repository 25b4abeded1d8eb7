"""Readers of corpora: one module or package per corpus, and its line in CORPORA.

Each has

    VERSION                                      raised when its output changes; part of the signature of shards
    Options                                      the settings under `options:` of the recipe (a Config)
    pieces(recipe, options, source)              a Listing of the pieces and of what is missing, cheap
    read(piece, recipe, options, source)         the clips of one piece, in order

vimss.shards.source.Problems collects the errors of single pieces, so that one run names all of them. Every
sound is read by `read_sound`, `read_sounds` or `read_take`, and every picture by `read_take`, `read_pictures` or
`read_frames`, which refuse truncated files unless the recipe allows them.

`source` is the folder with the corpus on disk, None for a corpus that is generated.
"""

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float32, Int16, UInt8

from vimss.errors import DataError, MediaError
from vimss.shards.clip import Clip, Player
from vimss.shards.recipe import SPLITS, Recipe
from vimss.shards.source import Problems, first_of, together
from vimss.shards.unchanged import stamp

CORPORA = {
    "chamber": "vimss.shards.corpora.chamber",
    "urmp": "vimss.shards.corpora.urmp",
    "musdb18": "vimss.shards.corpora.musdb18",
    "solos": "vimss.shards.corpora.solos",
    "music": "vimss.shards.corpora.music",
    "sopjfm": "vimss.shards.corpora.sopjfm",
    "clarinet4science": "vimss.shards.corpora.clarinet4science",
    "audioset": "vimss.shards.corpora.audioset",
    "youtube8m": "vimss.shards.corpora.youtube8m",
    "folder": "vimss.shards.corpora.folder",
}
"""`corpus` of a recipe to the module of its reader, which is imported when it is used: readers need heavy libraries."""

GENERATED = frozenset({"chamber"})
"""Corpora that lie in no folder."""

SHARES = dict(zip(SPLITS[:4], (0.7, 0.1, 0.1, 0.1), strict=True))
"""Share of the pieces in each split, where a corpus has no splits of its own."""

LENGTH_TOLERANCE = 0.05
"""Seconds by which the sounds of one piece may differ in length: codecs pad their last block."""

LISTED_TOLERANCE = 0.1
"""Seconds by which a sound may be longer or shorter than in its header: some containers count a codec's delay."""

ESTIMATED = {".mp3", ".aac"}
"""Endings of files without a length in the header: the listed one is an estimate from the first blocks."""

LOUD = 10.0
"""Samples beyond this multiple of full scale are noted: where one is broken, scaling makes the rest faint."""


@dataclass(frozen=True)
class Piece:
    """One piece of a corpus, before any of its files is read."""

    name: str
    """Unique in the corpus; letters, digits, `-` and `_`."""
    split: str
    """One of vimss.shards.recipe.SPLITS."""
    composition: str
    """The unit that must not be in two splits: the work, not its arrangement."""
    seconds: float
    files: tuple[Path, ...] = field(default=(), compare=False)
    """Files and folders that only this piece is made of: they may be repaired until it is written."""
    stamps: dict[str, str] = field(init=False, repr=False, compare=False)
    """Sizes and times of these files when the piece was listed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stamps", stamp(self.files))


@dataclass(frozen=True)
class Listing:
    """The result of listing a corpus."""

    pieces: tuple[Piece, ...]
    missing: tuple[str, ...] = ()
    """Names or ids of pieces that the corpus has and the source lacks, where a list names them."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Names of two solos of the test split each, where a corpus has a frozen list of mixtures for evaluation."""
    notes: tuple[str, ...] = ()
    """Sentences about what is in the source but was left out."""


def cut_piece(whole: Clip, recipe: Recipe) -> Iterator[Clip]:
    """A piece from its beginning to its end, as clips that the recipe allows; `vimss.stream.read.join_clips` undoes it.

    They are as few as can be, of nearly one length, and each starts with a picture. A player who plays nothing in a
    clip is silent there.
    """
    frame_rate = recipe.picture.frame_rate
    frames = max(1, round(whole.samples / whole.sample_rate * frame_rate))
    longest = max(1, int(recipe.clip_seconds * frame_rate + 1e-9))
    count = -(-frames // longest)
    cuts = [round(number * frames / count) for number in range(count + 1)]
    offsets = [int(cut * whole.sample_rate / frame_rate) for cut in cuts[:-1]] + [whole.samples]
    for number in range(count):
        samples, shown = slice(offsets[number], offsets[number + 1]), slice(cuts[number], cuts[number + 1])
        # Players who share a picture or features share their part too, which is then stored once.
        arrays = [array for player in whole.players for array in _seen_and_heard(player)]
        parts = {id(array): _rows(array, shown) for array in arrays}
        yield replace(
            whole,
            offset=whole.offset + samples.start,
            samples=samples.stop - samples.start,
            players=tuple(_cut_player(player, parts, samples, shown, whole.sample_rate) for player in whole.players),
            mixture=None if whole.mixture is None else whole.mixture[:, samples],
        )


def _seen_and_heard(player: Player) -> tuple[Any, ...]:
    return player.picture, player.features, player.sound_features


def _cut_player(player: Player, parts: Mapping[int, Any], samples: slice, shown: slice, sample_rate: int) -> Player:
    audio = None if player.audio is None else player.audio[:, samples]
    silent = player.silent if audio is None else not audio.any()
    return replace(
        player,
        audio=None if silent else audio,
        silent=silent,
        picture=parts[id(player.picture)],
        features=parts[id(player.features)],
        sound_features=parts[id(player.sound_features)],
        skeleton=_rows(player.skeleton, shown),
        masks=None if player.masks is None else player.masks[:, shown],
        boxes=None if player.boxes is None else player.boxes[:, shown],
        annotations={
            name: _within(rows, samples.start / sample_rate, samples.stop / sample_rate)
            for name, rows in player.annotations.items()
        },
    )


def _rows(array: Any, rows: slice) -> Any:
    return None if array is None else array[rows]


def _within(rows: np.ndarray, begin: float, end: float) -> np.ndarray:
    """The rows whose first column, seconds, lies in a stretch, with seconds from its start."""
    kept = rows[(rows[:, 0] >= begin) & (rows[:, 0] < end)]
    return np.concatenate([kept[:, :1] - begin, kept[:, 1:]], axis=1)


def deal(names: Sequence[str], seed: int) -> dict[str, str]:
    """Name to split, for a corpus without splits of its own: at random, at least one in each of four.

    Pass all names of the corpus, including missing files, so that a missing file does not change another's split.
    Fewer than four names are all for training.
    """
    if len(names) < len(SHARES):
        return dict.fromkeys(names, "train")
    counts = {split: max(1, round(share * len(names))) for split, share in SHARES.items()}
    splits = [split for split in ("valid", "promote", "test") for _ in range(counts[split])]
    splits += ["train"] * (len(names) - len(splits))
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[place]: split for split, place in zip(splits, order, strict=True)}


@dataclass(frozen=True)
class Take:
    """A stretch of one recording."""

    audio: Int16[np.ndarray, "c t"]
    picture: UInt8[np.ndarray, "v h w 3"] | None
    """The middle square, where the recording has a picture."""
    notes: tuple[str, ...] = ()
    """About what is odd in the files, but was accepted."""


def read_take(path: Path, recipe: Recipe, begin: float = 0.0, end: float = math.inf) -> Take:
    """Sound of a recording between two seconds, and the middle square of its picture where it has one.

    Raises:
        MediaError: The file cannot be read, or ends before `begin`.

    """
    # Imported here: listing a corpus needs no codecs.
    from vimss.media import fitting_gain, middle_square, probe, quantise

    rate = recipe.sample_rate
    sound, notes = read_sound(path, recipe)
    sound = sound[:, round(begin * rate) : None if math.isinf(end) else round(end * rate)]
    if not sound.shape[1]:
        raise MediaError(f"{path} must be longer than {begin:g} s", got="an earlier end", fix="copy or export it again")
    audio = quantise(fitting_gain(sound) * sound)
    if probe(path).size is None:
        return Take(audio, None, notes)
    seconds = audio.shape[1] / rate
    (picture,), met = read_pictures(path, [middle_square(path)], recipe, seconds, begin)
    return Take(audio, picture, (*notes, *met))


def read_pictures(
    path: Path, boxes: Sequence[tuple[int, int, int, int]], recipe: Recipe, seconds: float, begin: float = 0.0
) -> tuple[list[UInt8[np.ndarray, "v h w 3"]], tuple[str, ...]]:
    """The crop of each box of a video, at the recipe's size and rate, and notes; MediaError where it is not whole.

    Where the recipe allows truncated files, the last picture stays.
    """
    # Imported here: listing a corpus needs no codecs.
    from vimss.media import read_crops

    picture, notes = recipe.picture, list[str]()
    with _settings_for_options():
        crops = read_crops(
            path,
            boxes,
            picture.size,
            picture.frame_rate,
            seconds,
            begin,
            allow_truncated=recipe.allow_truncated,
            notes=notes,
        )
    return crops, tuple(f"{path.name}: {note}" for note in notes)


def read_frames(
    paths: Sequence[Path], boxes: Sequence[tuple[int, int, int, int]], recipe: Recipe
) -> tuple[list[UInt8[np.ndarray, "v h w 3"]], tuple[str, ...]]:
    """The same of pictures that are files of their own, one row per path."""
    # Imported here: listing a corpus needs no codecs.
    from vimss.media import read_images

    notes = list[str]()
    with _settings_for_options():
        crops = read_images(paths, boxes, recipe.picture.size, allow_truncated=recipe.allow_truncated, notes=notes)
    return crops, (f"pictures in {paths[0].parent.name}: {first_of(notes, 3, '; ')}",) if notes else ()


@contextmanager
def _settings_for_options() -> Iterator[None]:
    """Let errors name the setting of a recipe in place of the option that commands for single recordings have."""
    try:
        yield
    except MediaError as error:
        fix = error.fix.replace("--allow-truncated", "--set allow_truncated=true")
        raise MediaError(error.rule, got=error.got, fix=fix) from error


def read_sound(path: Path, recipe: Recipe, stream: int = 0) -> tuple[Float32[np.ndarray, "c t"], tuple[str, ...]]:
    """A sound of a corpus at the recipe's rate and channels, and notes; MediaError where it is not whole."""
    # Imported here: listing a corpus needs no codecs.
    from vimss.media import SoundReport, read_audio

    report = SoundReport()
    with _settings_for_options():
        sound = read_audio(
            path, recipe.sample_rate, recipe.channels, stream, allow_truncated=recipe.allow_truncated, report=report
        )
    notes, peak = list(report.notes), float(np.abs(sound).max(initial=0))
    if peak > LOUD:
        notes.append(f"samples reach {peak:.3g} times full scale, to which all sounds of its piece were scaled down")
    if recipe.channels == 1 and report.cancelled is not None:
        notes.append("left and right cancel out, so that little is left of them in mono: --set channels=2 keeps both")
    return sound, tuple(f"{path.name}: {note}" for note in notes)


def read_sounds(
    sounds: Sequence[tuple[Path, int]], recipe: Recipe, seconds: float
) -> tuple[list[Float32[np.ndarray, "c t"]], tuple[str, ...]]:
    """Files and streams of one piece as sounds of one length, and notes.

    Raises:
        MediaError: A file cannot be read.
        DataError: A sound has another length than the others, or than the listed `seconds`. Where the
            recipe allows truncated files, all end with the shortest one.

    """
    problems = Problems()
    read: list[Float32[np.ndarray, "c t"]] = []
    notes: list[str] = []
    for path, stream in sounds:
        with problems.of(path.name):
            sound, met = read_sound(path, recipe, stream)
            read.append(sound)
            notes += met
    problems.refuse()
    lengths = [sound.shape[1] / recipe.sample_rate for sound in read]
    longest = max(range(len(read)), key=lengths.__getitem__)
    fitting = not any(path.suffix.lower() in ESTIMATED for path, _ in sounds)
    wrong = []
    for (path, stream), length in zip(sounds, lengths, strict=True):
        apart = lengths[longest] - length > LENGTH_TOLERANCE
        if not apart and not (fitting and abs(length - seconds) > LISTED_TOLERANCE):
            continue
        other = f"{sounds[longest][0].name} does, {lengths[longest]:.2f} s" if apart else f"was listed, {seconds:.2f} s"
        name = f"stream {stream + 1} of {path}" if stream else str(path)
        wrong.append(DataError(f"{name} must last as long as {other}", got=f"{length:.2f} s", fix=ALL_OF_IT))
    if wrong and not recipe.allow_truncated:
        raise together(wrong)
    shortest = min(sound.shape[1] for sound in read)
    if wrong:
        notes.append(f"all sounds end with the shortest one, after {min(lengths):.2f} of {lengths[longest]:.2f} s")
    return [sound[:, :shortest] for sound in read], tuple(notes)


ALL_OF_IT = "export or copy all sounds of the piece again, from its beginning to its end"


def common_seconds(paths: Sequence[Path], fix: str, allow_truncated: bool = False) -> float:
    """The length that the sound files of a piece have in common; DataError with `fix` where they differ, or in rate.

    Where truncated files are allowed, it is that of the shortest.
    """
    # Imported here: listing a corpus needs no codecs.
    from vimss.media import probe

    problems, probes = Problems(), []
    for path in paths:
        with problems.of(path.name):
            if path.is_symlink() and not path.exists():
                raise DataError(f"{path} must be a sound file", got="a link to nothing", fix="put the file there")
            about = probe(path)
            if about.sample_rate is None:
                raise DataError(f"{path} must hold sound", got="none", fix="give a sound file")
            probes.append((path, about))
    problems.refuse()
    shortest = min(about.seconds for _, about in probes)
    if allow_truncated:
        probes = [(path, replace(about, seconds=shortest)) for path, about in probes]
    alike = [[other for _, other in probes if _fit(one, other)] for _, one in probes]
    # The majority is right; of two, the longer one, which is not cut off.
    first, one = probes[max(range(len(probes)), key=lambda place: (len(alike[place]), probes[place][1].seconds))]
    for path, other in probes:
        with problems.of(path.name):
            if not _fit(one, other):
                raise DataError(
                    f"{path} must be as long as {first.name} and have its sample rate",
                    got=f"{other.seconds:.2f} s at {other.sample_rate} Hz, not {one.seconds:.2f} s "
                    f"at {one.sample_rate} Hz",
                    fix=fix,
                )
    problems.refuse()
    return one.seconds


def _fit(one: Any, other: Any) -> bool:
    return one.sample_rate == other.sample_rate and abs(one.seconds - other.seconds) <= LENGTH_TOLERANCE


def reader_of(corpus: str) -> ModuleType:
    """The reader's module."""
    return importlib.import_module(CORPORA[corpus])
