"""Whether a trial still makes progress: its reports, and the file that its training writes between two of them."""

from pathlib import Path

INTERVALS = 10.0
"""A trial may be silent for this many of its longest intervals between reports."""


class Heartbeat:
    """The signs of life of one trial; seconds are those of a clock that never jumps."""

    def __init__(self, progress: Path, now: float, waits_for_cores: bool = False) -> None:
        self.progress = progress
        self.content = self._read()
        self.last = now
        self.reported = now
        self.longest_interval = 0.0
        """From the first sign of life to the first report, or between two: the start of processes does not count."""
        self.has_begun = False
        self.waits_for_cores = waits_for_cores
        """Until it starts, a trial may wait for a shared cluster as long as it takes."""

    def report(self, now: float) -> None:
        """The trial has reported."""
        if self.has_begun:
            self.longest_interval = max(self.longest_interval, now - self.reported)
        self.last = self.reported = now
        self.has_begun, self.waits_for_cores = True, False

    def poll(self, now: float) -> None:
        """Look whether training has gone on since the last call."""
        content = self._read()
        if content != self.content:
            if not self.has_begun:
                self.reported = now
            self.content, self.last = content, now
            self.has_begun, self.waits_for_cores = True, False

    def pause(self, seconds: float) -> None:
        """Leave out a time in which the search itself stood still: Ctrl-Z, a paused container, a hung mount."""
        self.last += seconds
        self.reported += seconds

    def overdue(self, now: float, silent_seconds: float) -> str:
        """The message about a trial that has been silent for too long; empty where it has not."""
        silent, limit = now - self.last, max(silent_seconds, INTERVALS * self.longest_interval)
        if self.waits_for_cores or silent <= limit:
            return ""
        return (
            f"no progress for {silent:.0f} s, at most {limit:.0f} allowed (silent_seconds of the place): it was ended"
        )

    def _read(self) -> str:
        try:
            return self.progress.read_text(encoding="utf-8")
        except OSError:  # not written yet, or a mount that does not answer
            return ""
