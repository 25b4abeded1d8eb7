"""Where MLflow lives: runs, pictures, curves and models, written by the driver process alone.

    tracking = Tracking(store)                       # SQLite in the store, or Tracking(store, "http://host:5000")
    with Tracker(tracking, study) as tracker:
        search(..., report=tracker)                  # the events of vimss.experiment
        tracker.log_files("search", "a1b2", {"page.html": page})
        version = register(tracking, "quickstart", folder, tracker.run_id("search", "a1b2"), metrics, card)
    model_folder("models:/quickstart@champion", tracking)

Every write goes through a spool in the store (spool), which a thread carries to MLflow (delivery): a tracking
server that is down neither stops nor slows a search, and loses nothing. Workers never import this package.
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
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the spool retries; MLflow's own would create a run twice
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}.items():
    os.environ.setdefault(_name, _value)

if TYPE_CHECKING:
    from vimss.track.delivery import Undelivered
    from vimss.track.registry import (
        ModelVersion,
        find_alias,
        find_version,
        model_folder,
        newest_version,
        register,
        set_alias,
        tag_version,
    )
    from vimss.track.store import Tracking, runs_page, serve_ui, ui_command
    from vimss.track.tracker import TrackedStudy, Tracker, provenance

__all__ = [
    "ModelVersion",
    "TrackedStudy",
    "Tracker",
    "Tracking",
    "Undelivered",
    "find_alias",
    "find_version",
    "model_folder",
    "newest_version",
    "provenance",
    "register",
    "runs_page",
    "serve_ui",
    "set_alias",
    "tag_version",
    "ui_command",
]

_MODULES = {
    "delivery": ("Undelivered",),
    "registry": (
        *("ModelVersion", "find_alias", "find_version", "model_folder", "newest_version", "register", "set_alias"),
        "tag_version",
    ),
    "store": ("Tracking", "runs_page", "serve_ui", "ui_command"),
    "tracker": ("TrackedStudy", "Tracker", "provenance"),
}


def __getattr__(name: str) -> Any:
    """Import at first use: MLflow takes seconds, which `vimss.track.names` does without."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"vimss.track.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
