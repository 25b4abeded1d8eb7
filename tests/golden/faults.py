"""The README's seconds from each fault to the next new report, and the command that measures and pastes them:

    platform/local/run python tests/golden/faults.py [-k NAME]

It runs tests/faults, all or those of a name, and keeps the seconds of those that pass in faults.json beside this file.
"""

import json
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pages import write_figures, write_pages

FIGURES = Path(__file__).with_suffix(".json")
WIDTH = 120
WAYS = ("by itself", "by the same command")

Figures = dict[str, dict[str, float]]
"""How a search ends after a fault, of WAYS, to the name of the fault to its seconds."""


class Seconds:
    """A plugin of pytest that collects what the tests measure."""

    def __init__(self) -> None:
        self.figures: Figures = {way: {} for way in WAYS}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Of each test that passed."""
        fault = dict(report.user_properties).get("fault")
        if report.when == "call" and report.passed and fault:
            name, seconds, way = fault
            self.figures[way][name] = round(seconds, 1)


def contents(figures: Figures) -> dict[str, str]:
    """Of the README's block, in lines of at most WIDTH."""
    shown = "; ".join(f"{way}: {grouped(figures[way])}" for way in WAYS)
    return {"seconds": "\n" + textwrap.fill(f"{shown}.", WIDTH, break_on_hyphens=False)}


def grouped(seconds: Mapping[str, float]) -> str:
    """The seconds of all faults in a line; those of one thing, whose names differ in their ends, are together.

    >>> grouped({"node lost": 43.2, "rank hangs": 137.0, "rank killed": 5.1, "disk, a b": 1.0, "disk, c": 2.0})
    'disk (a b 1, c 2); node lost 43; rank (hangs 137, killed 5)'
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(seconds):
        groups.setdefault(name.rpartition(", " if ", " in name else " ")[0], []).append(name)
    shown = []
    for what, names in groups.items():
        ends = [f"{name.removeprefix(what).lstrip(', ')} {seconds[name]:.0f}" for name in names]
        shown.append(f"{what} ({', '.join(ends)})" if len(names) > 1 else f"{names[0]} {seconds[names[0]]:.0f}")
    return "; ".join(shown)


def main() -> int:
    """Run the tests and write what they took, whatever fails."""
    measured = Seconds()
    # Not in processes beside each other: they would share the cores.
    code = pytest.main(["tests/faults", "-m", "slow", "-n", "0", *sys.argv[1:]], plugins=[measured])
    # Only some were asked for: the others stay as they are.
    before = json.loads(FIGURES.read_text(encoding="utf-8")) if sys.argv[1:] and FIGURES.exists() else {}
    both = {way: {**before.get(way, {}), **measured.figures[way]} for way in sorted(WAYS)}
    figures: Figures = {way: dict(sorted(seconds.items())) for way, seconds in both.items()}
    write_figures(FIGURES, figures)
    write_pages("faults", contents(figures))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
