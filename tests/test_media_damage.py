"""Damaged and joined files are read as players do, and what was lost is said."""

import io
import re
import struct

import av
import numpy as np
import pytest
from media_files import encoded, filmed, music

from vimss import media
from vimss.errors import MediaError
from vimss.media import SoundReport
from vimss.media.container import opened

RATE = 44100
JUNK = np.random.default_rng(1).integers(0, 256, 6000, dtype=np.uint8).tobytes()
FRAMED = {
    "mp3": ("mp3", "libmp3lame"),
    "mp2": ("mp2", "mp2"),
    "aac": ("adts", "aac"),
    "latm": ("latm", "aac"),
    "ac3": ("ac3", "ac3"),
    "eac3": ("eac3", "eac3"),
    "mpegts": ("mpegts", "aac"),
    "mpeg": ("mpeg", "mp2"),
    "ogg opus": ("ogg", "libopus"),
    "ogg flac": ("ogg", "flac"),
    "flac": ("flac", "flac"),
    "matroska": ("matroska", "aac"),
}


def sound_file(name: str, seconds: float = 2.0) -> tuple[bytes, int]:
    rate = 48000 if name == "ogg opus" else RATE
    return encoded(*FRAMED[name], music(seconds, rate), rate), rate


def heard(data: bytes, rate: int = RATE) -> tuple[np.ndarray, SoundReport]:
    report = SoundReport()
    return media.read_audio(data, rate, report=report)[0], report


@pytest.mark.parametrize("name", FRAMED)
def test_files_that_were_joined_are_read_one_after_the_other(name: str) -> None:
    data, rate = sound_file(name)
    one, (audio, report) = heard(data, rate)[0], heard(data + data, rate)
    assert len(audio) == pytest.approx(2 * len(one), abs=0.06 * rate)
    assert np.abs(audio[-rate : -rate // 2]).mean() > 0.1
    assert all("joined" in note or "1 damaged piece of the file skipped" in note for note in report.notes)


@pytest.mark.parametrize("name", FRAMED)
def test_zeros_at_the_end_do_no_harm(name: str) -> None:
    data, rate = sound_file(name)
    one, (audio, report) = heard(data, rate)[0], heard(data + bytes(20000), rate)
    assert len(audio) == pytest.approx(len(one), abs=1600)
    assert all("damaged piece of the file skipped, the first at" in note for note in report.notes)


@pytest.mark.parametrize("name", ["mp3", "aac", "ac3", "eac3", "mp2"])
def test_junk_in_the_middle_is_skipped_and_said_so(name: str) -> None:
    data, rate = sound_file(name)
    half = len(data) // 2
    one, (audio, report) = heard(data, rate)[0], heard(data[:half] + JUNK + data[half:], rate)
    assert len(audio) == pytest.approx(len(one), abs=0.2 * rate)
    assert np.allclose(audio[: rate // 2], one[: rate // 2], atol=1e-3)
    (note,) = [note for note in report.notes if "skipped" in note]
    assert "damaged piece" in note and "the first at 1.0 s: " in note and "bytes, the size of" in note


@pytest.mark.parametrize("name", ["mpegts", "ogg opus", "ogg flac", "matroska"])
def test_silence_stands_where_time_stamps_tell_that_sound_is_missing(name: str) -> None:
    data, rate = sound_file(name, 6.0)
    third = len(data) // 3
    one, (audio, report) = heard(data, rate)[0], heard(data[:third] + JUNK + data[third + len(JUNK) :], rate)
    assert len(audio) == pytest.approx(len(one), abs=0.03 * rate)
    assert np.allclose(audio[-rate // 2 :], one[-rate // 2 :], atol=0.02)
    (note,) = [note for note in report.notes if "replaced by silence" in note]
    missing = float(note.split(" s of sound are missing at ")[0])
    assert (audio == 0).sum() / rate == pytest.approx(missing, abs=0.2)


@pytest.mark.parametrize("kind", [("flac", "flac"), ("wv", "wavpack"), ("tta", "tta"), ("FLAC", "")])
def test_a_flipped_bit_in_a_lossless_file_is_silence_and_no_noise(kind: tuple[str, str]) -> None:
    sound = music(4.0)
    # FFmpeg's blocks of FLAC last 0.104 s, those of libFLAC 0.093 s.
    data = bytearray(
        encoded(*kind, sound) if kind[1] else media.encode_audio(media.quantise(sound[None]), RATE, "flac")
    )
    data[len(data) // 2] ^= 0xFF
    audio, report = heard(bytes(data))
    assert len(audio) == len(sound) and any("replaced by silence" in note for note in report.notes)
    assert np.abs(audio).max() <= np.abs(sound).max() + 1e-3


def test_a_damaged_mp3_of_full_size_is_read_and_one_that_lost_half_is_refused() -> None:
    data = encoded("mp3", "libmp3lame", music(4.0))
    hurt = data[:30000] + JUNK + data[30000 + len(JUNK) :]
    audio, report = heard(hurt)
    assert 3.0 * RATE < len(audio) < 3.9 * RATE
    assert report.notes[-1].startswith("the file is damaged: 3.") and report.notes[-1].endswith(" s of 4.0 s")
    with pytest.raises(MediaError, match=r"must be whole; got 1\.\d s of 4\.0 s"):
        media.read_audio(data[:20000] + bytes(36000) + data[56000:], RATE)


def test_zeros_in_the_place_of_the_end_are_a_cut_file() -> None:
    data = encoded("mp3", "libmp3lame", music(4.0))
    with pytest.raises(MediaError, match=r"must be whole; got 3\.\d s of 4\.0 s"):
        media.read_audio(data[:50000] + bytes(len(data) - 50000), RATE)


def test_joined_recordings_of_unlike_sample_rates_are_refused_with_the_place() -> None:
    data = encoded("mp3", "libmp3lame", music(2.0)) + encoded("mp3", "libmp3lame", music(2.0, 22050), 22050)
    with pytest.raises(
        MediaError,
        match=r"must keep one sample rate; got 44100 Hz, then 22050 Hz from 2\.0 s on\. To fix: cut it there if two",
    ):
        media.read_audio(data, RATE)


def test_mono_and_stereo_that_were_joined_are_read_one_after_the_other() -> None:
    mono = encoded("adts", "aac", music(1.0))
    assert media.read_audio(mono + mono, RATE, 2).shape == (2, media.read_audio(mono + mono, RATE).shape[1])


def test_a_file_of_which_hardly_anything_decodes_is_refused() -> None:
    data = encoded("mp4", "aac", music(3.0))
    begin, end = data.index(b"mdat") + 3000, data.index(b"moov") - 6000
    hurt = data[:begin] + (JUNK * 10)[: end - begin] + data[end:]
    with pytest.raises(
        MediaError,
        match=r"must be sound or video that can be decoded; got \d+ damaged and \d+ whole pieces\. To fix: check that",
    ):
        media.read_audio(hurt, RATE)


def test_what_follows_a_place_where_reading_ends_is_said_to_be_lost() -> None:
    data = encoded("wv", "wavpack")
    audio, report = heard(data + data)
    assert len(audio) == 2 * RATE and report.notes == ["the file cannot be read beyond 2.0 s"]


def test_a_damaged_picture_is_passed_over() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 64, 96, 3)).astype(np.uint8)
    data = bytearray(filmed("matroska", noise, codec="mjpeg"))
    whole = media.read_video(bytes(data), (64, 96), 5.0)
    place = data.index(b"\xff\xd8", len(data) // 2)
    data[place : place + 400] = bytes(400)
    assert media.read_video(bytes(data), (64, 96), 5.0).shape == whole.shape


def test_an_error_of_the_system_while_reading_is_named(tmp_path) -> None:
    (tmp_path / "a.wav").write_bytes(encoded("wav", "pcm_s16le"))
    with (
        pytest.raises(MediaError, match=r"a\.wav must be .*; got damaged data \(Input/output error\)\. To fix: check"),
        opened(tmp_path / "a.wav"),
    ):
        raise av.error.OSError(5, "Input/output error")


@pytest.mark.parametrize(("kind", "codec"), [("wav", "pcm_s16le"), ("mp4", "aac")])
def test_what_lies_behind_the_sound_that_the_header_tells_of_is_noted(kind: str, codec: str) -> None:
    data = encoded(kind, codec)
    audio, report = heard(data + data)
    assert len(audio) == pytest.approx(2 * RATE, abs=3)
    (note,) = report.notes
    assert note.endswith("bytes behind the first 2.0 s are not read: joined to it, or not in its header")


def test_a_recorder_that_lost_its_power_leaves_a_length_that_is_too_short() -> None:
    data = bytearray(encoded("wav", "pcm_s16le"))
    place = data.index(b"data") + 4
    data[place : place + 4] = struct.pack("<I", RATE)
    audio, report = heard(bytes(data))
    assert len(audio) == RATE // 2 and "bytes behind the first 0.5 s are not read" in report.notes[0]


@pytest.mark.parametrize("chunk", [b"id3 ", b"LIST", b"_PMX"])
def test_tags_behind_the_sound_are_no_sound(chunk: bytes) -> None:
    data = encoded("wav", "pcm_s16le") + chunk + struct.pack("<I", 9000) + b"x" * 9000
    assert heard(data)[1].notes == []


def test_mpeg_streams_whose_time_stamps_jump_ahead_are_joined_recordings() -> None:
    later = encoded("mpegts", "aac", options={"output_ts_offset": "3000"})
    audio, report = heard(encoded("mpegts", "aac") + later)
    assert len(audio) == pytest.approx(4 * RATE, abs=0.1 * RATE)
    assert "the time starts again at 2.0 s" in report.notes[-1]


def test_a_damaged_time_stamp_that_leads_beyond_the_end_makes_no_hours_of_silence() -> None:
    data = bytearray(encoded("flv", "aac"))
    tags = [
        match.start() for match in re.finditer(rb"\x08\x00[\x00-\x03].\x00...\x00\x00\x00\xaf", bytes(data), re.DOTALL)
    ]
    for place in tags[len(tags) // 2 :]:
        data[place + 4 : place + 7] = (int.from_bytes(data[place + 4 : place + 7], "big") + 3_600_000).to_bytes(
            3, "big"
        )
    audio, report = heard(bytes(data))
    assert len(audio) == pytest.approx(2 * RATE, abs=0.1 * RATE)
    assert "the time starts again at" in report.notes[0]


@pytest.mark.parametrize(("kind", "codec"), [("w64", "pcm_s16le"), ("mp4", "aac")])
def test_sizes_beyond_any_file_do_no_harm(kind: str, codec: str) -> None:
    data = encoded(kind, codec)
    huge = b"junk" + bytes(12) + b"\xf0" * 8 if kind == "w64" else b"\0\0\0\1free" + b"\xf0" * 8
    place = 40 if kind == "w64" else 0
    with pytest.raises(MediaError, match="must "):
        media.read_audio(data[:place] + huge + data[place:], RATE)


def test_sound_behind_one_damaged_block_keeps_its_place() -> None:
    data = bytearray(encoded("mp4", "aac"))
    whole = heard(bytes(data))[0]
    with av.open(io.BytesIO(bytes(data))) as container:
        place = [packet.pos for packet in container.demux()][len(whole) // 2048]
    data[place : place + 16] = b"\xff" * 16
    audio, report = heard(bytes(data))
    assert len(audio) == len(whole) and np.allclose(audio[-RATE // 2 :], whole[-RATE // 2 :], atol=0.01)
    assert report.notes[1].startswith("0.02 s of sound are missing at 1.0 s, and replaced by silence")
