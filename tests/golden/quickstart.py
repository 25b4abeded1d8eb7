"""Figures of the quickstart in the README and the lab log, and the command that pastes them from a store where it ran:

    platform/local/run python tests/golden/quickstart.py STORE

It reads STORE/quickstart-seed0.json and those of all other seeds, keeps the figures in quickstart.json beside this file
and replaces the blocks of the group `quickstart` of all pages.
"""

import functools
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pages import write_figures, write_pages

from vimss.console import decibel
from vimss.quickstart import BEST, REACHED

FIGURES = Path(__file__).with_suffix(".json")
COLUMNS = {
    "si_sdr_improvement": "SI-SDRi, two sources",
    "label_contrast": "contrast",
    "absent_level": "absent",
    "pieces_si_sdr_improvement": "SI-SDRi, whole pieces",
    "pieces_sdr": "SDR",
    "pieces_sir": "SIR",
    "pieces_sar": "SAR",
}
UNSEEN = ("best", "unseen_timbres", "si_sdr_improvement")
"""Where the improvement on timbres that training never saw stands; the next one is that on those of the corpus."""
SEEN = ("best", "metrics", "si_sdr_improvement")

Figures = list[dict[str, Any]]
"""One entry per seed, in their order."""


def read_store(store: Path) -> Figures:
    """What the README shows of the runs in a store, of each seed the last one."""
    paths = sorted(store.glob("quickstart-seed*.json"), key=lambda path: int(path.stem.removeprefix("quickstart-seed")))
    if not paths:
        sys.exit(f"{store} must hold quickstart-seed0.json; got no such file. To fix: run `vimss quickstart --seed 0`")
    summaries = {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    for path, summary in summaries.items():
        for key in ("baselines", "systems"):
            if key not in summary:
                sys.exit(
                    "every file must be of this version's quickstart; "
                    f"got {path} without `{key}`. To fix: run the quickstart again"
                )
    figures = [_shown(summary) for summary in summaries.values()]
    if not any(_is_whole(run) for run in figures):
        sys.exit(
            "the seconds of a run must be of one that did all stages itself; got runs that found shards or trials. "
            "To fix: run the quickstart in an empty store"
        )
    return figures


def _shown(summary: dict[str, Any]) -> dict[str, Any]:
    """The part of quickstart.json that the README shows; nothing of the machine's paths."""
    rows = {BEST: summary["best"]["metrics"], **summary["controls"], **summary["systems"], **summary["baselines"]}
    return {
        "seed": summary["seed"],
        "stages": summary["stages"],
        "page": summary["page"][summary["page"].index("stems/") :],
        "sentence": summary["champion"]["sentence"],
        "reached": {name.strip(): _rounded(_at(summary, path)) for name, path, _ in REACHED},
        "seen": _rounded(_at(summary, SEEN)),
        "unseen": _rounded(_at(summary, UNSEEN)),
        "systems": {name: {key: _rounded(row[key]) for key in COLUMNS} for name, row in rows.items()},
    }


def _at(summary: dict[str, Any], path: tuple[str, ...]) -> float | None:
    # The types of nested JSON cannot be followed.
    return functools.reduce(lambda group, key: group[key], path, summary)  # type: ignore[return-value]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _is_whole(run: dict[str, Any]) -> bool:
    """Whether a run wrote the shards and trained, rather than find them."""
    return min(run["stages"]["corpus and shards"], run["stages"]["search"]) >= 1


def the_run(figures: Figures) -> str:
    """What the command prints, abridged: that of the first seed that did all stages itself."""
    run = next(run for run in figures if _is_whole(run))
    stages = [f"{name}: {seconds:.0f} s" for name, seconds in run["stages"].items() if name != "imports"]
    lines = [
        *stages,
        "[... each with its progress; then the tables below, and the best trial by instrument ...]",
        run["sentence"],
        "stems and page:",
        f"  [...]/store/{run['page']}",
        "figures:",
        "  [...]/store/quickstart.json",
        "runs and models:",
        "  platform/local/run vimss ui",
        "a cluster on this machine:",
        "  platform/local/run platform/cluster/head",
        "[... and the line that sends the same search as a job]",
    ]
    return "\n```text\n" + "\n".join(lines) + "\n```\n"


def the_seeds(figures: Figures) -> str:
    """What the best trial reached, over seeds."""
    rows = []
    for name, path, aim in REACHED:
        is_time = path == ("seconds",)
        # An aim that is new is in later runs alone.
        runs = [run for run in figures if (_is_whole(run) or not is_time) and name.strip() in run["reached"]]
        if not runs:
            continue
        found = [value for run in runs if (value := run["reached"][name.strip()]) is not None]
        show: Callable[[float], str] = (lambda value: f"{value:.0f}") if is_time else decibel
        median, low, high = map(show, (statistics.median(found), min(found), max(found))) if found else "---"
        rows.append(f"| {name.strip()} | {median} | {f'{low} to {high}' if len(found) > 1 else '-'} | {aim} |")
    whole = [run["stages"] for run in figures if _is_whole(run)]
    stages = ", ".join(f"{name} {statistics.median(run[name] for run in whole):.0f}" for name in whole[0])
    seeds = [run["seed"] for run in figures if _is_whole(run)]
    of = f"of seed {seeds[0]}" if len(seeds) == 1 else f"medians of the seeds {_list(seeds)}"
    header = (
        f"| best trial, seeds {_list([run['seed'] for run in figures])} | median | range | aim |\n|---|---|---|---|"
    )
    return "\n".join(["", header, *rows, "", f"Seconds, {of}: {stages}.", ""])


def the_systems(figures: Figures) -> str:
    """Every row of the evaluation, medians over seeds."""
    lines = [f"| split test | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    # A row that is new is in later runs alone; one that is gone, in earlier ones.
    for name in dict.fromkeys(name for run in figures for name in run["systems"]):
        found = [[run["systems"][name][key] for run in figures if name in run["systems"]] for key in COLUMNS]
        lines.append(f"| {name} | {' | '.join(map(_median, found))} |")
    return "\n" + "\n".join(lines) + "\n"


def the_unseen(figures: Figures) -> str:
    """What is lost on timbres that training never saw."""
    unseen, seen = (_median([run[key] for run in figures]) for key in ("unseen", "seen"))
    return f"{unseen} dB instead of {seen}"


def the_gain(figures: Figures) -> str:
    """The gain from labels on two-source mixtures."""
    (name,) = (name.strip() for name, path, _ in REACHED if path == ("labels_gain",))
    gains = [gain for run in figures if (gain := run["reached"][name]) is not None]
    seeds = _list([run["seed"] for run in figures])
    return f"{_median(gains)} dB (median of the seeds {seeds}, {decibel(min(gains))} to {decibel(max(gains))})"


def the_pieces(figures: Figures) -> str:
    """The best trial and the control without labels on whole pieces."""
    rows = (BEST, "no labels")
    best, blind = (_median([run["systems"][row]["pieces_si_sdr_improvement"] for run in figures]) for row in rows)
    return f"{best} dB against its {blind}"


def _median(values: Sequence[float | None]) -> str:
    defined = [value for value in values if value is not None]
    return decibel(statistics.median(defined)) if defined else "-"


def _list(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def contents(figures: Figures) -> dict[str, str]:
    """Of each block."""
    return {
        "run": the_run(figures),
        "seeds": the_seeds(figures),
        "systems": the_systems(figures),
        "unseen": the_unseen(figures),
        "gain": the_gain(figures),
        "pieces": the_pieces(figures),
    }


if __name__ == "__main__":
    figures = read_store(Path(sys.argv[1]))
    write_figures(FIGURES, figures)
    write_pages("quickstart", contents(figures))
