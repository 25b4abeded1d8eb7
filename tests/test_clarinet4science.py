"""The reader of Clarinetists 4 Science, on a tree of a few seconds and a table that describes it."""

import unicodedata

import numpy as np
import pytest
import webdataset as wds

from vimss.errors import ConfigError, DataError
from vimss.media import write_video, write_wav
from vimss.shards.corpora import clarinet4science
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.read import read_pieces

RATE = 8000
RECIPE = load_recipe("clarinet4science", [f"sample_rate={RATE}", "clip_seconds=1", "picture={size: 16, frame_rate: 5}"])
OPTIONS = clarinet4science.Options()
WORKS = ("Mozart K. 622", "Weber", "Brahms", "Debussy")


def tone(pitch: float) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * pitch * np.arange(2 * RATE) / RATE)).astype(np.float32)[None]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two players, four works, and the onsets of one video."""
    source = tmp_path_factory.mktemp("c4s")
    pictures = np.zeros((10, 32, 64, 3), np.uint8)
    pictures[:, :, 24:40, 1] = 250
    lines = ["video,player,piece,onsets"]
    for player in range(2):
        for number, work in enumerate(WORKS):
            path = f"videos/p{player} {number}.mp4"
            write_video(source / path, pictures, 5.0, tone(300 + 100 * number + 50 * player), RATE)
            lines.append(f"{path},p{player},{work},{'onsets/a.csv' if player + number == 0 else ''}")
    (source / "onsets").mkdir()
    (source / "onsets" / "a.csv").write_text("0.25,60,clear\n1.75\n\n1.5,62\n")
    (source / "clips.csv").write_text("\n".join(lines) + "\n")
    return source


@pytest.fixture
def source(tree, tmp_path):
    """The same, to be changed by one test."""
    copy = tmp_path / "c4s"
    for path in tree.rglob("*.mp4"):
        (copy / path.relative_to(tree)).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.relative_to(tree)).hardlink_to(path)
    (copy / "onsets").mkdir()
    for name in ("clips.csv", "onsets/a.csv"):
        (copy / name).write_text((tree / name).read_text())
    return copy


def found(source, recipe=RECIPE):
    return {piece.name: piece for piece in clarinet4science.pieces(recipe, OPTIONS, source).pieces}


def clips(source, name):
    return list(clarinet4science.read(found(source)[name], RECIPE, OPTIONS, source))


def test_a_work_is_in_one_split_whoever_plays_it(tree):
    pieces = found(tree)
    assert set(pieces) == {f"videos-p{player}-{number}" for player in range(2) for number in range(4)}
    for number in range(4):
        assert pieces[f"videos-p0-{number}"].split == pieces[f"videos-p1-{number}"].split
    assert pieces["videos-p0-0"].composition == "mozart-k-622"
    assert sorted(pieces[f"videos-p0-{number}"].split for number in range(4)) == ["promote", "test", "train", "valid"]
    deals = {tuple(p.split for p in found(tree, RECIPE.model_copy(update={"seed": n})).values()) for n in range(8)}
    assert len(deals) > 1


def test_a_video_is_a_clarinet_with_stem_and_picture(tree):
    one, two = clips(tree, "videos-p1-2")
    (player,) = one.players
    assert (player.instrument, player.part, player.timbre, one.mixture) == ("cl", "1-cl", "p1", None)
    heard = np.concatenate([clip.players[0].audio for clip in (one, two)], axis=1)
    assert np.argmax(np.abs(np.fft.rfft(heard[0]))) == 2 * 550  # cycles in two seconds
    assert player.picture.shape == (5, 16, 16, 3)
    # The bar fills the middle half of the middle square.
    assert player.picture[0, 8, 8, 1] > 200 > player.picture[0, 8, 1, 1]


def test_onsets_are_sorted_and_travel_with_their_clip(tree):
    one, two = clips(tree, "videos-p0-0")
    assert one.players[0].annotations["onsets"].tolist() == [[0.25]]
    assert two.players[0].annotations["onsets"].tolist() == [[0.5], [0.75]]
    assert clips(tree, "videos-p0-1")[0].players[0].annotations == {}


def test_the_column_of_onsets_may_be_absent(source):
    (source / "clips.csv").write_text("video,player,piece\nvideos/p0 0.mp4,p0,Mozart\n", encoding="utf-8-sig")
    assert clips(source, "videos-p0-0")[0].players[0].annotations == {}


def test_a_recording_without_picture_gives_sound_only(source):
    write_wav(source / "sound.wav", tone(440), RATE)
    (source / "clips.csv").write_text("video,player,piece\nsound.wav,p0,Mozart\n")
    assert (clips(source, "sound")[0].frame_rate, clips(source, "sound")[0].players[0].picture) == (0.0, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("videos/p0 0.mp4,p0,Mozart\n,,\n", "clips.csv, line 1: video, player, piece must be there"),
        ("video,player,piece\nvideos/p0 0.mp4,p0,\n", "line 2: .* must be there; got video=.*, piece="),
        ("video,player,piece\nvideos/p0 0.mp4,p0\n", "clips.csv, line 2: video, player, piece must be there"),
        ("video,player,piece\nvideos/no.mp4,p0,x\n", "line 2: paths must be .*; got videos/no.mp4"),
        ("video,player,piece\n../c4s/clips.csv,p0,x\n", "paths must be those of files below .*; got ../c4s/clips.csv"),
        ("video,player,piece\n/etc/hostname,p0,x\n", "paths must be those of files below .*; got /etc/hostname"),
        ("video,player,piece,onsets\nvideos/p0 0.mp4,p0,x,no.csv\n", "paths must be those of .*; got no.csv"),
        ("video,player,piece\nvideos/p0 0.mp4,p,x\nvideos/p0 0.mp4,q,x\n", "line 3: each .*got videos-p0-0 twice"),
    ],
)
def test_lines_that_cannot_be_are_refused(source, text, message):
    (source / "clips.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        found(source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.5\nonset\n", "every line of .*a.csv must begin with seconds; got could not convert .*'onset'"),
        ("0.5\n-1\n", "the seconds in .*a.csv must be 0 or more; got -1.0"),
        ("nan\n", "the seconds in .*a.csv must be 0 or more; got nan"),
        ("inf\n", "the seconds in .*a.csv must be 0 or more; got inf"),
        ("0,53\n1,20\n", "must have decimal points, or semicolons after them; got 0,53, which .* To fix: write 1.0"),
        ("onset\n0,53\n1,20\n2,75\n", "got 0,53, which may be a decimal comma"),
        ("onset,\n0,53,\n1,20,\n", "got 0,53, which may be a decimal comma"),
        ("0,53\n1\n1,5\n2,75\n", "got 0,53, which may be a decimal comma"),
        ("0\n1,5\n2\n", "got 1,5, which may be a decimal comma"),
        ("0,53 loud\n1,20\n", "got 0,53 loud, which may be a decimal comma"),
        ("0,53;loud\n1,20\n1,5\n", "got 0,53;loud, which may be a decimal comma"),
    ],
)
def test_onsets_that_cannot_be_are_refused(source, text, message):
    (source / "onsets" / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        found(source)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0.5,64\n1,80\n", [0.5, 1]),
        ("0,loud\n1,4th finger\n", [0, 1]),
        ("onset;velocity\n0;64\n1;80\n", [0, 1]),
        ("0,5;loud\n1,25;soft\n", [0.5, 1.25]),
        ("0\n1\n", [0, 1]),
    ],
)
def test_seconds_with_other_columns_are_read(source, text, seconds):
    (source / "onsets" / "a.csv").write_text(text)
    assert clarinet4science._onsets(source / "onsets" / "a.csv")[:, 0].tolist() == seconds


def test_a_video_without_sound_is_refused(source):
    (source / "videos" / "p0 0.mp4").unlink()
    write_video(source / "videos" / "p0 0.mp4", np.zeros((5, 32, 32, 3), np.uint8), 5.0)
    with pytest.raises(DataError, match="p0 0.mp4 must hold sound; got none"):
        found(source)


def test_a_wrong_source_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"'clarinet4science' needs the folder that it lies in; got no --source"):
        clarinet4science.pieces(RECIPE, OPTIONS, None)
    with pytest.raises(
        DataError, match=r"must hold clips.csv with the columns video,player,piece .*; got no such file"
    ):
        clarinet4science.pieces(RECIPE, OPTIONS, tmp_path)


@pytest.mark.slow
def test_shards_hold_the_pieces_and_plain_webdataset_opens_them(tree, tmp_path):
    manifest = write_shards(RECIPE, "clarinet4science", Store(tmp_path), tree)
    parts = ("audio", "picture", "annotations")
    read = {
        piece.piece: piece
        for split in ("train", "valid", "promote", "test")
        for piece in read_pieces(manifest, split, parts=parts)
    }
    assert set(read) == set(found(tree))
    (player,) = read["videos-p0-0"].players
    assert player.annotations["onsets"].tolist() == [[0.25], [1.5], [1.75]]
    assert player.picture.shape == (10, 16, 16, 3) and player.audio.any()
    paths = [str(manifest.folder / shard.name) for shard in manifest.shards]
    samples = {sample["__key__"]: set(sample) for sample in wds.WebDataset(paths, shardshuffle=False)}
    assert {"player0.wav", "player0.mp4", "player0.onsets.npy"} <= samples[f"videos-p0-0_{0:09d}"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_a_table_is_read_as_spreadsheets_save_it(source, encoding):
    (source / "videos" / "p0 0.mp4").rename(source / "videos" / unicodedata.normalize("NFD", "pé 0.MP4"))
    text = "Video;Player;Piece;Onsets;\r\nvideos\\Pé 0.mp4;Zoé;Mozart;onsets/A.csv;\r\n;;;;\r\n"
    (source / "clips.csv").write_bytes(text.encode(encoding))
    (source / "onsets" / "a.csv").write_bytes("Onset;Pitch\r\n0,25;60\r\n1,5;61\r\n".encode(encoding))
    (piece,) = found(source)
    assert piece.startswith("videos-P-0-")
    one, two = clips(source, piece)
    assert (one.players[0].timbre, one.players[0].annotations["onsets"].tolist()) == ("Zoé", [[0.25]])
    assert two.players[0].annotations["onsets"].tolist() == [[0.5]]


def test_works_in_any_script_are_dealt_apart(source):
    lines = [f"videos/p0 {number}.mp4,p0,{work}" for number, work in enumerate(("月光", "日本", "Плач", "Ωδή"))]
    (source / "clips.csv").write_text("\n".join(["video,player,piece", *lines]), encoding="utf-8")
    assert sorted(piece.split for piece in found(source).values()) == ["promote", "test", "train", "valid"]


def test_all_wrong_lines_and_files_are_named(source):
    (source / "clips.csv").write_text("video,player,piece\nno.mp4,p,x\nvideos/p0 0.mp4,p,\n,q\n")
    with pytest.raises(
        DataError, match=r"3 errors: \(1\) .*line 2: paths must .* \(2\) .*line 3: video.* \(3\) .*line 4"
    ):
        found(source)
    (source / "clips.csv").write_text("video,player,piece\nvideos/p0 0.mp4,p,x\nvideos/p0 1.mp4,p,x\n")
    for number in range(2):
        (source / "videos" / f"p0 {number}.mp4").unlink()
        (source / "videos" / f"p0 {number}.mp4").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"2 errors: \(1\) .*p0 0.mp4 must be a sound .* \(2\) .*p0 1.mp4 must be a sound"
    ):
        found(source)


def test_seconds_that_may_be_decimal_commas_are_refused(source):
    (source / "onsets" / "a.csv").write_text("0,25\n1,75\n")
    with pytest.raises(
        DataError, match=r"a.csv must have decimal points, .*; got 0,25, which may be a decimal comma. To"
    ):
        found(source)


def test_a_line_that_vanished_is_named(source):
    piece = found(source)["videos-p0-0"]
    (source / "clips.csv").write_text("video,player,piece\nvideos/p0 1.mp4,p,x\n")
    with pytest.raises(DataError, match=r"c4s must keep its pieces while .*; got no videos-p0-0 any more"):
        list(clarinet4science.read(piece, RECIPE, OPTIONS, source))


def test_a_folder_above_or_below_the_right_one_is_refused_with_its_name(source):
    for wrong in (source.parent, source / "videos"):
        with pytest.raises(DataError, match=rf"or correct --source; did you mean --source {source}\?"):
            found(wrong)
