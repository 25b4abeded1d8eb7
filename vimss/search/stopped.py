"""The trial that `vimss search --continue` names: one that stopped before its whole budget.

    record = stopped_trial(experiment, study, "1f2e")     # its name, or the beginning of it

Needs neither Ray nor torch.
"""

from vimss.errors import ConfigError
from vimss.experiment import Experiment
from vimss.search.study import Study, TrialRecord

OPTION = "--continue"

_MOST_NAMED = 12
"""Trials that an error lists."""


def stopped_trial(experiment: Experiment, study: Study, name: str) -> TrialRecord:
    """The trial of this name, or of the one name that begins so; ConfigError where it is none, several or finished.

    `study` holds the trials of the experiment's cells: see `in_cells`.
    """
    # A cell may have the trial of another one, if their settings are equal.
    by_name = {record.trial: record for record in study.records}
    found = [by_name[name]] if name in by_name else [one for trial, one in by_name.items() if trial.startswith(name)]
    if not found:
        stopped = [record for record in by_name.values() if record.state != "finished" and not record.is_refused]
        raise ConfigError(
            f"{OPTION} must name a trial of the experiment '{experiment.name}' by its folder in {study.folder.name}",
            got=repr(name),
            fix=f"choose from {_listed(stopped)}" if stopped else "leave it out: none of its trials has stopped",
        )
    if len(found) > 1:
        raise ConfigError(
            f"{OPTION} must name one trial", got=f"{name!r}, as {_listed(found)} begin", fix="write more of its name"
        )
    (record,) = found
    if record.state == "finished":
        raise ConfigError(
            f"{OPTION} must name a trial that has not finished",
            got=f"{record.trial}, which was trained to its end",
            fix="leave it out; another training.audio_seconds makes other trials",
        )
    if record.is_refused:
        raise ConfigError(
            f"{OPTION} must name a trial that can be trained",
            got=f"{record.trial}, a draw that was refused: {record.message}",
            fix="choose another trial",
        )
    return record


def _listed(records: list[TrialRecord]) -> str:
    named = [f"{record.trial} ({record.cell}, {record.state})" for record in records]
    rest = len(named) - _MOST_NAMED
    return ", ".join(named[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
