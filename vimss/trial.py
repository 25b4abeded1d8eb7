"""What one Tune trial does in its own process: train with its settings, and report to Tune.

Apart from `search`, because this module is imported by every trial's process: the less it needs, the sooner it trains.
"""

import math
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from vimss.config import signature
from vimss.experiment import Cell, Experiment, Scalar
from vimss.runtime import TRIAL_SLOT, Place
from vimss.train.config import Settings
from vimss.train.distribute import Job, fit, worker_resources

CELL = "cell"
"""Key of Tune's configuration that names the cell, where one run of Tune holds several."""

RUNG = "rung"
"""Key of Tune's configuration: audio seconds after which the trial waits for others."""

CLOSE_SECONDS = 50.0
"""How long a stopped training may take to close before its process is given up."""

RESET_SECONDS = 60
"""After so long, Tune gives up a process that shall train the next trial (its default is 2 seconds), and forgets that
trial without telling its searcher. So the process ends earlier by itself, which Tune handles as an error."""


@dataclass(frozen=True)
class TrialPlan:
    """How a configuration of Tune becomes a training; plain values that travel to the trial's process."""

    experiment: Experiment
    cells: dict[str, Cell]
    shards: Path
    more_shards: tuple[tuple[Path, float], ...]
    """Of other corpora, with the share of the mixtures that each gives."""
    place: Place
    folder: Path
    """Of the study."""

    def resolve(self, config: dict[str, Any]) -> tuple[Cell, Settings, dict[str, Scalar]]:
        """Cell, settings, and what was chosen for it."""
        chosen = {key: value for key, value in config.items() if key not in {CELL, RUNG}}
        cell = self.cells[config[CELL]] if CELL in config else next(iter(self.cells.values()))
        return cell, self.experiment.settings({**cell.overrides, **chosen}), chosen

    def trial_folder(self, cell: Cell, settings: Settings) -> Path:
        """Where the trial keeps its checkpoints, record and weights."""
        return self.folder / cell.name / trial_name(settings)


def trial_name(settings: Settings) -> str:
    """Name of a trial and its folder: equal settings, equal trial."""
    return signature(settings)


def trial_resources(place: Place) -> dict[str, float]:
    """What a trial's own process takes: all that training takes, where there is one worker.

    With several, their processes take it, on any nodes; the trial's own is with the search, where its slot is.
    """
    return worker_resources(place) if place.workers_per_trial == 1 else {TRIAL_SLOT: 1.0}


def run_trial(config: dict[str, Any], plan: TrialPlan) -> None:
    """The function that Tune runs. It returns only when Tune has taken every report."""
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", str(RESET_SECONDS))
    cell, settings, _ = plan.resolve(config)
    job = Job(
        storage=plan.trial_folder(cell, settings),
        settings=settings,
        validation=plan.experiment.validation,
        shards=plan.shards,
        more_shards=plan.more_shards,
        place=plan.place,
        pause_seconds=config.get(RUNG, math.inf),
    )
    end_of_process = threading.Timer(CLOSE_SECONDS, os._exit, [1])
    end_of_process.daemon = True

    def report(metrics: dict[str, float]) -> None:
        try:
            tune.report(metrics)
        except SystemExit:  # Tune has stopped the trial
            end_of_process.start()
            raise

    try:
        fit(job, report)
    finally:
        end_of_process.cancel()
