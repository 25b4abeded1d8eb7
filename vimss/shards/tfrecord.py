"""TFRecord files of SequenceExamples, read without TensorFlow.

    for record in list_records(path):               # in order, by their lengths
        example = parse_sequence(read_record(path, record), f"record {record.number} of {path}")
        example.context["id"]                       # [b"..."]
        example.frames["rgb"]                       # the bytes of each frame

A record is its length (64 bits), the masked CRC-32C of the length, the content, and the masked CRC-32C of the content,
little-endian. The content is a protocol buffer, of whose wire format this reads lengths and integers.
"""

import functools
import operator
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt32

from vimss.errors import DataError
from vimss.shards.source import unreadable

POLYNOMIAL = 0x82F63B78
"""Of Castagnoli's CRC-32C, with the lowest bit first."""

MASK = 0xA282EAD8
"""TFRecord turns a checksum by 15 bits and adds this, as files may hold checksums as content."""

STRETCHES = 256
"""Parts of a record whose checksums are computed side by side."""

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")

CONTEXT, FEATURE_LISTS = 1, 2
"""Fields of a SequenceExample; in both, a map is repeated pairs."""
KEY, VALUE = 1, 2
BYTES, INTEGERS = 1, 3
"""Kinds of a feature; the third, floats, is skipped."""
VARINT, FIXED_64, LENGTH, FIXED_32 = 0, 1, 2, 5
"""Wire types."""

Value = int | bytes


@dataclass(frozen=True)
class Record:
    """The place of a record."""

    number: int
    """From 0."""
    begin: int
    """The first byte of its content."""
    size: int


@dataclass(frozen=True)
class Sequence:
    """A SequenceExample."""

    context: dict[str, list[Value]]
    frames: dict[str, list[Value]]
    """The first value of each frame."""


def list_records(path: Path) -> Iterator[Record]:
    """The records of a file, whose contents are not read.

    Raises:
        DataError: the file is truncated, or the checksum of a length is wrong, so that what follows cannot be found.

    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            begin = number = 0
            while begin < end:
                file.seek(begin)
                header = file.read(HEADER.size)
                record = Record(number, begin + HEADER.size, _length(header, number, path))
                begin = record.begin + record.size + FOOTER.size
                if begin > end:
                    raise _truncated(number, path)
                yield record
                number += 1
    except OSError as error:
        raise unreadable(error, path) from error


def read_record(path: Path, record: Record) -> bytes:
    """The content of a record; DataError where it does not have its checksum."""
    try:
        with path.open("rb") as file:
            file.seek(record.begin)
            content, footer = file.read(record.size), file.read(FOOTER.size)
    except OSError as error:
        raise unreadable(error, path) from error
    if len(footer) < FOOTER.size:
        raise _truncated(record.number, path)
    _check(content, FOOTER.unpack(footer)[0], f"record {record.number} of {path}")
    return content


def _length(header: bytes, number: int, path: Path) -> int:
    if len(header) < HEADER.size:
        raise _truncated(number, path)
    length, checksum = HEADER.unpack(header)
    _check(header[:8], checksum, f"the length of record {number} of {path}")
    return int(length)


def _truncated(number: int, path: Path) -> DataError:
    return DataError(f"{path} must hold whole records", got=f"an end within record {number}", fix="download it again")


def _check(content: bytes, expected: int, what: str) -> None:
    found = masked(crc32c(content))
    if found != expected:
        raise DataError(
            f"{what} must have its checksum, {expected:#010x}", got=f"{found:#010x}", fix="download the file again"
        )


def masked(checksum: int) -> int:
    """A CRC-32C as TFRecord writes it."""
    return ((checksum >> 15 | checksum << 17) + MASK) & 0xFFFFFFFF


def crc32c(content: bytes) -> int:
    """The CRC-32C of some bytes, by a table, for STRETCHES of them at once: plain Python takes ten times as long."""
    table, length = _table(), len(content) // STRETCHES
    head = len(content) - length * STRETCHES
    checksum = 0xFFFFFFFF
    for byte in content[:head]:
        checksum = int(table[(checksum ^ byte) & 0xFF]) ^ checksum >> 8
    stretches = np.frombuffer(content, np.uint8, offset=head).reshape(STRETCHES, length)
    # Linear: that of two stretches is the first one's, after as many zeros as the second is long, plus the other's.
    bits = _after(1 << np.arange(32, dtype=np.uint32), np.zeros((32, length), np.uint8)).tolist()
    for own in _after(np.zeros(STRETCHES, np.uint32), stretches).tolist():
        moved = [bit for place, bit in enumerate(bits) if checksum >> place & 1]
        checksum = functools.reduce(operator.xor, moved, own)
    return checksum ^ 0xFFFFFFFF


def _after(checksums: UInt32[np.ndarray, " n"], content: UInt8[np.ndarray, "n k"]) -> UInt32[np.ndarray, " n"]:
    """What these checksums become by k bytes each."""
    for column in content.T:
        checksums = _table()[(checksums ^ column) & 0xFF] ^ checksums >> 8
    return checksums


@functools.cache
def _table() -> UInt32[np.ndarray, " 256"]:
    """What each lowest byte of a checksum adds to the rest of it."""
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> 1 ^ (table & 1) * np.uint32(POLYNOMIAL)
    return table


def parse_sequence(content: bytes, name: str) -> Sequence:
    """The SequenceExample in a record, called `name` in errors; DataError where it is none."""
    context: dict[str, list[Value]] = {}
    frames: dict[str, list[Value]] = {}
    try:
        for part, features in _fields(memoryview(content)):
            for _, pair in _fields(features):
                entry = dict(_fields(pair))
                key = bytes(entry[KEY]).decode()
                if part == CONTEXT:
                    context[key] = _values(entry[VALUE])
                elif part == FEATURE_LISTS:
                    frames[key] = [_values(feature)[0] for _, feature in _fields(entry[VALUE])]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{name} must be a SequenceExample",
            got=f"{type(error).__name__}: {error}",
            fix="give the frame-level files, and download this one again",
        ) from error
    return Sequence(context, frames)


def _values(feature: memoryview) -> list[Value]:
    """The values of a feature of bytes or integers."""
    values: list[Value] = []
    for kind, content in _fields(feature):
        for _, value in _fields(content) if kind in (BYTES, INTEGERS) else ():
            if kind == BYTES:
                values.append(bytes(value))
            elif isinstance(value, int):
                values.append(value)
            else:
                values += _packed(value)
    return values


def _packed(content: memoryview) -> Iterator[int]:
    place = 0
    while place < len(content):
        value, place = _varint(content, place)
        yield value


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and content of the fields of a message, in order: an integer, or bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == VARINT:
            value, place = _varint(message, place)
            yield tag >> 3, value
            continue
        size, place = _varint(message, place) if kind == LENGTH else ({FIXED_64: 8, FIXED_32: 4}[kind], place)
        if place + size > len(message):
            raise ValueError(f"a field of {size} bytes in {len(message) - place}")
        yield tag >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, the lowest first, and the place after it."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
