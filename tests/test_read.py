"""What reading does with shards that are damaged, or that hold more than they say."""

import hashlib
import io
import json
import logging
import shutil
import tarfile

import numpy as np
import pytest

from vimss.errors import DataError
from vimss.media import encode_audio, encode_video
from vimss.shards import corpora
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import Listing, Piece
from vimss.shards.manifest import Manifest
from vimss.shards.verify import check_shards
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.members import ENDINGS, PARTS
from vimss.stream.read import Damage, has_part, read_clips


@pytest.fixture
def copied(small_manifest, tmp_path) -> Manifest:
    """The shards of train alone, to be damaged after the manifest was opened."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for shard in small_manifest.of_split("train"):
        shutil.copy(small_manifest.folder / shard.name, folder)
    return small_manifest.model_copy(update={"folder": folder})


def members(path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def rewrite(manifest: Manifest, change, honest: bool = False) -> Manifest:
    """The first shard of train with other members; an honest one has the checksums that belong to them."""
    shard = manifest.of_split("train")[0]
    path = manifest.folder / shard.name
    content = change(members(path))
    with tarfile.open(path, "w") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    if not honest:
        return manifest
    renewed = shard.model_copy(update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    shards = tuple(renewed if other == shard else other for other in manifest.shards)
    return manifest.model_copy(update={"shards": shards})


def keys(manifest, damage=None) -> list[str]:
    return [clip.key for clip in read_clips(manifest, "train", damage=damage)]


def flip_first_stem(content: dict[str, bytes]) -> dict[str, bytes]:
    name = next(name for name in content if name.endswith(".wav"))
    data = bytearray(content[name])
    data[1000] ^= 1
    return {**content, name: bytes(data)}


def test_every_part_has_endings():
    assert set(ENDINGS) == set(PARTS)


def test_a_clip_with_a_flipped_bit_is_left_out_counted_and_named(copied, small_manifest, caplog):
    whole = keys(small_manifest)
    rewrite(copied, flip_first_stem)
    damage = Damage(clips=1000)
    with caplog.at_level(logging.WARNING):
        assert keys(copied, damage) == whole[1:]
        assert keys(copied, damage) == whole[1:]
    assert damage.count == 1
    (name,) = damage.lost
    assert name.startswith(f"{whole[0]} in ")
    assert damage.lost[name] == "ValueError: player0.wav must have the SHA-256 in the JSON"
    assert caplog.text.count("left out") == 1
    with pytest.raises(DataError, match=r"must have the SHA-256 in its manifest; got another"):
        keys(copied)


def test_a_shard_that_breaks_off_loses_its_end(copied, small_manifest):
    whole = keys(small_manifest)
    shard = copied.of_split("train")[0]
    first = list(members(copied.folder / shard.name))
    clips = len({name.split(".")[0] for name in first})
    with (copied.folder / shard.name).open("r+b") as file:
        file.truncate(shard.size // 2)
    damage = Damage(clips=1000)
    left = keys(copied, damage)
    assert 0 < len(left) < len(whole) and set(left) < set(whole)
    assert damage.count == len(whole) - len(left) < clips


def test_too_many_damaged_clips_are_an_error_with_the_list(copied):
    rewrite(copied, flip_first_stem)
    with pytest.raises(
        DataError, match=r"at most 1% of the 99 clips may be damaged; got .*: ValueError: player0.wav must"
    ):
        keys(copied, Damage(clips=99))


def describe(content: dict[str, bytes], **change) -> dict[str, bytes]:
    name = next(name for name in content if name.endswith(".json"))
    return {**content, name: json.dumps({**json.loads(content[name]), **change}).encode()}


def replace_first(ending: str, data: bytes):
    def change(content):
        name = next(name for name in content if name.endswith(ending))
        return {**content, name: data}

    return change


def bomb() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, packed=np.zeros((2, 12, 32, 40_000), np.uint8), width=32)
    return buffer.getvalue()


def wide_masks() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, packed=np.zeros((2, 12, 32, 4), np.uint8), width=10**11)
    return buffer.getvalue()


def endless_array() -> bytes:
    """A header that claims more than there is."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<i2", "fortran_order": False, "shape": (10**11,)})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: describe(content, samples=10**9), r"a clip must have at most 26000 samples, not 1000000000"),
        (
            replace_first(".wav", encode_audio(np.zeros((1, 90_000), np.int16), 8000)),
            r"sound in memory must have at most \d+ samples; got 90000",
        ),
        (
            replace_first(".wav", encode_audio(np.zeros((1, 9), np.int16), 8000)),
            r"sound must have 1 channels and \d+ samples, not \(1, 9\)",
        ),
        (
            replace_first(".mp4", encode_video(np.zeros((50, 32, 32, 3), np.uint8), 4.0)),
            r"at most 13 pictures of at most 32x32 pixels; got picture 14 of 32x32",
        ),
        (
            replace_first(".mp4", encode_video(np.zeros((2, 64, 48, 3), np.uint8), 4.0)),
            r"got picture 1 of 48x64",
        ),
        (replace_first(".masks.npz", bomb()), r"masks must unpack to at most \d+ bytes, not 307\d+"),
        (replace_first(".masks.npz", b"PK"), r"BadZipFile"),
        (replace_first(".masks.npz", wide_masks()), r"at most 32 pixels wide, not 100000000000 in 4 bytes"),
        (replace_first(".boxes.npy", endless_array()), r"must not be longer than its member, as \(100000000000,\)"),
        (lambda content: describe(content, sample_rate=1), r"the rates of its recipe, not 1 Hz and 4.0 pictures"),
        (lambda content: describe(content, frame_rate=1e9), r"the rates of its recipe, not 8000 Hz and 1000000000.0"),
        (
            replace_first(".wav", encode_audio(np.zeros((2, 24_000), np.int16), 8000)),
            r"sound must have 1 channels and \d+ samples, not \(2, 24000\)",
        ),
        (replace_first(".boxes.npy", b"\x93NUMPY"), r"the clip .* must hold the members that its JSON lists"),
    ],
)  # fmt: skip
def test_what_decodes_to_more_than_its_clip_is_refused(copied, change, message):
    manifest = rewrite(copied, change, honest=True)
    with pytest.raises(DataError, match=message):
        list(read_clips(manifest, "train", parts=("audio", "picture", "masks")))


def test_skeletons_are_written_and_read_as_a_member_of_their_own(monkeypatch, small_recipe, tmp_path):
    skeleton = np.arange(24, dtype=np.float16).reshape(4, 6)
    player = Player("vn", "1", np.full((1, 8000), 3000, np.int16), features=skeleton[:, :2], skeleton=skeleton)
    chamber = corpora.reader_of("chamber")
    monkeypatch.setattr(chamber, "pieces", lambda *_: Listing((Piece("p", "train", "p", 1.0),)))
    monkeypatch.setattr(chamber, "read", lambda *_: iter([Clip("p", 0, 8000, 8000, (player,), 4.0)]))
    manifest = write_shards(small_recipe, "mine", Store(tmp_path))
    (read,) = read_clips(manifest, "train", parts=("skeleton",))
    np.testing.assert_array_equal(read.players[0].skeleton, skeleton)
    assert read.players[0].features is None and has_part(manifest, "train", "skeleton")
    assert not any(shard.wrong for shard in check_shards(manifest.folder))
