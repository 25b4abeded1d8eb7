"""What is printed: names of strangers as they are, and nothing that steers a terminal."""

import ast
import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import vimss
from vimss import console
from vimss.experiment import TrialsScoredAgain

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
    lines = console.SearchLines(said.append, 10.0)
    for done in (1, 2, 3):
        lines(TrialsScoredAgain(done, 3))
    assert said == [f"{done} of 3 trials scored again, on another validation set" for done in (1, 2)]
    assert capsys.readouterr().err == "  scored again, on another validation set: 3 trials\n"
