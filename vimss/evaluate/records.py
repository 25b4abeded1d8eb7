"""The results of evaluation as records: scores of sources and of mixtures, and the figures of a row made of them.

    evaluation = Evaluation.of(part, "test")
    evaluation.two_sources.si_sdr_improvement, evaluation.median("sdr", sources=2)

Tables show medians over sources, with intervals over pieces.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from pydantic import Field

from vimss.config import Config
from vimss.intervals import Interval, interval_over_pieces, weighted_mean, weighted_median
from vimss.metrics import CONVENTIONS
from vimss.systems import Truth

PIECE_FIGURES = ("si_sdr_improvement", "sdr", "sir", "sar", "pes", "eps")
"""Metrics on whole pieces: fields of SourceScore."""
MIXTURE_FIGURES = ("si_sdr_improvement", "label_contrast", "absent_level")
"""Metrics on two-source mixtures: fields of MixtureScore, and medians in TwoSources."""

SIGNATURE = "of all that the figures depend on, as `vimss.evaluate.kept` has it; empty of older rows"
"""The description of the field `signature` of rows."""


@dataclass(frozen=True, eq=False)
class Values:
    """One score of many sources, each with the piece that it is from, or both where two were mixed."""

    values: Float[np.ndarray, " n"]
    pieces: Sequence[tuple[str, ...]]

    @property
    def median(self) -> float:
        """NaN is left out; NaN where there is nothing else."""
        return _median(self.values)

    @property
    def mean(self) -> float:
        """The same of the mean."""
        return _mean(self.values)

    @property
    def interval(self) -> Interval | None:
        """The confidence interval of the median, over pieces."""
        known = np.isfinite(self.values)
        values, pieces = self.values[known], list(itertools.compress(self.pieces, known))
        return interval_over_pieces(pieces, lambda weights: weighted_median(values, weights))

    def interval_above(self, other: "Values", mean: bool = False) -> Interval | None:
        """The confidence interval of the difference of two medians, or means, of the same sources."""
        of = weighted_mean if mean else weighted_median
        return interval_over_pieces(self.pieces, lambda weights: of(self.values, weights) - of(other.values, weights))


class SourceScore(Config):
    """One source of one whole piece."""

    piece: str
    label: str
    sources: int = Field(description="labels that sound in the piece")
    has_example: bool = Field(
        True, description="false where the system needs examples of the players and one has none: no figure is known"
    )
    si_sdr_improvement: float
    sdr: float
    sir: float
    sar: float
    pes: float
    eps: float

    model_config = Config.model_config | {"allow_inf_nan": True, "ser_json_inf_nan": "strings"}


class NamedPlayer(Config):
    """A player whose instrument was named from pictures."""

    label: str = Field(description="that the player has")
    named: str = Field(description="label that the pictures were named")
    probability: float


class MixtureScore(Config):
    """One mixture, of which the sources with a label of the table are scored."""

    model_config = Config.model_config | {"allow_inf_nan": True, "ser_json_inf_nan": "strings"}

    mixture: int
    pieces: tuple[str, ...] = Field(description="that its stems are from: one where they are aligned")
    aligned: bool
    sources: int = Field(2, description="players that sound")
    labels: tuple[str, ...]
    si_sdr_improvement: tuple[float, ...] = Field(description="of each label")
    label_contrast: tuple[float, ...] = Field(description="of each label for which it is defined")
    absent_level: tuple[float, ...] = Field(description="of the queried absent label, if there is one")
    other_picture: tuple[float, ...] = Field(
        (), description="SI-SDR improvement of each label with the picture of another player, where pictures are shown"
    )
    named: tuple[NamedPlayer, ...] = Field((), description="players that sound, where a network named them")


class TwoSources(Config):
    """Medians over the sources of fixed two-source mixtures: half random, half aligned, or a corpus's frozen pairs."""

    model_config = Config.model_config | {"allow_inf_nan": True, "ser_json_inf_nan": "strings"}

    mixtures: int
    si_sdr_improvement: float
    si_sdr_improvement_mean: float = Field(
        description="mean over sources: its difference between two systems is their mean paired difference"
    )
    si_sdr_improvement_random: float
    si_sdr_improvement_aligned: float
    label_contrast: float
    absent_level: float
    pieces: int = Field(0, description="that the mixtures are from")
    intervals: dict[str, Interval | None] = Field({}, description="over pieces, of the medians; null where undefined")
    scores: tuple[MixtureScore, ...] = ()

    @classmethod
    def of(cls, scores: Iterable[MixtureScore]) -> "TwoSources":
        """The figures of some mixtures."""
        kept = tuple(sorted(scores, key=lambda score: score.mixture))
        values = {name: _of_mixtures(kept, name) for name in MIXTURE_FIGURES}
        gains = values["si_sdr_improvement"]
        halves = [
            _of_mixtures([score for score in kept if score.aligned == aligned]).median for aligned in (False, True)
        ]
        return cls(
            mixtures=len(kept),
            **{name: found.median for name, found in values.items()},
            si_sdr_improvement_mean=gains.mean,
            si_sdr_improvement_random=halves[0],
            si_sdr_improvement_aligned=halves[1],
            pieces=len({piece for score in kept for piece in score.pieces}),
            intervals={name: found.interval for name, found in values.items()},
            scores=kept,
        )

    def values(self, name: str) -> Values:
        """One of MIXTURE_FIGURES, of every source."""
        return _of_mixtures(self.scores, name)


class SourceCount(Config):
    """The median over the sources of fixed mixtures of so many players, who are independent of each other."""

    model_config = Config.model_config | {"allow_inf_nan": True, "ser_json_inf_nan": "strings"}

    sources: int = Field(description="players of each mixture, of as many instruments")
    mixtures: int
    si_sdr_improvement: float
    interval: Interval | None = Field(
        None,
        description="over pieces, of the median; null where undefined. Wide for many sources: each counts as often as "
        "all pieces of its mixture are drawn",
    )
    pieces: int = Field(description="that the mixtures are from")
    scores: tuple[MixtureScore, ...] = ()

    @classmethod
    def each(cls, scores: Iterable[MixtureScore]) -> "tuple[SourceCount, ...]":
        """One for each number of sources that some mixtures have."""
        by_count: dict[int, list[MixtureScore]] = {}
        for score in sorted(scores, key=lambda score: (score.sources, score.mixture)):
            by_count.setdefault(score.sources, []).append(score)
        return tuple(
            cls(
                sources=count,
                mixtures=len(of_count),
                si_sdr_improvement=_of_mixtures(of_count).median,
                interval=_of_mixtures(of_count).interval,
                pieces=len({piece for score in of_count for piece in score.pieces}),
                scores=tuple(of_count),
            )
            for count, of_count in by_count.items()
        )

    @property
    def values(self) -> Values:
        """The SI-SDR improvement of every source."""
        return _of_mixtures(self.scores)


def _of_mixtures(scores: Iterable[MixtureScore], name: str = "si_sdr_improvement") -> Values:
    found = [(value, score.pieces) for score in scores for value in getattr(score, name)]
    return Values(np.array([value for value, _ in found]), [pieces for _, pieces in found])


@dataclass(frozen=True)
class Part:
    """The scores of some tasks of one row."""

    system: str
    weights: str
    mixtures: tuple[MixtureScore, ...]
    scores: tuple[SourceScore, ...]
    seconds: float = 0.0
    """Seconds of sound that were separated."""
    truth: Truth = "nothing"
    """What the system is given of the truth."""
    independent: tuple[MixtureScore, ...] = ()
    """Mixtures of numbers of sources that were asked for, beside the two-source `mixtures`."""


class PictureClaim(Config):
    """What pictures are worth to a system: the four numbers of a claim, and whether they are a gain.

    The first four are medians of SI-SDR improvement over the sources of the two-source mixtures; NaN where there is no
    such row.
    """

    model_config = Config.model_config | {"allow_inf_nan": True, "ser_json_inf_nan": "strings"}

    right: float = Field(description="with the picture of the player who is queried")
    other: float = Field(description="with the picture of another player")
    shuffled: float = Field(description="of the control that was trained with shuffled pictures")
    label: float = Field(description="of the same network conditioned on labels")
    gain: float = Field(description="right minus shuffled")
    interval: Interval | None = Field(description="95 %, over pieces, of the gain; null where undefined")
    is_gain: bool = Field(description="whether the control exists, and the whole interval of the gain is above 0")
    sentence: str = Field(description="the same in words, or what is missing")


class Evaluation(Config):
    """The results of one system on one split."""

    system: str
    weights: str = Field("", description="SHA-256 of the model's weights; empty where nothing was trained")
    truth: Truth = Field(
        "nothing", description="what the system is given of the truth: for `order`, which output is whose"
    )
    signature: str = Field("", description=SIGNATURE)
    split: str
    two_sources: TwoSources
    source_counts: tuple[SourceCount, ...] = Field(
        (), description="of mixtures of numbers of sources that were asked for"
    )
    scores: tuple[SourceScore, ...] = ()
    intervals: dict[str, Interval | None] = Field(
        {}, description="over pieces, of the medians of whole pieces; null where undefined"
    )
    labels: tuple[str, ...] = Field((), description="that are scored; all of the shards where empty")
    pictures: PictureClaim | None = Field(None, description="of a system that looks at players; null of others")
    conventions: dict[str, str] = Field(default_factory=lambda: dict(CONVENTIONS))

    @classmethod
    def of(cls, part: Part, split: str, labels: tuple[str, ...] = ()) -> "Evaluation":
        """The figures of a row from all its scores."""
        plain = cls(
            system=part.system,
            weights=part.weights,
            truth=part.truth,
            split=split,
            two_sources=TwoSources.of(part.mixtures),
            source_counts=SourceCount.each(part.independent),
            scores=part.scores,
            labels=labels,
        )
        if not part.scores:
            return plain
        return plain.model_copy(update={"intervals": {name: plain.values(name).interval for name in PIECE_FIGURES}})

    def median(self, name: str, **where: object) -> float:
        """Median of a score over the sources that agree with `where`, NaN left out; NaN where there are none."""
        return self.values(name, **where).median

    def values(self, name: str, **where: object) -> Values:
        """One of PIECE_FIGURES of the sources that agree with `where`."""
        scores = self._scores(where)
        return Values(np.array([getattr(score, name) for score in scores]), [(score.piece,) for score in scores])

    def count(self, **where: object) -> int:
        """Number of sources that agree with `where`."""
        return len(self._scores(where))

    def _scores(self, where: Mapping[str, object]) -> list[SourceScore]:
        return [score for score in self.scores if all(getattr(score, key) == value for key, value in where.items())]


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else float("nan")
