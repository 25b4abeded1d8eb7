"""Runs in MLflow: that of a trial, found by what people copy from MLflow's pages; and the files of a run.

    run = find_trial_run(tracking, "learning_rate=0.001 3f9c2a1b07")     # or the run's id, or the trial's name
    run.experiment, run.study, run.trial
    attach(tracking, run.run_id, {"page.html": page})

What a run does not say lies in the store: its study's folder, and the shards of the digest that it names.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.exceptions import MlflowException

from vimss.errors import ModelError, PlaceError
from vimss.storage import explain_os_errors
from vimss.track.notes import NOTE
from vimss.track.store import Tracking, explain_mlflow_errors, one_line

RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class TrialRun:
    """A run with what leads to its trial on disk."""

    run_id: str
    experiment: str
    question: str
    study: str
    """Name of the study's folder."""
    cell: str
    trial: str
    shards: str
    """Digest of the shards that it was trained on; the first, where there were several."""


def find_trial_run(tracking: Tracking, given: str) -> TrialRun:
    """The run of this id, this name or this trial.

    Raises:
        ModelError: There is none, there are several, or it is the run of a cell or of another program.
        PlaceError: MLflow does not answer.

    """
    with explain_mlflow_errors(tracking):
        client = tracking.client()
        found = _runs(client, given)
        if len(found) != 1:
            raise ModelError(
                "RUN must be the id of one run in MLflow, its name or its trial's",
                got=f"{len(found) or 'no'} runs for '{given}'" + "".join(f", {run.info.run_id}" for run in found),
                fix="give one of these ids" if found else "copy it from the pages of `vimss ui`",
            )
        (run,) = found
        tags = run.data.tags
        if tags.get("kind") != "trial":
            best = tags.get("best run")
            raise ModelError(
                "RUN must be the run of a trial",
                got=f"that of the cell '{tags['cell']}'" if "cell" in tags else f"'{given}', which VIMSS did not write",
                fix=f"promote the best of its trials: {best}" if best else "choose a run with the tag 'trial'",
            )
        experiment = client.get_experiment(run.info.experiment_id)
    question = experiment.tags.get(NOTE, "").partition("\n")[0].strip("*")
    _, _, digest = tags["shards"].partition(",")[0].partition(" ")
    return TrialRun(run.info.run_id, experiment.name, question, tags["signature"], tags["cell"], tags["trial"], digest)


def _runs(client: MlflowClient, given: str) -> list[Run]:
    if RUN_ID.fullmatch(given):
        try:
            run = client.get_run(given)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return []
        return [run] if run.info.lifecycle_stage == LifecycleStage.ACTIVE else []
    # A run's name ends in its trial's: see wanted._trial_name.
    trial = given.rpartition(" ")[2]
    if not trial.isalnum():
        return []
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.trial = '{trial}'")
    return [run for run in runs if given in (trial, run.info.run_name)]


def attach(tracking: Tracking, run_id: str, files: Mapping[str, bytes]) -> None:
    """Give a run files, each by its path there. PlaceError where MLflow does not answer."""
    with explain_mlflow_errors(tracking):
        client = tracking.client()
        put_files(tracking, client, client.get_run(run_id), files)


def put_files(tracking: Tracking, client: MlflowClient, run: Run, files: Mapping[str, bytes | Path]) -> None:
    """Write files, or their contents, into the folder of a run: here, or by way of MLflow's server.

    StorageError or PlaceError where they cannot be written.
    """
    here = tracking.here(run.info.artifact_uri)
    with tempfile.TemporaryDirectory() as staging:
        folder = here or Path(staging)
        with explain_os_errors(folder):
            for name, content in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        if here is None:
            with explain_artifact_errors(run.info.artifact_uri):
                client.log_artifacts(run.info.run_id, staging)


@contextmanager
def explain_artifact_errors(location: str) -> Iterator[None]:
    """Turn what the client of a store of artifacts raises into a PlaceError; what MLflow refuses stays its own error.

    MLflow passes on the errors of requests, boto3 and other clients, which have no class in common, and its server
    answers 500 where its own client of the store fails.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MlflowException) and error.error_code != "INTERNAL_ERROR":
            raise
        raise PlaceError(
            f"MLflow's artifacts at {location} must be within reach",
            got=f"{type(error).__name__}, {one_line(error)}",
            fix="check that their store is there and takes our credentials, and read the tracking server's log",
        ) from error
