"""Which files are opened, and what is said of those that are not."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from media_files import encoded, filmed, music

from vimss import media
from vimss.errors import MediaError

RATE = 44100


@pytest.mark.parametrize(
    ("kind", "codec", "rate"),
    [
        ("caf", "pcm_s16be", RATE),
        ("au", "pcm_s16be", RATE),
        ("aiff", "pcm_s16be", RATE),
        ("w64", "pcm_s16le", RATE),
        ("ac3", "ac3", RATE),
        ("eac3", "eac3", RATE),
        ("asf", "wmav2", RATE),
        ("wv", "wavpack", RATE),
        ("tta", "tta", RATE),
        ("amr", "libopencore_amrnb", 8000),
        ("adts", "aac", RATE),
        ("latm", "aac", RATE),
        ("mp2", "mp2", RATE),
        ("mpeg", "mp2", RATE),
        ("mpegts", "aac", RATE),
        ("flv", "aac", RATE),
        ("3gp", "aac", RATE),
        ("ipod", "alac", RATE),
        ("mov", "pcm_s16le", RATE),
        ("webm", "libopus", 48000),
        ("ogg", "libopus", 48000),
    ],
)
def test_every_usual_sound_file_opens(tmp_path: Path, kind: str, codec: str, rate: int) -> None:
    path = tmp_path / "a file without an ending"
    path.write_bytes(encoded(kind, codec, music(1.0, rate), rate))
    audio = media.read_audio(path, rate)
    assert audio.shape[1] == pytest.approx(rate, abs=0.06 * rate) and 0.05 < audio.std() < 0.3


UNREADABLE = {
    b"": ("an empty file", "copy, download or export it again"),
    bytes(5000): ("a file of zeros", "copy or download it again: the transfer was never finished"),
    b"x": ("a text file", "give a recording"),
    b"hello\n" * 100: ("a text file", "give a recording"),
    b"\xef\xbb\xbfhello\n": ("a text file", "give a recording"),
    "hello\r\n".encode("utf-16"): ("a text file", "give a recording"),
    "ein Lied \N{WOMAN}\u200d\N{PERSONAL COMPUTER}".encode(): ("a text file", "give a recording"),
    b"\xef\xbb\xbf<!DOCTYPE html>\n<title>404</title>": ("a web page", "download the recording itself, not the page"),
    b"\n<html><head></head>Not found</html>": ("a web page", "download the recording itself"),
    b"#EXTM3U\n#EXTINF:1,\na.wav\n": ("a playlist, which holds no sound itself", "give the recording that it names"),
    b"ffconcat version 1.0\nfile a.wav\n": ("a playlist, which holds no sound itself", "give the recording"),
    b"[playlist]\nFile1=a.wav\n": ("a playlist, which holds no sound itself", "give the recording"),
    b'<?xml version="1.0"?><MPD><Period/></MPD>': ("a playlist, which holds no sound itself", "give the recording"),
    b"MThd\0\0\0\6\0\1\0\1\0\x60MTrk": ("a MIDI file, which holds notes and no sound", "export it as WAV"),
    b"SQLite format 3\0" + bytes(100): ("the project of a sound editor", "export it as WAV"),
    b"PK\3\4" + bytes(100): ("a ZIP archive", "unpack it, and give the recording that is in it"),
    b"Rar!\x1a\7" + bytes(100): ("a RAR archive", "unpack it"),
    b"7z\xbc\xaf\x27\x1c" + bytes(100): ("a 7z archive", "unpack it"),
    b"\x1f\x8b\x08" + bytes(100): ("compressed data (gzip)", "unpack it, or export it as WAV"),
    b"%PDF-1.7\n" + bytes(100): ("a PDF document", "give a recording"),
    b"\x89PNG\r\n\x1a\n" + bytes(100): ("a picture (PNG)", "give a recording"),
    b"GIF89a" + bytes(100): ("a picture (GIF)", "give a recording"),
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": (
        "a pointer of Git LFS to the file",
        "fetch the file",
    ),
    b"RIFF\x64\x10\0\0WAVEfmt ": ("a file that was cut off", "copy, download or export it again"),
    b"OggS\0\2" + bytes(100): ("a damaged Ogg file (", "check that it plays, or convert it to one of WAV, AIFF"),
    b"\x01\x02\xfe\xff" * 999: ("an unknown format (", "check that it plays, or convert it to one of WAV, AIFF"),
}


@pytest.mark.parametrize("content", UNREADABLE, ids=range(len(UNREADABLE)))
@pytest.mark.parametrize("suffix", ["mp3", "mp4", "wav"])
def test_what_is_no_recording_is_named_and_what_to_do_about_it(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / "a.wav").write_bytes(encoded("wav", "pcm_s16le"))
    (tmp_path / f"b.{suffix}").write_bytes(content)
    got, fix = (re.escape(words) for words in UNREADABLE[content])
    with pytest.raises(
        MediaError, match=rf"b\.{suffix} must be a sound or video file that can be decoded; got {got}.*\. To fix: {fix}"
    ):
        media.read_audio(tmp_path / f"b.{suffix}", RATE)


@pytest.mark.parametrize("letter", ["é", "弦", "\N{VIOLIN}"])
@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_long_text_is_a_text_wherever_its_beginning_is_cut(letter: str, before: str, encoding: str) -> None:
    with pytest.raises(MediaError, match="got a text file"):
        media.read_audio((before + letter * 40000).encode(encoding), RATE)


@pytest.mark.parametrize("content", [b"\x01\x02\xfe\xff" * 999, b"OggS\0\2" + bytes(100), b"caff" + bytes(100)])
def test_the_words_of_the_library_never_stand_alone(content: bytes) -> None:
    with pytest.raises(MediaError) as caught:
        media.read_audio(content, RATE)
    assert re.match(r"(an unknown format|a damaged \w+ file) \(.+\)", caught.value.got)


def test_playlists_are_not_opened_by_the_name_that_they_have(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encoded("wav", "pcm_s16le"))
    for name in ("a.m3u8", "a.m3u", "a.mpd", "a.ffconcat", "a.sdp"):
        (tmp_path / name).write_bytes(b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.wav\n#EXT-X-ENDLIST\n")
        with pytest.raises(MediaError, match="got a playlist"):
            media.read_audio(tmp_path / name, RATE)


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"must be a media file; got a folder\. To fix: give a file in it"):
        media.read_audio(tmp_path, RATE)
    with pytest.raises(MediaError, match=r"must be a media file; got no such file\. To fix: check the path"):
        media.read_audio(tmp_path / "a.wav", RATE)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MediaError, match=r"got a pipe or a device\. To fix: write its output to a file first"):
        media.read_audio(tmp_path / "pipe", RATE)


@pytest.mark.parametrize("name", ["a.wav", "a.jpg"])
def test_a_file_that_cannot_be_read_is_an_error_of_the_system(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/proc/self/mem")
    with pytest.raises(
        MediaError,
        match=r"must be a file that can be read; got an error of the system \(Input/output error\)\. To fix:",
    ):
        media.read_audio(tmp_path / name, RATE)


def test_a_name_with_odd_letters_opens(tmp_path: Path) -> None:
    for name in (b"a%d:b?*.wav", b"\xff\xfe.wav", b"-.wav", b"http:a.wav"):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(encoded("wav", "pcm_s16le"))
        assert media.read_audio(path, RATE).shape == (1, 2 * RATE)


def test_a_jpeg_of_other_content_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"<html>")
    with pytest.raises(MediaError, match=r"a\.jpg must be .*; got a web page"):
        media.read_images([tmp_path / "a.jpg"], [(0, 0, 1, 1)], 8)
    (tmp_path / "b.jpg").write_bytes(filmed("image2pipe", np.zeros((1, 32, 48, 3), np.uint8), codec="mjpeg"))
    with pytest.raises(MediaError, match=r"b\.jpg must have a sound stream; got none"):
        media.read_audio(tmp_path / "b.jpg", RATE)
