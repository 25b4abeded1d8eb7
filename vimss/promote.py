"""Whether a new model becomes the champion, decided on the `promote` split.

    promotion = promote_best(session, experiment, manifest, study)
    print(promotion.decision.sentence)

The challenger, the best trial of a study, is compared with the champion. It is promoted where the 95 % interval of its
gain over pieces lies above 0, and otherwise refused.

Separators are compared on whole pieces, pair by pair: the same source in the same piece; without a champion, with a
Wiener filter. Networks that do not separate are compared by the figure of their objective, on the same mixtures of the
same pieces; without a champion, with a constant guess.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vimss.errors import ModelError
from vimss.evaluate import Evaluation
from vimss.evaluate.figures import GUESS, FigureEvaluation, gain_of
from vimss.evaluations import (
    ModelsOnSplit,
    evaluate_by_figure,
    evaluate_systems,
    evaluation_of,
    load_evaluations,
    load_figure_evaluations,
)
from vimss.experiment import Experiment
from vimss.intervals import Gain, Source, paired_gain
from vimss.metrics import CONVENTIONS
from vimss.model.separator import load_separator
from vimss.pages.of_trial import evaluation_bars, figure_bars
from vimss.runtime import git_commit
from vimss.search.study import FILES, Study, TrialRecord
from vimss.session import Session
from vimss.shards.manifest import Manifest
from vimss.storage import atomic_write
from vimss.systems import equally_informed
from vimss.track import (
    Tracking,
    find_alias,
    find_version,
    model_folder,
    newest_version,
    register,
    set_alias,
    tag_version,
)
from vimss.track.sync import sync
from vimss.train.objectives import OBJECTIVES

CHALLENGER = "challenger"
"""Name of the row of the best trial."""

CHAMPION, PREVIOUS = "champion", "previous"
"""Aliases of the version in use and of the one that it replaced."""

MIN_PIECES = 4
"""With fewer pieces the interval depends on the assumed normal distribution: three are too few for that."""

Scores = Mapping[Source, float]
"""SI-SDR improvement of each source, dB; NaN where it is not defined."""


@dataclass(frozen=True)
class Decision:
    """The outcome of a comparison, with its basis."""

    promoted: bool
    gain: float
    low: float
    high: float
    num_pieces: int
    against: str
    sentence: str
    """The decision and its reason, for people."""
    unit: str = "dB"
    """Of the gain and its interval; empty where the figure has none."""


@dataclass(frozen=True)
class Promotion:
    """The outcome for a challenger."""

    name: str
    version: int
    cell: str
    """The cell whose best trial it is."""
    decision: Decision
    is_champion: bool


def promote_best(session: Session, experiment: Experiment, manifest: Manifest, study: Study) -> Promotion:
    """Register the best trial of all cells, and make it the champion where it is significantly better on `promote`.

    It is compared with the champion; where there is none, with the Wiener filter that has the same information as the
    model, or, where the model does not separate, with a constant guess. If the study was evaluated on `test`, the
    registry shows the figures of the best trial, and its run shows the table as bars.
    """
    separates = OBJECTIVES[experiment.objective].separates
    best = study.best([cell.name for cell in experiment.cells()])
    figures, bars = _tested_separator(best, study) if separates else _tested_by_figure(best, study)
    if bars:
        with atomic_write(best.folder / FILES / "test.png") as temporary:
            temporary.write_bytes(bars)
    synced = sync(session.tracking, experiment, manifest, study.folder)
    version = register(
        session.tracking,
        experiment.name,
        best.folder / "model",
        synced.run_ids[best.cell, best.trial],
        figures,
        model_card(experiment, manifest),
    )
    models = {CHALLENGER: best.folder / "model"}
    champion = champion_to_beat(session.tracking, experiment.name, version)
    if champion is not None:
        models[CHAMPION] = model_folder(f"models:/{experiment.name}/{champion}", session.tracking)
    against = "" if champion is None else f"the champion, version {champion}"
    if separates:
        decision = _compare_separators(manifest, models, against)
    else:
        decision = _compare_by_figure(manifest, models, against, experiment.objective)
    is_champion = promote(session.tracking, experiment.name, version, decision)
    return Promotion(experiment.name, version, best.cell, decision, is_champion)


def _tested_separator(best: TrialRecord, study: Study) -> tuple[dict[str, float], bytes]:
    """Figures for the registry, and the table as bars; empty where the trial was not evaluated on `test`."""
    tested = load_evaluations(study, "test")
    bars = b"" if evaluation_of(best, tested) is None else evaluation_bars(tested)
    return registry_figures(best, tested), bars


def _tested_by_figure(best: TrialRecord, study: Study) -> tuple[dict[str, float], bytes]:
    """The same of a network that does not separate."""
    tested = load_figure_evaluations(study, "test")
    found = evaluation_of(best, tested)
    if found is None:
        return {}, b""
    return {f"test_{found.figure.name.removeprefix('valid_')}": found.value}, figure_bars(tested)


def _compare_separators(manifest: Manifest, models: Mapping[str, Path], against: str) -> Decision:
    """The challenger against the champion, or else against the row with the same information."""
    baselines: tuple[str, ...] = ()
    incumbent = CHAMPION
    if CHAMPION not in models:
        incumbent = equally_informed(load_separator(models[CHALLENGER]).config)
        baselines, against = (incumbent,), f"the row '{incumbent}'"
    rows = evaluate_systems(manifest, models, "promote", baselines=baselines)
    found = {row.system: piece_scores(row) for row in rows}
    return decide(found[CHALLENGER], found[incumbent], against)


def _compare_by_figure(manifest: Manifest, models: Mapping[str, Path], against: str, objective: str) -> Decision:
    """The challenger against the champion, or else against the constant guess."""
    rows = evaluate_by_figure(ModelsOnSplit(manifest, models, "promote"), objective)
    found = {row.system: row for row in rows}
    incumbent = found[CHAMPION if CHAMPION in models else GUESS]
    return decide_by_figure(found[CHALLENGER], incumbent, against or f"the row '{GUESS}'", manifest)


def registry_figures(best: TrialRecord, tested: Sequence[Evaluation]) -> dict[str, float]:
    """The figures of the best trial in the registry: those on the test split, if it was evaluated there.

    Figures that are not defined for its network are NaN.
    """
    found = evaluation_of(best, tested)
    if found is None:
        return {}
    return {
        "test_si_sdr_improvement": found.two_sources.si_sdr_improvement,
        "test_label_contrast": found.two_sources.label_contrast,
        "test_pieces_si_sdr_improvement": found.median("si_sdr_improvement"),
        "test_pieces_sdr": found.median("sdr"),
    }


def model_card(experiment: Experiment, manifest: Manifest) -> dict[str, Any]:
    """The facts that a user of the model needs."""
    recipe, separates = manifest.recipe, OBJECTIVES[experiment.objective].separates
    return {
        "experiment": experiment.name,
        "question": experiment.question,
        "data": f"{manifest.name}: {recipe.description}",
        "licence": recipe.licence,
        "sample_rate": recipe.sample_rate,
        "labels": ",".join(recipe.labels),
        "convention": CONVENTIONS["SI-SDRi"] if separates else experiment.figure.title,
        "shards": manifest.digest,
        "commit": git_commit(),
    }


def piece_scores(evaluation: Evaluation) -> dict[Source, float]:
    """The scores that `decide` compares: (piece, label) to SI-SDR improvement."""
    return {(score.piece, score.label): score.si_sdr_improvement for score in evaluation.scores}


def decide(challenger: Scores, champion: Scores, against: str) -> Decision:
    """Compare the scores of two models on the same pieces; `against` names the second one in the sentence.

    Raises:
        ModelError: The two were not scored on the same pieces and labels.

    """
    _check_same_items(challenger, champion, against)
    keys = sorted(key for key in challenger if math.isfinite(champion[key]))
    broken = [key for key in keys if not math.isfinite(challenger[key])]
    gain = paired_gain({key: challenger[key] for key in keys}, champion)
    pairs = f"{gain.sources} sources in {gain.pieces} pieces"
    left_out = len(challenger) - len(keys)
    if left_out:
        pairs += f", without {left_out} for which {against} has no finite score"
    undefined = ""
    if broken:
        piece, label = broken[0]
        undefined = f"it gives no finite score for {label} in {piece}, where {against} does"
    return _decision(gain, pairs, against, undefined, "dB", "dB")


def decide_by_figure(
    challenger: FigureEvaluation, incumbent: FigureEvaluation, against: str, manifest: Manifest
) -> Decision:
    """The same of two networks that do not separate, by the figure of their objective.

    Raises:
        ModelError: The two were not judged on the same mixtures.

    """
    gain, figure = gain_of([challenger], [incumbent], manifest), challenger.figure
    pairs = f"{gain.sources} mixtures of {gain.pieces} pieces"
    undefined = "" if math.isfinite(challenger.value) else f"its {figure.title} is not finite"
    return _decision(gain, pairs, against, undefined, figure.unit or figure.title, figure.unit)


def _decision(gain: Gain, pairs: str, against: str, undefined: str, gained: str, unit: str) -> Decision:
    """What follows from a gain.

    Args:
        gain: Of the challenger.
        pairs: What was compared, in words.
        against: The incumbent, in words.
        undefined: Why the challenger has no score; empty where it has.
        gained: What the gain is of, in words that follow a number.
        unit: Of the gain.

    """
    if undefined:
        promoted, reason = False, undefined
    elif gain.pieces < MIN_PIECES:
        promoted, reason = False, f"{pairs} are too few to decide: at least {MIN_PIECES} pieces are needed"
    else:
        promoted = gain.significant
        interval = " ".join(f"95 % interval over pieces {gain.low:+.2f} to {gain.high:+.2f} {unit}".split())
        comparison = f"{gain.mean:+.2f} {gained} against {against} ({interval}, {pairs})"
        reason = comparison if promoted else f"{comparison}: the interval must lie above 0"
    verdict = "Promoted" if promoted else "Not promoted"
    return Decision(promoted, gain.mean, gain.low, gain.high, gain.pieces, against, f"{verdict}: {reason}.", unit)


def champion_to_beat(tracking: Tracking, name: str, version: int) -> int | None:
    """The champion's version; for the champion itself the one that it replaced, so that a second
    call gives the same result.
    """
    for alias in (CHAMPION, PREVIOUS):
        holder = find_alias(tracking, name, alias)
        if holder is not None and holder.version != version:
            return holder.version
    return None


def promote(tracking: Tracking, name: str, version: int, decision: Decision) -> bool:
    """Carry out a decision; the same call again changes nothing.

    A promoted version gets the alias `champion` and the one before it `previous`; a refused one keeps the reason as a
    tag. True where the version is the champion now.

    Raises:
        ModelError: There is no such version.
        PlaceError: MLflow does not answer.

    """
    challenger = find_version(tracking, name, str(version))
    tag_version(tracking, name, version, {"promotion": decision.sentence})
    if not decision.promoted:
        return False
    suffix = f"_{decision.unit.lower()}" if decision.unit else ""
    tags = {
        f"promoted_gain{suffix}": f"{decision.gain:.3f}",
        f"promoted_interval{suffix}": f"{decision.low:.3f} to {decision.high:.3f}",
        "promoted_against": decision.against,
    }
    tag_version(tracking, name, version, tags)
    champion = find_alias(tracking, name, CHAMPION)
    if champion is not None and champion.version == challenger.version:
        return True
    # The old champion gets its new alias first: killed in between, the same call finishes the work.
    if champion is not None:
        set_alias(tracking, name, PREVIOUS, champion.version)
    set_alias(tracking, name, CHAMPION, version)
    return True


def resolve_model(tracking: Tracking, model: str, note: Callable[[str], None] = lambda sentence: None) -> str:
    """`models:/NAME` with the alias of its champion, or else with its newest version, which `note` reports.

    A folder, or a name with an alias or a version, stays as it is.
    """
    name = model.removeprefix("models:/")
    if name == model or set(name) & set("@/"):
        return model
    newest = newest_version(tracking, name)
    if newest is None or find_alias(tracking, name, CHAMPION) is not None:
        return f"{model}@{CHAMPION}"
    note(f"no version of '{name}' is the champion: its newest is used, version {newest}")
    return f"{model}/{newest}"


def _check_same_items(challenger: Scores, champion: Scores, against: str) -> None:
    different = sorted(set(challenger) ^ set(champion))
    if different:
        piece, label = different[0]
        raise ModelError(
            f"challenger and {against} must be scored on the same pieces and labels",
            got=f"{len(different)} that only one has, {label} in {piece} first",
            fix="evaluate both again on the same shards",
        )
