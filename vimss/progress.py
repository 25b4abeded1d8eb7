"""Progress of work on sound in parallel parts, as `parallel_map` and its callers report it, and of fetching files.

console.show_rate(show_progress, "pieces read")(SoundProgress(done=12, total=34, seconds=80.0, share=12 / 34))
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class SoundProgress:
    """Progress of a computation; the first one, with nothing done, marks its beginning."""

    done: int
    """Parts, such as pieces."""
    total: int
    """Parts altogether."""
    seconds: float
    """Seconds of sound processed so far."""
    share: float
    """Share of the work that is done, 0 to 1."""
    last: str = ""
    """The system whose part was finished last, where there are several."""


@dataclass(frozen=True)
class FileProgress:
    """Progress of fetching files; the first one, with nothing done, marks its beginning."""

    done: int
    """Files."""
    total: int
    """Files altogether."""
    size: int
    """Bytes fetched so far."""
    total_size: int
    """Bytes altogether."""
