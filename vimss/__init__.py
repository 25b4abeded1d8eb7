"""VIMSS: visually-informed music source separation as an experiment platform.

Shards say what data, experiments say what question, platform says where, vimss says how.
The stages, in the order in which data flows and modules import each other:

    shards -> stream -> baselines -> model -> features -> train -> systems -> evaluate -> experiment
           -> search -> track -> evaluations -> promote -> separate

Below them is the ground (errors, choice, config, storage, runtime, media, metrics, intervals); above them are pages to
look at and listen to, tables, the public functions (api), the quickstart, which calls them, and the command line (cli).
Read one file per stage.

Axis letters, used by every tensor shape in this project:

    b batch    s source or output    c channel      t audio sample (input window)
    u audio sample (output window)   f frequency bin   n STFT frame
    p player   v video frame         h w pixels     i instrument (label)   d feature

From a notebook, in the order of the flow (each is loaded when it is first used):

    open_session      a place with its store; as a `with` block also its Ray, to write, search, evaluate and promote
    load_recipe       a recipe of shards/, checked
    write_shards      write the shards of a recipe, or open them if they exist
    read_clips        the clips of a split, each a list of players
    read_pieces       whole pieces of a split
    load_experiment   an experiment of experiments/, checked
    load_shards       the shards of an experiment
    run_search        run all its trials; earlier ones are kept
    load_study        the trials of an earlier search
    best_trials       the best trial of each cell
    evaluate_experiment  evaluate the best trial of each cell on one split, by stems or by the figure of its objective
    evaluate_systems  score models, and rows that need no training, on one split
    compare_study     the cells side by side: figures with intervals, gains, costs, and which axes matter
    promote_best      register the best trial; make it the champion if it is significantly better
    load_separator    the network in a folder
    separate_all      separate a recording, as a tensor, into its sources
    separate_file     separate a recording, as a file, into WAVs and a page
    VimssError        the base of all errors that are raised on purpose; it has rule, got and fix

For example:

    import vimss

    with vimss.open_session("local") as session:
        manifest = vimss.write_shards(session, "quickstart", vimss.load_recipe("quickstart"))
        experiment = vimss.load_experiment("quickstart")
        study = vimss.run_search(session, experiment, manifest)
        models = {cell: trial.folder / "model" for cell, trial in vimss.best_trials(experiment, study).items()}
        for evaluation in vimss.evaluate_systems(manifest, models, "test"):
            print(evaluation.system, evaluation.two_sources.si_sdr_improvement)
    separator = vimss.load_separator(models["search"])
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "open_session": "vimss.session",
    "load_recipe": "vimss.shards.recipe",
    "write_shards": "vimss.api",
    "read_clips": "vimss.stream.read",
    "read_pieces": "vimss.stream.read",
    "load_experiment": "vimss.search.consistency",
    "load_shards": "vimss.api",
    "run_search": "vimss.api",
    "load_study": "vimss.api",
    "best_trials": "vimss.api",
    "evaluate_experiment": "vimss.api",
    "evaluate_systems": "vimss.evaluations",
    "compare_study": "vimss.pages.of_comparison",
    "promote_best": "vimss.promote",
    "load_separator": "vimss.model.separator",
    "separate_all": "vimss.model.apply",
    "separate_file": "vimss.named_models",
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
