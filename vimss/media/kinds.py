"""The kinds of files that are opened, and a description of a file that cannot be.

unreadable(Path("song.mp3"), "Invalid data found")   # "a web page", "download the recording itself, not its page"
"""

import codecs
import unicodedata
from pathlib import Path

from vimss.media.claims import breaks_off

FORMATS = (
    "mov,mp4,m4a,matroska,webm,avi,mpegts,mpeg,asf,flv,dv,"
    "wav,w64,aiff,caf,au,flac,ogg,mp3,aac,loas,ac3,eac3,dts,dtshd,mlp,truehd,"
    "wv,tta,ape,tak,mpc,mpc8,amr,dsf,nistsphere,jpeg_pipe"
)
"""Containers that may be opened. Playlists (HLS, DASH, concat) are not among them: they make FFmpeg open further files.
Nor are formats without a signature, which would match any file."""
OPENS = (
    "WAV, AIFF, CAF, AU, FLAC, MP3, M4A, MP4, MOV, Ogg, Opus, WMA, WavPack, AC-3, AMR, Matroska, WebM, AVI, MPEG, FLV"
)
"""The common ones, by the names that users know."""
CONVERT = f"check that it plays, or convert it to one of {OPENS}"

SIGNATURES = {
    b"MThd": ("a MIDI file, which holds notes and no sound", "export it as WAV from the program that plays it"),
    b"SQLite format 3": ("the project of a sound editor", "export it as WAV from the program that made it"),
    b"PK\x03\x04": ("a ZIP archive", "unpack it, and give the recording that is in it"),
    b"Rar!": ("a RAR archive", "unpack it, and give the recording that is in it"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it, and give the recording that is in it"),
    b"\x1f\x8b": ("compressed data (gzip)", "unpack it, or export it as WAV from the program that made it"),
    b"%PDF": ("a PDF document", "give a recording"),
    b"\x89PNG": ("a picture (PNG)", "give a recording"),
    b"GIF8": ("a picture (GIF)", "give a recording"),
    b"version https://git-lfs": ("a pointer of Git LFS to the file", "fetch the file itself: git lfs pull"),
}
MAGIC = {
    b"RIFF": "WAV or AVI",
    b"RF64": "WAV",
    b"FORM": "AIFF",
    b"caff": "CAF",
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"ID3": "MP3",
    b"\xff\xfb": "MP3",
    b"\x1aE\xdf\xa3": "Matroska or WebM",
    b"0&\xb2u": "WMA or WMV",
    b"wvpk": "WavPack",
    b"\xff\xd8": "JPEG",
}
HEAD_BYTES = 65536
"""Number of bytes of a file that are examined."""
PLAYLISTS = (b"#extm3u", b"[playlist]", b"ffconcat", b"<asx", b"<?wpl", b"<smil", b"<mpd")


def unreadable(source: Path | bytes, error: str) -> tuple[str, str]:
    """A description of a file that FFmpeg refuses, and the fix, beside FFmpeg's own message."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            head = file.read(HEAD_BYTES)
    else:
        head = source[:HEAD_BYTES]
    if not head:
        return "an empty file", "copy, download or export it again"
    if not head.strip(b"\0"):
        return "a file of zeros", "copy or download it again: the transfer was never finished"
    for signature, words in SIGNATURES.items():
        if head.startswith(signature):
            return words
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if any(text.startswith(word) for word in PLAYLISTS) or b"<playlist" in text[:1024] or b"<mpd" in text[:1024]:
        return "a playlist, which holds no sound itself", "give the recording that it names"
    if b"<html" in text[:4096] or text.startswith(b"<!doctype html"):
        return "a web page", "download the recording itself, not the page about it"
    if _is_text(head):
        return "a text file", "give a recording"
    cut = breaks_off(source)
    if cut:
        return cut, "copy, download or export it again"
    magic = "MP4" if head[4:8] == b"ftyp" else next((name for word, name in MAGIC.items() if head.startswith(word)), "")
    return (f"a damaged {magic} file ({error})" if magic else f"an unknown format ({error})"), CONVERT


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are text: UTF-8, or UTF-16 with a byte order mark, as Windows writes it."""
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        # The last character may be incomplete if the file is longer.
        text = codecs.getincrementaldecoder(encoding)().decode(head, final=len(head) < HEAD_BYTES)
    except UnicodeDecodeError:
        return False
    # Format characters, such as those that join emoji, are not printable by themselves.
    return all(letter.isprintable() or letter.isspace() or unicodedata.category(letter) == "Cf" for letter in text)
