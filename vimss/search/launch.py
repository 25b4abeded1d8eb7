"""One run of Ray Tune: trials of some cells, which a searcher suggests or a grid lists.

    launch(running, cells, search_alg=searcher, num_samples=8, prune=rule)

Tune starts processes and passes reports on. It decides nothing: which trial comes next and which is pruned is read from
the records.
"""

import functools
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from vimss.errors import PlaceError, VimssError
from vimss.experiment import TUNE_FOLDER, Cell
from vimss.runtime import Place, start_ray
from vimss.search.ending import told_to_end
from vimss.search.failures import our_error
from vimss.search.observer import Observer
from vimss.search.running import RunningStudy
from vimss.search.study import TrialRecord
from vimss.search.trial import REPORTED, TrialPlan, run_trial, trial_resources
from vimss.train.distribute import worker_resources
from vimss.train.validation import make_validation_set

# Tune's own words about trials that failed: our records have the reason, and it was reported when they ended.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

_SETTLE_SECONDS = 1.0
"""Tune returns while Ray still ends the trials' processes, for 0.2 s after it stopped them. Where Ray's client is shut
down meanwhile, a thread of its C++ part misses it a moment later and ends this process silently with exit code 1."""


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


class RecordScheduler(FIFOScheduler):
    """Passes each report to the records, which say whether the trial goes on."""

    def __init__(self, take_report: Callable[[Any, dict[str, float]], bool]) -> None:
        super().__init__()
        self.take_report = take_report

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Tune calls this with every report, before its callbacks."""
        # Tune has flattened the result: {"reported": {"valid_loss": 1.0}} is {"reported/valid_loss": 1.0} here.
        prefix = f"{REPORTED}/"
        metrics = {key.removeprefix(prefix): value for key, value in result.items() if key.startswith(prefix)}
        return self.STOP if self.take_report(trial, metrics) else self.CONTINUE


def launch(
    running: RunningStudy,
    cells: Sequence[Cell],
    space: Mapping[str, Any] | None = None,
    prune: Callable[[TrialRecord], float | None] = lambda _: None,
    **how: Any,
) -> None:
    """Train what the searcher suggests or `space` lists; `how` are more fields of Tune's configuration.

    Where a trial is pruned by its last report, `prune` returns the audio seconds of its rung.
    """
    experiment, manifest, place = running.experiment, running.manifest, running.place
    # Here, so that trials, ranks and nodes only read it, and so that an error comes before Ray starts.
    make_validation_set(manifest, experiment.validation, experiment.objective)
    start_ray()
    plan = TrialPlan(
        experiment=experiment,
        cells={cell.name: cell for cell in cells},
        shards=manifest.folder,
        more_shards=tuple((other.folder, share) for other, share in manifest.more),
        place=place,
        folder=running.folder,
        begun={(record.cell, record.trial): record.folder for record in running.study().records},
    )
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    observer = Observer(plan, running.reporters, running.validation, running.positions, prune)
    tuner = tune.Tuner(
        tune.with_resources(functools.partial(run_trial, plan=plan), trial_resources(place)),
        param_space=dict(space or {}),
        tune_config=tune.TuneConfig(
            metric=experiment.figure.name,
            mode=experiment.figure.direction,
            scheduler=RecordScheduler(observer.take_report),
            max_concurrent_trials=concurrent_trials(place, nodes),
            trial_dirname_creator=_short_name,
            # The process of a trial that trains by itself has imported all that the next one needs.
            reuse_actors=place.workers_per_trial == 1,
            **how,
        ),
        run_config=tune.RunConfig(
            name=f"{time.time_ns()}",
            storage_path=str(running.folder / TUNE_FOLDER),
            callbacks=[observer],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    try:
        with told_to_end(observer.end):
            tuner.fit()
    except KeyboardInterrupt:
        observer.interrupt()
        raise
    except Exception as error:  # any error of Tune: its own, or around an error of ours
        with suppress(VimssError):  # a full disk, which is what the error is about
            observer.interrupt()
        raise observer.error or our_error(error) or _tune_has_ended(error) from error
    finally:
        time.sleep(_SETTLE_SECONDS)
    if observer.error is not None:
        raise observer.error
    if observer.is_ending:
        raise KeyboardInterrupt
    # Only Ray's own bookkeeping; weights and records lie beside it.
    shutil.rmtree(running.folder / TUNE_FOLDER, ignore_errors=True)


def _tune_has_ended(error: Exception) -> PlaceError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    rule, fix = "Ray Tune must run a search to its end", "run the same command again, which resumes it"
    return PlaceError(rule, got=lines[-1], fix=fix)


def _short_name(trial: Any) -> str:
    return str(trial.trial_id)
