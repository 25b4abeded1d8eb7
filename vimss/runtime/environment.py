"""Environment variables of a place: set in this process, and given to the workers of a cluster.

    set_variables(place)
    ray.init(address="auto", runtime_env=runtime_env(place))

Processes on other nodes inherit the environment of their node, not that of this process. A variable that is set
already stays as it is, and workers get this process's values.
"""

import json
import os
from collections.abc import Callable
from typing import Any

from vimss.errors import PlaceError
from vimss.runtime.place import JOB_VARIABLE, Place

RAY_VARIABLES = {
    # The trainer's controller polls its workers for reports this often; the default of 2 s blocks every report.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Our own lines report the progress of a search.
    "RAY_AIR_NEW_OUTPUT": "0",
    # We keep our own records of trials; Tune's CSV, JSON and TensorBoard files would be written beside them.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # We print the reason of a failed trial in one line, instead of Tune's traceback through three processes.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Ray's watch over memory ends a process by an error that Tune takes for one of its own, and the search with it.
    "RAY_memory_monitor_refresh_ms": "0",
    # A process that does not end after its trial was stopped is killed; Tune would wait for ten minutes.
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
    # Tune would take Ctrl-C for the end of one cell, and the next one would start.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
"""Settings of Ray that have no argument; the user's own values win."""

NODE_VARIABLES = ("RAY_USAGE_STATS_ENABLED", "RAY_memory_monitor_refresh_ms")
"""Those that the processes of a node read when it starts: what starts the nodes of a cluster must set them."""


def set_variables(place: Place) -> None:
    """Set the variables of Ray and of the place in this process, except those that are set already."""
    for name, value in {**RAY_VARIABLES, **place.environment}.items():
        os.environ.setdefault(name, value)


def check_secrets(place: Place) -> None:
    """PlaceError where this process lacks a variable that the place names in `secrets`."""
    missing = [name for name in place.secrets if not os.environ.get(name)]
    if missing:
        raise PlaceError(
            f"this process must have the secrets that '{place.name}' names",
            got=f"no {' and no '.join(missing)}",
            fix="set them in the environment of this process, or remove them from `secrets` where nodes have their own",
        )


def runtime_env(place: Place) -> dict[str, Any]:
    """Ray's `runtime_env`, by which all workers of this driver get the variables of this process."""
    # The variables of a submitted job reach its workers anyway, and Ray refuses to be given one twice.
    job = json.loads(os.environ.get(JOB_VARIABLE, "{}")).get("runtime_env") or {}
    names = {*RAY_VARIABLES, *place.environment} - {*job.get("env_vars", {})}
    wanted: dict[str, Any] = {"env_vars": {name: os.environ[name] for name in sorted(names)}}
    secrets = {name: os.environ[name] for name in place.secrets if name not in job.get("env_vars", {})}
    if secrets:
        wanted["worker_process_setup_hook"] = _setter(secrets)
    return wanted


def _setter(variables: dict[str, str]) -> Callable[[], None]:
    """A function that sets these variables in a worker.

    Ray shows `env_vars` on its dashboard and in its logs, and such a function nowhere.
    """

    def set_secrets() -> None:
        os.environ.update(variables)

    return set_secrets
