"""Which shards models can be scored on, and what is changed or left out for that."""

import io
import re
import tarfile

import numpy as np
import pytest
from untrained_models import KINDS, saver

from vimss import evaluations
from vimss.baselines import BASELINES
from vimss.errors import DataError, ModelError
from vimss.model.fit import fit_models, known_labels
from vimss.model.separator import load_separator
from vimss.shards.clip import Clip, Player
from vimss.shards.manifest import Manifest, PieceEntry, Shard
from vimss.shards.recipe import load_recipe
from vimss.shards.task import clip_members
from vimss.storage import sha256


@pytest.fixture(scope="module")
def save(small_manifest, small_features, tmp_path_factory):
    return saver(small_manifest, small_features, tmp_path_factory)


def fitted(manifest, split="test", **folders):
    return fit_models({name: load_separator(folder) for name, folder in folders.items()}, manifest, split)


def test_what_is_changed_and_left_out_for_a_model_is_said(small_manifest, save):
    config = {**KINDS["queries by label"], "channels": 2}
    fit = fitted(small_manifest, a=save(config, labels=("violin", "cello"), rate=4000), b=save(labels=("vn", "fl")))
    first, second, third, last = fit.sentences
    assert first == (
        "a: resampled from 8000 Hz to its 4000 Hz and back; it gives nothing above 2000 Hz, which its figures include; "
        "it reads mono in both channels, and the mean of its output is scored"
    )
    assert second.startswith("a: vc is its cello; vn is its violin; it lacks bn, cl, ")
    assert third.startswith("b: it lacks bn, ")
    assert (
        last.startswith("scored in every row: vn; bn, ")
        and "stay in the mixtures, no row is conditioned on them" in last
    )
    assert fitted(small_manifest, own=save()).sentences == ()


def test_names_that_are_one_to_a_model_are_left_out(save):
    separator = load_separator(save(labels=("guitar", "vn")))
    assert known_labels(separator, ["guitar 1", "guitar 2", "violin"]) == {"violin": "vn"}


def test_a_label_is_known_by_any_name_of_its_instrument(save):
    separator = load_separator(save(labels=("violin", "double_bass", "Vocals")))
    names = known_labels(separator, ["vn", "db", "vocals", "vc"])
    assert names == {"vn": "violin", "db": "double_bass", "vocals": "Vocals"}


@pytest.mark.parametrize("name", ["slots", "queries by frames"])
def test_outputs_without_labels_can_be_scored_for_any(small_manifest, save, name):
    assert set(fitted(small_manifest, a=save(KINDS[name], labels=("kazoo",))).labels) == set(
        small_manifest.recipe.labels
    )


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        (
            {"a": ("kazoo",)},
            ModelError,
            "'a' must know a label of the split 'test' of 'small': bn, .*; got a model of kaz",
        ),
        (
            {"a": ("vn",), "b": ("vc",)},
            ModelError,
            "must have a label of the split 'test' of 'small' in common; got 'a' has vn; 'b' has vc. To fix: ev",
        ),
    ],
)
def test_models_without_a_common_label_are_refused(small_manifest, save, models, error, message):
    with pytest.raises(error, match=message):
        fitted(small_manifest, **{name: save(labels=labels) for name, labels in models.items()})


def written_alone(folder, players):
    """Shards of one test clip of these players."""
    recipe = load_recipe("quickstart", ["clip_seconds=1"])
    clip = Clip("p", 0, 8000, 8000, tuple(players))
    with tarfile.open(folder / "test-000000.tar", "w") as tar:
        for name, content in clip_members(clip, recipe).items():
            info = tarfile.TarInfo(f"{clip.key}.{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    size = (folder / "test-000000.tar").stat().st_size
    shard = Shard(
        name="test-000000.tar", split="test", clips=1, seconds=1, size=size, sha256=sha256(folder / "test-000000.tar")
    )
    labels = tuple(sorted({player.instrument for player in players}))
    piece = PieceEntry(name="p", split="test", composition="p", seconds=1, instruments=labels)
    return Manifest(
        folder=folder, name="alone", recipe=recipe, signature="s", shards=(shard,), pieces=(piece,)
    )  # fmt: skip


SOUND = np.full((1, 8000), 1000, np.int16)


@pytest.mark.parametrize(
    ("players", "kind", "message"),
    [
        ([Player("vn", "1"), Player("vc", "2")], "queries by label", "must hold stems, .*; got mixtures alone"),
        ([Player("vn", "1", SOUND)], "queries by label", "must have two labels, to make mixtures of; got only vn"),
        (
            [Player("vn", "1", SOUND), Player("vc", "2", SOUND)],
            "queries by frames",
            "'a', whose context is frames, needs pictures of the players; got none in the split 'test' of",
        ),
    ],
)
def test_shards_that_cannot_be_scored_on_are_refused(save, tmp_path, players, kind, message):
    with pytest.raises(DataError, match=message):
        fitted(written_alone(tmp_path, players), a=save(KINDS[kind]))


def test_without_a_train_split_the_filters_are_left_out_and_that_is_said(save, tmp_path):
    manifest = written_alone(tmp_path, [Player("vn", "1", SOUND), Player("vc", "2", SOUND)])
    checked = evaluations.check_models({"a": save()}, manifest, "test")
    unfitted = {name for name, baseline in BASELINES.items() if not baseline.fitted}
    assert set(checked.baselines) == unfitted - {"NMF, all notes"}
    assert {"mixture", "oracle ratio mask"} <= set(checked.baselines)
    assert re.fullmatch(
        "no rows 'Wiener filter per label' and 'Wiener filter, all labels'.*: 'alone' has no train split with stems to "
        "fit them on",
        checked.sentences[-2],
    )
