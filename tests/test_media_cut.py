"""Files that were cut off are refused in every container that tells its length, and no whole file is."""

import io
import re
import struct
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from media_files import encoded, filmed, music

from vimss import media
from vimss.errors import MediaError
from vimss.media import SoundReport

RATE = 44100
TELLING = {
    "mp3": ("mp3", "libmp3lame"),
    "wav": ("wav", "pcm_s16le"),
    "adpcm in wav": ("wav", "adpcm_ms"),
    "w64": ("w64", "pcm_s16le"),
    "aiff": ("aiff", "pcm_s16be"),
    "au": ("au", "pcm_s16be"),
    "caf": ("caf", "pcm_s16be"),
    "flac": ("flac", "flac"),
    "wavpack": ("wv", "wavpack"),
    "tta": ("tta", "tta"),
    "ogg flac": ("ogg", "flac"),
    "matroska": ("matroska", "aac"),
    "avi": ("avi", "pcm_s16le"),
    "avi mp3": ("avi", "libmp3lame"),
    "flv": ("flv", "aac"),
    "wma": ("asf", "wmav2"),
}
UNREADABLE_PIPED = {"aiff", "w64"}
"""FFmpeg does not open what it writes to a pipe itself."""


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def index_first(data: bytes) -> bytes:
    """An MP4 whose index stands before its sound."""
    file = str(Path(tempfile.mkdtemp()) / "a.mp4")
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return Path(file).read_bytes()


@pytest.mark.parametrize("name", TELLING)
def test_a_sound_file_that_was_cut_off_is_refused(name: str) -> None:
    data = encoded(*TELLING[name])
    whole = SoundReport()
    assert media.read_audio(data, RATE, report=whole).shape[1] == pytest.approx(2 * RATE, abs=0.06 * RATE)
    assert whole.notes == []
    for share in (0.9, 0.5):
        with pytest.raises(
            MediaError,
            match=r"must be whole; got (about )?[01]\.\d s(, and no end| of (about )?[12]\.\d s)\. "
            r"To fix: copy, download or export it again; or read the existing part: --allow-truncated",
        ):
            media.read_audio(cut(data, share), RATE)


@pytest.mark.parametrize("name", TELLING)
def test_what_is_there_of_a_cut_file_is_read_where_that_is_allowed(name: str) -> None:
    data, report = encoded(*TELLING[name]), SoundReport()
    whole = media.read_audio(data, RATE)[0]
    audio = media.read_audio(cut(data, 0.6), RATE, allow_truncated=True, report=report)[0]
    assert 0.3 * RATE < len(audio) < 1.4 * RATE
    # The last block may have been decoded from half of its bytes.
    sure = len(audio) - 5000
    assert np.allclose(audio[:sure], whole[:sure], atol=0.01)
    assert any(note.startswith("the file was cut off: ") for note in report.notes)


@pytest.mark.parametrize("name", ["wav", "w64", "aiff", "caf", "ogg flac", "mp4"])
def test_a_cut_file_is_refused_before_anything_of_it_is_given_where_its_structure_tells(name: str) -> None:
    data = encoded(*TELLING[name]) if name != "mp4" else index_first(encoded("mp4", "aac"))
    assert sum(block.shape[1] for block in media.audio_blocks(data, RATE)) == pytest.approx(2 * RATE, abs=3)
    with pytest.raises(MediaError, match=r"must be whole; got about [01]\.\d s(, and no end| of 2\.0 s)\. To fix"):
        next(media.audio_blocks(cut(data, 0.6), RATE))


@pytest.mark.parametrize("name", sorted(TELLING.keys() - UNREADABLE_PIPED))
def test_a_streaming_writer_that_did_not_know_the_length_is_no_cut_file(name: str) -> None:
    report = SoundReport()
    audio = media.read_audio(encoded(*TELLING[name], pipe=True), RATE, report=report)
    assert audio.shape[1] == pytest.approx(2 * RATE, abs=0.06 * RATE) and report.notes == []


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_sizes_that_mean_unknown_are_no_claim(size: int) -> None:
    data = bytearray(encoded("wav", "pcm_s16le"))
    place = data.index(b"data") + 4
    data[place : place + 4] = struct.pack("<I", size)
    data[4:8] = struct.pack("<I", min(size + 36, 0xFFFFFFFF) if size else 0)
    report = SoundReport()
    assert media.read_audio(bytes(data), RATE, report=report).shape[1] == pytest.approx(2 * RATE, abs=20)
    assert report.notes == []


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
@pytest.mark.parametrize("count", [700, 20000, 100_001])
@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "PCM_24"),
        ("WAV", "IMA_ADPCM"),
        ("AIFF", "PCM_16"),
        ("AU", "FLOAT"),
        ("CAF", "ALAC_16"),
        ("W64", "PCM_16"),
        ("RF64", "PCM_16"),
        ("NIST", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
        ("FLAC", "PCM_16"),
    ],
)
def test_no_whole_file_is_taken_for_a_cut_one(kind: str, subtype: str, count: int, rate: int) -> None:
    rate = 24000 if subtype == "OPUS" and rate == 22050 else rate  # Opus has no such rate
    file, report = io.BytesIO(), SoundReport()
    soundfile.write(file, music(count / rate, rate), rate, format=kind, subtype=subtype)
    audio = media.read_audio(file.getvalue(), rate, report=report)
    # ADPCM comes in whole blocks.
    inexact = {"IMA_ADPCM": 4200, "OPUS": 400, "VORBIS": 600, "MPEG_LAYER_III": 600}
    assert audio.shape[1] == pytest.approx(count, abs=inexact.get(subtype, 0))
    assert report.notes == []


def test_the_end_of_alac_in_caf_is_kept() -> None:
    file, sound = io.BytesIO(), music(0.7, 8000)
    soundfile.write(file, sound, 8000, format="CAF", subtype="ALAC_16")
    assert np.allclose(media.read_audio(file.getvalue(), 8000)[0], sound, atol=1e-4)


def test_an_mp3_without_a_length_is_read_as_far_as_it_goes() -> None:
    data = encoded("mp3", "libmp3lame", options={"write_xing": "0"})
    assert media.read_audio(cut(data, 0.5), RATE).shape[1] == pytest.approx(RATE, abs=3000)


def test_a_vbri_header_tells_the_length_of_an_mp3() -> None:
    data = bytearray(encoded("mp3", "libmp3lame"))
    place = max(data.find(b"Xing"), data.find(b"Info")) - (4 + 17)
    data[place + 21 : place + 160] = bytes(139)
    data[place + 36 : place + 62] = struct.pack(">4sHHHIIHHHH", b"VBRI", 1, 0, 75, len(data) - place, 77, 0, 1, 2, 0)
    assert media.read_audio(bytes(data), RATE).shape[1] > 1.9 * RATE
    with pytest.raises(MediaError, match=r"must be whole; got 1\.\d s of 2\.0 s"):
        media.read_audio(cut(bytes(data), 0.7), RATE)


def test_a_fragmented_mp4_that_was_cut_off_is_refused() -> None:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}
    data = encoded("mp4", "aac", options=options)
    assert media.read_audio(data, RATE).shape[1] == pytest.approx(2 * RATE, abs=0.06 * RATE)
    with pytest.raises(MediaError, match=r"must be whole; got (about )?1\.\d s(, and no end| of 1\.\d s)"):
        media.read_audio(cut(data, 0.6), RATE)
    report = SoundReport()
    media.read_audio(cut(data, 0.6), RATE, allow_truncated=True, report=report)
    assert report.notes[-1].startswith("the file was cut off: 1.")


def test_a_fragmented_mp4_whose_last_fragment_lacks_a_few_bytes_lacks_those_behind_it_too() -> None:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}
    data = encoded("mp4", "aac", options=options)
    with pytest.raises(MediaError, match=r"must be whole; got 1\.\d s, and no end"):
        media.read_audio(data[: [match.start() for match in re.finditer(b"moof", data)][3] - 4 - 20], RATE)


@pytest.mark.parametrize("kind", ["mp4", "matroska", "avi", "flv", "asf"])
@pytest.mark.parametrize("frame_rate", [1, 25])
@pytest.mark.parametrize(("shown", "heard"), [(3, 1), (1, 3)])
def test_sound_and_picture_of_unlike_length_are_no_cut_file(kind: str, frame_rate: int, shown: int, heard: int) -> None:
    pictures = np.zeros((shown * frame_rate, 32, 48, 3), np.uint8)
    codec = "mpeg4" if kind in ("avi", "asf") else "libx264"
    data, report = filmed(kind, pictures, frame_rate, codec, music(heard)), SoundReport()
    assert media.read_audio(data, RATE, report=report).shape[1] == pytest.approx(heard * RATE, abs=0.1 * RATE)
    assert len(media.read_video(data, (8, 8), 2.0)) == pytest.approx(2 * shown, abs=2) and report.notes == []


@pytest.mark.parametrize("kind", ["matroska", "avi", "flv", "asf"])
def test_the_picture_of_a_cut_video_is_refused_or_read_as_far_as_it_goes(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 64, 96, 3)).astype(np.uint8)
    data = cut(filmed(kind, noise, 10, "mpeg4" if kind in ("avi", "asf") else "libx264", music(3.0)), 0.6)
    with pytest.raises(MediaError, match=r"must be whole; got [12]\.\d s of (about )?[23]\.\d s"):
        media.read_video(data, (8, 8), 10.0)
    assert 10 < len(media.read_video(data, (8, 8), 10.0, allow_truncated=True)) < 25
    (crop,) = media.read_crops(data, [(0, 0, 64, 64)], 16, 10.0, 9.0, allow_truncated=True)
    assert len(crop) == 90


def test_an_image_without_its_end_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3)).astype(np.uint8)
    data = filmed("image2pipe", noise, codec="mjpeg")
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "b.jpg").write_bytes(cut(data, 0.7))
    assert media.read_images([tmp_path / "a.jpg"], [(0, 0, 64, 64)], 16)[0].shape == (1, 16, 16, 3)
    with pytest.raises(MediaError, match=r"b\.jpg must be whole; got its upper part"):
        media.read_images([tmp_path / "b.jpg"], [(0, 0, 64, 64)], 16)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_an_mp4_whose_index_was_cut_off_says_so(tmp_path: Path, share: float) -> None:
    (tmp_path / "a.mp4").write_bytes(cut(encoded("mp4", "aac"), share))
    with pytest.raises(MediaError, match=r"a\.mp4 must .*; got a file that was cut off\. To fix: copy, download or"):
        media.read_audio(tmp_path / "a.mp4", RATE)


def test_an_mp4_whose_index_ends_before_its_sound_says_that_it_was_cut_off() -> None:
    data = encoded("mp4", "aac", music(5.0))
    with pytest.raises(
        MediaError, match=r"must have a sound stream; got a file that was cut off\. To fix: copy, downl"
    ):
        media.read_audio(data[: data.index(b"mvhd") + 60], RATE)


def test_an_mp4_that_was_never_finished_says_so() -> None:
    data = encoded("mp4", "aac")
    with pytest.raises(MediaError, match=r"got an MP4 file without its index \(moov\)\. To fix: copy, download or"):
        media.read_audio(data[: data.index(b"moov") - 4], RATE)
