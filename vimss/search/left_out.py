"""Cells that this machine can never train, which a search leaves out: those in bfloat16 on cores without its units.

    left_out(experiment, study, place)    # {"half": "training.precision: bfloat16 needs a device with units ..."}

Only cores of this machine are looked at. A GPU or a cluster is not: the process of the trial finds out there, because
to ask a GPU takes a part of its memory, and the nodes of a cluster may differ.
"""

from collections.abc import Iterable, Mapping

from vimss.errors import ConfigError, TrainingError
from vimss.experiment import Cell, Experiment
from vimss.runtime import Place
from vimss.search.room import is_this_machine
from vimss.search.study import Study, resolved_controls

PRECISION = "training.precision"


def left_out(experiment: Experiment, study: Study, place: Place) -> dict[str, str]:
    """The cells that are not trained to their end and cannot be on this machine, by name, and why.

    ConfigError where these are all cells, or all but controls, which inherit from the best trial of another cell.
    """
    cells = experiment.cells()
    searched = [cell for cell in cells if not cell.is_control]
    try:
        controls = resolved_controls(experiment, study.best(cell.name for cell in searched))
        has_best = True
    except TrainingError:  # no trial has weights yet
        controls, has_best = [cell for cell in cells if cell.is_control], False
    refused = {
        cell.name: error
        for cell in (*searched, *controls)
        if (error := _refusal(experiment, cell, place)) is not None and not _is_trained(experiment, cell, study)
    }
    if len(refused) == len(cells) or (not has_best and all(cell.name in refused for cell in searched)):
        raise refused[cells[0].name]
    return {name: f"{error.rule}; got {error.got}" for name, error in refused.items()}


def describe(cells: Mapping[str, str]) -> list[str]:
    """A sentence for each reason why cells are left out."""
    sentences = []
    for reason in dict.fromkeys(cells.values()):
        names = [f"'{name}'" for name, own in cells.items() if own == reason]
        listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        what, are = ("cells", "are") if len(names) > 1 else ("cell", "is")
        sentences.append(f"{what} {listed} {are} left out on this machine: {reason}")
    return sentences


def _refusal(experiment: Experiment, cell: Cell, place: Place) -> ConfigError | None:
    """The error with which every training of a cell would end; None where one may run."""
    may_differ: Iterable[str] = experiment.inherited if cell.is_control else experiment.tune
    is_open = PRECISION in may_differ and PRECISION not in cell.fixes
    if is_open or not is_this_machine(place) or place.gpus_per_worker:
        return None
    precision = cell.fixes.get(PRECISION, experiment.training.get("precision", "float32"))
    if precision == "float32":
        return None
    import torch

    from vimss.train.device import check_precision

    try:
        check_precision("bfloat16", torch.device("cpu"))
    except ConfigError as error:
        return error
    return None


def _is_trained(experiment: Experiment, cell: Cell, study: Study) -> bool:
    """Whether a cell already has all of its trials, such as from another machine."""
    states = [record.state for record in study.of_cell(cell.name)]
    if cell.is_control or not experiment.tune:
        return "finished" in states
    return states.count("finished") + states.count("pruned") >= experiment.search.trials
