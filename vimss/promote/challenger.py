"""A trial as challenger: registered, compared and, where it is better, promoted.

challenger = challenger_of_run(session, "learning_rate=0.001 3f9c2a1b07")    # or best_challenger(...) of a study
promote_challenger(session, challenger, Terms(margin=0.5)).decision.sentence
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vimss.console import show_fetching
from vimss.errors import DataError
from vimss.evaluate import Evaluation, Table, baseline_rows
from vimss.evaluate.figures import GUESS
from vimss.evaluate.kept import named_figures
from vimss.evaluations import (
    ModelsOnSplit,
    evaluate_by_figure,
    evaluate_rows,
    evaluation_of,
    load_evaluations,
    load_figure_evaluations,
    model_rows,
)
from vimss.experiment import Experiment
from vimss.metrics import CONVENTIONS
from vimss.model.card import check_model_folder
from vimss.model.separator import load_separator, read_card
from vimss.pages.of_trial import evaluation_bars, figure_bars
from vimss.progress import SoundProgress
from vimss.promote.aliases import CHAMPION, FORCED_TAG, champion_to_beat, count_challenger, settle
from vimss.promote.decision import DEFAULTS, Bar, Decision, Terms, decide, decide_by_figure
from vimss.promote.report import About, Compared, keep_report, piece_scores, report_files, without_example
from vimss.runtime import git_commit
from vimss.search.remote import pull
from vimss.search.study import FILES, Study, TrialRecord, read_study
from vimss.session import Session
from vimss.shards.manifest import Manifest
from vimss.shards.written import check_split, shards_of_digest
from vimss.storage import atomic_write
from vimss.systems import equally_informed
from vimss.track import (
    Tracking,
    find_trial_run,
    find_version,
    model_folder,
    register,
    registered_as,
    signature_of,
    weights_digest,
)
from vimss.track.sync import sync
from vimss.train.objectives import OBJECTIVES, figure_of

CHALLENGER = "challenger"
"""Name of the row of the trial."""

OnProgress = Callable[[SoundProgress], None]


@dataclass(frozen=True)
class Challenger:
    """A trial that may become the champion of a registered model."""

    name: str
    """Of the registered model: the experiment's, where no other is asked for."""
    experiment: str
    question: str
    manifest: Manifest
    """The shards whose split `promote` decides."""
    study: Study
    trial: TrialRecord
    run_id: Callable[[], str]
    """MLflow's id of its run, which is written first where MLflow lacks it."""

    @property
    def folder(self) -> Path:
        """The model's."""
        return self.trial.folder / "model"

    @property
    def objective(self) -> str:
        """The task that it was trained for."""
        return str(read_card(self.folder).get("objective", "separation"))


@dataclass(frozen=True)
class Promotion:
    """The outcome for a challenger."""

    name: str
    version: int
    cell: str
    """The cell of the trial."""
    decision: Decision
    is_champion: bool
    forced: str = ""
    """Why it is the champion against the decision; empty where it is not."""
    report: str = ""
    """Path of the page with all scores, or its address in MLflow; empty where nothing was scored."""


def promote_best(
    session: Session, experiment: Experiment, manifest: Manifest, study: Study, terms: Terms = DEFAULTS
) -> Promotion:
    """Register the best trial of all cells, and make it the champion where it is significantly better on `promote`;
    see `promote_challenger`.
    """
    return promote_challenger(session, best_challenger(session, experiment, manifest, study), terms)


def judge_best(
    session: Session, experiment: Experiment, manifest: Manifest, study: Study, margin: float = 0.0
) -> Decision:
    """The decision of `promote_best`; see `judge_challenger`."""
    return judge_challenger(session, best_challenger(session, experiment, manifest, study), margin)


def best_challenger(
    session: Session, experiment: Experiment, manifest: Manifest, study: Study, name: str = ""
) -> Challenger:
    """The best trial of all cells, controls included, for the registered model `name`."""
    best = study.best([cell.name for cell in experiment.cells()])

    def run_id() -> str:
        return sync(session.tracking, experiment, manifest, study.folder).run_ids[best.cell, best.trial]

    return Challenger(name or experiment.name, experiment.name, experiment.question, manifest, study, best, run_id)


def challenger_of_run(session: Session, given: str, name: str = "") -> Challenger:
    """The trial of a run in MLflow, by the run's id or name, for the registered model `name`.

    Raises:
        DataError: The trial has not ended, or it or its shards are not in this store.
        ModelError: There is no such run, or the trial has no weights.
        PlaceError: MLflow does not answer.

    """
    run = find_trial_run(session.tracking, given)
    folder = session.store.studies / run.study
    pull(folder, show_fetching(folder.name))
    study = read_study(folder)
    trials = [record for record in study.records if record.trial == run.trial]
    if not trials:
        raise DataError(
            f"the trial {run.trial} of {run.experiment} must be in the store",
            got=f"no {study.folder / '*' / run.trial}",
            fix="set VIMSS_STORE to the store in which it was trained",
        )
    trial = next((record for record in trials if record.cell == run.cell), trials[0])
    if trial.state in ("running", "waiting"):
        raise DataError(
            f"the trial {run.trial} must have ended", got=trial.state, fix=f"end the search of {run.experiment} first"
        )
    check_model_folder(trial.folder / "model")
    manifest = shards_of_digest(session.store, run.shards)
    if manifest is None:
        raise DataError(
            f"the shards that the trial {run.trial} was trained on must be in the store",
            got=f"none with the digest {run.shards} in {session.store.shards}",
            fix="write them again with `vimss shard`, from the same recipe",
        )
    check_split(manifest, "promote")
    return Challenger(name or run.experiment, run.experiment, run.question, manifest, study, trial, lambda: run.run_id)


def promote_challenger(
    session: Session,
    challenger: Challenger,
    terms: Terms = DEFAULTS,
    on_progress: OnProgress = lambda progress: None,
) -> Promotion:
    """Register a trial, and make it the champion where it is significantly better on the split `promote`.

    It is compared with the champion; where there is none, with the Wiener filter that has the same information as the
    model, or, where the model does not separate, with a constant guess. The runs of both versions get the scores, the
    decision and a page that shows them. If the study was evaluated on `test`, the registry shows the figures of the
    trial, and its run shows the table as bars.

    Raises:
        ModelError: Another version became the champion meanwhile.

    """
    tracking, name, folder = session.tracking, challenger.name, challenger.folder
    separates = OBJECTIVES[challenger.objective].separates
    tested = _tested_separator if separates else _tested_by_figure
    figures, bars = tested(challenger.trial, challenger.study)
    if bars:
        with atomic_write(challenger.trial.folder / FILES / "test.png") as temporary:
            temporary.write_bytes(bars)
    run_id = challenger.run_id()
    version = register(tracking, name, folder, run_id, figures, model_card(challenger))
    incumbent = champion_to_beat(tracking, name, version)
    compared = _compare(tracking, challenger, incumbent, terms.margin, on_progress)
    decision = compared.decision
    is_champion = settle(tracking, name, version, incumbent, decision, terms.forced)
    tags = find_version(tracking, name, str(version)).tags
    forced = tags.get(FORCED_TAG, "") if is_champion and not decision.promoted else ""
    report = ""
    if compared.scored:
        about = About(name, version, incumbent, challenger.experiment, challenger.trial, is_champion, forced)
        files = report_files(compared, challenger.manifest, about, on_progress)
        report = keep_report(tracking, about, files)
    return Promotion(name, version, challenger.trial.cell, decision, is_champion, forced, report)


def judge_challenger(
    session: Session,
    challenger: Challenger,
    margin: float = 0.0,
    on_progress: OnProgress = lambda progress: None,
) -> Decision:
    """The decision of `promote_challenger`, which registers nothing and moves no alias.

    The champion's version counts the challenger all the same: its scores on the split have been looked at.
    """
    version = registered_as(session.tracking, challenger.name, challenger.folder)
    incumbent = champion_to_beat(session.tracking, challenger.name, version)
    return _compare(session.tracking, challenger, incumbent, margin, on_progress).decision


def _compare(
    tracking: Tracking, challenger: Challenger, incumbent: int | None, margin: float, on_progress: OnProgress
) -> Compared:
    """The model in a folder against a version, or else against the row that knows as much."""
    folder, manifest = challenger.folder, challenger.manifest
    models, against, bar = {CHALLENGER: folder}, "", Bar(margin)
    if incumbent is not None:
        models[CHAMPION] = model_folder(f"models:/{challenger.name}/{incumbent}", tracking)
        against = f"the champion, version {incumbent}"
        change = interface_change(folder, models[CHAMPION])
        if change:
            reason = f"{change} than {against}, which users of the alias rely on: register it under another name"
            return Compared(
                Decision(False, math.nan, -math.inf, math.inf, 0, against, f"Not promoted: {reason}, or use --force.")
            )
        number = count_challenger(tracking, challenger.name, incumbent, manifest.digest, weights_digest(folder))
        bar = Bar(margin, number)
    if OBJECTIVES[challenger.objective].separates:
        return _compare_separators(manifest, models, against, bar, on_progress)
    return _compare_by_figure(ModelsOnSplit(manifest, models, "promote", on_progress=on_progress), against, bar)


def interface_change(challenger: Path, champion: Path) -> str:
    """Which labels, rate or signature a user of the alias would find changed by a promotion; empty where none."""
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
    return named_figures(found), figure_bars(tested)


def _compare_separators(
    manifest: Manifest, models: Mapping[str, Path], against: str, bar: Bar, on_progress: OnProgress
) -> Compared:
    """The challenger against the champion, or else against the row with the same information."""
    rows = model_rows(models)
    if CHAMPION not in models:
        baseline = equally_informed(load_separator(models[CHALLENGER]).config)
        rows += baseline_rows(manifest, (baseline,))
        against = f"the row '{baseline}'"
    found = evaluate_rows(rows, Table(manifest.folder, "promote"), manifest, on_progress=on_progress)
    ours, theirs = found
    scores, without = (piece_scores(ours), piece_scores(theirs)), without_example(ours) | without_example(theirs)
    return Compared(decide(*scores, against, bar, without), bar, tuple(found), tuple(rows))


def _compare_by_figure(models: ModelsOnSplit, against: str, bar: Bar) -> Compared:
    """The challenger against the champion, or else against the constant guess."""
    objective = str(read_card(models.folders[CHALLENGER])["objective"])
    found = {row.system: row for row in evaluate_by_figure(models, objective)}
    ours, theirs = found[CHALLENGER], found[CHAMPION if CHAMPION in models.folders else GUESS]
    decision = decide_by_figure(ours, theirs, against or f"the row '{GUESS}'", models.manifest, bar)
    return Compared(decision, bar, (ours, theirs))


def registry_figures(best: TrialRecord, tested: Sequence[Evaluation]) -> dict[str, float]:
    """The figures of the best trial in the registry: those on the test split, if it was evaluated there.

    Figures that are not defined for its network are NaN.
    """
    found = evaluation_of(best, tested)
    return {} if found is None else named_figures(found)


def model_card(challenger: Challenger) -> dict[str, Any]:
    """The facts that a user of the model needs."""
    manifest, objective = challenger.manifest, challenger.objective
    recipe, separates = manifest.recipe, OBJECTIVES[objective].separates
    return {
        "experiment": challenger.experiment,
        "question": challenger.question,
        "data": f"{manifest.name}: {recipe.description}",
        "licence": recipe.licence,
        "sample_rate": recipe.sample_rate,
        "labels": ",".join(recipe.labels),
        "convention": CONVENTIONS["SI-SDRi"] if separates else figure_of(objective).title,
        "shards": manifest.digest,
        "commit": git_commit(),
    }
