"""Trials of other studies, whose values the sampler of a search knows from the start.

    earlier = earlier_trials(experiment, manifest, store)   # as `search.warm_start` names them

They never count as trials of this study. Their values should be comparable with its own, or at least rank settings as
it does: a study of the same question on less data, or of a smaller budget.
"""

from vimss.axes import topological_order
from vimss.errors import ConfigError
from vimss.experiment import Experiment
from vimss.search.remote import make_folders, pull_records
from vimss.search.study import TrialRecord, read_study, study_folder
from vimss.shards.manifest import Manifest
from vimss.storage import Store


def earlier_trials(experiment: Experiment, manifest: Manifest, store: Store) -> tuple[TrialRecord, ...]:
    """The trials of the studies that `search.warm_start` names; ConfigError where they do not fit."""
    found: list[TrialRecord] = []
    for name in experiment.search.warm_start:
        where = f"experiment {experiment.name}: search.warm_start"
        if name == study_folder(experiment, manifest, store).name:
            raise ConfigError(
                f"{where} must name other studies", got=f"'{name}', its own", fix="remove it: its trials are known"
            )
        folder = store.studies / name
        make_folders(store.studies)
        if folder.is_dir():
            pull_records(folder)
        records = [record for record in read_study(folder).records if record.chosen and not record.is_control]
        if "/" in name or not records:
            others = ", ".join(sorted(path.name for path in store.studies.glob("*") if path.is_dir())) or "none"
            raise ConfigError(
                f"{where} must name studies with trials, by their folders in {store.studies}",
                got=f"'{name}'",
                fix=f"choose from {others}",
            )
        for record in records:
            _check_fits(where, name, experiment, record)
        found += records
    return tuple(found)


def _check_fits(where: str, name: str, experiment: Experiment, record: TrialRecord) -> None:
    if record.figure != experiment.figure:
        raise ConfigError(
            f"{where} must name studies with the figure of this one, {experiment.figure.name}",
            got=f"{record.figure.name} in '{name}'",
            fix="remove it: such values cannot be compared",
        )
    axes = experiment.tune
    expected: list[str] = []
    for key in topological_order(axes):
        if all(other in expected and record.chosen[other] in values for other, values in axes[key].when.items()):
            if key not in record.chosen or not axes[key].allows(record.chosen[key]):
                raise ConfigError(
                    f"{where} must name studies with the axes of this one, of which tune.{key} is {axes[key]}",
                    got=f"{record.chosen.get(key, 'no such axis')!s} in a trial of '{name}'",
                    fix=f"remove it, or write tune.{key} as it was there",
                )
            expected.append(key)
    unknown = sorted(set(record.chosen) - set(expected))
    if unknown:
        raise ConfigError(
            f"{where} must name studies with the axes of this one, {', '.join(axes)}",
            got=f"{', '.join(unknown)} in a trial of '{name}'",
            fix="remove it, or add the axis to `tune`",
        )
