"""VIMSS: visually-informed music source separation as an experiment platform.

Shards say what data, experiments say what question, platform says where, vimss says how.
The stages, in the order in which data flows and modules import each other:

    shards -> stream -> model -> features -> train -> evaluate -> experiment -> search
           -> track -> promote -> separate

Below them lies the ground (errors, choice, config, storage, runtime, media, metrics, page); on top the
command line (cli) and quickstart, which calls the verbs. Read one file per stage.

Axis letters, used by every tensor shape in this project:

    b batch    s source or output    c channel      t audio sample (input window)
    u audio sample (output window)   f frequency bin   n STFT frame
    p player   v video frame         h w pixels     i instrument (label)   d feature

From a notebook, in the order of the flow (each is loaded when it is first used):

    at_place          a place and its store, with Ray running: needed to write, search, evaluate, promote
    known_place       the same without Ray: enough to look at what was done, and to separate
    recipe_of         a recipe of shards/, checked
    write             its shards, written now or before
    read_clips        the clips of a split, each a list of players
    read_pieces       whole pieces of a split
    experiment_of     an experiment of experiments/, checked
    shards_of         the shards that an experiment names
    run_search        all its trials; what was run before is kept
    study_of          the trials of an earlier search
    best_trials       the best trial of each cell
    evaluate_systems  models, and the rows that give a dB its meaning, on one split
    promote_best      register the best trial; champion where it is significantly better
    load_separator    the network in a folder
    separate_all      a recording, as a tensor, to its sources
    separate_file     a recording, as a file, to WAVs and a page
    VimssError        every error that is raised on purpose; its rule, got and fix

For example:

    import vimss

    with vimss.at_place("local") as work:
        manifest = vimss.write(work, "quickstart", vimss.recipe_of("quickstart"))
        experiment = vimss.experiment_of("quickstart")
        study, tracker = vimss.run_search(work, experiment, manifest)
        tracker.close()
        models = {cell: trial.folder / "model" for cell, trial in vimss.best_trials(experiment, study).items()}
        for evaluation in vimss.evaluate_systems(manifest, models, "test"):
            print(evaluation.system, evaluation.two_sources.si_sdr_improvement)
    separator = vimss.load_separator(models["search"])
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "at_place": "vimss.verbs",
    "known_place": "vimss.verbs",
    "recipe_of": "vimss.verbs",
    "write": "vimss.verbs",
    "read_clips": "vimss.stream.read",
    "read_pieces": "vimss.stream.read",
    "experiment_of": "vimss.verbs",
    "shards_of": "vimss.verbs",
    "run_search": "vimss.verbs",
    "study_of": "vimss.verbs",
    "best_trials": "vimss.verbs",
    "evaluate_systems": "vimss.verbs",
    "promote_best": "vimss.verbs",
    "load_separator": "vimss.model.separator",
    "separate_all": "vimss.model.apply",
    "separate_file": "vimss.verbs",
    "VimssError": "vimss.errors",
}
"""Public name to the module that defines it. None is called like a module: `vimss.search` is always the module."""

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: all of them together take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vimss' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What an editor or a notebook completes."""
    return sorted({*globals(), *_HOMES})
