"""What one Tune trial does in its own process: start the trainer of its settings, and pass on what it reports.

Apart from `search`, because this module is imported by every trial's process: the less it needs, the sooner it trains.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.integration.ray_train import TuneReportCallback

from vimss.config import signature
from vimss.experiment import Cell, Experiment, Scalar
from vimss.runtime import Place
from vimss.train.config import Settings
from vimss.train.distribute import Job, fit

CELL = "cell"
"""Key of Tune's configuration that names the cell, where one run of Tune holds several."""

RUN = "train"
"""Name of a trial's training, and of the folder of its checkpoints in the trial's folder."""


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
        chosen = {key: value for key, value in config.items() if key != CELL}
        cell = self.cells[config[CELL]] if CELL in config else next(iter(self.cells.values()))
        return cell, self.experiment.settings({**cell.overrides, **chosen}), chosen

    def trial_folder(self, cell: Cell, settings: Settings) -> Path:
        """Where the trial keeps its checkpoints, record and weights."""
        return self.folder / cell.name / trial_name(settings)


def trial_name(settings: Settings) -> str:
    """Name of a trial and its folder: equal settings, equal trial."""
    return signature(settings)


def run_trial(config: dict[str, Any], plan: TrialPlan) -> None:
    """The function that Tune runs."""
    cell, settings, _ = plan.resolve(config)
    job = Job(
        name=RUN,
        storage=plan.trial_folder(cell, settings),
        settings=settings,
        validation=plan.experiment.validation,
        shards=plan.shards,
        more_shards=plan.more_shards,
        place=plan.place,
    )
    fit(job, [TuneReportCallback()])
