"""The estimate of a search, as a table for the terminal and as JSON for scripts.

print_estimate(experiment, estimate_search(...))
"""

from dataclasses import asdict
from typing import Any

from vimss.console import duration, out, print_table
from vimss.experiment import Experiment
from vimss.search.estimate import Estimate


def print_estimate(experiment: Experiment, estimate: Estimate) -> None:
    """Print the estimate of each cell, and a sentence for each one that this machine cannot train."""
    columns = ("", "trials", "begun", "audio seconds", "step, s", "core hours", "GB")
    rows = [
        (
            cell.cell,
            str(cell.trials),
            str(cell.begun),
            f"{cell.audio_seconds:.0f}",
            _known(cell.step_seconds, ".2g"),
            _known(cell.core_hours, ".2f"),
            _known(cell.gigabytes, ".3f"),
        )
        for cell in estimate.cells
    ]
    at_most = "at most " if experiment.tune and experiment.search.scheduler in {"asha", "median"} else ""
    time = (
        "not estimated: its steps run on GPUs, on other machines or for another objective than separation"
        if estimate.hours is None
        else f"{at_most}about {duration(3600 * estimate.hours)}, by steps measured on this machine"
    )
    gigabytes = "" if estimate.gigabytes is None else f", {estimate.gigabytes:.2g} GB of weights and checkpoints"
    trained = sum(not cell.refused for cell in estimate.cells)
    print_table(experiment.question, columns, rows)
    out.print(
        f"{estimate.trials} trial{'s' * (estimate.trials > 1)} in {trained} cell{'s' * (trained > 1)}, "
        f"{estimate.at_once} at once; {at_most}{estimate.audio_seconds:.0f} audio seconds left{gigabytes}"
    )
    out.print(f"time: {time}")
    for cell in estimate.cells:
        if cell.refused:
            out.print(f"cell {cell.cell} cannot be trained here: {cell.refused}")


def estimate_summary(estimate: Estimate) -> dict[str, Any]:
    """The same for a script; null stands for what was not measured."""
    totals = ("trials", "at_once", "audio_seconds", "hours", "gigabytes")
    return {**{name: getattr(estimate, name) for name in totals}, "cells": [asdict(cell) for cell in estimate.cells]}


def _known(value: float | None, digits: str) -> str:
    return "-" if value is None else format(value, digits)
