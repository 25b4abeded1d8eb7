"""MUSDB18: songs with the stems drums, bass, other and vocals, and no picture; compressed, or as WAV (MUSDB18-HQ).

    SOURCE/train/ARTIST - TITLE.stem.mp4        MUSDB18 and its 7-second version: five stereo streams of AAC in the
    SOURCE/test/ARTIST - TITLE.stem.mp4         order mixture, drums, bass, other, vocals

    SOURCE/train/ARTIST - TITLE/mixture.wav     MUSDB18-HQ, or MUSDB18 decoded
    SOURCE/train/ARTIST - TITLE/drums.wav
    SOURCE/train/ARTIST - TITLE/bass.wav
    SOURCE/train/ARTIST - TITLE/other.wav
    SOURCE/train/ARTIST - TITLE/vocals.wav
    SOURCE/test/ARTIST - TITLE/...

The mixture is kept beside the stems: it was compressed apart from them and is not their sum. `valid` are the 14 tracks
of `train` that the field validates on. About a tenth of `train`, drawn by the hash of each name, is `promote`, so that
champions are decided without the test tracks. The tracks may be used for education and research, some not commercially.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vimss.config import Config
from vimss.errors import DataError
from vimss.media import fitting_gain, probe, quantise
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import LENGTH_TOLERANCE, Listing, Piece, common_seconds, cut_piece, read_sounds
from vimss.shards.recipe import Recipe
from vimss.shards.source import Problems, did_you_mean, file_called, gone, plain_name, source_folder, visible

MIXTURE = "mixture"
SOUNDS = (MIXTURE, "drums", "bass", "other", "vocals")
"""In the order of the streams."""
STEM_FILE = ".stem.mp4"
HALVES = ("train", "test")
PROMOTE_ONE_IN = 10
COPY_AGAIN = "unpack or copy the track again"
VALID = (
    "ANiMAL - Rockshow",
    "Actions - One Minute Smile",
    "Alexander Ross - Goodbye Bolero",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Fergessen - Nos Palpitants",
    "James May - On The Line",
    "Johnny Lokke - Promises & Lies",
    "Leaf - Summerghost",
    "Meaxic - Take A Step",
    "Patrick Talbot - A Reason To Leave",
    "Skelpolu - Human Mistakes",
    "Traffic Experiment - Sirens",
    "Triviul - Angelsaint",
    "Young Griffo - Pennies",
)
"""The tracks of the folder `train` that published work validates on."""


VERSION = 1
"""Raised when what this reader gives for the same source and settings changes: shards are then written anew."""


class Options(Config):
    """MUSDB18 has no settings of its own."""


@dataclass(frozen=True)
class _Track:
    path: Path
    """The .stem.mp4, or the folder of WAV files."""
    half: str
    """`train` or `test`, as the corpus is divided."""

    @property
    def title(self) -> str:
        return self.path.name[: -len(STEM_FILE)] if _is_stem_file(self.path) else self.path.name

    @property
    def name(self) -> str:
        return plain_name(self.title)

    @property
    def sounds(self) -> dict[str, tuple[Path, int]]:
        """File and stream of the mixture and of each stem."""
        if _is_stem_file(self.path):
            return {name: (self.path, stream) for stream, name in enumerate(SOUNDS)}
        return {name: (file_called(self.path, name, [".wav"]) or self.path / f"{name}.wav", 0) for name in SOUNDS}


def pieces(recipe: Recipe, options: Options, source: Path | None) -> Listing:
    """One piece per track, probed; DataError where a track lacks a sound, or its sounds differ in length."""
    tracks = _tracks(source_folder(source, recipe))
    found: dict[str, Piece] = {}
    problems = Problems()
    for track in tracks:
        with problems.of(track.title):
            if track.name in found:
                raise DataError(
                    "every track must have a name of its own, of letters, digits, - and _",
                    got=f"{track.name} twice, once from {track.path}",
                    fix="take one of the two away, or rename it",
                )
            split = _split(track, recipe.seed)
            found[track.name] = Piece(track.name, split, track.name, _seconds(track, recipe), (track.path,))
    titles = {track.title for track in tracks}
    absent = tuple(title for title in VALID if title not in titles)
    return Listing(tuple(found.values()), absent + problems.missing(recipe, len(found)))


def read(piece: Piece, recipe: Recipe, options: Options, source: Path | None) -> Iterator[Clip]:
    """The clips of one track, each at most `recipe.clip_seconds` long."""
    folder = source_folder(source, recipe)
    track = next((track for track in _tracks(folder) if track.name == piece.name), None)
    if track is None:
        raise gone(piece.name, folder)
    sounds, notes = read_sounds([track.sounds[name] for name in SOUNDS], recipe, piece.seconds)
    # One gain for all: some are louder than full scale, and apart they would no longer fit the mix.
    gain = fitting_gain(*sounds)
    parts = {name: quantise(gain * sound) for name, sound in zip(SOUNDS, sounds, strict=True)}
    mixture = parts.pop(MIXTURE)
    players = tuple(Player(instrument=name, part=name, audio=part) for name, part in sorted(parts.items()))
    samples, rate = mixture.shape[1], recipe.sample_rate
    yield from cut_piece(Clip(piece.name, 0, samples, rate, players, mixture=mixture, notes=notes), recipe)


def _tracks(source: Path) -> list[_Track]:
    """The tracks of both halves, which must be of one layout."""
    paths = [(half, path) for half in HALVES for path in visible(source / half)]
    files = [_Track(path, half) for half, path in paths if _is_stem_file(path)]
    folders = [_Track(path, half) for half, path in paths if path.is_dir() and not _is_stem_file(path)]
    if files and folders:
        raise DataError(
            f"{source} must hold tracks of one kind, files that end in {STEM_FILE} or folders of WAV files",
            got=f"{files[0].path} and {folders[0].path}",
            fix="put MUSDB18 and MUSDB18-HQ into folders of their own",
        )
    if not files and not folders:
        raise DataError(
            f"{source} must hold the folders train and test with a file that ends in {STEM_FILE}, "
            "or a folder of WAV files, for each track",
            got="no track",
            fix="unpack the corpus, and give the folder in which train and test lie: --source DIR"
            + did_you_mean(source, lambda folder: any(visible(folder / half) for half in HALVES)),
        )
    return files or folders


def _is_stem_file(path: Path) -> bool:
    return path.name.lower().endswith(STEM_FILE)


def _split(track: _Track, seed: int) -> str:
    if track.half == "test":
        return "test"
    if track.title in VALID:
        return "valid"
    # By the name alone: a track that is missing moves no other.
    drawn = int(hashlib.sha256(f"{seed} {track.title}".encode()).hexdigest(), 16)
    return "promote" if drawn % PROMOTE_ONE_IN == 0 else "train"


def _seconds(track: _Track, recipe: Recipe) -> float:
    """Length of a track; DataError where it lacks a sound, or they are not equally long."""
    return _stream_seconds(track.path, recipe) if _is_stem_file(track.path) else _file_seconds(track, recipe)


def _stream_seconds(path: Path, recipe: Recipe) -> float:
    lengths = probe(path).sound_seconds
    if len(lengths) != len(SOUNDS):
        raise DataError(
            f"{path} must have {len(SOUNDS)} sound streams: {', '.join(SOUNDS)}",
            got=str(len(lengths)),
            fix="copy the track again; a program that converted it may have kept the first stream alone",
        )
    for name, seconds in zip(SOUNDS, lengths, strict=True):
        if abs(seconds - lengths[0]) > LENGTH_TOLERANCE and not recipe.allow_truncated:
            raise DataError(
                f"the {name} of {path} must be as long as its mixture",
                got=f"{seconds:.2f} s, not {lengths[0]:.2f} s",
                fix=COPY_AGAIN,
            )
    return min(lengths)


def _file_seconds(track: _Track, recipe: Recipe) -> float:
    paths = [path for path, _ in track.sounds.values()]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise DataError(
            f"{track.path} must hold {', '.join(path.name for path in paths)}",
            got=f"no {', '.join(absent)}",
            fix=COPY_AGAIN,
        )
    return common_seconds(paths, COPY_AGAIN, recipe.allow_truncated)
