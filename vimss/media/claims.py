"""Truncation: the length that a file claims, compared with its content.

    with opened(path) as container:
        shortfall(container, container.streams.audio[0], path, end=1.0, reached=1.0)  # "1.0 s of 2.0 s", or None

Truncation can be detected in three kinds of files: those whose header holds a length in seconds (MP3, FLAC, MP4,
Matroska), those whose header holds the size of the sound in bytes (WAV, AIFF, CAF, AVI), and those that end in a mark
(Ogg, JPEG). A header written without knowing the length, such as one into a pipe, claims nothing, and a length that
FFmpeg estimates from a bit rate is no claim. AAC, AC-3, AMR and MPEG streams claim nothing.
"""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vimss.media.structure import BOXES, Chunk, is_unknown, jpeg_ends, media_chunk, mp3_claim, mp4_boxes, ogg_ends

TOLERANCE = 0.1
"""Rounding by encoders and containers, seconds."""
MOST_BEHIND = 4096
"""Bytes after the sound that may be a tag or padding."""
AVI_TOLERANCE = 1.0
"""Seconds; lengths in AVI count from the intended start of the sound."""
IN_SECONDS = {"mov", "matroska", "flv", "aiff", "au", "caf", "flac", "tta", "wv"}
IN_SECONDS |= {"ape", "tak", "mpc", "mpc8", "dsf", "nistsphere"}
"""Demuxers that take the duration from the file; others estimate it."""


@dataclass(frozen=True)
class Shortfall:
    """The part of a file that is missing, according to its header."""

    text: str
    """Such as "1.0 s of 2.0 s"; a whole sentence if the file is not cut off."""
    cut: bool
    """True if the end is missing; false if the file is damaged, or longer than its header says."""


def shortfall(container: Any, stream: Any, source: Path | bytes, end: float, reached: float) -> Shortfall | None:
    """The missing part of a stream; None if it is whole or claims nothing.

    Args:
        container: open, and read to its end.
        stream: the one that was read.
        source: the file.
        end: the end of the part that was read, seconds after the beginning of the stream.
        reached: the end of the last packet of any stream, in the file's own seconds.

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
        # The last packet of a video may have no length: at 5 pictures a second that is 0.2 s.
        rates = [float(video.average_rate) for video in container.streams.video if video.average_rate]
        slack = TOLERANCE + max([2 / rate for rate in rates if rate >= 1], default=0.0)
        if kind in ("matroska", "flv") and reached < duration - slack:
            return Shortfall(f"{end:.1f} s of {duration:.1f} s", cut=True)
        if kind == "ogg" and not ogg_ends(file):
            return Shortfall(f"{end:.1f} s, and no end", cut=True)
        short = _short_chunk(kind, file, end) or _more_behind(kind, file, end)
        length = float((stream.duration or 0) * stream.time_base)
        # The time of sound in AVI counts the packets found: damage makes it shorter.
        if short is None and kind == "avi" and media_chunk(kind, file) and end < length - AVI_TOLERANCE:
            return _damaged(end, length)
        return short


def early_shortfall(container: Any, stream: Any, source: Path | bytes) -> Shortfall | None:
    """The result of `shortfall` for a truncated file, before it is decoded; None if it is not certain yet.

    An hour of sound is then refused without decoding it. Truncation of files that interleave streams (AVI, Matroska) or
    have no known size (MP3, FLAC) is detected only at their end.
    """
    kind = container.format.name.split(",")[0]
    duration, rate = (container.duration or 0) / 1e6, stream.codec_context.bit_rate or 0
    with _open(source) as file:
        size = file.seek(0, io.SEEK_END)
        if kind == "ogg" and not ogg_ends(file):
            return Shortfall(f"about {duration:.1f} s, and no end", cut=True)
        if kind == "mov" and len(stream.index_entries):
            first, last = stream.index_entries[0], stream.index_entries[len(stream.index_entries) - 1]
            share = (size - first.pos) / max(1, last.pos + last.size - first.pos)
            claimed = _claimed_seconds(kind, stream, duration)
            if share * claimed < claimed - TOLERANCE:
                return Shortfall(f"about {max(0.0, share * claimed):.1f} s of {claimed:.1f} s", cut=True)
        # The bit rate of codecs other than PCM is only nominal.
        plain = kind in ("wav", "aiff", "caf", "w64") and stream.codec_context.name.startswith("pcm_")
        chunk = media_chunk(kind, file) if plain and rate else None
        if chunk is not None and (chunk.end - size) * 8 > TOLERANCE * rate:
            have, whole = (length * 8 / rate for length in (size - chunk.begin, chunk.size))
            return Shortfall(f"about {have:.1f} s of {whole:.1f} s", cut=True)
        return None


def _short_chunk(kind: str, file: io.BufferedIOBase, end: float) -> Shortfall | None:
    chunk = media_chunk(kind, file)
    size = file.seek(0, io.SEEK_END)
    if chunk is None or chunk.end <= size:
        return None
    if not chunk.even:
        return Shortfall(f"{end:.1f} s, and no end", cut=True)
    whole = end * chunk.size / max(1, size - chunk.begin)
    return Shortfall(f"{end:.1f} s of about {whole:.1f} s", cut=True) if whole - end > TOLERANCE else None


def _more_behind(kind: str, file: io.BufferedIOBase, end: float) -> Shortfall | None:
    """Data after the sound that the header describes; no player reads it.

    After a power failure, the header holds the last length that was written; joined files keep that of the first.
    """
    size, behind = file.seek(0, io.SEEK_END), 0
    if kind == "wav":
        chunk = media_chunk(kind, file)
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
        seconds = [begin for name, begin, _ in mp4_boxes(file) if name == b"ftyp"][1:]
        behind = size - seconds[0] if seconds else 0
    if behind < MOST_BEHIND:
        return None
    note = f"{behind} bytes behind the first {end:.1f} s are not read: joined to it, or not in its header"
    return Shortfall(note, cut=False)


def _short_mp3(file: io.BufferedIOBase, end: float) -> Shortfall | None:
    claim = mp3_claim(file)
    if claim is None or end >= claim.seconds - TOLERANCE:
        return None
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 1024))
    # An unfinished download may have the full size, with zeros in place of its end.
    ends = bool(claim.size) and size - claim.begin >= 0.99 * claim.size and bool(file.read().strip(b"\0"))
    return _damaged(end, claim.seconds) if ends else Shortfall(f"{end:.1f} s of {claim.seconds:.1f} s", cut=True)


def _damaged(end: float, claimed: float) -> Shortfall:
    """Damage in the middle is skipped, as players do, unless less than half of the file is left."""
    text = f"{end:.1f} s of {claimed:.1f} s"
    return Shortfall(text, cut=True) if end < claimed / 2 else Shortfall(f"the file is damaged: {text}", cut=False)


def breaks_off(source: Path | bytes) -> str:
    """A description of the truncation if the structure of an unreadable file shows it; otherwise ""."""
    with _open(source) as file:
        head = file.read(16)
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if head[4:8] in BOXES:
            boxes = list(mp4_boxes(file))
            if any(begin + length > size for _, begin, length in boxes):
                return "a file that was cut off"
            return "" if any(name == b"moov" for name, _, _ in boxes) else "an MP4 file without its index (moov)"
        kinds = {b"RIFF": "wav", b"RF64": "wav", b"FORM": "aiff", b"caff": "caf", b"riff": "w64"}
        kind = "avi" if head[8:12] == b"AVI " else kinds.get(head[:4], "")
        chunk = media_chunk(kind, file)
        if head[:4] in (b"RIFF", b"FORM"):
            outer = Chunk(8, int.from_bytes(head[4:8], "little" if head[:1] == b"R" else "big"))
            chunk = chunk or (outer if not is_unknown(outer.size) else None)
        return "a file that was cut off" if chunk is not None and chunk.end > size else ""


def _claimed_seconds(kind: str, stream: Any, duration: float) -> float:
    """The length of the stream according to the file, which lasts `duration`; 0 if the file states none."""
    text = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
    if text and kind == "matroska":
        # The tag counts from the beginning of the file.
        begin = float((stream.start_time or 0) * stream.time_base)
        seconds = int(text[1]) * 3600 + int(text[2]) * 60 + float(text[3])
        # Programs that cut without decoding may leave the tag of the longer file.
        return seconds - begin if seconds < duration + 1 else 0.0
    return float((stream.duration or 0) * stream.time_base) if kind in IN_SECONDS else 0.0


def _open(source: Path | bytes) -> io.BufferedIOBase:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
