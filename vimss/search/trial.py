"""One Tune trial in its own process: train with its settings, and report to Tune.

Apart from `search`, because this module is imported by every trial's process: the less it needs, the sooner it trains.
"""

import math
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune

from vimss.axes import Scalar
from vimss.config import signature
from vimss.errors import TrainingError
from vimss.experiment import Cell, Experiment
from vimss.runtime import TRIAL_SLOT, Place
from vimss.search.remote import recorded_reports
from vimss.search.study import cell_folder
from vimss.shards.manifest import Origin
from vimss.train.config import Settings
from vimss.train.distribute import Job, fit
from vimss.train.figure import Figure

CELL = "cell"
"""Key of Tune's configuration that names the cell, where one run of Tune holds several."""

REPORTED = "reported"
"""Key of Tune's results that holds the figures of a report, apart from those that Tune adds itself."""

NEEDED = ("audio_seconds", "steps")
"""Keys that a search needs in every report beside its figure: to prune, and to find the checkpoint."""

_FIGURE_NAME = re.compile(r"[\w\-./: ]{1,200}")
"""Names of metrics that MLflow accepts, of letters of any script."""


RUNG = "rung"
"""Key of Tune's configuration: audio seconds after which the trial waits for others."""

CLOSE_SECONDS = 50.0
"""How long a stopped training may take to close before its process is given up."""

RESET_SECONDS = 60
"""After so long, Tune gives up a process that shall train the next trial (its default is 2 seconds), and forgets that
trial without notifying its searcher. So the process ends earlier by itself, which Tune handles as an error."""


@dataclass(frozen=True)
class TrialPlan:
    """How a configuration of Tune becomes a training; plain values that travel to the trial's process."""

    experiment: Experiment
    cells: dict[str, Cell]
    shards: Path
    more_shards: tuple[tuple[Path, float], ...]
    """Shards of other corpora, with the share of the mixtures that each gives."""
    place: Place
    folder: Path
    """The study's folder."""
    begun: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    """Cell and trial to the folder of a trial that began before, under an earlier cell as it may be."""
    origins: Mapping[Path, Origin] = field(default_factory=dict)
    """Of `vimss.shards.manifest.origins_of`, for nodes that share no folder with the driver."""

    def resolve(self, config: dict[str, Any]) -> tuple[Cell, Settings, dict[str, Scalar]]:
        """Cell, settings, and what was chosen for it: of a control nothing, whose configuration it inherits."""
        chosen = {key: value for key, value in config.items() if key not in {CELL, RUNG}}
        cell = self.cells[config[CELL]] if CELL in config else next(iter(self.cells.values()))
        settings = self.experiment.settings({**cell.fixes, **chosen})
        return cell, settings, {} if cell.is_control else chosen

    def trial_folder(self, cell: Cell, settings: Settings) -> Path:
        """Where the trial keeps its checkpoints, record and weights."""
        name = trial_name(settings)
        return self.begun.get((cell.name, name), self.folder / cell_folder(self.experiment, cell) / name)


def trial_name(settings: Settings) -> str:
    """Name of a trial and its folder: equal settings, equal trial."""
    return signature(settings)


def trial_resources(place: Place) -> dict[str, float]:
    """The resources of a trial's own process: all that training needs, where there is one worker.

    With several, their processes take it, on any nodes; the trial's own is with the search, where its slot is.
    """
    return place.worker_resources if place.workers_per_trial == 1 else {TRIAL_SLOT: 1.0}


def for_tune(metrics: Mapping[str, Any], figure: Figure) -> dict[str, Any]:
    """A report of training as a result for Tune: what Tune needs by its name, and all figures together.

    TrainingError, which ends the trial, where a figure that the search needs is missing or not finite, or where one has
    a name or a value that could not be kept. Others that are not finite are kept as they are.
    """
    for name, value in metrics.items():
        if not _FIGURE_NAME.fullmatch(name):
            raise TrainingError(
                "a figure of a report must have a name of at most 200 letters, digits, spaces and signs of _-./:",
                got=repr(name),
                fix="rename it where it is reported, in vimss/train/loop.py",
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TrainingError(
                "every figure of a report must be a number",
                got=f"{name}: {value!r}",
                fix="report float(...) of it, in vimss/train/loop.py",
            )
    needed = (figure.name, *NEEDED)
    for name in needed:
        if not math.isfinite(metrics.get(name, math.nan)):
            raise TrainingError(
                f"every report must hold a finite {name}",
                got=f"{name}: {metrics[name]}" if name in metrics else f"no {name} among {', '.join(sorted(metrics))}",
                fix="the last checkpoint is kept: correct what reports, in vimss/train/loop.py, or lower the "
                "learning rate where the figure is not finite",
            )
    figures = {name: float(value) for name, value in metrics.items()}
    return {**{name: figures[name] for name in needed}, REPORTED: figures}


def run_trial(config: dict[str, Any], plan: TrialPlan) -> None:
    """The function that Tune runs. It returns only when Tune has taken every report."""
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", str(RESET_SECONDS))
    cell, settings, _ = plan.resolve(config)
    folder = plan.trial_folder(cell, settings)
    job = Job(
        storage=folder,
        settings=settings,
        validation=plan.experiment.validation,
        shards=plan.shards,
        more_shards=plan.more_shards,
        place=plan.place,
        origins=plan.origins,
        pause_seconds=config.get(RUNG, math.inf),
        reported_steps=max((report["steps"] for report in recorded_reports(folder)), default=0.0),
    )
    end_of_process = threading.Timer(CLOSE_SECONDS, os._exit, [1])
    end_of_process.daemon = True

    def report(metrics: dict[str, float]) -> None:
        try:
            tune.report(for_tune(metrics, plan.experiment.figure))
        except SystemExit:  # Tune has stopped the trial
            end_of_process.start()
            raise

    try:
        fit(job, report)
    finally:
        end_of_process.cancel()
