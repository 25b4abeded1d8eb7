"""The expected duration of a quickstart on this machine, from one measured training step.

print(expected_time(session, experiment, recipe))  # this takes about 3 minutes on this machine (a training step ...)
"""

from vimss.api import load_shards
from vimss.console import duration
from vimss.errors import ConfigError, DataError, PlaceError
from vimss.experiment import Experiment
from vimss.search.estimate import (
    TRAINING_OVERHEAD,
    first_settings,
    per_audio_second,
    progress_of,
    runs_on_these_cores,
    step_threads,
)
from vimss.search.remaining import audio_left, longest
from vimss.search.remote import pull_records
from vimss.search.room import concurrent_trials, nodes_of
from vimss.search.study import TrialRecord, read_study, study_folder
from vimss.session import Session
from vimss.shards.recipe import Recipe
from vimss.train.measure import measure_step

REFERENCE_STEP_SECONDS = 0.05
"""`measure_step` of the quickstart's first trial, measured on the idle machine of the constants below."""

STAGE_SECONDS = {"start": 10.0, "corpus": 29.0, "evaluate": 30.0, "promote": 11.0, "separate": 5.0}
"""Seconds of the stages of a first run on that machine."""


def expected_time(session: Session, experiment: Experiment, recipe: Recipe) -> str:
    """A sentence on the duration of a run; empty on a cluster, where no step is measured.

    Trials and shards of an earlier run are not counted.
    """
    cell = experiment.cells()[0]
    try:
        if not runs_on_these_cores(session.place):
            return ""
        at_once = concurrent_trials(session.place, nodes_of(session.place))
        settings = first_settings(experiment, cell)
    except (ConfigError, PlaceError):
        return ""  # this machine holds no trial, or the first settings go together in no network
    try:
        manifest = load_shards(session, experiment)
    except DataError:  # not written yet
        has_shards, records = False, tuple[TrialRecord, ...]()
    else:
        folder = study_folder(experiment, manifest, session.store)
        pull_records(folder)
        has_shards, records = True, read_study(folder).records
    step = measure_step(settings, recipe, step_threads(session.place)).seconds
    progress = progress_of(records, experiment.search.grace_seconds)
    left = longest(audio_left(experiment, progress), at_once) * per_audio_second(step, settings, recipe)
    what = "the rest takes" if records else "this takes"
    return (
        f"{what} about {duration(expected_seconds(step, left, has_shards))} on this machine "
        f"(a training step takes {step:.2g} s)"
    )


def expected_seconds(step: float, training: float, has_shards: bool) -> float:
    """Seconds of a run whose training step takes `step` seconds, and whose remaining steps take `training` seconds."""
    stages = sum(seconds for name, seconds in STAGE_SECONDS.items() if not (has_shards and name == "corpus"))
    return TRAINING_OVERHEAD * training + stages * step / REFERENCE_STEP_SECONDS
