"""The expected duration of a quickstart on this machine, from one measured training step.

print(expected_time(session, experiment, recipe))  # this takes about 3 minutes on this machine (a training step ...)
"""

import os
from collections.abc import Iterable

from vimss.api import load_shards
from vimss.console import duration
from vimss.errors import ConfigError, DataError, PlaceError
from vimss.experiment import Experiment
from vimss.search.launch import concurrent_trials
from vimss.search.remaining import Progress, audio_left, longest
from vimss.search.study import TrialRecord, read_study, study_folder
from vimss.session import Session
from vimss.shards.recipe import Recipe
from vimss.train.measure import step_seconds

REFERENCE_STEP_SECONDS = 0.05
"""`step_seconds` of the quickstart's first trial, measured on the idle machine of the constants below."""

STAGE_SECONDS = {"start": 10.0, "corpus": 29.0, "evaluate": 30.0, "promote": 11.0, "separate": 5.0}
"""Seconds of the stages of a first run on that machine."""

TRAINING_OVERHEAD = 1.3
"""Seconds of a search per second of its steps: batches, validation, and two trials at once under Ray."""


def expected_time(session: Session, experiment: Experiment, recipe: Recipe) -> str:
    """A sentence on the duration of a run; empty on a cluster, where no step is measured.

    Trials and shards of an earlier run are not counted.
    """
    cell = experiment.cells()[0]
    try:
        at_once = concurrent_trials(session.place, [{"CPU": float(len(os.sched_getaffinity(0)))}])
        settings = experiment.settings({**cell.overrides, **dict(*experiment.search.first_trials[:1])})
    except (ConfigError, PlaceError):
        return ""  # the place needs GPUs or a cluster, or the settings lack those that are tuned
    if session.place.ray_address:
        return ""
    try:
        manifest = load_shards(session, experiment)
    except DataError:  # not written yet
        has_shards, records = False, tuple[TrialRecord, ...]()
    else:
        has_shards, records = True, read_study(study_folder(experiment, manifest, session.store)).records
    threads = max(1, int(session.place.cpus_per_worker) - session.place.loader_workers)
    step = step_seconds(settings, recipe, threads=threads)
    per_audio_second = step * recipe.sample_rate / (settings.training.batch_size * settings.training.output_samples)
    left = longest(audio_left(experiment, progress_of(records)), at_once) * per_audio_second
    what = "the rest takes" if records else "this takes"
    return (
        f"{what} about {duration(expected_seconds(step, left, has_shards))} on this machine "
        f"(a training step takes {step:.2g} s)"
    )


def expected_seconds(step: float, training: float, has_shards: bool) -> float:
    """Seconds of a run whose training step takes `step` seconds, and whose remaining steps take `training` seconds."""
    stages = sum(seconds for name, seconds in STAGE_SECONDS.items() if not (has_shards and name == "corpus"))
    return TRAINING_OVERHEAD * training + stages * step / REFERENCE_STEP_SECONDS


def progress_of(records: Iterable[TrialRecord]) -> dict[str, list[Progress]]:
    """The progress of the trials of an earlier run, by cell. Failed ones are left out, because others replace them."""
    found: dict[str, list[Progress]] = {}
    for record in records:
        trained = max((report["audio_seconds"] for report in record.reports), default=0.0)
        if record.state in {"running", "interrupted"}:
            found.setdefault(record.cell, []).append(Progress(trained, "running"))
        elif record.state in {"waiting", "finished"}:
            found.setdefault(record.cell, []).append(Progress(trained, record.state))
        elif record.state == "pruned":
            found.setdefault(record.cell, []).append(Progress(trained, "over"))
    return found
