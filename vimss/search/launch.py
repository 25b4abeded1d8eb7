"""One run of Ray Tune: trials of some cells, which a searcher suggests or a grid lists.

    launch(running, cells, search_alg=searcher, num_samples=8, prune=rule)

Tune starts processes and passes reports on. It decides nothing: which trial comes next and which is pruned is read from
the records.
"""

import functools
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, Searcher

from vimss.errors import PlaceError, StorageError, VimssError
from vimss.experiment import TUNE_FOLDER, Cell
from vimss.runtime import start_ray
from vimss.runtime.placement import remove_orphans
from vimss.search.ending import on_first_signal
from vimss.search.failures import our_error
from vimss.search.observer import Observer
from vimss.search.room import concurrent_trials, nodes_of
from vimss.search.running import RunningStudy
from vimss.search.study import TrialRecord
from vimss.search.trial import REPORTED, TrialPlan, run_trial, trial_resources
from vimss.shards.manifest import origins_of
from vimss.storage import explain_os_errors
from vimss.train.validation import make_validation_set

# Tune's own words about trials that failed: our records have the reason, and it was reported when they ended.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

# Tune would give Amazon's keys to each trial as `env_vars`, which Ray writes into its logs (Ray 2.60). Processes of
# trials have them from their node, or by `secrets` of the place.
ENV_VARS_TO_PROPAGATE.difference_update({name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")})

_SETTLE_SECONDS = 1.0
"""Tune returns while Ray still ends the trials' processes, for 0.2 s after it stopped them. Where Ray's client is shut
down meanwhile, a thread of its C++ part misses it a moment later and ends this process silently with exit code 1."""


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
    search_alg: Searcher | None = None,
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
        origins=origins_of([manifest.folder, *(other.folder for other, _ in manifest.more)]),
    )
    at_once = concurrent_trials(place, nodes_of(place))
    # What Tune would make of max_concurrent_trials, but at hand: the bound follows the nodes that join and leave.
    limiter = ConcurrencyLimiter(search_alg, at_once) if search_alg else BasicVariantGenerator(max_concurrent=at_once)

    def set_limit(trials: int) -> None:
        limiter.max_concurrent = trials

    observer = Observer(
        plan, running.reporters, running.validation, running.positions, prune, running.provenance, set_limit
    )
    tuner = tune.Tuner(
        tune.with_resources(functools.partial(run_trial, plan=plan), trial_resources(place)),
        param_space=dict(space or {}),
        tune_config=tune.TuneConfig(
            metric=experiment.figure.name,
            mode=experiment.figure.direction,
            scheduler=RecordScheduler(observer.take_report),
            search_alg=limiter,
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
        with on_first_signal(observer.end):
            tuner.fit()
    except KeyboardInterrupt:
        observer.interrupt()
        raise
    except Exception as error:  # any error of Tune: its own, or around an error of ours
        with suppress(VimssError):  # a full disk, which is what the error is about
            observer.interrupt()
        raise observer.error or our_error(error) or tune_has_ended(error, running.folder) from error
    finally:
        time.sleep(_SETTLE_SECONDS)
        if place.workers_per_trial > 1:
            with suppress(Exception):  # a head that is lost, which is told by what came before
                remove_orphans()
    if observer.error is not None:
        raise observer.error
    if observer.is_ending:
        raise KeyboardInterrupt
    # Only Ray's own bookkeeping; weights and records lie beside it.
    shutil.rmtree(running.folder / TUNE_FOLDER, ignore_errors=True)


def tune_has_ended(error: Exception, folder: Path) -> VimssError:
    """An error of Tune itself in our words: of the disk, as Tune keeps files of its own in the folder, or another."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # Tune gives the text of an error that it met, and not the error.
    code = re.search(r"\[Errno (\d+)\]", lines[-1])
    try:
        with suppress(OSError), explain_os_errors(folder):
            if code is not None:
                raise OSError(int(code[1]), os.strerror(int(code[1])))
    except StorageError as explained:
        return explained
    rule, fix = "Ray Tune must run a search to its end", "run the same command again, which resumes it"
    return PlaceError(rule, got=lines[-1], fix=fix)


def _short_name(trial: Any) -> str:
    return str(trial.trial_id)
