"""Settings in the file of an experiment that change none of its trainings: refused, rather than ignored.

check_idle(experiment, path, overrides=["model.site=none"])
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from vimss.axes import Axis, Scalar, topological_order
from vimss.errors import ConfigError
from vimss.experiment import NETWORK, Experiment, SearchConfig, read_experiment, sample_values
from vimss.train.config import Settings
from vimss.train.idle import idle_error
from vimss.train.rules import RULES, keys_with_rules


def draws_of(axes: Mapping[str, Axis], keys: Collection[str]) -> Iterator[dict[str, Scalar]]:
    """All combinations of these axes and of those that their `when` names; a range is represented by a few values."""
    wanted = set(keys)
    order = list(topological_order(axes))
    for key in reversed(order):
        wanted |= set(axes[key].when) if key in wanted else set()

    def extend(draw: dict[str, Scalar], left: Sequence[str]) -> Iterator[dict[str, Scalar]]:
        if not left:
            yield draw
            return
        key, axis = left[0], axes[left[0]]
        if all(draw.get(other) in values for other, values in axis.when.items()):
            for value in sample_values(key, axis):
                yield from extend({**draw, key: value}, left[1:])
        else:
            yield from extend(draw, left[1:])

    return extend({}, [key for key in order if key in wanted])


def check_idle(experiment: Experiment, path: Path, overrides: Sequence[str]) -> None:
    """Refuse settings in the file that change no training of the experiment.

    A setting that has become idle only because of a `--set` is allowed.
    """
    found = _find_idle(experiment)
    given = {override.partition("=")[0] for override in overrides}
    if found and given:
        try:
            before = _find_idle(read_experiment(path))
        except ConfigError:
            before = {}  # a file that needs its --set
        found = {where: error for where, error in found.items() if where in before or where in given}
    for error in found.values():
        raise error


def _find_idle(experiment: Experiment) -> dict[str, ConfigError]:
    """The settings that are given and change nothing, by their place in the file."""
    found = {}
    # The same points come again for each setting: without keeping them, reading a large experiment takes seconds.
    written: dict[str, Settings | None] = {}
    for where, key, points in _given_settings(experiment):
        for point in points:
            if repr(point) not in written:
                written[repr(point)] = experiment.as_written(point)
        settings = [settings for point in points if (settings := written[repr(point)]) is not None]
        error = idle_error(settings, key, experiment.name, where)
        if error is not None:
            found[where] = error
    for name in experiment.search.model_fields_set if not experiment.tune else ():
        value = getattr(experiment.search, name)
        if value != SearchConfig.model_fields[name].default:
            found[f"search.{name}"] = ConfigError(
                f"experiment {experiment.name}: search.{name} needs `tune`: without it a cell has one trial",
                got=f"search.{name}: {value}",
                fix=f"remove search.{name}, or add `tune`",
            )
    return found


def _given_settings(experiment: Experiment) -> Iterator[tuple[str, str, list[dict[str, Scalar]]]]:
    """Each place of a setting that may be idle, its key path, and the overrides under which it applies."""
    axes, cells = experiment.tune, experiment.cells()
    for key in keys_with_rules():
        depends_on = RULES[key].depends_on if key in RULES else ()
        relevant = {key, *depends_on, *([NETWORK] if key.startswith("model.") else [])} & set(axes)
        searched = [
            (cell, draw, {**cell.overrides, **draw})
            for cell in cells
            if not cell.is_control
            for draw in draws_of(axes, relevant)
        ]
        # A control takes some settings from the best trial.
        controls = [
            (cell, {**draw, **cell.overrides})
            for cell in cells
            if cell.is_control
            for draw in draws_of(axes, relevant & set(experiment.inherited))
        ]
        points = [*(point for *_, point in searched), *(point for _, point in controls)]
        yield key, key, [{}, *(point for point in points if key not in point)]
        if key in experiment.compare:
            yield f"compare.{key}", key, [point for *_, point in searched]
        if key in axes:
            yield f"tune.{key}", key, [point for _, draw, point in searched if key in draw]
        for first in experiment.search.first_trials:
            if key in first:
                yield f"search.first_trials.{key}", key, [{**point, **first} for *_, point in searched]
        for name in experiment.variants:
            if key in experiment.variants[name]:
                yield f"variants.{name}.{key}", key, [point for cell, _, point in searched if cell.variant == name]
        for name in experiment.controls:
            if key in experiment.controls[name]:
                yield f"controls.{name}.{key}", key, [point for cell, point in controls if cell.name == name]
