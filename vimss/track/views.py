"""How MLflow's pages show an experiment: the columns of its run table, and its charts, as shared views.

A view is JSON in a tag of the experiment; MLflow's pages look for it under the name in the address.
"""

import posixpath
import re
from typing import Any

from vimss.experiment import NETWORK, SEED, Experiment
from vimss.shards.recipe import NOT_IN_METRICS

VIEW = "vimss"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""The experiment's tag under which MLflow's pages look for a shared view: columns and order, as JSON."""

CHARTS = "vimss-charts"
CHARTS_TAG = f"mlflow.sharedViewState.{CHARTS}"
"""The same for the view with charts of the trials."""

SYSTEM_METRICS = {"audio_seconds_per_second", "loader_wait", "peak_memory_gib"}
"""Figures of the machine, which MLflow's pages show apart from those of the model."""


def table_view(experiment: Experiment) -> dict[str, Any]:
    """Trials below their cell; where seeds are compared, the cells' own runs, gathered over the seeds."""
    varied = [key for key in _axes(experiment) if key != SEED]
    columns = [f"metrics.`{metric_name(experiment.figure.name)}`"]
    columns += ["tags.`variant`"] if experiment.variants else []
    columns += [f"params.`{key}`" for key in varied]
    view: dict[str, Any] = {
        "orderByKey": "attributes.start_time",  # the only order that keeps trials below their cell
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "searchFilter": "",
        "selectedColumns": [*columns, "tags.`state`", "attributes.`Duration`"],
    }
    if SEED in experiment.compare:
        group = {"mode": "tag", "groupByData": "cell without seed"}
        view |= {
            "searchFilter": "tags.kind != 'trial'",  # a cell's own run has the figures of its best trial
            "groupBy": {"aggregateFunction": "average", "groupByKeys": [group]},
        }
    return view


def charts_view(experiment: Experiment) -> dict[str, Any]:
    """Parallel coordinates of the trials over what was compared and tuned, and their curves."""
    figure = metric_name(experiment.figure.name)
    shared = {"deleted": False, "isGenerated": False, "metricSectionId": "trials"}
    parallel = {
        "type": "PARALLEL",
        "uuid": "axes",
        "selectedParams": _axes(experiment) or [SEED],
        "selectedMetrics": [figure],
        "showAllRuns": True,
    }
    curves = {
        "type": "LINE",
        "uuid": "curves",
        "metricKey": figure,
        "selectedMetricKeys": [figure],
        "xAxisKey": "step",
        "useGlobalXaxisKey": False,
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
    }
    section = {"uuid": "trials", "name": "Trials", "display": True, "isReordered": False}
    return {
        **table_view(experiment),
        "searchFilter": "tags.kind = 'trial'",  # the run of a cell has the params of one of them
        # In the order of their start, MLflow would show the cells too.
        "orderByKey": f"metrics.`{figure}`",
        "orderByAsc": experiment.figure.direction == "min",
        "groupBy": None,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [{**chart, **shared} for chart in (parallel, curves)],
        "compareRunSections": [section],
    }


def _axes(experiment: Experiment) -> list[str]:
    """What is compared and tuned; of variants the network, or else what most of them set."""
    variants = list(experiment.variants.values())
    keys = list(dict.fromkeys(key for fixed in variants for key in fixed))
    shared = [key for key in keys if 2 * sum(key in fixed for fixed in variants) > len(variants)]
    return [*([NETWORK] if NETWORK in keys else shared), *experiment.compare, *experiment.tune]


def metric_name(name: str) -> str:
    """MLflow allows letters, digits and these signs, and slashes only as in a relative path."""
    if name in SYSTEM_METRICS:
        return f"system/{name}"
    allowed = NOT_IN_METRICS.sub("_", name)
    is_path = posixpath.normpath(allowed) == allowed and not allowed.startswith(("/", "."))
    return allowed if is_path else re.sub(r"^\.+|/", "_", allowed)
