"""The table of a search's trials, as a terminal shows it."""

import io
from pathlib import Path

import pytest

from vimss import console
from vimss.experiment import Experiment
from vimss.search.events import (
    Event,
    TrialContinues,
    TrialEnded,
    TrialReplayed,
    TrialReported,
    TrialStarted,
    TrialWaits,
)
from vimss.trials_table import FEWEST_ROWS, LINES_AROUND, TrialsTable, search_stage

BUDGET = {"audio_seconds": 900, "report_seconds": 225}
CHOSEN = Experiment(name="x", question="?", expected="!", shards="quickstart", training=BUDGET)


def reported(trial: str, loss: float, seconds: float = 225.0, rate: float = 15.0) -> TrialReported:
    return TrialReported("search", trial, seconds, {"valid_loss": loss, "audio_seconds_per_second": rate})


def started(*trials: str) -> list[Event]:
    return [TrialStarted("search", trial, None, {}) for trial in trials]


def drawn(*events: Event, height: int = 40) -> list[list[str]]:
    """The rows as lists of words."""
    table = TrialsTable(CHOSEN)
    for event in events:
        table(event)
    shown = io.StringIO()
    console._Plain(file=shown, width=100, height=height).print(table, soft_wrap=False)
    return [line.split() for line in shown.getvalue().splitlines() if line.strip()]


def test_before_the_first_trial_there_is_no_table():
    assert drawn() == []


def test_the_best_comes_first_with_figure_audio_seconds_state_and_the_time_left():
    events = [*started("a", "b", "c"), reported("a", -1.0), reported("b", -2.0)]
    head, _, *rows = drawn(*events)
    assert head == ["trial", "cell", "validation", "loss,", "dB", "audio", "seconds", "state", "time", "left"]
    assert rows == [
        ["2", "search", "-2.00", "225", "of", "900", "running", "45", "seconds"],
        ["1", "search", "-1.00", "225", "of", "900", "running", "45", "seconds"],
        ["3", "search", "-", "0", "of", "900", "running"],
    ]


def test_the_figure_is_the_best_so_far_and_the_seconds_are_the_last():
    _, _, row = drawn(*started("a"), reported("a", -2.0), reported("a", -1.0, 450.0))
    assert row == ["1", "search", "-2.00", "450", "of", "900", "running", "30", "seconds"]


@pytest.mark.parametrize(
    ("last", "state"),
    [
        (TrialWaits("search", "a"), "waiting"),
        (TrialEnded("search", "a", "pruned", Path()), "pruned"),
        (TrialEnded("search", "a", "failed", Path(), "why"), "failed"),
    ],
)
def test_a_trial_that_does_not_run_has_its_state_and_no_time_left(last, state):
    _, _, row = drawn(*started("a"), reported("a", -1.0), last)
    assert row == f"1 search -1.00 225 of 900 {state}".split()


def test_a_trial_that_goes_on_or_is_resumed_runs_again():
    for again in (TrialContinues("search", "a"), *started("a")):
        _, _, row = drawn(*started("a"), reported("a", -1.0), TrialWaits("search", "a"), again)
        assert row == ["1", "search", "-1.00", "225", "of", "900", "running", "45", "seconds"]


@pytest.mark.parametrize("state", ["finished", "pruned", "waiting"])
def test_a_trial_of_an_earlier_call_has_its_best_figure_and_its_state(state):
    reports = tuple(
        {"valid_loss": loss, "audio_seconds": seconds}
        for loss, seconds in ((-1.0, 225.0), (-3.0, 450.0), (-2.0, 675.0))
    )
    _, _, row = drawn(TrialReplayed("search", "a", {}, reports, state))
    assert row == f"1 search -3.00 675 of 900 {state}".split()


def test_a_low_terminal_shows_those_that_run_and_the_best_of_the_others():
    names = [f"t{number}" for number in range(10)]
    events: list[Event] = []
    for number, name in enumerate(names):
        events += [*started(name), reported(name, float(-number))]
        events += [] if name == "t0" else [TrialEnded("search", name, "pruned", Path())]
    for height in (FEWEST_ROWS + LINES_AROUND, 1):
        _, _, *rows, caption = drawn(*events, height=height)
        assert [row[0] for row in rows] == ["10", "9", "1"] and caption == ["and", "7", "more"]


def test_a_figure_that_is_not_a_number_comes_last():
    _, _, first, second = drawn(*started("a", "b"), reported("a", float("nan")), reported("b", 3.0))
    assert (first[0], second[0]) == ("2", "1")


@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_shows_the_table_and_all_show_the_lines(monkeypatch, terminal):
    shown = io.StringIO()
    monkeypatch.setattr(console, "err", console._Plain(file=shown, force_terminal=terminal, width=120))
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with search_stage("search of x", CHOSEN) as report:
        for event in (*started("a"), reported("a", -1.0)):
            report(event)
    assert ("time left" in shown.getvalue()) == terminal
    assert (
        "trial 1 starts" in shown.getvalue() and "search of x: trial 1 at 225 of 900 audio seconds" in shown.getvalue()
    )
