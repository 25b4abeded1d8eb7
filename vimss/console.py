"""What people read while they wait: stage lines, trial lines, tables. Plain text where the output is not a terminal.

with stage("corpus and shards") as say:
    say("12 of 34 shards, 40 s left")
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.table import Table

from vimss.experiment import CellEnded, CellStarted, Event, TrialEnded, TrialReported, TrialStarted
from vimss.train.config import MUCH_WAITING

Say = Callable[[str], None]

SECONDS_BETWEEN_LINES = 10.0
"""Where the output is a file, news come this often rather than on a line that is drawn anew."""

WIDTH = 120
"""Columns of a table where the output has none of its own."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextmanager
def stage(name: str) -> Iterator[Say]:
    """Show that a stage runs, with the news it gives through `say`, and at its end how long it took."""
    begin = time.monotonic()
    if err.is_terminal:
        with err.status(name) as status:
            yield lambda news: status.update(f"{name}: {news}")
    else:
        spoken = begin

        def say(news: str) -> None:
            nonlocal spoken
            if time.monotonic() - spoken >= SECONDS_BETWEEN_LINES:
                spoken = time.monotonic()
                err.print(f"  {name}: {news}", soft_wrap=True)

        yield say
    err.print(f"{name}: {time.monotonic() - begin:.0f} s", soft_wrap=True)


class SearchLines:
    """A reporter: a line when a trial begins or ends; the rest goes to `say`, with rate and time left."""

    def __init__(self, say: Say, audio_seconds: float) -> None:
        self.say = say
        self.audio_seconds = audio_seconds
        self.running: dict[str, tuple[float, float]] = {}
        self.best = float("inf")
        self.numbers: dict[str, int] = {}
        self.warned: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Take one event of a search."""
        match event:
            case CellStarted(cell=cell):
                err.print(f"  cell {cell}", soft_wrap=True)
            case TrialStarted(trial=trial, chosen=chosen):
                number = self.numbers.setdefault(trial, len(self.numbers) + 1)
                settings = ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in chosen.items())
                err.print(f"    trial {number} begins{': ' + settings if settings else ''}", soft_wrap=True)
            case TrialReported(trial=trial, audio_seconds=seconds, metrics=metrics):
                rate = metrics.get("audio_seconds_per_second", 0.0)
                self.best = min(self.best, metrics["valid_loss"])
                left = (self.audio_seconds - seconds) / rate if rate else 0.0
                self.say(
                    f"trial {self.numbers[trial]} at {seconds:.0f} of {self.audio_seconds:.0f} audio seconds, "
                    f"loss {metrics['valid_loss']:.2f} dB (best {self.best:.2f}), {rate:.0f} x real time, "
                    f"up to {left:.0f} s left"
                )
                self._warn(self.numbers[trial], metrics)
            case TrialEnded(trial=trial, state=state, message=message):
                err.print(f"    trial {self.numbers[trial]} {state}{': ' + message if message else ''}", soft_wrap=True)
            case CellEnded(metrics=metrics) if metrics:
                err.print(f"    best validation loss {metrics['valid_loss']:.2f} dB", soft_wrap=True)

    def _warn(self, number: int, metrics: Mapping[str, float]) -> None:
        """What somebody should look into, each once a search."""
        waited, lost = metrics.get("loader_wait", 0.0), metrics.get("lost_clips", 0.0)
        if waited > MUCH_WAITING and "waiting" not in self.warned:
            self.warned.add("waiting")
            err.print(
                f"    trial {number} waits for batches {waited:.0%} of its time: raise loader_workers of the place or "
                "mixing.windows_per_clip; where pictures are decoded, compute features once with `vimss features`",
                soft_wrap=True,
            )
        if lost and "lost" not in self.warned:
            self.warned.add("lost")
            err.print(
                f"    trial {number} leaves out {lost:.0f} damaged clips: `vimss shard RECIPE --check` lists them",
                soft_wrap=True,
            )


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
    """A table on the standard output; numbers to the right."""
    table = Table(
        title=title, caption=caption or None, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    # Narrower terminals would cut numbers; a long line is the lesser evil.
    wide = Console(highlight=False, width=max(out.width, WIDTH)) if not out.is_terminal or out.width < WIDTH else out
    wide.print(table)


def decibel(value: float) -> str:
    """A ratio with its sign, or a dash where it is not defined."""
    return f"{value:+.1f}" if value == value else "-"


def _short(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
