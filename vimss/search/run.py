"""The cells of an experiment in their order, each one run of Ray Tune; an unfinished cell resumes.

A training alone is a search with one trial. What a trial did is written beside its weights as `trial.json`, and its
folder is named by the signature of its settings. So the same command resumes: finished trials are replayed to the
reporters, interrupted ones resume from their checkpoint, and no pickle of Ray is needed for it. A search that has grown
by trials, cells, controls or wider axes trains what is missing. Nothing is ever deleted: what the experiment no longer
has stays on disk and does not count.
"""

import functools
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from vimss.config import signature
from vimss.errors import ConfigError, PlaceError, TrainingError, VimssError
from vimss.experiment import SEED, TUNE_FOLDER, Cell, Experiment, Scalar
from vimss.runtime import Place, ray_at_hand, start_ray
from vimss.search.checks import check_experiment, check_settings
from vimss.search.events import CellEnded, CellStarted, Event, TrialEnded, TrialReported, TrialStarted, TrialWaits
from vimss.search.failures import our_error
from vimss.search.observer import Observer
from vimss.search.remaining import trained_beside
from vimss.search.sampler import DeduplicatingSearcher, known_to_optuna, startup_trials, suggest
from vimss.search.scoring import score_again
from vimss.search.study import (
    RECORD,
    Study,
    TrialRecord,
    cell_folder,
    in_cells,
    read_record,
    read_study,
    resolved_controls,
    study_folder,
    write_record,
)
from vimss.search.top_k import Rung, TopK, choose, value_at_rung
from vimss.search.trial import CELL, TrialPlan, run_trial, trial_name, trial_resources
from vimss.shards.manifest import Manifest
from vimss.storage import Store
from vimss.train.distribute import worker_resources
from vimss.train.validation import make_validation_set, validation_spec

# Tune's own words about trials that failed: our records have the reason, and it was reported when they ended.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

Reporter = Callable[[Event], None]

_REDRAW_SEED = 1_000_000
"""Added to a seed for draws in place of repeated ones: TPE's own first draws come from the same generator."""

_BEYOND_BUDGET = 1e12
"""ASHA's own end: never reached, so that a trial ends by itself and its workers close in order."""

_SETTLE_SECONDS = 1.0
"""Tune returns while Ray still ends the trials' processes, for 0.2 s after it stopped them. Where Ray's client is shut
down meanwhile, a thread of its C++ part misses it a moment later and ends this process silently with exit code 1."""


def search(
    experiment: Experiment, manifest: Manifest, place: Place, store: Store, reporters: Sequence[Reporter] = ()
) -> Study:
    """Run every cell of an experiment, then its controls. Trials that ended before are kept.

    Ray starts where it does not run yet and a trial is left to train. One process at a time may search a study: see
    `vimss.search.lock`.

    ConfigError, before any trial starts, where the shards or the place do not allow what the experiment needs.
    """
    check_experiment(experiment, manifest, place)
    cells = experiment.cells()
    searched = [cell for cell in cells if not cell.is_control]
    with ray_at_hand(place):
        run = _Run(experiment, manifest, place, study_folder(experiment, manifest, store), tuple(reporters))
        score_again(run.folder, manifest, experiment.validation, run._report, experiment.objective)
        for cell in searched:
            run.tuned(cell) if experiment.tune else run.fixed([cell])
        if len(cells) > len(searched):
            run.fixed(resolved_controls(experiment, run.study().best(cell.name for cell in searched)))
    return run.study()


def concurrent_trials(place: Place, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many trials the nodes, each with its resources, hold at once; PlaceError where it is none.

    A worker fits on one node; those of a trial may lie on several.
    """
    wanted = {kind: amount for kind, amount in worker_resources(place).items() if amount}
    workers = sum(min(int(node.get(kind, 0) // amount) for kind, amount in wanted.items()) for node in nodes)
    room = workers // place.workers_per_trial
    if room == 0:
        raise PlaceError(
            f"the nodes must hold one trial of {place.workers_per_trial} workers, each with "
            + ", ".join(f"{amount:g} {kind}" for kind, amount in wanted.items()),
            got="; ".join(", ".join(f"{node.get(kind, 0):g} {kind}" for kind in wanted) for node in nodes) or "no node",
            fix="lower workers_per_trial, cpus_per_worker or gpus_per_worker in the place's runtime.yaml",
        )
    return min(room, place.max_concurrent_trials) if place.max_concurrent_trials else room


def still_to_try(
    first_trials: Sequence[Mapping[str, Scalar]], records: Sequence[TrialRecord]
) -> list[dict[str, Scalar]]:
    """The first trials that no record has yet; one may set a part of the axes."""
    return [
        dict(first) for first in first_trials if not any(first.items() <= record.chosen.items() for record in records)
    ]


class _Run:
    """One call of `search`."""

    def __init__(
        self, experiment: Experiment, manifest: Manifest, place: Place, folder: Path, reporters: tuple[Reporter, ...]
    ) -> None:
        self.experiment = experiment
        self.manifest = manifest
        self.place = place
        self.folder = folder
        self.reporters = reporters
        self.validation = validation_spec(manifest, experiment.validation, experiment.objective).signature(manifest)
        self.beside: set[str] = set()
        """Trials of controls that train, or have trained, beside a trial that continues."""
        self.replayed: set[str] = set()
        """Cells whose start and earlier trials have been replayed to the reporters."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher, which calls back to admit a draw, for a restore that we do not use.
        return {**self.__dict__, "reporters": ()}

    def study(self) -> Study:
        """The trials of the experiment's cells, as they are on disk now."""
        return in_cells(self.experiment, read_study(self.folder))

    def tuned(self, cell: Cell) -> None:
        """The experiment's number of trials, less those that ended before."""
        ended, interrupted = self._resume(cell)
        if self.experiment.search.scheduler == "top_k":
            self._top_k(cell)
        else:
            self._asha(cell, ended, interrupted)
        self._end(cell)

    def _asha(self, cell: Cell, ended: Sequence[TrialRecord], interrupted: Sequence[TrialRecord]) -> None:
        config = self.experiment.search
        left = config.trials - len(ended)
        if left > 0:
            scheduler = ASHAScheduler(
                time_attr="audio_seconds",
                max_t=_BEYOND_BUDGET,
                grace_period=config.grace_seconds,
                reduction_factor=config.reduction_factor,
            )
            draws = self._draws(cell, ended, interrupted)
            self._tune([cell], {}, search_alg=draws, scheduler=scheduler, num_samples=left)

    def _top_k(self, cell: Cell) -> None:
        """See `vimss.search.top_k`; what to do is a function of the records, so a search that was killed resumes."""
        config, records = self.experiment.search, self._records(cell)
        able = [record for record in records if record.state != "failed"]
        at_rung = [record for record in able if value_at_rung(record, config.grace_seconds) is not None]
        to_rung = [record for record in able if record not in at_rung]
        left = max(config.trials - len(at_rung), len(to_rung))
        going_on, pruned = choose(at_rung, config.grace_seconds, config.keep, left)
        for record in pruned:
            self._prune(record)
        if left or any(record.state != "finished" for record in going_on):
            draws = self._draws(cell, at_rung, to_rung)
            rung = Rung(
                seconds=config.grace_seconds,
                keep=config.keep,
                figure=self.experiment.figure,
                records=functools.partial(self._records, cell),
                prune=self._prune,
                beside=self._beside,
            )
            controls = [other for other in self.experiment.cells() if other.is_control]
            # At most: each to the rung and from there, with all controls beside it.
            most = 2 * left + len(at_rung) + (left + len(at_rung)) * len(controls)
            self._tune([cell, *controls], {}, search_alg=TopK(draws, rung, left), num_samples=most)

    def _beside(self, best: TrialRecord) -> list[dict[str, Any]]:
        """The configurations of the controls that train beside the one trial that continues; none where several do.

        Otherwise cores would be idle: what they inherit is known only when the last trial has ended.
        """
        if not trained_beside(self.experiment):
            return []
        found: list[dict[str, Any]] = []
        for cell in resolved_controls(self.experiment, best):
            name = trial_name(self.experiment.settings(cell.fixes))
            # It may run already, beside a trial that was the best before it failed.
            if name not in {best.trial, *self.beside} and not self._resume(cell)[0]:
                inherited = {key: value for key, value in cell.inherited.items() if key not in cell.overrides}
                found.append({CELL: cell.name, **inherited})
            self.beside.add(name)
        return found

    def _prune(self, record: TrialRecord) -> None:
        """End a trial that waited at the rung."""
        write_record(record.model_copy(update={"state": "pruned", "message": ""}))
        self._report(TrialEnded(record.cell, record.trial, "pruned", record.folder))

    def _draws(self, cell: Cell, ended: Sequence[TrialRecord], first: Sequence[TrialRecord]) -> DeduplicatingSearcher:
        """Optuna's draws, given the trials that ended; the `first` ones, which started before, are drawn again."""
        known = {record.trial for record in ended}
        points = [record.chosen for record in first]
        points += still_to_try(self.experiment.search.first_trials, [*ended, *first])
        name, axes, figure = f"{self.folder.name}/{cell.name}", self.experiment.tune, self.experiment.figure
        optuna_search = functools.partial(
            OptunaSearch,
            space=functools.partial(suggest, axes=axes),
            metric=figure.name,
            mode=figure.direction,
            study_name=name,
            storage=known_to_optuna(name, axes, [(record, self._value_for_optuna(record)) for record in ended], figure),
        )
        # A resumed study continues with new draws instead of repeating its first ones.
        seed = int(cell.overrides.get(SEED, self.experiment.seed)) + len(ended)
        startup = startup_trials(self.experiment.search.trials)
        tpe = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=startup)
        return DeduplicatingSearcher(
            optuna_search(points_to_evaluate=points or None, sampler=tpe),
            optuna_search(sampler=optuna.samplers.RandomSampler(seed=_REDRAW_SEED + seed)),
            functools.partial(self._admit, cell, known),
        )

    def _value_for_optuna(self, record: TrialRecord) -> float | None:
        """The value that Optuna gets for a trial that ended; the last one, or for top_k the one at the rung."""
        if self.experiment.search.scheduler == "top_k":
            return value_at_rung(record, self.experiment.search.grace_seconds)
        return record.reports[-1][record.figure.name] if record.reports else None

    def _records(self, cell: Cell) -> tuple[TrialRecord, ...]:
        return self.study().of_cell(cell.name)

    def _trial_folder(self, cell: Cell, name: str) -> Path:
        """The folder in which the trial started, possibly under an earlier cell, or a new one."""
        began = (record.folder for record in self._records(cell) if record.trial == name)
        return next(began, self.folder / cell_folder(self.experiment, cell) / name)

    def _admit(self, cell: Cell, known: set[str], chosen: dict[str, Scalar]) -> bool:
        """Whether a draw becomes a trial: one that cannot be trained fails here, and a repeated one is rejected."""
        settings, message = None, ""
        try:
            settings = self.experiment.settings({**cell.fixes, **chosen})
            check_settings(settings, self.manifest, self.place)
        except ConfigError as error:
            message = str(error)
        name = trial_name(settings) if settings else signature(cell.fixes, chosen)
        if name in known:
            return False
        known.add(name)
        folder = self._trial_folder(cell, name)
        state: dict[str, Any] = {"state": "failed" if message else "running", "message": message}
        if (folder / RECORD).exists():
            record = read_record(folder / RECORD).model_copy(update=state)
        else:
            # Now rather than at the start of its training: then a search that is killed in between has the same draws.
            record = TrialRecord(
                cell=cell.name,
                trial=name,
                chosen=chosen,
                settings=settings,
                figure=self.experiment.figure,
                begun=time.time(),
                folder=folder,
                **state,
            )
        write_record(record)
        if message:
            self._report(TrialStarted(cell.name, name, settings, chosen))
            self._report(TrialEnded(cell.name, name, "failed", record.folder, message))
        return not message

    def fixed(self, cells: Sequence[Cell]) -> None:
        """One whole trial for each cell, side by side; one for all cells of the same settings."""
        names: set[str] = set()
        left, twins = list[Cell](), list[Cell]()
        for cell in cells:
            name = trial_name(self.experiment.settings(cell.fixes))
            if name in names:
                twins.append(cell)
            elif not self._resume(cell)[0]:
                left.append(cell)
            names.add(name)
        if left:
            self._tune(left, {CELL: tune.grid_search([cell.name for cell in left])})
        for cell in twins:
            self._resume(cell)
        for cell in cells:
            self._end(cell)

    def _tune(self, cells: Sequence[Cell], space: dict[str, Any], **how: Any) -> None:
        # Here, so that trials, ranks and nodes only read it, and so that an error comes before Ray starts.
        make_validation_set(self.manifest, self.experiment.validation, self.experiment.objective)
        start_ray()
        plan = TrialPlan(
            experiment=self.experiment,
            cells={cell.name: cell for cell in cells},
            shards=self.manifest.folder,
            more_shards=tuple((other.folder, share) for other, share in self.manifest.more),
            place=self.place,
            folder=self.folder,
            begun={(record.cell, record.trial): record.folder for record in self.study().records},
        )
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        observer = Observer(plan, self.reporters, self.validation)
        tuner = tune.Tuner(
            tune.with_resources(functools.partial(run_trial, plan=plan), trial_resources(self.place)),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=self.experiment.figure.name,
                mode=self.experiment.figure.direction,
                max_concurrent_trials=concurrent_trials(self.place, nodes),
                trial_dirname_creator=_short_name,
                # The process of a trial that trains by itself has imported all that the next one needs.
                reuse_actors=self.place.workers_per_trial == 1,
                **how,
            ),
            run_config=tune.RunConfig(
                name=f"{int(time.time())}",
                storage_path=str(self.folder / TUNE_FOLDER),
                callbacks=[observer],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
        try:
            tuner.fit()
        except Exception as error:  # any error of Tune: its own, or around an error of ours
            with suppress(VimssError):  # a full disk, which is what the error is about
                observer.interrupt()
            raise observer.error or our_error(error) or _tune_has_ended(error) from error
        finally:
            time.sleep(_SETTLE_SECONDS)
        if observer.error is not None:
            raise observer.error
        # Only Ray's own bookkeeping; weights and records lie beside it.
        shutil.rmtree(self.folder / TUNE_FOLDER, ignore_errors=True)

    def _resume(self, cell: Cell) -> tuple[list[TrialRecord], list[TrialRecord]]:
        """The ended and the interrupted trials of the cell; ended and waiting ones are replayed to the reporters."""
        for record in self._records(cell):
            if record.state == "running":
                # Left by a driver that died.
                write_record(record.model_copy(update={"state": "interrupted"}))
        records = self._records(cell)
        # Where nothing is tuned, a trial that was pruned in a search continues to the whole budget.
        states = {"finished", "pruned"} if self.experiment.tune and not cell.is_control else {"finished"}
        if cell.name not in self.replayed:
            self._replay(cell, [record for record in records if record.state in {*states, "waiting"}])
        ended = [record for record in records if record.state in states]
        return ended, [record for record in records if record.state == "interrupted"]

    def _replay(self, cell: Cell, records: Sequence[TrialRecord]) -> None:
        self.replayed.add(cell.name)
        self._report(CellStarted(cell.name, cell.fixes, cell.is_control))
        for record in records:
            self._report(TrialStarted(cell.name, record.trial, record.settings, record.chosen))
            for report in record.reports:
                self._report(TrialReported(cell.name, record.trial, report["audio_seconds"], report))
            if record.state == "waiting":
                self._report(TrialWaits(cell.name, record.trial))
            else:
                # It has ended, which mypy cannot infer for the items of a list.
                self._report(TrialEnded(cell.name, record.trial, record.state, record.folder, record.message))  # type: ignore[arg-type]

    def _end(self, cell: Cell) -> None:
        try:
            best = self.study().best([cell.name])
        except TrainingError:
            self._report(CellEnded(cell.name, ""))
        else:
            self._report(CellEnded(cell.name, best.trial, best.best_report))

    def _report(self, event: Event) -> None:
        for reporter in self.reporters:
            reporter(event)


def _tune_has_ended(error: Exception) -> PlaceError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    rule, fix = "Ray Tune must run a search to its end", "run the same command again, which resumes it"
    return PlaceError(rule, got=lines[-1], fix=fix)


def _short_name(trial: Any) -> str:
    return str(trial.trial_id)
