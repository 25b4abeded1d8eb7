"""The ways of running a cell, each as runs of Tune: fixed settings, trials pruned one by one, and top_k.

What to do is read from the records, so a search that was killed resumes with the same decisions.
"""

import functools
from collections.abc import Sequence
from typing import Any

from ray import tune

from vimss.experiment import Cell
from vimss.search.draws import DeduplicatingSearcher, searcher_of
from vimss.search.launch import launch
from vimss.search.remaining import trained_beside
from vimss.search.running import RunningStudy
from vimss.search.schedulers import SCHEDULERS, never
from vimss.search.study import RECORD, TrialRecord, read_record, resolved_controls, write_record
from vimss.search.top_k import Rung, TopK, choose, continued_beyond, value_at_rung
from vimss.search.trial import CELL, trial_name


class FixedCells:
    """Cells without axes: one whole trial for each, side by side; one for all cells of the same settings."""

    def __init__(self, running: RunningStudy, cells: Sequence[Cell]) -> None:
        self.running = running
        self.cells = cells

    def run(self) -> None:
        """Train what is missing."""
        settings = self.running.experiment.settings
        first = {trial_name(settings(cell.fixes)): cell for cell in reversed(self.cells)}
        cells = [cell for cell in self.cells if cell in first.values()]
        while left := [cell for cell in cells if self._is_left(cell)]:
            launch(self.running, left, {CELL: tune.grid_search([cell.name for cell in left])})
            if not self.running.retry(left):
                break
        for cell in self.cells:
            if cell not in cells:
                self.running.resume(cell)
        for cell in self.cells:
            self.running.end(cell)

    def _is_left(self, cell: Cell) -> bool:
        ended, _ = self.running.resume(cell)
        return not ended and not any(record.folder in self.running.over for record in self.running.records(cell))


class ContinuedTrial:
    """One trial that stopped, whatever the scheduler decided: from its last checkpoint to its whole budget."""

    def __init__(self, running: RunningStudy, cell: Cell, trial: TrialRecord) -> None:
        self.running = running
        self.cell = cell
        self.trial = trial

    def run(self) -> None:
        """Train what it has left; it stays the same trial of its cell."""
        others = [record for record in self.running.records(self.cell) if record.trial != self.trial.trial]
        self.running.replay(
            self.cell, [record for record in others if record.state in {"finished", "pruned", "waiting"}]
        )
        # As it is now: `score_again` may have written other reports.
        record = read_record(self.trial.folder / RECORD)
        write_record(record.model_copy(update={"is_continued": True}))
        while True:
            launch(self.running, [self.cell], self.trial.chosen)
            if not self.running.retry([self.cell], self.trial.trial):
                break
        self.running.end(self.cell)


class PrunedCell:
    """A cell whose trials are pruned one by one, as they report: asha and median; or not at all."""

    def __init__(self, running: RunningStudy, cell: Cell, earlier: Sequence[TrialRecord] = ()) -> None:
        """`earlier` are trials of other studies, known to the sampler."""
        self.running = running
        self.cell = cell
        self.earlier = earlier

    def run(self) -> None:
        """The experiment's number of trials, less those that ended before."""
        searcher, most = self.searcher()
        while most:
            launch(self.running, [self.cell], prune=self.rung_of, search_alg=searcher, num_samples=most)
            if not self.running.retry([self.cell]):
                break
            searcher, most = self.searcher()
        self.running.end(self.cell)

    def searcher(self) -> tuple[DeduplicatingSearcher, int]:
        """Tune's searcher, and how many trials it shall suggest."""
        ended, resumed = self.running.resume(self.cell)
        trials = self.running.experiment.search.trials
        searcher = searcher_of(self.running, self.cell, self.running.startable(resumed), self.earlier)
        new = max(0, trials - len(ended) - len(resumed))
        return searcher, max(0, min(len(searcher.resumed) + new, trials - len(ended)))

    def rung_of(self, record: TrialRecord) -> float | None:
        """The audio seconds at which a trial is pruned by its last report, given what was known when it first came."""
        config, position = self.running.experiment.search, record.position_of(record.reports[-1])
        rule = SCHEDULERS[config.scheduler]
        if rule is never or record.is_continued:
            return None  # without reading the records of all others at each report
        others = [
            other.as_of(position)
            for other in self.running.records(self.cell)
            if other.trial != record.trial and other.counts and other.drawn_at < position
        ]
        return rule(record, others, config)


class TopKCell:
    """A cell whose trials wait for each other at the rung: see `vimss.search.top_k`."""

    def __init__(self, running: RunningStudy, cell: Cell, earlier: Sequence[TrialRecord] = ()) -> None:
        """`earlier` are trials of other studies, known to the sampler."""
        self.running = running
        self.cell = cell
        self.earlier = earlier
        self.controls = running.trainable([other for other in running.experiment.cells() if other.is_control])
        self.beside: set[str] = set()
        """Trials of controls that train, or have trained, beside a trial that continues."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher, which calls back, for a restore that we do not use.
        return {}

    def run(self) -> None:
        """Train what is missing to the rung, and the best from there on."""
        searcher, most = self.searcher()
        while searcher is not None:
            launch(self.running, [self.cell, *self.controls], search_alg=searcher, num_samples=most)
            if not self.running.retry([self.cell]):
                break
            searcher, most = self.searcher()
        self.running.end(self.cell)

    def searcher(self) -> tuple[TopK | None, int]:
        """Tune's searcher, and the most trials that it may suggest; None where nothing is left to train."""
        self.running.resume(self.cell)
        config = self.running.experiment.search
        records = [record for record in self.running.records(self.cell) if record.counts]
        to_rung = [record for record in records if value_at_rung(record, config.grace_seconds) is None]
        at_rung = [record for record in records if record not in to_rung and record.state != "failed"]
        startable = self.running.startable(to_rung)
        draws = searcher_of(self.running, self.cell, startable, self.earlier)
        left = len(draws.resumed) + max(0, config.trials - len(records))
        # For those that were lost too often the others wait at the rung, until the same command resumes them.
        missing = sum(record.state == "interrupted" for record in to_rung if record not in startable)
        continuing, pruned = choose(at_rung, config.grace_seconds, config.keep, left + missing)
        prune = functools.partial(self.running.prune, rung=config.grace_seconds)
        for record in pruned:
            prune(record)
        given_up = {record.trial for record in records if record.folder in self.running.over}
        beyond = [*continuing, *continued_beyond(at_rung, config.grace_seconds)]
        if not left and all(record.state == "finished" or record.trial in given_up for record in beyond):
            return None, 0
        rung = Rung(
            seconds=config.grace_seconds,
            keep=config.keep,
            figure=self.running.experiment.figure,
            records=functools.partial(self.running.records, self.cell),
            prune=prune,
            beside=self.controls_beside,
        )
        # At most: each to the rung and from there, with all controls beside it.
        most = 2 * left + len(at_rung) + (left + len(at_rung)) * len(self.controls)
        return TopK(draws, rung, left, given_up), most

    def controls_beside(self, best: TrialRecord) -> list[dict[str, Any]]:
        """The configurations of the controls that train beside the one trial that continues; none where several do.

        Otherwise cores would be idle: what they inherit is known only when the last trial has ended.
        """
        experiment = self.running.experiment
        if not trained_beside(experiment):
            return []
        found: list[dict[str, Any]] = []
        for cell in self.running.trainable(resolved_controls(experiment, best)):
            name = trial_name(experiment.settings(cell.fixes))
            # It may run already, beside a trial that was the best before it failed.
            if name not in {best.trial, *self.beside} and not self.running.resume(cell)[0]:
                inherited = {key: value for key, value in cell.inherited.items() if key not in cell.overrides}
                found.append({CELL: cell.name, **inherited})
            self.beside.add(name)
        return found
