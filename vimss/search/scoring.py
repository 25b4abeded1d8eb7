"""Score earlier trials on the current validation set: their weights are kept, and nothing is trained again.

    score_again(folder, manifest, experiment.validation, report=print)

Losses on different sets cannot be compared, so this comes before any cell starts and before a best trial is chosen.
"""

from collections.abc import Callable
from pathlib import Path

from vimss.runtime import parallel_map
from vimss.search.events import Event, TrialsScoredAgain
from vimss.search.study import TrialRecord, read_study, write_record
from vimss.shards.manifest import Manifest, with_manifests
from vimss.train.config import ValidationConfig
from vimss.train.rescore import Score, ScoringTask, score
from vimss.train.validation import make_validation_set, validation_spec


def score_again(
    folder: Path,
    manifest: Manifest,
    config: ValidationConfig,
    report: Callable[[Event], None],
    objective: str = "separation",
) -> None:
    """Score the trials of a study that ended and belong to another validation set.

    A trial that was scored on this set earlier gets the reports of that time back. One whose weights cannot be read is
    marked interrupted, so that it resumes from its checkpoint, which is scored then.
    """
    validation = validation_spec(manifest, config, objective).signature(manifest)
    waiting: dict[Path, TrialRecord] = {}
    for record in read_study(folder).records:
        ended = record.state in {"finished", "pruned", "failed"}
        if not ended or record.validation == validation or not (record.reports or record.earlier):
            continue
        model = record.folder / "model"
        if validation in record.earlier or not model.is_dir():
            write_record(record.moved_to(validation, record.earlier.get(validation, ())))
        elif record.settings is not None:
            waiting[model] = record
    if not waiting:
        return
    make_validation_set(manifest, config, objective)
    tasks = [
        ScoringTask(model, record.settings, manifest.folder, config)
        for model, record in waiting.items()
        if record.settings is not None
    ]

    def keep(found: Score) -> None:
        write_record(_with_score(waiting.pop(found.model), found, validation))
        report(TrialsScoredAgain(len(tasks) - len(waiting), len(tasks)))

    parallel_map(with_manifests(score, [manifest.folder]), tasks, keep)


def _with_score(record: TrialRecord, found: Score, validation: str) -> TrialRecord:
    """A record with the figure of its weights, in place of the best report by which they were chosen."""
    if not found.error:
        reports = record.reports or next(iter(record.earlier.values()))
        figure = record.figure
        best = min(reports, key=lambda report: figure.rank(report[figure.name]))
        # The raw weights were not kept, so theirs is not computed again.
        return record.moved_to(validation, [{**figure.without(best), figure.name: found.value, **found.parts}])
    message = f"its weights could not be scored on another validation set: {found.error}"
    state = "failed" if record.state == "failed" else "interrupted"
    return record.moved_to(validation).model_copy(update={"state": state, "message": message})
