"""Logs of the processes of trials and tasks: a file beside its results, and its warnings on the terminal of the driver.

    with log_to(folder / LOG):          # in the process that works
        train(...)

    forward_warnings()                  # in the driver, before it starts: --verbose
    reader = WarningReader(folder)
    for text in reader.read():          # now and then
        log.warning("trial %s: %s", name, text)

A log file is bounded: one of MOST_BYTES, and one more that it was before.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TypeVar

LOG = "log.txt"
"""In the folder of a trial."""

MOST_BYTES = 1_000_000

LOGGERS = ("vimss", "py.warnings")
"""Our own, and the one to which Python's warnings go."""

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

_WARNING = re.compile(r"\S+ \S+ WARNING \S+: (.+)")
"""A line of a log file as `log_to` writes it."""


def rank_log(rank: int) -> str:
    """The log file of one worker of several; the trial's own process has LOG."""
    return f"log_rank{rank}.txt"


class _BoundedFile(RotatingFileHandler):
    """Appends to a file of bounded size; nothing ends because a log does not fit on the disk."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MOST_BYTES, backupCount=1, encoding="utf-8", delay=True, errors="replace")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in logging
        """Leave the record out."""

    def close(self) -> None:
        """Close the file, and leave out what does not fit: an error here would take the place of the reason."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append what is logged inside the block to a file, Python's warnings too, and the traceback of an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _handled(_BoundedFile(path), logging.INFO):
        try:
            yield
        # Any error belongs in the log; it is raised again.
        except Exception:
            log.exception("ended by an error")
            raise


@contextmanager
def _handled(handler: logging.Handler, level: int) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(min(level, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, before in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(before)
        handler.close()


class WarningReader:
    """The warnings that are new in the log files of a trial; those from before the reader was made do not count."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read_bytes = {path: _size(path) for path in self._paths()}

    def read(self) -> list[str]:
        """The messages since the last call."""
        found: list[str] = []
        for path in self._paths():
            begin = self.read_bytes.get(path, 0)
            # A file that is shorter than before began anew.
            begin = begin if begin <= _size(path) else 0
            try:
                with path.open("rb") as file:
                    file.seek(begin)
                    content = file.read(2 * MOST_BYTES)
            except OSError:  # a mount that does not answer
                continue
            # The last line may be half written.
            whole = content[: content.rfind(b"\n") + 1]
            self.read_bytes[path] = begin + len(whole)
            lines = whole.decode(errors="replace").splitlines()
            found += [match.group(1) for line in lines if (match := _WARNING.fullmatch(line))]
        return found

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("log*.txt"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


_forwarding = False


def forward_warnings(on: bool = True) -> None:
    """Let warnings of other processes be logged in this one too, which prints them (--verbose)."""
    global _forwarding
    _forwarding = on


def is_forwarding() -> bool:
    """Whether warnings of other processes are logged in this one."""
    return _forwarding


def with_warnings(function: Callable[[Item], Result], item: Item) -> tuple[Result, list[str]]:
    """The result of a function for an item, and the warnings that it logged; for the process that runs it."""
    collected = _Collected()
    with _handled(collected, logging.WARNING):
        return function(item), collected.messages


class _Collected(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
