"""How well a model separates: whole pieces of a split, and fixed two-source mixtures, beside what needs no training.

    evaluation = evaluate(model_system(folder, manifest, "best trial"), manifest, "test")
    evaluation.two_sources.si_sdr_improvement

What is scored is the stem of a label, whatever a model is told, so that all models have the same figures. Every number
has its convention (`metrics.CONVENTIONS`); tables show medians over sources, with intervals over pieces. Of a label
that a model of the table does not know, the stem stays in every mixture, but no system is told of it, and it is not
scored.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pydantic import Field

from vimss.config import Config
from vimss.metrics import (
    CONVENTIONS,
    Interval,
    LabelWiener,
    bss_eval_v4,
    interval_over_pieces,
    level_db,
    si_sdr,
    si_sdr_improvement,
    silence_energy,
    weighted_mean,
    weighted_median,
)
from vimss.shards.manifest import Manifest, Shard, open_manifest
from vimss.stream.fixed import FixedSpec, fixed_set, mixtures_of
from vimss.stream.mix import Mixture, Window
from vimss.systems import (
    InformedWienerSystem,
    MixtureSystem,
    OracleSystem,
    Scene,
    System,
    WienerSystem,
    model_system,
    pieces_of,
    scene_of,
)

TWO_SOURCE_MIXTURES = 64
TWO_SOURCE_SECONDS = 4.0
MIXTURES_AT_ONCE = 16
"""Two-source mixtures of one task: several cores can share those of one system."""

PIECE_FIGURES = ("si_sdr_improvement", "sdr", "sir", "sar", "pes", "eps")
"""Of whole pieces: fields of SourceScore."""
MIXTURE_FIGURES = ("si_sdr_improvement", "label_contrast", "absent_level")
"""Of two-source mixtures: fields of MixtureScore, and medians in TwoSources."""


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
        """Of the median, over pieces."""
        known = np.isfinite(self.values)
        values, pieces = self.values[known], list(itertools.compress(self.pieces, known))
        return interval_over_pieces(pieces, lambda weights: weighted_median(values, weights))

    def interval_above(self, other: "Values", mean: bool = False) -> Interval | None:
        """Of the difference of two medians, or means, of the same sources."""
        of = weighted_mean if mean else weighted_median
        return interval_over_pieces(self.pieces, lambda weights: of(self.values, weights) - of(other.values, weights))


class SourceScore(Config):
    """One source of one whole piece."""

    piece: str
    label: str
    sources: int = Field(description="labels that sound in the piece")
    si_sdr_improvement: float
    sdr: float
    sir: float
    sar: float
    pes: float
    eps: float

    model_config = Config.model_config | {"allow_inf_nan": True, "ser_json_inf_nan": "strings"}


class MixtureScore(Config):
    """One mixture of two sources, of which those with a label of the table are scored."""

    model_config = Config.model_config | {"allow_inf_nan": True, "ser_json_inf_nan": "strings"}

    mixture: int
    pieces: tuple[str, ...] = Field(description="that its stems are from: one where they are aligned")
    aligned: bool
    labels: tuple[str, ...]
    si_sdr_improvement: tuple[float, ...] = Field(description="of each label")
    label_contrast: tuple[float, ...] = Field(description="of each label for which it is defined")
    absent_level: tuple[float, ...] = Field(description="of the absent label that was asked for, if any was")


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


def _of_mixtures(scores: Iterable[MixtureScore], name: str = "si_sdr_improvement") -> Values:
    found = [(value, score.pieces) for score in scores for value in getattr(score, name)]
    return Values(np.array([value for value, _ in found]), [pieces for _, pieces in found])


class Evaluation(Config):
    """What one system reaches on one split."""

    system: str
    weights: str = Field("", description="SHA-256 of the model's weights; empty where nothing was trained")
    split: str
    two_sources: TwoSources
    scores: tuple[SourceScore, ...] = ()
    intervals: dict[str, Interval | None] = Field(
        {}, description="over pieces, of the medians of whole pieces; null where undefined"
    )
    labels: tuple[str, ...] = Field((), description="that are scored; all of the shards where empty")
    conventions: dict[str, str] = Field(default_factory=lambda: dict(CONVENTIONS))

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


def evaluate(system: System, manifest: Manifest, split: str, whole_pieces: bool = True) -> Evaluation:
    """Two-source mixtures of a split and, if wanted, its whole pieces."""
    mixtures = score_mixtures(system, manifest, split)
    scores: list[SourceScore] = []
    for piece in pieces_of(manifest, split, system.cue, system.features) if whole_pieces else ():
        scores += evaluate_piece(system, piece, manifest.recipe.sample_rate)
    return _evaluation(Part(system.name, system.weights, tuple(mixtures), tuple(scores)), split, ())


def _evaluation(part: "Part", split: str, labels: tuple[str, ...]) -> Evaluation:
    plain = Evaluation(
        system=part.system,
        weights=part.weights,
        split=split,
        two_sources=TwoSources.of(part.mixtures),
        scores=part.scores,
        labels=labels,
    )
    if not part.scores:
        return plain
    return plain.model_copy(update={"intervals": {name: plain.values(name).interval for name in PIECE_FIGURES}})


def evaluate_piece(system: System, piece: Scene, sample_rate: int) -> list[SourceScore]:
    """Every sounding label of a whole piece that is to be scored."""
    labels = sorted(piece.references)
    estimates = system(piece, labels)
    references = np.stack([piece.references[label] for label in labels])
    # BSS Eval must know all that sounds. What stands in for estimates that nobody asked for changes no other figure.
    others = [references[:0], *(stem[None] for stem in piece.unscored.values())]
    ratios = bss_eval_v4(
        np.concatenate([references, *others]), np.concatenate([estimates, *others]).astype(estimates.dtype), sample_rate
    )
    scores = []
    for index, label in enumerate(labels):
        pes, eps = silence_energy(references[index], estimates[index], sample_rate)
        scores.append(
            SourceScore(
                piece=piece.name,
                label=label,
                sources=len(labels) + len(piece.unscored),
                si_sdr_improvement=si_sdr_improvement(piece.mixture, references[index], estimates[index], sample_rate),
                sdr=float(ratios.sdr[index]),
                sir=float(ratios.sir[index]),
                sar=float(ratios.sar[index]),
                pes=pes,
                eps=eps,
            )
        )
    return scores


def evaluate_two_sources(system: System, manifest: Manifest, split: str) -> TwoSources:
    """Fixed mixtures of two instruments, the same for every system: how well, and what asking for a label does.

    They are the corpus's own pairs where it has a frozen list of them for its test split, else drawn ones. The label
    that does not sound is one that the train split has. Contrast is NaN for a system without a context, and the absent
    level for one that cannot be asked for a label.
    """
    return TwoSources.of(score_mixtures(system, manifest, split))


def score_mixtures(
    system: System,
    manifest: Manifest,
    split: str,
    labels: Collection[str] | None = None,
    numbers: range | None = None,
) -> list[MixtureScore]:
    """The mixtures with these numbers, all where not given; of those labels, where given.

    Mixtures in which none of the labels sounds are left out.
    """
    chosen = range(count_mixtures(manifest, split)) if numbers is None else numbers
    # Labels that training has never heard tell nothing about a model.
    trained = {label for piece in manifest.pieces if piece.split == "train" for label in piece.instruments}
    known = [label for label in manifest.recipe.labels if label in (trained if labels is None else labels)]
    scores = []
    for number, mixture in zip(chosen, two_source_mixtures(system, manifest, split, chosen), strict=True):
        scene = scene_of(mixture, str(number))
        absent = sorted({source.label for source in mixture.distractors})
        if labels is not None:
            scene, absent = scene.restricted(labels), [label for label in absent if label in labels]
        if system.cue == "none":
            absent = [label for label in known if label not in scene.references]
        if scene.references:
            scores.append(_score_mixture(system, mixture, scene, absent, manifest.recipe.sample_rate))
    return scores


def _score_mixture(
    system: System, mixture: Mixture, scene: Scene, absent: Sequence[str], sample_rate: int
) -> MixtureScore:
    labels, number = sorted(scene.references), int(scene.name)
    asked = [*labels, absent[number % len(absent)]] if system.ordered and absent else labels
    estimates = system(scene, asked)
    gains, contrasts = [], []
    for index, label in enumerate(labels):
        reference = scene.references[label]
        gains.append(si_sdr_improvement(scene.mixture, reference, estimates[index], sample_rate))
        wrong = _wrong_output(system, scene, asked, estimates, index)
        if wrong is not None:
            contrasts.append(_si_sdr(reference, estimates[index]) - _si_sdr(reference, wrong))
    return MixtureScore(
        mixture=number,
        pieces=tuple(sorted({source.piece for source in mixture.sources})),
        aligned=mixture.aligned,
        labels=tuple(labels),
        si_sdr_improvement=tuple(gains),
        label_contrast=tuple(contrasts),
        absent_level=(level_db(estimates[-1], scene.mixture),) if len(asked) > len(labels) else (),
    )


def _wrong_output(
    system: System, scene: Scene, asked: Sequence[str], estimates: Float[np.ndarray, "s c t"], index: int
) -> Float[np.ndarray, "c t"] | None:
    """The output for a label of a mixture of two under a wrong context; None where that is not defined."""
    labels = sorted(scene.references)
    if len(labels) != 2 or system.wrong_context == "none":
        return None
    if system.wrong_context == "other":
        return estimates[1 - index]
    return system.exchanged(scene, labels[index], asked[-1]) if len(asked) > len(labels) else None


def _si_sdr(reference: Float[np.ndarray, "c t"], estimate: Float[np.ndarray, "c t"]) -> float:
    """Of all channels together."""
    return si_sdr(reference.reshape(-1), estimate.reshape(-1)).item()


def two_source_spec(manifest: Manifest, split: str) -> FixedSpec:
    """The mixtures of two that systems are scored on, whatever they see; the frozen pairs of a corpus where it has
    some.
    """
    recipe = manifest.recipe
    samples = round(min(TWO_SOURCE_SECONDS * recipe.sample_rate, recipe.clip_samples / 2))
    if split == "test" and manifest.pairs:
        return FixedSpec(split, samples, pairs=manifest.pairs, seed=1, gain_db=0.0, distractors=True)
    kinds = tuple((2, bool(number % 2)) for number in range(TWO_SOURCE_MIXTURES))
    return FixedSpec(split, samples, kinds, seed=1, distractors=True)


def two_source_mixtures(
    system: System, manifest: Manifest, split: str, numbers: Sequence[int] | None = None
) -> Iterator[Mixture]:
    """The mixtures of `two_source_spec` with these numbers, all where not given, as a system hears and sees them."""
    spec = two_source_spec(manifest, split)
    window = Window(spec.samples, spec.samples, manifest.recipe.sample_rate)
    return mixtures_of(fixed_set(manifest, spec), manifest, window, system.views, numbers)


def count_mixtures(manifest: Manifest, split: str) -> int:
    """How many two-source mixtures a split has."""
    spec = two_source_spec(manifest, split)
    return len(spec.pairs or spec.kinds)


REFERENCES = (MixtureSystem.name, WienerSystem.name, InformedWienerSystem.name, OracleSystem.name)
"""Rows that need no training."""

FILTERS = (WienerSystem.name, InformedWienerSystem.name)
"""Those of them that are fitted on a train split."""


@dataclass(frozen=True)
class Table:
    """The shards, split and labels that all rows of a table share; plain values that travel to another process."""

    shards: Path
    split: str
    labels: tuple[str, ...] | None = None
    """Those that every model of the table knows; without, all of the shards, of whose recipe the models must be."""


@dataclass(frozen=True)
class Row:
    """One system of a table: a model, or the row of REFERENCES with this name."""

    name: str
    model: Path | None = None
    names: tuple[tuple[str, str], ...] = ()
    """The table's labels with the model's own names for them; where the table has labels."""
    wiener: LabelWiener | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class EvaluationTask:
    """Some mixtures, or the whole pieces of a shard, for one row."""

    table: Table
    row: Row
    mixtures: range | None
    shard: Shard | None

    @property
    def seconds(self) -> float:
        """Of sound that is separated."""
        return self.shard.seconds if self.shard is not None else len(self.mixtures or ()) * TWO_SOURCE_SECONDS


@dataclass(frozen=True)
class Part:
    """The scores of some tasks of one row."""

    system: str
    weights: str
    mixtures: tuple[MixtureScore, ...]
    scores: tuple[SourceScore, ...]
    seconds: float = 0.0
    """Of sound that was separated."""


def evaluation_tasks(table: Table, row: Row, manifest: Manifest, whole_pieces: bool) -> list[EvaluationTask]:
    """One row in parts for the cores, pieces first: they are longer. A piece lies in one shard."""
    count = count_mixtures(manifest, table.split)
    shards = manifest.of_split(table.split) if whole_pieces else ()
    numbers = [range(first, min(first + MIXTURES_AT_ONCE, count)) for first in range(0, count, MIXTURES_AT_ONCE)]
    pieces = [EvaluationTask(table, row, None, shard) for shard in shards]
    return [*pieces, *(EvaluationTask(table, row, some, None) for some in numbers)]


def run_evaluation(task: EvaluationTask) -> Part:
    """Run a task and return its scores."""
    manifest, table = open_manifest(task.table.shards), task.table
    system = _system(task.row, manifest, table)
    found = Part(system.name, system.weights, (), (), task.seconds)
    if task.mixtures is not None:
        scored = score_mixtures(system, manifest, table.split, table.labels, task.mixtures)
        return replace(found, mixtures=tuple(scored))
    assert task.shard is not None, "a task without mixtures has a shard"  # noqa: S101
    scores: list[SourceScore] = []
    for piece in _pieces(system, manifest, table, task.shard):
        scores += evaluate_piece(system, piece, manifest.recipe.sample_rate)
    return replace(found, scores=tuple(scores))


def _pieces(system: System, manifest: Manifest, table: Table, shard: Shard) -> Iterator[Scene]:
    for piece in pieces_of(manifest, table.split, system.cue, system.features, [shard]):
        scene = piece if table.labels is None else piece.restricted(table.labels)
        if scene.references:
            yield scene


def _system(row: Row, manifest: Manifest, table: Table) -> System:
    if row.model is not None:
        names = None if table.labels is None else dict(row.names)
        return model_system(row.model, manifest, row.name, names, row.device)
    if row.wiener is not None and row.name == WienerSystem.name:
        return WienerSystem(row.wiener)
    if row.wiener is not None and row.name == InformedWienerSystem.name:
        return InformedWienerSystem(row.wiener)
    return OracleSystem(manifest.recipe.sample_rate) if row.name == OracleSystem.name else MixtureSystem()


def joined(parts: Sequence[Part], table: Table) -> Evaluation:
    """The evaluation of one row, from the parts of all its tasks in order."""
    mixtures = tuple(score for part in parts for score in part.mixtures)
    scores = tuple(score for part in parts for score in part.scores)
    return _evaluation(replace(parts[0], mixtures=mixtures, scores=scores), table.split, table.labels or ())


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else float("nan")
