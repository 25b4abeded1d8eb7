"""The README's seconds from each fault to the next new report, and the command that measures and pastes them:

    platform/local/run python tests/golden/faults.py [-k NAME]

It runs tests/faults, all or those of a name, and keeps the seconds of those that pass in faults.json beside this file.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

FIGURES = Path(__file__).with_suffix(".json")
README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"(<!-- faults: seconds -->).*?(<!-- /faults -->)", re.DOTALL)
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


def paste(text: str, figures: Figures) -> str:
    """The README with its block made anew."""
    shown = "; ".join(
        f"{way}, {', '.join(f'{name} {seconds:.0f}' for name, seconds in sorted(figures[way].items()))}" for way in WAYS
    )
    return BLOCK.sub(lambda found: f"{found[1]}{shown}{found[2]}", text)


def main() -> int:
    """Run the tests and write what they took, whatever fails."""
    measured = Seconds()
    # Not in processes beside each other: they would share the cores.
    code = pytest.main(["tests/faults", "-m", "slow", "-n", "0", *sys.argv[1:]], plugins=[measured])
    # Only some were asked for: the others stay as they are.
    before = json.loads(FIGURES.read_text(encoding="utf-8")) if sys.argv[1:] and FIGURES.exists() else {}
    figures: Figures = {way: {**before.get(way, {}), **measured.figures[way]} for way in WAYS}
    FIGURES.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    README.write_text(paste(README.read_text(encoding="utf-8"), figures), encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
