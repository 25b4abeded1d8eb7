"""Where MLflow lives: runs, pictures, curves and models, written by the driver process alone.

    tracking = Tracking(store)                       # SQLite in the store, or Tracking(store, "http://host:5000")
    synced = sync(tracking, experiment, manifest, folder)   # vimss.track.sync
    version = register(tracking, "quickstart", folder, synced.run_ids["search", "a1b2"], metrics, card)
    model_folder("models:/quickstart@champion", tracking)

Everything about runs is written by `sync` from the records on disk: a tracking server that is down neither stops nor
slows a search, and loses nothing. Workers never import this package.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# MLflow reads these when it is imported or at each request, so they come first. The user's own values win.
for _name, _value in {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # our models hold none, and others' are not to run code
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # an open door (CVE-2026-0545) and eight processes
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where --json prints
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the next sync retries; MLflow's own would create a run twice
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}.items():
    os.environ.setdefault(_name, _value)

if TYPE_CHECKING:
    from vimss.track.logged import signature_of, weights_digest
    from vimss.track.registry import (
        ModelVersion,
        find_alias,
        find_version,
        model_folder,
        newest_version,
        register,
        registered_as,
        set_alias,
        tag_version,
    )
    from vimss.track.runs import TrialRun, attach, find_trial_run
    from vimss.track.store import Tracking
    from vimss.track.ui import experiment_pages, serve_ui, ui_command

__all__ = [
    "ModelVersion",
    "Tracking",
    "TrialRun",
    "attach",
    "experiment_pages",
    "find_alias",
    "find_trial_run",
    "find_version",
    "model_folder",
    "newest_version",
    "register",
    "registered_as",
    "serve_ui",
    "set_alias",
    "signature_of",
    "tag_version",
    "ui_command",
    "weights_digest",
]

_MODULES = {
    "logged": ("signature_of", "weights_digest"),
    "registry": (
        *("ModelVersion", "find_alias", "find_version", "model_folder", "newest_version", "register", "set_alias"),
        *("registered_as", "tag_version"),
    ),
    "runs": ("TrialRun", "attach", "find_trial_run"),
    "store": ("Tracking",),
    "ui": ("experiment_pages", "serve_ui", "ui_command"),
}


def __getattr__(name: str) -> Any:
    """Import at first use: MLflow takes seconds, which `vimss.track.names` does without."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"vimss.track.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
