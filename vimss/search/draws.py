"""The trials of a cell for Tune's searcher: first those to resume, then new draws that are admitted.

A draw is on disk before it is trained, so that a search that is killed in between has the same draws.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.search import Searcher

from vimss.axes import Scalar
from vimss.config import signature
from vimss.errors import ConfigError
from vimss.experiment import SEED, Cell
from vimss.search.checks import check_settings
from vimss.search.events import TrialEnded, TrialStarted
from vimss.search.running import RunningStudy
from vimss.search.sampler import Draw, Space, draws, free_number
from vimss.search.study import RECORD, TrialRecord, read_record, write_record
from vimss.search.trial import trial_name
from vimss.train.config import Settings


class DeduplicatingSearcher(Searcher):
    """Suggests the settings of trials to resume, then draws: two trials of equal settings would train in one folder."""

    def __init__(
        self,
        space: Space,
        records: Callable[[], Sequence[TrialRecord]],
        admit: Callable[[Draw], bool],
        resumed: Sequence[TrialRecord] = (),
    ) -> None:
        """`records` are those of the cell as they are now; `admit` makes a trial of a draw, or says no."""
        super().__init__(metric=space.figure.name, mode=space.figure.direction)
        self.space = space
        self.records = records
        self.admit = admit
        self.resumed = list(resumed)

    def suggest(self, trial_id: str) -> Any:
        """The next configuration, or Searcher.FINISHED."""
        if self.resumed:
            return dict(self.resumed.pop(0).chosen)
        records = self.records()
        for draw in draws(self.space, free_number(records), records):
            if self.admit(draw):
                return dict(draw.chosen)
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: what the next draw depends on is in the records."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Tune saves its searcher for a restore that we do not use."""


class Admission:
    """Makes trials of the draws for a cell: one that cannot be trained fails here, and a repeated one is rejected."""

    def __init__(self, running: RunningStudy, cell: Cell) -> None:
        self.running = running
        self.cell = cell
        self.known = {record.trial for record in running.records(cell) if record.counts}

    def __getstate__(self) -> dict[str, Any]:
        # See RunningStudy.
        return {}

    def __call__(self, draw: Draw) -> bool:
        """Whether the draw has become a trial."""
        settings, message = self._check(draw.chosen)
        name = trial_name(settings) if settings else signature(self.cell.fixes, draw.chosen)
        if name in self.known:
            return False
        self.known.add(name)
        folder = self.running.trial_folder(self.cell, name)
        before = read_record(folder / RECORD) if (folder / RECORD).exists() else None
        if message and before is not None and before.message == message:
            return False  # refused by an earlier call of the same search
        drawn: dict[str, Any] = {
            "cell": self.cell.name,
            "chosen": draw.chosen,
            "number": draw.number,
            "is_refused": bool(message),
            "draw_seed": draw.seed,
            "drawn_at": next(self.running.positions),
            "state": "failed" if message else "running",
            "message": message,
        }
        if before is not None:
            record = before.model_copy(update=drawn)
        else:
            figure = self.running.experiment.figure
            record = TrialRecord(
                trial=name, settings=settings, figure=figure, begun=time.time(), folder=folder, **drawn
            )
        write_record(record)
        if message:
            self.running.report(TrialStarted(self.cell.name, name, settings, draw.chosen))
            self.running.report(TrialEnded(self.cell.name, name, "failed", folder, message))
        return not message

    def still_allowed(self, record: TrialRecord) -> bool:
        """Whether a trial to resume can be trained on the shards and the place of now; if not, it fails."""
        settings, message = self._check(record.chosen)
        if message:
            position = next(self.running.positions)
            ended = {"state": "failed", "message": message, "ended_at": position, "ended": time.time()}
            write_record(record.model_copy(update=ended))
            self.running.report(TrialStarted(self.cell.name, record.trial, settings, record.chosen))
            self.running.report(TrialEnded(self.cell.name, record.trial, "failed", record.folder, message))
        return not message

    def _check(self, chosen: dict[str, Scalar]) -> tuple[Settings | None, str]:
        """The settings of a draw, and why they cannot be trained."""
        settings = None
        try:
            settings = self.running.experiment.settings({**self.cell.fixes, **chosen})
            check_settings(settings, self.running.manifest, self.running.place)
        except ConfigError as error:
            return settings, str(error)
        return settings, ""


def searcher_of(
    running: RunningStudy, cell: Cell, resumed: Sequence[TrialRecord], earlier: Sequence[TrialRecord]
) -> DeduplicatingSearcher:
    """The trials of a cell: those to resume, then new ones; `earlier` are trials of other studies."""
    experiment = running.experiment
    seed = int(cell.overrides.get(SEED, experiment.seed))
    space = Space(experiment.tune, experiment.figure, experiment.search, seed, tuple(earlier))
    admission = Admission(running, cell)
    allowed = [record for record in resumed if admission.still_allowed(record)]
    return DeduplicatingSearcher(space, lambda: running.records(cell), admission, allowed)
