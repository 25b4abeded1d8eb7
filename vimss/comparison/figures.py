"""The figure that cells are compared by: its value, interval over pieces and paired gain, whatever it is made of.

    figures = Separated({"op=film": [evaluation of seed 0, of seed 1], "op=concat": [...]})
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
from vimss.evaluate import Evaluation, Values
from vimss.evaluate.figures import FigureEvaluation, gain_of, interval_of
from vimss.experiment import Experiment
from vimss.intervals import (
    Gain,
    Interval,
    Source,
    gain_over_pieces,
    interval_over_pieces,
    paired_gain,
    weighted_mean,
    weighted_median,
)
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
class Separated:
    """Median SI-SDR improvement over sources: its mean over the seeds."""

    evaluations: Mapping[str, Sequence[Evaluation]]
    """Of each row, one per seed."""
    figure: Figure = IMPROVEMENT

    @property
    def has_pieces(self) -> bool:
        """Whether whole pieces are scored; in solos there are only mixtures."""
        return all(one.scores for of in self.evaluations.values() for one in of)

    @property
    def basis(self) -> str:
        """The number of sources and pieces."""
        scored = next((self._scored(one) for of in self.evaluations.values() for one in of), {})
        pieces = len({piece for _, of in scored.values() for piece in of})
        where = f"{pieces} whole pieces" if self.has_pieces else f"two-source mixtures of {pieces} pieces"
        return f"median SI-SDR improvement over {len(scored)} sources in {where}, mean over seeds"

    @property
    def conventions(self) -> Mapping[str, str]:
        """Those that the evaluation recorded."""
        known = next((one.conventions for of in self.evaluations.values() for one in of), {})
        how = "Student's t interval over the pieces" if self.has_pieces else "a bootstrap interval that draws pieces"
        gain = f"mean of the paired difference of sources, each with its mean over seeds, and {how}"
        return {**{name: known[name] for name in ("SI-SDRi", "(... to ...)") if name in known}, "gain": gain}

    def value(self, row: str) -> float:
        """The mean over the seeds of the median."""
        seeds = self.over_seeds(row)
        return mean(seeds) if seeds else math.nan

    def interval(self, row: str) -> Interval | None:
        """Of that mean: each seed gets the same resampled pieces."""
        seeds = [self._scored(one) for one in self.evaluations.get(row, ())]
        if not seeds:
            return None
        sources = [source for source in seeds[0] if all(math.isfinite(seed[source][0]) for seed in seeds)]
        values = [np.array([seed[source][0] for source in sources]) for seed in seeds]
        return interval_over_pieces(
            [seeds[0][source][1] for source in sources],
            lambda weights: np.mean([weighted_median(of_seed, weights) for of_seed in values], axis=0),
        )

    def over_seeds(self, row: str) -> tuple[float, ...]:
        """The median of each seed."""
        return tuple(
            one.median(IMPROVEMENT.name) if self.has_pieces else one.two_sources.si_sdr_improvement
            for one in self.evaluations.get(row, ())
        )

    def gain(self, row: str, against: str) -> Gain:
        """The mean paired difference."""
        sources, others = self._means(row), self._means(against)
        if not sources or not others:
            return UNKNOWN
        if self.has_pieces:
            return paired_gain(sources, others)
        # A mixture may be of two pieces, each of which is in others.
        scored = self._scored(self.evaluations[row][0])
        differences = np.array([sources[source] - others[source] for source in scored])
        return gain_over_pieces(
            [pieces for _, pieces in scored.values()], lambda weights: weighted_mean(differences, weights)
        )

    def contrast(self, row: str) -> tuple[float, Interval | None]:
        """Label contrast of two-source mixtures: median over sources, mean over seeds, with its interval over pieces.

        NaN of systems that are conditioned on nothing.
        """
        return _mean_median([one.two_sources.values("label_contrast") for one in self.evaluations.get(row, ())])

    def by_sources(self, row: str) -> dict[int, tuple[float, Interval | None]]:
        """SI-SDR improvement on mixtures of each number of sources that was asked for, as `contrast`."""
        seeds: dict[int, list[Values]] = {}
        for one in self.evaluations.get(row, ()):
            for count in one.source_counts:
                seeds.setdefault(count.sources, []).append(count.values)
        return {count: _mean_median(of_count) for count, of_count in seeds.items()}

    def _means(self, row: str) -> dict[Source, float]:
        """The mean over the seeds of each source; NaN where one of them has none."""
        seeds = [self._scored(one) for one in self.evaluations.get(row, ())]
        return {source: mean(seed[source][0] for seed in seeds) for source in seeds[0]} if seeds else {}

    def _scored(self, evaluation: Evaluation) -> dict[Source, tuple[float, tuple[str, ...]]]:
        """The improvement of each source, and the pieces that it is from."""
        if self.has_pieces:
            return {
                (score.piece, score.label): (score.si_sdr_improvement, (score.piece,)) for score in evaluation.scores
            }
        return {
            (str(score.mixture), f"{place} {label}"): (value, score.pieces)
            for score in evaluation.two_sources.scores
            for place, (label, value) in enumerate(zip(score.labels, score.si_sdr_improvement, strict=True))
        }

    def check_same_sources(self) -> None:
        """DataError where the rows were scored on different sources."""
        kinds: dict[frozenset[Source], list[str]] = {}
        for one in (one for of in self.evaluations.values() for one in of):
            kinds.setdefault(frozenset(self._scored(one)), []).append(one.system)
        if len(kinds) > 1:
            raise DataError(
                "the rows of a comparison must be scored on the same sources of the same pieces",
                got="; ".join(f"{len(sources)} sources for {', '.join(names)}" for sources, names in kinds.items()),
                fix="run `vimss evaluate` again with the same experiment and split",
            )


def _mean_median(seeds: Sequence[Values]) -> tuple[float, Interval | None]:
    """The mean over the seeds of a median over sources, with its interval over pieces; NaN where it is not defined."""
    value = mean(of_seed.median for of_seed in seeds) if seeds else math.nan
    if not math.isfinite(value):
        return value, None
    known = np.all([np.isfinite(of_seed.values) for of_seed in seeds], axis=0)
    values, pieces = [of_seed.values[known] for of_seed in seeds], list(compress(seeds[0].pieces, known))
    return value, interval_over_pieces(
        pieces, lambda weights: np.mean([weighted_median(of_seed, weights) for of_seed in values], axis=0)
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
