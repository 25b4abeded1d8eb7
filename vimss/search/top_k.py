"""The scheduler top_k: every trial of a cell trains to the first rung; then the best K continue to the whole budget.

This is one round of synchronous successive halving (Karnin, Koren and Somekh 2013; Jamieson and Talwalkar 2016), the
inner loop of Hyperband. Unlike ASHA's, its choice does not depend on which trial reaches the rung first: it is a
function of the records.

    continuing, pruned = choose(records, rung=225.0, keep=2)

A trial that waits holds no process and no resources: its training has returned, and resumes from its checkpoint as
another trial of Tune. Ray's own way is a scheduler that returns PAUSE (HyperBandScheduler). Tune's ConcurrencyLimiter
counts such a trial among those that run at once: with more trials than that, it would wait for ever.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.search import Searcher

from vimss.search.study import TrialRecord
from vimss.search.trial import RUNG
from vimss.train.config import reaches
from vimss.train.figure import Figure


def value_at_rung(record: TrialRecord, rung: float) -> float | None:
    """The best value of the figure up to the first report at the rung; None while the trial is on its way there.

    A trial that came to its own end earlier has its best. The best, because by it a search finds its best trial.
    """
    values: list[float] = []
    for report in record.reports:
        values.append(report[record.figure.name])
        if reaches(report["audio_seconds"], rung):
            return record.figure.best(values)
    # A trial that was scored again has one report left, of its best weights; see its earlier reports too.
    earlier = (report["audio_seconds"] for reports in record.earlier.values() for report in reports)
    ended = record.state == "finished" or any(reaches(seconds, rung) for seconds in earlier)
    return record.figure.best(values) if ended else None


def choose(
    records: Sequence[TrialRecord], rung: float, keep: int, others: int = 0
) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """The trials that are sure to be among the best `keep`, best first; and those to prune, which are sure not to be.

    Trials that are not at the rung yet may turn out better than all that are. While there are `n` of them, the best
    `keep - n` are sure, and none is pruned. Trials that failed are out. Of two with the same value, the one that was
    drawn first is the better. A trial of `vimss search --continue` is ranked as all others, and is never pruned.

    Args:
        records: of one cell.
        rung: audio seconds.
        keep: how many continue.
        others: how many trials beside the records are not at the rung yet.

    """
    able = [record for record in records if record.state != "failed"]
    values = {record.trial: value_at_rung(record, rung) for record in able}
    on_their_way = others + sum(value is None for value in values.values())
    known = [(record.figure.rank(value), record) for record in able if (value := values[record.trial]) is not None]
    ranked = [record for _, record in sorted(known, key=lambda pair: (pair[0], pair[1].drawn_at, pair[1].begun))]
    left = [] if on_their_way else ranked[keep:]
    pruned = [record for record in left if record.state not in {"finished", "pruned"} and not record.is_continued]
    return ranked[: max(0, keep - on_their_way)], pruned


def continued_beyond(records: Sequence[TrialRecord], rung: float) -> list[TrialRecord]:
    """The trials of `vimss search --continue` that have something left beyond the rung, whatever their rank."""
    return [
        record for record in records if record.is_unfinished_continuation and value_at_rung(record, rung) is not None
    ]


@dataclass(frozen=True)
class Rung:
    """Where the trials of a cell are compared, and how."""

    seconds: float
    """Audio seconds."""
    keep: int
    figure: Figure
    records: Callable[[], Sequence[TrialRecord]]
    """All of the cell, as they are now."""
    prune: Callable[[TrialRecord], None]
    beside: Callable[[TrialRecord], Sequence[dict[str, Any]]]
    """Configurations of other cells that train beside a trial that continues."""


class TopK(Searcher):
    """Suggests draws that train to the rung, then the best of them again.

    A trial continues as soon as it is sure to be among the best, so that cores and processes need not wait for the last
    one at the rung. Where a trial was lost before the rung, the others wait until it has been started again. One that
    fails after the rung makes room for the next best.

    With several trials at once the draws depend on the order of their reports, as with every scheduler.
    """

    def __init__(self, draws: Searcher, rung: Rung, left: int, given_up: Collection[str] = ()) -> None:
        """`draws` suggests the trials that have to reach the rung yet; there are `left` of them.

        `given_up` are names of trials that were lost too often, or failed, to continue in this call.
        """
        super().__init__(metric=rung.figure.name, mode=rung.figure.direction)
        self.draws = draws
        self.rung = rung
        self.left = left
        self.to_rung: set[str] = set()
        """Trials of Tune on their way to the rung."""
        self.beyond: set[str] = set()
        """Trials of Tune on their way to the whole budget."""
        self.continued = set(given_up)
        """Names of the trials that went on in this run of Tune, and so do not start in it again."""
        self.beside: list[dict[str, Any]] = []
        """Configurations that wait for a place beside them."""

    def suggest(self, trial_id: str) -> Any:
        """The next configuration, None while one may come later, or Searcher.FINISHED."""
        if self.left:
            chosen = self.draws.suggest(trial_id)
            if chosen != Searcher.FINISHED:
                self.left -= 1
                self.to_rung.add(trial_id)
                return {**chosen, RUNG: self.rung.seconds}
            self.left = 0
        record = self._next()
        if record is not None:
            self.continued.add(record.trial)
            self.beyond.add(trial_id)
            if not record.is_continued:  # it need not be the best, from which the controls inherit
                self.beside += self.rung.beside(record)
            return dict(record.chosen)
        if self.beside:
            self.beyond.add(trial_id)
            return self.beside.pop(0)
        return None if self.to_rung or self.beyond else Searcher.FINISHED

    def _next(self) -> TrialRecord | None:
        """A trial that continues now. Once all have reached the rung, the others are pruned."""
        records = self.rung.records()
        # Those of this run that have reported at the rung, but not returned: their folder is still in use.
        closing = [record for record in records if record.state == "running" and record.trial not in self.continued]
        continuing, pruned = choose(
            [record for record in records if record not in closing], self.rung.seconds, self.rung.keep, len(closing)
        )
        for record in pruned:
            self.rung.prune(record)
        continued = [record for record in continued_beyond(records, self.rung.seconds) if record not in closing]
        due = (
            record
            for record in (*continuing, *continued)
            if record.state != "finished" and record.trial not in self.continued
        )
        return next(due, None)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Forget a trial of Tune that has ended; its record says how."""
        self.beyond.discard(trial_id)
        self.to_rung.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Tune saves its searcher for a restore that we do not use."""
