"""Output for people: progress of stages, lines about trials, tables. Plain text where the output is not a terminal.

with stage("corpus and shards") as show_progress:
    show_progress("12 of 34 shards, 40 s left")

Nothing else in VIMSS prints. Names of files, labels and messages are untrusted: brackets and colons are not markup
here, and control characters are shown as their codes.
"""

import logging
import statistics
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from vimss.axes import Scalar
from vimss.config import to_json
from vimss.experiment import Experiment
from vimss.progress import FileProgress, SoundProgress
from vimss.runtime import forward_warnings
from vimss.search.events import (
    CellEnded,
    CellsLeftOut,
    CellStarted,
    Event,
    TrialContinues,
    TrialEnded,
    TrialReplayed,
    TrialReported,
    TrialsScoredAgain,
    TrialStarted,
    TrialWaits,
)
from vimss.search.left_out import describe
from vimss.search.remaining import Progress, longest, trainings_left
from vimss.search.study import TrialRecord
from vimss.train.config import AGAINST_WAITING, MUCH_WAITING, VALIDATION_SOURCES, reaches

ShowProgress = Callable[[str], None]

SECONDS_BETWEEN_LINES = 10.0
"""When the output is not a terminal, print progress at this interval."""

WIDTH = 120
"""Width of a table, in columns, where the output is not a terminal."""

NUMBERS_WIDTH = 112
"""Width of a table's numbers, in columns: four with intervals. The first column is never cut."""

_STEERING = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories of characters that move the cursor, end the line or cannot be encoded."""

_BIDIRECTIONAL = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the writing direction: with them, one name can look like another."""


def printable(text: str, encoding: str = "utf-8") -> str:
    r"""The text with codes in place of control characters, and of characters that the encoding lacks.

    >>> print(printable("a\x1b[31mb.wav"))
    a\x1b[31mb.wav
    """
    return "".join(map(_code, text)).encode(encoding, "backslashreplace").decode(encoding)


def _code(letter: str) -> str:
    if unicodedata.category(letter) not in _STEERING and letter not in _BIDIRECTIONAL:
        return letter
    # A byte of a file name that is not UTF-8: show the byte rather than Python's surrogate.
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


class _Plain(Console):
    """A console that prints text literally: by default rich interprets markup and emoji in every string."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Render a string, a cell or a title as plain text."""
        plain = {**settings, "emoji": False, "markup": False, "highlight": False, "highlighter": None}
        return super().render_str(printable(text, self.encoding), **plain)


out = _Plain()
err = _Plain(stderr=True)


def print_json(content: Any) -> None:
    """The result for a script, and nothing else, on the standard output."""
    sys.stdout.write(to_json(content) + "\n")


class _ToErrors(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        err.print(f"{record.levelname.lower()}: {record.getMessage()}")


def print_warnings() -> None:
    """Print the warnings that stages log, such as a clip that is left out, as lines like all others."""
    log = logging.getLogger("vimss")
    if not log.handlers:
        log.addHandler(_ToErrors(logging.WARNING))
        log.propagate = False


@contextmanager
def stage(name: str, below: ConsoleRenderable | None = None) -> Iterator[ShowProgress]:
    """Show that a stage runs, the progress that it reports, and at its end how long it took.

    In a terminal `below` is drawn under the progress, several times a second.
    """
    begin = time.monotonic()
    if err.is_terminal:
        # rich interprets a plain string as markup here, whatever the settings of the console.
        spinner = "dots" if err.encoding.startswith("utf") else "line"
        with err.status(_above(below, name), spinner=spinner) as status:
            yield lambda progress: status.update(_above(below, f"{name}: {progress}"))
    else:
        printed = begin

        def show_progress(progress: str) -> None:
            nonlocal printed
            if time.monotonic() - printed >= SECONDS_BETWEEN_LINES:
                printed = time.monotonic()
                err.print(f"  {name}: {progress}")

        yield show_progress
    err.print(f"{name}: {time.monotonic() - begin:.0f} s")


def _above(below: ConsoleRenderable | None, text: str) -> ConsoleRenderable:
    line = err.render_str(text)
    return line if below is None else Group(line, below)


def show_rate(show_progress: ShowProgress, parts: str) -> Callable[[SoundProgress], None]:
    """Show the progress of work on sound with rate and time left; `parts` names the parts, as in "pieces read"."""
    begin = time.monotonic()

    def show(progress: SoundProgress) -> None:
        nonlocal begin
        if not progress.done:
            begin = time.monotonic()
            show_progress(f"0 of {progress.total} {parts}")
            return
        passed = time.monotonic() - begin
        left = passed * (1 - progress.share) / progress.share
        show_progress(
            f"{progress.done} of {progress.total} {parts}, {progress.seconds / passed:.0f} x real time, "
            f"{left:.0f} s left" + (f", last {progress.last}" if progress.last else "")
        )

    return show


def show_fetching(name: str) -> Callable[[FileProgress], None]:
    """Print how far the files of `name` are fetched, now and then, with rate and time left: nothing where it is quick.

    As lines of their own, since it happens inside of stages too.
    """
    begin = printed = time.monotonic()

    def show(progress: FileProgress) -> None:
        nonlocal begin, printed
        now = time.monotonic()
        if not progress.done:
            begin = printed = now
        elif now - printed >= SECONDS_BETWEEN_LINES and progress.size:
            printed, rate = now, progress.size / (now - begin)
            err.print(
                f"  fetch {name}: {progress.done} of {progress.total} files, {progress.size / 1e6:.1f} of "
                f"{progress.total_size / 1e6:.1f} MB, {rate / 1e6:.2f} MB/s, "
                f"{(progress.total_size - progress.size) / rate:.0f} s left"
            )

    return show


class SearchLines:
    """A reporter: a line when a trial starts or ends; other events update the progress, with rate and time left."""

    def __init__(self, show_progress: ShowProgress, experiment: Experiment, is_whole: bool = True) -> None:
        """`is_whole`: whether all trials that are left run, or only those that start."""
        self.show_progress = show_progress
        self.is_whole = is_whole
        self.experiment = experiment
        self.budgets = {cell.name: experiment.audio_seconds(cell) for cell in experiment.cells()}
        self.progress: dict[str, dict[str, Progress]] = {}
        """Progress by cell and trial."""
        self.rates: dict[str, float] = {}
        """Audio seconds per second of each trial, as it last reported them."""
        self.at_once = 1
        """The largest number of trials that have run at the same time."""
        self.best = experiment.figure.worst
        self.numbers: dict[str, int] = {}
        self.warned: set[str] = set()
        self.left_out: set[str] = set()
        """Cells that this machine cannot train."""

    def __call__(self, event: Event) -> None:
        """Take one event of a search."""
        match event:
            case TrialsScoredAgain(done=done, total=total) if done < total:
                self.show_progress(f"{done} of {total} trials scored again, on another validation set")
            case TrialsScoredAgain(total=total):
                err.print(f"  scored again, on another validation set: {total} trial{'s' if total > 1 else ''}")
            case CellsLeftOut(cells=cells):
                self.left_out |= set(cells)
                for sentence in describe(cells):
                    err.print(f"  {sentence}")
            case CellStarted(cell=cell):
                err.print(f"  cell {cell}")
            case TrialReplayed():
                self._replay(event)
            case TrialStarted(trial=trial, chosen=chosen):
                self._print_choice(trial, "resumes" if trial in self.numbers else "starts", chosen)
                self._note(event, "running")
            case TrialReported():
                self._report(event)
            case TrialWaits(trial=trial):
                err.print(f"    trial {self.numbers[trial]} waits at the rung for the others")
                self._note(event, "waiting")
            case TrialContinues(trial=trial):
                err.print(f"    trial {self.numbers[trial]} continues to its whole budget")
                self._note(event, "running")
            case TrialEnded(trial=trial, state=state, message=message):
                err.print(f"    trial {self.numbers[trial]} {state}{': ' + message if message else ''}")
                self._note(event, "finished" if state == "finished" else "over")
            case CellEnded(metrics=metrics) if metrics:
                figure = self.experiment.figure
                err.print(f"    best {figure.title} {figure.text(metrics[figure.name])}")

    @property
    def seconds_left(self) -> float:
        """Seconds left of what runs in this search, from the rates of its trials; 0 before the first report."""
        if not self.is_whole:
            return max((self.trial_seconds_left(cell, trial) for cell, trial in self._running()), default=0.0)
        if not any(rate > 0 for rate in self.rates.values()):
            return 0.0
        progress = {cell: list(of.values()) for cell, of in self.progress.items()}
        rounds = trainings_left(self.experiment, progress, self.left_out)
        seconds = [[left.audio_seconds / self.rate(left.cell) for left in trainings] for trainings in rounds]
        return longest(seconds, self.at_once)

    def rate(self, cell: str) -> float:
        """Audio seconds per second of a cell's trials: pictures may be read much slower than sound.

        Those of all trials where none of the cell has reported.
        """
        known = {trial: rate for trial, rate in self.rates.items() if rate > 0}
        of_cell = [known[trial] for trial in self.progress.get(cell, {}) if trial in known]
        return statistics.mean(of_cell or known.values())

    def _print_choice(self, trial: str, what: str, chosen: Mapping[str, Scalar]) -> None:
        number = self.numbers.setdefault(trial, len(self.numbers) + 1)
        settings = ", ".join(f"{key.rpartition('.')[2]} {short(value)}" for key, value in chosen.items())
        err.print(f"    trial {number} {what}{': ' + settings if settings else ''}")

    def _replay(self, event: TrialReplayed) -> None:
        """Take an earlier trial, whose rate says how long others will take."""
        what = "waits at the rung" if event.state == "waiting" else f"was {event.state} before"
        self._print_choice(event.trial, what, event.chosen)
        self._note(event, "over" if event.state == "pruned" else event.state)
        for metrics in event.reports:
            self._take(event.cell, event.trial, metrics["audio_seconds"], metrics)

    def _note(
        self,
        event: TrialReplayed | TrialStarted | TrialWaits | TrialContinues | TrialEnded,
        state: Literal["running", "waiting", "finished", "over"],
    ) -> None:
        trials = self.progress.setdefault(event.cell, {})
        trials[event.trial] = replace(trials.get(event.trial, Progress()), state=state)
        self.at_once = max(self.at_once, len(self._running()))

    def _running(self) -> list[tuple[str, str]]:
        return [
            (cell, name) for cell, of in self.progress.items() for name, one in of.items() if one.state == "running"
        ]

    def trial_seconds_left(self, cell: str, trial: str) -> float:
        """Seconds until a trial that runs has its budget; 0 before its first report."""
        rate, left = self.rates.get(trial, 0.0), self.budgets.get(cell, 0.0) - self.progress[cell][trial].audio_seconds
        return max(0.0, left) / rate if rate > 0 else 0.0

    def _take(self, cell: str, trial: str, seconds: float, metrics: Mapping[str, float]) -> None:
        trials, figure = self.progress[cell], self.experiment.figure
        before, rank = trials[trial], figure.rank(metrics[figure.name])
        if before.rank is not None:
            is_beyond = reaches(before.audio_seconds, self.experiment.search.grace_seconds)
            rank = before.rank if is_beyond else min(before.rank, rank)
        trials[trial] = replace(before, audio_seconds=seconds, rank=rank)
        self.rates[trial] = metrics.get("audio_seconds_per_second", 0.0)
        self.best = figure.best((self.best, metrics[figure.name]))

    def _report(self, event: TrialReported) -> None:
        metrics, number, figure = event.metrics, self.numbers[event.trial], self.experiment.figure
        self._take(event.cell, event.trial, event.audio_seconds, metrics)
        rate = self.rates[event.trial]
        parts = [
            f"trial {number} at {event.audio_seconds:.0f} of {self.budgets.get(event.cell, 0.0):.0f} audio seconds",
            f"{figure.title} {figure.text(metrics[figure.name])} (best {self.best:.2f})",
            f"{rate:.0f} x real time",
        ]
        left = self.seconds_left
        if left >= 1:
            # These may prune some of it.
            at_most = self.is_whole and self.experiment.tune and self.experiment.search.scheduler in {"asha", "median"}
            of = "search" if self.is_whole else "trial"
            parts.append(f"{'at most ' if at_most else ''}about {duration(left)} of the {of} left")
        self.show_progress(", ".join(parts))
        self._warn(number, metrics)

    def _warn(self, number: int, metrics: Mapping[str, float]) -> None:
        """Warn about slow loading and damaged clips, each once a search."""
        waited, lost = metrics.get("loader_wait", 0.0), metrics.get("lost_clips", 0.0)
        if waited > MUCH_WAITING and "waiting" not in self.warned:
            self.warned.add("waiting")
            err.print(f"    trial {number} waits for batches {waited:.0%} of its time: {AGAINST_WAITING}")
        if lost and "lost" not in self.warned:
            self.warned.add("lost")
            err.print(
                f"    trial {number} leaves out {lost:.0f} damaged clips: `vimss shard RECIPE --check` lists them",
            )


def print_note(sentence: str) -> None:
    """A sentence about the work of a verb, on the standard error."""
    err.print(f"  {sentence}")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
    """A table on the standard output; numbers to the right."""
    # A question may have several lines in its YAML.
    title, caption = (" ".join(map(str.strip, text.splitlines())) for text in (title, caption))
    table = Table(
        title=title, caption=caption or None, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    # Narrower terminals would cut names and numbers; a line that wraps is better.
    needed = max((cell_len(printable(row[0], out.encoding)) for row in rows), default=0) + NUMBERS_WIDTH
    width = max(WIDTH, needed)
    wide = out if out.is_terminal and out.width >= width else _Plain(file=out.file, width=max(out.width, width))
    wide.print(table, soft_wrap=False)


def duration(seconds: float) -> str:
    """Seconds in words, with the precision of an estimate.

    >>> duration(43.2), duration(240), duration(3 * 3600), duration(4 * 86400)
    ('43 seconds', '4 minutes', '3 hours', '4 days')
    """
    for unit, length, most in (("second", 1, 90), ("minute", 60, 90), ("hour", 3600, 48)):
        number = max(1, round(seconds / length))
        if number <= most:
            return f"{number} {unit}{'s' if number > 1 else ''}"
    return f"{round(seconds / 86400)} days"


def decibel(value: float, interval: Sequence[float] | None = None) -> str:
    """A ratio with its sign and, if there is one, its interval; a dash if it is not defined."""
    if value != value:
        return "-"
    return f"{value:+.1f}" + (f" ({interval[0]:+.1f} to {interval[1]:+.1f})" if interval else "")


def short(value: object) -> str:
    """A setting's value with two digits."""
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def show_warnings_of_workers() -> None:
    """Print the warnings of other processes too, for `--verbose`."""
    print_warnings()
    forward_warnings()


def figure_text(trial: TrialRecord, with_unit: bool = False) -> str:
    """The best figure of a trial; if it covers only a part of the validation set, that part too."""
    value = trial.figure.text(trial.value) if with_unit else f"{trial.value:.2f}"
    part = f" (up to {trial.scored_sources} sources)" if trial.scored_sources < max(VALIDATION_SOURCES) else ""
    return f"{value}{part}"
