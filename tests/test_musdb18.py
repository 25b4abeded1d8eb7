"""The reader of MUSDB18, on trees of both layouts that PyAV and WAV files make, and on one real track."""

import importlib.util
import shutil
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
import webdataset as wds
from pydantic import ValidationError

from vimss.errors import ConfigError, DataError, MediaError
from vimss.media import read_audio, write_wav
from vimss.shards.corpora import musdb18
from vimss.shards.recipe import load_recipe
from vimss.shards.validate import MixAndSum
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.read import read_pieces

RATE = 8000
SETTINGS = [f"sample_rate={RATE}", "clip_seconds=1", "expect.pieces=4"]
RECIPE = load_recipe("musdb18", SETTINGS)
OPTIONS = musdb18.Options()
STEMS = ("bass", "drums", "other", "vocals")
NAMES = ("train/A & B - One", "train/Leaf - Summerghost", "test/C - Three", "test/D - Four")


def song(number: int, seconds: float = 1.5) -> dict[str, np.ndarray]:
    """Mixture and stems in stereo, in the order of the streams; the mixture is not the sum, and louder than a stem."""
    time = np.arange(round(seconds * RATE)) / RATE
    pitches = {name: 150 * (place + 1) + 10 * number for place, name in enumerate(musdb18.SOUNDS[1:])}
    stems = {name: 0.15 * np.sin(2 * np.pi * pitch * time) for name, pitch in pitches.items()}
    sounds = {"mixture": 0.9 * sum(stems.values())} | stems
    return {name: np.stack([sound, 0.5 * sound]).astype(np.float32) for name, sound in sounds.items()}


def write_stems(path: Path, sounds: list[np.ndarray], rate: int = RATE) -> None:
    """One AAC stream per sound, in blocks that follow each other in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        streams = [container.add_stream("aac", rate=rate, layout="stereo") for _ in sounds]
        for stream in streams:
            stream.bit_rate = 128_000
        for begin in range(0, max(sound.shape[1] for sound in sounds), 1024):
            for stream, sound in zip(streams, sounds, strict=True):
                block = np.ascontiguousarray(sound[:, begin : begin + 1024])
                if block.size:
                    frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
                    frame.sample_rate, frame.pts = rate, begin
                    container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Four tracks in both layouts."""
    folder = tmp_path_factory.mktemp("musdb18")
    for number, name in enumerate(NAMES):
        sounds = song(number)
        write_stems(folder / "mp4" / f"{name}.stem.mp4", list(sounds.values()))
        for stem, sound in sounds.items():
            write_wav(folder / "wav" / name / f"{stem}.wav", sound, RATE)
    return folder


@pytest.fixture
def source(request, written, tmp_path):
    """A copy of the tracks that a test may spoil, in one of the layouts."""
    return Path(shutil.copytree(written / request.param, tmp_path / "MUSDB18"))


both = pytest.mark.parametrize("source", ["mp4", "wav"], indirect=True)
stems = pytest.mark.parametrize("source", ["mp4"], indirect=True)
wavs = pytest.mark.parametrize("source", ["wav"], indirect=True)


def found(source, recipe=RECIPE):
    return {piece.name: piece for piece in musdb18.pieces(recipe, OPTIONS, source).pieces}


def clips(source, name, recipe=RECIPE):
    return list(musdb18.read(found(source, recipe)[name], recipe, OPTIONS, source))


def joined(parts):
    return np.concatenate(parts, axis=1) / 32768


def differ(heard, sound):
    """Root mean square of the difference, without the ends, which AAC blurs; a shift by one sample gives 0.02."""
    return np.sqrt(np.mean((heard - sound)[:, 400:-400] ** 2))


@both
def test_tracks_keep_their_halves_and_the_usual_validation(source):
    splits = {name: piece.split for name, piece in found(source).items()}
    assert splits.pop("A-B---One") in ("train", "promote")
    assert splits == {"Leaf---Summerghost": "valid", "C---Three": "test", "D---Four": "test"}
    assert all(piece.composition == name for name, piece in found(source).items())
    assert [piece.seconds for piece in found(source).values()] == pytest.approx([1.5] * 4, abs=0.01)


@both
def test_stems_and_mixture_come_as_they_were_written(source):
    one, two = clips(source, "C---Three")
    assert [player.instrument for player in one.players] == list(STEMS) == [player.part for player in two.players]
    assert one.samples + two.samples == 12000 and one.players[0].audio.shape == (2, one.samples)
    assert all(player.picture is None for player in one.players) and one.frame_rate == 0
    for place, name in enumerate(STEMS):
        heard = joined([clip.players[place].audio for clip in (one, two)])
        assert differ(heard, song(2)[name]) < 0.01, name
    assert differ(joined([one.mixture, two.mixture]), song(2)["mixture"]) < 0.01


@both
def test_the_mixture_is_kept_where_it_is_not_the_sum(source):
    (clip, *_) = clips(source, "C---Three")
    total = np.sum([player.audio for player in clip.players], axis=0, dtype=np.int32)
    assert np.abs(total - clip.mixture.astype(np.int32))[:, 400:].max() > 500


@wavs
def test_one_gain_keeps_loud_sounds_together(source, monkeypatch):
    # WAV files of 16 bits are no louder than full scale; compressed ones and resampled ones are.
    monkeypatch.setattr("vimss.media.read_audio", lambda *given, **named: 4 * read_audio(*given, **named))
    (clip, *_) = clips(source, "C---Three")
    gain = np.abs(clip.mixture).max() / np.abs(song(2)["mixture"]).max() / 32768
    assert np.abs(clip.mixture).max() == 32767 and gain < 4
    assert np.abs(clip.players[0].audio / 32768 - gain * song(2)["bass"][:, : clip.samples]).max() < 1e-3


@stems
def test_champions_are_decided_on_the_same_tracks_whatever_is_missing(source):
    for number in range(60):
        shutil.copy(source / f"{NAMES[0]}.stem.mp4", source / "train" / f"No. {number}.stem.mp4")

    def promoted(recipe=RECIPE):
        return {name for name, piece in found(source, recipe).items() if piece.split == "promote"}

    chosen = promoted()
    assert 3 <= len(chosen) <= 12
    for name in ("No. 0", "No. 50", "Leaf - Summerghost"):
        (source / "train" / f"{name}.stem.mp4").unlink()
    left = chosen - {"No-0", "No-50"}
    assert promoted() == left
    assert promoted(RECIPE.model_copy(update={"seed": 1})) != left


@wavs
def test_validation_tracks_that_are_not_there_are_listed(source):
    missing = musdb18.pieces(RECIPE, OPTIONS, source).missing
    assert len(missing) == 13 and "Johnny Lokke - Promises & Lies" in missing and "Leaf - Summerghost" not in missing


def test_the_validation_tracks_are_fourteen():
    assert len(set(musdb18.VALID)) == 14


@both
def test_sounds_at_another_rate_are_resampled(source):
    twice = load_recipe("musdb18", [*SETTINGS, "sample_rate=16000", "channels=1"])
    (clip, *_) = clips(source, "C---Three", twice)
    assert clip.sample_rate == 16000 and clip.players[3].audio.shape == (1, clip.samples)
    spectrum = np.abs(np.fft.rfft(clip.players[3].audio[0]))
    assert spectrum.argmax() * 16000 / clip.samples == pytest.approx(620, abs=2)


@stems
def test_a_silent_stem_is_a_player_who_rests(source):
    sounds = song(0)
    sounds["vocals"] = np.zeros_like(sounds["vocals"])
    write_stems(source / f"{NAMES[0]}.stem.mp4", list(sounds.values()))
    assert [player.silent for player in clips(source, "A-B---One")[0].players] == [False, False, False, True]


@stems
def test_a_file_of_other_than_five_streams_is_refused(source):
    write_stems(source / f"{NAMES[0]}.stem.mp4", list(song(0).values())[:4])
    with pytest.raises(
        DataError, match=r"One.stem.mp4 must have 5 sound streams: mixture, drums, bass, other, vocals; got 4\. To fix"
    ):
        found(source)


@stems
def test_streams_of_other_length_are_refused(source):
    sounds = song(0) | {"other": song(0, 1.0)["other"]}
    write_stems(source / f"{NAMES[0]}.stem.mp4", list(sounds.values()))
    with pytest.raises(
        DataError, match=r"the other of .*One.stem.mp4 must be as long as its mixture; got 1.0\d s, not"
    ):
        found(source)


@wavs
def test_files_of_other_length_are_refused(source):
    write_wav(source / NAMES[2] / "vocals.wav", song(2, 1.0)["vocals"], RATE)
    with pytest.raises(DataError, match=r"vocals.wav must be as long as mixture.wav .*; got 1.00 s .*, not 1.50 s"):
        found(source)


@wavs
def test_a_track_without_one_of_its_files_is_refused(source):
    (source / NAMES[2] / "bass.wav").unlink()
    (source / NAMES[2] / "mixture.wav").unlink()
    with pytest.raises(
        DataError,
        match=r"C - Three must hold mixture.wav, drums.wav, .*; got no mixture.wav, bass.wav\. To fix: unpack",
    ):
        found(source)


@stems
def test_a_file_that_is_no_media_is_named(source):
    path = source / f"{NAMES[0]}.stem.mp4"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MediaError, match=r"One.stem.mp4 must be a sound or video file"):
        found(source)


@both
def test_hidden_and_further_files_are_left_alone(source):
    (source / "train" / "._A & B - One.stem.mp4").write_bytes(b"what a Mac leaves")
    (source / "train" / ".cache").mkdir()
    (source / "train" / "README.md").write_text("read me", encoding="utf-8")
    (source / "README.md").write_text("read me", encoding="utf-8")
    assert len(found(source)) == 4


@stems
def test_both_layouts_in_one_source_are_refused(source, written):
    shutil.copytree(written / "wav" / NAMES[3], source / NAMES[3])
    with pytest.raises(DataError, match=r"must hold tracks of one kind, .*; got .*stem.mp4 and .*D - Four\. To fix"):
        found(source)


@both
def test_a_wrong_source_is_refused(source, tmp_path):
    with pytest.raises(ConfigError, match=r"needs the folder that it lies in; got no --source.*zenodo.org"):
        found(None)
    with pytest.raises(ConfigError, match=r"got no folder .*nowhere"):
        found(tmp_path / "nowhere")
    for folder in (source / "train", tmp_path):
        with pytest.raises(DataError, match=r"must hold the folders train and test .*; got no track\. To fix: unpack"):
            found(folder)


@both
def test_names_that_become_equal_are_refused(source):
    path = next((source / "test").glob("D - Four*"))
    path.rename(source / "train" / path.name.replace("D - Four", "C ! - Three"))
    with pytest.raises(DataError, match=r"must have a name of its own, .*; got C---Three twice, once from .*To fix"):
        found(source)


def test_there_are_no_settings_of_its_own():
    with pytest.raises(ValidationError, match="layout"):
        musdb18.Options(layout="hq")


def test_both_recipes_say_the_same_but_for_the_source():
    one, two = (load_recipe(name).model_dump() for name in ("musdb18", "musdb18hq"))
    assert {key for key in one if one[key] != two[key]} == {"description", "obtain"}
    assert one["expect"]["pieces"] == 150 and one["channels"] == 2 and one["sample_rate"] == 44100


def real_track() -> Path:
    package = importlib.util.find_spec("stempeg")  # importing it would ask for ffmpeg
    return next(Path(str(package and package.origin)).parent.glob("data/The Easton Ellises - Falcon 69.stem.mp4"))


def test_the_streams_of_a_real_track_are_aligned(tmp_path):
    (tmp_path / "train").mkdir()
    shutil.copy(real_track(), tmp_path / "train")
    (clip,) = clips(tmp_path, "The-Easton-Ellises---Falcon-69", load_recipe("musdb18"))
    assert clip.samples / clip.sample_rate == pytest.approx(6.08, abs=0.01)
    total = np.sum([player.audio for player in clip.players], axis=0, dtype=np.float64)[0]
    mixture = clip.mixture[0].astype(np.float64)
    lags = range(-10, 11)
    inner = slice(10, -10)
    likeness = {lag: np.corrcoef(total[inner], np.roll(mixture, lag)[inner])[0, 1] for lag in lags}
    assert likeness[0] > 0.95 and max(likeness, key=likeness.__getitem__) == 0
    # Each stem alone is heard in the mixture at its own place, too.
    for player in clip.players:
        alone = player.audio[0].astype(np.float64)
        rest = mixture - (total - alone)
        shifted = {lag: np.corrcoef(alone[inner], np.roll(rest, lag)[inner])[0, 1] for lag in lags}
        # Of a wave as slow as a bass's, the codec moves the peak by a sample.
        assert abs(max(shifted, key=shifted.__getitem__)) <= (player.part == "bass"), player.part


@both
def test_shards_are_read_by_vimss_and_by_plain_webdataset(source, tmp_path):
    with pytest.raises(DataError, match=r"must hold 150 pieces.*; got 4 pieces.*missing: ANiMAL - Rockshow"):
        write_shards(load_recipe("musdb18"), "whole", Store(tmp_path / "store"), source)
    manifest = write_shards(RECIPE, "musdb18", Store(tmp_path / "store"), source)
    tracks = {track.piece: track for track in read_pieces(manifest, "test")}
    assert sorted(tracks) == ["C---Three", "D---Four"] and len(manifest.missing) == 13
    assert [player.instrument for player in tracks["C---Three"].players] == list(STEMS)
    assert differ(joined([tracks["C---Three"].mixture]), song(2)["mixture"]) < 0.01
    tars = sorted(str(path) for path in (tmp_path / "store").rglob("test-*.tar"))
    samples = list(wds.WebDataset(tars, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [
        f"{name}_{offset:09d}" for name in ("C---Three", "D---Four") for offset in (0, 6400)
    ]
    assert {key for key in samples[0] if not key.startswith("__")} == {
        "json", "mixture.wav", "player0.wav", "player1.wav", "player2.wav", "player3.wav",
    }  # fmt: skip
    with tarfile.open(tars[0]) as tar:
        assert len(tar.getnames()) == 4 * 6
    assert read_audio(samples[0]["player3.wav"], RATE, 2).shape[1] == 6400


@both
def test_all_tracks_that_are_none_are_named(source):
    for name in (NAMES[0], NAMES[2]):
        path = source / f"{name}.stem.mp4" if (source / f"{name}.stem.mp4").exists() else source / name / "drums.wav"
        path.write_bytes(b"<html>")
    with pytest.raises(
        DataError, match=r"2 errors: \(1\) .*A & B - One.* must be .* \(2\) .*C - Three.* must be a sound"
    ):
        found(source)


@wavs
def test_a_file_that_lasts_another_time_when_it_is_read_is_refused(source):
    piece = found(source)["C---Three"]
    write_wav(source / NAMES[2] / "drums.wav", song(2, 0.5)["drums"], RATE)
    with pytest.raises(DataError, match=r"drums.wav must last as long as mixture.wav does, 1.50 s; got 0.50 s"):
        list(musdb18.read(piece, RECIPE, OPTIONS, source))


@stems
def test_a_stream_that_lasts_another_time_is_named_with_its_number(source):
    piece = found(source)["C---Three"]
    sounds = song(2) | {"bass": song(2, 1.0)["bass"]}
    write_stems(source / f"{NAMES[2]}.stem.mp4", list(sounds.values()))
    with pytest.raises(DataError, match=r"stream 3 of .*Three.stem.mp4 must last as long as .*, 1.5\d s; got 1.0\d s"):
        list(musdb18.read(piece, RECIPE, OPTIONS, source))


@both
def test_a_mix_that_lacks_a_channel_is_listed_and_a_compressed_one_is_not(source, tmp_path):
    sounds = song(2)
    sounds["mixture"][1] = 0
    if (source / f"{NAMES[2]}.stem.mp4").exists():
        write_stems(source / f"{NAMES[2]}.stem.mp4", list(sounds.values()))
    else:
        write_wav(source / NAMES[2] / "mixture.wav", sounds["mixture"], RATE)
    manifest = write_shards(RECIPE, "musdb18", Store(tmp_path / "store"), source)
    assert manifest.odd_mixtures == (
        "C---Three: the right channel of the recorded mix is not the sum of the stems: the mix is silent",
    )


def test_the_mix_of_a_real_track_is_not_odd(tmp_path):
    (tmp_path / "train").mkdir()
    shutil.copy(real_track(), tmp_path / "train")
    measure = MixAndSum()
    for clip in clips(tmp_path, "The-Easton-Ellises---Falcon-69", load_recipe("musdb18")):
        measure.add(clip)
    assert measure.oddities("p") == []


@wavs
def test_endings_may_be_in_capitals_and_a_track_that_vanished_is_named(source):
    for path in (source / NAMES[2]).iterdir():
        path.rename(path.with_suffix(".WAV"))
    piece = found(source)["C---Three"]
    shutil.rmtree(source / NAMES[2])
    with pytest.raises(DataError, match=r"MUSDB18 must keep its pieces while .*; got no C---Three any more"):
        list(musdb18.read(piece, RECIPE, OPTIONS, source))


@both
def test_a_folder_above_or_below_the_right_one_is_refused_with_its_name(source):
    for wrong in (source.parent, source / "train"):
        with pytest.raises(
            DataError, match=rf"in which train and test lie: --source DIR; did you mean --source {source}\?"
        ):
            found(wrong)


@wavs
def test_titles_in_any_script_are_tracks_of_their_own(source):
    (source / NAMES[2]).rename(source / "test" / "月 - 光")
    (source / NAMES[3]).rename(source / "test" / "日 - 本")
    assert len(found(source)) == 4
