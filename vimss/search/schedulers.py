"""The schedulers that prune a trial while it trains: rules over records, which know neither Ray nor time.

    rung = SCHEDULERS["asha"](record, others, experiment.search)  # audio seconds at which it is pruned, or None

Each decides about the last report of a record, given the other trials of its cell as they were when it came. Ray's
schedulers hold rungs and averages in memory and start empty after a resume. These decide as Ray's do (a test compares
them) and from the records alone, so the same search is replayed without Ray, event by event.
"""

from collections.abc import Callable, Sequence

import numpy as np

from vimss.experiment import SearchConfig
from vimss.search.study import TrialRecord
from vimss.train.config import reaches

MEDIAN_TRIALS = 3
"""Averages that the median needs: Tune's default, `min_samples_required`."""

Rule = Callable[[TrialRecord, Sequence[TrialRecord], SearchConfig], float | None]
"""The audio seconds at which a trial is pruned by its last report, given the others of its cell; None: it continues."""


def asha(record: TrialRecord, others: Sequence[TrialRecord], config: SearchConfig) -> float | None:
    """Prune a trial that reaches a rung below the best of the values there, one in `reduction_factor`.

    Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) in its stopping form, which Ray Tune and Syne
    Tune have: a trial is compared once at each rung, when it comes there, with those that came before it.
    """
    seconds, before = record.reports[-1]["audio_seconds"], _trained_before(record)
    rung = config.grace_seconds
    if not reaches(seconds, rung):
        return None
    while reaches(seconds, rung * config.reduction_factor):
        rung *= config.reduction_factor
    if reaches(before, rung):
        return None
    figure = record.figure
    ranks = [figure.rank(value) for other in others if (value := _value_at(other, rung)) is not None]
    if not ranks:
        return None
    worst = np.percentile(ranks, 100 / config.reduction_factor)
    return rung if figure.rank(record.reports[-1][figure.name]) > worst else None


def median(record: TrialRecord, others: Sequence[TrialRecord], config: SearchConfig) -> float | None:
    """Prune a trial whose best value so far is worse than the median of the others' averages up to its audio seconds.

    The median stopping rule (Golovin et al. 2017, section 3.2.1) as Tune has it: averages count from `grace_seconds`
    on, those of running trials too, and three are needed.
    """
    seconds, figure = record.reports[-1]["audio_seconds"], record.figure
    if not reaches(seconds, config.grace_seconds):
        return None
    averages = [average for other in others if (average := _average(other, config.grace_seconds, seconds)) is not None]
    if len(averages) < MEDIAN_TRIALS:
        return None
    return seconds if figure.better(float(np.median(averages)), than=record.value) else None


def never(record: TrialRecord, others: Sequence[TrialRecord], config: SearchConfig) -> float | None:
    """Prune nothing."""
    return None


SCHEDULERS: dict[str, Rule] = {
    "asha": asha,
    "median": median,
    "top_k": never,  # trials wait for each other at the rung instead: see vimss.search.top_k
    "none": never,
}


def rung_number(seconds: float, config: SearchConfig) -> int:
    """How many rungs of the scheduler lie within so many audio seconds; without rungs, multiples of the first."""
    number, rung = 0, config.grace_seconds
    if config.scheduler != "asha":
        number = int(seconds / rung)
        return number + 1 if reaches(seconds, (number + 1) * rung) else number
    while reaches(seconds, rung):
        number, rung = number + 1, rung * config.reduction_factor
    return number


def values_at_rungs(record: TrialRecord, config: SearchConfig) -> dict[int, float]:
    """The values of a trial by the number of the rung, counted from 1: those of the first reports there."""
    if record.earlier:
        number = rung_number(audio_seconds_trained(record), config)
        return {number: record.value} if number and record.reports else {}
    values: dict[int, float] = {}
    for report in record.reports:
        number = rung_number(report["audio_seconds"], config)
        if number:
            values.setdefault(number, report[record.figure.name])
    return values


def audio_seconds_trained(record: TrialRecord) -> float:
    """How far a trial has come: one that was scored again has one report left, of its best weights."""
    known = (record.reports, *record.earlier.values())
    return max((report["audio_seconds"] for reports in known for report in reports), default=0.0)


def _trained_before(record: TrialRecord) -> float:
    """How far a trial had come before its last report."""
    return audio_seconds_trained(record.model_copy(update={"reports": record.reports[:-1]}))


def _value_at(record: TrialRecord, rung: float) -> float | None:
    """The value of the first report at a rung; of a trial that was scored again, its value; None before the rung."""
    for report in record.reports:
        if reaches(report["audio_seconds"], rung):
            return report[record.figure.name]
    return record.value if record.reports and reaches(audio_seconds_trained(record), rung) else None


def _average(record: TrialRecord, begin: float, end: float) -> float | None:
    """The average from the first report at `begin` to the first at `end`; None where the trial has not come there."""
    values: list[float] = []
    for report in record.reports:
        if reaches(report["audio_seconds"], begin):
            values.append(report[record.figure.name])
        if reaches(report["audio_seconds"], end):
            return float(np.mean(values))
    return record.value if record.reports and reaches(audio_seconds_trained(record), end) else None
