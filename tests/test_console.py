"""What is printed: names of strangers as they are, and nothing that steers a terminal."""

import ast
import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import vimss
from vimss import console
from vimss.console import SearchLines, duration
from vimss.experiment import Experiment
from vimss.search.consistency import load_experiment
from vimss.search.events import (
    TrialContinues,
    TrialEnded,
    TrialReplayed,
    TrialReported,
    TrialsScoredAgain,
    TrialStarted,
    TrialWaits,
)
from vimss.search.remaining import Progress, audio_left, longest

ODD = "Duo live [dQw4w9WgXcQ].mp4", "[red]x[/red]", "[/]", ":smile:", "[link=file:///x]y", "a  b\\[c]", "日本 é.wav"
"""Names that rich would take for markup or emoji."""


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_printed_as_it_is(capsys, name):
    console.out.print(name)
    assert capsys.readouterr().out == f"{name}\n"


@pytest.mark.parametrize("name", ODD)
def test_a_table_shows_title_columns_cells_and_caption_as_they_are(capsys, name):
    console.print_table(f"T {name}", ("", f"C {name}"), [(f"R {name} and more", f"V {name}")], f"E {name}")
    said = capsys.readouterr().out
    assert all(f"{letter} {name}" in said for letter in "TCRVE")


def test_a_question_of_several_lines_is_one_title(capsys):
    console.print_table("Does it\n  help?\n", ("", "x"), [("a" * 20, "1")])
    assert capsys.readouterr().out.startswith("Does it help?")


def test_a_long_name_in_a_table_is_not_cut(capsys):
    console.print_table("", ("", "loss"), [("n" * 300, "-1.00")])
    assert "n" * 300 in capsys.readouterr().out


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_stage_and_its_news_are_shown_as_they_are(monkeypatch, name, terminal):
    shown = io.StringIO()
    monkeypatch.setattr(console, "err", console._Plain(file=shown, force_terminal=terminal, width=300))
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with console.stage(f"S {name}") as say:
        say(f"N {name}")
    assert f"S {name}: N {name}" in shown.getvalue()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\x1b]0;title\x07", "a\\x1b]0;title\\x07"),
        ("a\rb\bc", "a\\rb\\x08c"),
        ("a\nerror: b", "a\\nerror: b"),
        ("a\x9b31m", "a\\x9b31m"),
        ("a\u202egpj.exe", "a\\u202egpj.exe"),
        ("a\u2028b", "a\\u2028b"),
        ("a\udcffb", "a\\xffb"),
        ("a\ud800b", "a\\ud800b"),
    ],
)
def test_what_steers_a_terminal_is_shown_by_its_code(capsys, name, shown):
    console.out.print(name)
    assert capsys.readouterr().out == f"{shown}\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_that_lacks_letters_gets_their_codes(monkeypatch, encoding, terminal):
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    plain = console._Plain(file=output, force_terminal=terminal, width=300)
    monkeypatch.setattr(console, "out", plain)
    monkeypatch.setattr(console, "err", plain)
    with console.stage("日本"):
        console.print_table("日本", ("", "日本"), [("日本" * 200, "日本")], "日本")
    output.flush()
    assert output.buffer.getvalue().decode(encoding).count("\\u65e5\\u672c") > 200


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_an_error_about_an_odd_name_is_one_line(encoding):
    done = subprocess.run(
        [sys.executable, "-m", "vimss", "compare", "[red]\x1b[31m\udcff:smile:日.yaml"],
        env={"PATH": "", "PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(vimss.__file__).parent.parent)},
        capture_output=True,
        check=False,
    )
    day = "日" if encoding == "utf-8" else "\\u65e5"
    (line,) = done.stderr.decode(encoding).splitlines()
    assert done.returncode == 2 and line.startswith(f"error: [red]\\x1b[31m\\xff:smile:{day}.yaml must be a YAML file")


def test_what_a_stage_logs_is_printed_as_it_is(capsys, monkeypatch):
    log = logging.getLogger("vimss")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)
    console.print_warnings()
    console.print_warnings()
    logging.getLogger("vimss.stream").warning("left out %s", "[red]x[/red]\x1b[2J")
    assert capsys.readouterr().err == "warning: left out [red]x[/red]\\x1b[2J\n"


def searched(**changes) -> Experiment:
    """Four trials of 900 audio seconds, and two controls."""
    content = {
        "training": {"audio_seconds": 900, "report_seconds": 225},
        "tune": {"training.learning_rate": {"low": 1e-3, "high": 1e-2}},
        "search": {"trials": 4, "grace_seconds": 225, "scheduler": "top_k", "keep": 2},
        "controls": {"plain": {"model.site": "none"}, "told": {"model.site": "decoder"}},
    }
    return Experiment(name="x", question="q", expected="e", shards="s", **{**content, **changes})


ASHA = {"trials": 4, "scheduler": "asha", "grace_seconds": 225}


@pytest.mark.parametrize(
    ("changes", "rounds"),
    [
        ({}, [[225] * 4, [675] * 2, [900] * 2]),
        ({"search": ASHA}, [[900] * 4, [900] * 2]),
        ({"search": {}, "tune": {}}, [[900], [900] * 2]),
        ({"search": {}, "tune": {}, "controls": {}, "compare": {"model.levels": [3, 4]}}, [[900, 900], []]),
        ({"compare": {"training.audio_seconds": [300, 900]}}, [[225] * 4, [75] * 2, [225] * 4, [675] * 2, [900] * 2]),
    ],
)
def test_what_a_search_will_train_depends_on_its_scheduler(changes, rounds):
    assert audio_left(searched(**changes), {}) == rounds


@pytest.mark.parametrize(
    ("trials", "rounds"),
    [
        ([Progress(100.0)], [[125, 225, 225, 225], [675] * 2]),
        ([Progress(225.0, "waiting")], [[225] * 3, [675] * 2]),
        ([Progress(225.0, "waiting")] * 3 + [Progress(450.0)], [[], [450, 675]]),
        ([Progress(225.0, "over")] * 2 + [Progress(900.0, "finished"), Progress(450.0)], [[], [450]]),
        ([Progress(225.0, "over")] * 2 + [Progress(900.0, "finished")] * 2, [[], []]),
        ([Progress(0.0, "over")] * 3 + [Progress(225.0, "waiting")], [[], [675]]),
        ([Progress(900.2)] + [Progress(900.2, "finished")] * 6, [[], [0]]),
    ],
)
def test_what_is_left_counts_trials_to_the_rung_and_those_that_go_on(trials, rounds):
    assert audio_left(searched(), {"search": trials})[:-1] == rounds


@pytest.mark.parametrize(
    ("continued", "rounds"),
    [
        (Progress(450.0, rank=3.0), [[], [450, 675, 675]]),
        (Progress(900.0, "finished", rank=3.0), [[], [675, 675]]),
        (Progress(450.0, rank=1.5), [[], [450, 675]]),
    ],
)
def test_a_continued_trial_takes_none_of_the_places_of_better_ones(continued, rounds):
    waiting = [Progress(225.0, "waiting", rank=rank) for rank in (1.0, 2.0, 4.0)]
    assert audio_left(searched(controls={}), {"search": [*waiting, continued]})[:-1] == rounds


def test_trials_of_an_earlier_call_have_a_line_each_and_their_rates_say_what_is_left(capsys):
    said: list[str] = []
    lines = SearchLines(said.append, searched(controls={}))
    report = {"valid_loss": -3.0, "audio_seconds": 225.0, "audio_seconds_per_second": 10.0}
    lines(
        TrialReplayed(
            "search", "a", {"training.learning_rate": 3e-3}, (report, report | {"audio_seconds": 900.0}), "finished"
        )
    )
    lines(TrialReplayed("search", "b", {}, (report,), "pruned"))
    lines(TrialReplayed("search", "c", {}, (report,), "waiting"))
    assert said == []
    assert capsys.readouterr().err.splitlines() == [
        "    trial 1 was finished before: learning_rate 0.003",
        "    trial 2 was pruned before",
        "    trial 3 waits at the rung",
    ]
    assert lines.progress["search"] == {
        "a": Progress(900.0, "finished", -3.0),
        "b": Progress(225.0, "over", -3.0),
        "c": Progress(225.0, "waiting", -3.0),
    }
    lines(TrialStarted("search", "d", None, {}))
    lines(TrialReported("search", "d", 225.0, {"valid_loss": -1.0, "audio_seconds_per_second": 10.0}))
    assert "(best -3.00)" in said[-1] and "of the search left" in said[-1]


def test_the_rank_of_a_trial_is_that_of_its_best_figure_up_to_the_rung():
    lines = SearchLines(lambda line: None, searched(controls={}))
    lines(TrialStarted("search", "a", None, {}))
    for seconds, loss, rank in ((100.0, -2.0, -2.0), (225.0, -1.0, -2.0), (450.0, -9.0, -2.0)):
        lines(TrialReported("search", "a", seconds, {"valid_loss": loss}))
        assert lines.progress["search"]["a"] == Progress(seconds, "running", rank)


def test_pruned_trials_have_nothing_left_whatever_they_saw():
    over = [Progress(225.0, "over")] * 3
    assert audio_left(searched(search=ASHA), {"search": [*over, Progress(300.0)]})[0] == [600]
    assert audio_left(searched(), {"plain": [Progress(300.0)], "told": [Progress(900.0, "finished")]})[-1] == [600]


def test_rounds_take_as_long_as_their_places_do():
    rounds = [[225.0] * 4, [675.0] * 2, [900.0] * 2]
    assert longest(rounds, 2) == 450 + 675 + 900
    assert longest(rounds, 1) == 900 + 1350 + 1800
    assert longest([[3.0, 2.0, 2.0]], 2) == 4 and longest([[], []], 2) == 0 == longest([], 0)


def test_the_lines_of_a_search_count_what_is_left_down_to_nothing(capsys):
    said: list[str] = []
    lines = SearchLines(said.append, searched(controls={}))

    def reported(trial: str, seconds: float, rate: float = 10.0) -> str:
        metrics = {"valid_loss": -1.0, "audio_seconds_per_second": rate}
        lines(TrialReported("search", trial, seconds, metrics))
        return said[-1]

    for trial in "ab":
        lines(TrialStarted("search", trial, None, {}))
    # Two at once: 0 and 225 to the rung, 225 after it, then twice 675 side by side.
    assert reported("a", 225.0).endswith(
        "validation loss -1.00 dB (best -1.00), 10 x real time, about 2 minutes of the search left"
    )
    lines(TrialWaits("search", "a"))
    reported("b", 225.0)
    lines(TrialWaits("search", "b"))
    for trial in "cd":
        lines(TrialStarted("search", trial, None, {}))
        reported(trial, 225.0)
        lines(TrialWaits("search", trial))
    for trial in "bc":
        lines(TrialEnded("search", trial, "pruned", Path()))
    for trial in "ad":
        lines(TrialContinues("search", trial))
    assert reported("a", 450.0).endswith("about 68 seconds of the search left")
    reported("a", 900.4)
    lines(TrialEnded("search", "a", "finished", Path()))
    assert reported("d", 450.0).endswith("about 45 seconds of the search left")
    assert reported("d", 900.4).endswith(
        "at 900 of 900 audio seconds, validation loss -1.00 dB (best -1.00), 10 x real time"
    )
    assert not any("-0" in line or " 0 s" in line for line in said)
    told = capsys.readouterr().err
    assert told.count("waits at the rung for the others") == 4 and told.count("continues to its whole budget") == 2


def test_the_time_left_of_a_cell_is_that_of_its_own_rate(capsys):
    said: list[str] = []
    changes = {"search": {}, "tune": {}, "controls": {}, "compare": {"model.levels": [3, 4, 5]}}
    experiment = searched(**changes)
    lines = SearchLines(said.append, experiment)
    sound, pictures, other = (cell.name for cell in experiment.cells())
    for cell in (sound, pictures):
        lines(TrialStarted(cell, cell, None, {}))
    lines(TrialReported(sound, sound, 450.0, {"valid_loss": -1.0, "audio_seconds_per_second": 90.0}))
    lines(TrialReported(pictures, pictures, 300.0, {"valid_loss": -1.0, "audio_seconds_per_second": 1.0}))
    # 600 s of pictures beside 5 s of sound, then the third cell at the mean rate of both.
    assert lines.rate(other) == 45.5
    assert said[-1].endswith("about 10 minutes of the search left")


def test_for_asha_what_is_left_is_the_most_that_may_be(capsys):
    said: list[str] = []
    lines = SearchLines(said.append, searched(search=ASHA, controls={}))
    lines(TrialStarted("search", "a", None, {}))
    lines(TrialReported("search", "a", 225.0, {"valid_loss": -1.0, "audio_seconds_per_second": 1.0}))
    assert said[-1].endswith("at most about 56 minutes of the search left")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 second"), (1.4, "1 second"), (89.9, "90 seconds"), (91, "2 minutes"), (239, "4 minutes"),
        (5400, "90 minutes"), (5461, "2 hours"), (172800, "48 hours"), (300000, "3 days"),
    ],
)  # fmt: skip
def test_seconds_are_said_as_exactly_as_an_estimate_is(seconds, words):
    assert duration(float(seconds)) == words


PRINTERS = {"print", "Console", "echo", "secho", "pprint"}


def printing(tree: ast.AST) -> list[str]:
    """Calls and names in a module by which something reaches a terminal."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PRINTERS:
            found.append(f"line {node.lineno}: {node.func.id}")
        if isinstance(node, ast.Attribute) and node.attr in {"echo", "secho"}:
            found.append(f"line {node.lineno}: {node.attr}")
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stdout", "sys.stderr"}:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_nothing_else_prints():
    modules = [path for path in Path(vimss.__file__).parent.rglob("*.py") if path.name != "console.py"]
    found = {path.name: printing(ast.parse(path.read_text(encoding="utf-8"))) for path in modules}
    assert len(modules) > 50 and {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("code", ["print(1)", "import sys; sys.stderr.write('')", "typer.echo('')", "Console()"])
def test_printing_would_be_noticed(code):
    assert printing(ast.parse(code))


def test_rich_alone_would_take_a_name_for_markup(capsys):
    Console(highlight=False).print("[red]x[/red] :smile:")
    assert "[red]" not in capsys.readouterr().out


def test_trials_that_are_scored_again_are_one_line(capsys):
    said: list[str] = []
    lines = console.SearchLines(said.append, load_experiment("quickstart"))
    for done in (1, 2, 3):
        lines(TrialsScoredAgain(done, 3))
    assert said == [f"{done} of 3 trials scored again, on another validation set" for done in (1, 2)]
    assert capsys.readouterr().err == "  scored again, on another validation set: 3 trials\n"


def test_waiting_and_lost_clips_are_told_once_a_search(capsys):
    lines = SearchLines(lambda _: None, load_experiment("quickstart"))
    lines(TrialStarted("search", "a", None, {}))
    for wait, lost in ((0.05, 0.0), (0.2, 0.0), (0.3, 3.0), (0.4, 4.0)):
        metrics = {"valid_loss": -1.0, "loader_wait": wait, "lost_clips": lost}
        lines(TrialReported("search", "a", 10.0, metrics))
    said = capsys.readouterr().err
    assert (
        said.count("waits for batches") == 1
        and "trial 1 waits for batches 20% of its time: raise loader_workers" in said
    )
    assert said.count("damaged") == 1 and "leaves out 3 damaged clips" in said


def test_a_json_result_has_null_where_a_figure_is_not_defined(capsys):
    console.print_json({"label_contrast": float("nan"), "scores": [float("inf"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"label_contrast": None, "scores": [None, 1.5]}
