"""The figure that cells are compared by: its value, interval over pieces and paired gain, whatever it is made of.

    figures = whole_pieces({"op=film": [evaluation of seed 0, of seed 1]}, others)
    figures.value("op=film"), figures.interval("op=film"), figures.gain("op=film", "op=concat")

Figures are averaged over seeds, which are not resampled: intervals and tests are over pieces alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from statistics import mean
from typing import Protocol

import numpy as np

from vimss.errors import DataError
from vimss.evaluate import Evaluation
from vimss.evaluate.figures import FigureEvaluation, gain_of, interval_of
from vimss.experiment import Experiment
from vimss.intervals import Gain, Interval, Source, interval_over_pieces, paired_gain, weighted_median
from vimss.search.study import TrialRecord
from vimss.shards.manifest import Manifest
from vimss.train.figure import Figure

IMPROVEMENT = Figure(name="si_sdr_improvement", direction="max", title="SI-SDRi", unit="dB")

UNKNOWN = Gain(math.nan, -math.inf, math.inf, 0, 0)
"""Where one of two rows has no figure."""


class Figures(Protocol):
    """One figure of the rows of a table."""

    @property
    def figure(self) -> Figure:
        """Its title, unit and direction."""

    @property
    def basis(self) -> str:
        """What it was measured on, for the caption of the table."""

    @property
    def conventions(self) -> Mapping[str, str]:
        """How it and its interval are computed, by their names."""

    def value(self, row: str) -> float:
        """The figure of a row; NaN where it is not known."""

    def interval(self, row: str) -> Interval | None:
        """95 %, over pieces; None where it is not defined."""

    def over_seeds(self, row: str) -> tuple[float, ...]:
        """The figure of each seed alone."""

    def gain(self, row: str, against: str) -> Gain:
        """How much better a row is than another one, positive where it is better."""


@dataclass(frozen=True)
class WholePieces:
    """Median SI-SDR improvement over the sources of whole pieces: its mean over the seeds."""

    evaluations: Mapping[str, Sequence[Evaluation]]
    """Of each row, one per seed."""
    figure: Figure = IMPROVEMENT

    @property
    def basis(self) -> str:
        """The number of sources and pieces."""
        sources = next((_improvements(one) for of in self.evaluations.values() for one in of), {})
        pieces = len({piece for piece, _ in sources})
        return f"median SI-SDR improvement over {len(sources)} sources in {pieces} whole pieces, mean over seeds"

    @property
    def conventions(self) -> Mapping[str, str]:
        """Those that the evaluation recorded."""
        known = next((one.conventions for of in self.evaluations.values() for one in of), {})
        gain = (
            "mean over pieces of the paired difference of sources, each with its mean over seeds, and Student's t "
            "interval over the pieces"
        )
        return {**{name: known[name] for name in ("SI-SDRi", "(... to ...)") if name in known}, "gain": gain}

    def value(self, row: str) -> float:
        """The mean over the seeds of the median."""
        seeds = self.over_seeds(row)
        return mean(seeds) if seeds else math.nan

    def interval(self, row: str) -> Interval | None:
        """Of that mean: each seed gets the same resampled pieces."""
        seeds = [_improvements(one) for one in self.evaluations.get(row, ())]
        if not seeds:
            return None
        sources = sorted(source for source in seeds[0] if all(math.isfinite(seed[source]) for seed in seeds))
        values = [np.array([seed[source] for source in sources]) for seed in seeds]
        return interval_over_pieces(
            [(piece,) for piece, _ in sources],
            lambda weights: np.mean([weighted_median(of_seed, weights) for of_seed in values], axis=0),
        )

    def over_seeds(self, row: str) -> tuple[float, ...]:
        """The median of each seed."""
        return tuple(one.median(IMPROVEMENT.name) for one in self.evaluations.get(row, ()))

    def gain(self, row: str, against: str) -> Gain:
        """The mean paired difference."""
        sources, others = self._sources(row), self._sources(against)
        return paired_gain(sources, others) if sources and others else UNKNOWN

    def contrast(self, row: str) -> tuple[float, Interval | None]:
        """Label contrast of two-source mixtures: median over sources, mean over seeds, with its interval over pieces.

        NaN of systems that are conditioned on nothing.
        """
        seeds = [one.two_sources.values("label_contrast") for one in self.evaluations.get(row, ())]
        value = mean(of_seed.median for of_seed in seeds) if seeds else math.nan
        if not math.isfinite(value):
            return value, None
        known = np.all([np.isfinite(of_seed.values) for of_seed in seeds], axis=0)
        values, pieces = [of_seed.values[known] for of_seed in seeds], list(compress(seeds[0].pieces, known))
        return value, interval_over_pieces(
            pieces, lambda weights: np.mean([weighted_median(of_seed, weights) for of_seed in values], axis=0)
        )

    def _sources(self, row: str) -> dict[Source, float]:
        """The mean over the seeds of each source; NaN where one of them has none."""
        seeds = [_improvements(one) for one in self.evaluations.get(row, ())]
        return {source: mean(seed[source] for seed in seeds) for source in seeds[0]} if seeds else {}


def _improvements(evaluation: Evaluation) -> dict[Source, float]:
    return {(score.piece, score.label): score.si_sdr_improvement for score in evaluation.scores}


def check_same_pieces(evaluations: Sequence[Evaluation]) -> None:
    """DataError where systems were scored on different sources."""
    kinds: dict[frozenset[Source], list[str]] = {}
    for one in evaluations:
        kinds.setdefault(frozenset(_improvements(one)), []).append(one.system)
    if len(kinds) > 1:
        raise DataError(
            "the rows of a comparison must be scored on the same sources of the same pieces",
            got="; ".join(f"{len(sources)} sources for {', '.join(names)}" for sources, names in kinds.items()),
            fix="run `vimss evaluate` again with the same experiment and split",
        )


@dataclass(frozen=True)
class ObjectiveFigures:
    """The figure of networks that do not separate, on fixed mixtures: its mean over the seeds."""

    evaluations: Mapping[str, Sequence[FigureEvaluation]]
    figure: Figure
    manifest: Manifest
    conventions: Mapping[str, str] = field(
        default_factory=lambda: {
            "gain": "difference of the figures, means over seeds, with a bootstrap interval that draws pieces for both "
            "at once; positive is better"
        }
    )

    @property
    def basis(self) -> str:
        """The number of mixtures and pieces."""
        one = next(one for of in self.evaluations.values() for one in of)
        return f"{self.figure.title} of {len(one.rows)} fixed mixtures of {one.num_pieces} pieces"

    def value(self, row: str) -> float:
        """The mean over the seeds."""
        seeds = self.over_seeds(row)
        return mean(seeds) if seeds else math.nan

    def interval(self, row: str) -> Interval | None:
        """Of that mean."""
        found = self.evaluations.get(row)
        return interval_of(found, self.manifest) if found else None

    def over_seeds(self, row: str) -> tuple[float, ...]:
        """The figure of each seed."""
        return tuple(one.value for one in self.evaluations.get(row, ()))

    def gain(self, row: str, against: str) -> Gain:
        """The paired difference of these means."""
        found, others = self.evaluations.get(row), self.evaluations.get(against)
        return gain_of(found, others, self.manifest) if found and others else UNKNOWN


@dataclass(frozen=True)
class ValidationFigures:
    """The figure on the validation set, which steered the search: its mean over the seeds, without an interval."""

    trials: Mapping[str, Sequence[TrialRecord]]
    """Of each row, the best trial of each seed."""
    experiment: Experiment
    conventions: Mapping[str, str] = field(
        default_factory=lambda: {
            "gain": "difference of the means over seeds on the validation set, without an interval; positive is better"
        }
    )

    @property
    def figure(self) -> Figure:
        """That of the experiment's objective."""
        return self.experiment.figure

    @property
    def basis(self) -> str:
        """That it is no result."""
        return f"{self.figure.title} of the best trials on the set that chose them: too good for a result"

    def value(self, row: str) -> float:
        """The mean over the seeds."""
        seeds = self.over_seeds(row)
        return mean(seeds) if seeds else math.nan

    def interval(self, row: str) -> Interval | None:
        """None: records keep one number for the whole set."""
        return None

    def over_seeds(self, row: str) -> tuple[float, ...]:
        """The figure of the best trial of each seed."""
        return tuple(trial.value for trial in self.trials.get(row, ()) if math.isfinite(trial.value))

    def gain(self, row: str, against: str) -> Gain:
        """The difference of the means, where both are scored on mixtures of as many sources."""
        parts = {trial.scored_sources for name in (row, against) for trial in self.trials.get(name, ())}
        if len(parts) != 1:
            return UNKNOWN
        difference = self.figure.rank(self.value(against)) - self.figure.rank(self.value(row))
        return Gain(difference, -math.inf, math.inf, 0, 0)
