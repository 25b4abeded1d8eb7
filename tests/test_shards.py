import dataclasses
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import webdataset as wds

from vimss.errors import ConfigError, DataError, MediaError
from vimss.shards import corpora, write
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import Listing, Piece
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.manifest import open_manifest
from vimss.shards.recipe import SPLITS, Recipe, load_recipe
from vimss.shards.task import clip_members
from vimss.shards.verify import check_shards
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.read import join_clips


def test_every_corpus_of_a_recipe_has_a_reader():
    for corpus in corpora.CORPORA:
        reader = corpora.reader_of(corpus)
        assert {"Options", "pieces", "read"} <= set(dir(reader))
        assert type(reader.VERSION) is int and reader.VERSION >= 1


def test_a_recipe_of_no_known_corpus_is_refused_with_all_that_there_are():
    with pytest.raises(ConfigError, match=r"corpus: must be one of chamber, urmp, .*; got 'jazz'"):
        load_recipe("quickstart", ["corpus=jazz"])


def test_every_split_is_there_with_every_instrument(small_manifest):
    assert small_manifest.splits == SPLITS[:5]  # no player of this corpus is drawn in an unseen style
    for split in small_manifest.splits:
        heard = {label for piece in small_manifest.pieces if piece.split == split for label in piece.instruments}
        assert heard == set(INSTRUMENTS)


def test_shards_open_in_plain_tar_and_plain_webdataset(small_manifest):
    shard = small_manifest.of_split("test")[0]
    path = str(small_manifest.folder / shard.name)
    with tarfile.open(path) as tar:
        assert any(name.endswith(".player0.wav") for name in tar.getnames())
    clips = list(wds.WebDataset(path, shardshuffle=False))
    assert len(clips) == shard.clips
    assert {"json", "player0.mp4", "player0.boxes.npy", "player0.masks.npz"} <= set(clips[0])


def test_a_second_run_reuses_what_the_first_wrote(small_recipe, small_store, small_manifest):
    before = {path: path.stat().st_mtime_ns for path in small_manifest.folder.iterdir()}
    write_shards(small_recipe, "small", small_store)
    assert {path: path.stat().st_mtime_ns for path in small_manifest.folder.iterdir()} == before


@pytest.mark.slow
def test_writing_after_a_kill_goes_on_and_ends_with_the_same_bytes(small_recipe, small_manifest, tmp_path):
    script = f"""
import json
from vimss.shards.recipe import Recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from pathlib import Path
recipe = Recipe.model_validate(json.loads({small_recipe.model_dump_json()!r}))
write_shards(recipe, "small", Store(Path({str(tmp_path)!r})))
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    while len(list(tmp_path.rglob("*.tar"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.rglob("manifest.json"))
    manifest = write_shards(small_recipe, "small", Store(tmp_path))
    assert manifest.digest == small_manifest.digest


@pytest.mark.slow
def test_a_full_disk_is_explained_and_leaves_no_half_shard(small_recipe, tmp_path):
    script = f"""
from pathlib import Path
from vimss.shards.recipe import Recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
write_shards(Recipe.model_validate_json({small_recipe.model_dump_json()!r}), "small", Store(Path({str(tmp_path)!r})))
"""

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    ran = subprocess.run(
        [sys.executable, "-c", script], preexec_fn=small_files, capture_output=True, text=True, check=False
    )
    last = ran.stderr.splitlines()[-1]
    assert re.search(r"StorageError: .*\.tar must fit on the disk; got .* MB free\. To fix: free some space", last)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_description_is_no_part_of_the_signature_and_seed_is(small_recipe):
    same = small_recipe.model_copy(update={"description": "other"})
    other = small_recipe.model_copy(update={"seed": 1})
    assert write.shards_signature(same) == write.shards_signature(small_recipe) != write.shards_signature(other)


@pytest.fixture
def copied(small_manifest, tmp_path):
    return shutil.copytree(small_manifest.folder, tmp_path / "copy")


def test_a_truncated_shard_is_named_when_the_manifest_is_opened(copied):
    shard = copied / "train-000000.tar"
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(
        DataError, match=r"train-000000.tar must have \d+ bytes, as in its manifest.*run `vimss shard small`"
    ):
        open_manifest(copied)


def test_a_missing_shard_is_named_when_the_manifest_is_opened(copied):
    (copied / "valid-000000.tar").unlink()
    with pytest.raises(DataError, match="valid-000000.tar.*got no such file"):
        open_manifest(copied)


def test_a_folder_without_manifest_says_how_to_write_one(tmp_path):
    with pytest.raises(DataError, match="must hold a manifest.json.*run `vimss shard RECIPE`"):
        open_manifest(tmp_path)


def test_an_unknown_split_lists_those_that_exist(small_manifest):
    with pytest.raises(DataError, match="must hold the split 'dev'; got only promote, test"):
        small_manifest.of_split("dev")


def clip_of(*players: Player, samples: int = 8) -> Clip:
    return Clip(piece="p", offset=0, samples=samples, sample_rate=8000, players=players)


def test_a_silent_player_keeps_its_entry_without_an_audio_member(small_recipe):
    members = clip_members(clip_of(Player("vn", "1", silent=True)), small_recipe)
    assert json.loads(members["json"])["players"] == [{"instrument": "vn", "part": "1", "silent": True, "timbre": ""}]
    assert set(members) == {"json"}


def test_a_recorded_mix_is_stored(small_recipe):
    clip = dataclasses.replace(clip_of(Player("vn", "1")), mixture=np.ones((1, 8), np.int16))
    assert "mixture.wav" in (clip_members(clip, small_recipe))


def reader(monkeypatch, pieces, clips):
    """A corpus of the test's own, in the place of the generated one."""
    module = corpora.reader_of("chamber")
    monkeypatch.setattr(module, "pieces", lambda *_: Listing(tuple(pieces)))
    monkeypatch.setattr(module, "read", lambda piece, *_: iter(clips))


def stem(value: int, samples: int = 8) -> np.ndarray:
    return np.full((1, samples), value, np.int16)


def test_a_piece_is_cut_into_clips_that_join_to_it_again():
    rng = np.random.default_rng(0)
    audio = rng.integers(-9, 9, (1, 20_000), dtype=np.int16)
    later = audio.copy()
    later[:, :12_000] = 0
    picture = rng.integers(0, 255, (12, 4, 4, 3), dtype=np.uint8)
    notes = np.array([[0.25, 60.0], [1.5, 62.0], [2.4, 64.0]])
    features, skeleton = rng.random((12, 2)).astype(np.float16), rng.random((12, 6)).astype(np.float16)
    players = (
        Player("vn", "1", audio, picture=picture, features=features, skeleton=skeleton),
        Player("vc", "2", later, annotations={"notes": notes}),
        Player("va", "3"),
    )
    recipe = Recipe(
        corpus="folder", description="d", licence="l", obtain="o", sample_rate=8000, clip_seconds=1,
        picture={"size": 16, "frame_rate": 5},
    )  # fmt: skip
    whole = Clip("p", 0, 20_000, 8000, players, 5.0, mixture=audio)
    cut = list(corpora.cut_piece(whole, recipe))
    assert [(clip.offset, clip.samples) for clip in cut] == [(0, 6400), (6400, 6400), (12_800, 7200)]
    assert [[player.silent for player in clip.players] for clip in cut] == [
        [False, True, False], [False, False, False], [False, False, False],
    ]  # fmt: skip
    np.testing.assert_allclose(cut[1].players[1].annotations["notes"], [[0.7, 62]])
    joined = join_clips(cut)
    for name in ("audio", "picture", "features", "skeleton"):
        np.testing.assert_array_equal(getattr(joined.players[0], name), getattr(players[0], name))
    np.testing.assert_array_equal(joined.players[1].audio, later)
    np.testing.assert_allclose(joined.players[1].annotations["notes"], notes)
    np.testing.assert_array_equal(joined.mixture, audio)
    assert joined.players[2].audio is None and not joined.players[2].silent


def test_one_picture_of_several_players_and_annotations_travel(small_recipe):
    picture = np.zeros((2, 16, 16, 3), np.uint8)
    players = [Player("vn", "1", picture=picture), Player("vc", "2", picture=picture)]
    players.append(Player("va", "3", annotations={"f0": np.array([[0.0, 440.0]])}))
    members = clip_members(dataclasses.replace(clip_of(*players), frame_rate=4.0), small_recipe)
    assert set(members) == {"json", "player0.mp4", "player2.f0.npy"}
    assert [entry.get("picture") for entry in json.loads(members["json"])["players"]] == ["player0.mp4"] * 2 + [None]


@pytest.mark.parametrize(
    ("seconds", "most_missing", "message"),
    [
        (1.0, 0.0, r"must hold 3 pieces, together 6 s, .* got 2 pieces, together 2 s; missing: c.*\(Download it"),
        (2.0, 0.5, None),
        (1.0, 0.5, r"got 2 pieces, together 2 s"),
    ],
)
def test_a_download_that_broke_off_is_refused(monkeypatch, small_recipe, tmp_path, seconds, most_missing, message):
    found = [Piece(name, "train", name, seconds) for name in "ab"]
    monkeypatch.setattr(corpora.reader_of("chamber"), "pieces", lambda *_: Listing(tuple(found), ("c",)))
    monkeypatch.setattr(
        corpora.reader_of("chamber"), "read", lambda piece, *_: iter([clip_of(Player("vn", piece.name))])
    )
    expect = {"pieces": 3, "seconds": 6, "most_missing": most_missing}
    recipe = Recipe.model_validate({**small_recipe.model_dump(), "expect": expect, "obtain": "Download it"})
    if message is None:
        assert write_shards(recipe, "mine", Store(tmp_path)).missing == ("c",)
        return
    with pytest.raises(DataError, match=message):
        write_shards(recipe, "mine", Store(tmp_path))


def test_a_piece_that_cannot_be_read_is_missing_where_a_corpus_may_lack_some(monkeypatch, small_recipe, tmp_path):
    found = [Piece(name, split, name, 1.0) for name, split in (("a", "train"), ("b", "train"), ("c", "test"))]

    def read(piece, *_):
        if piece.name != "a":
            raise MediaError(f"{piece.name}.mp4 must be whole", got="1.0 s of 9.0 s", fix="copy or export it again")
        return iter([clip_of(Player("vn", "1", stem(5000)))])

    monkeypatch.setattr(corpora.reader_of("chamber"), "pieces", lambda *_: Listing(tuple(found), ("d",)))
    monkeypatch.setattr(corpora.reader_of("chamber"), "read", read)

    def write_with(most_missing):
        expect = {"pieces": 4, "most_missing": most_missing}
        recipe = Recipe.model_validate({**small_recipe.model_dump(), "expect": expect})
        return write_shards(recipe, "mine", Store(tmp_path / str(most_missing)))

    manifest = write_with(0.75)
    assert [piece.name for piece in manifest.pieces] == ["a"] and manifest.splits == ("train",)
    assert [missing.partition(":")[0] for missing in manifest.missing] == ["d", "c", "b"]
    assert "1.0 s of 9.0 s" in manifest.missing[1]
    with pytest.raises(DataError, match=r"a share of 0.5 may be .* got 1 pieces, .*missing: d, c: c.mp4 must be"):
        write_with(0.5)
    monkeypatch.setattr(corpora.reader_of("chamber"), "pieces", lambda *_: Listing(tuple(found)))
    recipe = Recipe.model_validate({**small_recipe.model_dump(), "expect": None})
    with pytest.raises(
        DataError, match=r"got 2 errors: \(1\) b.mp4 must be whole; got 1.0 s of 9.0 s\. \(2\) c.mp4 .* or leave"
    ):
        write_shards(recipe, "mine", Store(tmp_path / "strict"))


def test_progress_is_reported_in_pieces_from_the_beginning(monkeypatch, small_recipe, tmp_path):
    reader(monkeypatch, [Piece(name, "train", name, 1.0) for name in "ab"], [clip_of(Player("vn", "1", stem(500)))])
    seen = []
    write_shards(small_recipe, "mine", Store(tmp_path), on_progress=seen.append)
    assert [(step.done, step.total, step.share) for step in seen] == [(0, 2, 0), (2, 2, 1)]


def test_two_pieces_of_one_name_are_refused(monkeypatch, small_recipe, tmp_path):
    reader(monkeypatch, [Piece("a", "train", "x", 1.0), Piece("a", "train", "y", 1.0)], [])
    with pytest.raises(DataError, match="every piece must have a name of its own; got a twice"):
        write_shards(small_recipe, "mine", Store(tmp_path))


def test_an_empty_source_says_how_to_obtain_the_data(monkeypatch, small_recipe, tmp_path):
    reader(monkeypatch, [], [])
    with pytest.raises(
        DataError, match=r"must hold at least one piece; got none under .*obtain the data first: Generated"
    ):
        write_shards(small_recipe, "mine", Store(tmp_path), source=tmp_path)


def test_the_same_sound_in_two_splits_is_refused(monkeypatch, small_recipe, tmp_path):
    pieces = [Piece("a", "train", "a", 1.0), Piece("b", "test", "b", 1.0)]
    reader(monkeypatch, pieces, [clip_of(Player("vn", "1", stem(5000)))])
    with pytest.raises(DataError, match="the same sound must not stand in two splits"):
        write_shards(small_recipe, "mine", Store(tmp_path))


def test_a_composition_in_two_splits_is_refused(monkeypatch, small_recipe, tmp_path):
    reader(monkeypatch, [Piece("a", "train", "same", 1.0), Piece("b", "test", "same", 1.0)], [])
    with pytest.raises(DataError, match="the composition same must stand in one split; got train and test"):
        write_shards(small_recipe, "mine", Store(tmp_path))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (clip_of(Player("kazoo", "1", stem(1))), "instruments must be among the recipe's labels.*got kazoo"),
        (clip_of(Player("vn", "1", stem(1, samples=7))), "every stem of a clip must have 1 channels and 8 samples"),
        (dataclasses.replace(clip_of(), sample_rate=44100), "sample rate of 8000 Hz; got 44100 Hz"),
    ],
)
def test_a_clip_that_breaks_the_recipe_is_refused(monkeypatch, small_recipe, tmp_path, clip, message):
    reader(monkeypatch, [Piece("a", "train", "a", 1.0)], [clip])
    with pytest.raises(DataError, match=message):
        write_shards(small_recipe, "mine", Store(tmp_path))
    assert not list(tmp_path.rglob("*.tar"))


NOTHING = stem(0)


@pytest.mark.parametrize(
    ("players", "most_silent", "got"),
    [
        ([stem(500), NOTHING], 0.5, None),
        ([stem(500), NOTHING], 0.4, "1 of 2: 1"),
        ([stem(500), NOTHING, NOTHING], 0.5, "2 of 3: 1, 2"),
        ([stem(500), NOTHING, NOTHING], 1.0, None),
        ([stem(500), stem(500), None, None, NOTHING], 0.5, None),
    ],
)
def test_stems_that_are_silent_beyond_a_share_are_refused(
    monkeypatch, small_recipe, tmp_path, players, most_silent, got
):
    heard = [Player("vn", str(number), audio) for number, audio in enumerate(players)]
    later = [dataclasses.replace(player, audio=None, silent=player.audio is not None) for player in heard]
    clips = [clip_of(*heard), dataclasses.replace(clip_of(*later), offset=8)]
    reader(monkeypatch, [Piece("a", "train", "a", 1.0)], clips)
    recipe = small_recipe.model_copy(update={"most_silent": most_silent})
    if got is None:
        assert write_shards(recipe, "mine", Store(tmp_path)).clips("train") == 2
        return
    rule = f"at most a share of {most_silent:g} of the stems of a may be silent from beginning to end; got {got}"
    with pytest.raises(DataError, match=rule):
        write_shards(recipe, "mine", Store(tmp_path))
    assert not list(tmp_path.rglob("*.tar"))


@pytest.mark.parametrize(("loudest", "refused"), [(32, True), (33, False), (-32768, False)])
def test_samples_that_were_scaled_twice_are_refused(monkeypatch, small_recipe, tmp_path, loudest, refused):
    reader(
        monkeypatch,
        [Piece("a", "train", "a", 1.0)],
        [clip_of(Player("vn", "1", stem(1)), Player("vc", "2", stem(loudest)))],
    )
    if not refused:
        assert write_shards(small_recipe, "mine", Store(tmp_path)).shards
        return
    with pytest.raises(
        DataError, match=r"the loudest stem of a must reach -60 dB .*; got a highest sample of 32 .*twice"
    ):
        write_shards(small_recipe, "mine", Store(tmp_path))


def test_what_may_be_silent_is_no_part_of_the_signature(small_recipe):
    assert write.shards_signature(small_recipe.model_copy(update={"most_silent": 0.9})) == write.shards_signature(
        small_recipe
    )


def test_wrong_options_of_a_reader_name_the_file(small_recipe, tmp_path):
    wrong = small_recipe.model_copy(update={"options": {"minuts": 3}})
    with pytest.raises(ConfigError, match=r"shards/mine.yaml: options.*unknown key 'minuts'.*did you mean 'minutes'"):
        write_shards(wrong, "mine", Store(tmp_path))


def own_corpus(monkeypatch, pieces, read):
    """A corpus of the test's own with a source, in the place of the generated one."""
    module = corpora.reader_of("chamber")

    def listing(*_):
        # Made anew, as readers do, with the stamps of the files as they are now.
        found = tuple(dataclasses.replace(piece) for piece in pieces)
        return Listing(found, notes=("x is no piece, and was left out",))

    monkeypatch.setattr(module, "pieces", listing)
    monkeypatch.setattr(module, "read", read)


def file_pieces(source):
    return [
        Piece(name, split, name, 1.0, (source / f"{name}.txt",)) for name, split in zip("abc", SPLITS, strict=False)
    ]


def read_file(source):
    """Clips whose loudness the files tell, and who differ by name."""

    def read(piece, *_):
        value = (source / f"{piece.name}.txt").read_text()
        if not value.isdecimal():
            raise MediaError(f"{piece.name}.txt must be a number", got=value, fix="write one")
        yield clip_of(Player("vn", "1", stem(int(value) + ord(piece.name))))

    return read


def test_what_was_left_out_or_met_is_noted_in_the_manifest(monkeypatch, small_recipe, tmp_path):
    clip = dataclasses.replace(clip_of(Player("vn", "1", stem(5000))), notes=("vn.wav: cut off",))
    own_corpus(
        monkeypatch, [Piece("a", "train", "a", 1.0)], lambda *_: iter([clip, dataclasses.replace(clip, offset=8)])
    )
    manifest = write_shards(small_recipe, "mine", Store(tmp_path))
    assert manifest.notes == manifest.odd == ("x is no piece, and was left out", "a: vn.wav: cut off")


def test_silent_stems_are_refused_by_a_stricter_recipe_whether_shards_are_finished_or_begun(
    monkeypatch, small_recipe, tmp_path
):
    clip = clip_of(Player("vn", "1", stem(5000)), Player("vc", "2", silent=True))
    own_corpus(monkeypatch, [Piece("a", "train", "a", 1.0)], lambda *_: iter([clip]))
    manifest = write_shards(small_recipe, "mine", Store(tmp_path))
    assert manifest.silent == {"a": 0.5}
    strict = small_recipe.model_copy(update={"most_silent": 0.25})
    with pytest.raises(
        DataError, match=r"at most a share of 0.25 of the stems of each piece in .* got 0.5 in a. To fix: repair"
    ):
        write_shards(strict, "mine", Store(tmp_path))
    (manifest.folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="share of 0.25 of the stems of a may be silent .* got 1 of 2: 2. To fix"):
        write_shards(strict, "mine", Store(tmp_path))


def test_pieces_that_lack_are_refused_by_a_stricter_recipe_whether_shards_are_finished_or_begun(
    monkeypatch, small_recipe, tmp_path, files
):
    (files / "c.txt").write_text("x")
    own_corpus(monkeypatch, file_pieces(files), read_file(files))
    lenient = Recipe.model_validate({**small_recipe.model_dump(), "expect": {"pieces": 3, "most_missing": 0.5}})
    manifest = write_shards(lenient, "mine", Store(tmp_path), files)
    with pytest.raises(
        DataError, match=r"must lack no piece of its source; got 1 that could not be read: c: c.txt .* To fix: repair"
    ):
        write_shards(small_recipe, "mine", Store(tmp_path), files)
    whole = Recipe.model_validate({**small_recipe.model_dump(), "expect": {"pieces": 3, "most_missing": 0.1}})
    with pytest.raises(DataError, match=r"must hold 3 pieces, .* got 2 pieces, .*missing: c: c.txt must be"):
        write_shards(whole, "mine", Store(tmp_path), files)
    (manifest.folder / "manifest.json").unlink()
    with pytest.raises(MediaError, match="^c.txt must be a number; got x. To fix: write one"):
        write_shards(small_recipe, "mine", Store(tmp_path), files)
    (files / "c.txt").write_text("6000")
    # What the first run had written of it is not taken for what is there now.
    assert not write_shards(lenient, "mine", Store(tmp_path), files).missing


def test_a_click_to_which_all_was_scaled_is_no_piece(monkeypatch, small_recipe, tmp_path):
    click = stem(3, 8000)
    click[0, 40:60] = 32767
    clip = clip_of(Player("vn", "1", click), Player("vc", "2", stem(9, 8000)), samples=8000)
    own_corpus(monkeypatch, [Piece("a", "train", "a", 1.0)], lambda *_: iter([clip]))
    with pytest.raises(
        DataError, match=r"stem of a must be above -60 dB of full scale for more than a click; got 20 samples of 8000"
    ):
        write_shards(small_recipe, "mine", Store(tmp_path / "one"))
    with monkeypatch.context() as before:
        # As shards were written before this was known.
        before.setattr("vimss.shards.validate.LOUD_SECONDS", 0)
        manifest = write_shards(small_recipe, "mine", Store(tmp_path / "two"))
    (found,) = check_shards(manifest.home)
    assert len(found.wrong) == 1 and "must be above -60 dB of full scale for more than a click" in found.wrong[0]


def test_whole_shards_are_whole(small_manifest):
    assert all(found.wrong == found.odd == () for found in check_shards(small_manifest.folder))


def test_the_same_sound_in_two_splits_is_named_by_its_pieces(monkeypatch, small_recipe, tmp_path):
    pieces = [Piece("a", "train", "a", 1.0), Piece("b", "test", "b", 1.0)]
    reader(monkeypatch, pieces, [clip_of(Player("vn", "1", stem(5000)))])
    with pytest.raises(DataError, match="got one stem of a in train-000000.tar and of b in test-000000.tar"):
        write_shards(small_recipe, "mine", Store(tmp_path))


def test_settings_that_came_later_leave_signatures_as_they_were(small_recipe):
    before = write.shards_signature(small_recipe)
    assert before == write.shards_signature(small_recipe.model_copy(update={"odd_mixtures": "refuse"}))
    assert before != write.shards_signature(small_recipe.model_copy(update={"allow_truncated": True}))


@pytest.mark.parametrize(
    "spelled",
    [
        ["clip_seconds=30"],
        ["clip_seconds=30.0", "audio_format=wav"],
        ["picture={size: 160, frame_rate: 12.50}"],
        ["options.minutes=60.0", "options.variety=1"],
        [f"labels=[{','.join(INSTRUMENTS)}]"],
    ],
)
def test_a_default_that_a_recipe_spells_out_changes_no_shards(spelled):
    assert write.shards_signature(load_recipe("chamber", spelled)) == write.shards_signature(load_recipe("chamber"))


@pytest.mark.parametrize("changed", ["clip_seconds=29", "options={minutes: 60, variety: 0.5}", "picture={size: 96}"])
def test_what_changes_shards_changes_their_signature(changed):
    assert write.shards_signature(load_recipe("chamber", [changed])) != write.shards_signature(load_recipe("chamber"))


def test_another_version_of_a_reader_writes_other_shards_and_leaves_the_old_ones(monkeypatch, small_recipe, tmp_path):
    pieces = [Piece("a", "train", "a", 1.0)]
    reader(monkeypatch, pieces, [clip_of(Player("vn", "1", stem(5000)))])
    old = write_shards(small_recipe, "mine", Store(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in old.folder.iterdir()}
    monkeypatch.setattr(corpora.reader_of("chamber"), "VERSION", corpora.reader_of("chamber").VERSION + 1)
    reader(monkeypatch, pieces, [clip_of(Player("vn", "1", stem(6000)))])
    new = write_shards(small_recipe, "mine", Store(tmp_path))
    assert new.folder != old.folder and new.signature != old.signature and new.digest != old.digest
    assert {path: path.stat().st_mtime_ns for path in old.folder.iterdir()} == before


def test_the_version_of_one_reader_is_nothing_to_the_others(monkeypatch):
    before = write.shards_signature(load_recipe("urmp"))
    monkeypatch.setattr(corpora.reader_of("chamber"), "VERSION", 7)
    assert write.shards_signature(load_recipe("urmp")) == before


def test_a_file_in_place_of_the_folder_of_shards_is_told(small_manifest):
    with pytest.raises(
        DataError, match="manifest.json must be a folder of shards; got a file. To fix: give the folder it"
    ):
        open_manifest(small_manifest.folder / "manifest.json")
    assert open_manifest(str(small_manifest.folder), [(str(small_manifest.folder), 0.5)]).more[0][1] == 0.5
