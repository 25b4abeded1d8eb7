"""Trials: Ray Tune with Optuna's TPE, and ASHA or top_k, over the cells of an experiment.

    from vimss.search.run import search

    study = search(experiment, manifest, place, store, reporters=[print])
    study.best(["search"]).folder / "model"

consistency  an experiment, read and checked against itself
checks       an experiment against shards and place
events       the events that a search reports
study        the records of trials on disk, and the best of them
lock         one process at a time may search a study
remaining    the training that a search has left
run          the cells in their order, each a run of Tune; resuming
sampler      what Optuna draws
scoring      scoring earlier trials again on another validation set
top_k        which trials continue from the first rung, where they wait for each other
observer     Tune's callbacks as records and events
heartbeat    whether a trial still makes progress
failures     why a trial ended with an error
trial        what one trial does in its own process

Those up to `remaining` need neither Ray nor Optuna nor torch, so the command line, reports and tracking read studies without
them; this package imports nothing by itself.
"""
