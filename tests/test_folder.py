"""The reader of a user's own stems, on trees that look like what people have."""

import shutil

import numpy as np
import pytest

from vimss.errors import ConfigError, DataError
from vimss.media import write_video, write_wav
from vimss.shards.corpora import folder
from vimss.shards.instruments import label_of
from vimss.shards.recipe import load_recipe
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
