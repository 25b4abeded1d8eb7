"""Trials: Ray Tune with Optuna's TPE and ASHA over the cells of an experiment, each trial a Ray Train TorchTrainer.

    with ray_running(place):
        study = search(experiment, manifest, place, store, reporters=[print])
    study.best("search").folder / "model"

A training alone is a search with one trial. What a trial did is written beside its weights as `trial.json`, and its
folder is named by the signature of its settings: so the same command resumes (finished trials are told, not run again;
cut off ones continue from their checkpoint), and no pickle of Ray is needed for it.
"""

import functools
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import ray
from pydantic import Field
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from vimss.config import Config, signature
from vimss.errors import ConfigError, PlaceError, TrainingError, VimssError
from vimss.experiment import (
    INHERITED,
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
)
from vimss.runtime import TRIAL_SLOT, Place
from vimss.shards.manifest import Manifest
from vimss.storage import Store, publish
from vimss.train.config import Settings
from vimss.trial import CELL, TrialPlan, run_trial, trial_name

OBJECTIVE = "valid_loss"
"""Mean floored -SNR in dB over present sources of the fixed validation set; lower is better."""

RECORD = "trial.json"

Reporter = Callable[[Event], None]


class TrialRecord(Config):
    """What a trial was and how it went; `trial.json` in its folder."""

    cell: str
    trial: str = Field(description="signature of the settings; name of the folder")
    state: Literal["running", "finished", "pruned", "failed"]
    chosen: dict[str, Scalar]
    settings: Settings
    reports: tuple[dict[str, float], ...] = ()
    message: str = ""
    begun: float = Field(description="seconds since 1970")
    folder: Path = Field(Path(), exclude=True)

    @property
    def best_report(self) -> dict[str, float]:
        """The report with the lowest objective; empty before the first."""
        return min(self.reports, key=lambda report: report[OBJECTIVE], default={})

    @property
    def objective(self) -> float:
        """The lowest validation loss, infinite before the first report."""
        return self.best_report.get(OBJECTIVE, math.inf)


@dataclass(frozen=True)
class Study:
    """All trials of an experiment, as they lie in its folder."""

    folder: Path
    records: tuple[TrialRecord, ...]

    def of_cell(self, cell: str) -> tuple[TrialRecord, ...]:
        """The trials of one cell, in the order in which they began."""
        return tuple(
            sorted((record for record in self.records if record.cell == cell), key=lambda record: record.begun)
        )

    def best(self, cells: Iterable[str]) -> TrialRecord:
        """The trial with the lowest objective among those that finished in these cells."""
        names = set(cells)
        able = [record for record in self.records if record.cell in names and (record.folder / "model").is_dir()]
        finished = [record for record in able if record.state == "finished"] or able
        if not finished:
            raise TrainingError(
                f"{self.folder} must hold a trial with weights in {', '.join(sorted(names))}",
                got="; ".join(record.message for record in self.records if record.message) or "none",
                fix="read the messages of the failed trials, correct the experiment and run it again",
            )
        return min(finished, key=lambda record: record.objective)


def study_folder(experiment: Experiment, manifest: Manifest, store: Store) -> Path:
    """Where an experiment's trials lie: its name and the signature of experiment and shards."""
    return store.studies / f"{experiment.name}-{signature(experiment.signature, manifest.signature)}"


def read_study(folder: Path) -> Study:
    """The trials of a folder, needing neither Ray nor torch."""
    records = []
    for path in sorted(folder.glob(f"*/*/{RECORD}")):
        content = json.loads(path.read_text(encoding="utf-8"))
        records.append(TrialRecord.model_validate({**content, "folder": path.parent}))
    return Study(folder, tuple(records))


def search(
    experiment: Experiment, manifest: Manifest, place: Place, store: Store, reporters: Sequence[Reporter] = ()
) -> Study:
    """Run every cell of an experiment, then its baselines; needs a running Ray. Trials that ended before are kept."""
    run = _Run(experiment, manifest, place, study_folder(experiment, manifest, store), tuple(reporters))
    cells = experiment.cells()
    for cell in cells:
        if not cell.baseline:
            run.tuned(cell) if experiment.tune else run.fixed([cell])
    baselines = [cell for cell in cells if cell.baseline]
    if baselines:
        best = read_study(run.folder).best(cell.name for cell in cells if not cell.baseline)
        flat = _flatten(best.settings)
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
    waiting = dict(axes)
    while waiting:
        ready = [key for key, axis in waiting.items() if not set(axis.when) & set(waiting)]
        if not ready:
            raise ConfigError("`when` must not run in a circle", got=", ".join(waiting), fix="remove one of them")
        for key in ready:
            axis = waiting.pop(key)
            if any(chosen.get(other) not in values for other, values in axis.when.items()):
                continue
            if axis.choices:
                chosen[key] = trial.suggest_categorical(key, list(axis.choices))
            else:
                chosen[key] = trial.suggest_float(key, axis.low, axis.high, log=axis.log)
    return {}


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

    def tuned(self, cell: Cell) -> None:
        """One study of Optuna: as many trials as the experiment asks for, less those that ended before."""
        ended, cut_off = self._resume(cell)
        left = self.experiment.search.trials - len(ended)
        if left > 0:
            known = {record.trial for record in (*ended, *cut_off)}
            first = [record.chosen for record in cut_off]
            first += [
                dict(chosen)
                for chosen in self.experiment.search.first_trials
                if trial_name(self.experiment.settings({**cell.overrides, **chosen})) not in known
            ]
            searcher = OptunaSearch(
                space=functools.partial(suggest, axes=self.experiment.tune),
                metric=OBJECTIVE,
                mode="min",
                points_to_evaluate=first[:left] or None,
                study_name=f"{self.folder.name}/{cell.name}",
                storage=_optuna_storage(self.folder / cell.name),
                sampler=optuna.samplers.TPESampler(
                    # A resumed study goes on with new draws rather than with its first ones again.
                    seed=self.experiment.seed + len(ended),
                    multivariate=True,
                    group=True,
                    n_startup_trials=_STARTUP_TRIALS,
                ),
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
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=left,
                max_concurrent_trials=self.concurrent,
                trial_dirname_creator=_short_name,
            )
            self._tune([cell], {}, config)
        self._end(cell)

    def fixed(self, cells: Sequence[Cell]) -> None:
        """One whole trial for each cell, side by side."""
        left = [cell for cell in cells if not self._resume(cell)[0]]
        if left:
            config = tune.TuneConfig(
                metric=OBJECTIVE, mode="min", max_concurrent_trials=self.concurrent, trial_dirname_creator=_short_name
            )
            self._tune(left, {CELL: tune.grid_search([cell.name for cell in left])}, config)
        for cell in cells:
            self._end(cell)

    def _tune(self, cells: Sequence[Cell], space: dict[str, Any], config: tune.TuneConfig) -> None:
        plan = TrialPlan(
            self.experiment, {cell.name: cell for cell in cells}, self.manifest.folder, self.place, self.folder
        )
        tuner = tune.Tuner(
            tune.with_resources(functools.partial(run_trial, plan=plan), {TRIAL_SLOT: 1}),
            param_space=space,
            tune_config=config,
            run_config=tune.RunConfig(
                name=f"{int(time.time())}",
                storage_path=str(self.folder / "tune"),
                callbacks=[_Observer(plan, self.reporters)],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
        tuner.fit()
        # Only Ray's own bookkeeping; weights and records lie beside it.
        shutil.rmtree(self.folder / "tune", ignore_errors=True)

    def _resume(self, cell: Cell) -> tuple[list[TrialRecord], list[TrialRecord]]:
        """The trials of the cell that ended, told to the reporters again, and those that were cut off."""
        self._tell(CellStarted(cell.name, cell.overrides, cell.baseline))
        records = read_study(self.folder).of_cell(cell.name)
        ended = [record for record in records if record.state in {"finished", "pruned"}]
        for record in ended:
            self._tell(TrialStarted(cell.name, record.trial, record.settings, record.chosen))
            for report in record.reports:
                self._tell(TrialReported(cell.name, record.trial, report["audio_seconds"], report))
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

_STARTUP_TRIALS = 5
"""Random trials before TPE has enough to learn from."""

_BEYOND_BUDGET = 1e12
"""ASHA's own end: never reached, so that a trial ends by itself and its workers close in order."""


class _Observer(tune.Callback):
    """Turns Tune's callbacks into trial.json files and events. Lives in the driver."""

    def __init__(self, plan: TrialPlan, reporters: tuple[Reporter, ...]) -> None:
        self.plan = plan
        self.reporters = reporters
        self.records: dict[str, TrialRecord] = {}
        self.checkpoints: dict[str, list[tuple[float, Path]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore that we do not use; reporters hold threads and connections.
        return {**self.__dict__, "reporters": ()}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        cell, settings, chosen = self.plan.resolve(trial.config)
        name, folder = trial_name(settings), self.plan.trial_folder(cell, settings)
        self._keep(
            trial.trial_id,
            TrialRecord(
                cell=cell.name,
                trial=name,
                state="running",
                chosen=chosen,
                settings=settings,
                begun=time.time(),
                folder=folder,
            ),
        )
        self._tell(TrialStarted(cell.name, name, settings, chosen))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if OBJECTIVE not in result:
            return
        record = self.records[trial.trial_id]
        metrics = {key: float(result[key]) for key in _METRICS if key in result}
        self._keep(trial.trial_id, record.model_copy(update={"reports": (*record.reports, metrics)}))
        path = result.get("checkpoint_path")
        if path:
            self.checkpoints.setdefault(trial.trial_id, []).append((metrics[OBJECTIVE], Path(path)))
        self._tell(TrialReported(record.cell, record.trial, metrics["audio_seconds"], metrics))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        record = self.records[trial.trial_id]
        seen = record.reports[-1]["audio_seconds"] if record.reports else 0.0
        done = seen >= record.settings.training.audio_seconds
        self._finish(trial, "finished" if done else "pruned", "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._finish(trial, "failed", _last_words(trial))

    def _finish(self, trial: Any, state: Literal["finished", "pruned", "failed"], message: str) -> None:
        record = self.records[trial.trial_id].model_copy(update={"state": state, "message": message})
        for _, path in sorted(self.checkpoints.get(trial.trial_id, []), key=lambda pair: pair[0]):
            if (path / "model").is_dir():
                with publish(record.folder / "model") as temporary:
                    shutil.copytree(path / "model", temporary)
                break
        self._keep(trial.trial_id, record)
        self._tell(TrialEnded(record.cell, record.trial, state, record.folder, message))

    def _keep(self, trial_id: str, record: TrialRecord) -> None:
        self.records[trial_id] = record
        with publish(record.folder / RECORD) as temporary:
            temporary.write_text(record.model_dump_json(indent=1), encoding="utf-8")

    def _tell(self, event: Event) -> None:
        for reporter in self.reporters:
            reporter(event)


_METRICS = (
    "audio_seconds",
    OBJECTIVE,
    "train_loss",
    "learning_rate",
    "steps",
    "audio_seconds_per_second",
    "loader_wait",
)


def _last_words(trial: Any) -> str:
    """The message of the exception that ended a trial, without the tracebacks of the processes it came through."""
    try:
        error: BaseException | None = trial.get_pickled_error() if hasattr(trial, "get_pickled_error") else None
    except Exception:
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
        for trial in storage.get_all_trials(study._study_id, states=(optuna.trial.TrialState.RUNNING,)):
            # Of a driver that died; its settings are tried again as a first trial.
            storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
    return storage


def _flatten(settings: Settings) -> dict[str, Scalar]:
    plain = settings.model_dump(mode="json")
    return {f"{group}.{key}": value for group in ("model", "mixing", "training") for key, value in plain[group].items()}
