"""A report on the sound stream that was read, as numbers and as sentences for users of `vimss separate`.

report = SoundReport()
read_audio(Path("duet.mkv"), 22050, report=report)
report.sentence   # read stream 0 of 2, stereo, 44.1 kHz, 63.0 s, -18.3 dBFS
report.notes      # damage and missing parts, and their replacement
report.warnings   # advice if the sound is silent, cancels out or is far too loud
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float32

Channel = Literal["all", "left", "right", "mid", "side"]
"""The part of a stereo sound to read: mid is (left + right) / 2, side (left - right) / 2."""

SILENCE_DB = -60.0
"""Below this RMS level a recording is called silent: 16-bit noise lies at -98 dBFS, a quiet room at -70."""
CANCEL_DB = 20.0
"""Left and right cancel out if their mean is this much weaker. Uncorrelated ones lose 3 dB, a silent one 6."""
LOUD_DB = 20.0
"""A peak that is this far above full scale is more than an overdriven mix."""


@dataclass
class SoundReport:
    """A report on a sound stream, complete after the last block."""

    stream: int = 0
    """Number of the stream that was read, from 0."""
    streams: int = 1
    """Number of sound streams in the file."""
    channel: Channel = "all"
    channels: tuple[str, ...] = ()
    """FFmpeg's names of the stream's channels: FL, FR, FC, LFE and so on."""
    sample_rate: int = 0
    """The stream's rate, before resampling."""
    seconds: float = 0.0
    peak: float = 0.0
    """Largest absolute sample of the output, after mapping to mono or stereo; full scale is 1."""
    energy: float = 0.0
    """Mean square of the output."""
    energies: dict[Channel, float] = field(default_factory=dict)
    """Mean squares of left, right, mid and side at the file's own rate; empty if the stream is mono."""
    notes: list[str] = field(default_factory=list)
    """Sentences about parts that were skipped, replaced by silence, or are missing."""
    counted: int = 0
    """Samples of the stream that are counted in `energies`."""

    @property
    def level_db(self) -> float:
        """RMS of the output, dB of full scale; minus infinity for digital silence."""
        return _db(self.energy)

    def levels(self) -> dict[Channel, float]:
        """RMS of left, right, mid and side, dB of full scale; empty if the stream is mono."""
        return {channel: _db(energy) for channel, energy in self.energies.items()}

    def add_sides(self, left: Float32[np.ndarray, " n"], right: Float32[np.ndarray, " n"]) -> None:
        """Count a block of the stream in `energies`."""
        both = [float(np.dot(one, other)) for one, other in ((left, left), (right, right), (left, right))]
        # Rounding may leave a negative remainder of a sum that cancels.
        mid, side = (max(0.0, both[0] + both[1] + sign * 2 * both[2]) / 4 for sign in (1, -1))
        sums: dict[Channel, float] = {"left": both[0], "right": both[1], "mid": mid, "side": side}
        counted = self.counted + len(left)
        for channel, total in sums.items() if counted else ():
            self.energies[channel] = (self.energies.get(channel, 0.0) * self.counted + total) / counted
        self.counted = counted

    def add_given(self, block: Float32[np.ndarray, "c n"], sample_rate: int) -> None:
        """Count a block of the output in `seconds`, `peak` and `energy`."""
        if not block.size:
            return
        seconds = block.shape[1] / sample_rate
        self.peak = max(self.peak, float(block.max()), -float(block.min()))
        square = float(np.vdot(block, block)) / block.size
        self.energy = (self.energy * self.seconds + square * seconds) / (self.seconds + seconds)
        self.seconds += seconds

    @property
    def sentence(self) -> str:
        """A summary such as: read stream 0 of 2, stereo, 44.1 kHz, 63.0 s, -18.3 dBFS."""
        number = f"stream {self.stream} of {self.streams}, " if self.streams > 1 else ""
        layouts = {1: "mono", 2: "stereo"}
        layout = layouts.get(len(self.channels), f"{len(self.channels)} channels ({' '.join(self.channels)})")
        part = "" if self.channel == "all" else f"the {self.channel} of "
        return (
            f"read {number}{part}{layout}, {self.sample_rate / 1000:g} kHz, {self.seconds:.1f} s, {_dbfs(self.energy)}"
        )

    @property
    def warnings(self) -> list[str]:
        """Advice if the sound is silent, cancels out or is far too loud; otherwise empty."""
        advice = [self._cancelling(), self._silent(), self._loud()]
        return [sentence for sentence in advice if sentence]

    @property
    def cancelled(self) -> Channel | None:
        """The louder one of left and right if both cancel out in mono and are not silent."""
        levels = self.levels()
        if not levels:
            return None
        louder: Channel = "left" if levels["left"] >= levels["right"] else "right"
        return louder if levels[louder] >= max(SILENCE_DB, levels["mid"] + CANCEL_DB) else None

    def _cancelling(self) -> str:
        louder = self.cancelled
        if louder is None or self.channel not in ("all", "mid"):
            return ""
        return (
            f"left and right cancel out: their mean has {_dbfs(self.energies['mid'])}, {louder} alone "
            f"{_dbfs(self.energies[louder])}. Read one of them with --channel {louder}"
        )

    def _silent(self) -> str:
        if self.level_db >= SILENCE_DB or self._cancelling():
            return ""
        advice = []
        levels = self.levels()
        loudest = max(levels, key=lambda channel: levels[channel], default=None)
        if loudest is not None and levels[loudest] >= SILENCE_DB:
            advice.append(f"--channel {loudest} has {_dbfs(self.energies[loudest])}")
        if self.streams > 1:
            other = 1 if self.stream == 0 else 0
            advice.append(f"the file has {self.streams} sound streams: --stream {other} reads another one")
        advice = advice or ["check that the file is the right one, and that it was recorded at a usual level"]
        return f"the sound is silent, {_dbfs(self.energy)}: {'; '.join(advice)}"

    def _loud(self) -> str:
        if _db(self.peak**2) <= LOUD_DB:
            return ""
        return (
            f"samples reach {self.peak:.4g}, {_db(self.peak**2):.0f} dB over full scale: if they are 16-bit numbers "
            "kept as floats, divide them by 32768 and export the file again"
        )


def _db(energy: float) -> float:
    return 10 * math.log10(energy) if energy > 0 else -math.inf


def _dbfs(energy: float) -> str:
    return f"{_db(energy):.1f} dBFS" if energy > 0 else "no signal at all"
