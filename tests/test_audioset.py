"""The reader of AudioSet, on segment lists as they are published and a few seconds of media."""

import json
import shutil

import numpy as np
import pytest
import webdataset

from vimss.errors import ConfigError, DataError
from vimss.media import write_video, write_wav
from vimss.shards.corpora import audioset
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.read import read_pieces

RATE = 8000
RECIPE = load_recipe("audioset", [f"sample_rate={RATE}", "picture={size: 16, frame_rate: 5}"])
STRICT = RECIPE.model_copy(update={"expect": None})
OPTIONS = audioset.Options(**RECIPE.options)
HEAD = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=22160, num_segs=22160, num_unique_labels=527, num_positive_labels=52882
# YTID, start_seconds, end_seconds, positive_labels
"""
VIOLIN, CELLO, PLAIN_PIANO, SPEECH = "/m/07y_7", "/m/01xqw", "/m/05r5c", "/m/09x0r"


def segments(source, name, rows):
    lines = "".join(f'{video_id}, {begin:.3f}, {end:.3f}, "{mids}"\n' for video_id, begin, end, mids in rows)
    (source / name).write_text(HEAD + lines, encoding="utf-8")


def tone(pitch: float, seconds: float) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)[None]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A whole recording of 4 s, a cut segment of 2 s, a sound alone; more segments of which nothing is there."""
    folder = tmp_path_factory.mktemp("template")
    segments(folder, "balanced_train_segments.csv", [
        ("-whole_rec-", 1, 3, f"{SPEECH},{VIOLIN},{CELLO}"), ("--cut-_", 30, 32, VIOLIN), ("sound", 0.5, 2.5, CELLO),
        ("speech", 0, 2, f"{SPEECH},/t/dd00088"), *((f"gone{n}", 0, 10, CELLO) for n in range(10)),
    ])  # fmt: skip
    segments(folder, "eval_segments.csv", [("tested", 0, 2, PLAIN_PIANO), ("not_there", 32.3, 42.3, VIOLIN)])
    others = {name for name in OPTIONS.classes if name not in {"Violin, fiddle", "Cello", "Piano"}}
    rows = [(VIOLIN, '"Violin, fiddle"'), (CELLO, "Cello"), (PLAIN_PIANO, "Piano"), (SPEECH, "Speech")]
    rows += [("/m/0l14md", "Bowed string instrument")]
    rows += [(f"/m/{number}", f'"{name}"') for number, name in enumerate(sorted(others))]
    table = "".join(f"{number},{mid},{name}\n" for number, (mid, name) in enumerate(rows))
    (folder / "class_labels_indices.csv").write_text(f"index,mid,display_name\n{table}", encoding="utf-8")
    media = folder / "media"
    # The sound rises by an octave each second, the middle square becomes brighter.
    rising = np.concatenate([tone(100 * 2**second, 1.0) for second in range(4)], axis=1)
    picture = np.zeros((20, 32, 64, 3), np.uint8)
    picture[:, :, 16:48] = 10 * np.arange(20)[:, None, None, None]
    write_video(media / "-whole_rec-.mp4", picture, 5.0, rising, RATE)
    write_video(media / "--cut-__30000.mp4", picture[:10] + 50, 5.0, tone(300, 2.0), RATE)
    write_wav(media / "sound.wav", tone(400, 2.0), RATE)
    write_wav(media / "tested_0.flac", tone(500, 2.0), RATE)
    return folder


@pytest.fixture
def source(template, tmp_path):
    return shutil.copytree(template, tmp_path / "audioset")


def listing(source, options=OPTIONS, recipe=RECIPE):
    return audioset.pieces(recipe, options, source)


def clip(source, name, recipe=RECIPE):
    piece = next(piece for piece in listing(source).pieces if piece.name == name)
    return next(audioset.read(piece, recipe, OPTIONS, source))


def pitch(audio):
    """Of the loudest tone, Hz."""
    return np.abs(np.fft.rfft(audio[0])).argmax() * RATE / audio.shape[1]


def test_segments_with_an_instrument_are_pieces_or_missing(source):
    found = listing(source)
    assert {piece.name: (piece.composition, round(piece.seconds, 1)) for piece in found.pieces} == {
        "-whole_rec-_1000": ("-whole_rec-", 2.0), "--cut-__30000": ("--cut-_", 2.0), "sound_500": ("sound", 1.5),
        "tested_0": ("tested", 2.0),
    }  # fmt: skip
    assert found.missing == (*(f"gone{n}_0" for n in range(10)), "not_there_32300")


def test_a_segment_is_cut_from_a_whole_recording(source):
    whole = clip(source, "-whole_rec-_1000")
    assert (whole.offset, whole.samples, whole.frame_rate) == (0, 2 * RATE, 5.0)
    assert pitch(whole.mixture[:, 800 : RATE - 800]) == pytest.approx(200, abs=3)
    assert pitch(whole.mixture[:, RATE + 800 : -800]) == pytest.approx(400, abs=3)
    seen = whole.players[0].picture
    assert seen.shape == (10, 16, 16, 3)
    np.testing.assert_allclose(seen.mean(axis=(1, 2, 3)), 10 * np.arange(5, 15), atol=4)


def test_a_file_with_its_begin_in_the_name_is_the_segment(source):
    cut = clip(source, "--cut-__30000")
    assert cut.samples == 2 * RATE and pitch(cut.mixture) == pytest.approx(300, abs=3)
    np.testing.assert_allclose(cut.players[0].picture.mean(axis=(1, 2, 3)), 50 + 10 * np.arange(10), atol=4)
    # It comes before a whole recording, but not beyond the segment's end.
    write_wav(source / "media" / "-whole_rec-_1000.wav", tone(700, 3.0), RATE)
    whole = clip(source, "-whole_rec-_1000")
    assert whole.samples == 2 * RATE and pitch(whole.mixture) == pytest.approx(700, abs=3)


def test_labels_are_players_without_stems_in_one_picture(source):
    players = clip(source, "-whole_rec-_1000").players
    assert [(player.instrument, player.part) for player in players] == [("violin_fiddle",) * 2, ("cello",) * 2]
    assert [(player.audio, player.silent) for player in players] == [(None, False)] * 2
    assert players[0].picture is players[1].picture
    short = clip(source, "-whole_rec-_1000", RECIPE.model_copy(update={"clip_seconds": 1.0}))
    assert short.samples == RATE and short.players[0].picture is short.players[1].picture


def test_a_recording_may_be_one_player_with_all_that_sounds_as_the_stem(source):
    options = OPTIONS.model_copy(update={"players": "recording"})
    piece = next(piece for piece in listing(source).pieces if piece.name == "-whole_rec-_1000")
    (whole,) = audioset.read(piece, RECIPE, options, source)
    assert [(player.instrument, player.part) for player in whole.players] == [("violin_fiddle",) * 2]
    assert whole.mixture is None and whole.players[0].picture.shape == (10, 16, 16, 3)
    np.testing.assert_array_equal(whole.players[0].audio, clip(source, "-whole_rec-_1000").mixture)


def test_sound_alone_has_no_picture_and_may_end_early(source):
    sound = clip(source, "sound_500")
    assert (sound.samples, sound.frame_rate, sound.players[0].picture) == (12_000, 0.0, None)
    write_wav(source / "media" / "sound.wav", tone(400, 1.4), RATE)
    assert "sound_500" in listing(source).missing


def test_training_lists_are_dealt_by_video_whatever_is_there(source):
    rows = [(f"v{n}", begin, begin + 2, VIOLIN) for n in range(20) for begin in (0, 2)]
    segments(source, "balanced_train_segments.csv", rows)
    for n in range(20):
        write_wav(source / "media" / f"v{n}.wav", tone(400, 4.0), RATE)
    splits = {piece.name: piece.split for piece in listing(source).pieces}
    assert len(splits) == 41 and splits.pop("tested_0") == "test"
    assert sorted(set(splits.values())) == ["promote", "train", "valid"]
    assert all(splits[f"v{n}_0"] == splits[f"v{n}_2000"] for n in range(20))
    for n in range(10):
        (source / "media" / f"v{n}.wav").unlink()
    segments(source, "balanced_train_segments.csv", rows[::-1])
    less = listing(source, audioset.Options(classes=("Violin, fiddle",)))
    assert {piece.name: piece.split for piece in less.pieces}.items() < splits.items() and len(less.pieces) == 20


def test_a_video_of_the_test_list_is_in_no_other_split(source):
    segments(source, "more.csv", [("-whole_rec-", 2, 4, CELLO), ("sound", 0.5, 2.5, CELLO)])
    lists = audioset.Segments(test=("eval_segments.csv", "more.csv"))
    found = listing(source, OPTIONS.model_copy(update={"segments": lists})).pieces
    assert {piece.name for piece in found if piece.split == "test"} == {
        "-whole_rec-_1000", "-whole_rec-_2000", "sound_500", "tested_0",
    }  # fmt: skip
    assert len(found) == 5


def ontology(source):
    nodes = [
        ("/m/04rlf", "Music", ["/m/04szw", SPEECH]), ("/m/04szw", "Musical instrument", ["/m/0l14md", PLAIN_PIANO]),
        ("/m/0l14md", "Bowed string instrument", [VIOLIN, "/m/rare"]), (VIOLIN, "Violin, fiddle", []),
        (PLAIN_PIANO, "Piano", []), (SPEECH, "Speech", []), ("/m/rare", "Hurdy-gurdy", []),
    ]  # fmt: skip
    content = [{"id": mid, "name": name, "child_ids": children} for mid, name, children in nodes]
    (source / "ontology.json").write_text(json.dumps(content), encoding="utf-8")


def test_without_classes_the_ontology_says_which_are_instruments(source):
    with pytest.raises(
        ConfigError, match=r"options.classes must name .* or .*ontology.json must list the instruments; got neither"
    ):
        listing(source, audioset.Options())
    ontology(source)
    found = {piece.name for piece in listing(source, audioset.Options()).pieces}
    assert found == {"-whole_rec-_1000", "--cut-__30000", "tested_0"}
    recipe = RECIPE.model_copy(update={"labels": ("cello",)})
    with pytest.raises(
        ConfigError, match=r"got none for piano, violin_fiddle\. To fix: set labels: \[piano, violin_fiddle\]"
    ):
        listing(source, audioset.Options(), recipe)
    (source / "ontology.json").write_text('[{"id": "/m/04szw"}]', encoding="utf-8")
    with pytest.raises(DataError, match=r"ontology.json must be a JSON list of classes .*got KeyError: 'name'"):
        listing(source, audioset.Options())


def test_labels_are_display_names_in_small_letters(source):
    assert [audioset.slug(name) for name in ("Violin, fiddle", "French horn", "Rhodes (piano)")] == [
        "violin_fiddle", "french_horn", "rhodes_piano",
    ]  # fmt: skip
    assert list(RECIPE.labels) == [audioset.slug(name) for name in OPTIONS.classes]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("abc, 1.0, 2.0", r'line 4 of .*csv must be ID, begin_seconds, end_seconds, "classes"; got \'abc, 1.0, 2.0\''),
        ('abc, one, 2.0, "/m/07y_7"', r"line 4 of .* must be ID, begin_seconds"),
        ('abc, 2.0, 1.0, "/m/07y_7"', r"line 4 of .* must name a video and a stretch of it"),
        ('../abc, 1.0, 2.0, "/m/07y_7"', r"line 4 of .* must name a video and a stretch of it"),
    ],
)
def test_a_broken_list_is_refused(source, line, message):
    (source / "eval_segments.csv").write_text(f"{HEAD}{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        listing(source)


def test_what_is_no_corpus_is_refused(source):
    with pytest.raises(ConfigError, match=r"needs the folder that it lies in; got no folder .*--source DIR"):
        listing(source / "nowhere")
    with pytest.raises(ConfigError, match=r"must be display names .*; got 'Fiddle'.*near are: .*Violin, fiddle"):
        listing(source, audioset.Options(classes=("Fiddle",)))
    write_video(source / "media" / "tested_0.mp4", np.zeros((10, 32, 32, 3), np.uint8), 5.0)
    with pytest.raises(DataError, match=r"tested_0.mp4 must hold sound; got none"):
        listing(source, recipe=STRICT)
    for name in ("eval_segments.csv", "class_labels_indices.csv"):
        (source / name).unlink()
        with pytest.raises(DataError, match=f"audioset must hold {name}; got no such file"):
            listing(source)


def test_shards_hold_one_picture_for_all_players(source, tmp_path):
    manifest = write_shards(RECIPE, "audioset", Store(tmp_path / "store"), source)
    assert len(manifest.missing) == 11 and len(manifest.pieces) == 4
    pieces = {
        piece.piece: piece for split in manifest.splits for piece in read_pieces(manifest, split, ("audio", "picture"))
    }
    whole = pieces["-whole_rec-_1000"]
    assert whole.mixture.shape == (1, 2 * RATE)
    assert [player.picture.shape for player in whole.players] == [(10, 16, 16, 3)] * 2
    for shard in manifest.shards:
        for sample in webdataset.WebDataset(str(manifest.folder / shard.name), shardshuffle=False):
            assert "mixture.wav" in sample and not {"player0.wav", "player1.mp4"} & set(sample)


def test_all_media_that_are_none_are_named_or_missing_with_the_reason(source):
    (source / "media" / "-whole_rec-.mp4").write_bytes(b"")
    (source / "media" / "sound.wav").write_bytes(b"<html>")
    with pytest.raises(
        DataError, match=r"2 errors: \(1\) .*-whole_rec-.mp4 must be a sound .* \(2\) .*sound.wav must be"
    ):
        listing(source, recipe=STRICT)
    missing = listing(source).missing
    assert [name.partition(":")[0] for name in missing[-2:]] == ["-whole_rec-_1000", "sound_500"]


def test_endings_may_be_in_capitals_and_what_vanished_is_named(source):
    (source / "media" / "sound.wav").rename(source / "media" / "sound.WAV")
    assert clip(source, "sound_500").samples == 12_000
    piece = next(piece for piece in listing(source).pieces if piece.name == "sound_500")
    (source / "media" / "sound.WAV").unlink()
    with pytest.raises(DataError, match=r"audioset must keep its pieces while .*; got no sound_500 any more"):
        next(audioset.read(piece, RECIPE, OPTIONS, source))
    segments(source, "balanced_train_segments.csv", [])
    with pytest.raises(DataError, match=r"audioset must keep its pieces while .*; got no sound_500 any more"):
        next(audioset.read(piece, RECIPE, OPTIONS, source))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_lists_are_read_in_any_encoding_and_with_a_byte_order_mark(source, encoding):
    before = listing(source)
    for name in ("balanced_train_segments.csv", "class_labels_indices.csv"):
        text = (source / name).read_text() + ("# é\n" if name.startswith("balanced") else "")
        (source / name).write_text(text, encoding=encoding)
    assert listing(source) == before


def test_a_list_that_is_no_text_is_refused(source):
    (source / "balanced_train_segments.csv").write_bytes(b"PK\3\4\0\0\0")
    with pytest.raises(DataError, match=r"train_segments.csv must be a table as text; got binary data. To fix: save"):
        listing(source)


def test_a_folder_below_the_right_one_is_refused_with_its_name(source):
    with pytest.raises(
        DataError, match=rf"media must hold class_labels_indices.csv; .*did you mean --source {source}\?"
    ):
        listing(source / "media")
