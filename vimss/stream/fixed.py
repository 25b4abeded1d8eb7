"""Fixed mixtures: drawn once, kept beside the shards, and the same for every network, process and system.

    spec = FixedSpec("valid", samples=44100, margin=66150, kinds=((2, False), (2, True)), seed=0)
    kept = fixed_set(manifest, spec)                          # read, or drawn and written
    for mixture in mixtures_of(kept, manifest, window, views): ...

The draw depends on the shards and the spec alone: a clip, a player, the sample where the excerpt starts, a gain.
The stems of the excerpts are kept as int16 with `margin` samples of what surrounds them in the clip; a window that
reaches further has silence there. Of pictures and features only the place is kept: they are read from the shards.

A file is one safetensors file with a digest of all that is in it, whole or not there. One that is damaged is made
again; where none can be written, each process draws the mixtures itself, the same ones. Readers map it into memory,
so that all processes of a node share one copy of the stems.
"""

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int16
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vimss.config import Config, parse_config, signature
from vimss.errors import ConfigError, DataError, StorageError
from vimss.shards.clip import NOTES, Clip, offset_of
from vimss.shards.manifest import Manifest
from vimss.storage import atomic_write
from vimss.stream.lazy import ClipEntry
from vimss.stream.mapped import digest_of, map_arrays
from vimss.stream.mix import (
    Mixture,
    PlayerView,
    PlayerViews,
    Source,
    Window,
    during,
    independent_voices,
    mix,
    silence_of,
)
from vimss.stream.passages import passage_beside, start_of
from vimss.stream.read import list_clips, read_clips, read_pieces
from vimss.stream.stems import cut

log = logging.getLogger(__name__)

FOLDER = "mixtures"
"""Folder beside the shards, or beside the store's copy of the manifest of remote ones."""

VERSION = 1
"""Raised when other mixtures are drawn from the same shards, so that old files are not used."""

HELD_CLIPS = 8
"""Decoded clips in memory while mixtures are drawn: more than one mixture has players."""


@dataclass(frozen=True)
class FixedSpec:
    """Specification of the mixtures: with the shards, it determines them."""

    split: str
    samples: int
    """Length of every mixture, audio samples."""
    kinds: tuple[tuple[int, bool], ...] = ()
    """Number of players of each mixture, and whether they are of one clip at one time. Solos give no aligned mixtures,
    and duets none of four: kinds that the split does have take their place."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Instead of kinds: the pieces of each mixture, whose stems are then mixed as they are."""
    margin: int = 0
    """Samples kept on either side of an excerpt, for networks that look there."""
    seed: int = 0
    gain_db: float = 4.0
    distractors: bool = False
    """Whether each mixture also names a player who does not sound in it, as an absent query."""

    def signature(self, manifest: Manifest) -> str:
        """Equal signatures, equal mixtures."""
        return signature(VERSION, manifest.digest, asdict(self))


class Excerpt(Config):
    """The draw of one player."""

    shard: str = Field(description="name of the shard")
    clip: str = Field(description="key of the clip")
    player: int = Field(ge=0, description="place among the clip's players")
    label: str
    piece: str
    timbre: str
    start: int = Field(description="sample of the clip at which the excerpt starts")
    gain: float


class Drawn(Config):
    """One mixture, as drawn."""

    sources: tuple[Excerpt, ...] = Field(min_length=1)
    distractors: tuple[Excerpt, ...]
    aligned: bool


@dataclass(frozen=True, eq=False)
class FixedSet:
    """Mixtures that were drawn, with their stems."""

    spec: FixedSpec
    drawn: tuple[Drawn, ...]
    stems: tuple[Int16[np.ndarray, "_ c t"], ...]
    """The stems of each mixture, one per source, with the margin on either side and without the gain."""


@dataclass(frozen=True)
class _Voice:
    """A player that sounds."""

    clip: ClipEntry
    player: int

    @property
    def instrument(self) -> str:
        return self.clip.players[self.player].instrument


StemOf = Callable[[ClipEntry, int], Int16[np.ndarray, "c t"]]
"""Returns the stem of a player of a clip."""


def fixed_set(manifest: Manifest, spec: FixedSpec) -> FixedSet:
    """The mixtures of a spec: read where they were kept, else drawn and kept.

    Two processes that draw at once write the same file; the later one replaces it whole.

    Raises:
        DataError: where the split does not have such mixtures, or its shards are damaged.

    """
    path = fixed_path(manifest, spec)
    try:
        return _read(path, manifest, spec)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, SafetensorError, ConfigError) as error:
        log.warning("%s was damaged and is made again: %s", path, error)
    drawn, stems = draw(list(list_clips(manifest, spec.split)), spec, _stems_of(manifest, spec.split))
    kept = FixedSet(spec, tuple(drawn), tuple(stems))
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(_content(kept, spec.signature(manifest)))
        return _read(path, manifest, spec)
    except (StorageError, OSError) as error:
        log.warning(
            "every process draws the mixtures of '%s' itself, because they cannot be kept: %s", spec.split, error
        )
    return kept


def fixed_path(manifest: Manifest, spec: FixedSpec) -> Path:
    """The file of a spec."""
    return manifest.folder / FOLDER / f"{spec.split}-{spec.signature(manifest)}.safetensors"


def draw(
    entries: Sequence[ClipEntry], spec: FixedSpec, stem_of: StemOf
) -> tuple[list[Drawn], list[Int16[np.ndarray, "_ c t"]]]:
    """The mixtures of a spec from these clips, and their stems. Each has a generator of its own, seeded by its number:
    the first mixtures of a longer spec are those of a shorter one.
    """
    wanted = [clip for clip in entries if not spec.pairs or any(clip.piece in pair for pair in spec.pairs)]
    voices = [
        _Voice(clip, index)
        for clip in wanted
        if clip.samples >= spec.samples
        for index, player in enumerate(clip.players)
        if player.sounds
    ]
    of_clip: dict[str, list[_Voice]] = {}
    for voice in voices:
        of_clip.setdefault(voice.clip.key, []).append(voice)
    kinds = [] if spec.pairs else _possible(spec, of_clip.values())
    drawn, stems = [], []
    for number in range(len(spec.pairs or kinds)):
        taking = _Taking(np.random.default_rng((spec.seed, number)), spec, stem_of)
        if spec.pairs:
            aligned, sources = False, [taking.of_piece(voices, piece) for piece in spec.pairs[number]]
        else:
            count, aligned = kinds[number]
            sources = taking.of_kind(list(of_clip.values()), voices, count, aligned)
        labels = {excerpt.label for excerpt in sources}
        others = [voice for voice in voices if voice.instrument not in labels] if spec.distractors else []
        distractors = (taking.silent(others),) if others else ()
        drawn.append(Drawn(sources=tuple(sources), distractors=distractors, aligned=aligned))
        stems.append(np.stack(taking.stems))
    return drawn, stems


class _Taking:
    """Draws the excerpts of one mixture."""

    def __init__(self, rng: np.random.Generator, spec: FixedSpec, stem_of: StemOf) -> None:
        self.rng = rng
        self.spec = spec
        self.stem_of = stem_of
        self.stems: list[Int16[np.ndarray, "c t"]] = []

    def of_kind(
        self, clips: Sequence[Sequence[_Voice]], voices: Sequence[_Voice], count: int, aligned: bool
    ) -> list[Excerpt]:
        """Excerpts of `count` players: of one clip where aligned, else independent ones of different instruments."""
        able = [clip for clip in clips if not aligned or len(clip) >= count]
        anchor = able[int(self.rng.integers(len(able)))]
        if aligned:
            chosen = [anchor[index] for index in self.rng.permutation(len(anchor))[:count]]
            start = self._start(chosen[0])
            return [self._excerpt(voice, start) for voice in chosen]
        first = anchor[int(self.rng.integers(len(anchor)))]
        together = independent_voices(self.rng, voices, first, count, lambda voice: voice.instrument)
        return [self._excerpt(voice, self._start(voice)) for voice in together]

    def of_piece(self, voices: Sequence[_Voice], piece: str) -> Excerpt:
        """An excerpt of one player of a piece."""
        able = [voice for voice in voices if voice.clip.piece == piece]
        if not able:
            raise DataError(
                f"{piece}, of a pair, must have a clip of {self.spec.samples} samples that sounds",
                got="none",
                fix="take the pair off the list, or write shards with longer clips",
            )
        voice = able[self.rng.integers(len(able))]
        return self._excerpt(voice, self._start(voice))

    def silent(self, voices: Sequence[_Voice]) -> Excerpt:
        """An excerpt of a player who does not sound in the mixture."""
        voice = voices[int(self.rng.integers(len(voices)))]
        return _excerpt(voice, self._start(voice), gain=0.0)

    def _start(self, voice: _Voice) -> int:
        return start_of(self.rng, self.stem_of(voice.clip, voice.player), voice.clip.samples, self.spec.samples)

    def _excerpt(self, voice: _Voice, start: int) -> Excerpt:
        gain = 10 ** (self.rng.uniform(-self.spec.gain_db, self.spec.gain_db) / 20)
        length = self.spec.samples + 2 * self.spec.margin
        self.stems.append(_stretch(self.stem_of(voice.clip, voice.player), start - self.spec.margin, length))
        return _excerpt(voice, start, float(gain))


def _excerpt(voice: _Voice, start: int, gain: float) -> Excerpt:
    clip, player = voice.clip, voice.clip.players[voice.player]
    return Excerpt(
        shard=clip.shard,
        clip=clip.key,
        player=voice.player,
        label=player.instrument,
        piece=clip.piece,
        timbre=player.timbre,
        start=start,
        gain=gain,
    )


def _possible(spec: FixedSpec, clips: Collection[Sequence[_Voice]]) -> list[tuple[int, bool]]:
    most = max((len(clip) for clip in clips), default=0)
    instruments = len({voice.instrument for clip in clips for voice in clip})
    possible = [kind for kind in dict.fromkeys(spec.kinds) if kind[0] <= (most if kind[1] else instruments)]
    if not possible:
        raise DataError(
            f"the split '{spec.split}' must have {min(spec.kinds)[0]} instruments, or a clip with as many players, "
            f"that sound, in clips of {spec.samples} samples or more",
            got=f"{instruments} instruments, and {most} players in a clip at most",
            fix="write a larger corpus, or one with longer clips",
        )
    return [kind if kind in possible else possible[number % len(possible)] for number, kind in enumerate(spec.kinds)]


def _stems_of(manifest: Manifest, split: str) -> StemOf:
    """Reads stems from the shards, and keeps the clips of about one mixture: each is read several times."""
    clips: dict[str, Clip] = {}
    shards = {shard.name: shard for shard in manifest.of_split(split)}

    def stem_of(entry: ClipEntry, player: int) -> Int16[np.ndarray, "c t"]:
        if entry.key not in clips:
            if len(clips) >= HELD_CLIPS:
                clips.clear()
            (clips[entry.key],) = read_clips(manifest, split, [shards[entry.shard]], keys={entry.key})
        clip = clips[entry.key]
        audio = clip.players[player].audio
        # Others have features of the sound in its place, which the views show.
        return silence_of(clip) if audio is None else audio

    return stem_of


def _stretch(audio: Int16[np.ndarray, "c t"], start: int, length: int) -> Int16[np.ndarray, "c u"]:
    """`length` samples from `start` on; silence beyond the ends."""
    out = np.zeros((len(audio), length), np.int16)
    first, last = max(start, 0), min(start + length, audio.shape[1])
    if last > first:
        out[:, first - start : last - start] = audio[:, first:last]
    return out


def mixtures_of(
    kept: FixedSet, manifest: Manifest, window: Window, views: PlayerViews, numbers: Sequence[int] | None = None
) -> Iterator[Mixture]:
    """The mixtures with these numbers (all where not given) over the input window of a network.

    `window.output_samples` is the length of the excerpts, whatever the network answers beside them; they lie in the
    middle of the input. What `views` show of players is read from the shards, and so are notes if annotations are
    among its members.
    """
    chosen = range(len(kept.drawn)) if numbers is None else numbers
    shown = read_views(kept, manifest, window, views, chosen)
    notes = _read_notes(kept, manifest, window, chosen) if "annotations" in views.members else {}
    for number in chosen:
        mixture = mixture_at(kept, number, window, shown)
        pairs = zip(mixture.sources, kept.drawn[number].sources, strict=True)
        yield replace(mixture, sources=tuple(replace(source, notes=notes.get(excerpt)) for source, excerpt in pairs))


def mixture_at(kept: FixedSet, number: int, window: Window, shown: Mapping[Excerpt, np.ndarray]) -> Mixture:
    """The mixture with this number, of players with the views that `read_views` found."""
    assert window.output_samples == kept.spec.samples, "a window around the excerpts"  # noqa: S101
    drawn, stems = kept.drawn[number], kept.stems[number]
    # Mixed before it is cut to the window, so the level of a mixture does not depend on the window.
    whole = mix(
        [
            Source(e.label, shown.get(e), e.clip, e.piece, e.timbre, cut(stem, 0, stem.shape[1], e.gain))
            for e, stem in zip(drawn.sources, stems, strict=True)
        ],
        [PlayerView(e.label, shown.get(e), e.clip, e.piece, e.timbre) for e in drawn.distractors],
        drawn.aligned,
    )
    return _seen_through(whole, kept.spec.margin - window.margin, window.input_samples)


def _seen_through(mixture: Mixture, first: int, length: int) -> Mixture:
    """`length` samples of a mixture from `first` on; silence beyond the ends."""

    def part(sound: Float32[np.ndarray, "c t"]) -> Float32[np.ndarray, "c u"]:
        out = np.zeros((len(sound), length), np.float32)
        low, high = max(first, 0), min(first + length, sound.shape[1])
        out[:, low - first : high - first] = sound[:, low:high]
        return out

    sources = tuple(replace(source, stem=part(source.stem)) for source in mixture.sources)
    return replace(mixture, sources=sources, sound=part(mixture.sound))


def read_views(
    kept: FixedSet, manifest: Manifest, window: Window, views: PlayerViews, numbers: Sequence[int]
) -> dict[Excerpt, np.ndarray]:
    """The views of the players of some mixtures during the window; each clip is decoded once."""
    if not views.uses_players:
        return {}
    wanted: dict[str, dict[str, list[Excerpt]]] = {}
    for mixture in (kept.drawn[number] for number in numbers):
        for excerpt in (*mixture.sources, *mixture.distractors):
            wanted.setdefault(excerpt.shard, {}).setdefault(excerpt.clip, []).append(excerpt)
    members = [member for member in views.members if member != "audio" or views.example_seconds]
    shown = {}
    for shard in manifest.of_split(kept.spec.split):
        keys = wanted.get(shard.name, {})
        if not keys:
            continue
        for clip in read_clips(manifest, kept.spec.split, [shard], members, views.features, keys=keys):
            for excerpt in keys[clip.key]:
                shown[excerpt] = _view_of(excerpt, clip, kept.spec, window, views)
    return shown


def _view_of(excerpt: Excerpt, clip: Clip, spec: FixedSpec, window: Window, views: PlayerViews) -> np.ndarray:
    """The view of the player during the window, or of a passage outside of the excerpt, always the same."""
    player = clip.players[excerpt.player]
    if not views.example_seconds:
        return during(views.of_player(clip, player), clip, window, float(excerpt.start - window.margin))
    assert player.audio is not None, "excerpts are of players that sound"  # noqa: S101
    rng = np.random.default_rng((spec.seed, excerpt.start, excerpt.player))
    length = round(views.example_seconds * window.sample_rate)
    passage = passage_beside(rng, player.audio, length, excerpt.start, excerpt.start + spec.samples)
    return views.of_player(clip, replace(player, audio=passage))


def _read_notes(
    kept: FixedSet, manifest: Manifest, window: Window, numbers: Sequence[int]
) -> dict[Excerpt, Float64[np.ndarray, "_ 3"]]:
    """The notes of the players of some mixtures that sound during the window, where the shards have them."""
    wanted: dict[str, list[Excerpt]] = {}
    for excerpt in (excerpt for number in numbers for excerpt in kept.drawn[number].sources):
        wanted.setdefault(excerpt.piece, []).append(excerpt)
    found = {}
    named = {excerpt.shard for excerpts in wanted.values() for excerpt in excerpts}
    shards = [shard for shard in manifest.of_split(kept.spec.split) if shard.name in named]
    # Whole pieces: a note that sounds in a clip may have begun in the one before it.
    for piece in read_pieces(manifest, kept.spec.split, ("annotations",), shards=shards):
        for excerpt in wanted.get(piece.piece, ()):
            rows = piece.players[excerpt.player].annotations.get(NOTES)
            if rows is not None:
                first = offset_of(excerpt.clip) - piece.offset + excerpt.start - window.margin
                onsets = rows[:, 0] - first / piece.sample_rate
                sounding = (onsets + rows[:, 2] > 0) & (onsets < window.input_samples / piece.sample_rate)
                found[excerpt] = np.column_stack([onsets, rows[:, 1:]])[sounding]
    return found


def _content(kept: FixedSet, name: str) -> bytes:
    """The file of a set."""
    arrays = {str(number): stems for number, stems in enumerate(kept.stems)}
    about = json.dumps({"signature": name, "mixtures": [drawn.model_dump(mode="json") for drawn in kept.drawn]})
    # One entry: safetensors writes several in any order, and equal sets shall be equal files.
    return save(arrays, {"about": f"{digest_of(about, kept.stems)} {about}"})


def _read(path: Path, manifest: Manifest, spec: FixedSpec) -> FixedSet:
    """A set that was kept; FileNotFoundError where there is none, ValueError and others where it is damaged."""
    with path.open("rb"):
        pass  # safetensors reports every problem as a file that cannot be read
    with safe_open(path, framework="np") as file:
        metadata: dict[str, Any] = file.metadata() or {}
    arrays = map_arrays(path)
    stems = tuple(arrays[str(number)] for number in range(len(arrays)))
    digest, _, text = metadata["about"].partition(" ")
    if digest_of(text, stems) != digest:
        raise ValueError("its content does not have the SHA-256 that was written down")
    about = json.loads(text)
    drawn = tuple(parse_config(mixture, Drawn, str(path)) for mixture in about["mixtures"])
    size = (manifest.recipe.channels, spec.samples + 2 * spec.margin)
    shapes = [(len(mixture.sources), *size) for mixture in drawn]
    if [array.shape for array in stems] != shapes or {array.dtype for array in stems} != {np.dtype(np.int16)}:
        raise ValueError("its stems do not have the shapes of its mixtures")
    if about["signature"] != spec.signature(manifest) or len(drawn) != len(spec.pairs or spec.kinds):
        raise ValueError("it holds other mixtures than those of its name")
    return FixedSet(spec, drawn, stems)
