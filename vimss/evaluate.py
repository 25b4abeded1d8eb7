"""How well a model separates: whole pieces of a split, and fixed two-source mixtures, beside what needs no training.

    evaluation = evaluate(ModelSystem(load_separator(folder)), manifest, "test")
    print(table([evaluation, ...]))

Rows that give a dB its meaning: the mixture itself (0 dB by definition), a time-invariant Wiener filter per label, and
the oracle ratio mask. Every number carries its convention (`CONVENTIONS`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from vimss.config import Config
from vimss.metrics import (
    LabelWiener,
    bss_eval_v4,
    level_db,
    oracle_ratio_mask,
    si_sdr,
    si_sdr_improvement,
    silence_energy,
)
from vimss.model.apply import separate_all
from vimss.model.separator import Separator
from vimss.shards.clip import Clip
from vimss.shards.manifest import Manifest
from vimss.stream.mix import Asking, Window, fixed_mixtures
from vimss.stream.read import read_clips, read_pieces

CONVENTIONS = {
    "SI-SDRi": "scale-invariant SDR (Le Roux et al. 2019) of the estimate minus that of the mixture, over the active "
    "segments of each source; median over sources, dB",
    "SDR, SIR, SAR": "museval (BSS Eval v4), 1 s windows; median over frames, then median over sources, dB",
    "PES, EPS": "predicted energy at silence, energy at predicted silence (Schulze-Forster et al. 2019); median, dB",
    "label contrast": "SI-SDR of a source when its own label is asked for minus SI-SDR when the other's is; median, dB",
    "absent level": "level of the output for a label that does not play, relative to the mixture; median, dB",
}

TWO_SOURCE_MIXTURES = 64
TWO_SOURCE_SECONDS = 4.0


@runtime_checkable
class System(Protocol):
    """Anything that separates by label."""

    name: str

    def __call__(
        self, mixture: Float[np.ndarray, "c t"], references: dict[str, Float[np.ndarray, "c t"]], asked: Sequence[str]
    ) -> Float[np.ndarray, "s c t"]:
        """Estimates for the labels `asked`; `references` are the stems that sound, by label. Only an oracle hears them,
        the others read the labels alone.
        """


class ModelSystem:
    """A trained separator."""

    def __init__(self, separator: Separator, name: str) -> None:
        self.separator = separator.eval()
        self.name = name

    def __call__(
        self, mixture: Float[np.ndarray, "c t"], references: dict[str, Float[np.ndarray, "c t"]], asked: Sequence[str]
    ) -> Float[np.ndarray, "s c t"]:
        """Outputs by label; a network with one output per label gets the labels that sound as its context."""
        separator, sound = self.separator, torch.from_numpy(np.ascontiguousarray(mixture, np.float32))
        by_query = separator.config.outputs == "queries"
        context = None
        if separator.config.site != "none":
            context = separator.label_context(asked if by_query else sorted(references))[0]
        estimates = separate_all(separator, sound, context).numpy()
        return estimates if by_query else estimates[[separator.labels.index(label) for label in asked]]


class WienerSystem:
    """The per-label Wiener filter: one fixed filter for each label, whoever else plays."""

    name = "Wiener filter per label"

    def __init__(self, wiener: LabelWiener) -> None:
        self.wiener = wiener

    def __call__(
        self, mixture: Float[np.ndarray, "c t"], references: dict[str, Float[np.ndarray, "c t"]], asked: Sequence[str]
    ) -> Float[np.ndarray, "s c t"]:
        """Each label by its own filter: it knows what a query knows."""
        return self.wiener.separate_each(mixture, asked)


class InformedWienerSystem:
    """Wiener filters that are told every label that sounds, as no query is."""

    name = "Wiener, all labels told"

    def __init__(self, wiener: LabelWiener) -> None:
        self.wiener = wiener

    def __call__(
        self, mixture: Float[np.ndarray, "c t"], references: dict[str, Float[np.ndarray, "c t"]], asked: Sequence[str]
    ) -> Float[np.ndarray, "s c t"]:
        """Filters among the labels that sound; a label that does not sound gets silence."""
        sounding = sorted(references)
        estimates = dict(zip(sounding, self.wiener.separate(mixture, sounding), strict=True))
        return np.stack([estimates.get(label, np.zeros_like(mixture)) for label in asked])


class OracleSystem:
    """The ratio mask of the true stems."""

    name = "oracle ratio mask"

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    def __call__(
        self, mixture: Float[np.ndarray, "c t"], references: dict[str, Float[np.ndarray, "c t"]], asked: Sequence[str]
    ) -> Float[np.ndarray, "s c t"]:
        """The best that a mask can do."""
        sounding = sorted(references)
        masked = oracle_ratio_mask(mixture, np.stack([references[label] for label in sounding]), self.sample_rate)
        estimates = dict(zip(sounding, masked, strict=True))
        return np.stack([estimates.get(label, np.zeros_like(mixture)) for label in asked])


class MixtureSystem:
    """The mixture as the estimate of every source."""

    name = "mixture"

    def __call__(
        self, mixture: Float[np.ndarray, "c t"], references: dict[str, Float[np.ndarray, "c t"]], asked: Sequence[str]
    ) -> Float[np.ndarray, "s c t"]:
        """As many copies as labels."""
        return np.repeat(mixture[None], len(asked), axis=0)


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
    """Medians over the sources of fixed two-source mixtures, half random, half aligned."""

    model_config = Config.model_config | {"allow_inf_nan": True, "ser_json_inf_nan": "strings"}

    mixtures: int
    si_sdr_improvement: float
    si_sdr_improvement_random: float
    si_sdr_improvement_aligned: float
    label_contrast: float
    absent_level: float


class Evaluation(Config):
    """What one system reaches on one split."""

    system: str
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


@dataclass(frozen=True, eq=False)
class WholePiece:
    """A piece as evaluation hears it."""

    name: str
    mixture: Float[np.ndarray, "c t"]
    references: dict[str, Float[np.ndarray, "c t"]]


def evaluate(
    system: System,
    manifest: Manifest,
    split: str,
    whole_pieces: bool = True,
    on_progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Two-source mixtures of a split and, if wanted, its whole pieces."""
    two_sources = evaluate_two_sources(system, manifest, split)
    scores: list[SourceScore] = []
    for piece in pieces_of(manifest, split) if whole_pieces else ():
        scores += evaluate_piece(system, piece, manifest.recipe.sample_rate)
        if on_progress is not None:
            on_progress(piece.name)
    return Evaluation(system=system.name, split=split, two_sources=two_sources, scores=tuple(scores))


def evaluate_piece(system: System, piece: WholePiece, sample_rate: int) -> list[SourceScore]:
    """Every sounding label of a whole piece."""
    labels = sorted(piece.references)
    estimates = system(piece.mixture, piece.references, labels)
    references = np.stack([piece.references[label] for label in labels])
    # museval hears mono: the channels of a source follow each other.
    ratios = bss_eval_v4(references.reshape(len(labels), -1), estimates.reshape(len(labels), -1), sample_rate)
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
    """Fixed mixtures of two instruments: the figure that every search is told apart by, and what the labels do."""
    rate = manifest.recipe.sample_rate
    samples = round(min(TWO_SOURCE_SECONDS * rate, manifest.recipe.clip_samples / 2))
    asking = Asking("instruments", "none", manifest.recipe.labels, 1)
    counts = [(2, bool(number % 2)) for number in range(TWO_SOURCE_MIXTURES)]
    improvements: dict[bool, list[float]] = {False: [], True: []}
    contrasts, levels = [], []
    for number, mixture in enumerate(
        fixed_mixtures(manifest, split, counts, Window(samples, samples, rate), asking, seed=1)
    ):
        references: dict[str, np.ndarray] = {}
        for source in mixture.sources:
            references[source.label] = references.get(source.label, 0) + source.stem
        labels = sorted(references)
        absent = [label for label in manifest.recipe.labels if label not in references]
        asked = [*labels, absent[number % len(absent)]]
        estimates = system(mixture.sound, references, asked)
        levels.append(level_db(estimates[-1], mixture.sound))
        for index, label in enumerate(labels):
            reference = references[label]
            improvements[mixture.aligned].append(si_sdr_improvement(mixture.sound, reference, estimates[index], rate))
            if len(labels) == 2:
                right, wrong = (
                    si_sdr(reference.reshape(-1), estimates[which].reshape(-1)) for which in (index, 1 - index)
                )
                contrasts.append(float(right - wrong))
    return TwoSources(
        mixtures=TWO_SOURCE_MIXTURES,
        si_sdr_improvement=_median(improvements[False] + improvements[True]),
        si_sdr_improvement_random=_median(improvements[False]),
        si_sdr_improvement_aligned=_median(improvements[True]),
        label_contrast=_median(contrasts),
        absent_level=_median(levels),
    )


def fit_wiener(manifest: Manifest) -> LabelWiener:
    """The Wiener filter of the train split."""

    def stems() -> Iterator[tuple[str, np.ndarray]]:
        for clip in read_clips(manifest, "train"):
            for player in clip.players:
                if player.audio is not None:
                    yield player.instrument, player.audio.astype(np.float32) / 32768

    return LabelWiener.fit(stems(), manifest.recipe.sample_rate)


def pieces_of(manifest: Manifest, split: str) -> Iterator[WholePiece]:
    """Whole pieces of a split that have two or more sounding labels; players of one label are one reference."""
    for clip in read_pieces(manifest, split):
        references = references_of(clip)
        if len(references) > 1:
            yield WholePiece(clip.piece, mixture_of(clip), references)


def references_of(clip: Clip) -> dict[str, Float[np.ndarray, "c t"]]:
    """The sounding labels of a clip with the sum of their players' stems."""
    references: dict[str, np.ndarray] = {}
    for player in clip.players:
        if player.audio is not None and player.audio.any():
            stem = player.audio.astype(np.float32) / 32768
            references[player.instrument] = (
                references[player.instrument] + stem if player.instrument in references else stem
            )
    return references


def mixture_of(clip: Clip) -> Float[np.ndarray, "c t"]:
    """The recorded mix, or the sum of the stems."""
    if clip.mixture is not None:
        return clip.mixture.astype(np.float32) / 32768
    stems = [player.audio.astype(np.float32) for player in clip.players if player.audio is not None]
    return np.sum(stems, axis=0) / np.float32(32768)


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else float("nan")
