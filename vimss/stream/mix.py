"""From clips to mixtures: the training examples, the fixed validation set, and their batches.

    examples = Examples(manifest, "train", mixing, window)
    for batch in examples.batches(batch_size=4, position=Position(), rank=0, world_size=1): ...

The sequence of examples is a function of (seed, epoch, rank, world size): a shard is read by one rank, every clip is
the anchor of `windows_per_clip` mixtures per epoch, and each mixture is drawn by a generator of its own, seeded by its
number. Resuming is therefore a position in the sequence. Mixtures take k players of one clip at one time (aligned) or
k players of the pool at independent times (mix-and-separate, Zhao et al. 2018).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int16

from vimss.errors import ConfigError, DataError
from vimss.shards.clip import Clip, Player
from vimss.shards.manifest import Manifest
from vimss.stream.config import MixingConfig
from vimss.stream.read import read_clips

SILENCE_RMS = 3e-3
"""A stem below -50 dBFS in a window is silent there: it is not asked for and not scored."""

DRAWS_FOR_SOUND = 8
"""How often a window is drawn anew because its stem rests there."""

EQUALISER_BANDS = 6


@dataclass(frozen=True)
class Window:
    """What the network sees and answers, in audio samples; the output is centred in the input."""

    input_samples: int
    output_samples: int
    sample_rate: int

    @property
    def margin(self) -> int:
        """Context before the output window."""
        return (self.input_samples - self.output_samples) // 2


@dataclass(frozen=True)
class Asking:
    """What the network needs beside the mixture, and what it answers: the stream's view of the model's settings."""

    outputs: Literal["instruments", "queries", "slots"]
    context: Literal["none", "labels", "frames", "features"]
    labels: tuple[str, ...]
    slots: int
    features: str = ""
    """Folder of the vision network whose features are read."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What to decode from the shards."""
        return {"frames": ("audio", "picture"), "features": ("audio", "features")}.get(self.context, ("audio",))


@dataclass(frozen=True)
class Position:
    """A place in the sequence of batches."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True, eq=False)
class Source:
    """One player's share of a mixture."""

    label: str
    stem: Float32[np.ndarray, "c t"]
    """Over the whole input window."""
    cue: np.ndarray | None
    """Picture "v h w 3" or features "v d", spread evenly over the input window."""
    clip: str
    piece: str
    timbre: str


@dataclass(frozen=True, eq=False)
class Mixture:
    """Sources that sound together; `distractors` are players who do not."""

    sources: tuple[Source, ...]
    distractors: tuple[Source, ...]
    aligned: bool

    @property
    def sound(self) -> Float32[np.ndarray, "c t"]:
        """The mix over the input window."""
        return np.stack([source.stem for source in self.sources]).sum(axis=0, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of arrays; shapes in the axis letters of `vimss`."""

    mixture: Float32[np.ndarray, "b c t"]
    targets: Float32[np.ndarray, "b s c u"]
    present: Bool[np.ndarray, "b s"]
    context: np.ndarray | None
    """labels "b q i", features "b p v d", frames "b p v h w 3"."""
    players: Bool[np.ndarray, "b p"] | None


class Pool:
    """Clips in memory, from which mixtures are drawn."""

    def __init__(self, clips: Sequence[Clip], mixing: MixingConfig, window: Window, cue: str) -> None:
        self.clips = [clip for clip in clips if clip.samples >= window.output_samples and _sounding(clip)]
        self.mixing = mixing
        self.window = window
        self.cue = cue
        self._players = [(clip, player) for clip in self.clips for player in _sounding(clip)]
        if len({player.instrument for _, player in self._players}) < mixing.max_sources:
            raise DataError(
                f"a pool of clips must hold {mixing.max_sources} different instruments that sound",
                got=f"{len({player.instrument for _, player in self._players})} in {len(self.clips)} clips",
                fix="raise mixing.pool_clips, lower mixing.max_sources, or write a larger corpus",
            )

    def draw(self, rng: np.random.Generator, anchor: Clip, count: int, aligned: bool) -> Mixture:
        """A mixture of `count` players; the first is of `anchor` (all are, where aligned and it has that many)."""
        voices = _sounding(anchor)
        aligned = aligned and len(voices) >= count
        if aligned:
            chosen = [(anchor, voices[index]) for index in rng.permutation(len(voices))[:count]]
            start = self._start(rng, *chosen[0])
            sources = [self._source(rng, clip, player, start) for clip, player in chosen]
        else:
            chosen = self._independent(rng, (anchor, voices[rng.integers(len(voices))]), count)
            sources = [self._source(rng, clip, player, self._start(rng, clip, player)) for clip, player in chosen]
        labels = {source.label for source in sources}
        others = [pair for pair in self._players if pair[1].instrument not in labels]
        distractors = []
        # A label that does not sound needs no player; a picture of somebody who rests does.
        if self.cue in {"frames", "features"} and others:
            clip, player = others[rng.integers(len(others))]
            distractors.append(self._source(rng, clip, player, self._start(rng, clip, player)))
        return Mixture(tuple(sources), tuple(distractors), aligned)

    def _independent(
        self, rng: np.random.Generator, first: tuple[Clip, Player], count: int
    ) -> list[tuple[Clip, Player]]:
        """Players of different instruments; `first` and others of the pool."""
        chosen = [first]
        for index in rng.permutation(len(self._players)):
            if len(chosen) == count:
                break
            pair = self._players[index]
            if pair[1].instrument not in {player.instrument for _, player in chosen}:
                chosen.append(pair)
        return chosen

    def _start(self, rng: np.random.Generator, clip: Clip, player: Player) -> int:
        """Where an output window begins in which the player sounds, as far as a few draws find one."""
        start = 0
        for _ in range(DRAWS_FOR_SOUND):
            start = int(rng.integers(clip.samples - self.window.output_samples + 1))
            if _rms(_stem(player)[:, start : start + self.window.output_samples]) > SILENCE_RMS:
                break
        return start

    def _source(self, rng: np.random.Generator, clip: Clip, player: Player, start: int) -> Source:
        stem = cut(_stem(player), start - self.window.margin, self.window.input_samples, clip.samples)
        gain = 10 ** (rng.uniform(-self.mixing.gain_db, self.mixing.gain_db) / 20)
        sign = -1.0 if self.mixing.flip_polarity and rng.random() < 0.5 else 1.0
        stem = stem * np.float32(gain * sign)
        if self.mixing.equaliser_db:
            stem = equalise(stem, rng.uniform(-self.mixing.equaliser_db, self.mixing.equaliser_db, EQUALISER_BANDS))
        return Source(player.instrument, stem, self._cue(clip, player, start), clip.key, clip.piece, player.timbre)

    def _cue(self, clip: Clip, player: Player, start: int) -> np.ndarray | None:
        if self.cue not in {"frames", "features"}:
            return None
        array = player.picture if self.cue == "frames" else player.features
        if array is None:
            raise DataError(
                f"model.context: {self.cue} needs {'a picture' if self.cue == 'frames' else self.cue} of every player",
                got=f"none for {player.part} in {clip.key}",
                fix="set model.context: labels" if self.cue == "frames" else "run `vimss features` for this recipe",
            )
        times = cue_times(self.window, len(array) / (clip.samples / clip.sample_rate))
        seconds = times + (start - self.window.margin) / clip.sample_rate
        rate = len(array) / (clip.samples / clip.sample_rate)
        return array[np.clip(np.floor(seconds * rate).astype(int), 0, len(array) - 1)]


class Examples:
    """The endless, repeatable sequence of training batches of one split."""

    def __init__(
        self, manifest: Manifest, split: str, mixing: MixingConfig, window: Window, asking: Asking, seed: int
    ) -> None:
        longest = manifest.recipe.clip_samples
        if window.output_samples > longest:
            raise ConfigError(
                f"the output window must fit into the clips of '{manifest.name}', which have {longest} samples",
                got=f"training.output_samples: {window.output_samples}",
                fix="choose a shorter window, or a recipe with longer clips",
            )
        self.manifest = manifest
        self.split = split
        self.mixing = mixing
        self.window = window
        self.asking = asking
        self.seed = seed

    def batches_per_epoch(self, epoch: int, batch_size: int, world_size: int) -> int:
        """The same number for every rank: what the rank with the fewest clips can fill."""
        clips = [sum(shard.clips for shard in self._shards(epoch, rank, world_size)) for rank in range(world_size)]
        batches = min(clips) * self.mixing.windows_per_clip // batch_size
        if batches == 0:
            raise ConfigError(
                f"every worker must have at least one batch of {batch_size} per epoch",
                got=f"{world_size} workers, the one with the fewest shards having {min(clips)} clips",
                fix="use fewer workers, a smaller batch, or write more shards with a smaller clips_per_shard",
            )
        return batches

    def batches(
        self, batch_size: int, position: Position, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[Batch, Position]]:
        """Batches of `batch_size` mixtures for this rank from `position` on, each with the position after it."""
        epoch, start = position.epoch, position.batch
        while True:
            count = self.batches_per_epoch(epoch, batch_size, world_size)
            mixtures = self._mixtures(epoch, rank, world_size, start * batch_size)
            for number in range(start, count):
                drawn = [next(mixtures) for _ in range(batch_size)]
                rng = np.random.default_rng((self.seed, epoch, rank, number, 1))
                yield make_batch(drawn, self.window, self.asking, self.mixing, rng), Position(epoch, number + 1)
            epoch, start = epoch + 1, 0

    def _mixtures(self, epoch: int, rank: int, world_size: int, skip: int) -> Iterator[Mixture]:
        number = 0
        for pool in self._pools(epoch, rank, world_size):
            order = np.random.default_rng((self.seed, epoch, rank, number)).permutation(len(pool.clips))
            for _ in range(self.mixing.windows_per_clip):
                for index in order:
                    if number >= skip:
                        rng = np.random.default_rng((self.seed, epoch, rank, number, 0))
                        count = int(rng.integers(self.mixing.min_sources, self.mixing.max_sources + 1))
                        yield pool.draw(rng, pool.clips[index], count, bool(rng.random() < self.mixing.aligned_share))
                    number += 1
        # Clips too short for the window leave an epoch short of mixtures; the last pool fills it.
        while True:
            rng = np.random.default_rng((self.seed, epoch, rank, number, 0))
            yield pool.draw(rng, pool.clips[number % len(pool.clips)], self.mixing.min_sources, aligned=False)
            number += 1

    def _pools(self, epoch: int, rank: int, world_size: int) -> Iterator[Pool]:
        held: list[Clip] = []
        shards = self._shards(epoch, rank, world_size)
        left = sum(shard.clips for shard in shards)
        for clip in read_clips(self.manifest, self.split, shards, self.asking.parts, self.asking.features):
            held.append(clip)
            left -= 1
            # A short last pool would have too few instruments: it joins the one before.
            if len(held) >= self.mixing.pool_clips and left >= self.mixing.pool_clips:
                yield Pool(held, self.mixing, self.window, self.asking.context)
                held = []
        yield Pool(held, self.mixing, self.window, self.asking.context)

    def _shards(self, epoch: int, rank: int, world_size: int) -> list[Any]:
        shards = self.manifest.of_split(self.split)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(shards))
        return [shards[index] for index in order[rank::world_size]]


def fixed_mixtures(
    manifest: Manifest,
    split: str,
    counts: Sequence[tuple[int, bool]],
    window: Window,
    asking: Asking,
    seed: int = 0,
) -> list[Mixture]:
    """The same mixtures for everybody: one per (number of sources, aligned) of `counts`."""
    mixing = MixingConfig(min_sources=1, max_sources=max(count for count, _ in counts), flip_polarity=False)
    clips = list(read_clips(manifest, split, None, asking.parts, asking.features))
    pool = Pool(clips, mixing, window, asking.context)
    mixtures = []
    for number, (count, aligned) in enumerate(counts):
        rng = np.random.default_rng((seed, number))
        able = [clip for clip in pool.clips if not aligned or len(_sounding(clip)) >= count]
        if not able:
            raise DataError(
                f"the split '{split}' must have a clip with {count} sounding players",
                got="none",
                fix="write a larger corpus",
            )
        mixtures.append(pool.draw(rng, able[rng.integers(len(able))], count, aligned))
    return mixtures


def make_batch(
    mixtures: Sequence[Mixture], window: Window, asking: Asking, mixing: MixingConfig, rng: np.random.Generator
) -> Batch:
    """Arrays of a batch: what `asking` says about outputs and context."""
    examples = [_example(mixture, window, asking, mixing, rng) for mixture in mixtures]
    context: np.ndarray | None = None
    players: np.ndarray | None = None
    if asking.context == "labels":
        context = np.stack([example.context for example in examples])
    elif asking.context in {"frames", "features"}:
        most = max(len(example.context) for example in examples)
        context = np.stack([_pad(example.context, most) for example in examples])
        players = np.array([[index < len(example.context) for index in range(most)] for example in examples])
    return Batch(
        mixture=np.stack([mixture.sound for mixture in mixtures]),
        targets=np.stack([example.targets for example in examples]),
        present=np.stack([example.present for example in examples]),
        context=context,
        players=players,
    )


def whole_batch(mixture: Mixture, window: Window, asking: Asking) -> Batch:
    """A batch of one in which every source is asked for exactly once, for validation."""
    queries = MixingConfig(queries=len(mixture.sources), absent_share=0.0)
    return make_batch([mixture], window, asking, queries, np.random.default_rng(0))


@dataclass(frozen=True, eq=False)
class _Example:
    targets: Float32[np.ndarray, "s c u"]
    present: Bool[np.ndarray, " s"]
    context: Any


def _example(
    mixture: Mixture, window: Window, asking: Asking, mixing: MixingConfig, rng: np.random.Generator
) -> _Example:
    inner = slice(window.margin, window.margin + window.output_samples)
    by_label = _sum_by_label(mixture)
    silence = np.zeros_like(mixture.sources[0].stem)
    cues = asking.context in {"frames", "features"}
    if asking.outputs == "slots":
        stems = [source.stem for source in mixture.sources]
        if len(stems) > asking.slots:
            raise ConfigError(
                "a network with slots must have one for each source",
                got=f"model.slots: {asking.slots} and a mixture of {len(stems)}",
                fix="raise model.slots or lower mixing.max_sources",
            )
        stems += [silence] * (asking.slots - len(stems))
        context: Any = None
    elif asking.outputs == "instruments":
        stems = [by_label.get(label, silence) for label in asking.labels]
        context = (
            [source.cue for source in mixture.sources]
            if cues
            else np.array([[label in by_label for label in asking.labels]], np.float32)
        )
    else:
        asked = _queries(mixture, asking, mixing, rng)
        if cues:
            stems = [silence if source in mixture.distractors else source.stem for source in asked]
            context = [source.cue for source in asked]
        else:
            names = [source if isinstance(source, str) else source.label for source in asked]
            stems = [by_label.get(name, silence) for name in names]
            context = np.array([[label == name for label in asking.labels] for name in names], np.float32)
    targets = np.stack([stem[:, inner] for stem in stems])
    present = np.sqrt(np.mean(targets**2, axis=(1, 2))) > SILENCE_RMS
    return _Example(targets, present, context)


def _queries(mixture: Mixture, asking: Asking, mixing: MixingConfig, rng: np.random.Generator) -> list[Any]:
    """Whom to ask for: sources of the mixture in random order, some replaced by someone who is not in it."""
    distinct = list(mixture.sources)
    if asking.context == "labels":
        distinct = list({source.label: source for source in mixture.sources}.values())
    absent: list[Any] = list(mixture.distractors)
    if asking.context == "labels":
        labels = {source.label for source in distinct}
        absent = [label for label in asking.labels if label not in labels]
    order = [distinct[index] for index in rng.permutation(len(distinct))]
    asked: list[Any] = []
    for number in range(mixing.queries):
        wants_absent = number >= len(order) or rng.random() < mixing.absent_share
        asked.append(absent[rng.integers(len(absent))] if wants_absent and absent else order[number % len(order)])
    return asked


def _sum_by_label(mixture: Mixture) -> dict[str, np.ndarray]:
    """Two players of one instrument are one stem for whoever asks by label."""
    stems: dict[str, np.ndarray] = {}
    for source in mixture.sources:
        stems[source.label] = stems[source.label] + source.stem if source.label in stems else source.stem
    return stems


def cut(audio: Int16[np.ndarray, "c t"], start: int, length: int, samples: int) -> Float32[np.ndarray, "c u"]:
    """`length` samples of a stem from `start`, as floats; silence before its beginning and after its end."""
    out = np.zeros((audio.shape[0], length), np.float32)
    first, last = max(start, 0), min(start + length, samples)
    if first < last:
        out[:, first - start : last - start] = audio[:, first:last]
    return out / np.float32(32768)


def equalise(stem: Float32[np.ndarray, "c t"], gains_db: np.ndarray) -> Float32[np.ndarray, "c t"]:
    """A smooth equaliser: gains at octaves below the Nyquist frequency, interpolated on a logarithmic axis."""
    spectrum = np.fft.rfft(stem, axis=-1)
    octave = np.log2(np.linspace(0, 1, spectrum.shape[-1]) + 2.0**-EQUALISER_BANDS)
    curve = np.interp(octave, np.arange(-len(gains_db) + 1, 1), gains_db)
    return np.fft.irfft(spectrum * 10 ** (curve / 20), stem.shape[-1], axis=-1).astype(np.float32)


def cue_times(window: Window, frame_rate: float) -> np.ndarray:
    """Seconds from the window's begin at which a time-varying context is sampled: (j + 1/2) / v of the input window."""
    seconds = window.input_samples / window.sample_rate
    count = max(1, round(seconds * frame_rate))
    return (np.arange(count) + 0.5) * seconds / count


def _pad(cues: Sequence[np.ndarray], count: int) -> np.ndarray:
    return np.stack([*cues, *[np.zeros_like(cues[0])] * (count - len(cues))])


def _sounding(clip: Clip) -> list[Player]:
    return [player for player in clip.players if player.audio is not None]


def _stem(player: Player) -> Int16[np.ndarray, "c t"]:
    assert player.audio is not None, "only sounding players are drawn"  # noqa: S101
    return player.audio


def _rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean((audio / 32768.0) ** 2))) if audio.size else 0.0
