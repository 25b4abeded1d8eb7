"""The headers of media files as bytes: position and size of the sound, its length, and the mark at the end.

    with open("a.wav", "rb") as file:
        media_chunk("wav", file)   # Chunk(begin=44, size=88200): the claimed place of the sound

FFmpeg reads them too, but limits the lengths in them to the size of the file.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PLACEHOLDERS = ((0x7EFFFF00, 0x7F0000FF), (0x7FFF0000, 0x8000FFFF), (0xFFFF0000, 0xFFFFFFFF), (1 << 62, 1 << 64))
"""Sizes of chunks that mean "unknown": SoX writes 0x7F000000 or 0x7FFFF000, arecord 0x80000000, FFmpeg 0xFFFFFFFF."""
FARTHEST = 1 << 60
"""Larger than any file; positions beyond cannot be sought."""
BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp")
"""Names of the first box in files of the MP4 family, after a size of 4 bytes."""
OGG_PAGE = 65307
"""Largest page of Ogg, bytes."""
SAMPLES = {(3, 1): 384, (3, 2): 1152, (3, 3): 1152, (2, 1): 384, (2, 2): 1152, (2, 3): 576}
"""Samples of an MPEG frame by version (3 is MPEG-1, 2 is MPEG-2 and 2.5) and layer."""


def jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG file has its end mark after the picture itself, and not only after the thumbnail in its header."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big") if data[place + 1] != 0xFF else 1
    return data.find(b"\xff\xd9", place) >= 0


@dataclass(frozen=True)
class Chunk:
    """The part of a file that holds its sound or picture."""

    begin: int
    size: int
    even: bool = True
    """Whether bytes are proportional to seconds."""

    @property
    def end(self) -> int:
        """The first byte after it, if it is complete."""
        return self.begin + self.size


def media_chunk(kind: str, file: io.BufferedIOBase) -> Chunk | None:
    """The last chunk that holds sound or picture; None if there is none, or its size is unknown."""
    chunks = {"wav": _riff, "avi": _avi, "aiff": _aiff, "caf": _caf, "w64": _w64, "mov": _fragments, "asf": _asf}
    if kind not in chunks:
        return None
    file.seek(0)
    found = None
    for found in chunks[kind](file):
        if is_unknown(found.size):
            return None
    return found


def is_unknown(size: int) -> bool:
    """Whether a size is a placeholder for an unknown one."""
    return size == 0 or any(low <= size <= high for low, high in PLACEHOLDERS)


def _riff(file: io.BufferedIOBase) -> Iterator[Chunk]:
    """The `data` chunk of WAV and RF64, whose size RF64 gives in an earlier chunk."""
    file.seek(12)
    large = 0
    for name, size in _headers(file, "little"):
        if name == b"ds64":
            large = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"data":
            yield Chunk(file.tell(), large if size == 0xFFFFFFFF and large else size)
            return


def _avi(file: io.BufferedIOBase) -> Iterator[Chunk]:
    """The `movi` list of each RIFF part."""
    for name, size in _headers(file, "little"):
        if name != b"RIFF":
            return
        if size == 0 or size >= 0xFFFF0000:
            yield Chunk(file.tell(), size)
            return
        end = file.tell() + size
        file.seek(4, io.SEEK_CUR)  # AVI or AVIX
        for inner, length in _headers(file, "little"):
            if inner == b"LIST" and file.read(4) == b"movi":
                yield Chunk(file.tell(), length - 4)
                break
            if file.tell() >= end:
                break


def _aiff(file: io.BufferedIOBase) -> Iterator[Chunk]:
    file.seek(12)
    for name, size in _headers(file, "big"):
        if name == b"SSND":
            yield Chunk(file.tell(), size)
            return


def _caf(file: io.BufferedIOBase) -> Iterator[Chunk]:
    file.seek(8)
    for name, size in _headers(file, "big", 8):
        if name == b"data":
            yield Chunk(file.tell(), size)
            return


def _w64(file: io.BufferedIOBase) -> Iterator[Chunk]:
    """Names of 16 bytes, the first 4 of which are text; sizes of 8 bytes that include name and size; padding to 8."""
    file.seek(40)
    while len(header := file.read(24)) == 24:
        size = int.from_bytes(header[16:], "little")
        if header[:4] == b"data":
            yield Chunk(file.tell(), size - 24)
            return
        if not 24 <= size < FARTHEST:
            return
        file.seek(-(-size // 8) * 8 - 24, io.SEEK_CUR)


def mp4_boxes(file: io.BufferedIOBase) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and size of the contents of each box of MP4 and QuickTime."""
    while len(header := file.read(8)) == 8:
        size, name, head = int.from_bytes(header[:4], "big"), header[4:], 8
        if size == 1:
            size, head = int.from_bytes(file.read(8), "big"), 16
        if not head <= size < FARTHEST:  # 0 is: to the end of the file
            return
        begin = file.tell()
        yield name, begin, size - head
        file.seek(begin + size - head)


def _fragments(file: io.BufferedIOBase) -> Iterator[Chunk]:
    """The `mdat` boxes of a fragmented MP4, whose index covers only the existing part."""
    fragmented = False
    for name, begin, size in mp4_boxes(file):
        fragmented = fragmented or name == b"moof"
        if fragmented and name == b"mdat" and size:
            yield Chunk(begin, size, even=False)


def _asf(file: io.BufferedIOBase) -> Iterator[Chunk]:
    """The data object, unless the file is marked as a broadcast."""
    head = file.read(30)
    length = int.from_bytes(head[16:24], "little")
    body = head + file.read(max(0, min(length, 1 << 20) - 30))
    properties = body.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    if properties < 0 or int.from_bytes(body[properties + 88 : properties + 92], "little") & 1:
        return
    file.seek(length)
    header = file.read(24)
    yield Chunk(file.tell(), int.from_bytes(header[16:], "little") - 24)


def _headers(file: io.BufferedIOBase, order: Any, width: int = 4) -> Iterator[tuple[bytes, int]]:
    """Name and size of each chunk; the file is positioned after its header, then moves to the next chunk."""
    while len(header := file.read(4 + width)) == 4 + width:
        begin, size = file.tell(), int.from_bytes(header[4:], order)
        yield header[:4], size
        padding = size % 2 if width == 4 else 0
        if size >= FARTHEST:
            return
        file.seek(begin + size + padding)


def ogg_ends(file: io.BufferedIOBase) -> bool:
    """Whether the last page of an Ogg file is whole and marked as the last."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 4 * OGG_PAGE))
    tail = file.read()
    flags = 0
    for found in re.finditer(rb"OggS\0", tail):
        page = tail[found.start() : found.start() + 27 + 255]
        segments = page[27 : 27 + page[26]] if len(page) >= 27 else b""
        whole = len(page) >= 27 and len(segments) == page[26]
        if not whole or found.start() + 27 + len(segments) + sum(segments) > len(tail):
            return False
        flags = page[5]
    return bool(flags & 4)


@dataclass(frozen=True)
class Mp3Claim:
    """The content of a Xing, Info or VBRI header."""

    seconds: float
    """Length without the encoder's delay and padding."""
    begin: int
    """Start of the first frame, which holds the header."""
    size: int
    """Bytes from there on; 0 if the header has no size."""


def mp3_claim(file: io.BufferedIOBase) -> Mp3Claim | None:
    """The Xing, Info or VBRI header in the first frame of an MP3; None if there is none."""
    file.seek(0)
    head = file.read(10)
    while head[:3] == b"ID3" and len(head) == 10:
        seven = [byte & 0x7F for byte in head[6:]]
        size = seven[0] << 21 | seven[1] << 14 | seven[2] << 7 | seven[3]
        file.seek(size + (10 if head[5] & 16 else 0), io.SEEK_CUR)
        head = file.read(10)
    frame = (head + file.read(4096)).lstrip(b"\0")
    if len(frame) < 200 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return None
    begin = file.tell() - len(frame)
    version, layer, rate = frame[1] >> 3 & 3, 4 - (frame[1] >> 1 & 3), frame[2] >> 2 & 3
    if version == 1 or layer == 4 or rate == 3:
        return None
    hertz = (44100, 48000, 32000)[rate] >> (3 - version if version else 2)
    samples = SAMPLES[max(version, 2), layer]
    if frame[36:40] == b"VBRI":
        size, frames = (int.from_bytes(frame[place : place + 4], "big") for place in (46, 50))
        return Mp3Claim(frames * samples / hertz, begin, size)
    mono = frame[3] >> 6 == 3
    tag = frame[4 + (17 if mono else 32) :] if version == 3 else frame[4 + (9 if mono else 17) :]
    if tag[:4] not in (b"Xing", b"Info") or not tag[7] & 1:
        return None
    frames = int.from_bytes(tag[8:12], "big")
    size = int.from_bytes(tag[12:16], "big") if tag[7] & 2 else 0
    place = 12 + sum(length for bit, length in ((2, 4), (4, 100), (8, 4)) if tag[7] & bit)
    lame = tag[place + 21 : place + 24] if tag[place : place + 4].strip(b"\0") else bytes(3)
    trimmed = (lame[0] << 4 | lame[1] >> 4) + ((lame[1] & 15) << 8 | lame[2])
    return Mp3Claim(max(0.0, frames * samples - trimmed) / hertz, begin, size)
