"""From clips to mixtures: players of one clip at one time (aligned), or of the pool at independent times
(mix-and-separate, Zhao et al. 2018), each augmented according to the settings.

    pool = Pool(clips, mixing, window, interface)
    mixture = pool.draw(rng, anchor=pool.clips[0], count=2, aligned=False)

The clips of a pool are lazy: a mixture decodes those that its players are of, where no other one has.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int16

from vimss.errors import DataError
from vimss.media import quantise
from vimss.shards.clip import Clip, Player
from vimss.stream.config import MixingConfig
from vimss.stream.lazy import ClipEntry, LazyClip
from vimss.stream.passages import passage_beside, start_of
from vimss.stream.stems import (
    EQUALISER_BANDS,
    FADE_SECONDS,
    MASKED,
    draw_room,
    equalise,
    in_room,
    mask_time,
    play,
)

Voice = TypeVar("Voice")
"""A player that sounds, with the clip."""

FULL_SCALE = 1 - 1e-6
"""The peak of a mixture that is peak-limited; rounding may not lift it above 1."""


@dataclass(frozen=True)
class Window:
    """The network's input and output windows, in audio samples; the output is centred in the input."""

    input_samples: int
    output_samples: int
    sample_rate: int

    @property
    def margin(self) -> int:
        """Context before the output window."""
        return (self.input_samples - self.output_samples) // 2


@runtime_checkable
class PlayerViews(Protocol):
    """Members read of clips, and views of players: the part of a network's interface that concerns clips."""

    @property
    def members(self) -> tuple[str, ...]:
        """Members of a clip to read."""

    @property
    def features(self) -> str:
        """Folder of the vision features that are read, where they are."""

    @property
    def uses_players(self) -> bool:
        """Whether players are shown; then one who rests is a distractor."""

    @property
    def example_seconds(self) -> float:
        """Seconds of a passage of the stem that a view shows, from outside of the window; 0: it is of the window."""

    def of_player(self, clip: Clip, player: Player) -> np.ndarray:
        """The view of a player in a whole clip, "v ...": one entry per picture, or one with the player's stem."""


@dataclass(frozen=True)
class SoundAlone:
    """Reads the sound, or the `members` given, and shows no players."""

    members: tuple[str, ...] = ("audio",)
    features: str = ""
    uses_players: bool = False
    example_seconds: float = 0.0

    def of_player(self, clip: Clip, player: Player) -> np.ndarray:
        """Never called."""
        raise TypeError("players are not shown")


SOUND_ALONE = SoundAlone()
SOUND_AND_NOTES = SoundAlone(("audio", "annotations"))


@dataclass(frozen=True, eq=False)
class PlayerView:
    """A player during a window, as a query names them."""

    label: str
    view: np.ndarray | None
    """The view of the player, "v ...", spread evenly over the input window; None where nothing is."""
    clip: str
    piece: str
    timbre: str


@dataclass(frozen=True, eq=False)
class Source(PlayerView):
    """One player's share of a mixture."""

    stem: Float32[np.ndarray, "c t"]
    """Over the whole input window."""
    notes: Float64[np.ndarray, "k 3"] | None = None
    """Onset in seconds of the input window, pitch in hertz and duration in seconds of each note, where they were
    read."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """Sources that sound together; `distractors` are players who do not."""

    sources: tuple[Source, ...]
    distractors: tuple[PlayerView, ...]
    aligned: bool
    sound: Float32[np.ndarray, "c t"]
    """The sum of the stems, over the input window."""
    peak_limited: bool
    """Whether the sum would have exceeded full scale, and was made softer."""

    def of_label(self, label: str) -> list[Source]:
        """The sources of an instrument: usually one or none."""
        return [source for source in self.sources if source.label == label]


@dataclass(frozen=True)
class _Take:
    """Where a stem is cut from its clip: sample `start` is the first of the output window."""

    clip: Clip
    place: int
    """The player's place in the clip."""
    start: int
    speed: float
    """Samples of the clip per sample of the window."""

    @property
    def player(self) -> Player:
        return self.clip.players[self.place]

    def begin(self, window: Window) -> float:
        """The sample of the clip at the start of the input window."""
        return self.start - window.margin * self.speed


@dataclass(frozen=True)
class _Voice:
    """A player that sounds."""

    clip: LazyClip
    player: int
    """The place among the clip's players."""

    @property
    def instrument(self) -> str:
        return self.clip.entry.players[self.player].instrument

    @property
    def performer(self) -> tuple[str, int]:
        """The piece and the place in it: the same in all clips of a piece."""
        return self.clip.entry.piece, self.player


class Pool:
    """Clips from which mixtures are drawn; players of `partner_clips`, of another corpus, may join them."""

    def __init__(
        self,
        clips: Sequence[LazyClip],
        mixing: MixingConfig,
        window: Window,
        views: PlayerViews,
        partner_clips: Sequence[LazyClip] = (),
    ) -> None:
        self.clips = [clip for clip in clips if usable(clip.entry, window)]
        self.mixing = mixing
        self.window = window
        self.views = views
        clips_to_draw = [*self.clips, *partner_clips]
        self._voices = [voice for clip in clips_to_draw for voice in _voices_of(clip)]
        instruments = {voice.instrument for voice in self._voices}
        if not self.clips or len(instruments) < mixing.max_sources:
            raise DataError(
                f"a pool of clips must hold {mixing.max_sources} different instruments that sound",
                got=f"{len(instruments)} in {len(self.clips)} clips",
                fix="raise mixing.pool_clips, lower mixing.max_sources, or write a larger corpus",
            )
        players = {voice.performer for voice in self._voices}
        if mixing.shuffle_pictures and views.uses_players and len(players) < 2:
            raise DataError(
                "mixing.shuffle_pictures needs a second player, whose pictures take the place of the first one's",
                got=f"one player in {len(self.clips)} clips of the piece {next(iter(players))[0]}",
                fix="remove mixing.shuffle_pictures, or write a corpus of several players",
            )

    def draw(self, rng: np.random.Generator, anchor: LazyClip, count: int, aligned: bool) -> Mixture:
        """A mixture of `count` players; the first is of `anchor` (all are, where aligned and it has that many)."""
        voices = _voices_of(anchor)
        aligned = aligned and len(voices) >= count
        if aligned:
            clip = anchor.decoded()
            chosen = [voices[index].player for index in rng.permutation(len(voices))[:count]]
            speed = self._speed(rng, clip)
            start = self._start(rng, clip, clip.players[chosen[0]], speed)
            sources = [self._source(rng, _Take(clip, place, start, speed)) for place in chosen]
        else:
            first = voices[rng.integers(len(voices))]
            together = self._independent(rng, first, count)
            sources = [self._source(rng, self._take(rng, voice)) for voice in together]
        return self._with_distractors(rng, sources, aligned)

    def _independent(self, rng: np.random.Generator, first: _Voice, count: int) -> list[_Voice]:
        """`first` and players of other instruments; the second one, as often as the settings say, of the same."""
        same = self.mixing.same_label_probability
        equals: list[_Voice] = []
        if count > 1 and same and rng.random() < same:
            alike = [voice for voice in self._voices if voice.instrument == first.instrument and voice != first]
            equals = [alike[rng.integers(len(alike))]] if alike else []
        others = independent_voices(rng, self._voices, first, count - len(equals), lambda voice: voice.instrument)
        return [first, *equals, *others[1:]]

    def _with_distractors(self, rng: np.random.Generator, sources: Sequence[Source], aligned: bool) -> Mixture:
        labels = {source.label for source in sources}
        others = [voice for voice in self._voices if voice.instrument not in labels]
        distractors = []
        # An absent label needs no player; the picture of a resting player does.
        if self.views.uses_players and others:
            take = self._take(rng, others[rng.integers(len(others))])
            clip, player = take.clip, take.player
            view = self._view(rng, take)
            distractors.append(PlayerView(player.instrument, view, clip.key, clip.piece, player.timbre))
        return mix(sources, distractors, aligned)

    def _take(self, rng: np.random.Generator, voice: _Voice) -> _Take:
        clip = voice.clip.decoded()
        player = clip.players[voice.player]
        speed = self._speed(rng, clip)
        return _Take(clip, voice.player, self._start(rng, clip, player, speed), speed)

    def _speed(self, rng: np.random.Generator, clip: Clip) -> float:
        """1 where the pitch stays; never so fast that the output window exceeds the clip."""
        if not self.mixing.pitch_semitones:
            return 1.0
        semitones = rng.uniform(-self.mixing.pitch_semitones, self.mixing.pitch_semitones)
        return min(2 ** (semitones / 12), clip.samples / self.window.output_samples)

    def _start(self, rng: np.random.Generator, clip: Clip, player: Player, speed: float) -> int:
        """Where an output window starts in which the player sounds, if a few draws find one."""
        return start_of(rng, _stem(clip, player), clip.samples, round(self.window.output_samples * speed))

    def _source(self, rng: np.random.Generator, take: _Take) -> Source:
        clip, player = take.clip, take.player
        return Source(
            player.instrument, self._view(rng, take), clip.key, clip.piece, player.timbre, self._augmented(rng, take)
        )

    def _augmented(self, rng: np.random.Generator, take: _Take) -> Float32[np.ndarray, "c t"]:
        """The stem over the input window, augmented according to the settings."""
        mixing, window, audio = self.mixing, self.window, _stem(take.clip, take.player)
        gain = 10 ** (rng.uniform(-mixing.gain_db, mixing.gain_db) / 20)
        sign = -1.0 if mixing.flip_polarity and rng.random() < 0.5 else 1.0
        begin, length, gain = take.begin(window), window.input_samples, gain * sign
        if mixing.room_seconds:
            room = draw_room(rng, mixing.room_seconds, window.sample_rate, len(audio))
            earlier = room.shape[1] - 1
            stem = in_room(play(audio, begin - earlier * take.speed, length + earlier, take.speed, gain), room)
        else:
            stem = play(audio, begin, length, take.speed, gain)
        if mixing.equaliser_db:
            stem = equalise(stem, rng.uniform(-mixing.equaliser_db, mixing.equaliser_db, EQUALISER_BANDS))
        if mixing.silence_probability and rng.random() < mixing.silence_probability:
            self._mask_time(rng, stem)
        if mixing.swap_channels and rng.random() < 0.5:
            stem = np.ascontiguousarray(stem[::-1])
        return stem

    def _mask_time(self, rng: np.random.Generator, stem: Float32[np.ndarray, "c t"]) -> None:
        """Silence a stretch of the output window, in place."""
        output = self.window.output_samples
        length = round(rng.uniform(*MASKED) * output)
        first = self.window.margin + int(rng.integers(output - length + 1))
        mask_time(stem, first, first + length, round(FADE_SECONDS * self.window.sample_rate))

    def _view(self, rng: np.random.Generator, take: _Take) -> np.ndarray | None:
        if not self.views.uses_players:
            return None
        # A generator of its own: the control that is trained with it has the same mixtures, in the same order.
        shown = self._of_another_player(rng.spawn(1)[0], take) if self.mixing.shuffle_pictures else take
        if self.views.example_seconds:
            return self._example(rng.spawn(1)[0], shown, take.player.instrument)
        view = self.views.of_player(shown.clip, shown.player)
        return during(view, shown.clip, self.window, shown.begin(self.window), shown.speed)

    def _example(self, rng: np.random.Generator, take: _Take, label: str) -> np.ndarray:
        """The view of a passage that the player plays outside of the output window, under a label.

        As fast as the stem that is mixed, and so as high, but without its gain, equaliser, room and silence.
        """
        length = round(self.views.example_seconds * self.window.sample_rate)
        last = take.start + round(self.window.output_samples * take.speed)
        stem = passage_beside(rng, _stem(take.clip, take.player), round(length * take.speed), take.start, last)
        passage = quantise(play(stem, 0.0, length, take.speed, gain=1.0))
        return self.views.of_player(take.clip, replace(take.player, instrument=label, audio=passage))

    def _of_another_player(self, rng: np.random.Generator, take: _Take) -> _Take:
        """A time of any other player, of whatever label: a piece has the same players at the same places throughout."""
        own = take.clip.piece, take.place
        others = [voice for voice in self._voices if voice.performer != own]
        return self._take(rng, others[rng.integers(len(others))])


def usable(clip: ClipEntry, window: Window) -> bool:
    """Whether mixtures are drawn from a clip: it is long enough, and has stems."""
    return clip.samples >= window.output_samples and bool(clip.sounding)


def instruments_of(clips: Iterable[ClipEntry]) -> set[str]:
    """The instruments that sound in some clips."""
    return {clip.players[place].instrument for clip in clips for place in clip.sounding}


def mix(sources: Sequence[Source], distractors: Sequence[PlayerView], aligned: bool) -> Mixture:
    """Sources that sound together. Where the sum would exceed full scale, all are made softer by the same gain."""
    sound = _sum(sources)
    peak = max(sound.max(), -sound.min())
    peak_limited = bool(peak > 1)
    if peak_limited:
        sources = [replace(source, stem=source.stem * np.float32(FULL_SCALE / peak)) for source in sources]
        sound = _sum(sources)
    return Mixture(tuple(sources), tuple(distractors), aligned, sound, peak_limited)


def _sum(sources: Sequence[Source]) -> Float32[np.ndarray, "c t"]:
    total = sources[0].stem.copy()
    for source in sources[1:]:
        total += source.stem
    return total


def independent_voices(
    rng: np.random.Generator, voices: Sequence[Voice], first: Voice, count: int, instrument: Callable[[Voice], str]
) -> list[Voice]:
    """`count` players of different instruments: `first` and others of `voices`, fewer where there are not enough."""
    chosen = [first]
    for index in rng.permutation(len(voices)):
        if len(chosen) == count:
            break
        if instrument(voices[index]) not in {instrument(voice) for voice in chosen}:
            chosen.append(voices[index])
    return chosen


def during(view: np.ndarray, clip: Clip, window: Window, begin: float, speed: float = 1.0) -> np.ndarray:
    """A player's view of a clip, "v ...", during an input window that begins at sample `begin`."""
    # The same number of pictures for every clip: the last of a piece may end between two of them.
    seconds = view_times(window, clip.frame_rate) * speed + begin / clip.sample_rate
    return view[np.clip(np.floor(seconds * clip.frame_rate).astype(int), 0, len(view) - 1)]


def view_times(window: Window, frame_rate: float) -> np.ndarray:
    """Seconds from the window's start at which a player is shown: (j + 1/2) / v of the input window."""
    seconds = window.input_samples / window.sample_rate
    count = max(1, round(seconds * frame_rate))
    return (np.arange(count) + 0.5) * seconds / count


def _voices_of(clip: LazyClip) -> list[_Voice]:
    return [_Voice(clip, place) for place in clip.entry.sounding]


def _stem(clip: Clip, player: Player) -> Int16[np.ndarray, "c t"]:
    """The stem; silence for who reads features of the sound, where a corpus has those in its place."""
    if player.audio is not None:
        return player.audio
    if player.sound_features is None:
        raise DataError(
            f"'{player.part}' in {clip.key} must have a stem",
            got="features of the sound alone",
            fix="choose a corpus with stems, or objective: correspondence with correspondence.inputs: features or "
            "weak_labels with weak_labels.inputs: sound_features",
        )
    return silence_of(clip)


def silence_of(clip: Clip) -> Int16[np.ndarray, "1 t"]:
    """In place of a stem."""
    return np.zeros((1, clip.samples), np.int16)
