"""The reader of the home-made Sound of Pixels, on a tree of a few seconds that looks like it."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
import webdataset as wds
from media_files import filmed

from vimss.errors import ConfigError, DataError, MediaError
from vimss.media import write_video, write_wav
from vimss.shards.corpora import sopjfm
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.read import read_pieces

RATE = 8000
RECIPE = load_recipe("sopjfm", [f"sample_rate={RATE}", "clip_seconds=1", "picture={size: 16, frame_rate: 5}"])
OPTIONS = sopjfm.Options()
TRAIN = [f"{code}{number}" for code in ("cello", "cltu") for number in range(1, 11)] + ["x1", "xf7"]
TEST = ["violin1", "tut2"]


def tone(pitch: float, seconds: float = 2.0) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)[None]


@pytest.fixture
def source(tmp_path):
    """24 recordings, no two of one pitch."""
    for number, name in enumerate(TRAIN + TEST):
        part = "train" if name in TRAIN else "test"
        write_wav(tmp_path / "sop" / "wav" / part / f"{name}.wav", tone(200 + 10 * number), RATE)
    return tmp_path / "sop"


def found(source, recipe=RECIPE):
    return {piece.name: piece for piece in sopjfm.pieces(recipe, OPTIONS, source).pieces}


def clips(source, name):
    return list(sopjfm.read(found(source)[name], RECIPE, OPTIONS, source))


def test_a_solo_is_a_player_with_a_stem(source):
    one, two = clips(source, "cello2-0")
    assert [player.instrument for player in one.players] == ["vc"]
    heard = np.concatenate([clip.players[0].audio for clip in (one, two)], axis=1)
    assert np.abs(heard / 32768 - tone(210)).max() < 1e-4
    assert (one.mixture, one.frame_rate, one.players[0].picture) == (None, 0.0, None)


def test_a_duet_is_a_mixture_of_players_without_stems(source):
    one, two = clips(source, "cltu1-0")
    assert [(player.instrument, player.part) for player in one.players] == [("cl", "1-cl"), ("tba", "2-tba")]
    assert all(player.audio is None and not player.silent for player in one.players)
    heard = np.concatenate([clip.mixture for clip in (one, two)], axis=1)
    assert np.abs(heard / 32768 - tone(300)).max() < 1e-4


def test_all_codes_have_labels_of_the_recipe():
    assert len(sopjfm.SOLOS) == 8 and len(sopjfm.DUETS) == 14
    assert {label for labels in sopjfm.CODES.values() for label in labels} == set(RECIPE.labels)
    assert sopjfm.CODES["tu"] == sopjfm.CODES["tuba"] == ("tba",) and sopjfm.CODES["clt"] == ("cl", "tpt")
    for code, labels in sopjfm.DUETS.items():
        letters = {label: letter for letter, label in sopjfm.LETTERS.items()}
        assert code == "".join(letters[label] for label in labels)


def test_the_test_split_stays_and_the_rest_is_dealt_per_code(source):
    splits = {name: piece.split for name, piece in found(source).items()}
    assert {name for name, split in splits.items() if split == "test"} == {"violin1-0", "tut2-0"}
    for code in ("cello", "cltu"):
        dealt = [split for name, split in splits.items() if name.startswith(code)]
        assert {split: dealt.count(split) for split in dealt} == {"train": 8, "valid": 1, "promote": 1}
    assert splits["x1-0"] == splits["xf7-0"] == "train"  # too few for more
    deals = {tuple(p.split for p in found(source, RECIPE.model_copy(update={"seed": n})).values()) for n in range(8)}
    assert len(deals) > 1


TABLES = {
    "segment_times.csv": "file,to,tf\ncello1,0.5,1.5\ncltu1,0,1\ncltu1,1.25,2\nflute9,0,1\n",
    "segment_times.json": json.dumps(
        [
            {"file": "cello1", "to": 0.5, "tf": 1.5},
            {"file": "cltu1.wav", "to": [0, 1.25], "tf": [1, 2.0]},
            {"file": "cello2", "to": [], "tf": []},
            {"file": "flute9", "to": [0], "tf": [1]},
        ]
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_tells_which_stretches_are_good(source, name):
    (source / name).write_text(TABLES[name])
    listing = sopjfm.pieces(RECIPE, OPTIONS, source)
    assert {piece.name: piece.seconds for piece in listing.pieces} == {"cello1-0": 1.0, "cltu1-0": 1.0, "cltu1-1": 0.75}
    assert {piece.composition for piece in listing.pieces} == {"cello1", "cltu1"}
    assert {"flute9", "cello2", "violin1"} <= set(listing.missing) and len(listing.missing) == len(TRAIN + TEST) - 1
    (clip,) = clips(source, "cello1-0")
    assert np.abs(clip.players[0].audio / 32768 - tone(200)[:, RATE // 2 : 3 * RATE // 2]).max() < 1e-4
    (clip,) = clips(source, "cltu1-1")
    assert np.abs(clip.mixture / 32768 - tone(300)[:, 5 * RATE // 4 :]).max() < 1e-4


def test_a_pickle_is_not_opened_and_the_error_tells_how_to_convert_it(source):
    rows = [{"file": "cello1", "to": np.array([0]), "tf": [np.int64(1)]}, {"file": "cltu1", "to": [], "tf": []}]
    np.save(source / "segment_times.npy", np.array(rows), allow_pickle=True)
    with pytest.raises(
        DataError, match=r"must hold segment_times.csv or .*json; got only segment_times.npy, a pickle"
    ) as e:
        found(source)
    python, *arguments = shlex.split(e.value.fix.partition(f"in {source}: ")[2])
    assert python == "python"
    subprocess.run([sys.executable, *arguments], cwd=source, check=True)
    assert {name: piece.seconds for name, piece in found(source).items()} == {"cello1-0": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cello1,0,1\ncello2,0,1\n", "segment_times.csv must hold file, to and tf: .*; got KeyError"),
        ("file,to,tf\ncello1,a,1\n", "segment_times.csv must hold file, to and tf: .*; got ValueError"),
        ("file,to,tf\ncello1,0\n", "got 0 to nan s"),
        ("file,to,tf\ncello1,1.5,1\n", r"stretch 0 of cello1 .* must lie in .*cello1.wav, 2.00 s long; got 1.5 to 1 s"),
        ("file,to,tf\ncello1,2.5,4\n", "got 2.5 to 4 s"),
        ("file,to,tf\ncello1,-1,1\n", "got -1 to 1 s"),
    ],
)
def test_tables_that_cannot_be_are_refused(source, text, message):
    (source / "segment_times.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        found(source)


def test_a_json_table_of_another_shape_is_refused(source):
    (source / "segment_times.json").write_text('[{"file": "cello1", "to": [1, 2], "tf": [3]}]')
    with pytest.raises(DataError, match="segment_times.json must hold file, to and tf"):
        found(source)
    (source / "segment_times.json").write_text('{"cello1": [0, 1]}')
    with pytest.raises(DataError, match="segment_times.json must hold file, to and tf"):
        found(source)


def test_videos_beside_the_sound_are_pictures(source):
    pictures = np.zeros((10, 32, 64, 3), np.uint8)
    pictures += np.arange(10, dtype=np.uint8)[:, None, None, None] * 20
    pictures[:, :, 32:, 0] = 250
    pictures[:, :, :12, 1] = 250  # outside the middle square
    for name in ("cello1", "cltu1"):
        write_video(source / "video" / "train" / f"{name}.mp4", pictures, 5.0)
    (source / "segment_times.csv").write_text("file,to,tf\ncello1,1,2\ncltu1,0,2\ncello2,0,1\n")
    (solo,) = clips(source, "cello1-0")
    assert solo.frame_rate == 5.0 and solo.players[0].picture.shape == (5, 16, 16, 3)
    # From the sixth picture on, and only the middle of it.
    assert np.abs(solo.players[0].picture[:, 8, 3, 2].astype(int) - np.arange(5, 10) * 20).max() < 12
    assert solo.players[0].picture[0, 8, 1, 1] < 150
    one, _ = clips(source, "cltu1-0")
    left, right = one.players
    assert np.array_equal(left.picture, right.picture) and left.picture[0, 8, 1, 1] > 200 > left.picture[0, 8, 6, 1]
    (blind,) = clips(source, "cello2-0")
    assert (blind.frame_rate, blind.players[0].picture) == (0.0, None)


def test_every_file_of_a_recording_belongs_to_its_pieces(source):
    write_video(source / "video" / "train" / "cello1.MP4", np.zeros((10, 32, 64, 3), np.uint8), 5.0)
    (source / "segment_times.csv").write_text("file,to,tf\ncello1,0,1\ncello1,1,2\n")
    media = {path for path in source.rglob("cello1.*") if path.is_file()}
    assert len(media) == 2 and all(set(found(source)[name].files) == media for name in ("cello1-0", "cello1-1"))


def test_a_video_that_was_cut_off_is_refused_or_allowed_and_noted(source):
    noise = np.random.default_rng(0).integers(0, 255, (10, 32, 64, 3)).astype(np.uint8)
    (source / "video" / "train").mkdir(parents=True)
    whole = filmed("matroska", noise, 5)  # FFmpeg goes by the content
    (source / "video" / "train" / "cello1.mp4").write_bytes(whole[: len(whole) // 2])
    piece = found(source)["cello1-0"]
    with pytest.raises(MediaError, match=r"cello1.mp4 must be whole; got .*--set allow_truncated=true$"):
        next(sopjfm.read(piece, RECIPE, OPTIONS, source))
    clip = next(sopjfm.read(piece, RECIPE.model_copy(update={"allow_truncated": True}), OPTIONS, source))
    assert len(clip.notes) == 1 and clip.notes[0].startswith("cello1.mp4: the file was cut off")


def test_names_that_say_nothing_are_refused(source):
    write_wav(source / "wav" / "train" / "clq1.wav", tone(900), RATE)
    with pytest.raises(DataError, match="clq1.wav must be called by one of cello, .*, xf, and a number; got clq1"):
        found(source)
    (source / "wav" / "train" / "clq1.wav").rename(source / "wav" / "train" / ".hidden.wav")
    assert len(found(source)) == 24


def test_a_recording_in_both_splits_is_refused(source):
    write_wav(source / "wav" / "test" / "cello1.wav", tone(900), RATE)
    with pytest.raises(DataError, match="a recording must lie in one of .*; got cello1.wav in both"):
        found(source)


def test_a_wrong_source_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"'sopjfm' needs the folder that it lies in; got no --source"):
        sopjfm.pieces(RECIPE, OPTIONS, None)
    with pytest.raises(DataError, match="must hold the folders wav/train and wav/test; got no file that ends in .wav"):
        sopjfm.pieces(RECIPE, OPTIONS, tmp_path)


def test_a_copy_that_broke_off_is_refused(source, tmp_path):
    with pytest.raises(DataError, match="must hold 472 pieces.*got 24 pieces"):
        write_shards(RECIPE, "sopjfm", Store(tmp_path / "store"), source)


def test_shards_hold_the_pieces_and_plain_webdataset_opens_them(source, tmp_path):
    recipe = RECIPE.model_copy(update={"expect": None})
    manifest = write_shards(recipe, "sopjfm", Store(tmp_path / "store"), source)
    read = {
        piece.piece: piece for split in ("train", "valid", "promote", "test") for piece in read_pieces(manifest, split)
    }
    assert set(read) == set(found(source))
    assert np.abs(read["violin1-0"].players[0].audio / 32768 - tone(200 + 10 * 22)).max() < 1e-4
    assert read["tut2-0"].mixture.shape == (1, 2 * RATE) and read["tut2-0"].players[0].audio is None
    paths = [str(manifest.folder / shard.name) for shard in manifest.of_split("test")]
    members = {sample["__key__"]: set(sample) for sample in wds.WebDataset(paths, shardshuffle=False)}
    assert "player0.wav" in members[f"violin1-0_{0:09d}"] and "mixture.wav" in members[f"tut2-0_{0:09d}"]


def test_recordings_that_are_none_are_missing_with_the_reason(source):
    for name in ("cello1", "cltu2"):
        (source / "wav" / "train" / f"{name}.wav").write_bytes(b"<html>")
    missing = sopjfm.pieces(RECIPE, OPTIONS, source).missing
    assert [name.partition(":")[0] for name in missing] == ["cello1", "cltu2"]
    assert "cello1.wav must be a sound or video file that can be decoded" in missing[0]


def test_all_names_that_say_nothing_and_wrong_stretches_are_told(source):
    for name in ("clq1", "clq2"):
        write_wav(source / "wav" / "train" / f"{name}.wav", tone(900), RATE)
    with pytest.raises(
        DataError, match=r"2 errors: \(1\) .*clq1.wav must be called .* \(2\) .*clq2.wav must be called"
    ):
        found(source)
    for name in ("clq1", "clq2"):
        (source / "wav" / "train" / f"{name}.wav").unlink()
    (source / "segment_times.csv").write_text("file,to,tf\ncello1,0,1\ncello2,3,4\ncello3,1,0\n")
    with pytest.raises(DataError, match=r"2 errors: \(1\) stretch 0 of cello2 .* \(2\) stretch 0 of cello3"):
        found(source)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", ["File;To;TF;\r\ncello1;0,5;1,5;\r\n;;;\r\n", "file\tto\ttf\ncello1\t0.5\t1.5\n"])
def test_a_table_is_read_as_spreadsheets_save_it(source, text, encoding):
    (source / "segment_times.csv").write_bytes(text.encode(encoding))
    assert {name: piece.seconds for name, piece in found(source).items()} == {"cello1-0": 1.0}


def test_endings_may_be_in_capitals_and_what_vanished_is_named(source):
    for path in (source / "wav" / "train").iterdir():
        path.rename(path.with_suffix(".WAV"))
    (source / "wav" / "train" / "._cello1.wav").write_bytes(b"")
    piece = found(source)["cello1-0"]
    (source / "wav" / "train" / "cello1.WAV").unlink()
    with pytest.raises(DataError, match=r"sop must keep its pieces while .*; got no cello1-0 any more"):
        list(sopjfm.read(piece, RECIPE, OPTIONS, source))


def test_a_folder_above_or_below_the_right_one_is_refused_with_its_name(source):
    for wrong in (source.parent, source / "wav", source / "wav" / "train"):
        with pytest.raises(DataError, match=rf"holds wav/ with --source; did you mean --source {source}\?"):
            found(wrong)
