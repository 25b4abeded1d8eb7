"""The frames of one stream of an open file, skipping damage as players do, and a record of the losses.

with opened(Path("old.mp3")) as container:
    losses = Losses()
    for frame in decoded_frames(container, container.streams.audio[0], losses): ...
    losses.notes()   # ["2 damaged pieces of the file were skipped, the first at 12.3 s", ...]
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av

from vimss.errors import MediaError

CHECKED = {"flac", "wavpack", "tta"}
"""Codecs whose blocks carry a checksum that FFmpeg verifies only on request: otherwise damage becomes audible noise."""
COUNTED = {"mp3", "aac", "loas", "ac3", "eac3", "dts", "dtshd", "mlp", "truehd", "amr"}
"""Containers without time stamps."""
RESTART_SECONDS = 1.0
"""A time stamp that jumps back by more than this many seconds starts another recording, joined to the first."""
DISCONTINUOUS = {"mpegts", "mpeg"}
JUMP_SECONDS = 10.0
"""So does one of an MPEG stream that jumps ahead by more than this, as in FFmpeg's own programs. In other files such a
jump means missing sound, or a damaged time stamp if it leads beyond the end that the file states."""
MOST_FAILURES = 100
"""Reading stops after this many errors in a row: some demuxers never get past the first."""
MOST_ODD_SECONDS = 1.0
"""Seconds: shorter blocks of another sample rate are junk, longer ones another recording."""


@dataclass
class Losses:
    """The losses in reading a sound stream."""

    skipped: int = 0
    """Number of packets that could not be decoded."""
    decoded: int = 0
    """Number of packets that could be decoded."""
    skipped_bytes: int = 0
    decoded_bytes: int = 0
    first_skipped: float = 0.0
    """Time in the output at which the first of them would lie, seconds."""
    fresh: bool = False
    """Whether something was skipped since the last frame."""
    gave_up: bool = False
    holes: list[tuple[float, float]] = field(default_factory=list)
    """Silence in place of missing sound: begin and length, seconds."""
    restarts: list[float] = field(default_factory=list)
    """Times at which the time stamps restarted, seconds."""
    reached: dict[int, int] = field(default_factory=dict)
    """End of the last packet of each stream by its index, in its own time base."""
    seconds: float = 0.0
    """Seconds of sound in the output so far."""
    odd: dict[int, float] = field(default_factory=dict)
    """Seconds of sound that had another sample rate, by this rate."""

    def end_of_file(self, container: Any) -> float:
        """End of the last packet of any stream, in the file's own seconds."""
        ends = (float(end * container.streams[index].time_base) for index, end in self.reached.items())
        return max(ends, default=0.0)

    def skip(self, size: int = 0) -> None:
        """Count a packet of `size` bytes that could not be decoded."""
        self.first_skipped = self.seconds if not self.skipped else self.first_skipped
        self.skipped += 1
        self.skipped_bytes += size
        self.fresh = True

    def notes(self) -> list[str]:
        """The losses, in sentences."""
        found = []
        if self.skipped:
            pieces = "1 damaged piece" if self.skipped == 1 else f"{self.skipped} damaged pieces"
            size = self.skipped_bytes * self.seconds / max(1, self.decoded_bytes)
            found.append(
                f"{pieces} of the file skipped, the first at {self.first_skipped:.1f} s: "
                f"{self.skipped_bytes} bytes, the size of {size:.2f} s of sound"
            )
        if self.holes:
            total = sum(length for _, length in self.holes)
            where = f", in {len(self.holes)} places, the first" if len(self.holes) > 1 else ""
            found.append(
                f"{total:.2f} s of sound are missing{where} at {self.holes[0][0]:.1f} s, and replaced by silence"
            )
        if self.restarts:
            seconds = ", ".join(f"{second:.1f} s" for second in self.restarts[:5])
            found.append(
                f"recordings that were joined are read one after the other; the time starts again at {seconds}"
            )
        if self.gave_up:
            found.append(f"the file cannot be read beyond {self.seconds:.1f} s")
        return found


def decoded_frames(container: Any, stream: Any, losses: Losses) -> Iterator[Any]:
    """The frames of a stream that can be decoded."""
    if stream.codec_context.name in CHECKED:
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
    if container.format.name == "caf" and stream.codec_context.name == "alac":
        # FFmpeg 8.1 removes the padding of the last packet twice: up to half a second at 8 kHz. It was never decoded.
        stream.codec_context.flags2 |= av.codec.context.Flags2.skip_manual
    own, reached = stream.index, losses.reached
    for packet in _packets(container, losses):
        index, pts = packet.stream_index, packet.pts
        if pts is not None:
            reached[index] = max(reached.get(index, 0), pts + (packet.duration or 0))
        if index != own:
            continue
        try:
            frames = packet.decode()
        except av.error.MemoryError:
            raise
        except av.error.EOFError:
            continue
        except av.FFmpegError:
            losses.skip(packet.size)
            continue
        losses.decoded += bool(frames)
        losses.decoded_bytes += packet.size
        yield from frames


def restarts(container: Any, time: float, ahead: float) -> bool:
    """Whether a time stamp that is `ahead` seconds off starts another recording, or is damaged."""
    if ahead < -RESTART_SECONDS:
        return True
    last = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
    beyond = bool(container.duration) and time > last + JUMP_SECONDS
    return ahead > JUMP_SECONDS and (beyond or container.format.name in DISCONTINUOUS)


def _packets(container: Any, losses: Losses) -> Iterator[Any]:
    """Packets of all streams; reading continues after an error if the demuxer does."""
    packets, failures = container.demux(), 0
    while failures < MOST_FAILURES:
        try:
            packet = next(packets, None)
        except (av.error.InvalidDataError, av.error.BlockingIOError):
            # The MPEG-TS demuxer raises EAGAIN at zeros.
            packets, failures = container.demux(), failures + 1
            losses.fresh = True
            continue
        if packet is None:
            return
        failures = 0
        yield packet
    losses.gave_up = True


def check_losses(losses: Losses, name: str) -> None:
    """MediaError if more was skipped than decoded: the rest would be noise."""
    if losses.skipped > losses.decoded:
        raise MediaError(
            f"{name} must be sound or video that can be decoded",
            got=f"{losses.skipped} damaged and {losses.decoded} whole pieces",
            fix="check that it plays, and copy or export it again",
        )


def check_rate(losses: Losses, frame: Any, rate: int, name: str) -> bool:
    """Whether a frame has the stream's sample rate; MediaError if another rate persists."""
    if frame.sample_rate == rate > 0:
        return True
    losses.skip()
    if frame.sample_rate <= 0:
        return False
    seconds = losses.odd.get(frame.sample_rate, 0.0) + frame.samples / frame.sample_rate
    losses.odd[frame.sample_rate] = seconds
    if seconds > MOST_ODD_SECONDS:
        raise MediaError(
            f"{name} must keep one sample rate",
            got=f"{rate} Hz, then {frame.sample_rate} Hz from {losses.first_skipped:.1f} s on",
            fix="cut it there if two recordings were joined, or convert it to WAV",
        )
    return False
