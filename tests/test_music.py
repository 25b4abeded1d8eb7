"""The reader of MUSIC and MUSIC21, on trees as they look once videos were obtained, or prepared by Sound-of-Pixels."""

import csv
import json
import shutil

import av
import numpy as np
import pytest
import soundfile
import webdataset
from interfaces import interface

from vimss.errors import ConfigError, DataError, MediaError
from vimss.evaluate import evaluate
from vimss.media import read_audio, read_images, write_video, write_wav
from vimss.shards.corpora import music
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.fixed import FixedSpec, fixed_set, mixtures_of
from vimss.stream.mix import SOUND_ALONE, Window
from vimss.stream.read import read_pieces
from vimss.systems import baseline_systems

RATE = 8000
RECIPE = load_recipe("music", [f"sample_rate={RATE}", "clip_seconds=2", "picture={size: 16, frame_rate: 5}"])
STRICT = RECIPE.model_copy(update={"expect": None})
SOLO, DUET = music.Options().lists
SOLOS = {"cello": [f"{n}-cello_id-x" for n in range(5)], "violin": [f"{n}_violin-id-" for n in range(5)]}
DUETS = {"cello violin": [f"-{n}duet_id--" for n in range(4)]}


def tone(pitch: float, seconds: float = 3.0) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)[None]


def columns(*levels: int, count: int = 15) -> np.ndarray:
    """Columns of grey, which become brighter from picture to picture."""
    row = np.repeat(np.array(levels), 96 // len(levels))
    return (row[None, None, :, None] + 2 * np.arange(count)[:, None, None, None] * np.ones((1, 64, 1, 3))).astype(
        np.uint8
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Five solos of each class, four duets, no two of one sound; the picture is 96 by 64."""
    folder = tmp_path_factory.mktemp("template")
    for name, videos in ((SOLO, SOLOS), (DUET, DUETS)):
        (folder / name).write_text(json.dumps({"version": "1.0", "videos": videos}), encoding="utf-8")
    pitches = iter(range(200, 900, 23))
    for key, ids in {**SOLOS, **DUETS}.items():
        picture = columns(20, 200) if " " in key else columns(0, 0, 100, 100, 100, 100, 0, 0)
        for name in ids:
            write_video(folder / key / f"{name}.mp4", picture, 5.0, tone(next(pitches)), RATE)
    return folder


@pytest.fixture
def source(template, tmp_path):
    return shutil.copytree(template, tmp_path / "music")


def listing(source, options=music.Options(), recipe=RECIPE):  # noqa: B008 - settings that nothing changes
    return music.pieces(recipe, options, source)


def splits(source, **change):
    return {piece.name: piece.split for piece in listing(source, **change).pieces}


def clips(source, name, options=music.Options(), recipe=RECIPE):  # noqa: B008
    piece = next(piece for piece in listing(source, options).pieces if piece.name == name)
    return list(music.read(piece, recipe, options, source))


def write_list(source, name, videos):
    (source / name).write_text(json.dumps({"version": "1.0", "videos": videos}), encoding="utf-8")


def test_music21_is_read_by_the_same_reader():
    recipe = load_recipe("music21")
    assert (recipe.corpus, len(recipe.labels)) == ("music", 21)
    assert music.Options(**recipe.options).lists == ("MUSIC21_solo_videos.json",)
    assert set(load_recipe("music").labels) < set(recipe.labels)


def test_a_solo_is_one_player_with_a_stem_and_the_middle_of_the_picture(source):
    one, two = clips(source, "cello-0-cello_id-x")
    assert [player.instrument for player in one.players] == ["cello"]
    assert one.mixture is None and (one.offset, two.offset) == (0, one.samples)
    (player,) = one.players
    heard = np.concatenate([clip.players[0].audio for clip in (one, two)], axis=1)
    np.testing.assert_allclose(heard / 32768, read_audio(source / "cello" / "0-cello_id-x.mp4", RATE), atol=2e-5)
    # Two of sixteen columns at either side of the middle square are dark; of the whole picture it would be four.
    assert player.picture.shape == (8, 16, 16, 3)
    bright = player.picture[0].mean(axis=(0, 2)) > 50
    assert bright.tolist() == [False] * 2 + [True] * 12 + [False] * 2
    assert player.picture[7].mean() > player.picture[0].mean() + 10


def test_a_solo_beyond_full_scale_is_turned_down_not_cut_off(source):
    prepare(source, "cello", "0-cello_id-x", [0], 24)
    path = source / "data" / "audio" / "cello" / "0-cello_id-x.wav"
    soundfile.write(path, 10 * tone(333)[0], RATE, subtype="FLOAT")
    recipe = RECIPE.model_copy(update={"channels": 2})
    heard = np.concatenate([c.players[0].audio for c in clips(source, "cello-0-cello_id-x", recipe=recipe)], axis=1)
    assert heard.shape == (2, 3 * RATE) and np.abs(heard / 32768 - 5 * tone(333)).max() < 1e-3


def test_a_duet_is_two_players_without_stems_each_in_half_of_the_picture(source):
    one, two = clips(source, "cello-violin--0duet_id--")
    assert [player.instrument for player in one.players] == ["cello", "violin"]
    assert [(player.audio, player.silent) for player in one.players] == [(None, False)] * 2
    assert one.mixture.shape == (1, one.samples) and one.mixture.any() and two.mixture.any()
    left, right = (player.picture[0] for player in one.players)
    assert left.mean() == pytest.approx(20, abs=6) and right.mean() == pytest.approx(200, abs=6)


def test_every_class_is_dealt_to_every_split(source):
    found = splits(source)
    for prefix in ("cello-0 cello-1 cello-2 cello-3 cello-4", "cello-violin", "violin"):
        names = tuple(prefix.split(" "))
        assert {split for name, split in found.items() if name.startswith(names)} == {
            "train", "valid", "promote", "test",
        }  # fmt: skip
    assert found != splits(source, recipe=RECIPE.model_copy(update={"seed": 5}))


def test_a_missing_video_is_listed_and_moves_no_other(source):
    before = splits(source)
    (source / "cello" / "1-cello_id-x.mp4").unlink()
    shutil.rmtree(source / "cello violin")
    after = listing(source)
    assert after.missing == ("cello-1-cello_id-x", *(f"cello-violin--{n}duet_id--" for n in range(4)))
    assert {piece.name: piece.split for piece in after.pieces}.items() < before.items()


def test_neither_the_order_of_ids_nor_the_duets_move_a_solo(source):
    before = splits(source)
    write_list(source, SOLO, {key: SOLOS[key][::-1] * 2 for key in ("violin", "cello")})
    assert splits(source, options=music.Options(lists=(DUET, SOLO))) == before
    assert splits(source, options=music.Options(lists=(SOLO,))).items() < before.items()


def test_a_video_in_two_classes_or_lists_stays_in_one_split(source):
    shared = SOLOS["cello"]
    write_list(source, SOLO, {**SOLOS, "violin": SOLOS["violin"] + shared})
    write_list(source, DUET, {"cello violin": DUETS["cello violin"] + shared})
    for key in ("violin", "cello violin"):
        for name in shared:
            shutil.copy(source / "cello" / f"{name}.mp4", source / key / f"{name}.mp4")
    found = listing(source)
    assert len({piece.name for piece in found.pieces}) == len(found.pieces) == 14 + 10
    of_id = {name: {piece.split for piece in found.pieces if piece.composition == name} for name in shared}
    assert all(len(names) == 1 for names in of_id.values()) and len(set(map(frozenset, of_id.values()))) == 4
    assert splits(source).items() >= {f"cello-{name}": split for name, (split,) in of_id.items()}.items()


def write_jpeg(path, picture):
    """As `ffmpeg -i VIDEO %06d.jpg` does."""
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("mjpeg", rate=1, width=picture.shape[1], height=picture.shape[0])
        stream.pix_fmt, stream.options = "yuvj444p", {"qscale": "2"}
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuvj444p")
        container.mux([*stream.encode(frame), *stream.encode()])


def prepare(source, key, name, levels, frames, ending=".wav"):
    """What Sound-of-Pixels makes of a video."""
    (source / key / f"{name}.mp4").unlink()
    write_wav(source / "data" / "audio" / key / f"{name}{ending}", tone(333), RATE)
    folder = source / "data" / "frames" / key / f"{name}.mp4"
    folder.mkdir(parents=True)
    for number, picture in enumerate(columns(*levels, count=frames), 1):
        write_jpeg(folder / f"{number:06d}.jpg", picture)
    return folder


def test_prepared_sound_and_pictures_are_read_in_place_of_a_video(source):
    prepare(source, "cello", "0-cello_id-x", [0], 24)
    prepare(source, "cello violin", "-0duet_id--", [20, 200], 24)
    one, two = clips(source, "cello-0-cello_id-x")
    heard = np.concatenate([clip.players[0].audio for clip in (one, two)], axis=1)
    assert np.abs(heard / 32768 - tone(333)).max() < 1e-4
    # What is on screen in the middle of each row, of pictures that come 8 times a second.
    levels = np.concatenate([clip.players[0].picture for clip in (one, two)]).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, [2 * int((row + 0.5) / 5 * 8) for row in range(15)], atol=1)
    left, right = (player.picture[0] for player in clips(source, "cello-violin--0duet_id--")[0].players)
    assert left.mean() == pytest.approx(20, abs=6) and right.mean() == pytest.approx(200, abs=6)


def test_prepared_pictures_may_come_slower_and_end_early(source):
    folder = prepare(source, "cello", "0-cello_id-x", [0], 3)
    options = music.Options(frame_rate=1)
    levels = [clip.players[0].picture.mean(axis=(1, 2, 3)) for clip in clips(source, "cello-0-cello_id-x", options)]
    np.testing.assert_allclose(np.concatenate(levels), np.repeat([0, 2, 4], 5), atol=1)
    (folder / "000003.jpg").unlink()
    levels = [clip.players[0].picture.mean(axis=(1, 2, 3)) for clip in clips(source, "cello-0-cello_id-x", options)]
    np.testing.assert_allclose(np.concatenate(levels), np.repeat([0, 2, 2], 5), atol=1)


def test_sound_alone_is_a_player_without_picture(source):
    shutil.rmtree(prepare(source, "cello", "0-cello_id-x", [0], 24))
    clip = clips(source, "cello-0-cello_id-x")[0]
    assert (clip.players[0].picture, clip.frame_rate) == (None, 0.0) and clip.players[0].audio.any()


def test_prepared_pictures_that_do_not_fit_the_sound_are_refused(source):
    folder = prepare(source, "cello", "0-cello_id-x", [0], 24)
    with pytest.raises(DataError, match=r"must last as long as 0-cello_id-x.wav, 3.0 s; got 24.0 s: 24 at 1 per sec"):
        listing(source, music.Options(frame_rate=1), STRICT)
    (folder / "000007.jpg").unlink()
    with pytest.raises(DataError, match=r"must hold pictures from 000001.jpg on, without a gap; got 23 from 000001"):
        listing(source, recipe=STRICT)


def test_pictures_that_are_none_are_refused(source):
    folder = prepare(source, "cello", "0-cello_id-x", [0], 24)
    (folder / "000003.jpg").write_bytes(b"<html>not found</html>")
    with pytest.raises(MediaError, match=r"000003.jpg must be a sound or video file that can be decoded"):
        clips(source, "cello-0-cello_id-x")
    with pytest.raises(MediaError, match=r"a box must lie in the picture of .*000001.jpg, 96x64 pixels; got left 0"):
        read_images([folder / "000001.jpg"], [(0, 0, 64, 65)], 16)


def test_every_file_of_a_video_belongs_to_its_piece(source):
    folder = prepare(source, "cello", "0-cello_id-x", [0], 24)
    files = next(piece for piece in listing(source).pieces if piece.name == "cello-0-cello_id-x").files
    assert set(files) == {folder, source / "data" / "audio" / "cello" / "0-cello_id-x.wav"}
    shutil.rmtree(folder)
    assert len(next(piece for piece in listing(source).pieces if piece.name == "cello-0-cello_id-x").files) == 1


def test_prepared_pictures_that_were_cut_off_are_refused_or_allowed_and_noted(source):
    folder = prepare(source, "cello", "0-cello_id-x", [0], 24)
    for number in (1, 6):
        path = folder / f"{number:06d}.jpg"
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MediaError, match=r"000001.jpg must be whole; got its upper part.*--set allow_truncated=true$"):
        clips(source, "cello-0-cello_id-x")
    lenient = RECIPE.model_copy(update={"allow_truncated": True})
    clip = clips(source, "cello-0-cello_id-x", recipe=lenient)[0]
    assert clip.notes == (
        "pictures in 0-cello_id-x.mp4: 000001.jpg: the file was cut off: its upper part; "
        "000006.jpg: the file was cut off: its upper part",
    )


def test_pictures_with_detail_are_read(tmp_path):
    # By name FFmpeg takes a JPEG file for one of many, unless it sees its end in the first 2 KB.
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    write_jpeg(tmp_path / "000001.jpg", picture)
    (seen,) = read_images([tmp_path / "000001.jpg"] * 2, [(0, 0, 64, 64)], 64)
    assert seen.shape == (2, 64, 64, 3) and np.corrcoef(seen[1].ravel(), picture[:, :64].ravel())[0, 1] > 0.9


def test_a_recording_without_sound_is_refused(source):
    write_video(source / "violin" / "0_violin-id-.mp4", columns(0, 99), 5.0)
    with pytest.raises(DataError, match=r"0_violin-id-.mp4 must hold sound; got none"):
        listing(source, recipe=STRICT)


def test_what_is_no_corpus_is_refused(source):
    with pytest.raises(ConfigError, match=r"needs the folder that it lies in; got no --source.*MUSIC_dataset"):
        listing(None)
    with pytest.raises(DataError, match=r"must hold the list MUSIC22.json; got no such file.*options.lists"):
        listing(source, music.Options(lists=("MUSIC22.json",)))
    for text in ("<html>", "[]", '{"cello": []}', '{"videos": {"cello": "abc"}}'):
        (source / SOLO).write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r'MUSIC_solo_videos.json must be JSON of the form {"videos": {class: \['):
            listing(source)
    write_list(source, SOLO, {"harp": ["x"], "cello": ["y"]})
    with pytest.raises(ConfigError, match=r"labels .* must hold the classes .* got none for harp.*xylophone, harp\]"):
        listing(source)


def test_a_download_that_broke_off_is_refused(source, tmp_path):
    with pytest.raises(DataError, match=r"must hold 685 pieces, .* 0.9 may be missing; got 14 pieces"):
        write_shards(RECIPE, "music", Store(tmp_path / "store"), source)


def test_pairs_are_two_solos_of_test(source):
    options = music.Options(pairs=("pairs.csv",))
    with pytest.raises(DataError, match=r"must hold pairs.csv; got no such file.*options.pairs"):
        listing(source, options)
    found = listing(source).pieces
    cello, violin, duet = (
        next(piece for piece in found if piece.split == "test" and piece.name.startswith(f"{key}-{piece.composition}"))
        for key in ("cello", "violin", "cello-violin")
    )
    other = next(piece.composition for piece in found if piece.split == "train")
    table = source / "pairs.csv"
    table.write_text(f"{cello.composition}, {violin.composition}\n\n", encoding="utf-8")
    assert listing(source, options).pairs == ((cello.name, violin.name),)
    for row, got in (
        (f"{cello.composition},{other}", f"{cello.composition}, {other}; not in test: {other}"),
        (f"{duet.composition},{violin.composition}", f"not in test: {duet.composition}"),
        (f"{cello.composition},{cello.composition}", f"got {cello.composition}, {cello.composition}. To fix"),
        (f"{cello.composition}", f"got {cello.composition}. To fix"),
    ):
        table.write_text(f"{cello.composition},{violin.composition}\n{row}\n", encoding="utf-8")
        with pytest.raises(DataError, match=f"line 2 of .*pairs.csv must be two ids of solos of different .*{got}"):
            listing(source, options)
    (source / "violin" / f"{violin.composition}.mp4").unlink()
    with pytest.raises(DataError, match=f"line 1 of .* that are there and in test; .*: {violin.composition}"):
        listing(source, options)


@pytest.fixture(scope="module")
def manifest(template, tmp_path_factory):
    """Shards of nearly all, with three pairs."""
    folder = tmp_path_factory.mktemp("written")
    source = shutil.copytree(template, folder / "music")
    (source / "cello violin" / "-0duet_id--.mp4").unlink()
    tests = {piece.name.split("-")[0]: piece.composition for piece in listing(source).pieces if piece.split == "test"}
    cello = next(name for name in SOLOS["cello"] if splits(source)[f"cello-{name}"] == "test")
    with (source / "pairs.csv").open("w", encoding="utf-8") as file:
        csv.writer(file).writerows([[cello, tests["violin"]], [tests["violin"], cello], [cello, tests["violin"]]])
    recipe = load_recipe("music", [
        f"sample_rate={RATE}", "clip_seconds=2", "picture={size: 16, frame_rate: 5}", "expect.pieces=14",
        "options.pairs=[pairs.csv]",
    ])  # fmt: skip
    return write_shards(recipe, "music", Store(folder / "store"), source)


@pytest.mark.slow
def test_shards_hold_what_was_read(manifest):
    assert manifest.missing == ("cello-violin--0duet_id--",) and len(manifest.pieces) == 13
    pieces = {
        piece.piece: piece for split in manifest.splits for piece in read_pieces(manifest, split, ("audio", "picture"))
    }
    solo, duet = pieces["violin-3_violin-id-"], pieces["cello-violin--1duet_id--"]
    assert solo.players[0].audio.shape == (1, 3 * RATE) and solo.players[0].picture.shape == (15, 16, 16, 3)
    assert duet.mixture.shape == (1, 3 * RATE) and duet.players[1].audio is None
    assert duet.players[1].picture.mean() > duet.players[0].picture.mean() + 100
    for shard in manifest.shards:
        for sample in webdataset.WebDataset(str(manifest.folder / shard.name), shardshuffle=False):
            about = json.loads(sample["json"])
            assert ("mixture.wav" in sample) == (len(about["players"]) == 2) == ("player0.wav" not in sample)
            assert {"player0.mp4"} <= set(sample)


def paired(manifest, context="none", seconds=1, pairs=None):
    samples = seconds * RATE
    spec = FixedSpec("test", samples, pairs=pairs or manifest.pairs, seed=1, gain_db=0.0, distractors=True)
    window = Window(samples, samples, RATE)
    views = SOUND_ALONE if context == "none" else interface(context=context)
    return list(mixtures_of(fixed_set(manifest, spec), manifest, window, views))


def test_evaluation_hears_the_pairs_where_there_are_any(manifest, monkeypatch):
    (first, second), *_ = manifest.pairs
    mixtures = paired(manifest)
    assert [tuple(source.piece for source in mixture.sources) for mixture in mixtures] == [
        (first, second), (second, first), (first, second),
    ]  # fmt: skip
    # The number of a pair decides on its window, whatever else is listed and whatever is looked at.
    assert not np.array_equal(mixtures[0].sources[0].stem, mixtures[2].sources[0].stem)
    (again,) = paired(manifest, "frames", pairs=manifest.pairs[:1])
    np.testing.assert_array_equal(again.sound, mixtures[0].sound)
    assert again.sources[1].view.shape == (5, 16, 16, 3)
    # Stems are as they were recorded.
    assert np.abs(mixtures[0].sources[0].stem).max() == pytest.approx(0.2, rel=0.05)
    mixture, oracle = baseline_systems(manifest, ["mixture", "oracle ratio mask"])
    found = evaluate(mixture, manifest, "test", whole_pieces=False).two_sources
    assert found.mixtures == 3 and found.si_sdr_improvement == pytest.approx(0, abs=1e-6)
    best = evaluate(oracle, manifest, "test", whole_pieces=False).two_sources
    assert best.si_sdr_improvement > 10
    monkeypatch.setattr("vimss.evaluate.scores.TWO_SOURCE_MIXTURES", 1)
    assert evaluate(mixture, manifest, "valid", whole_pieces=False).two_sources.mixtures == 1


def test_a_pair_must_be_long_enough_for_a_window(manifest):
    (first, _), *_ = manifest.pairs
    with pytest.raises(DataError, match=f"{first}, of a pair, must have a clip of {2 * RATE} samples that sounds"):
        paired(manifest, seconds=2)
    lost = (*manifest.pairs, (first, "cello-gone"))
    with pytest.raises(DataError, match=f"cello-gone, of a pair, must have a clip of {RATE} samples that sounds"):
        paired(manifest, pairs=lost)


def test_videos_that_are_none_are_missing_with_the_reason(source):
    before = splits(source)
    for number, content in enumerate((b"", b"<html>429 Too Many Requests</html>")):
        (source / "cello" / f"{number}-cello_id-x.mp4").write_bytes(content)
    (source / "cello" / "3-cello_id-x.mp4.part").write_bytes(b"")
    (source / "violin" / "0_violin-id-.mp4").unlink()
    found = listing(source)
    assert {piece.name: piece.split for piece in found.pieces}.items() < before.items() and len(found.pieces) == 11
    assert [missing.partition(":")[0] for missing in found.missing] == [
        "violin-0_violin-id-", "cello-0-cello_id-x", "cello-1-cello_id-x",
    ]  # fmt: skip
    assert "0-cello_id-x.mp4 must be a sound or video file that can be decoded; got " in found.missing[1]


def test_all_videos_that_are_none_are_named_where_none_may_be_missing(source):
    for number in range(2):
        (source / "cello" / f"{number}-cello_id-x.mp4").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"2 errors: \(1\) .*0-cello_id-x.mp4 must be .* \(2\) .*1-cello_id-x.mp4 must be"
    ):
        listing(source, recipe=STRICT)


def test_endings_may_be_in_capitals(source):
    path = source / "cello" / "0-cello_id-x.mp4"
    path.rename(path.with_suffix(".MP4"))
    assert clips(source, "cello-0-cello_id-x")[0].players[0].picture is not None


def test_a_video_that_vanished_is_named(source):
    piece = next(piece for piece in listing(source).pieces if piece.name == "cello-0-cello_id-x")
    (source / "cello" / "0-cello_id-x.mp4").unlink()
    with pytest.raises(DataError, match=r"music must keep its pieces while .*; got no cello-0-cello_id-x any more"):
        list(music.read(piece, RECIPE, music.Options(), source))


def test_pairs_are_read_as_spreadsheets_save_them(source):
    tests = [piece for piece in listing(source).pieces if piece.split == "test"]
    cello, violin = (next(piece for piece in tests if piece.composition in SOLOS[key]) for key in ("cello", "violin"))
    one, two = cello.composition, violin.composition
    for text in (
        f"Video 1;Video 2;\r\n{one};{two};\r\n;;\r\n",
        f"id_a\tid_b\n{one}\t{two}\n",
        f"first,second\n{one},{two},,\n",
    ):
        for encoding in ("utf-8-sig", "utf-16"):
            (source / "pairs.csv").write_bytes(text.encode(encoding))
            assert listing(source, music.Options(pairs=("pairs.csv",))).pairs == ((cello.name, violin.name),)
    (source / "pairs.csv").write_text(f"abcdefghijk,lmnopqrstuv\n{one},{two}\n")
    with pytest.raises(
        DataError, match="line 1 of .*pairs.csv must be two ids of solos .*; not in test: abcdefghijk, lm"
    ):
        listing(source, music.Options(pairs=("pairs.csv",)))


def test_a_folder_above_the_right_one_is_refused_with_its_name(source):
    with pytest.raises(
        DataError, match=rf"must hold the list MUSIC_solo_videos.json; .*did you mean --source {source}\?"
    ):
        listing(source.parent)


def test_a_list_with_a_byte_order_mark_is_read(source):
    before = listing(source)
    (source / SOLO).write_text((source / SOLO).read_text(), encoding="utf-8-sig")
    assert listing(source) == before
