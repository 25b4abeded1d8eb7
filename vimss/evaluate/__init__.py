"""How well systems separate: whole pieces of a split and fixed mixtures, models beside baselines.

Networks that do not separate are judged by the figure of their objective: `figures`.

    evaluation = evaluate(model_system(folder, manifest, "best trial"), manifest, "test")
    evaluation.two_sources.si_sdr_improvement

    records   the scores of sources and mixtures, and a row's figures with their intervals
    scores    one system on one split
    tasks     a table in parts, for many cores
    figures   networks that do not separate, by the figure of their objective
    pictures  what pictures are worth to the systems that look at players

Every number has its convention (`metrics.CONVENTIONS`).
"""

from vimss.evaluate.records import (
    PIECE_FIGURES,
    Evaluation,
    MixtureScore,
    Part,
    PictureClaim,
    SourceCount,
    SourceScore,
    TwoSources,
    Values,
)
from vimss.evaluate.scores import (
    check_sources,
    evaluate,
    evaluate_piece,
    mixture_spec,
    score_mixtures,
    two_source_mixtures,
    two_source_spec,
)
from vimss.evaluate.tasks import (
    EvaluationTask,
    NamedBy,
    Row,
    Table,
    baseline_rows,
    evaluation_tasks,
    joined,
    run_evaluation,
    usable_baselines,
)

__all__ = [
    "PIECE_FIGURES",
    "Evaluation",
    "EvaluationTask",
    "MixtureScore",
    "NamedBy",
    "Part",
    "PictureClaim",
    "Row",
    "SourceCount",
    "SourceScore",
    "Table",
    "TwoSources",
    "Values",
    "baseline_rows",
    "check_sources",
    "evaluate",
    "evaluate_piece",
    "evaluation_tasks",
    "joined",
    "mixture_spec",
    "run_evaluation",
    "score_mixtures",
    "two_source_mixtures",
    "two_source_spec",
    "usable_baselines",
]
