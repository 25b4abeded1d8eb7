"""The trials of a search as a table that changes while they train, in a terminal; elsewhere plain lines alone.

with search_stage("search of film", experiment) as report:
    run_search(session, experiment, manifest, [report])
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table

from vimss.console import SearchLines, duration, stage
from vimss.experiment import Experiment
from vimss.search.events import (
    Event,
    Reporter,
    TrialContinues,
    TrialEnded,
    TrialReplayed,
    TrialReported,
    TrialStarted,
    TrialWaits,
)

LINES_AROUND = 8
"""Lines of a terminal that the table leaves free: its own head, and what is printed above it."""

FEWEST_ROWS = 3


State = Literal["running", "waiting", "finished", "pruned", "failed", "interrupted"]


@dataclass(frozen=True)
class Row:
    """One trial."""

    number: int
    cell: str
    state: State = "running"
    value: float | None = None
    """Its best figure; None before the first report."""
    audio_seconds: float = 0.0
    budget: float = 0.0
    rate: float = 0.0
    """Audio seconds per second."""

    @property
    def seconds_left(self) -> float | None:
        """Until it has its budget; None where it does not run, or has not reported yet."""
        if self.state != "running" or self.rate <= 0:
            return None
        return max(0.0, self.budget - self.audio_seconds) / self.rate


class TrialsTable:
    """A reporter, and what rich draws of the events so far: the best trial first."""

    def __init__(self, experiment: Experiment) -> None:
        self.figure = experiment.figure
        cells = experiment.cells()
        self.budgets = {cell.name: experiment.audio_seconds(cell) for cell in cells}
        self.rows: dict[tuple[str, str], Row] = {}
        """By cell and trial."""
        self.numbers: dict[str, int] = {}
        """By trial, counted as its lines count them: a trial may stand in several cells."""

    def __call__(self, event: Event) -> None:
        """Take one event of a search."""
        match event:
            case TrialReplayed(cell=cell, trial=trial, reports=reports, state=state):
                self._set(cell, trial, state)
                for metrics in reports:
                    self._take(cell, trial, metrics["audio_seconds"], metrics)
            case TrialReported(cell=cell, trial=trial, audio_seconds=seconds, metrics=metrics):
                self._take(cell, trial, seconds, metrics)
            case TrialStarted(cell=cell, trial=trial) | TrialContinues(cell=cell, trial=trial):
                self._set(cell, trial, "running")
            case TrialWaits(cell=cell, trial=trial):
                self._set(cell, trial, "waiting")
            case TrialEnded(cell=cell, trial=trial, state=state):
                self._set(cell, trial, state)

    def _set(self, cell: str, trial: str, state: State) -> None:
        number = self.numbers.setdefault(trial, len(self.numbers) + 1)
        row = self.rows.get((cell, trial), Row(number, cell, budget=self.budgets.get(cell, 0.0)))
        self.rows[cell, trial] = replace(row, state=state)

    def _take(self, cell: str, trial: str, seconds: float, metrics: Mapping[str, float]) -> None:
        row, value = self.rows[cell, trial], metrics[self.figure.name]
        best = value if row.value is None else self.figure.best((row.value, value))
        rate = metrics.get("audio_seconds_per_second", 0.0)
        self.rows[cell, trial] = replace(row, value=best, audio_seconds=seconds, rate=rate)

    def ranked(self, most: int) -> list[Row]:
        """At most so many trials, the best first and those without a figure last; the running ones are among them."""
        # `sorted` copies them at once: rich draws in another thread.
        ranked = sorted(self.rows.values(), key=self._rank)
        running = [row for row in ranked if row.state == "running"]
        others = [row for row in ranked if row.state != "running"]
        return sorted([*running, *others][:most], key=self._rank)

    def _rank(self, row: Row) -> tuple[bool, float, int]:
        known = row.value is not None and row.value == row.value
        return not known, self.figure.rank(row.value) if row.value is not None and known else 0.0, row.number

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """What rich calls to draw it."""
        if not self.rows:
            return
        shown = self.ranked(max(FEWEST_ROWS, console.height - LINES_AROUND))
        left = len(self.rows) - len(shown)
        table = Table(box=box.SIMPLE_HEAD, caption=f"and {left} more" if left else None, caption_justify="left")
        for column in ("trial", "cell", self.figure.heading, "audio seconds", "state", "time left"):
            is_number = column not in {"cell", "state"}
            table.add_column(column, justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis")
        for row in shown:
            seconds = row.seconds_left
            table.add_row(
                str(row.number),
                row.cell,
                "-" if row.value is None else f"{row.value:.2f}",
                f"{row.audio_seconds:.0f} of {row.budget:.0f}",
                row.state,
                "" if seconds is None else duration(seconds),
            )
        yield table


@contextmanager
def search_stage(name: str, experiment: Experiment, is_whole: bool = True) -> Iterator[Reporter]:
    """A stage with the reporter of a search: its lines and, in a terminal, the table of its trials below them.

    `is_whole` is as in `SearchLines`.
    """
    table = TrialsTable(experiment)
    with stage(name, below=table) as show_progress:
        lines = SearchLines(show_progress, experiment, is_whole)

        def report(event: Event) -> None:
            table(event)
            lines(event)

        yield report
