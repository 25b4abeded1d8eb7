"""Trials: Ray Tune with Optuna's samplers, and schedulers that prune, over the cells of an experiment.

    from vimss.search.run import search

    study = search(experiment, manifest, place, store, reporters=[print])
    study.best(["search"]).folder / "model"

Everything that a search decides is a function of its records on disk and the seed.

consistency  an experiment, read and checked against itself
checks       an experiment against shards and place
events       the events that a search reports
study        the records of trials on disk, and the best of them
lock         one process at a time may search a study
lease        the same for a study at s3://, over all machines
remote       copies of a study at s3://, for its driver and its readers
remaining    the training that a search has left
room         how many trials a place holds at once
stopped      a trial that stopped, by its name
run          the cells in their order; resuming; one trial that continues
cells        the ways of running a cell: fixed settings, trials that are pruned one by one, top_k
running      the records and events of a study while it is searched
launch       one run of Tune
draws        the trials that Tune is given: those to resume, then draws without repeated or impossible ones
sampler      what Optuna draws, from the records
dashboard    the same records on Optuna's own pages
schedulers   which trials are pruned while they train, by the records
top_k        which trials continue from the first rung, where they wait for each other
warm_start   trials of other studies that the sampler knows too
scoring      scoring earlier trials again on another validation set
observer     Tune's reports as records and events
heartbeat    whether a trial still makes progress
failures     why a trial ended with an error
estimate     what a search would take, from measured steps
trial        what one trial does in its own process

Those up to `stopped` need neither Ray nor Optuna nor torch, so the command line, reports and tracking read studies
without them; this package imports nothing by itself.
"""
