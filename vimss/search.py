"""Trials: Ray Tune with Optuna's TPE and ASHA over the cells of an experiment, each trial a Ray Train TorchTrainer.

    with ray_running(place):
        study = search(experiment, manifest, place, store, reporters=[print])
    study.best(["search"]).folder / "model"

A training alone is a search with one trial. What a trial did is written beside its weights as `trial.json`, and its
folder is named by the signature of its settings: so the same command resumes (finished trials are told, not run again;
cut off ones continue from their checkpoint), and no pickle of Ray is needed for it.
"""

import functools
import itertools
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
import ray
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from vimss.config import signature
from vimss.errors import ConfigError, PlaceError, TrainingError, VimssError
from vimss.experiment import (
    INHERITED,
    TUNE_FOLDER,
    Axis,
    Cell,
    CellEnded,
    CellStarted,
    Event,
    Experiment,
    Scalar,
    TrialEnded,
    TrialReported,
    TrialStarted,
    check_experiment,
    check_settings,
    field_type,
    in_order,
)
from vimss.runtime import TRIAL_SLOT, Place
from vimss.shards.manifest import Manifest
from vimss.storage import Store, publish
from vimss.study import (
    OBJECTIVE,
    RECORD,
    Study,
    TrialRecord,
    read_record,
    read_study,
    study_folder,
    write_record,
)
from vimss.train.config import Settings
from vimss.train.distribute import checkpoint_name
from vimss.trial import CELL, RUN, TrialPlan, run_trial, trial_name

Reporter = Callable[[Event], None]


def search(
    experiment: Experiment, manifest: Manifest, place: Place, store: Store, reporters: Sequence[Reporter] = ()
) -> Study:
    """Run every cell of an experiment, then its baselines; needs a running Ray. Trials that ended before are kept.

    ConfigError, before any trial starts, where the shards or the place do not allow what the experiment asks for.
    """
    check_experiment(experiment, manifest, place)
    run = _Run(experiment, manifest, place, study_folder(experiment, manifest, store), tuple(reporters))
    cells = {cell.name: cell for cell in experiment.cells()}
    searched = [cell for cell in cells.values() if not cell.baseline]
    for cell in searched:
        run.tuned(cell) if experiment.tune else run.fixed([cell])
    baselines = [cell for cell in cells.values() if cell.baseline]
    if baselines:
        best = read_study(run.folder).best(cell.name for cell in searched)
        flat = _flatten(experiment.settings({**cells[best.cell].overrides, **best.chosen}))
        inherited = {key: flat[key] for key in INHERITED}
        run.fixed([Cell(cell.name, {**inherited, **cell.overrides}, baseline=True) for cell in baselines])
    return read_study(run.folder)


def concurrent_trials(place: Place, resources: dict[str, float]) -> int:
    """How many trials the cluster holds at once; PlaceError where it is none."""
    wanted = {
        "CPU": place.cpus_per_worker * place.workers_per_trial,
        "GPU": place.gpus_per_worker * place.workers_per_trial,
    }
    room = min(int(resources.get(kind, 0) // amount) for kind, amount in wanted.items() if amount)
    if room == 0:
        raise PlaceError(
            f"one trial of {place.workers_per_trial} workers must fit into the cluster: "
            + ", ".join(f"{amount:g} {kind}" for kind, amount in wanted.items() if amount),
            got=", ".join(f"{resources.get(kind, 0):g} {kind}" for kind, amount in wanted.items() if amount),
            fix="lower workers_per_trial or cpus_per_worker in the place's runtime.yaml",
        )
    return min(room, place.max_concurrent_trials) if place.max_concurrent_trials else room


def suggest(trial: Any, axes: dict[str, Axis]) -> dict[str, Any]:
    """Choose for the axes, conditional ones only where their condition holds (define-by-run).

    `trial` is an optuna.Trial, or what Ray puts in its place to see what is chosen; constants to add are none.
    """
    chosen: dict[str, Any] = {}
    for key in in_order(axes):
        axis = axes[key]
        if any(chosen.get(other) not in values for other, values in axis.when.items()):
            continue
        if axis.choices:
            chosen[key] = trial.suggest_categorical(key, list(axis.choices))
        elif field_type(key) is int:
            chosen[key] = trial.suggest_int(key, int(axis.low), int(axis.high), log=axis.log)
        else:
            chosen[key] = trial.suggest_float(key, axis.low, axis.high, log=axis.log)
    return {}


def still_to_try(
    first_trials: Sequence[Mapping[str, Scalar]], records: Sequence[TrialRecord]
) -> list[dict[str, Scalar]]:
    """The first trials that no record began with; one may name a part of what is chosen."""
    return [
        dict(first) for first in first_trials if not any(first.items() <= record.chosen.items() for record in records)
    ]


def forget_others(folder: Path, cell: str, trial: str) -> None:
    """Leave one trial in a cell: a baseline of when another trial was the best had its batch size and learning rate."""
    for record in read_study(folder).of_cell(cell):
        if record.trial != trial:
            shutil.rmtree(record.folder)


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
        self.concurrent = concurrent_trials(place, ray.cluster_resources())

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher, which asks us what to admit, for a restore that we do not use.
        return {**self.__dict__, "reporters": ()}

    def tuned(self, cell: Cell) -> None:
        """One study of Optuna: as many trials as the experiment asks for, less those that ended before."""
        ended, cut_off = self._resume(cell)
        left = self.experiment.search.trials - len(ended)
        if left > 0:
            known = {record.trial for record in ended}
            first = [record.chosen for record in cut_off]
            first += still_to_try(self.experiment.search.first_trials, [*ended, *cut_off])
            optuna_search = functools.partial(
                OptunaSearch,
                space=functools.partial(suggest, axes=self.experiment.tune),
                metric=OBJECTIVE,
                mode="min",
                study_name=f"{self.folder.name}/{cell.name}",
                storage=_optuna_storage(self.folder / cell.name),
            )
            # A resumed study goes on with new draws rather than with its first ones again.
            seed = self.experiment.seed + len(ended)
            startup = startup_trials(self.experiment.search.trials)
            tpe = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=startup)
            draws = Draws(
                optuna_search(points_to_evaluate=first or None, sampler=tpe),
                optuna_search(sampler=optuna.samplers.RandomSampler(seed=_REDRAW_SEED + seed)),
                functools.partial(self._admit, cell, known),
            )
            scheduler = ASHAScheduler(
                time_attr="audio_seconds",
                max_t=_BEYOND_BUDGET,
                grace_period=self.experiment.search.grace_seconds,
                reduction_factor=self.experiment.search.reduction_factor,
            )
            config = tune.TuneConfig(
                metric=OBJECTIVE,
                mode="min",
                search_alg=draws,
                scheduler=scheduler,
                num_samples=left,
                max_concurrent_trials=self.concurrent,
                trial_dirname_creator=_short_name,
            )
            self._tune([cell], {}, config)
        self._end(cell)

    def _admit(self, cell: Cell, known: set[str], chosen: dict[str, Scalar]) -> bool:
        """Whether a draw becomes a trial: one that cannot be trained fails here, one that was drawn before is left."""
        settings, message = None, ""
        try:
            settings = self.experiment.settings({**cell.overrides, **chosen})
            check_settings(settings, self.manifest, self.place)
        except ConfigError as error:
            message = str(error)
        name = trial_name(settings) if settings else signature(cell.overrides, chosen)
        if name in known:
            return False
        known.add(name)
        if message:
            record = TrialRecord(
                cell=cell.name,
                trial=name,
                state="failed",
                chosen=chosen,
                settings=settings,
                message=message,
                begun=time.time(),
                folder=self.folder / cell.name / name,
            )
            write_record(record)
            self._tell(TrialStarted(cell.name, name, settings, chosen))
            self._tell(TrialEnded(cell.name, name, "failed", record.folder, message))
        return not message

    def fixed(self, cells: Sequence[Cell]) -> None:
        """One whole trial for each cell, side by side."""
        for cell in cells:
            forget_others(self.folder, cell.name, trial_name(self.experiment.settings(cell.overrides)))
            self._take_over(cell)
        left = [cell for cell in cells if not self._resume(cell)[0]]
        if left:
            config = tune.TuneConfig(
                metric=OBJECTIVE, mode="min", max_concurrent_trials=self.concurrent, trial_dirname_creator=_short_name
            )
            self._tune(left, {CELL: tune.grid_search([cell.name for cell in left])}, config)
        for cell in cells:
            self._end(cell)

    def _take_over(self, cell: Cell) -> None:
        """A finished trial of another cell with the very settings of this one: trained again, it would be the same."""
        name = trial_name(self.experiment.settings(cell.overrides))
        folder = self.folder / cell.name / name
        twins = [record for record in read_study(self.folder).records if record.trial == name]
        finished = [record for record in twins if record.state == "finished" and record.cell != cell.name]
        if finished and not folder.exists():
            with publish(folder) as temporary:
                shutil.copytree(finished[0].folder, temporary)
                update = {"cell": cell.name, "chosen": {}, "folder": temporary}
                write_record(finished[0].model_copy(update=update))

    def _tune(self, cells: Sequence[Cell], space: dict[str, Any], config: tune.TuneConfig) -> None:
        plan = TrialPlan(
            experiment=self.experiment,
            cells={cell.name: cell for cell in cells},
            shards=self.manifest.folder,
            more_shards=tuple((other.folder, share) for other, share in self.manifest.more),
            place=self.place,
            folder=self.folder,
        )
        tuner = tune.Tuner(
            tune.with_resources(functools.partial(run_trial, plan=plan), {TRIAL_SLOT: 1}),
            param_space=space,
            tune_config=config,
            run_config=tune.RunConfig(
                name=f"{int(time.time())}",
                storage_path=str(self.folder / TUNE_FOLDER),
                callbacks=[_Observer(plan, self.reporters)],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
        tuner.fit()
        # Only Ray's own bookkeeping; weights and records lie beside it.
        shutil.rmtree(self.folder / TUNE_FOLDER, ignore_errors=True)

    def _resume(self, cell: Cell) -> tuple[list[TrialRecord], list[TrialRecord]]:
        """The trials of the cell that ended, told to the reporters again, and those that were cut off."""
        self._tell(CellStarted(cell.name, cell.overrides, cell.baseline))
        records = read_study(self.folder).of_cell(cell.name)
        ended = [record for record in records if record.state in {"finished", "pruned"}]
        for record in ended:
            self._tell(TrialStarted(cell.name, record.trial, record.settings, record.chosen))
            for report in record.reports:
                self._tell(TrialReported(cell.name, record.trial, report["audio_seconds"], report))
            # Never "running" here, which mypy does not know of the items of a list.
            self._tell(TrialEnded(cell.name, record.trial, record.state, record.folder, record.message))  # type: ignore[arg-type]
        return ended, [record for record in records if record.state == "running"]

    def _end(self, cell: Cell) -> None:
        study = read_study(self.folder)
        try:
            best = study.best([cell.name])
        except TrainingError:
            self._tell(CellEnded(cell.name, ""))
        else:
            self._tell(CellEnded(cell.name, best.trial, best.best_report))

    def _tell(self, event: Event) -> None:
        for reporter in self.reporters:
            reporter(event)


optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

_REDRAWS = 50
"""Draws without a new trial among them, after which a cell ends: its axes have hardly anything left to offer."""

_REDRAW_SEED = 1_000_000
"""Added to a seed for draws in place of repeated ones: TPE's own first draws come from the same generator."""

_BEYOND_BUDGET = 1e12
"""ASHA's own end: never reached, so that a trial ends by itself and its workers close in order."""


def startup_trials(trials: int) -> int:
    """Random trials before TPE chooses. Optuna's default is 10; a small search would end before TPE has its turn."""
    return max(1, min(5, trials // 2))


class Draws(Searcher):
    """What Optuna draws, as far as it is admitted: two trials of equal settings would train in one folder.

    In place of a draw that is not admitted comes one at random, since TPE would choose its favourite again.
    """

    def __init__(
        self, chooser: OptunaSearch, at_random: OptunaSearch, admit: Callable[[dict[str, Scalar]], bool]
    ) -> None:
        super().__init__(metric=OBJECTIVE, mode="min")
        self.chooser = chooser
        self.at_random = at_random
        self.admit = admit
        self.drawn: dict[str, tuple[OptunaSearch, str]] = {}
        """Tune's name of a trial to who drew it, and its name there: a draw that was not admitted had its own."""

    def suggest(self, trial_id: str) -> Any:
        """Settings for a trial, or the word by which Tune knows that there are no more."""
        for number in range(_REDRAWS):
            searcher, name = self.at_random if number else self.chooser, f"{trial_id}-{number}"
            chosen = searcher.suggest(name)
            if self.admit(chosen):
                self.drawn[trial_id] = searcher, name
                return chosen
            searcher.on_trial_complete(name, error=True)
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on a report."""
        searcher, name = self.drawn[trial_id]
        searcher.on_trial_result(name, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on the end of a trial."""
        searcher, name = self.drawn[trial_id]
        searcher.on_trial_complete(name, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Tune saves its searcher for a restore that we do not use."""


class _Observer(tune.Callback):
    """Turns Tune's callbacks into trial.json files and events. Lives in the driver."""

    def __init__(self, plan: TrialPlan, reporters: tuple[Reporter, ...]) -> None:
        self.plan = plan
        self.reporters = reporters
        self.records: dict[str, TrialRecord] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore that we do not use; reporters hold threads and connections.
        return {**self.__dict__, "reporters": ()}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        cell, settings, chosen = self.plan.resolve(trial.config)
        folder = self.plan.trial_folder(cell, settings)
        if (folder / RECORD).exists():
            # Cut off, or failed: it goes on from its checkpoint, and what it reported before still counts.
            record = read_record(folder / RECORD).model_copy(update={"state": "running", "message": ""})
        else:
            record = TrialRecord(
                cell=cell.name,
                trial=folder.name,
                state="running",
                chosen=chosen,
                settings=settings,
                begun=time.time(),
                folder=folder,
            )
        self._keep(trial.trial_id, record)
        self._tell(TrialStarted(record.cell, record.trial, settings, chosen))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        metrics = {key: float(result[key]) for key in _METRICS if key in result and math.isfinite(result[key])}
        if OBJECTIVE not in metrics:
            return
        record = self.records[trial.trial_id]
        # After an interruption a report may come a second time.
        earlier = itertools.takewhile(lambda report: report["steps"] < metrics["steps"], record.reports)
        self._keep(trial.trial_id, record.model_copy(update={"reports": (*earlier, metrics)}))
        self._tell(TrialReported(record.cell, record.trial, metrics["audio_seconds"], metrics))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        record = self.records[trial.trial_id]
        last = record.reports[-1] if record.reports else {}
        budget = self.plan.resolve(trial.config)[1].training.audio_seconds
        # Training that lost its patience came to its own end too; ASHA only ever stops what would have gone on.
        done = last.get("audio_seconds", 0.0) >= budget or bool(last.get("stopped_early"))
        self._finish(trial, "finished" if done else "pruned", "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._finish(trial, "failed", _last_words(trial))

    def _finish(self, trial: Any, state: Literal["finished", "pruned", "failed"], message: str) -> None:
        record = self.records[trial.trial_id].model_copy(update={"state": state, "message": message})
        for report in sorted(record.reports, key=lambda report: report[OBJECTIVE]):
            model = record.folder / RUN / checkpoint_name(report["steps"]) / "model"
            if model.is_dir():
                with publish(record.folder / "model") as temporary:
                    shutil.copytree(model, temporary)
                break
        self._keep(trial.trial_id, record)
        self._tell(TrialEnded(record.cell, record.trial, state, record.folder, message))

    def _keep(self, trial_id: str, record: TrialRecord) -> None:
        self.records[trial_id] = record
        write_record(record)

    def _tell(self, event: Event) -> None:
        for reporter in self.reporters:
            reporter(event)


_METRICS = (
    "audio_seconds",
    OBJECTIVE,
    "valid_loss_raw",
    "train_loss",
    "learning_rate",
    "steps",
    "audio_seconds_per_second",
    "loader_wait",
    "micro_batch",
    "lost_clips",
    "mixture_level_db",
    "turned_down",
    "stopped_early",
)


def _last_words(trial: Any) -> str:
    """The message of the exception that ended a trial, without the tracebacks of the processes it came through."""
    try:
        error: BaseException | None = trial.get_pickled_error() if hasattr(trial, "get_pickled_error") else None
    except Exception:  # what another process pickled may fail to load in any way; its text is read below
        error = None
    while error is not None:
        if isinstance(error, VimssError):
            return str(error)
        error = getattr(error, "cause", None) or error.__cause__
    text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "unknown"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("vimss.errors.")]
    return (told or lines or ["unknown"])[-1].removeprefix("vimss.errors.")


def _short_name(trial: Any) -> str:
    return str(trial.trial_id)


def _optuna_storage(folder: Path) -> optuna.storages.BaseStorage:
    folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
    for study in storage.get_all_studies():
        for trial in storage.get_all_trials(study._study_id, states=(TrialState.RUNNING, TrialState.WAITING)):
            # Of a driver that died; what was cut off or not begun is among the first trials again.
            storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
    return storage


def _flatten(settings: Settings) -> dict[str, Scalar]:
    plain = settings.model_dump(mode="json")
    return {f"{group}.{key}": value for group in ("model", "mixing", "training") for key, value in plain[group].items()}
