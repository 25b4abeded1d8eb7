"""Batches made ahead by threads are those that the loop would make itself."""

import dataclasses
import shutil
import threading

import numpy as np
import pytest
from interfaces import interface

from vimss.errors import DataError
from vimss.stream.batch import Examples, Position
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Window
from vimss.train.loader import load

WINDOW = Window(input_samples=1200, output_samples=800, sample_rate=8000)


@pytest.fixture
def examples(small_manifest):
    mixing = MixingConfig(pool_clips=4, windows_per_clip=2)
    return Examples(small_manifest, "train", mixing, WINDOW, interface(labels=small_manifest.recipe.labels), seed=3)


def take(examples, count, **where):
    made = load(examples, 4, Position(0, 1), **where)
    return [next(made) for _ in range(count)]


def test_threads_make_the_batches_of_the_loop_in_their_order(examples):
    inline, ahead = take(examples, 11), take(examples, 11, workers=2)
    for one, other in zip(inline, ahead, strict=True):
        assert one.position == other.position and one.lost == other.lost == 0
        for field in dataclasses.fields(one.batch):
            np.testing.assert_array_equal(getattr(one.batch, field.name), getattr(other.batch, field.name))
    expected = next(examples.batches(4, Position(0, 1)))
    np.testing.assert_array_equal(expected[0].targets, inline[0].batch.targets)
    assert inline[0].position == expected[1] == Position(0, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_reading_arrives_as_it_is(examples, tmp_path, workers):
    examples.corpus.manifest = examples.manifest.model_copy(
        update={"folder": shutil.copytree(examples.manifest.folder, tmp_path / "x")}
    )
    for shard in examples.manifest.of_split("train"):
        (tmp_path / "x" / shard.name).unlink()
    with pytest.raises(DataError, match=r"train-\d+.tar must exist; got no such file"):
        take(examples, 1, workers=workers)


def test_lost_clips_are_counted(examples, caplog):
    examples.damage.clips = 1000
    examples.damage.add("a clip", "of the test")
    assert [made.lost for made in take(examples, 2)] == [1, 1]


def test_to_close_the_sequence_ends_the_threads(examples):
    batches = load(examples, 4, Position(), workers=2)
    next(batches)
    assert sum(thread.name.startswith("loader") for thread in threading.enumerate()) == 2
    batches.close()
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())
