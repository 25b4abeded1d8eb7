"""The reader of URMP, on a tree that looks like it: one piece at the real rates and picture size, others small."""

import io
import json
from collections import Counter

import numpy as np
import pytest
import soundfile
import webdataset as wds

from vimss.config import parse_config
from vimss.errors import ConfigError, DataError, MediaError
from vimss.media import write_video, write_wav
from vimss.shards.corpora import urmp
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.read import read_pieces

RATE = 8000
RECIPE = load_recipe("urmp", [f"sample_rate={RATE}", "clip_seconds=2", "picture={size: 16, frame_rate: 12.5}"])
REAL, SMALL, SURPRISE, TRIO = (
    "24_Pirates_vn_vn_va_vc",
    "01_Jupiter_vn_vc",
    "15_Surprise_tpt_tpt_tbn",
    "13_Hark_vn_vn_va",
)
COLOURS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30]], np.uint8)


def tone(pitch: float, seconds: float = 3.0, rate: int = RATE, level: float = 0.2) -> np.ndarray:
    return (level * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)[None]


def add_piece(folder, name, labels=None):
    """A piece of 3 seconds without video; `labels` are what the names of its files say."""
    number, title, *codes = name.split("_")
    stems = [tone(int(number) * 10 + 200 * part) for part in range(1, len(codes) + 1)]
    for part, (code, stem) in enumerate(zip(labels or codes, stems, strict=True), 1):
        write_wav(folder / name / f"AuSep_{part}_{code}_{number}_{title}.wav", stem, RATE)
    write_wav(folder / name / f"AuMix_{name}.wav", np.sum(stems, axis=0), RATE)


def add_video(folder, name, players, size=(48, 128)):
    """Grey columns, the darkest on the left."""
    levels = np.repeat(np.linspace(20, 220, players), -(-size[1] // players))[: size[1]]
    pictures = np.broadcast_to(levels[None, None, :, None], (15, *size, 3)).astype(np.uint8)
    write_video(folder / name / f"Vid_{name}.mp4", pictures, 5.0, tone(200), RATE)


@pytest.fixture
def source(tmp_path):
    """Three of the 44 pieces, and what else the archive has."""
    folder = tmp_path / "URMP"
    add_piece(folder, SMALL)
    add_piece(folder, SURPRISE, labels=["tpt", "tpt", "tpt"])
    add_piece(folder, TRIO)
    write_wav(folder / "Supplementary_Files" / "AuSep_1_vn_99_Noise.wav", tone(50), RATE)
    write_wav(folder / "45_Mine_vn_vc" / "AuSep_1_vn_45_Mine.wav", tone(50), RATE)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """One quartet as URMP has it: 2 s at 48 kHz and 24 bits, 1920x1080 at 29.97 pictures per second."""
    folder = tmp_path_factory.mktemp("real") / REAL
    folder.mkdir()
    stems = [tone(200 * part, 2.0, 48000) for part in range(1, 5)]
    for part, (code, stem) in enumerate(zip(("vn", "vn", "va", "vc"), stems, strict=True), 1):
        soundfile.write(folder / f"AuSep_{part}_{code}_24_Pirates.wav", stem[0], 48000, subtype="PCM_24")
    mix = np.sum(stems, axis=0)
    soundfile.write(folder / f"AuMix_{REAL}.wav", mix[0], 48000, subtype="PCM_24")
    # A column of one colour per player; in each, something white moves from the upper to the lower half after 30
    # pictures, 1.001 s.
    pictures = np.empty((60, 1080, 1920, 3), np.uint8)
    pictures[:] = np.repeat(COLOURS, 480, axis=0)
    for place in range(4):
        pictures[:30, :540, 480 * place + 180 : 480 * place + 300] = 255
        pictures[30:, 540:, 480 * place + 180 : 480 * place + 300] = 255
    write_video(folder / f"Vid_{REAL}.mp4", pictures, 30000 / 1001, mix, 48000)
    return folder.parent


def clips(source, name=SMALL, recipe=RECIPE, options=urmp.Options()):  # noqa: B008 - settings that nothing changes
    (piece,) = [piece for piece in urmp.pieces(recipe, options, source).pieces if piece.name == name]
    return list(urmp.read(piece, recipe, options, source))


def stem_of(read, place):
    return np.concatenate([clip.players[place].audio for clip in read], axis=1) / 32768


def test_the_list_has_44_pieces_with_149_parts():
    parts = Counter(code for name in urmp.NAMES for code in name.split("_")[2:])
    assert [int(name[:2]) for name in urmp.NAMES] == list(range(1, 45))
    assert parts == {
        "vn": 34, "va": 13, "vc": 11, "db": 3, "fl": 18, "ob": 6, "cl": 10, "sax": 11, "bn": 3, "tpt": 21, "hn": 5,
        "tbn": 9, "tba": 5,
    }  # fmt: skip


def test_train_and_test_have_every_instrument_and_number_of_players(tmp_path):
    for name in urmp.NAMES:
        for part, code in enumerate(name.split("_")[2:], 1):
            write_wav(tmp_path / name / f"AuSep_{part}_{code}.wav", np.zeros((1, 80), np.float32), RATE)
    listing = urmp.pieces(RECIPE, urmp.Options(), tmp_path)
    assert listing.missing == ()
    assert Counter(piece.split for piece in listing.pieces) == {"train": 24, "valid": 5, "promote": 5, "test": 10}
    for split in ("train", "test"):
        names = [piece.name.split("_") for piece in listing.pieces if piece.split == split]
        assert {code for name in names for code in name[2:]} == set(INSTRUMENTS)
        assert {len(name) - 2 for name in names} == {2, 3, 4, 5}
    splits = {piece.composition: piece.split for piece in listing.pieces}
    assert all(splits[piece.composition] == piece.split for piece in listing.pieces)
    assert len(splits) == 27 and splits["pirates"] == "promote"


def test_splits_can_be_chosen_by_composition(source):
    options = urmp.Options(valid=(), promote=(), test=("surprise", "hark"))
    splits = [piece.split for piece in urmp.pieces(RECIPE, options, source).pieces]
    assert splits == ["train", "test", "test"]
    for wrong, message in (
        ({"test": ["Spring"]}, "Spring is none of the compositions allegro, arioso, "),
        ({"test": ["king"]}, "king must stand in one split"),
        ({"tests": []}, "unknown key 'tests'"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_config(wrong, urmp.Options, "shards/urmp.yaml: options")


@pytest.mark.slow
def test_a_piece_as_urmp_has_it(real):
    recipe = load_recipe("urmp", ["picture={size: 32, frame_rate: 12.5}"])
    (clip,) = clips(real, REAL, recipe)
    assert [player.part for player in clip.players] == ["1-vn", "2-vn", "3-va", "4-vc"]
    assert (clip.samples, clip.sample_rate, clip.frame_rate, clip.mixture) == (44100, 22050, 12.5, None)
    for place, player in enumerate(clip.players):
        expected = tone(200 * (place + 1), 2.0, 22050)
        assert np.abs(player.audio / 32768 - expected)[:, 500:-500].max() < 1e-3
        assert player.picture.shape == (25, 32, 32, 3)
        assert np.abs(player.picture[:, :, 3:8].mean(axis=(0, 1, 2)) - COLOURS[place]).max() < 12


@pytest.mark.slow
def test_pictures_keep_the_time_of_29_97_pictures_per_second(real):
    (clip,) = clips(real, REAL, load_recipe("urmp", ["picture={size: 32, frame_rate: 12.5}"]))
    for player in clip.players:
        upper = player.picture[:, 4:12, 14:18].mean(axis=(1, 2, 3)) > 220
        lower = player.picture[:, 20:28, 14:18].mean(axis=(1, 2, 3)) > 220
        # Picture 12 shows what is seen at 1.000 s, picture 13 at 1.040 s.
        assert upper.tolist() == [True] * 13 + [False] * 12 == (~lower).tolist()


def test_the_folder_says_which_instrument_a_part_is(source):
    read = clips(source, SURPRISE)
    assert [player.instrument for player in read[0].players] == ["tpt", "tpt", "tbn"]
    assert [player.part for player in read[0].players] == ["1-tpt", "2-tpt", "3-tbn"]
    for place in range(3):
        assert np.abs(stem_of(read, place) - tone(150 + 200 * (place + 1))).max() < 1e-4


def test_other_folders_are_ignored_and_absent_pieces_are_named(source, tmp_path):
    listing = urmp.pieces(RECIPE, urmp.Options(), source)
    assert [(piece.name, piece.composition, piece.seconds) for piece in listing.pieces] == [
        (SMALL, "jupiter", 3.0), (TRIO, "hark", 3.0), (SURPRISE, "surprise", 3.0),
    ]  # fmt: skip
    assert len(listing.missing) == 41 and listing.missing[0] == "02_Sonata_vn_vn"
    source.rename(tmp_path / "Dataset")
    assert urmp.pieces(RECIPE, urmp.Options(), tmp_path) == listing
    assert len(clips(tmp_path)) == 2


def test_a_mix_that_is_not_the_sum_of_its_stems_is_kept(source):
    assert all(clip.mixture is None for clip in clips(source))
    path = source / SMALL / f"AuMix_{SMALL}.wav"
    write_wav(path, tone(210) + tone(410) + tone(900, level=2e-4), RATE)  # -63 dB
    assert all(clip.mixture is None for clip in clips(source))
    mix = tone(210) + tone(410) + tone(900, level=6e-4)  # -53 dB
    write_wav(path, mix, RATE)
    assert np.abs(np.concatenate([clip.mixture for clip in clips(source)], axis=1) / 32768 - mix).max() < 1e-4
    path.unlink()
    assert all(clip.mixture is None for clip in clips(source))


def test_stems_and_mix_are_turned_down_together(source):
    (source / SMALL / f"AuMix_{SMALL}.wav").unlink()
    mix = 2 * (tone(210, level=0.6) + tone(410, level=0.6))
    for part, code, pitch in ((1, "vn", 210), (2, "vc", 410)):
        write_wav(source / SMALL / f"AuSep_{part}_{code}_01_Jupiter.wav", tone(pitch, level=0.6), RATE)
    soundfile.write(source / SMALL / f"AuMix_{SMALL}.wav", mix[0], RATE, subtype="FLOAT")
    read = clips(source)
    mixture = np.concatenate([clip.mixture for clip in read], axis=1) / 32768
    assert 0.999 < np.abs(mixture).max() < 1
    assert np.abs(mixture - 2 * (stem_of(read, 0) + stem_of(read, 1))).max() < 1e-3


def test_players_are_columns_or_boxes(source):
    add_video(source, SMALL, 2)
    left, right = clips(source)[0].players
    assert left.picture.shape == (19, 16, 16, 3)
    assert left.picture.mean() < 30 < 210 < right.picture.mean()
    table = source / SMALL / "boxes.csv"
    for header in ("", "part,left,top,right,bottom\n"):
        table.write_text(f"{header}2,0,0,48,48\n1, 70, 8, 110, 48\n", encoding="utf-8")
        one, two = clips(source)[0].players
        assert two.picture.mean() < 30 < 210 < one.picture.mean()


def test_a_table_of_boxes_that_does_not_fit_is_refused(source):
    add_video(source, SMALL, 2)
    table = source / SMALL / "boxes.csv"
    for text, message in (
        ("1,0,0,48\n", "boxes.csv must have one line part,left,top,right,bottom for each part.*; got 1,0,0,48. To fix"),
        ("1,0,0,48,4.5\n", "got 1,0,0,48,4.5"),
        ("1,0,0,48,48\n1,0,0,9,9\n", "got 1,0,0,9,9"),
        ("2,0,0,48,48\n", "must have a box for each part from 1 to 2; got parts 2"),
        ("1,0,0,48,48\n2,0,0,48,48\n3,0,0,48,48\n", "got parts 1, 2, 3"),
    ):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            clips(source)
    table.write_text("1,0,0,48,48\n2,48,0,129,48\n", encoding="utf-8")
    with pytest.raises(MediaError, match=r"must lie in the picture of .*128x48 pixels; got left 48, top 0, right 129"):
        clips(source)


def test_a_piece_without_video_has_no_pictures(source):
    for clip in clips(source):
        assert clip.frame_rate == 0
        assert all(player.picture is None for player in clip.players)


def test_notes_and_pitch_come_with_their_player(source):
    (source / SMALL / "Notes_2_vc_01_Jupiter.txt").write_text(
        "2.5\t\t110.0\t0.25\n0.9\t230 .1\n0.1\t\t220.5\t\t1.6\r\n", encoding="utf-8"
    )
    (source / SMALL / "F0s_2_vc_01_Jupiter.txt").write_text("0.023 0.0\n0.033   440.1\n1.600 9e1\n", encoding="utf-8")
    first, second = clips(source)
    assert first.players[0].annotations == {}
    assert first.players[1].annotations["notes"].tolist() == [[0.1, 220.5, 1.6], [0.9, 230.0, 0.1]]
    assert first.players[1].annotations["f0"].tolist() == [[0.023, 0.0], [0.033, 440.1]]
    begin = second.offset / RATE
    assert second.players[1].annotations["notes"].tolist() == [[2.5 - begin, 110.0, 0.25]]
    assert second.players[1].annotations["f0"].tolist() == [[1.6 - begin, 90.0]]


@pytest.mark.parametrize("line", ["0.5 440", "0.5 440 1 1", "0.5 440 nan", "0.5,440,1", "0.5 A4 1"])
def test_a_malformed_line_is_named(source, line):
    (source / SMALL / "Notes_1_vn_01_Jupiter.txt").write_text(f"0.1 440 0.2\n\n{line}\n", encoding="utf-8")
    message = r"line 3 of .*Notes_1_vn_01_Jupiter.txt must be 3 numbers: onset_s pitch_hz duration_s; got '" + line
    with pytest.raises(DataError, match=message):
        clips(source)


def test_broken_pieces_are_refused(source):
    stem = source / TRIO / "AuSep_2_vn_13_Hark.wav"
    stem.rename(source / "AuSep.wav")
    with pytest.raises(DataError, match=r"13_Hark_vn_vn_va must hold the stem of part 2, vn; got no file AuSep_2_\*"):
        clips(source)
    write_wav(stem, tone(400, 2.0), RATE)
    with pytest.raises(DataError, match=r"AuSep_2_vn_13_Hark.wav must be as long as AuSep_1_vn.*; got 2.00 s .*again"):
        clips(source)
    write_wav(stem, tone(400, rate=16000), 16000)
    with pytest.raises(DataError, match=r"got 3.00 s at 16000 Hz, not 3.00 s at 8000 Hz"):
        clips(source)
    write_wav(stem, tone(400), RATE)
    write_wav(source / TRIO / "AuMix_13_Hark_vn_vn_va.wav", tone(400, 2.0), RATE)
    with pytest.raises(DataError, match=r"AuMix_13_Hark_vn_vn_va.wav must be as long as AuSep_1"):
        clips(source)
    write_wav(source / TRIO / "AuSep_2_va_13_Hark.wav", tone(400), RATE)
    with pytest.raises(DataError, match=r"must hold one file AuSep_2_\*.wav; got AuSep_2_va_.*, AuSep_2_vn_"):
        clips(source)


def test_a_wrong_source_is_refused(source, tmp_path):
    with pytest.raises(ConfigError, match=r"'urmp' needs the folder that it lies in; got no --source.*dryad.ng3r749"):
        clips(None)
    with pytest.raises(ConfigError, match="got no folder .*nowhere"):
        clips(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"must hold 44 pieces.*; got 3 pieces.*missing: 02_Sonata_vn_vn, .* 31 more"):
        write_shards(RECIPE, "urmp", Store(tmp_path / "store"), source)
    with pytest.raises(DataError, match=r"must hold 44 pieces.*; got 0 pieces"):
        write_shards(RECIPE, "urmp", Store(tmp_path / "store"), source / SMALL)


def test_shards_give_back_the_pieces(source, tmp_path):
    add_video(source, SURPRISE, 3)
    (source / SURPRISE / "Notes_3_tpt_15_Surprise.txt").write_text("0.5 750 1\n2.0 750 1\n", encoding="utf-8")
    recipe = RECIPE.model_copy(update={"expect": RECIPE.expect.model_copy(update={"most_missing": 0.95})})
    manifest = write_shards(recipe, "urmp", Store(tmp_path / "store"), source)
    assert len(manifest.missing) == 41
    assert [piece.piece for piece in read_pieces(manifest, "test")] == [SMALL]
    hark, surprise = read_pieces(manifest, "train", parts=("audio", "picture", "annotations"))
    assert (hark.piece, surprise.piece, hark.frame_rate, surprise.frame_rate) == (TRIO, SURPRISE, 0, 12.5)
    for place, player in enumerate(surprise.players):
        assert np.abs(player.audio / 32768 - tone(150 + 200 * (place + 1))).max() < 1e-4
        assert abs(player.picture.mean() - (20, 120, 220)[place]) < 10
    assert np.allclose(surprise.players[2].annotations["notes"], [[0.5, 750, 1], [2.0, 750, 1]])
    (shard,) = manifest.of_split("train")
    samples = list(wds.WebDataset(str(manifest.folder / shard.name), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [
        f"{TRIO}_000000000", f"{TRIO}_000012160", f"{SURPRISE}_000000000", f"{SURPRISE}_000012160",
    ]  # fmt: skip
    assert [player["part"] for player in json.loads(samples[2]["json"])["players"]] == ["1-tpt", "2-tpt", "3-tbn"]
    assert soundfile.read(io.BytesIO(samples[2]["player2.wav"]))[1] == RATE
    assert {"player0.mp4", "player2.notes.npy"} <= set(samples[2]) and "mixture.wav" not in samples[2]


def test_all_bad_pieces_are_named_and_what_systems_leave_is_no_part_of_them(source):
    (source / TRIO / "AuSep_1_vn_13_Hark.wav").write_bytes(b"")
    (source / SMALL / "._AuSep_1_vn_01_Jupiter.wav").write_bytes(b"\0\5\x16\7")
    (source / SMALL / "AuMix_01_Jupiter_vn_vc.wav.part").write_bytes(b"")
    stem = source / SURPRISE / "AuSep_2_tpt_15_Surprise.wav"
    stem.write_bytes(b"<html>")
    with pytest.raises(
        DataError, match=r"2 errors: \(1\) .*AuSep_1_vn_13_Hark.wav must be .* \(2\) .*AuSep_2_tpt_15_Surp"
    ):
        urmp.pieces(RECIPE, urmp.Options(), source)
    lenient = RECIPE.model_copy(update={"expect": RECIPE.expect.model_copy(update={"most_missing": 0.99})})
    listing = urmp.pieces(lenient, urmp.Options(), source)
    assert [piece.name for piece in listing.pieces] == [SMALL]
    assert [missing.partition(":")[0] for missing in listing.missing[-2:]] == [TRIO, SURPRISE]


def test_a_stem_that_lasts_another_time_when_it_is_read_is_refused(source):
    piece = next(piece for piece in urmp.pieces(RECIPE, urmp.Options(), source).pieces if piece.name == SMALL)
    write_wav(source / SMALL / "AuSep_2_vc_01_Jupiter.wav", tone(400, 2.0), RATE)
    with pytest.raises(
        DataError, match=r"AuSep_2_vc_01_Jupiter.wav must last as long as AuSep_1.* does, 3.00 s; got 2.00"
    ):
        list(urmp.read(piece, RECIPE, urmp.Options(), source))


def test_endings_may_be_in_capitals_and_boxes_as_spreadsheets_save_them(source):
    for path in (source / SMALL).glob("*.wav"):
        path.rename(path.with_suffix(".WAV"))
    add_video(source, SMALL, 2)
    text = "Part;Left;Top;Right;Bottom;\r\n2;0;0;48;48\r\n1;70;8;110;48;;\r\n;;;;\r\n"
    (source / SMALL / "boxes.csv").write_bytes(text.encode("utf-16"))
    one, two = clips(source)[0].players
    assert two.picture.mean() < 30 < 210 < one.picture.mean()


def test_a_folder_above_the_right_one_is_refused_with_its_name(source):
    with pytest.raises(DataError, match=rf"must hold 44 pieces, .*; got 0 pieces.*; did you mean --source {source}\?"):
        urmp.pieces(RECIPE, urmp.Options(), source.parent)
