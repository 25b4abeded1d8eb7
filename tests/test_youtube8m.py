"""The reader of YouTube-8M, on records that a writer of its own makes byte by byte to the published layout."""

import struct
from functools import cache

import numpy as np
import pytest

from vimss.errors import ConfigError, DataError
from vimss.shards.corpora import youtube8m
from vimss.shards.recipe import load_recipe
from vimss.shards.tfrecord import crc32c, list_records, parse_sequence, read_record
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.read import read_pieces

RECIPE = load_recipe("youtube8m", ["labels=[vn, vc, piano]", 'options.classes={Violin: vn, "42": vc, Piano: piano}'])
STRICT = RECIPE.model_copy(update={"expect": None})
OPTIONS = youtube8m.Options(**RECIPE.options)
VIOLIN, CELLO, PIANO, GAME = 7, 42, 300, 0


@cache
def slow_crc32c(content: bytes) -> int:
    """Bit by bit, as it is defined."""
    checksum = 0xFFFFFFFF
    for byte in content:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (0x82F63B78 if checksum & 1 else 0)
    return checksum ^ 0xFFFFFFFF


def framed(content: bytes) -> bytes:
    def footer(part: bytes) -> bytes:
        checksum = slow_crc32c(part)
        return struct.pack("<I", (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(content))
    return length + footer(length) + content + footer(content)


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def of_bytes(content: bytes) -> bytes:
    return field(1, field(1, content))


def of_integers(*values: int) -> bytes:
    return field(3, field(1, b"".join(map(varint, values))))


def example(video_id: bytes, labels: tuple[int, ...], rgb: list[bytes], audio: list[bytes]) -> bytes:
    def pair(name: str, value: bytes) -> bytes:
        return field(1, field(1, name.encode()) + field(2, value))

    def frames(contents: list[bytes]) -> bytes:
        return b"".join(field(1, of_bytes(content)) for content in contents)

    context = pair("id", of_bytes(video_id)) + pair("labels", of_integers(*labels))
    return field(1, context) + field(2, pair("rgb", frames(rgb)) + pair("audio", frames(audio)))


def video(name: str, *labels: int, seconds: int = 2) -> bytes:
    rgb = [bytes([second]) * 1024 for second in range(seconds)]
    return example(name.encode(), labels, rgb, [bytes([255 - second]) * 128 for second in range(seconds)])


def write(source, part, *records, framing=framed):
    path = source / "3" / "frame" / part / f"{part}0000.tfrecord"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(framing, records)))
    return path


@pytest.fixture
def source(tmp_path):
    """Three videos with instruments, one without, and one that is in two files."""
    folder = tmp_path / "yt8m"
    more = folder / "2" / "frame" / "train"
    more.mkdir(parents=True)
    records = (video("abcd", GAME, VIOLIN, CELLO, seconds=3), video("game", GAME), video("both", PIANO))
    (more / "train0007.tfrecord").write_bytes(b"".join(map(framed, records)))
    write(folder, "validate", video("both", PIANO), video("seen", PIANO))
    header = "Index,TrackCount,KnowledgeGraphId,Name,WikiUrl\n"
    rows = f"{GAME},788288,/m/03bt1gh,Game,\n{VIOLIN},9,/m/07y_7,Violin,\n{PIANO},8,/m/05r5c,Piano,\n"
    (folder / "vocabulary.csv").write_text(header + rows)
    return folder


def clips(source, name, recipe=STRICT):
    piece = next(piece for piece in youtube8m.pieces(recipe, OPTIONS, source).pieces if piece.composition == name)
    return list(youtube8m.read(piece, recipe, OPTIONS, source))


@pytest.mark.parametrize("size", [0, 3, 256, 1000])
def test_the_checksum_is_crc32c(size):
    assert crc32c(b"123456789") == 0xE3069283
    content = np.random.default_rng(size).bytes(size)
    assert crc32c(content) == slow_crc32c(content)


def test_a_record_is_read_as_it_was_written(tmp_path):
    path = write(tmp_path, "test", b"\x0a\x00", video("abcd", 3861, 1))
    _, record = list_records(path)
    found = parse_sequence(read_record(path, record), "it")
    assert found.context == {"id": [b"abcd"], "labels": [3861, 1]}
    assert found.frames["audio"] == [b"\xff" * 128, b"\xfe" * 128] and len(found.frames["rgb"][1]) == 1024


def test_videos_with_a_class_that_is_kept_are_pieces(source):
    found = youtube8m.pieces(STRICT, OPTIONS, source)
    assert [(piece.name, piece.composition, piece.seconds) for piece in found.pieces] == [
        ("2-train0007-0", "abcd", 3.0), ("2-train0007-2", "both", 2.0), ("3-validate0000-1", "seen", 2.0),
    ]  # fmt: skip
    splits = [piece.split for piece in found.pieces]
    assert splits[:2] == ["train", "train"] and splits[2] in youtube8m.SPLITS
    assert found.notes == (
        "1 videos without a class that is kept were left out",
        "1 videos are in several files, and were read from the first",
    )


def test_videos_to_validate_are_dealt_whatever_is_there(source):
    videos = [video(f"v{number}", PIANO, seconds=1) for number in range(9)]

    def splits():
        return {piece.composition: piece.split for piece in youtube8m.pieces(STRICT, OPTIONS, source).pieces}

    write(source, "validate", *videos)
    found = splits()
    assert {found[f"v{number}"] for number in range(9)} == set(youtube8m.SPLITS)
    write(source, "validate", *videos[1::2])
    assert splits().items() < found.items()


def test_a_clip_has_a_player_per_class_and_the_features_of_each_second(source):
    (clip,) = clips(source, "abcd")
    assert (clip.samples, clip.sample_rate, clip.frame_rate, clip.mixture) == (24_000, 8000, 1.0, None)
    assert [(player.instrument, player.audio, player.picture) for player in clip.players] == [
        ("vn", None, None), ("vc", None, None),
    ]  # fmt: skip
    seen, heard = clip.players[0].features, clip.players[0].sound_features
    assert seen.shape == (3, 1024) and heard.shape == (3, 128)
    # By the formula of the corpus: 0 and 255 are the ends of [-2, 2], a little above.
    np.testing.assert_allclose(seen[:, 5], [-1.9922, -1.9765, -1.9608], atol=1e-3)
    np.testing.assert_allclose(heard[:2, 5], [2.0078, 1.9921], atol=1e-3)
    assert clip.players[1].features is seen


def test_shards_hold_features_once_and_give_them_back(source, tmp_path):
    manifest = write_shards(RECIPE, "youtube8m", Store(tmp_path / "store"), source)
    parts = ("features", "sound_features")
    (whole,) = (clip for clip in read_pieces(manifest, "train", parts) if len(clip.players) == 2)
    (expected,) = clips(source, "abcd")
    for player, other in zip(whole.players, expected.players, strict=True):
        np.testing.assert_array_equal(player.features, other.features)
        np.testing.assert_array_equal(player.sound_features, other.sound_features)
    shard = manifest.folder / manifest.of_split("train")[0].name
    assert shard.read_bytes().count(b"player0.sound_features.npy\0") == 2  # a file of each clip
    assert b"player1.features.npy\0" not in shard.read_bytes()


def cut(source, name, recipe=STRICT):
    return [
        (clip.offset, len(clip.players[0].features), len(clip.players[0].sound_features))
        for clip in clips(source, name, recipe)
    ]


def test_a_long_video_is_cut_into_clips(source):
    assert cut(source, "abcd", STRICT.model_copy(update={"clip_seconds": 2.0})) == [(0, 2, 2), (16_000, 1, 1)]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda content: content[:-5], r"test0000.tfrecord must hold whole records; got an end within record 1"),
        (lambda content: content + b"\1", r"test0000.tfrecord must hold whole records; got an end within record 2"),
        (lambda content: b"\1" + content[1:], r"the length of record 0 of .*test0000.tfrecord must have its checksum"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_with_the_record(source, broken, message):
    path = write(source, "test", video("one", PIANO), video("two", PIANO))
    path.write_bytes(broken(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        youtube8m.pieces(STRICT, OPTIONS, source)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\xff" * 20, r"record 1 of .*test0000.tfrecord must be a SequenceExample; got IndexError"),
        (example(b"", (PIANO,), [], []), r"record 1 of .*test0000.tfrecord must have one id; got \[b''\]"),
        (video("x", PIANO, 3862), r"record 1 of .*test0000.tfrecord must have classes from 0 to 3861; got 3862"),
        (example(b"x", (PIANO,), [], []), r"record 1 of .*test0000.tfrecord must have frames of rgb; got none"),
    ],
    ids=["noise", "no id", "class", "no frames"],
)
def test_a_record_that_is_none_of_the_corpus_is_refused(source, record, message):
    write(source, "test", video("fine", PIANO), record)
    with pytest.raises(DataError, match=message):
        youtube8m.pieces(STRICT, OPTIONS, source)
    (missing,) = youtube8m.pieces(RECIPE, OPTIONS, source).missing
    assert missing.startswith("record 1 of test0000.tfrecord: ")


@pytest.mark.parametrize(
    ("rgb", "audio", "message"),
    [
        (
            [b"1" * 1024, b"1" * 1023],
            [b"1" * 128] * 2,
            r"frame 1 of rgb in record 0 of .* must have 1024 bytes; got 1023",
        ),
        ([b"1" * 1024], [b"1" * 64], r"frame 0 of audio in record 0 of .* must have 128 bytes; got 64"),
        ([b"1" * 1024] * 2, [b"1" * 128], r"record 0 of .* must have as many frames of audio as of rgb; got 1 and 2"),
    ],
)
def test_features_of_another_size_are_refused(source, rgb, audio, message):
    write(source, "test", example(b"odd", (PIANO,), rgb, audio))
    with pytest.raises(DataError, match=message):
        clips(source, "odd")


def test_content_that_was_changed_is_refused_when_it_is_read(source):
    path = write(source, "test", video("fine", PIANO), video("odd", PIANO))
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    assert clips(source, "fine")
    with pytest.raises(DataError, match=r"record 1 of .*test0000.tfrecord must have its checksum, 0x\w+; got 0x\w+"):
        clips(source, "odd")


def test_classes_and_labels_that_do_not_exist_are_refused(source):
    def refused(message, classes, recipe=STRICT, error=ConfigError):
        with pytest.raises(error, match=message):
            youtube8m.pieces(recipe, youtube8m.Options(classes=classes), source)

    refused(r"must be names of vocabulary.csv, or indices; got 'Violine'.*near are: Violin", {"Violine": "vn"})
    refused("an index of options.classes must be from 0 to 3861; got 3862", {"3862": "vn"})
    refused("options.classes must hold the classes that are kept, and the label of each; got none", {})
    refused("must hold the label of every class that is kept; got none for fl", {"41": "fl"})
    faster = STRICT.model_copy(update={"picture": STRICT.picture.model_copy(update={"frame_rate": 5.0})})
    refused("picture.frame_rate must be 1, as the corpus has it; got 5", {"41": "vn"}, faster)
    (source / "vocabulary.csv").write_text("Index,Title\n1,Game\n")
    refused("must have the columns Index, with numbers, and Name; got index, title", {"Game": "vn"}, error=DataError)
    (source / "vocabulary.csv").unlink()
    refused("must hold vocabulary.csv, as options.classes has names; got no such file", {"Game": "vn"}, error=DataError)
    assert youtube8m.pieces(STRICT, youtube8m.Options(classes={str(VIOLIN): "vn"}), source).pieces


def test_what_is_no_corpus_is_refused(source):
    with pytest.raises(ConfigError, match=r"needs the folder that it lies in; got no folder .*--source DIR"):
        youtube8m.pieces(RECIPE, OPTIONS, source / "nowhere")
    with pytest.raises(DataError, match=rf"must hold files such as 2/frame/.*did you mean --source {source}\?"):
        youtube8m.pieces(RECIPE, youtube8m.Options(classes={str(VIOLIN): "vn"}), source / "2")
