"""The events of a search, which reporters such as the terminal and MLflow receive.

    search(experiment, manifest, place, store, reporters=[lambda event: print(event)])

Plain values without Ray, Optuna or torch, so that a reporter needs none of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vimss.axes import Scalar
from vimss.train.config import Settings


@dataclass(frozen=True)
class TrialsScoredAgain:
    """Weights of earlier trials were scored on the current validation set, before any cell starts."""

    done: int
    total: int


@dataclass(frozen=True)
class CellsLeftOut:
    """Cells that this machine can never train do not start; see `vimss.search.left_out`."""

    cells: dict[str, str]
    """Their names, and why."""


@dataclass(frozen=True)
class CellStarted:
    """A cell starts."""

    cell: str
    overrides: dict[str, Scalar]
    is_control: bool


@dataclass(frozen=True)
class TrialReplayed:
    """A trial that ended or waits at the rung already, in an earlier call or as that of another cell."""

    cell: str
    trial: str
    chosen: dict[str, Scalar]
    """The sampler's choices, by key path."""
    reports: tuple[dict[str, float], ...]
    """The metrics of each validation, with `audio_seconds`."""
    state: Literal["finished", "pruned", "waiting"]


@dataclass(frozen=True)
class TrialStarted:
    """A trial starts, or resumes after an interruption."""

    cell: str
    trial: str
    settings: Settings | None
    """None where what was chosen goes together in no network."""
    chosen: dict[str, Scalar]
    """The sampler's choices, by key path."""


@dataclass(frozen=True)
class TrialReported:
    """A trial was validated."""

    cell: str
    trial: str
    audio_seconds: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrialWaits:
    """A trial has reached the rung, and waits for the others there."""

    cell: str
    trial: str


@dataclass(frozen=True)
class TrialContinues:
    """A trial that waited continues from the rung to the whole budget."""

    cell: str
    trial: str


@dataclass(frozen=True)
class TrialEnded:
    """A trial is over."""

    cell: str
    trial: str
    state: Literal["finished", "pruned", "failed", "interrupted"]
    """Interrupted trials resume when the same search runs again."""
    folder: Path
    """The trial's folder; `folder / "model"` holds the best weights where there are any."""
    message: str = ""


@dataclass(frozen=True)
class CellEnded:
    """A cell is over; `best` is its best trial, empty where every trial failed."""

    cell: str
    best: str
    metrics: dict[str, float] = field(default_factory=dict)


Event = (
    TrialsScoredAgain
    | CellsLeftOut
    | CellStarted
    | TrialReplayed
    | TrialStarted
    | TrialReported
    | TrialWaits
    | TrialContinues
    | TrialEnded
    | CellEnded
)

Reporter = Callable[[Event], None]
"""Called with each event, in the driver."""
