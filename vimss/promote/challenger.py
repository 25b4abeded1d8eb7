"""The best trial of a study as challenger: registered, compared and, where it is better, promoted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vimss.evaluate import Evaluation
from vimss.evaluate.figures import GUESS
from vimss.evaluations import (
    ModelsOnSplit,
    evaluate_by_figure,
    evaluate_systems,
    evaluation_of,
    load_evaluations,
    load_figure_evaluations,
)
from vimss.experiment import Experiment
from vimss.intervals import Source
from vimss.metrics import CONVENTIONS
from vimss.model.separator import load_separator, read_card
from vimss.pages.of_trial import evaluation_bars, figure_bars
from vimss.promote.aliases import CHAMPION, FORCED_TAG, champion_to_beat, count_challenger, settle
from vimss.promote.decision import DEFAULTS, Bar, Decision, Terms, decide, decide_by_figure
from vimss.runtime import git_commit
from vimss.search.study import FILES, Study, TrialRecord
from vimss.session import Session
from vimss.shards.manifest import Manifest
from vimss.storage import atomic_write
from vimss.systems import equally_informed
from vimss.track import (
    Tracking,
    find_version,
    model_folder,
    register,
    registered_as,
    signature_of,
    weights_digest,
)
from vimss.track.sync import sync
from vimss.train.objectives import OBJECTIVES

CHALLENGER = "challenger"
"""Name of the row of the best trial."""


@dataclass(frozen=True)
class Promotion:
    """The outcome for a challenger."""

    name: str
    version: int
    cell: str
    """The cell whose best trial it is."""
    decision: Decision
    is_champion: bool
    forced: str = ""
    """Why it is the champion against the decision; empty where it is not."""


def promote_best(
    session: Session, experiment: Experiment, manifest: Manifest, study: Study, terms: Terms = DEFAULTS
) -> Promotion:
    """Register the best trial of all cells, and make it the champion where it is significantly better on `promote`.

    It is compared with the champion; where there is none, with the Wiener filter that has the same information as the
    model, or, where the model does not separate, with a constant guess. If the study was evaluated on `test`, the
    registry shows the figures of the best trial, and its run shows the table as bars.

    Raises:
        ModelError: Another version became the champion meanwhile.

    """
    separates = OBJECTIVES[experiment.objective].separates
    best = best_of_all(experiment, study)
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
    incumbent = champion_to_beat(session.tracking, experiment.name, version)
    decision = _compare(session.tracking, experiment, manifest, best.folder / "model", incumbent, terms.margin)
    is_champion = settle(session.tracking, experiment.name, version, incumbent, decision, terms.forced)
    against_decision = is_champion and not decision.promoted
    tags = find_version(session.tracking, experiment.name, str(version)).tags
    forced = tags.get(FORCED_TAG, "") if against_decision else ""
    return Promotion(experiment.name, version, best.cell, decision, is_champion, forced)


def judge_best(
    session: Session, experiment: Experiment, manifest: Manifest, study: Study, margin: float = 0.0
) -> Decision:
    """The decision of `promote_best`, which registers nothing and moves no alias.

    The champion's version counts the challenger all the same: its scores on the split have been looked at.
    """
    folder = best_of_all(experiment, study).folder / "model"
    version = registered_as(session.tracking, experiment.name, folder)
    incumbent = champion_to_beat(session.tracking, experiment.name, version)
    return _compare(session.tracking, experiment, manifest, folder, incumbent, margin)


def best_of_all(experiment: Experiment, study: Study) -> TrialRecord:
    """The best trial of all cells, controls included: the challenger."""
    return study.best([cell.name for cell in experiment.cells()])


def _compare(
    tracking: Tracking, experiment: Experiment, manifest: Manifest, folder: Path, incumbent: int | None, margin: float
) -> Decision:
    """The model in a folder against a version, or else against the row that knows as much."""
    models, against, bar = {CHALLENGER: folder}, "", Bar(margin)
    if incumbent is not None:
        models[CHAMPION] = model_folder(f"models:/{experiment.name}/{incumbent}", tracking)
        against = f"the champion, version {incumbent}"
        change = interface_change(folder, models[CHAMPION])
        if change:
            reason = f"{change} than {against}, which users of the alias rely on: give the experiment another name"
            return Decision(
                False, math.nan, -math.inf, math.inf, 0, against, f"Not promoted: {reason}, or use --force."
            )
        bar = Bar(
            margin, count_challenger(tracking, experiment.name, incumbent, manifest.digest, weights_digest(folder))
        )
    if OBJECTIVES[experiment.objective].separates:
        return _compare_separators(manifest, models, against, bar)
    return _compare_by_figure(manifest, models, against, experiment.objective, bar)


def interface_change(challenger: Path, champion: Path) -> str:
    """What a user of the alias would notice if one model's folder took the place of the other; empty where nothing."""
    ours, theirs = read_card(challenger), read_card(champion)
    if ours["labels"] != theirs["labels"]:
        return f"it has other labels ({', '.join(ours['labels'])} instead of {', '.join(theirs['labels'])})"
    if ours["sample_rate"] != theirs["sample_rate"]:
        return f"it has another sample rate ({ours['sample_rate']} instead of {theirs['sample_rate']} Hz)"
    mine, before = signature_of(challenger), signature_of(champion)
    return "" if mine == before else f"it has another signature ({mine} instead of {before})"


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


def _compare_separators(manifest: Manifest, models: Mapping[str, Path], against: str, bar: Bar) -> Decision:
    """The challenger against the champion, or else against the row with the same information."""
    baselines: tuple[str, ...] = ()
    incumbent = CHAMPION
    if CHAMPION not in models:
        incumbent = equally_informed(load_separator(models[CHALLENGER]).config)
        baselines, against = (incumbent,), f"the row '{incumbent}'"
    rows = evaluate_systems(manifest, models, "promote", baselines=baselines)
    found = {row.system: piece_scores(row) for row in rows}
    return decide(found[CHALLENGER], found[incumbent], against, bar)


def _compare_by_figure(
    manifest: Manifest, models: Mapping[str, Path], against: str, objective: str, bar: Bar
) -> Decision:
    """The challenger against the champion, or else against the constant guess."""
    rows = evaluate_by_figure(ModelsOnSplit(manifest, models, "promote"), objective)
    found = {row.system: row for row in rows}
    incumbent = found[CHAMPION if CHAMPION in models else GUESS]
    return decide_by_figure(found[CHALLENGER], incumbent, against or f"the row '{GUESS}'", manifest, bar)


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
