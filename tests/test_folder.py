"""The reader of a user's own stems, on trees that look like what people have."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
import soundfile
from media_files import filmed

from vimss import cli
from vimss.errors import ConfigError, DataError, MediaError
from vimss.media import write_video, write_wav
from vimss.runtime import Place, ray_running
from vimss.shards.corpora import folder
from vimss.shards.instruments import label_of
from vimss.shards.recipe import SPLITS, Expectation, load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.read import read_pieces

RATE = 8000
RECIPE = load_recipe("folder", [f"sample_rate={RATE}", "clip_seconds=2", "picture={size: 16, frame_rate: 5}"])


def tone(pitch: float, seconds: float = 3.0, rate: int = RATE) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)[None]


@pytest.fixture
def source(tmp_path):
    """Four duets, no two of one pitch."""
    for number in range(4):
        piece = tmp_path / "music" / f"No. {number}"
        write_wav(piece / "vn.wav", tone(400 + 20 * number), RATE)
        write_wav(piece / "cello 1.wav", tone(100 + 20 * number), RATE)
    return tmp_path / "music"


def found(source, recipe=RECIPE, options=folder.Options()):  # noqa: B008 - settings that nothing changes
    return folder.pieces(recipe, options, source).pieces


def clips(source, number=0, options=folder.Options(), recipe=RECIPE):  # noqa: B008
    piece = next(piece for piece in found(source, recipe) if piece.name == f"No-{number}")
    return list(folder.read(piece, recipe, options, source))


def test_every_split_gets_a_piece_and_the_seed_decides_which(source):
    assert sorted(piece.split for piece in found(source)) == ["promote", "test", "train", "valid"]
    deals = {tuple(piece.name for piece in found(source, RECIPE.model_copy(update={"seed": n}))) for n in range(8)}
    assert len(deals) > 1 and found(source) == found(source)


def test_folders_of_the_splits_names_decide(source):
    for split, number in (("train", 0), ("train", 1), ("test", 2)):
        (source / split).mkdir(exist_ok=True)
        (source / f"No. {number}").rename(source / split / f"No. {number}")
    assert [(piece.split, piece.name) for piece in found(source)] == [
        ("train", "No-0"), ("train", "No-1"), ("test", "No-2"),
    ]  # fmt: skip


def test_stems_are_cut_into_clips_and_keep_their_samples(source):
    one, two = clips(source, 1)
    assert [(clip.offset, clip.samples) for clip in (one, two)] == [(0, 12800), (12800, 11200)]
    assert [player.instrument for player in one.players] == ["vc", "vn"]
    stem = np.concatenate([clip.players[1].audio for clip in (one, two)], axis=1)
    assert np.abs(stem / 32768 - tone(420)).max() < 1e-4


def test_stems_at_another_rate_are_resampled(source):
    write_wav(source / "No. 0" / "vn.wav", tone(400, rate=16000), 16000)
    write_wav(source / "No. 0" / "cello 1.wav", tone(100, rate=16000), 16000)
    stem = np.concatenate([clip.players[1].audio for clip in clips(source)], axis=1)
    assert np.abs(stem[:, 200:-200] / 32768 - tone(400)[:, 200:-200]).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "label"), [("vn", "vn"), ("VN-2", "vn"), ("double_bass.close", "db"), ("Trumpet 1", "tpt"), ("hn3", "hn")]
)
def test_the_first_word_of_a_name_is_the_instrument(source, name, label):
    (source / "No. 0" / "vn.wav").rename(source / "No. 0" / f"{name}.wav")
    assert label in {player.instrument for player in clips(source)[0].players}


def test_a_table_names_what_files_do_not(source):
    (source / "No. 0" / "vn.wav").rename(source / "No. 0" / "Track 07.wav")
    with pytest.raises(DataError, match=r"Track 07.wav must begin with an instrument: one of bn, .*; got 'Track 07'"):
        found(source)
    (source / "No. 0" / "instruments.csv").write_text("Track 07.wav,flute\ncello 1.wav,vc\n", encoding="utf-8")
    assert [player.instrument for player in clips(source)[0].players] == ["fl", "vc"]


def test_a_recorded_mix_is_kept(source):
    mix = 0.5 * (tone(400) + tone(100))
    write_wav(source / "No. 0" / "mixture.wav", mix, RATE)
    heard = np.concatenate([clip.mixture for clip in clips(source)], axis=1)
    assert np.abs(heard / 32768 - mix).max() < 1e-4
    assert clips(source, 1)[0].mixture is None


def test_players_are_the_columns_of_the_video(source):
    pictures = np.zeros((15, 64, 128, 3), np.uint8)
    pictures[:, :, 64:] = 255
    write_video(source / "No. 0" / "video.mp4", pictures, 5.0, tone(100), RATE)
    left, right = clips(source)[0].players
    assert left.picture.shape == (8, 16, 16, 3)
    assert left.picture.mean() < 20 and right.picture.mean() > 235


def test_someone_silent_is_a_player_who_rests(source):
    write_wav(source / "No. 0" / "vn.wav", np.zeros((1, 3 * RATE), np.float32), RATE)
    assert [player.silent for player in clips(source)[0].players] == [False, True]


def test_stems_of_other_length_or_rate_are_refused(source):
    write_wav(source / "No. 2" / "vn.wav", tone(400, 2.0), RATE)
    with pytest.raises(DataError, match=r"vn.wav must be as long as cello 1.wav .*; got 2.00 s at 8000 Hz, not 3.00 s"):
        found(source)
    write_wav(source / "No. 2" / "vn.wav", tone(400, rate=11025), 11025)
    with pytest.raises(DataError, match=r"got 3.00 s at 11025 Hz, not 3.00 s at 8000 Hz"):
        found(source)


def test_what_is_no_corpus_is_refused(source):
    with pytest.raises(ConfigError, match=r"needs the folder that it lies in; got no --source.*--source DIR"):
        found(None)
    (source / "No. 0" / "vn.wav").unlink()
    (source / "No. 0" / "cello 1.wav").unlink()
    with pytest.raises(DataError, match="No. 0 must hold the stems of a piece; got no file that ends in .aif"):
        found(source)
    shutil.rmtree(source / "No. 0")
    with pytest.raises(
        DataError, match="must hold at least 4 pieces, one for each of train, valid, promote, test; got 3"
    ):
        found(source)
    shutil.copytree(source / "No. 1", source / "No, 1")
    with pytest.raises(DataError, match="must have a name of its own.*; got No-1 twice"):
        found(source)


@pytest.mark.slow
def test_shards_belong_to_one_state_of_the_source(source, tmp_path):
    store = Store(tmp_path / "store")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="must hold at least one piece"):
        write_shards(RECIPE, "mine", store, tmp_path / "empty")
    manifest = write_shards(RECIPE, "mine", store, source)
    assert write_shards(RECIPE, "mine", store, source) == manifest == write_shards(RECIPE, "mine", store)
    assert {piece.piece for piece in read_pieces(manifest, "train")} < {f"No-{number}" for number in range(4)}
    write_wav(source / "No. 3" / "fl.wav", tone(500), RATE)
    with pytest.raises(DataError, match=r"must hold the files that .* was begun from; got other names or sizes"):
        write_shards(RECIPE, "mine", store, source)
    assert write_shards(RECIPE, "yours", store, source).pieces


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("vn", "vn"), ("Violin 2 close", "vn"), ("VN2", "vn"), ("01 violin", "vn"), ("DoubleBass_L", "db"),
        ("double bass", "db"), ("guitar 1", "guitar_1"), ("Guitar-2 take 3", "guitar_2"), ("guitar", None),
        ("guitar 7", None), ("violinist", None), ("", None), ("7", None), ("ge\u0301nial 2", "g\u00e9nial"),
        ("ピアノ-1", "ピアノ"), ("bass drum", "bass_drum"), ("bass", "bass"),
    ],
)  # fmt: skip
def test_a_name_begins_with_at_most_one_label(text, label):
    labels = ("vn", "db", "guitar_1", "guitar_2", "g\u00e9nial", "ピアノ", "bass", "bass_drum")
    assert label_of(text, labels) == label


def listing(source, recipe=RECIPE):
    return folder.pieces(recipe, folder.Options(), source)


def write_float(path, sound):
    soundfile.write(path, sound[0], RATE, subtype="FLOAT")


def test_names_in_any_script_are_pieces_of_their_own(source):
    for number, name in enumerate(("月光", "日本", "Плач", "Für Elise")):
        (source / f"No. {number}").rename(source / name)
    pieces = found(source)
    assert len({piece.name for piece in pieces}) == len({piece.composition for piece in pieces}) == 4
    assert all(list(folder.read(piece, RECIPE, folder.Options(), source)) for piece in pieces)


def test_folders_that_are_one_on_another_disk_are_refused(source):
    for form in ("NFC", "NFD"):
        shutil.copytree(source / "No. 1", source / unicodedata.normalize(form, "Café"))
    with pytest.raises(
        DataError, match=r"every piece must have a name of its own.*; got Caf-73473dcc twice, once from"
    ):
        found(source)


def test_what_systems_leave_is_no_stem_and_no_piece(source):
    before = listing(source)
    for name in ("._vn.wav", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (source / "No. 0" / name).write_bytes(b"\0\5\x16\7")
        (source / name).write_bytes(b"\0\5\x16\7")
    for name in ("__MACOSX", "@eaDir", ".sync"):
        (source / name).mkdir()
        (source / "No. 0" / name).mkdir()
    assert listing(source) == before and len(clips(source)[0].players) == 2


def test_a_download_that_is_not_finished_is_left_out_and_noted(source):
    (source / "No. 0" / "fl.wav.part").write_bytes(b"RIFF")
    (clip, _) = clips(source)
    assert len(clip.players) == 2
    assert clip.notes == ("fl.wav.part is a download that is not finished, and was left out",)


def test_all_bad_files_are_named_in_one_error(source):
    (source / "No. 0" / "vn.wav").write_bytes(b"<html>")
    (source / "No. 1" / "vn.wav").write_bytes(b"")
    (source / "No. 1" / "cello 1.wav").unlink()
    (source / "No. 1" / "cello 1.wav").symlink_to(source / "gone.wav")
    (source / "No. 2" / "vn.wav").rename(source / "No. 2" / "Track 1.wav")
    write_wav(source / "No. 3" / "vn.wav", tone(400, 2.0), RATE)
    with pytest.raises(DataError) as error:
        found(source)
    assert error.value.got.startswith("5 errors: (1) ")
    for told in (
        "No. 0/vn.wav must be a sound or video file",
        "No. 1/vn.wav must be a sound or video file",
        "No. 1/cello 1.wav must be a sound file; got a link to nothing",
        "Track 1.wav must begin with an instrument",
        "No. 3/vn.wav must be as long as cello 1.wav",
    ):
        assert told in error.value.got
    lenient = RECIPE.model_copy(update={"expect": Expectation(pieces=4, most_missing=1.0)})
    assert [missing.partition(":")[0] for missing in sorted(listing(source, lenient).missing)] == [
        "No-0", "No-1", "No-2", "No-3",
    ]  # fmt: skip


def test_a_piece_that_is_left_out_moves_no_other(source):
    before = {piece.name: piece.split for piece in found(source)}
    (source / "No. 0" / "vn.wav").write_bytes(b"<html>")
    lenient = RECIPE.model_copy(update={"expect": Expectation(pieces=4, most_missing=0.5)})
    assert {piece.name: piece.split for piece in found(source, lenient)} == {
        name: split for name, split in before.items() if name != "No-0"
    }


def test_the_longer_ones_or_most_stems_say_how_long_a_piece_is(source):
    write_wav(source / "No. 1" / "cello 1.wav", tone(100, 2.0), RATE)
    with pytest.raises(DataError, match=r"cello 1.wav must be as long as vn.wav .*; got 2.00 s .*, not 3.00 s"):
        found(source)
    write_wav(source / "No. 1" / "cello 1.wav", tone(100), RATE)
    write_wav(source / "No. 0" / "fl.wav", tone(700), RATE)
    write_wav(source / "No. 0" / "cello 1.wav", tone(100, 2.0), RATE)
    with pytest.raises(DataError, match=r"cello 1.wav must be as long as fl.wav .*; got 2.00 s .*, not 3.00 s"):
        found(source)


def test_a_stem_that_lasts_another_time_when_it_is_read_is_refused(source):
    (piece, *_) = found(source)
    write_wav(source / piece.name.replace("No-", "No. ") / "vn.wav", tone(400, 1.0), RATE)
    with pytest.raises(DataError, match=r"vn.wav must last as long as cello 1.wav does, 3.00 s; got 1.00 s.*export or"):
        list(folder.read(piece, RECIPE, folder.Options(), source))
    write_wav(source / piece.name.replace("No-", "No. ") / "cello 1.wav", tone(100, 1.0), RATE)
    with pytest.raises(
        DataError, match=r"\(1\) .*cello 1.wav must last as long as was listed, 3.00 s; got 1.00 s. \(2\)"
    ):
        list(folder.read(piece, RECIPE, folder.Options(), source))


def test_stems_that_are_cut_off_may_be_allowed_and_are_noted(source):
    write_wav(source / "No. 0" / "vn.wav", tone(400, 1.0), RATE)
    (clip,) = clips(source, recipe=RECIPE.model_copy(update={"allow_truncated": True}))
    assert clip.samples == RATE
    assert "all sounds end with the shortest one, after 1.00 of 3.00 s" in clip.notes


def test_samples_far_beyond_full_scale_are_noted(source):
    sound = tone(400)
    sound[0, 99] = 100
    write_float(source / "No. 0" / "vn.wav", sound)
    (clip, _) = clips(source)
    assert clip.notes == (
        "vn.wav: samples reach 100 times full scale, to which all sounds of its piece were scaled down",
    )


def table(source, text, name="instruments.csv"):
    (source / "No. 0" / name).write_bytes(text.encode())
    return [player.instrument for player in clips(source)[0].players]


@pytest.mark.parametrize(
    "text",
    [
        "vn.wav,flute\ncello 1.wav,ob\n",
        "File;Instrument;\r\nvn.wav;Flute;;\r\ncello 1;Oboe\r\n;;\r\n",
        "instrument,file,seat\nflute,VN,1\noboe,Cello 1.WAV,2\n",
        "Dateiname;Instrument\nvn;fl;first desk\ncello 1;ob\n",
        "vn.wav;fl;first desk\n.\\cello 1.wav;oboe;second\n",
    ],
)
def test_a_table_is_read_as_people_write_it(source, text):
    assert table(source, text) == ["fl", "ob"]
    (source / "No. 0" / "instruments.csv").unlink()
    assert table(source, text, "Instruments.TXT") == ["fl", "ob"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "instruments.csv must name the stems; got no line"),
        ("file,instrument\n", "instruments.csv must name the stems; got no line"),
        (
            "vn.wav,fl\nviola.wav,va\n",
            r"line 2 of .* must name a file of .*; got 'viola.wav'.*are: cello 1.wav, vn.wav",
        ),
        ("vn.wav,fl\nVN,vc\n", r"line 2 of .*instruments.csv must name a file of its own; got VN twice"),
        ("../No. 1/vn.wav,fl\n", r"line 1 of .* must name a file of .*No. 0; got '../No. 1/vn.wav'"),
        (
            "vn.wav,kazoo\n",
            "line 1 of .* must be file,instrument with one of bn, .*; got vn.wav, kazoo. To fix: correct",
        ),
        ("vn.wav\n", "line 1 of .* must be file,instrument with one of bn, .*; got vn.wav. To fix"),
        ("vn.wav,kazoo\ncello 1.wav,x\n", r"got 2 errors: \(1\) line 1 of .*\(2\) line 2 of"),
    ],
)
def test_a_table_that_cannot_be_is_refused(source, text, message):
    with pytest.raises(DataError, match=message):
        table(source, text)


def test_a_table_that_is_no_text_is_refused(source):
    with pytest.raises(
        DataError, match=r"instruments.xlsx must be a table as text; got .xlsx. To fix: save it as instr"
    ):
        table(source, "PK", "instruments.xlsx")


def test_sounds_that_a_table_does_not_name_are_noted(source):
    (source / "No. 0" / "instruments.csv").write_text("vn.wav,fl\n")
    assert clips(source)[0].notes == ("cello 1.wav is not in instruments.csv, and was left out",)


def test_endings_and_names_of_splits_may_be_in_capitals(source):
    (source / "No. 0" / "vn.wav").rename(source / "No. 0" / "  Violin  2 .WAV")
    write_wav(source / "No. 0" / "Mixture.WAV", tone(400) + tone(100), RATE)
    (clip, _) = clips(source)
    assert [player.instrument for player in clip.players] == ["vn", "vc"] and clip.mixture is not None
    for split, number in (("Train", 0), ("TEST", 1)):
        (source / split).mkdir()
        (source / f"No. {number}").rename(source / split / f"No. {number}")
    assert [(piece.split, piece.name) for piece in found(source)] == [("train", "No-0"), ("test", "No-1")]
    assert listing(source).notes == tuple(
        f"No. {number} is no folder of a split ({', '.join(SPLITS)}), and was left out" for number in (2, 3)
    )


def test_sounds_outside_of_pieces_are_noted(source):
    shutil.copy(source / "No. 0" / "vn.wav", source / "vn.wav")
    assert listing(source).notes == ("vn.wav lies in no folder of a piece, and was left out",)


def test_a_folder_above_or_below_the_right_one_is_refused_with_its_name(source):
    with pytest.raises(
        DataError, match=rf"one folder per piece.*; got stems without a folder: .*did you mean .*{source}\?"
    ):
        found(source / "No. 0")
    shutil.move(source, source.parent / "x" / "music")
    with pytest.raises(DataError, match=r"got only folders in folders.*; did you mean --source .*/x/music\?"):
        found(source.parent / "x")


def test_a_piece_whose_files_lie_deeper_is_named(source):
    shutil.move(source / "No. 0", source / "x")
    shutil.move(source / "x", source / "No. 0" / "No. 0")
    with pytest.raises(
        DataError, match=r"No. 0 must hold the stems of a piece; got no file .*, only the folder No. 0 with"
    ):
        found(source)


def test_several_files_of_one_role_are_refused(source):
    for ending in ("wav", "flac"):
        write_wav(source / "No. 0" / f"mixture.{ending}", tone(400), RATE)
    with pytest.raises(DataError, match=r"No. 0 must hold one file called mixture; got mixture.flac, mixture.wav"):
        found(source)


def test_a_piece_that_vanished_is_named(source):
    (piece, *_) = found(source)
    shutil.rmtree(source / piece.name.replace("No-", "No. "))
    shutil.copytree(next(source.iterdir()), source / "other")
    with pytest.raises(
        DataError, match=rf"music must keep its pieces .*; got no {piece.name} any more. To fix: put it"
    ):
        list(folder.read(piece, RECIPE, folder.Options(), source))


def test_links_are_followed_and_loops_do_no_harm(source):
    shutil.move(source / "No. 0", source.parent / "elsewhere")
    (source / "No. 0").symlink_to(source.parent / "elsewhere")
    (source / "round").symlink_to(source / "round")
    assert len(found(source)) == 4 and len(clips(source)[0].players) == 2


def test_sounds_of_any_depth_channels_and_length_are_taken(source):
    stereo = np.repeat(tone(400, 0.001), 2, axis=0)
    soundfile.write(source / "No. 0" / "vn.wav", stereo.T, RATE, subtype="PCM_24")
    soundfile.write(source / "No. 0" / "cello 1.wav", tone(100, 0.001)[0], RATE, subtype="DOUBLE")
    (clip,) = clips(source)
    assert [player.audio.shape for player in clip.players] == [(1, 8), (1, 8)]


def test_channels_that_cancel_out_in_mono_are_noted(source):
    sound = tone(400)[0]
    soundfile.write(source / "No. 0" / "vn.wav", np.stack([sound, -0.99 * sound], axis=1), RATE)
    assert clips(source)[0].notes == (
        "vn.wav: left and right cancel out, so that little is left of them in mono: --set channels=2 keeps both",
    )
    assert clips(source, recipe=RECIPE.model_copy(update={"channels": 2}))[0].notes == ()


def test_silence_that_cancels_out_is_not_noted(source):
    sound = 1e-4 * tone(400)[0]
    soundfile.write(source / "No. 0" / "vn.wav", np.stack([sound, -0.99 * sound], axis=1), RATE, subtype="FLOAT")
    assert clips(source)[0].notes == ()


def test_a_file_that_was_cut_off_is_refused_or_allowed_and_noted(source):
    for path in (source / "No. 0").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(
        DataError, match=r"2 errors: .* must be whole; got about 1.0 s of .*3.0 s.*--set allow_truncated=true"
    ):
        clips(source)
    (clip,) = clips(source, recipe=RECIPE.model_copy(update={"allow_truncated": True}))
    assert [note.partition(": ")[0] for note in clip.notes] == ["cello 1.wav", "vn.wav"]
    assert "the file was cut off" in clip.notes[0]


def test_a_video_that_was_cut_off_is_refused_or_allowed_and_noted(source):
    noise = np.random.default_rng(0).integers(0, 255, (15, 32, 64, 3)).astype(np.uint8)
    whole = filmed("matroska", noise, 5)
    (source / "No. 0" / "video.mkv").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match=r"video.mkv must be whole; got .*; or read .*: --set allow_truncated=true$"):
        clips(source)
    found = clips(source, recipe=RECIPE.model_copy(update={"allow_truncated": True}))
    assert len(found[0].notes) == 1 and found[0].notes[0].startswith("video.mkv: the file was cut off: ")
    seen = np.concatenate([clip.players[0].picture for clip in found])
    assert len(seen) == 15 and (seen[-3:] == seen[-1]).all()


@pytest.mark.slow
def test_a_check_lists_odd_mixes_and_goes_well(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "store"))
    for number in range(4):
        shutil.copy(source / f"No. {number}" / "vn.wav", source / f"No. {number}" / "mixture.wav")
    write_shards(load_recipe("folder", [f"sample_rate={RATE}"]), "folder", Store(tmp_path / "store"), source)

    def says(*words):
        with pytest.raises(SystemExit) as end:
            cli.main(["shard", "folder", "--set", f"sample_rate={RATE}", *words])
        assert not end.value.code
        return capsys.readouterr().out

    with ray_running(Place(name="local"), num_cpus=1):
        check, told, again = says("--check"), json.loads(says("--check", "--json")), says()
    sentence = "No-2: the recorded mix is not the sum of the stems: the difference has -3.0 dB of it"
    assert f"odd: {sentence}" in check and check.count("odd: ") == 4 and check.endswith("MB: no errors\n")
    assert told["wrong"] == [] and len(told["odd"]) == 4 and f"\n  odd: {sentence}" in again
