"""How well a model separates: whole pieces of a split, and fixed two-source mixtures, beside what needs no training.

    evaluation = evaluate(model_system(folder, manifest, "best trial"), manifest, "test")
    evaluation.two_sources.si_sdr_improvement

What is scored is the stem of a label, whatever a model is told, so that all models have the same figures. Every number
has its convention (`metrics.CONVENTIONS`); tables show medians over sources.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pydantic import Field

from vimss.config import Config
from vimss.metrics import (
    CONVENTIONS,
    LabelWiener,
    bss_eval_v4,
    level_db,
    si_sdr,
    si_sdr_improvement,
    silence_energy,
)
from vimss.shards.manifest import Manifest, open_manifest
from vimss.stream.fixed import FixedSpec, fixed_set, mixtures_of
from vimss.stream.mix import Asking, Mixture, Window
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


class Evaluation(Config):
    """What one system reaches on one split."""

    system: str
    weights: str = Field("", description="SHA-256 of the model's weights; empty where nothing was trained")
    split: str
    two_sources: TwoSources
    scores: tuple[SourceScore, ...] = ()
    conventions: dict[str, str] = Field(default_factory=lambda: dict(CONVENTIONS))

    def median(self, name: str, **where: object) -> float:
        """Median of a score over the sources that agree with `where`, NaN left out; NaN where there are none."""
        return _median(getattr(score, name) for score in self._scores(where))

    def count(self, **where: object) -> int:
        """Number of sources that agree with `where`."""
        return len(self._scores(where))

    def _scores(self, where: Mapping[str, object]) -> list[SourceScore]:
        return [score for score in self.scores if all(getattr(score, key) == value for key, value in where.items())]


def evaluate(system: System, manifest: Manifest, split: str, whole_pieces: bool = True) -> Evaluation:
    """Two-source mixtures of a split and, if wanted, its whole pieces."""
    two_sources = evaluate_two_sources(system, manifest, split)
    scores: list[SourceScore] = []
    for piece in pieces_of(manifest, split, system.cue, system.features) if whole_pieces else ():
        scores += evaluate_piece(system, piece, manifest.recipe.sample_rate)
    return Evaluation(
        system=system.name, weights=system.weights, split=split, two_sources=two_sources, scores=tuple(scores)
    )


def evaluate_piece(system: System, piece: Scene, sample_rate: int) -> list[SourceScore]:
    """Every sounding label of a whole piece."""
    labels = sorted(piece.references)
    estimates = system(piece, labels)
    references = np.stack([piece.references[label] for label in labels])
    ratios = bss_eval_v4(references, estimates, sample_rate)
    scores = []
    for index, label in enumerate(labels):
        pes, eps = silence_energy(references[index], estimates[index], sample_rate)
        scores.append(
            SourceScore(
                piece=piece.name,
                label=label,
                sources=len(labels),
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
    rate = manifest.recipe.sample_rate
    # Labels that training has never heard tell nothing about a model.
    trained = {label for piece in manifest.pieces if piece.split == "train" for label in piece.instruments}
    known = [label for label in manifest.recipe.labels if label in trained]
    improvements: dict[bool, list[float]] = {False: [], True: []}
    contrasts, levels = [], []
    mixtures = 0
    for number, mixture in enumerate(two_source_mixtures(system, manifest, split)):
        mixtures += 1
        scene = scene_of(mixture, str(number))
        labels = sorted(scene.references)
        absent = sorted({source.label for source in mixture.distractors})
        if system.cue == "none":
            absent = [label for label in known if label not in labels]
        asked = [*labels, absent[number % len(absent)]] if system.ordered and absent else labels
        estimates = system(scene, asked)
        if len(asked) > len(labels):
            levels.append(level_db(estimates[-1], scene.mixture))
        for index, label in enumerate(labels):
            reference = scene.references[label]
            improvements[mixture.aligned].append(si_sdr_improvement(scene.mixture, reference, estimates[index], rate))
            wrong = _wrong_output(system, scene, asked, estimates, index)
            if wrong is not None:
                contrasts.append(_si_sdr(reference, estimates[index]) - _si_sdr(reference, wrong))
    return TwoSources(
        mixtures=mixtures,
        si_sdr_improvement=_median(improvements[False] + improvements[True]),
        si_sdr_improvement_mean=_mean(improvements[False] + improvements[True]),
        si_sdr_improvement_random=_median(improvements[False]),
        si_sdr_improvement_aligned=_median(improvements[True]),
        label_contrast=_median(contrasts),
        absent_level=_median(levels),
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


def two_source_mixtures(system: System, manifest: Manifest, split: str) -> Iterator[Mixture]:
    """The mixtures of `two_source_spec`, as a system hears and sees them."""
    spec = two_source_spec(manifest, split)
    window = Window(spec.samples, spec.samples, manifest.recipe.sample_rate)
    asking = Asking("instruments", system.cue, manifest.recipe.labels, 1, system.features)
    return mixtures_of(fixed_set(manifest, spec), manifest, window, asking)


REFERENCES = (MixtureSystem.name, WienerSystem.name, InformedWienerSystem.name, OracleSystem.name)
"""Rows that need no training."""


@dataclass(frozen=True)
class EvaluationTask:
    """One system on one split; plain values that travel to another process."""

    name: str
    shards: Path
    split: str
    model: Path | None
    wiener: LabelWiener | None
    whole_pieces: bool


def run_evaluation(task: EvaluationTask) -> Evaluation:
    """One row of a table: a model, or the row of REFERENCES with this name."""
    manifest = open_manifest(task.shards)
    system: System
    if task.model is not None:
        system = model_system(task.model, manifest, task.name)
    elif task.wiener is not None and task.name == WienerSystem.name:
        system = WienerSystem(task.wiener)
    elif task.wiener is not None and task.name == InformedWienerSystem.name:
        system = InformedWienerSystem(task.wiener)
    elif task.name == OracleSystem.name:
        system = OracleSystem(manifest.recipe.sample_rate)
    else:
        system = MixtureSystem()
    return evaluate(system, manifest, task.split, task.whole_pieces)


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else float("nan")
