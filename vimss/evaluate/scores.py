"""One system on one split: whole pieces, and fixed mixtures, of two sources or more, the same for every system.

    evaluation = evaluate(model_system(folder, manifest, "best trial"), manifest, "test")
    evaluation.two_sources.si_sdr_improvement

All models are scored per label, whatever they are conditioned on. Of a label that a model of the table lacks,
the stem stays in every mixture, but no system is conditioned on it, and it is not scored. In a mixture of two players
of one label, of whose sum nothing is to be separated, each player is scored.
"""

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from vimss.errors import DataError
from vimss.evaluate.records import PIECE_FIGURES, Evaluation, MixtureScore, NamedPlayer, Part, SourceScore
from vimss.metrics import bss_eval_v4, level_db, si_sdr, si_sdr_improvement, silence_energy
from vimss.shards.manifest import Manifest
from vimss.stream.fixed import FixedSpec, fixed_set, mixtures_of
from vimss.stream.mix import Mixture, Window
from vimss.stream.scene import Scene, pieces_of, scene_of
from vimss.systems import NamedSystem, System, separates_pieces, separates_players, truth_of

TWO_SOURCE_MIXTURES = 64
TWO_SOURCE_SECONDS = 4.0


def evaluate(system: System, manifest: Manifest, split: str, whole_pieces: bool = True) -> Evaluation:
    """Two-source mixtures of a split and, if wanted and if the system separates them, its whole pieces."""
    mixtures = score_mixtures(system, manifest, split)
    scores: list[SourceScore] = []
    for piece in pieces_of(manifest, split, system.views) if whole_pieces and separates_pieces(system) else ():
        scores += evaluate_piece(system, piece, manifest.recipe.sample_rate)
    part = Part(system.name, system.weights, tuple(mixtures), tuple(scores), truth=truth_of(system))
    return Evaluation.of(part, split)


def evaluate_piece(system: System, piece: Scene, sample_rate: int) -> list[SourceScore]:
    """Every sounding label of a whole piece that is to be scored; NaN for those that cannot be asked for by example."""
    labels, unknown = sorted(piece.references), sorted(piece.without_example)
    sources, undefined = len({*labels, *unknown, *piece.unscored}), dict.fromkeys(PIECE_FIGURES, math.nan)
    scores = [
        SourceScore(piece=piece.name, label=label, sources=sources, has_example=False, **undefined) for label in unknown
    ]
    if not labels:
        return scores
    estimates = system(piece, labels)
    references = np.stack([piece.references[label] for label in labels])
    # BSS Eval needs all sounding sources. The placeholder for an estimate that was not queried changes no other figure.
    unscored = (*piece.unscored.values(), *piece.without_example.values())
    others = [references[:0], *(stem[None] for stem in unscored)]
    ratios = bss_eval_v4(
        np.concatenate([references, *others]), np.concatenate([estimates, *others]).astype(estimates.dtype), sample_rate
    )
    for index, label in enumerate(labels):
        pes, eps = silence_energy(references[index], estimates[index], sample_rate)
        scores.append(
            SourceScore(
                piece=piece.name,
                label=label,
                sources=sources,
                si_sdr_improvement=si_sdr_improvement(piece.mixture, references[index], estimates[index], sample_rate),
                sdr=float(ratios.sdr[index]),
                sir=float(ratios.sir[index]),
                sar=float(ratios.sar[index]),
                pes=pes,
                eps=eps,
            )
        )
    return scores


def score_mixtures(
    system: System,
    manifest: Manifest,
    split: str,
    labels: Collection[str] | None = None,
    numbers: range | None = None,
    sources: int | None = None,
) -> list[MixtureScore]:
    """Score the fixed mixtures of a split: `numbers` chooses some of them, `labels` the labels to score.

    They are the two-source mixtures, or with `sources` those of so many independent players. Mixtures in which none of
    the labels sounds are left out. The absent label is one that the train split has, and there is none where all sound.
    Contrast is not defined for a system without a context, nor where more than two sources sound; the absent level not
    for one whose outputs have no labels.
    """
    chosen = range(count_mixtures(manifest, split, sources)) if numbers is None else numbers
    # Labels without a training example say nothing about a model.
    trained = {label for piece in manifest.pieces if piece.split == "train" for label in piece.instruments}
    known = [label for label in manifest.recipe.labels if label in (trained if labels is None else labels)]
    scores = []
    mixtures = _mixtures(system, manifest, mixture_spec(manifest, split, sources), chosen)
    for number, mixture in zip(chosen, mixtures, strict=True):
        scene = scene_of(mixture, str(number))
        absent = sorted({source.label for source in mixture.distractors})
        if labels is not None:
            scene, absent = scene.restricted(labels), [label for label in absent if label in labels]
        if not system.views.uses_players:
            absent = [label for label in known if label not in scene.references]
        if scene.references:
            scores.append(_score_mixture(system, mixture, scene, absent, manifest.recipe.sample_rate))
    return scores


def _score_mixture(
    system: System, mixture: Mixture, scene: Scene, absent: Sequence[str], sample_rate: int
) -> MixtureScore:
    number = int(scene.name)
    more = [absent[number % len(absent)]] if system.ordered and absent else []
    equal = len(mixture.sources) == 2 and len({source.label for source in mixture.sources}) == 1
    if equal:
        scored, estimates = _equal_players(system, mixture, scene, more)
    else:
        scored, estimates = scene, system(scene, [*sorted(scene.references), *more])
    sources, queried = sorted(scored.references), [*sorted(scored.references), *more]
    has_contrast = separates_players(system) or not equal
    gains, contrasts, others = [], [], []
    for index, source in enumerate(sources):
        reference = scored.references[source]
        gains.append(si_sdr_improvement(scene.mixture, reference, estimates[index], sample_rate))
        wrong = _wrong_output(system, scored, queried, estimates, index) if has_contrast else None
        if wrong is not None:
            contrasts.append(_si_sdr(reference, estimates[index]) - _si_sdr(reference, wrong))
        if wrong is not None and system.views.uses_players:
            others.append(si_sdr_improvement(scene.mixture, reference, wrong, sample_rate))
    return MixtureScore(
        mixture=number,
        pieces=tuple(sorted({source.piece for source in mixture.sources})),
        aligned=mixture.aligned,
        sources=len(mixture.sources),
        labels=tuple(sources),
        si_sdr_improvement=tuple(gains),
        label_contrast=tuple(contrasts),
        absent_level=(level_db(estimates[-1], scene.mixture),) if more else (),
        other_picture=tuple(others),
        named=_named(system, scene, sorted(scene.references)),
    )


def _equal_players(
    system: System, mixture: Mixture, scene: Scene, more: Sequence[str]
) -> tuple[Scene, Float[np.ndarray, "s c t"]]:
    """A mixture of two players of one label by player, and the estimates for both and for the labels of `more`.

    A system whose outputs are of labels has one for both players.
    """
    by_player = scene_of(mixture, scene.name, by_player=True)
    if separates_players(system):
        return by_player, system(by_player, [*sorted(by_player.references), *more])
    estimates = system(scene, [*scene.references, *more])
    return by_player, np.concatenate([estimates[:1], estimates])


def _named(system: System, scene: Scene, labels: Sequence[str]) -> tuple[NamedPlayer, ...]:
    if not isinstance(system, NamedSystem):
        return ()
    players = [(label, one) for label in labels for one in system.named(scene, label)]
    return tuple(NamedPlayer(label=label, named=one.label, probability=one.probability) for label, one in players)


def _wrong_output(
    system: System, scene: Scene, queried: Sequence[str], estimates: Float[np.ndarray, "s c t"], index: int
) -> Float[np.ndarray, "c t"] | None:
    """The output for a source of a mixture of two under a wrong context; None where that is not defined."""
    sources = sorted(scene.references)
    if len(sources) != 2 or system.wrong_context == "none":
        return None
    if system.wrong_context == "other":
        return estimates[1 - index]
    return system.exchanged(scene, sources[index], queried[-1]) if len(queried) > len(sources) else None


def _si_sdr(reference: Float[np.ndarray, "c t"], estimate: Float[np.ndarray, "c t"]) -> float:
    """SI-SDR of all channels together."""
    return si_sdr(reference.reshape(-1), estimate.reshape(-1)).item()


def two_source_spec(manifest: Manifest, split: str) -> FixedSpec:
    """The mixtures of two that systems are scored on, with any views; the frozen pairs of a corpus where it has
    some.
    """
    samples = _samples(manifest)
    if split == "test" and manifest.pairs:
        return FixedSpec(split, samples, pairs=manifest.pairs, seed=1, gain_db=0.0, distractors=True)
    kinds = tuple((2, bool(number % 2)) for number in range(TWO_SOURCE_MIXTURES))
    return FixedSpec(split, samples, kinds, seed=1, distractors=True)


def mixture_spec(manifest: Manifest, split: str, sources: int | None = None) -> FixedSpec:
    """The two-source mixtures, or with `sources` those of so many players, of different instruments and any pieces.

    With one source more, a mixture has the same excerpts at the same gains, and another one beside.
    """
    if sources is None:
        return two_source_spec(manifest, split)
    kinds = ((sources, False),) * TWO_SOURCE_MIXTURES
    return FixedSpec(split, _samples(manifest), kinds, seed=1, distractors=True)


def _samples(manifest: Manifest) -> int:
    """Length of the mixtures."""
    recipe = manifest.recipe
    return round(min(TWO_SOURCE_SECONDS * recipe.sample_rate, recipe.clip_samples / 2))


def two_source_mixtures(
    system: System, manifest: Manifest, split: str, numbers: Sequence[int] | None = None
) -> Iterator[Mixture]:
    """The mixtures of `two_source_spec` with these numbers, all where not given, with the views that a system needs."""
    return _mixtures(system, manifest, two_source_spec(manifest, split), numbers)


def _mixtures(
    system: System, manifest: Manifest, spec: FixedSpec, numbers: Sequence[int] | None = None
) -> Iterator[Mixture]:
    window = Window(spec.samples, spec.samples, manifest.recipe.sample_rate)
    return mixtures_of(fixed_set(manifest, spec), manifest, window, system.views, numbers)


def count_mixtures(manifest: Manifest, split: str, sources: int | None = None) -> int:
    """How many mixtures `mixture_spec` has."""
    spec = mixture_spec(manifest, split, sources)
    return len(spec.pairs or spec.kinds)


def check_sources(manifest: Manifest, split: str, sources: Sequence[int]) -> None:
    """DataError where independent mixtures need more instruments than the pieces of a split have."""
    instruments = {label for piece in manifest.pieces if piece.split == split for label in piece.instruments}
    most = len(instruments)
    if any(count > most for count in sources):
        raise DataError(
            f"mixtures of N sources are of N instruments, of which the split '{split}' of '{manifest.name}' has "
            f"{most}: {', '.join(sorted(instruments))}",
            got=f"--sources {','.join(map(str, sources))}",
            fix=f"ask for at most {most} sources, or score models of a recipe with more labels on its shards",
        )
