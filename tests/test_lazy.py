"""What is read and decoded, and how often: each clip once, none that a position leaves behind, none twice in memory."""

import shutil
import threading
import weakref
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
from interfaces import interface

from vimss.errors import DataError
from vimss.shards.clip import Clip
from vimss.stream import corpus as corpus_module
from vimss.stream import read as read_module
from vimss.stream.batch import Examples, Position
from vimss.stream.config import MixingConfig
from vimss.stream.lazy import LazyClip
from vimss.stream.mix import Window
from vimss.stream.read import list_clips
from vimss.train.loader import load

WINDOW = Window(input_samples=1200, output_samples=800, sample_rate=8000)
POOL = 3
MIXING = MixingConfig(pool_clips=POOL, windows_per_clip=2)


def examples(manifest, context="labels", mixing=MIXING) -> Examples:
    return Examples(manifest, "train", mixing, WINDOW, interface(context=context, labels=manifest.recipe.labels), 3)


class Decoded:
    """The clips that were decoded, and how many of them were alive at once."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.alive = self.most = 0
        self._lock = threading.Lock()

    def add(self, clip: Clip) -> Clip:
        with self._lock:
            self.keys.append(clip.key)
            self.alive += 1
            self.most = max(self.most, self.alive)
        weakref.finalize(clip, self._gone)
        return clip

    def _gone(self) -> None:
        with self._lock:
            self.alive -= 1


@pytest.fixture
def decoded(monkeypatch) -> Decoded:
    found, decode = Decoded(), read_module.decode_clip
    monkeypatch.setattr(read_module, "decode_clip", lambda *arguments: found.add(decode(*arguments)))
    return found


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_an_epoch_decodes_each_clip_once_whatever_the_number_of_threads(small_manifest, decoded, monkeypatch, workers):
    chosen = examples(small_manifest)
    count = chosen.batches_per_epoch(0, 4, 1)
    # Without an end, a quick thread decodes clips of the next epoch before a slow one has decoded its own.
    planned = Examples.plan
    monkeypatch.setattr(Examples, "plan", lambda *arguments: islice(planned(*arguments), count))
    with closing(load(chosen, 4, Position(), workers=workers)) as batches:
        made = [next(batches).position for _ in range(count)]
    assert made[-1] == Position(0, count)
    assert sorted(decoded.keys) == sorted(clip.key for clip in list_clips(small_manifest, "train"))


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_the_clips_in_memory_do_not_grow_with_the_number_of_threads(small_manifest, decoded, workers):
    # Twelve batches per pool, of which up to eight are made ahead.
    chosen = examples(small_manifest, mixing=MixingConfig(pool_clips=POOL, windows_per_clip=16))
    count = chosen.batches_per_epoch(0, 4, 1) + 12
    with closing(load(chosen, 4, Position(), workers=workers)) as batches:
        for _ in range(count):
            next(batches)
    # The longest pool is the last one, to which fewer than a pool are added; the next one is begun.
    assert POOL < decoded.most < 3 * POOL < small_manifest.clips("train") < len(decoded.keys)


def test_planning_decodes_nothing(small_manifest, decoded):
    chosen = examples(small_manifest)
    planned = list(islice(chosen.plan(4, Position()), 2 * chosen.batches_per_epoch(0, 4, 1)))
    assert planned[-1].after.epoch == 1 and not decoded.keys


def test_resuming_near_the_end_of_an_epoch_decodes_only_clips_of_the_pool_there(small_manifest, decoded, monkeypatch):
    chosen = examples(small_manifest)
    count = chosen.batches_per_epoch(0, 4, 1)
    read: list[str] = []
    lazy_clips = corpus_module.lazy_clips

    def recorded(manifest, shard, entries, *rest):
        read.extend(entry.key for entry in entries)
        return lazy_clips(manifest, shard, entries, *rest)

    monkeypatch.setattr(corpus_module, "lazy_clips", recorded)
    batch, after = next(chosen.batches(4, Position(0, count - 1)))
    assert after == Position(0, count)
    order = [
        entry.key
        for shard in chosen.corpus.shards(0, 0, 1)
        for entry in list_clips(small_manifest.model_copy(update={"shards": (shard,)}), "train")
    ]
    # The last pool holds what is left after whole ones, and one of those.
    assert read == order[-(POOL + len(order) % POOL) :]
    # Four mixtures of two players.
    assert set(decoded.keys) <= set(read) and 0 < len(decoded.keys) <= 4 * 2
    assert batch.mixture.shape[0] == 4


def test_ranks_read_each_clip_once_between_them(small_manifest, decoded):
    by_rank = []
    for rank in range(2):
        decoded.keys.clear()
        chosen = examples(small_manifest, mixing=MixingConfig(pool_clips=4, windows_per_clip=8))
        for _ in islice(chosen.batches(1, Position(), rank, 2), chosen.batches_per_epoch(0, 1, 2)):
            pass
        by_rank.append(list(decoded.keys))
    assert not set(by_rank[0]) & set(by_rank[1])
    both = [*by_rank[0], *by_rank[1]]
    listed = [clip.key for clip in list_clips(small_manifest, "train")]
    # An epoch ends with the rank that has fewer clips; of the other one's last pool some may not have been needed.
    assert len(both) == len(set(both)) and set(both) <= set(listed) and len(both) > 0.8 * len(listed)


def test_partners_from_the_first_pool_are_decoded_once(small_manifest, decoded):
    shards = tuple(
        shard.model_copy(update={"split": "train"}) for shard in small_manifest.shards if shard.split == "promote"
    )
    other = small_manifest.model_copy(update={"shards": shards, "name": "other"})
    chosen = examples(small_manifest.mixed_with([(other, 0.25)]))
    for _ in islice(chosen.batches(4, Position()), POOL * 2 // 4):
        pass
    own = [key for key in decoded.keys if key in {clip.key for clip in list_clips(small_manifest, "train")}]
    assert own and len(own) == len(set(own))


def test_a_split_with_a_damaged_clip_resumes_at_the_same_batches(small_manifest, tmp_path, decoded):
    manifest = small_manifest.model_copy(update={"folder": shutil.copytree(small_manifest.folder, tmp_path / "copy")})
    path = manifest.folder / manifest.of_split("train")[1].name
    content = bytearray(path.read_bytes())
    content[content.index(b"RIFF") + 500] ^= 1
    path.write_bytes(content)
    one, other = examples(manifest), examples(manifest)
    for chosen in (one, other):
        chosen.damage.clips = 1000
    straight = list(islice(one.batches(4, Position()), 20))
    assert one.damage.count == 1
    for (batch, after), (same, place) in zip(straight[9:], other.batches(4, straight[8][1]), strict=False):
        assert after == place
        np.testing.assert_array_equal(batch.mixture, same.mixture)


def test_clips_that_were_read_stay_when_their_shard_goes(small_manifest, tmp_path):
    folder = shutil.copytree(small_manifest.folder, tmp_path / "copy")
    chosen = examples(small_manifest.model_copy(update={"folder": folder}))
    planned = next(chosen.plan(4, Position()))
    for path in folder.glob("*.tar"):
        path.unlink()
    expected = next(examples(small_manifest).batches(4, Position()))[0]
    np.testing.assert_array_equal(chosen.make(planned).mixture, expected.mixture)


def test_a_clip_that_cannot_be_decoded_is_an_error_each_time_and_one_that_can_is_decoded_once():
    calls = []

    def decode() -> Clip:
        calls.append(1)
        if len(calls) < 3:
            raise DataError("a clip must be whole", got="a part", fix="write it again")
        return Clip("p", 0, 1, 8000, ())

    lazy = LazyClip(LazyClip.of(Clip("p", 0, 1, 8000, ())).entry, decode)
    for _ in range(2):
        with pytest.raises(DataError, match="a clip must be whole"):
            lazy.decoded()
    assert lazy.decoded() is lazy.decoded() and len(calls) == 3
