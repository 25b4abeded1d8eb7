"""The mixtures of one corpus: its shards, read into pools of clips, from which mixtures are drawn.

    for planned in corpus.mixtures(epoch=0, rank=0, world_size=1, wanted=range(100, 200), most=2):
        mixture = planned.draw()      # in any thread, in any order

A shard is read by one rank, every clip is the anchor of `windows_per_clip` mixtures per epoch, and each mixture is
drawn by a generator of its own, seeded by its number. So planning needs the JSON of the clips alone: pools without a
wanted mixture are not read, and of the others a clip is decoded when the first mixture needs it.

A decoded clip stays until its pool is left. Four players of 160 pixels, 12.5 pictures a second, 30 s, are 115 MB: a
pool of 64 such clips is 7.4 GB. Decoding each example's stretch anew would need none of it, but 3 to 4 times as many
pictures: 84 to 139 of each of 3 players for a mixture, against 4 x 375 for a clip and its 16 mixtures.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakValueDictionary

import numpy as np

from vimss.errors import ConfigError
from vimss.shards.manifest import Manifest, Shard
from vimss.stream.config import MixingConfig
from vimss.stream.lazy import ClipEntry, LazyClip
from vimss.stream.mix import Mixture, PlayerViews, Pool, Window, instruments_of, usable
from vimss.stream.read import Damage, lazy_clips, list_shard

LISTED_SHARDS = 1024
"""Shards whose metadata is kept from epoch to epoch: about 1 kB per clip."""


@dataclass(frozen=True, eq=False)
class PlannedMixture:
    """A mixture up to what its own generator draws."""

    pool: Pool
    anchor: LazyClip
    seed: tuple[int, ...]
    most: int
    """Most players."""

    def draw(self) -> Mixture:
        """The mixture; it decodes clips of the pool that no other mixture has needed."""
        rng, mixing = np.random.default_rng(self.seed), self.pool.mixing
        count = int(rng.integers(mixing.min_sources, self.most + 1))
        return self.pool.draw(rng, self.anchor, count, bool(rng.random() < mixing.aligned_probability))


@dataclass(frozen=True)
class _PoolPlan:
    """The clips of a pool."""

    held: int
    """Their number with those that cannot be used: too short, or without stems."""
    clips: tuple[ClipEntry, ...]


class Corpus:
    """One split of a manifest as mixtures."""

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        mixing: MixingConfig,
        window: Window,
        views: PlayerViews,
        seed: int,
        damage: Damage,
    ) -> None:
        longest = manifest.recipe.clip_samples
        if window.output_samples > longest:
            raise ConfigError(
                f"the output window must fit into the clips of '{manifest.name}', which have {longest} samples",
                got=f"training.output_samples: {window.output_samples}",
                fix="choose a shorter window, or a recipe with longer clips",
            )
        if mixing.swap_channels and manifest.recipe.channels == 1:
            raise ConfigError(
                "mixing.swap_channels needs stems of two channels",
                got=f"the recipe of '{manifest.name}' with channels: 1",
                fix="set mixing.swap_channels: false, or channels: 2 in the recipe",
            )
        self.manifest = manifest
        self.split = split
        self.mixing = mixing
        self.window = window
        self.views = views
        self.seed = seed
        self.damage = damage
        self._list = lru_cache(maxsize=LISTED_SHARDS)(self._list_shard)
        self._in_use: WeakValueDictionary[tuple[str, str], LazyClip] = WeakValueDictionary()
        """The clips of pools that are planned or drawn from: the first pool also has the partners of other corpora."""

    def fewest_clips(self, epoch: int, world_size: int) -> int:
        """Clips of the rank that has the fewest."""
        return min(sum(shard.clips for shard in self.shards(epoch, rank, world_size)) for rank in range(world_size))

    def mixtures(
        self,
        epoch: int,
        rank: int,
        world_size: int,
        wanted: Collection[int],
        most: int,
        partner_clips: Sequence[LazyClip] = (),
    ) -> Iterator[PlannedMixture]:
        """The mixtures of an epoch with the wanted numbers, in order, of `most` players at most.

        Players of `partner_clips`, clips of another corpus, may join those of this one.
        """
        first = 0
        for plan in self._plans(epoch, rank, world_size, partner_clips):
            # Unusable clips count too: others of the pool are anchors in their place.
            end = first + plan.held * self.mixing.windows_per_clip
            numbers = [number for number in range(first, end) if number in wanted]
            if numbers:
                pool = self._pool(plan, partner_clips)
                order = np.random.default_rng((self.seed, epoch, rank, first)).permutation(len(pool.clips))
                for number in numbers:
                    anchor = pool.clips[order[(number - first) % len(order)]]
                    yield PlannedMixture(pool, anchor, (self.seed, epoch, rank, number, 0), most)
                # Let go of it before the next one is read.
                del pool, anchor
            first = end
        # Damaged clips leave an epoch short of mixtures; the last pool fills it.
        pool = self._pool(plan, partner_clips)
        for number in itertools.count(first):
            if number in wanted:
                anchor = pool.clips[number % len(pool.clips)]
                yield PlannedMixture(pool, anchor, (self.seed, epoch, rank, number, 0), most)

    def joined_mixtures(
        self, other: "Corpus", epoch: int, rank: int, world_size: int, numbers: Sequence[int], most: int, count: int
    ) -> Iterator[PlannedMixture]:
        """The mixtures with these ascending numbers of an epoch of another corpus, which has `count` at most.

        Such an epoch is made of as many epochs of this corpus as it takes. Players of the other one's first pool join
        those of this one: it may hold a single instrument.
        """
        if not numbers:
            return
        partner_clips = other.first_pool(epoch, rank, world_size)
        capacity = self.fewest_clips(epoch, world_size) * self.mixing.windows_per_clip
        epochs = -(-count // capacity)
        for number in range(epochs):
            wanted = {place - number * capacity for place in numbers if place // capacity == number}
            drawn = self.mixtures(epoch * epochs + number, rank, world_size, wanted, most, partner_clips)
            for _ in wanted:
                yield next(drawn)

    def first_pool(self, epoch: int, rank: int, world_size: int) -> list[LazyClip]:
        """The clips that a rank meets first in an epoch."""
        return self._pool(next(self._plans(epoch, rank, world_size, ())), ()).clips

    def _plans(self, epoch: int, rank: int, world_size: int, partner_clips: Sequence[LazyClip]) -> Iterator[_PoolPlan]:
        """The pools of an epoch, by the metadata of the clips."""
        partners = [clip.entry for clip in partner_clips]
        held: list[ClipEntry] = []
        shards = self.shards(epoch, rank, world_size)
        left = sum(shard.clips for shard in shards)
        for entry in itertools.chain.from_iterable(map(self._list, shards)):
            held.append(entry)
            left -= 1
            # Merge a short final pool into the previous one, and a pool with too few instruments into the next
            # one.
            enough = len(held) >= self.mixing.pool_clips and left >= self.mixing.pool_clips
            own = self._usable(held) if enough else ()
            if own and len(instruments_of([*own, *partners])) >= self.mixing.max_sources:
                yield _PoolPlan(len(held), own)
                held = []
        yield _PoolPlan(len(held), self._usable(held))

    def _usable(self, clips: Sequence[ClipEntry]) -> tuple[ClipEntry, ...]:
        return tuple(clip for clip in clips if usable(clip, self.window))

    def _list_shard(self, shard: Shard) -> tuple[ClipEntry, ...]:
        return list_shard(self.manifest, shard, self.views.members, self.damage)

    def _pool(self, plan: _PoolPlan, partner_clips: Sequence[LazyClip]) -> Pool:
        """The pool of a plan; reads the members of its clips, and decodes nothing."""
        shards = {shard.name: shard for shard in self.manifest.of_split(self.split)}
        clips = []
        for name, entries in itertools.groupby(plan.clips, lambda entry: entry.shard):
            clips += self._lazy(shards[name], list(entries))
        return Pool(clips, self.mixing, self.window, self.views, partner_clips)

    def _lazy(self, shard: Shard, entries: Sequence[ClipEntry]) -> list[LazyClip]:
        """Clips of a shard, those that are in use as they are."""
        found = {entry.key: self._in_use.get((shard.name, entry.key)) for entry in entries}
        missing = [entry for entry in entries if found[entry.key] is None]
        if missing:
            for clip in lazy_clips(self.manifest, shard, missing, self.views.members, self.views.features):
                self._in_use[shard.name, clip.entry.key] = found[clip.entry.key] = clip
        return [clip for clip in found.values() if clip is not None]

    def shards(self, epoch: int, rank: int, world_size: int) -> list[Shard]:
        """The shards that a rank reads in an epoch."""
        shards = self.manifest.of_split(self.split)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(shards))
        return [shards[index] for index in order[rank::world_size]]
