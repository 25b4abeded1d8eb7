"""The thirteen networks in the README and the lab log, and the command that pastes them from a store with their search:

    platform/local/run vimss compare systems --against "Wiener filter per label"
    platform/local/run python tests/golden/networks_table.py STORE

It reads STORE/studies/systems-SIGNATURE, keeps the table and the curves in networks_table.json beside this file,
replaces the blocks of the group `systems` of all pages, and copies the chart to .github/images. The README's table is
the shorter one: networks by their figure, the best one first, then what needs no training. The lab
log has the gains of the networks alone.
"""

import json
import shutil
import statistics
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TypedDict

from pages import ROOT, write_figures, write_pages
from signatures import FILE as SIGNATURES

FIGURES = Path(__file__).with_suffix(".json")
PICTURE = ROOT / ".github" / "images" / "systems.png"
AGAINST = "Wiener filter per label"
LABEL = 0
FIGURE = "SI-SDRi, dB"
GAIN = f"gain over {AGAINST}"
SHORT = {
    "": "asked by label, five minutes of one core",
    "seeds": "seeds",
    FIGURE: FIGURE,
    "over seeds": "over seeds",
    GAIN: f"above the {AGAINST}",
    "label contrast, dB": "label contrast, dB",
    "GMAC per s": "GMAC per s",
}
"""Columns of the README's table, and their headings there."""
LEFT_OUT = "mixture"
"""The row that the README has no need of: it is 0 dB."""


class Figures(TypedDict):
    """What is kept."""

    columns: list[str]
    rows: list[list[str]]
    """As `vimss compare` wrote them."""
    curves: dict[str, list[list[float]]]
    """Of each network, at each report: the losses of training and of validation in dB, means over finished trials."""


def read_store(store: Path) -> tuple[Figures, Path]:
    """What the pages show of the newest comparison in a store, and its chart."""
    signatures = json.loads(SIGNATURES.read_text(encoding="utf-8"))["signatures"]
    study = store / "studies" / signatures["experiments/systems.yaml"]
    # Beside them a store may hold cells of earlier settings.
    cells = {folder for name, folder in signatures.items() if name.startswith("experiments/systems.yaml: ")}
    table = study / "compare" / "test" / "table.md"
    if not table.is_file():
        sys.exit(f"{table} must be there; got no such file. To fix: run `vimss compare systems` in that store")
    columns, rows = _table_of(table.read_text(encoding="utf-8"))
    missing = [column for column in SHORT if column not in columns]
    if missing:
        sys.exit(
            f"{table} must have the columns of the README; got none called {', '.join(missing)}. To fix: "
            f'run `vimss evaluate systems` and `vimss compare systems --against "{AGAINST}"` in that store'
        )
    return {"columns": columns, "rows": rows, "curves": _curves(study, cells)}, table.with_name("chart.png")


def _table_of(markdown: str) -> tuple[list[str], list[list[str]]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    columns, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)
    return columns, rows


def _curves(study: Path, cells: Collection[str]) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[tuple[float, float]]]] = {}
    for path in sorted(study.glob("*/*/trial.json")):
        trial = json.loads(path.read_text(encoding="utf-8"))
        if trial["state"] == "finished" and path.parts[-3] in cells:
            # The loss of training is in units of 10 dB.
            losses = [(10 * report["train_loss"], report["valid_loss"]) for report in trial["reports"]]
            found.setdefault(trial["cell"].partition(",")[0], []).append(losses)
    return {
        name: [
            [round(statistics.mean(values), 3) for values in zip(*reports, strict=True)]
            for reports in zip(*seeds, strict=True)
        ]
        for name, seeds in found.items()
    }


def ranking(figures: Figures) -> str:
    """The README's table."""
    trained = _trained(figures, FIGURE)
    untrained = [row for row in figures["rows"] if row not in trained and row[LABEL] != LEFT_OUT]
    return _columns(figures, SHORT, trained + untrained)


def summary(figures: Figures) -> str:
    """The lab log's table: what each network is above the filter."""
    return _columns(figures, {"": "network", GAIN: f"above the {AGAINST}, dB"}, _trained(figures, GAIN))


def _trained(figures: Figures, by: str) -> list[list[str]]:
    """The networks, the best one by a column first."""
    place = figures["columns"].index(by)
    rows = [row for row in figures["rows"] if row[LABEL] in figures["curves"]]
    return sorted(rows, key=lambda row: -float(row[place].split()[0]))


def _columns(figures: Figures, headings: dict[str, str], rows: list[list[str]]) -> str:
    place = [figures["columns"].index(column) for column in headings]
    return _markdown(list(headings.values()), [[row[number] for number in place] for row in rows])


def table(figures: Figures) -> str:
    """All that was compared."""
    return _markdown(figures["columns"], figures["rows"])


def curves(figures: Figures) -> str:
    """Both losses at each report, in the order of the table."""
    names = [row[LABEL] for row in figures["rows"] if row[LABEL] in figures["curves"]]
    shown = [[name, *(f"{trained:.1f} / {valid:.1f}" for trained, valid in figures["curves"][name])] for name in names]
    return _markdown(["network", "after a third", "two thirds", "at the end"], shown)


def _markdown(columns: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in [columns, *rows]]
    lines.insert(1, "|---" * len(columns) + "|")
    return "\n" + "\n".join(lines) + "\n"


def contents(figures: Figures) -> dict[str, str]:
    """Of each block."""
    return {
        "ranking": ranking(figures),
        "summary": summary(figures),
        "table": table(figures),
        "curves": curves(figures),
    }


if __name__ == "__main__":
    figures, chart = read_store(Path(sys.argv[1]))
    write_figures(FIGURES, figures)
    write_pages("systems", contents(figures))
    shutil.copy(chart, PICTURE)
