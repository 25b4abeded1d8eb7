"""From mixtures to batches of arrays, in a sequence that can be repeated.

    examples = Examples(manifest, "train", mixing, window, interface, seed=0)
    for batch, after in examples.batches(batch_size=4, position=Position(), rank=0, world_size=1): ...

The sequence is a function of (seed, epoch, rank, world size). Resuming is therefore a position in it, and planning,
which decides everything but what the generators of batches and mixtures draw, begins there without decoding anything.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64

from vimss.errors import ConfigError
from vimss.shards.manifest import Manifest
from vimss.stream.config import MixingConfig
from vimss.stream.corpus import Corpus, PlannedMixture
from vimss.stream.mix import Mixture, PlayerViews, Source, Window, mix
from vimss.stream.read import Damage
from vimss.stream.stems import sounds

LOWEST_RMS = 1e-5
"""-100 dB: mixtures that are silent have a level too."""


@runtime_checkable
class NetworkInterface(PlayerViews, Protocol):
    """The inputs of a network beside the mixture, and its targets: see `vimss.model.interface`."""

    def prepare(self, manifest: Manifest, folder: str = "") -> str:
        """The folder beside the shards whose arrays are read as features, checked; empty where none are."""

    def num_outputs(self, queries: int = 1) -> int:
        """Number of outputs, for that many queries where the network takes queries."""

    def query(
        self, mixture: Mixture, mixing: MixingConfig, rng: np.random.Generator
    ) -> tuple[list[Sequence[Source]], list[np.ndarray]]:
        """For each output the sources that it must be the sum of, and the rows of their context."""

    def join(
        self, contexts: Sequence[Sequence[np.ndarray]]
    ) -> tuple[np.ndarray | None, Bool[np.ndarray, "b p"] | None]:
        """The context of a batch from the rows of each example, and which of its players are real."""


@runtime_checkable
class NamesPlayers(Protocol):
    """An interface that also says what players its context shows."""

    def labels_shown(self, mixture: Mixture) -> list[int]:
        """The number of the label of each player, in the order of the context."""


@runtime_checkable
class NamesTargets(Protocol):
    """An interface whose targets are of labels, also where its outputs are not."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, in the order of their numbers."""


@dataclass(frozen=True)
class Position:
    """A place in the sequence of batches."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of arrays; shapes in the axis letters of `vimss`."""

    mixture: Float32[np.ndarray, "b c t"]
    targets: Float32[np.ndarray, "b s c u"]
    present: Bool[np.ndarray, "b s"]
    context: np.ndarray | None
    """labels "b q i", features "b p v d", frames "b p v h w 3"."""
    players: Bool[np.ndarray, "b p"] | None
    peak_limited: Bool[np.ndarray, " b"]
    """Mixtures whose peak would have exceeded full scale."""
    shown: Int64[np.ndarray, "b p"] | None = None
    """Number of the label of each player in the context, for interfaces that name them; any number where none is."""
    labels: Int64[np.ndarray, "b s"] | None = None
    """Number of the label of each target, for interfaces that name them; any number where the target is silence."""

    def part(self, chosen: slice) -> "Batch":
        """Some of the examples."""
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: array[chosen] for name, array in arrays.items() if array is not None})


@dataclass(frozen=True, eq=False)
class PlannedBatch:
    """A batch that is decided, and not decoded."""

    mixtures: tuple[PlannedMixture, ...]
    seed: tuple[int, ...]
    """What seeds the generators of the batch begin with."""
    after: Position
    """The position after it."""


class Examples:
    """The endless, repeatable sequence of training batches of one split.

    A manifest with `more` corpora gives some of the mixtures to each of them: which, a generator of the epoch decides.
    Their first player is of that corpus, and others may be of the manifest's own, whose epochs count.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        mixing: MixingConfig,
        window: Window,
        interface: NetworkInterface,
        seed: int,
    ) -> None:
        self.manifest = manifest
        self.window = window
        self.interface = interface
        self.mixing = mixing
        self.seed = seed
        self.damage = Damage(sum(one.clips(split) for one in (manifest, *(other for other, _ in manifest.more))))
        self.corpus = Corpus(manifest, split, mixing, window, interface, seed, self.damage)
        self.more = [Corpus(other, split, mixing, window, interface, seed, self.damage) for other, _ in manifest.more]
        shares = [share for _, share in manifest.more]
        self.shares = [1 - sum(shares), *shares]

    def batches_per_epoch(self, epoch: int, batch_size: int, world_size: int) -> int:
        """The same number for every rank: what the rank with the fewest clips can fill."""
        for corpus in (self.corpus, *self.more):
            clips = corpus.fewest_clips(epoch, world_size)
            if clips * self.mixing.windows_per_clip < (batch_size if corpus is self.corpus else 1):
                shorter = max(1, corpus.manifest.clips(corpus.split) // (2 * world_size))
                raise ConfigError(
                    f"every worker must have at least one batch of {batch_size} per epoch",
                    got=f"{world_size} workers, of which one has {clips} clips of '{corpus.manifest.name}'",
                    fix="use fewer workers, a smaller batch, or more shards: "
                    f"`vimss shard {corpus.manifest.name} --set clips_per_shard={shorter}`, and the same in its recipe",
                )
        return self.corpus.fewest_clips(epoch, world_size) * self.mixing.windows_per_clip // batch_size

    def batches(
        self, batch_size: int, position: Position, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[Batch, Position]]:
        """Batches of `batch_size` mixtures for this rank from `position` on, each with the position after it."""
        for planned in self.plan(batch_size, position, rank, world_size):
            yield self.make(planned), planned.after

    def plan(self, batch_size: int, position: Position, rank: int = 0, world_size: int = 1) -> Iterator[PlannedBatch]:
        """What `make` needs for each batch: it reads the clips that a pool needs, and decodes nothing."""
        epoch, start = position.epoch, position.batch
        while True:
            count = self.batches_per_epoch(epoch, batch_size, world_size)
            wanted = range(start * batch_size, count * batch_size)
            mixtures = self._mixtures(epoch, rank, world_size, wanted, count * batch_size)
            for number in range(start, count):
                seed = (self.seed, epoch, rank, number)
                yield PlannedBatch(tuple(islice(mixtures, batch_size)), seed, Position(epoch, number + 1))
            epoch, start = epoch + 1, 0

    def make(self, planned: PlannedBatch) -> Batch:
        """A batch as planned; in any order, and in several threads at once, which share what they decode."""
        drawn = (mixture.draw() for mixture in planned.mixtures)
        size, rng = len(planned.mixtures), np.random.default_rng((*planned.seed, 1))
        mixtures = self._remixed(drawn, (*planned.seed, 2))
        return make_batch(mixtures, size, self.window, self.interface, self.mixing, rng)

    def _mixtures(
        self, epoch: int, rank: int, world_size: int, wanted: Sequence[int], count: int
    ) -> Iterator[PlannedMixture]:
        """Those of an epoch's `count` mixtures that are wanted, in order."""
        most = most_sources(self.mixing, epoch)
        if not self.more:
            yield from self.corpus.mixtures(epoch, rank, world_size, wanted, most)
            return
        choice = np.random.default_rng((self.seed, epoch, rank, 3)).choice(len(self.shares), count, p=self.shares)
        numbers = [number for number in wanted if choice[number] == 0]
        sources = [self.corpus.mixtures(epoch, rank, world_size, set(numbers), most)]
        for index, corpus in enumerate(self.more, start=1):
            before = np.cumsum(choice == index) - 1
            numbers = [int(before[number]) for number in wanted if choice[number] == index]
            sources.append(corpus.joined_mixtures(self.corpus, epoch, rank, world_size, numbers, most, count))
        for number in wanted:
            yield next(sources[choice[number]])

    def _remixed(self, mixtures: Iterable[Mixture], seed: tuple[int, ...]) -> Iterable[Mixture]:
        """In some batches, the mixtures with their stems in other places; the others are drawn one by one."""
        if not self.mixing.remix_probability:
            return mixtures
        rng = np.random.default_rng(seed)
        return remix(list(mixtures), rng) if rng.random() < self.mixing.remix_probability else mixtures


def most_sources(mixing: MixingConfig, epoch: int) -> int:
    """The most players of a mixture in an epoch: fewer in the first ones, where there is a curriculum."""
    if epoch >= mixing.curriculum_epochs:
        return mixing.max_sources
    return mixing.min_sources + (mixing.max_sources - mixing.min_sources) * epoch // mixing.curriculum_epochs


def remix(mixtures: Sequence[Mixture], rng: np.random.Generator) -> list[Mixture]:
    """The same stems in other mixtures, as Demucs does it (Défossez et al. 2019).

    Each changes places with another one, where that gives no mixture an instrument twice, or that of its distractor.
    """
    sources = [list(mixture.sources) for mixture in mixtures]
    taken = [{player.label for player in mixture.distractors} for mixture in mixtures]

    def fits(row: int, place: int, source: Source) -> bool:
        others = {other.label for index, other in enumerate(sources[row]) if index != place}
        return source.label not in others | taken[row]

    places = [(row, place) for row, chosen in enumerate(sources) for place in range(len(chosen))]
    for (row, place), index in zip(places, rng.integers(len(places), size=len(places)), strict=True):
        other_row, other_place = places[index]
        one, other = sources[row][place], sources[other_row][other_place]
        if row != other_row and fits(row, place, other) and fits(other_row, other_place, one):
            sources[row][place], sources[other_row][other_place] = other, one
    return [
        mixture if chosen == list(mixture.sources) else mix(chosen, mixture.distractors, aligned=False)
        for chosen, mixture in zip(sources, mixtures, strict=True)
    ]


def make_batch(
    mixtures: Iterable[Mixture],
    size: int,
    window: Window,
    interface: NetworkInterface,
    mixing: MixingConfig,
    rng: np.random.Generator,
) -> Batch:
    """Arrays of a batch of `size` mixtures, with the outputs and the context of `interface`.

    Each mixture is let go before the next is drawn: then its memory is used again, and is still in the cache.
    """
    outputs = interface.num_outputs(mixing.queries)
    remaining = iter(mixtures)
    first = next(remaining)
    channels = len(first.sound)
    sound, targets = _together((size, channels, window.input_samples), (size, outputs, channels, window.output_samples))
    present = np.zeros((size, outputs), bool)
    peak_limited = np.zeros(size, bool)
    named = interface.labels if isinstance(interface, NamesTargets) else ()
    labels = np.zeros((size, outputs), np.int64)
    contexts, players_shown = [], []
    for row, mixture in enumerate(chain([first], remaining)):
        sound[row] = mixture.sound
        peak_limited[row] = mixture.peak_limited
        summed, rows = interface.query(mixture, mixing, rng)
        contexts.append(rows)
        if isinstance(interface, NamesPlayers):
            players_shown.append(interface.labels_shown(mixture))
        for output, sources in enumerate(summed):
            _add_up(sources, window, targets[row, output])
            present[row, output] = bool(sources) and sounds(targets[row, output], full_scale=1.0)
            if named and sources:
                labels[row, output] = named.index(sources[0].label)
    context, players = interface.join(contexts)
    shown = None
    if players is not None and players_shown:
        shown = np.zeros(players.shape, np.int64)
        shown[players] = list(chain.from_iterable(players_shown))
    return Batch(sound, targets, present, context, players, peak_limited, shown, labels if named else None)


def whole_batch(mixture: Mixture, window: Window, interface: NetworkInterface) -> Batch:
    """A batch of one in which every source is queried exactly once, for validation."""
    queries = MixingConfig(queries=len(mixture.sources), absent_probability=0.0)
    return make_batch([mixture], 1, window, interface, queries, np.random.default_rng(0))


def _together(*shapes: tuple[int, ...]) -> list[Float32[np.ndarray, "..."]]:
    """Arrays in one piece of memory: from 4 MB on, numpy requests huge pages (650 windows a second become 1,500)."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    memory = np.empty(ends[-1], np.float32)
    return [part.reshape(shape) for part, shape in zip(np.split(memory, ends[:-1]), shapes, strict=True)]


def _add_up(sources: Sequence[Source], window: Window, target: Float32[np.ndarray, "c u"]) -> None:
    """Write the sum of the sources in the output window; of no sources, silence."""
    inner = slice(window.margin, window.margin + window.output_samples)
    target[:] = sources[0].stem[:, inner] if sources else 0
    for source in sources[1:]:
        target += source.stem[:, inner]


class Levels:
    """How loud the mixtures of some batches are, and how many were peak-limited."""

    def __init__(self) -> None:
        self.mixtures = 0
        self.peak_limited = 0
        self.rms = 0.0

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.mixtures += len(batch.mixture)
        self.peak_limited += int(batch.peak_limited.sum())
        self.rms += sum(math.sqrt(np.vdot(sound, sound) / sound.size) for sound in batch.mixture)

    def metrics(self) -> dict[str, float]:
        """Mean RMS in dB below full scale, and the share of mixtures that were peak-limited."""
        count = max(self.mixtures, 1)
        level = 20 * math.log10(max(self.rms / count, LOWEST_RMS))
        return {"mixture_level_db": level, "peak_limited": self.peak_limited / count}
