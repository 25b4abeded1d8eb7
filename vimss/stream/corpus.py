"""The mixtures of one corpus: its shards, read into pools of clips, from which mixtures are drawn.

A shard is read by one rank, every clip is the anchor of `windows_per_clip` mixtures per epoch, and each mixture is
drawn by a generator of its own, seeded by its number.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from vimss.errors import ConfigError
from vimss.shards.clip import Clip
from vimss.shards.manifest import Manifest, Shard
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Mixture, PlayerViews, Pool, Window, instruments_of, usable
from vimss.stream.read import Damage, read_clips


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
        partner_clips: Sequence[Clip] = (),
    ) -> Iterator[Mixture]:
        """The mixtures of an epoch with the wanted numbers, in order, of `most` players at most.

        Players of `partner_clips`, clips of another corpus, may join those of this one.
        """
        number = 0
        for pool in self._pools(epoch, rank, world_size, partner_clips):
            order = np.random.default_rng((self.seed, epoch, rank, number)).permutation(len(pool.clips))
            # Unusable clips count too: others of the pool are anchors in their place.
            for place in range(pool.held * self.mixing.windows_per_clip):
                if number in wanted:
                    yield self._draw(pool, pool.clips[order[place % len(order)]], (epoch, rank, number), most)
                number += 1
        # Damaged clips leave an epoch short of mixtures; the last pool fills it.
        while True:
            if number in wanted:
                yield self._draw(pool, pool.clips[number % len(pool.clips)], (epoch, rank, number), most)
            number += 1

    def _draw(self, pool: Pool, anchor: Clip, number: tuple[int, int, int], most: int) -> Mixture:
        """The mixture with a number, by a generator of its own."""
        rng = np.random.default_rng((self.seed, *number, 0))
        count = int(rng.integers(self.mixing.min_sources, most + 1))
        return pool.draw(rng, anchor, count, bool(rng.random() < self.mixing.aligned_probability))

    def joined_mixtures(
        self, other: "Corpus", epoch: int, rank: int, world_size: int, numbers: Sequence[int], most: int, count: int
    ) -> Iterator[Mixture]:
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

    def first_pool(self, epoch: int, rank: int, world_size: int) -> list[Clip]:
        """The clips that a rank meets first in an epoch."""
        return next(self._pools(epoch, rank, world_size, ())).clips

    def _pools(self, epoch: int, rank: int, world_size: int, partner_clips: Sequence[Clip]) -> Iterator[Pool]:
        held: list[Clip] = []
        shards = self.shards(epoch, rank, world_size)
        left = sum(shard.clips for shard in shards)
        members, features = self.views.members, self.views.features
        for clip in read_clips(self.manifest, self.split, shards, members, features, self.damage):
            held.append(clip)
            left -= 1
            # Merge a short final pool into the previous one, and a pool with too few instruments into the next
            # one.
            enough = len(held) >= self.mixing.pool_clips and left >= self.mixing.pool_clips
            own = usable(held, self.window) if enough else []
            if own and len(instruments_of([*own, *partner_clips])) >= self.mixing.max_sources:
                yield Pool(held, self.mixing, self.window, self.views, partner_clips)
                held = []
        yield Pool(held, self.mixing, self.window, self.views, partner_clips)

    def shards(self, epoch: int, rank: int, world_size: int) -> list[Shard]:
        """The shards that a rank reads in an epoch."""
        shards = self.manifest.of_split(self.split)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(shards))
        return [shards[index] for index in order[rank::world_size]]
