"""The figure that steers a search, and the comparison of its values.

    figure = Figure(name="valid_loss", direction="min", title="validation loss", unit="dB")
    figure.better(-3.0, -2.5)                 # True
    best = min(reports, key=lambda report: figure.rank(report[figure.name]))

Each objective names one figure of each report: see `vimss.train.objectives.figure_of`. Searching, pruning, early
stopping, checkpoints and the choice of the best trial compare values through it, so that the direction is defined once.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field

from vimss.config import Config

_NOT_IN_NAMES = re.compile(r"[^\w.\-: ]")
"""What MLflow takes in no name of a metric; a / would make a folder."""


class Figure(Config):
    """A figure of each report of a training, on the fixed validation set."""

    name: str = Field(description="in reports, records and MLflow")
    direction: Literal["min", "max"] = Field(description="whether the lowest or the highest value is the best")
    title: str = Field(description="in tables and on axes")
    unit: str = ""

    @property
    def heading(self) -> str:
        """Heading of a column or an axis."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def text(self, value: float) -> str:
        """A value with its unit.

        >>> Figure(name="valid_loss", direction="min", title="validation loss", unit="dB").text(-2.5)
        '-2.50 dB'
        """
        return f"{value:.2f} {self.unit}".rstrip()

    @property
    def worst(self) -> float:
        """A value that every other one beats, for the time before the first."""
        return math.inf if self.direction == "min" else -math.inf

    @property
    def raw_name(self) -> str:
        """Name of the figure of the raw weights if the weights in use are a moving average."""
        return f"{self.name}_raw"

    def part_name(self, part: str) -> str:
        """Name of the figure of a part of the set, such as the sources of one label: labels may hold any sign.

        >>> Figure(name="valid_loss", direction="min", title="validation loss").part_name("guitar (clean)")
        'valid_loss/guitar _clean_'
        """
        return f"{self.name}/{_NOT_IN_NAMES.sub('_', unicodedata.normalize('NFC', part))}"

    def without(self, report: Mapping[str, float]) -> dict[str, float]:
        """A report without this figure, that of the raw weights and those of parts: all are of one validation set."""
        own = {self.name, self.raw_name}
        return {key: value for key, value in report.items() if key not in own and not key.startswith(f"{self.name}/")}

    def rank(self, value: float) -> float:
        """A number to sort by: the better the value, the lower it is."""
        return value if self.direction == "min" else -value

    def better(self, value: float, than: float) -> bool:
        """Whether a value is better than another one; NaN never is."""
        return self.rank(value) < self.rank(than)

    def best(self, values: Iterable[float]) -> float:
        """The best of some values; the worst possible value if there are none."""
        return min(values, key=self.rank, default=self.worst)
