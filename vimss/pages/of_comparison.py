"""The files of a comparison: its table for people and for scripts, a chart, and plots of how tuned axes interact.

    compared = compare_study(experiment, manifest, study, "test", against="op=concat")
    compared.folder / "table.csv"

They lie in the study's folder, in one of their split or of the validation set, under names that stay the same: a later
comparison on it replaces them.
"""

import csv
import io
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vimss.axes import Axis
from vimss.comparison import Comparison, compare, csv_text, gathered, markdown
from vimss.experiment import Experiment
from vimss.pages.charts import Bar, Levels, interactions_png, intervals_png
from vimss.search.importance import Importance, comparable_value, importances, value_basis
from vimss.search.study import COMPARE_FOLDER, Study, TrialRecord
from vimss.shards.manifest import Manifest
from vimss.storage import atomic_write, explain_os_errors
from vimss.yaml_files import MAX_NAME

VALIDATION = "validation"
"""Folder of a comparison by the validation set, where the split was not evaluated."""

THIRDS = ("low", "middle", "high")

MOST_AXES = 4
"""In a plot of interactions, which has a panel for each pair of them: the most important ones."""


@dataclass(frozen=True)
class ComparedStudy:
    """What `compare_study` found, and wrote."""

    comparison: Comparison
    importances: list[Importance]
    refused: list[str]
    """Why the axes of a row are not rated."""
    folder: Path
    files: tuple[str, ...]
    """Names of the files in it."""


def compare_study(
    experiment: Experiment, manifest: Manifest, study: Study, split: str, against: str = ""
) -> ComparedStudy:
    """Compare the cells of a study, rate its axes, and write the files; arguments and errors as of `compare`."""
    comparison = compare(experiment, manifest, study, split, against)
    searches = {
        group.name: [study.of_cell(cell.name) for cell in group.cells]
        for group in gathered(experiment)
        if not group.cells[0].is_control
    }
    found, refused = importances(experiment, searches)
    trials = {name: [trial for of in searches[name] for trial in of] for name in searches}
    files = comparison_files(comparison, found) | interaction_files(experiment, trials, found)
    folder = study.folder / COMPARE_FOLDER / (comparison.split or VALIDATION)
    write_files(folder, files)
    return ComparedStudy(comparison, found, refused, folder, tuple(files))


def comparison_files(comparison: Comparison, rated: Sequence[Importance]) -> dict[str, bytes]:
    """table.csv, table.md, chart.png and, where axes were rated, importance.csv."""
    rows = [
        Bar(row.name, row.value, row.interval, row.over_seeds if len(row.over_seeds) > 1 else ())
        for row in comparison.rows
    ]
    where = f"split {comparison.split}" if comparison.split else "validation set"
    better = "lower" if comparison.figure.direction == "min" else "higher"
    marks = []
    if any(row.interval for row in rows):
        marks.append("bars: 95 % intervals over pieces")
    if any(row.single for row in rows):
        marks.append("ticks: seeds")
    label = f"{comparison.figure.heading}, {where}; {better} is better\n{'; '.join(marks)}"
    files = {
        "table.csv": csv_text(comparison).encode(),
        "table.md": markdown(comparison).encode(),
        "chart.png": intervals_png(rows, label, _in_lines(comparison.question)),
    }
    if rated:
        files["importance.csv"] = importance_csv(rated).encode()
    return files


def importance_csv(rated: Sequence[Importance]) -> str:
    """One line per row, evaluator, axis and rating."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("cell", "evaluator", "trials", "basis", "axis", "rating", "share"))
    for one in rated:
        for axis, shares in one.shares.items():
            writer.writerows(
                (one.row, one.evaluator, one.trials, one.basis, axis, number, share)
                for number, share in enumerate(shares)
            )
    return buffer.getvalue()


def interaction_files(
    experiment: Experiment, trials: Mapping[str, Sequence[TrialRecord]], rated: Sequence[Importance]
) -> dict[str, bytes]:
    """A plot for each row whose axes were rated: the values of its trials over each pair of the important axes."""
    files = {}
    for row in dict.fromkeys(one.row for one in rated):
        axes = _most_important(experiment, [one for one in rated if one.row == row])
        # A trial without a conditional axis lies nowhere on it.
        known = [
            (record, value)
            for record in trials[row]
            if set(axes) <= set(record.chosen) and (value := comparable_value(experiment, record)) is not None
        ]
        if len(axes) < 2 or len(known) < 2:
            continue
        levels = {key: levels_of(key, experiment.tune[key], [record for record, _ in known]) for key in axes}
        pairs = [(levels[one], levels[other]) for one, other in itertools.combinations(axes, 2)]
        title = f"{row}: {value_basis(experiment)}"
        png = interactions_png(pairs, np.array([value for _, value in known]), experiment.figure.heading, title)
        files[f"interactions-{_file_name(row)}.png"] = png
    return files


def _most_important(experiment: Experiment, rated: Sequence[Importance]) -> list[str]:
    """The axes with the largest mean share over all ratings."""
    means = {
        key: np.mean([np.mean(one.shares[key]) for one in rated])
        for key in experiment.tune
        if all(key in one.shares for one in rated)
    }
    return sorted(means, key=lambda key: -means[key])[:MOST_AXES]


def levels_of(key: str, axis: Axis, records: Sequence[TrialRecord]) -> Levels:
    """Each choice of an axis as a level; of a range its lower, middle and upper third of trials."""
    name, chosen = key.rpartition(".")[2], [record.chosen[key] for record in records]
    if axis.choices:
        places = np.array([axis.choices.index(value) for value in chosen])
        return Levels(name, places.astype(np.float64), places, tuple(map(str, axis.choices)), is_choice=True)
    values = np.array(chosen, np.float64)
    edges = np.quantile(values, (1 / 3, 2 / 3))
    bounds = [values.min(), *edges, values.max()]
    levels = tuple(
        f"{third}: {low:.2g} to {high:.2g}" for third, low, high in zip(THIRDS, bounds, bounds[1:], strict=False)
    )
    return Levels(name, values, np.searchsorted(edges, values), levels, is_log=axis.log)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put the files of a comparison into their folder, each whole; those of an earlier one that has more go."""
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder / "importance.csv", *folder.glob("interactions-*.png")):
            if path.name not in files:
                path.unlink(missing_ok=True)
    for name, content in files.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(content)


def _file_name(row: str) -> str:
    """A row as part of a file's name: those of controls with several seeds have a slash."""
    return row.replace("/", "_").encode()[:MAX_NAME].decode(errors="ignore")


def _in_lines(text: str) -> str:
    return "\n".join(textwrap.wrap(" ".join(text.split()), width=90))
