"""Recorded mixes against the sum of their stems."""

import dataclasses
import re

import numpy as np
import pytest
from test_shards import clip_of, own_corpus

from vimss.errors import DataError
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import Piece
from vimss.shards.manifest import open_manifest
from vimss.shards.validate import MixAndSum
from vimss.shards.verify import check_shards
from vimss.shards.write import write_shards
from vimss.storage import Store

RNG = np.random.default_rng(0)
LEFT, RIGHT, OTHER = (RNG.integers(-4000, 4000, 32_000).astype(np.int16) for _ in range(3))


def mixed(mix, *stems: np.ndarray, offset: int = 0) -> Clip:
    """Four seconds; two channels where the mix has them."""
    players = tuple(Player("vn", str(place), audio) for place, audio in enumerate(stems))
    return dataclasses.replace(clip_of(*players, samples=mix.shape[1]), mixture=mix.astype(np.int16), offset=offset)


def gap(sound: np.ndarray, begin: int, end: int) -> np.ndarray:
    sound = sound.copy()
    sound[..., begin:end] = 0
    return sound


ONE, TWO = np.stack([LEFT, RIGHT]), np.stack([OTHER, OTHER])
NOISE = RNG.normal(0, 1000, ONE.shape)
NOT_SUM = "the recorded mix is not the sum of the stems: "


@pytest.mark.parametrize(
    ("mix", "odd"),
    [
        (ONE + TWO, ""),
        (0.9 * (ONE + TWO), ""),
        (ONE + TWO + 0.5 * NOISE, ""),
        (0 * ONE, f"p: {NOT_SUM}the mix is silent"),
        (gap(ONE + TWO, 0, 400), ""),
        (
            (ONE + TWO) * [[1], [0]],
            "p: the right channel of the recorded mix is not the sum of the stems: the mix is silent",
        ),
        ((ONE + TWO) * [[0.1], [1]], "p: the left channel of the recorded mix is not .*: it is their sum at -20.0 dB"),
        ((ONE + TWO) / 2, f"p: {NOT_SUM}it is their sum at -6.0 dB"),
        (-(ONE + TWO), f"p: {NOT_SUM}it is their sum with its polarity inverted"),
        (ONE, "p: the recorded mix .*the difference has -3.0 dB of it, where -10 are usual at most"),
        ((ONE + TWO)[::-1], "p: the recorded mix .*: the difference has .0.. dB"),
        (np.roll(ONE + TWO, 5, axis=1), "p: the .*: the difference has"),
        (gap(ONE + TWO, 16_000, 23_000), "p: the .*the difference has -"),
    ],
)
def test_a_mix_is_compared_with_the_sum_of_its_stems_per_channel(mix, odd):
    measure = MixAndSum()
    measure.add(mixed(mix, ONE, TWO))
    told = measure.oddities("p")
    assert bool(told) == bool(odd) and (not odd or re.match(odd, told[0])), told


def test_a_gap_in_a_long_mix_is_named_with_its_second():
    measure = MixAndSum()
    for number in range(10):
        mix = gap(ONE + TWO, 0, 8000) if number == 7 else ONE + TWO
        measure.add(mixed(mix, ONE, TWO, offset=32_000 * number))
    assert measure.oddities("p") == [f"p: {NOT_SUM}they are unlike in 1 of 40 seconds, the first at 28 s"]


def test_a_mix_without_all_stems_or_none_tells_nothing():
    measure = MixAndSum()
    duet = dataclasses.replace(mixed(ONE), players=(Player("vn", "1"), Player("vc", "2", ONE)))
    measure.add(duet)
    measure.add(dataclasses.replace(duet, mixture=None))
    assert measure.oddities("p") == []
    measure.add(dataclasses.replace(duet, players=(Player("vn", "1", silent=True), Player("vc", "2", ONE))))
    assert measure.oddities("p") == []
    measure.add(dataclasses.replace(duet, players=(Player("vn", "1", silent=True), Player("vc", "2", TWO))))
    assert len(measure.oddities("p")) == 1


@pytest.fixture
def odd_mix(monkeypatch):
    """A piece whose mix lacks its right channel, and one that is as it should be."""
    pieces = [Piece("p", "train", "p", 4.0), Piece("q", "valid", "q", 4.0)]
    clips = {
        "p": mixed((ONE + TWO) * [[1], [0]], ONE, TWO),
        "q": mixed((ONE + TWO)[:, ::-1], ONE[:, ::-1], TWO[:, ::-1]),
    }
    clips["q"] = dataclasses.replace(clips["q"], piece="q")
    own_corpus(monkeypatch, pieces, lambda piece, *_: iter([clips[piece.name]]))
    return "p: the right channel of the recorded mix is not the sum of the stems: the mix is silent"


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_odd_mixes_are_listed_by_the_manifest_and_the_check(odd_mix, small_recipe, tmp_path, audio_format):
    recipe = small_recipe.model_copy(update={"channels": 2, "audio_format": audio_format})
    manifest = write_shards(recipe, "mine", Store(tmp_path))
    assert manifest.odd_mixtures == (odd_mix,) and odd_mix in manifest.odd
    assert open_manifest(str(manifest.folder)).odd == manifest.odd
    found = check_shards(str(manifest.folder))
    assert [(one.shard, one.wrong, one.odd, one.clips) for one in found] == [
        ("train-000000.tar", (), (odd_mix,), 1), ("valid-000000.tar", (), (), 1),
    ]  # fmt: skip


def test_odd_mixes_can_be_refused(odd_mix, small_recipe, tmp_path):
    recipe = small_recipe.model_copy(update={"channels": 2})
    strict = recipe.model_copy(update={"odd_mixtures": "refuse"})
    with pytest.raises(
        DataError, match=f"mix of p must be nearly the sum of its stems; got {odd_mix}. To fix: .*--set odd"
    ):
        write_shards(strict, "mine", Store(tmp_path))
    write_shards(recipe, "mine", Store(tmp_path))
    with pytest.raises(
        DataError, match=f"recorded mixes of .* must be nearly the sums .*; got {odd_mix}. To fix: repair or"
    ):
        write_shards(strict, "mine", Store(tmp_path))


def test_odd_mixes_are_refused_where_a_lenient_run_is_gone_on_with(odd_mix, small_recipe, tmp_path):
    recipe = small_recipe.model_copy(update={"channels": 2})
    (write_shards(recipe, "mine", Store(tmp_path)).folder / "manifest.json").unlink()
    strict = recipe.model_copy(update={"odd_mixtures": "refuse"})
    with pytest.raises(DataError, match=f"mix of p must be nearly the sum of its stems; got {odd_mix}"):
        write_shards(strict, "mine", Store(tmp_path))
    assert write_shards(recipe, "mine", Store(tmp_path)).odd_mixtures == (odd_mix,)
