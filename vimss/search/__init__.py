"""Trials: Ray Tune with Optuna's TPE, and ASHA or top_k, over the cells of an experiment.

    study = search(experiment, manifest, place, store, reporters=[print])
    study.best(["search"]).folder / "model"

run        the cells in their order, each a run of Tune; what is resumed
sampler    what Optuna draws
scoring    trials of before on another validation set
top_k      which trials go on from the first rung, where they wait for each other
observer   Tune's callbacks as records and events
heartbeat  whether a trial still makes progress
failures   why a trial ended with an error
"""

from vimss.search.run import Reporter, concurrent_trials, search

__all__ = ["Reporter", "concurrent_trials", "search"]
