"""A study while it is searched: its records as they are on disk now, and the events for the reporters."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vimss.config import SIGNATURE_LENGTH
from vimss.errors import TrainingError
from vimss.experiment import Cell, Experiment
from vimss.runtime import Place, provenance, uncommitted_changes
from vimss.search.events import (
    CellEnded,
    CellsLeftOut,
    CellStarted,
    Event,
    Reporter,
    TrialEnded,
    TrialReplayed,
)
from vimss.search.left_out import left_out
from vimss.search.study import CODE, Study, TrialRecord, cell_folder, in_cells, read_study, record_paths, write_record
from vimss.shards.manifest import Manifest
from vimss.storage import atomic_write
from vimss.train.validation import validation_spec


class RunningStudy:
    """The study of one call of `search`."""

    def __init__(
        self, experiment: Experiment, manifest: Manifest, place: Place, folder: Path, reporters: Sequence[Reporter] = ()
    ) -> None:
        self.experiment = experiment
        self.manifest = manifest
        self.place = place
        self.folder = folder
        self.reporters = tuple(reporters)
        self.validation = validation_spec(manifest, experiment.validation, experiment.objective).signature(manifest)
        before = read_study(folder)
        self.positions = before.events()
        """The positions of the next events in the study."""
        self.replayed: set[str] = set()
        """Cells whose start and earlier trials have been replayed to the reporters."""
        self.over: set[Path] = set()
        """Folders of the trials that this call does not start again: they failed, or were lost too often."""
        self.left_out: set[str] = set()
        """Cells that were reported as left out on this machine."""
        self.provenance = {**provenance(), "workers_per_trial": str(place.workers_per_trial)}
        """Of the code and the machine that train from now on."""
        changes = uncommitted_changes().encode()
        if changes:
            self.provenance["changes"] = hashlib.sha256(changes).hexdigest()[:SIGNATURE_LENGTH]
            with atomic_write(folder / CODE / f"{self.provenance['changes']}.diff") as temporary:
                temporary.write_bytes(changes)
        self._study: Study | None = None
        """The study as `study` last read it."""
        self._stamps: dict[Path, tuple[int, int, int]] = {}
        """Inode, time and size of each record that it was read from."""
        for record in before.records:
            # Running the command again is a deliberate retry, so the counter restarts at 0.
            if record.retries:
                write_record(record.model_copy(update={"retries": 0}))

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher, which calls back to admit a draw, for a restore that we do not use.
        return {}

    def study(self) -> Study:
        """The trials of the experiment's cells, as they are on disk now; read again only after a record was written."""
        stats = {path: path.stat() for path in record_paths(self.folder)}
        # A record is replaced as a file when it is written.
        stamps = {path: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}
        if self._study is None or stamps != self._stamps:
            self._study, self._stamps = in_cells(self.experiment, read_study(self.folder)), stamps
        return self._study

    def records(self, cell: Cell) -> tuple[TrialRecord, ...]:
        """The trials of a cell, as they are on disk now."""
        return self.study().of_cell(cell.name)

    def trainable(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those that this machine can train, or that are trained already; others are reported once as left out."""
        found = left_out(self.experiment, self.study(), self.place)
        new = {name: reason for name, reason in found.items() if name not in self.left_out}
        if new:
            self.left_out |= set(new)
            self.report(CellsLeftOut(new))
        return [cell for cell in cells if cell.name not in found]

    def trial_folder(self, cell: Cell, name: str) -> Path:
        """The folder in which the trial started, possibly under an earlier cell, or a new one."""
        began = (record.folder for record in self.records(cell) if record.trial == name)
        return next(began, self.folder / cell_folder(self.experiment, cell) / name)

    def resume(self, cell: Cell) -> tuple[list[TrialRecord], list[TrialRecord]]:
        """The trials of a cell that ended, and those to resume; ended and waiting ones are replayed to the reporters.

        What a search drew and failed in training is tried again, from its last checkpoint: its cause may be mended.
        """
        for record in self.records(cell):
            if record.state == "running":
                # Left by a driver that died.
                write_record(record.model_copy(update={"state": "interrupted"}))
        records = self.records(cell)
        # Where nothing is tuned, a trial that was pruned in a search continues to the whole budget.
        states = {"finished", "pruned"} if self.experiment.tune and not cell.is_control else {"finished"}
        if cell.name not in self.replayed:
            self.replay(cell, [record for record in records if record.state in {*states, "waiting"}])
        ended = [record for record in records if record.state in states]
        return ended, [record for record in records if record.counts and record.state not in states]

    def startable(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Those that this call may start again."""
        return [record for record in records if record.folder not in self.over]

    def retry(self, cells: Sequence[Cell], trial: str = "") -> bool:
        """Whether trials of the cells were lost, and are started again now, each at most max_retries times in a call.

        Call it when Tune has ended. To start them again is to resume the cell, as the same command would, so that the
        records say what comes next; what failed in training is left to that command. With `trial`, only the trial of
        that name counts.
        """
        again = False
        for record in (record for cell in cells for record in self.records(cell)):
            if trial and record.trial != trial:
                continue
            lost = record.state in {"running", "interrupted"} and record.folder not in self.over
            if lost and record.retries < self.place.max_retries:
                write_record(record.model_copy(update={"state": "interrupted", "retries": record.retries + 1}))
                again = True
            elif lost or record.state == "failed":
                self.over.add(record.folder)
        return again

    def prune(self, record: TrialRecord, rung: float) -> None:
        """End a trial that waited at the rung."""
        ended = {"state": "pruned", "message": "", "rung": rung, "ended_at": next(self.positions), "ended": time.time()}
        write_record(record.model_copy(update=ended))
        self.report(TrialEnded(record.cell, record.trial, "pruned", record.folder))

    def end(self, cell: Cell) -> None:
        """Report that a cell is over."""
        try:
            best = self.study().best([cell.name])
        except TrainingError:
            self.report(CellEnded(cell.name, ""))
        else:
            self.report(CellEnded(cell.name, best.trial, best.best_report))

    def report(self, event: Event) -> None:
        """Pass an event to the reporters."""
        for reporter in self.reporters:
            reporter(event)

    def replay(self, cell: Cell, records: Sequence[TrialRecord]) -> None:
        """Report that a cell starts, and its trials that ended or wait."""
        self.replayed.add(cell.name)
        self.report(CellStarted(cell.name, cell.fixes, cell.is_control))
        for record in records:
            # It ended or waits, which mypy cannot infer for the items of a list.
            self.report(TrialReplayed(cell.name, record.trial, record.chosen, record.reports, record.state))  # type: ignore[arg-type]
