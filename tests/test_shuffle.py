"""mixing.shuffle_pictures: each player is shown with the pictures of another one, and nothing else changes."""

import numpy as np
import pytest
from interfaces import interface
from test_train import one_thread, run, settings  # noqa: F401 - a fixture that all use

from vimss.errors import DataError
from vimss.model.separator import read_card
from vimss.shards.clip import Clip, Player
from vimss.stream.batch import make_batch
from vimss.stream.config import MixingConfig
from vimss.stream.lazy import LazyClip
from vimss.stream.mix import SOUND_ALONE, Pool, Window

WINDOW = Window(1200, 800, 8000)
MIXING = MixingConfig(aligned_probability=0.5)
SHUFFLED = MIXING.model_copy(update={"shuffle_pictures": True})


def player(label: str, number: int) -> Player:
    """Sound and features that say who it is."""
    audio = np.full((1, 6000), 1000 * number, np.int16)
    rows = np.full((12, 2), number, np.float16)
    return Player(label, f"{label}{number}", audio, features=rows, picture=np.full((12, 2, 2, 3), number, np.uint8))


def clips() -> list[Clip]:
    """Two pieces of three players; the first piece has two clips."""
    first = [player("vn", 1), player("vc", 2), player("vn", 3)]
    second = [player("fl", 4), player("vn", 5), player("vc", 6)]
    rows = [("p", 0, first), ("p", 6000, first), ("q", 0, second)]
    return [Clip(piece, offset, 6000, 8000, tuple(players), 16.0) for piece, offset, players in rows]


def pool(mixing: MixingConfig, context: str = "features", played: list[Clip] | None = None) -> Pool:
    return Pool(list(map(LazyClip.of, played or clips())), mixing, WINDOW, interface(context=context))


def drawn(pool: Pool, count: int = 200) -> list:
    rngs = (np.random.default_rng((7, number)) for number in range(count))
    return [pool.draw(rng, pool.clips[n % 3], 2, aligned=bool(n % 2)) for n, rng in enumerate(rngs)]


def shown(player) -> int:
    """The number of the player who is shown."""
    return int(player.view.flat[0])


def test_the_mixtures_are_the_same_and_only_the_pictures_are_others():
    for right, wrong in zip(drawn(pool(MIXING)), drawn(pool(SHUFFLED)), strict=True):
        np.testing.assert_array_equal(right.sound, wrong.sound)
        assert right.aligned == wrong.aligned
        for one, other in zip((*right.sources, *right.distractors), (*wrong.sources, *wrong.distractors), strict=True):
            assert (one.label, one.clip, one.piece) == (other.label, other.clip, other.piece)
            assert one.view.shape == other.view.shape and shown(one) != shown(other)


@pytest.mark.slow
def test_every_other_player_is_shown_about_as_often():
    pairs = zip(drawn(pool(MIXING), 900), drawn(pool(SHUFFLED), 900), strict=True)
    seen = [
        shown(w) for right, wrong in pairs for r, w in zip(right.sources, wrong.sources, strict=True) if shown(r) == 5
    ]
    # The players of the first piece are in two clips, those of the second in one.
    shares = np.bincount(seen, minlength=7)[1:] / len(seen)
    np.testing.assert_allclose(shares, np.array([2, 2, 2, 1, 0, 1]) / 8, atol=0.06)


@pytest.mark.parametrize("context", ["features", "frames"])
def test_the_context_of_a_batch_has_its_shape_and_its_targets(context):
    batches = []
    for mixing in (MIXING, SHUFFLED):
        mixtures, one = drawn(pool(mixing, context), 8), interface(context=context)
        batches.append(make_batch(mixtures, 8, WINDOW, one, mixing, np.random.default_rng(0)))
    right, wrong = batches
    assert right.context.shape == wrong.context.shape and right.context.dtype == wrong.context.dtype
    assert not np.array_equal(right.context, wrong.context)
    for name in ("mixture", "targets", "present", "players"):
        np.testing.assert_array_equal(getattr(right, name), getattr(wrong, name))


def test_one_player_has_nobody_to_change_pictures_with():
    solo = [Clip("solo", offset, 6000, 8000, (player("vn", 1),), 16.0) for offset in (0, 6000)]
    alone = SHUFFLED.model_copy(update={"min_sources": 1, "max_sources": 1})
    with pytest.raises(
        DataError, match=r"shuffle_pictures needs a second player, .*; got one player in 2 clips of the piece solo"
    ):
        pool(alone, played=solo)
    assert pool(MIXING.model_copy(update={"min_sources": 1, "max_sources": 1}), played=solo).clips
    assert Pool(list(map(LazyClip.of, solo)), alone, WINDOW, SOUND_ALONE).clips


@pytest.mark.slow
def test_a_model_that_was_trained_with_it_says_so(small_manifest, tmp_path):
    looks = {"context": "frames", "vision": {"network": "resnet18", "weights": "random"}}
    for name, mixing in (("right", {}), ("shuffled", {"shuffle_pictures": True})):
        (tmp_path / name).mkdir()
        run(small_manifest, tmp_path / name, settings(model=looks, mixing=mixing))
    cards = [read_card(tmp_path / name / "1" / "model")["card"] for name in ("right", "shuffled")]
    assert [card.get("shuffle_pictures", False) for card in cards] == [False, True]
