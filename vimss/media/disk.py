"""Sound on disk: float samples to append and to read at any position, and 16-bit WAVs written block by block.

    with DiskAudio(folder, channels=2) as sound:
        for block in audio_blocks(path, 44100, 2):
            sound.append(block)
        write_wav_blocks(Path("mix.wav"), map(quantise, sound.blocks()), sound.samples, 2, 44100)

Plain reads and writes instead of mmap: mapped pages count as the process's memory, and a full disk kills it.
"""

import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import Float32, Int16

from vimss.errors import MediaError
from vimss.storage import atomic_write

BLOCK_SAMPLES = 2**16
WAV_HEADER = "<4sI4s4sIHHIIHH4sI"
WAV_BYTES = 2**32 - 1
"""The size field of a WAV file has 32 bits."""


class DiskAudio:
    """Samples in an anonymous file, which vanishes when it is closed or its process dies."""

    def __init__(self, folder: Path, channels: int) -> None:
        """Open the file; OSError if `folder` is not writable."""
        self.channels = channels
        self.samples = 0
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115, `close` closes it

    def __enter__(self) -> "DiskAudio":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the space on the disk."""
        self._file.close()

    def append(self, block: Float32[np.ndarray, "c n"]) -> None:
        """Append samples; OSError if the disk is full."""
        self._write(self.samples, block)

    def add(self, begin: int, block: Float32[np.ndarray, "c n"]) -> None:
        """Add samples to those from `begin` on, possibly beyond the end."""
        there = self.read(begin, min(begin + block.shape[1], self.samples))
        total = block.copy()
        total[:, : there.shape[1]] += there
        self._write(begin, total)

    def scale(self, gain: float) -> None:
        """Multiply all samples."""
        begin = 0
        for block in self.blocks():
            self._write(begin, block * np.float32(gain))
            begin += block.shape[1]

    def cut(self, samples: int) -> None:
        """Set the length: later samples are dropped, missing ones are silence."""
        self._file.truncate(samples * self.channels * 4)
        self.samples = samples

    def read(self, first: int, last: int) -> Float32[np.ndarray, "c n"]:
        """The samples from `first` to `last`, fewer at the end."""
        count = max(0, min(last, self.samples) - first)
        self._file.seek(first * self.channels * 4)
        data = bytearray(count * self.channels * 4)
        view = memoryview(data)
        while view:
            taken = self._file.readinto(view)
            assert taken, "samples that were written can be read"  # noqa: S101
            view = view[taken:]
        return np.ascontiguousarray(np.frombuffer(data, np.float32).reshape(count, self.channels).T)

    def blocks(self, length: int = BLOCK_SAMPLES) -> Iterator[Float32[np.ndarray, "c n"]]:
        """All samples, `length` at a time."""
        for begin in range(0, self.samples, length):
            yield self.read(begin, begin + length)

    def _write(self, begin: int, block: Float32[np.ndarray, "c n"]) -> None:
        self._file.seek(begin * self.channels * 4)
        view = memoryview(block.T.tobytes())
        while view:
            view = view[self._file.write(view) :]
        self.samples = max(self.samples, begin + block.shape[1])


def write_wav_blocks(
    path: Path, blocks: Iterable[Int16[np.ndarray, "c n"]], samples: int, channels: int, sample_rate: int
) -> None:
    """A 16-bit WAV, complete or absent, from blocks that have `samples` samples in all."""
    check_wav_size(samples, channels, sample_rate)
    size = 2 * channels * samples
    header = struct.pack(
        WAV_HEADER,
        *(b"RIFF", struct.calcsize(WAV_HEADER) - 8 + size, b"WAVE"),
        *(b"fmt ", 16, 1, channels, sample_rate, 2 * channels * sample_rate, 2 * channels, 16),
        *(b"data", size),
    )
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(header)
        for block in blocks:
            file.write(block.T.astype("<i2").tobytes())


def check_wav_size(samples: int, channels: int, sample_rate: int) -> None:
    """MediaError for a sound that is too long for one WAV file."""
    most = (WAV_BYTES - struct.calcsize(WAV_HEADER)) // (2 * channels)
    if samples > most:
        raise MediaError(
            f"a WAV file must have less than 4 GB, which is {most / sample_rate / 3600:.1f} hours of this sound",
            got=f"{samples / sample_rate / 3600:.1f} hours",
            fix="cut the recording into parts",
        )
