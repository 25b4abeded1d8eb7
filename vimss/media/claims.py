"""How long a file says that it is, against what is there of it.

    with opened(path) as container:
        shortfall(container, container.streams.audio[0], path, end=1.0, reached=1.0)  # "1.0 s of 2.0 s", or None

Three kinds of files tell that they were cut off: their header holds a length in seconds (MP3, FLAC, MP4, Matroska), the
size in bytes of the part that holds the sound (WAV, AIFF, CAF, AVI), or they end in a mark (Ogg, JPEG). Headers of
writers that could not know the length, such as those into a pipe, claim nothing, and lengths that FFmpeg estimates from
a bit rate are no claims. AAC, AC-3, AMR and MPEG streams do not tell.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOLERANCE = 0.1
"""Seconds that encoders and containers round away."""
MOST_BEHIND = 4096
"""Bytes behind the sound that may be a tag or padding."""
AVI_TOLERANCE = 1.0
PLACEHOLDERS = ((0x7EFFFF00, 0x7F0000FF), (0x7FFF0000, 0x8000FFFF), (0xFFFF0000, 0xFFFFFFFF), (1 << 62, 1 << 64))
"""Sizes of chunks that mean "unknown": SoX writes 0x7F000000 or 0x7FFFF000, arecord 0x80000000, FFmpeg 0xFFFFFFFF."""
IN_SECONDS = {"mov", "aiff", "au", "flac", "tta", "wv", "flv", "matroska", "caf"} | {
    "dsf",
    "ape",
    "mpc",
    "mpc8",
    "tak",
    "nistsphere",
}
"""Demuxers whose duration is what the file says; others estimate it."""
BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp")
"""How files of the family of MP4 begin, after a size of 4 bytes."""
OGG_PAGE = 65307
"""Largest page of Ogg, bytes."""


@dataclass(frozen=True)
class Shortfall:
    """What a file lacks of what it claims."""

    text: str
    """As in "1.0 s of 2.0 s"; a whole sentence where it is not cut off."""
    cut: bool
    """Whether the end is missing; otherwise pieces of it are damaged, or more."""


def shortfall(container: Any, stream: Any, source: Path | bytes, end: float, reached: float) -> Shortfall | None:
    """What is missing of a stream; None where it is whole, or does not tell.

    Args:
        container: open, and read to its end.
        stream: the one that was read.
        source: the file.
        end: where what was read of the stream ends, seconds after the beginning of the stream.
        reached: where the last packet of any stream ends, in the file's own seconds.

    """
    kind = container.format.name.split(",")[0]
    with _open(source) as file:
        if kind == "jpeg_pipe":
            return None if jpeg_ends(file.read()) else Shortfall("its upper part", cut=True)
        if kind == "mp3":
            return _short_mp3(file, end)
        duration = (container.duration or 0) / 1e6
        claimed = _claimed_seconds(kind, stream, duration)
        if claimed and end < claimed - TOLERANCE:
            return Shortfall(f"{end:.1f} s of {claimed:.1f} s", cut=True)
        # A picture's last packet may have no length: at 5 pictures a second that is 0.2 s.
        rates = [float(video.average_rate) for video in container.streams.video if video.average_rate]
        slack = TOLERANCE + max([2 / rate for rate in rates if rate >= 1], default=0.0)
        if kind in ("matroska", "flv") and reached < duration - slack:
            return Shortfall(f"{end:.1f} s of {duration:.1f} s", cut=True)
        if kind == "ogg" and not _ogg_ends(file):
            return Shortfall(f"{end:.1f} s, and no end", cut=True)
        short = _short_chunk(kind, file, end) or _more_behind(kind, file, end)
        length = float((stream.duration or 0) * stream.time_base)
        # AVI counts the time of sound by what it finds: damage makes it shorter.
        if short is None and kind == "avi" and _media_chunk(kind, file) and end < length - AVI_TOLERANCE:
            return _damaged(end, length)
        return short


def _short_chunk(kind: str, file: io.BufferedIOBase, end: float) -> Shortfall | None:
    chunk = _media_chunk(kind, file)
    size = file.seek(0, io.SEEK_END)
    if chunk is None or chunk.end <= size:
        return None
    if not chunk.even:
        return Shortfall(f"{end:.1f} s, and no end", cut=True)
    whole = end * chunk.size / max(1, size - chunk.begin)
    return Shortfall(f"{end:.1f} s of about {whole:.1f} s", cut=True) if whole - end > TOLERANCE else None


def _more_behind(kind: str, file: io.BufferedIOBase, end: float) -> Shortfall | None:
    """What lies behind the sound that the header tells of, and is not read by any player.

    A recorder that lost its power leaves the length that it had noted last; joined files keep that of the first.
    """
    size, behind = file.seek(0, io.SEEK_END), 0
    if kind == "wav":
        chunk = _media_chunk(kind, file)
        place = chunk.end + chunk.end % 2 if chunk else size
        file.seek(place)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        joined = header[:4] in (b"RIFF", b"RF64") or not all(32 <= letter < 127 for letter in header[:4])
        if joined or place + 8 + length > size + 1:
            file.seek(place)
            behind = size - place if file.read(MOST_BEHIND).strip(b"\0") else 0
    elif kind == "mov":
        file.seek(0)
        seconds = [begin for name, begin, _ in _boxes(file) if name == b"ftyp"][1:]
        behind = size - seconds[0] if seconds else 0
    if behind < MOST_BEHIND:
        return None
    note = f"{behind} bytes behind the first {end:.1f} s are not read: joined to it, or not told of in its header"
    return Shortfall(note, cut=False)


def _short_mp3(file: io.BufferedIOBase, end: float) -> Shortfall | None:
    claim = _mp3_claim(file)
    if claim is None or end >= claim.seconds - TOLERANCE:
        return None
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 1024))
    # A download that never ended may have the whole size, and zeros in the place of its end.
    ends = bool(claim.size) and size - claim.begin >= 0.99 * claim.size and bool(file.read().strip(b"\0"))
    return _damaged(end, claim.seconds) if ends else Shortfall(f"{end:.1f} s of {claim.seconds:.1f} s", cut=True)


def _damaged(end: float, claimed: float) -> Shortfall:
    """Damage in the middle is passed over, as players do, unless less than half is left."""
    text = f"{end:.1f} s of {claimed:.1f} s"
    return Shortfall(text, cut=True) if end < claimed / 2 else Shortfall(f"the file is damaged: {text}", cut=False)


def breaks_off(source: Path | bytes) -> str:
    """Why a file that cannot be opened has no end, as far as its structure tells; "" where it does not."""
    with _open(source) as file:
        head = file.read(16)
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if head[4:8] in BOXES:
            boxes = list(_boxes(file))
            if any(begin + length > size for _, begin, length in boxes):
                return "a file that was cut off"
            return "" if any(name == b"moov" for name, _, _ in boxes) else "an MP4 file without its index (moov)"
        kinds = {b"RIFF": "wav", b"RF64": "wav", b"FORM": "aiff", b"caff": "caf", b"riff": "w64"}
        kind = "avi" if head[8:12] == b"AVI " else kinds.get(head[:4], "")
        chunk = _media_chunk(kind, file)
        if head[:4] in (b"RIFF", b"FORM"):
            outer = _Chunk(8, int.from_bytes(head[4:8], "little" if head[:1] == b"R" else "big"))
            chunk = chunk or (outer if not _unknown(outer.size) else None)
        return "a file that was cut off" if chunk is not None and chunk.end > size else ""


def jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG file has its end mark, after the picture itself and not only after the thumbnail in its header."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big") if data[place + 1] != 0xFF else 1
    return data.find(b"\xff\xd9", place) >= 0


@dataclass(frozen=True)
class _Chunk:
    """The part of a file that holds its sound or picture."""

    begin: int
    size: int
    even: bool = True
    """Whether a share of its bytes is the same share of its seconds."""

    @property
    def end(self) -> int:
        return self.begin + self.size


def _open(source: Path | bytes) -> io.BufferedIOBase:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _claimed_seconds(kind: str, stream: Any, duration: float) -> float:
    """The length of the stream that the file, which lasts `duration`, states; 0 where it states none."""
    text = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
    if text and kind == "matroska":
        # The tag counts from the beginning of the file.
        begin = float((stream.start_time or 0) * stream.time_base)
        seconds = int(text[1]) * 3600 + int(text[2]) * 60 + float(text[3])
        # Programs that cut without decoding may leave the tag of the longer file.
        return seconds - begin if seconds < duration + 1 else 0.0
    return float((stream.duration or 0) * stream.time_base) if kind in IN_SECONDS else 0.0


def _media_chunk(kind: str, file: io.BufferedIOBase) -> _Chunk | None:
    """The last chunk that holds sound or picture; None where the file has none, or does not tell its size."""
    chunks = {"wav": _riff, "avi": _avi, "aiff": _aiff, "caf": _caf, "w64": _w64, "mov": _fragments, "asf": _asf}
    if kind not in chunks:
        return None
    file.seek(0)
    found = None
    for found in chunks[kind](file):
        if _unknown(found.size):
            return None
    return found


def _unknown(size: int) -> bool:
    """Whether a size stands for one that the writer did not know."""
    return size == 0 or any(low <= size <= high for low, high in PLACEHOLDERS)


def _riff(file: io.BufferedIOBase) -> Iterator[_Chunk]:
    """The `data` chunk of WAV and RF64, whose size RF64 tells in a chunk before."""
    file.seek(12)
    large = 0
    for name, size in _headers(file, "little"):
        if name == b"ds64":
            large = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"data":
            yield _Chunk(file.tell(), large if size == 0xFFFFFFFF and large else size)
            return


def _avi(file: io.BufferedIOBase) -> Iterator[_Chunk]:
    """The `movi` list of each RIFF part."""
    for name, size in _headers(file, "little"):
        if name != b"RIFF":
            return
        if size == 0 or size >= 0xFFFF0000:
            yield _Chunk(file.tell(), size)
            return
        end = file.tell() + size
        file.seek(4, io.SEEK_CUR)  # AVI or AVIX
        for inner, length in _headers(file, "little"):
            if inner == b"LIST" and file.read(4) == b"movi":
                yield _Chunk(file.tell(), length - 4)
                break
            if file.tell() >= end:
                break


def _aiff(file: io.BufferedIOBase) -> Iterator[_Chunk]:
    file.seek(12)
    for name, size in _headers(file, "big"):
        if name == b"SSND":
            yield _Chunk(file.tell(), size)
            return


def _caf(file: io.BufferedIOBase) -> Iterator[_Chunk]:
    file.seek(8)
    for name, size in _headers(file, "big", 8):
        if name == b"data":
            yield _Chunk(file.tell(), size)
            return


def _w64(file: io.BufferedIOBase) -> Iterator[_Chunk]:
    """Names of 16 bytes, of which the first 4 read; sizes of 8 that count name and size, padded to 8."""
    file.seek(40)
    while len(header := file.read(24)) == 24:
        size = int.from_bytes(header[16:], "little")
        if header[:4] == b"data":
            yield _Chunk(file.tell(), size - 24)
            return
        if size < 24:
            return
        file.seek(-(-size // 8) * 8 - 24, io.SEEK_CUR)


def _boxes(file: io.BufferedIOBase) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and size of the contents of each box of MP4 and QuickTime."""
    while len(header := file.read(8)) == 8:
        size, name, head = int.from_bytes(header[:4], "big"), header[4:], 8
        if size == 1:
            size, head = int.from_bytes(file.read(8), "big"), 16
        if size < head:  # 0 is: to the end of the file
            return
        begin = file.tell()
        yield name, begin, size - head
        file.seek(begin + size - head)


def _fragments(file: io.BufferedIOBase) -> Iterator[_Chunk]:
    """The `mdat` boxes of a fragmented MP4, whose index tells of no more than there is."""
    fragmented = False
    for name, begin, size in _boxes(file):
        fragmented = fragmented or name == b"moof"
        if fragmented and name == b"mdat" and size:
            yield _Chunk(begin, size, even=False)


def _asf(file: io.BufferedIOBase) -> Iterator[_Chunk]:
    """The data object, unless the file says that it was broadcast."""
    head = file.read(30)
    length = int.from_bytes(head[16:24], "little")
    body = head + file.read(max(0, min(length, 1 << 20) - 30))
    properties = body.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    if properties < 0 or int.from_bytes(body[properties + 88 : properties + 92], "little") & 1:
        return
    file.seek(length)
    header = file.read(24)
    yield _Chunk(file.tell(), int.from_bytes(header[16:], "little") - 24)


def _headers(file: io.BufferedIOBase, order: Any, width: int = 4) -> Iterator[tuple[bytes, int]]:
    """Name and size of each chunk; the file stands behind its header, and goes to the next one afterwards."""
    while len(header := file.read(4 + width)) == 4 + width:
        begin, size = file.tell(), int.from_bytes(header[4:], order)
        yield header[:4], size
        padding = size % 2 if width == 4 else 0
        if size >= 1 << 62:
            return
        file.seek(begin + size + padding)


def _ogg_ends(file: io.BufferedIOBase) -> bool:
    """Whether the last page of an Ogg file is whole and says that it is the last."""
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


SAMPLES = {(3, 1): 384, (3, 2): 1152, (3, 3): 1152, (2, 1): 384, (2, 2): 1152, (2, 3): 576}
"""Samples of an MPEG frame by version (3 is MPEG-1, 2 is MPEG-2 and 2.5) and layer."""


@dataclass(frozen=True)
class _Mp3Claim:
    """What a Xing, Info or VBRI header says."""

    seconds: float
    """Without the encoder's delay and padding."""
    begin: int
    """Where the first frame begins, which is the header's own."""
    size: int
    """Bytes from there on; 0 where the header does not say."""


def _mp3_claim(file: io.BufferedIOBase) -> _Mp3Claim | None:
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
        return _Mp3Claim(frames * samples / hertz, begin, size)
    mono = frame[3] >> 6 == 3
    tag = frame[4 + (17 if mono else 32) :] if version == 3 else frame[4 + (9 if mono else 17) :]
    if tag[:4] not in (b"Xing", b"Info") or not tag[7] & 1:
        return None
    frames = int.from_bytes(tag[8:12], "big")
    size = int.from_bytes(tag[12:16], "big") if tag[7] & 2 else 0
    place = 12 + sum(length for bit, length in ((2, 4), (4, 100), (8, 4)) if tag[7] & bit)
    lame = tag[place + 21 : place + 24] if tag[place : place + 4].strip(b"\0") else bytes(3)
    trimmed = (lame[0] << 4 | lame[1] >> 4) + ((lame[1] & 15) << 8 | lame[2])
    return _Mp3Claim(max(0.0, frames * samples - trimmed) / hertz, begin, size)
