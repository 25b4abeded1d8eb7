"""Whether a new model becomes the champion, decided on the `promote` split.

    promotion = promote_best(session, experiment, manifest, study)
    print(promotion.decision.sentence)

The challenger, the best trial of a study or that of a run, is compared with the champion. It is promoted where the
interval of its gain over pieces, 95 % for the first challenger of a champion (see `level_of`), lies above the margin,
and otherwise refused.

Separators are compared on whole pieces, pair by pair: the same source in the same piece; without a champion, with a
Wiener filter. Networks that do not separate are compared by the figure of their objective, on the same mixtures of the
same pieces; without a champion, with a constant guess.
"""

from vimss.promote.aliases import (
    CHAMPION,
    FORCED_TAG,
    PREVIOUS,
    champion_to_beat,
    count_challenger,
    promote,
    resolve_model,
    rollback,
    settle,
)
from vimss.promote.challenger import (
    Challenger,
    Promotion,
    best_challenger,
    challenger_of_run,
    interface_change,
    judge_best,
    judge_challenger,
    promote_best,
    promote_challenger,
    registry_figures,
)
from vimss.promote.decision import MIN_PIECES, Bar, Decision, Terms, decide, decide_by_figure, level_of

__all__ = [
    "CHAMPION",
    "FORCED_TAG",
    "MIN_PIECES",
    "PREVIOUS",
    "Bar",
    "Challenger",
    "Decision",
    "Promotion",
    "Terms",
    "best_challenger",
    "challenger_of_run",
    "champion_to_beat",
    "count_challenger",
    "decide",
    "decide_by_figure",
    "interface_change",
    "judge_best",
    "judge_challenger",
    "level_of",
    "promote",
    "promote_best",
    "promote_challenger",
    "registry_figures",
    "resolve_model",
    "rollback",
    "settle",
]
