"""The reader of Solos, on a tree of a few seconds that looks like the authors'."""

import json

import numpy as np
import pytest
import webdataset as wds

from vimss.errors import ConfigError, DataError
from vimss.media import write_video, write_wav
from vimss.shards.corpora import solos
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.read import read_pieces

RATE, SIZE, FRAME_RATE = 8000, 16, 5.0
RECIPE = load_recipe(
    "solos", [f"sample_rate={RATE}", "clip_seconds=1", f"picture={{size: {SIZE}, frame_rate: {FRAME_RATE:g}}}"]
)
OPTIONS = solos.Options()
IDS = {"Violin": ["-fiddle_-01", "a_b", "gone", "short", "whole"], "DoubleBass": ["bass"], "_counter": 6}
STRETCHES = {
    "Violin": {"-fiddle_-01": [[0, 24], [25, 74]], "a_b": [[10, 59]], "short": [[0, 24], [25, 249]], "whole": []},
    "DoubleBass": {"bass": [[0, 74]], "_counter": 1},
    "_counter": 6,
}


def video(path, pitch: float, seconds: float = 3.0) -> None:
    """A take that grows brighter, one step per picture; its right half is red."""
    pictures = np.zeros((round(seconds * FRAME_RATE), 32, 64, 3), np.uint8)
    pictures += np.arange(len(pictures), dtype=np.uint8)[:, None, None, None] * 10
    pictures[:, :, 32:, 0] = 250
    time = np.arange(round(seconds * RATE)) / RATE
    write_video(path, pictures, FRAME_RATE, (0.3 * np.sin(2 * np.pi * pitch * time))[None], RATE)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Five of the six videos, in all places and under all endings."""
    source = tmp_path_factory.mktemp("solos")
    (source / "json_files").mkdir()
    (source / "json_files" / "solos_ids.json").write_text(json.dumps(IDS))
    (source / "json_files" / "solos_timestamps.json").write_text(json.dumps(STRETCHES))
    for number, path in enumerate(
        ("Violin/-fiddle_-01.mp4", "videos/Violin/a_b.mkv", "videos_25fps/Violin/short.mp4", "Violin/whole.webm",
         "DoubleBass/bass.mp4")
    ):  # fmt: skip
        video(source / path, 300 + 50 * number)
    return source


@pytest.fixture
def source(tree, tmp_path):
    """The same, to be changed by one test."""
    copy = tmp_path / "solos"
    for path in tree.rglob("*.*"):
        (copy / path.relative_to(tree)).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.relative_to(tree)).hardlink_to(path)
    return copy


def replaced(path, text: str) -> None:
    """New content, and not for the tree that the file is linked to."""
    path.unlink()
    path.write_text(text)


def found(source, recipe=RECIPE):
    return {piece.name: piece for piece in solos.pieces(recipe, OPTIONS, source).pieces}


def clips(source, name, recipe=RECIPE):
    return list(solos.read(found(source)[name], recipe, OPTIONS, source))


def player_skeleton(source, name):
    return np.concatenate([clip.players[0].skeleton for clip in clips(source, name)])


def skeletons(folder, header: bool = False, rows: int = 200, **spans) -> np.ndarray:
    """Row r has x = r, y = 2 r and confidence r / 1000, plus a little per joint."""
    joints = np.arange(rows, dtype=np.float32)[:, None, None] * np.array([1, 2, 0.001], np.float32)[:, None]
    joints = joints + np.linspace(0, 0.01, 47, dtype=np.float32)
    folder.mkdir(exist_ok=True)
    (folder / "skeleton_dict.json").write_text(json.dumps({"_counter": rows, **spans}))
    if header:
        np.save(folder / "skeleton.npy", joints)
    else:
        joints.tofile(folder / "skeleton.npy")
    return joints


def test_every_stretch_is_a_piece_and_the_two_ends_count(tree):
    lengths = {name: round(piece.seconds, 2) for name, piece in found(tree).items()}
    assert lengths == {
        "vn--fiddle_-01-0": 1.0, "vn--fiddle_-01-1": 2.0, "vn-a_b-0": 2.0, "vn-short-0": 1.0, "vn-whole-0": 3.0,
        "db-bass-0": 3.0,
    }  # fmt: skip


def test_what_is_gone_or_too_short_is_listed_as_missing(tree):
    assert solos.pieces(RECIPE, OPTIONS, tree).missing == ("gone", "vn-short-1")


def test_the_stretches_of_a_video_share_their_composition(tree):
    one, two = (piece for name, piece in found(tree).items() if "fiddle" in name)
    assert one.composition == two.composition == "-fiddle_-01" and one.split == two.split


def test_splits_are_dealt_over_all_ids_so_that_a_missing_one_moves_nothing(source):
    before = found(source)
    assert {piece.split for name, piece in before.items() if name.startswith("vn")} >= {"train"}
    assert before["db-bass-0"].split == "train"  # one video cannot be in four splits
    (source / "Violin" / "whole.webm").unlink()
    after = found(source)
    assert len(after) == len(before) - 1
    assert all(after[name].split == before[name].split for name in after)
    deals = {tuple(p.split for p in found(source, RECIPE.model_copy(update={"seed": n})).values()) for n in range(8)}
    assert len(deals) > 1


def test_a_piece_is_the_sound_and_picture_of_its_stretch(tree):
    two = clips(tree, "vn--fiddle_-01-1")
    assert [(clip.piece, clip.offset, clip.samples) for clip in two] == [
        ("vn--fiddle_-01-1", 0, RATE), ("vn--fiddle_-01-1", RATE, RATE),
    ]  # fmt: skip
    (player,) = two[0].players
    assert (player.instrument, player.part, player.skeleton, two[0].mixture) == ("vn", "1-vn", None, None)
    assert np.argmax(np.abs(np.fft.rfft(player.audio[0]))) == 300  # cycles in a second
    seen = np.concatenate([clip.players[0].picture for clip in two])
    assert seen.shape == (10, SIZE, SIZE, 3)
    # The video has a picture in 5 of 25: the stretch begins with the sixth.
    assert np.abs(seen[:, 8, 2, 2].astype(int) - np.arange(5, 15) * 10).max() < 12
    # The middle square: half of it is red.
    assert seen[0, 8, 12, 0] > 200 > seen[0, 8, 4, 0]


def test_the_middle_of_an_id_may_hold_what_parts_names(tree):
    assert [clip.piece for clip in clips(tree, "vn-a_b-0")] == ["vn-a_b-0"] * 2
    assert clips(tree, "db-bass-0")[0].players[0].instrument == "db"
    assert sum(clip.samples for clip in clips(tree, "vn-whole-0")) == pytest.approx(3 * RATE, abs=RATE * 0.1)


def test_a_video_without_picture_gives_sound_only(source):
    (source / "DoubleBass" / "bass.mp4").unlink()
    write_wav(source / "DoubleBass" / "bass.mp4", np.full((1, 3 * RATE), 0.1, np.float32), RATE)
    skeletons(source, bass=[0, 75])
    (clip, *_) = clips(source, "db-bass-0")
    assert (clip.frame_rate, clip.players[0].picture, clip.players[0].skeleton) == (0.0, None, None)


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("inner", ["", "skeleton_files"])
def test_every_picture_has_a_skeleton(source, header, inner):
    joints = skeletons(source / inner, header, **{"-fiddle_-01": [100, 175]})
    skeleton = player_skeleton(source, "vn--fiddle_-01-1")
    assert skeleton.shape == (10, 141) and skeleton.dtype == np.float16
    # Picture j of the stretch is seen 1 + (j + 0.5) / 5 seconds into the video, which is row 100 + 25 + 2.5 + 5 j.
    seen = joints[100 + 27 + 5 * np.arange(10)] / np.array([64, 32, 1])[:, None]
    assert np.abs(skeleton - seen.reshape(10, 141)).max() < 0.005
    assert clips(source, "vn-a_b-0")[0].players[0].skeleton is None


def test_skeletons_that_end_early_keep_their_last_row(source):
    joints = skeletons(source, **{"-fiddle_-01": [0, 30]})
    skeleton = player_skeleton(source, "vn--fiddle_-01-1")
    assert np.abs(skeleton[1:, 94:] - joints[29, 2]).max() < 0.001
    assert skeleton[0, 94] < skeleton[1, 94]


def test_skeletons_that_are_not_whole_are_refused(source):
    skeletons(source, bass=[0, 201])
    with pytest.raises(DataError, match=r"skeleton.npy must hold float32 rows .*; got 200 rows, .* tells of 201"):
        found(source)
    (source / "skeleton.npy").write_bytes(b"\0" * 1000)
    with pytest.raises(DataError, match="skeleton.npy must hold float32 rows of 3 x 47 numbers"):
        found(source)
    (source / "skeleton.npy").write_bytes(b"")
    with pytest.raises(DataError, match="skeleton.npy must hold float32 rows of 3 x 47 numbers"):
        found(source)
    np.save(source / "skeleton.npy", np.zeros((300, 47, 3), np.float32))
    with pytest.raises(DataError, match=r"got float32 of shape \(300, 47, 3\)"):
        found(source)
    np.save(source / "skeleton.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"skeleton.npy must hold float32 rows .*Python objects"):
        found(source)
    (source / "skeleton_dict.json").unlink()
    with pytest.raises(DataError, match=r"skeleton_dict.json must lie in the folder of the corpus"):
        found(source)


def test_a_list_without_skeletons_is_enough(source):
    skeletons(source, bass=[0, 75])
    (source / "skeleton.npy").unlink()
    assert clips(source, "db-bass-0")[0].players[0].skeleton is None


def test_lists_may_lie_beside_the_videos(source):
    for path in (source / "json_files").iterdir():
        path.rename(source / path.name)
    assert len(found(source)) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "solos_ids.json must be as in the authors' repository; got .*Invalid JSON"),
        ("[]", "solos_ids.json must be as in the authors' repository"),
        ('{"Violin": ["../../a"]}', r"solos_ids.json must be as .*Violin.0 String should match pattern"),
        ('{"Kazoo": ["a"]}', "the instruments in .*solos_ids.json must be among Bassoon, .*; got Kazoo"),
    ],
)
def test_lists_of_another_shape_are_refused(source, content, message):
    replaced(source / "json_files" / "solos_ids.json", content)
    with pytest.raises(DataError, match=message):
        found(source)


def test_stretches_of_another_shape_are_refused(source):
    replaced(source / "json_files" / "solos_timestamps.json", '{"Violin": {"a_b": [[3]]}}')
    with pytest.raises(DataError, match="solos_timestamps.json must be as in the authors' repository"):
        found(source)


def test_a_wrong_source_says_so(tmp_path):
    with pytest.raises(
        ConfigError, match=r"'solos' needs the folder that it lies in; got no --source.*JuanFMontesinos"
    ):
        solos.pieces(RECIPE, OPTIONS, None)
    with pytest.raises(
        DataError, match=r"solos_timestamps.json must lie in the folder of the corpus.*correct --source"
    ):
        solos.pieces(RECIPE, OPTIONS, tmp_path)


def test_a_video_without_sound_is_refused(source):
    (source / "DoubleBass" / "bass.mp4").unlink()
    write_video(source / "DoubleBass" / "bass.mp4", np.zeros((5, 32, 32, 3), np.uint8), FRAME_RATE)
    with pytest.raises(DataError, match=r"bass.mp4 must hold sound; got none"):
        found(source, RECIPE.model_copy(update={"expect": None}))


def test_a_download_that_broke_off_is_refused(tree, tmp_path):
    with pytest.raises(DataError, match=r"must hold 754 pieces.*got 6 pieces.*missing: gone, vn-short-1"):
        write_shards(RECIPE, "solos", Store(tmp_path), tree)


def test_shards_hold_the_pieces_and_plain_webdataset_opens_them(source, tmp_path):
    skeletons(source, bass=[0, 75])
    recipe = RECIPE.model_copy(update={"expect": None})
    manifest = write_shards(recipe, "solos", Store(tmp_path / "store"), source)
    assert manifest.missing == ("gone", "vn-short-1")
    read = {
        piece.piece: piece
        for split in {shard.split for shard in manifest.shards}
        for piece in read_pieces(manifest, split, parts=("audio", "picture", "skeleton"))
    }
    assert set(read) == set(found(source))
    assert read["db-bass-0"].players[0].skeleton.shape == (15, 141)
    assert read["vn--fiddle_-01-1"].players[0].audio.shape == (1, 2 * RATE)
    paths = [str(manifest.folder / shard.name) for shard in manifest.shards]
    samples = list(wds.WebDataset(paths, shardshuffle=False))
    assert {"player0.wav", "player0.mp4", "json"} <= set(samples[0])
    assert {json.loads(sample["json"])["piece"] for sample in samples} == set(read)


def test_videos_that_are_none_are_missing_with_the_reason(source):
    for path in (source / "DoubleBass" / "bass.mp4", source / "Violin" / "whole.webm"):
        path.unlink()
        path.write_bytes(b"<html>")
    listing = solos.pieces(RECIPE, OPTIONS, source)
    assert [missing.partition(":")[0] for missing in listing.missing] == ["gone", "vn-short-1", "whole", "bass"]
    assert "bass.mp4 must be a sound or video file that can be decoded" in listing.missing[3]
    with pytest.raises(DataError, match=r"2 errors: \(1\) .*whole.webm must be .* \(2\) .*bass.mp4 must be"):
        found(source, RECIPE.model_copy(update={"expect": None}))


def test_endings_may_be_in_capitals_and_a_video_that_vanished_is_named(source):
    (source / "DoubleBass" / "bass.mp4").rename(source / "DoubleBass" / "bass.MP4")
    piece = found(source)["db-bass-0"]
    (source / "DoubleBass" / "bass.MP4").unlink()
    with pytest.raises(
        DataError, match=r"solos must keep its pieces while .*; got no bass any more. To fix: put it back"
    ):
        list(solos.read(piece, RECIPE, OPTIONS, source))


def test_a_folder_above_or_below_the_right_one_is_refused_with_its_name(source):
    for wrong in (source.parent, source / "Violin"):
        with pytest.raises(DataError, match=rf"correct --source; did you mean --source {source}\?"):
            found(wrong)
