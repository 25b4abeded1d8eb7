"""The axes of a search: the values that Optuna may choose for one setting.

axis = Axis(low=3e-4, high=1e-2, log=True)
for key in topological_order(axes):         # each after those that its `when` names
...
"""

from collections.abc import Iterator, Mapping

from pydantic import Field, model_validator

from vimss.config import Config
from vimss.errors import ConfigError

Scalar = bool | int | float | str
"""A value of a setting that is varied."""


class Axis(Config):
    """The values that Optuna may choose for one setting: some choices, or a range."""

    choices: tuple[Scalar, ...] = Field((), description="values to choose from")
    low: float = Field(0.0, description="lower end of a range")
    high: float = Field(0.0, description="upper end of a range")
    log: bool = Field(False, description="draw on a logarithmic scale")
    when: dict[str, tuple[Scalar, ...]] = Field(
        default_factory=dict, description="only where these other tuned settings have one of these values"
    )

    @model_validator(mode="after")
    def _is_choices_or_range(self) -> "Axis":
        if bool(self.choices) == (self.low < self.high):
            raise ValueError("an axis has either `choices` or a range with `low` below `high`")
        if self.choices and (self.low or self.high or self.log):
            raise ValueError("an axis with `choices` has no `low`, `high` or `log`: they are for a range")
        if len(set(self.choices)) < len(self.choices):
            raise ValueError("an axis must list each choice once")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range needs `low` above 0")
        return self

    def allows(self, value: Scalar) -> bool:
        """Whether the axis contains this value."""
        if self.choices:
            return value in self.choices
        return not isinstance(value, str | bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.choices))}" if self.choices else f"{self.low:g} to {self.high:g}"


def topological_order(axes: Mapping[str, Axis]) -> Iterator[str]:
    """The keys of the axes, each after those that its `when` names; ConfigError where they run in a circle."""
    waiting = dict(axes)
    while waiting:
        ready = [key for key, axis in waiting.items() if not set(axis.when) & set(waiting)]
        if not ready:
            raise ConfigError("`when` must not run in a circle", got=", ".join(waiting), fix="remove one of them")
        for key in ready:
            del waiting[key]
            yield key
