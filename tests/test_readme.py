import ast
import fnmatch
import inspect
import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from golden import baselines, faults, networks_table, pages, quickstart

import vimss
from vimss.cli import app
from vimss.search.consistency import load_experiment
from vimss.shards.instruments import INSTRUMENTS

README = Path("README.md").read_text(encoding="utf-8")

RUN = "platform/local/run"
USAGE_ERROR = typer.BadParameter.__bases__[0]
"""What typer raises for every kind of bad usage."""

VIMSS = (("vimss",), ("python", "-m", "vimss"))


def blocks(language: str, text: str = README) -> list[str]:
    """Contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def in_blocks(text: str = README) -> list[tuple[str, ...]]:
    """The arguments of every `vimss` in a shell block."""
    lines = "".join(blocks("sh", text)).replace("\\\n", " ").splitlines()
    return [arguments for line in lines if (arguments := arguments_of(line))]


def in_prose(text: str = README) -> list[tuple[str, ...]]:
    """The arguments of every `vimss` in backticks; `vimss ...` is any verb."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    found = [arguments_of(line) for line in re.findall(r"`([^`\n]+)`", prose) if line.startswith(("vimss ", RUN))]
    return [arguments for arguments in found if arguments not in ((), ("...",))]


def arguments_of(line: str) -> tuple[str, ...]:
    """What `vimss` gets in a command line, directly or in a submitted job; nothing where it is another command."""
    words = tuple(itertools.takewhile(lambda word: word != ">", shlex.split(line, comments=True)))
    words = words[words.index("--") + 1 :] if "--" in words else words
    words = words[1:] if words[:1] == (RUN,) else words
    return next((words[len(form) :] for form in VIMSS if words[: len(form)] == form), ())


def parse(arguments: tuple[str, ...]) -> None:
    """Parse a command line without running it."""
    group = typer.main.get_command(app)
    verb, *rest = arguments
    assert verb in group.commands, f"no such verb: {verb}"
    group.commands[verb].make_context(verb, rest)


def tree() -> list[str]:
    """The paths of the tree: two columns of spaces mean one folder further in.

    Files may share a line. Those of a package of vimss/ stand without `.py`, those of its folders with the folder.
    """
    (block,) = [block for block in blocks("text") if block.startswith("README.md ")]
    found: list[str] = []
    folders = ["", "", ""]
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r" {2,}", line.strip())[0]
        ending = ".py" if depth == 2 else ""
        found += [folders[depth] + name + ("" if "." in name else ending) for name in names.split(", ")]
        folders[depth + 1 :] = [found[-1]] * (2 - depth)
    return found


def entries(folder: Path) -> set[str]:
    """Files and folders of a folder, folders with a slash; nothing hidden, and nothing that git ignores."""
    ignored = [line.strip("/") for line in Path(".gitignore").read_text(encoding="utf-8").split()]
    names = {path.name: path for path in folder.iterdir() if not path.name.startswith(".")}
    kept = {name: path for name, path in names.items() if not any(fnmatch.fnmatch(name, rule) for rule in ignored)}
    return {f"{name}/" if path.is_dir() else name for name, path in kept.items()}


def test_the_tree_names_every_file_at_the_top():
    listed = [path for path in tree() if "/" not in path.rstrip("/")]
    assert len(listed) == len(set(listed))
    assert {path for path in listed if not path.startswith(".")} == entries(Path())
    assert all(Path(path).exists() for path in listed)


@pytest.mark.parametrize("folder", ["vimss/", "platform/", "shards/", "experiments/"])
def test_the_tree_names_every_file_of_a_folder(folder):
    listed = [path.removeprefix(folder) for path in tree() if path.startswith(folder) and path != folder]
    here = [path for path in listed if "/" not in path.rstrip("/")]
    assert len(here) == len(set(here))
    details = {page.name for page in pages.DETAILS if page.parent == Path(folder).resolve()}
    assert set(here) == entries(Path(folder)) - details


@pytest.mark.parametrize("package", sorted(path.parent for path in Path("vimss").glob("*/__init__.py")), ids=str)
def test_the_tree_names_every_file_of_a_package(package):
    listed = [path for path in tree() if path.startswith(f"{package}/") and not path.endswith("/")]
    files = {str(path) for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert len(listed) == len(set(listed))
    assert set(listed) == {path for path in files if not path.endswith("__init__.py")}


def test_every_line_of_the_tree_says_what_the_file_is():
    (block,) = [block for block in blocks("text") if block.startswith("README.md ")]
    assert all(re.match(r" {0,4}\S.*? {2,}\S", line) for line in block.splitlines())


@pytest.mark.parametrize("arguments", in_blocks(), ids=" ".join)
def test_every_command_of_a_block_parses(arguments):
    parse(arguments)


@pytest.mark.parametrize("arguments", in_prose(), ids=" ".join)
def test_every_command_in_prose_parses_or_is_a_verb(arguments):
    if len(arguments) > 1:
        parse(arguments)
    assert arguments[0] in typer.main.get_command(app).commands


def test_commands_are_found_in_blocks_in_prose_and_in_jobs():
    block = f"```sh\n{RUN} vimss ui \\\n  --port 1\nray job -- python -m vimss search a\nexport A=1\n```\n"
    text = f"Try `vimss doctor`, or any `vimss ...`.\n\n{block}"
    assert in_blocks(text) == [("ui", "--port", "1"), ("search", "a")]
    assert in_prose(text) == [("doctor",)]


@pytest.mark.parametrize("arguments", [("serach", "quickstart"), ("search", "a", "--sed", "1"), ("search",)])
def test_a_command_that_does_not_exist_would_be_noticed(arguments):
    with pytest.raises((AssertionError, USAGE_ERROR)):
        parse(arguments)


def test_every_verb_is_shown():
    verbs = set(typer.main.get_command(app).commands)
    assert verbs == {arguments[0] for arguments in (*in_blocks(), *in_prose())}


def test_the_commands_name_experiments_and_recipes_that_exist():
    example = {"film"}
    for verb, *rest in (*in_blocks(), *in_prose()):
        names = [rest[0]] if rest and not rest[0].startswith("-") else []
        for name in names:
            folder = {"shard": "shards", "features": "shards"}.get(verb, "experiments")
            if verb not in {"export", "separate", "schema"} and name not in example:
                assert (Path(folder) / f"{name.removeprefix('experiments/').removesuffix('.yaml')}.yaml").exists(), name


def test_every_path_exists():
    outside = {"experiments/film.yaml", ".venv/install.log"}
    named = set(re.findall(r"`([\w./-]+/[\w./-]*)`", README)) - outside
    paths = {
        path for path in named if path.split("/")[0] in {"vimss", "platform", "shards", "experiments", "tests", ".ci"}
    }
    assert len(paths) >= 5 and [path for path in paths if not Path(path).exists()] == []


def test_the_example_of_an_experiment_is_one(tmp_path):
    (text,) = blocks("yaml")
    (tmp_path / "film.yaml").write_text(text, encoding="utf-8")
    experiment = load_experiment(str(tmp_path / "film.yaml"))
    assert [cell.name for cell in experiment.cells()] == ["op=film", "op=concat"]


def test_the_example_in_python_calls_what_exists_with_arguments_it_takes():
    text, _ = blocks("python")  # the second one is run by test_served_model.py
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    ours = [call for call in calls if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "vimss"]
    for call in ours:
        inspect.signature(getattr(vimss, call.func.attr)).bind(
            *call.args, **{word.arg: word.value for word in call.keywords}
        )
    assert len(ours) >= 6


def test_the_codes_of_the_instruments_are_listed():
    assert f"Codes: {' '.join(sorted(INSTRUMENTS))}." in README


def test_the_window_of_the_paper_is_what_its_command_prints():
    (code,) = re.findall(r'`python -c "([^`]*)"`', README)
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert f"{printed} samples in, 16389 out" in README


def test_the_figures_of_the_quickstart_are_those_of_a_run():
    figures = json.loads(quickstart.FIGURES.read_text(encoding="utf-8"))
    is_on_the_pages("quickstart", quickstart.contents(figures))


def is_on_the_pages(group: str, contents: dict[str, str]) -> None:
    """Each content stands in one block of its name."""
    texts = [page.read_text(encoding="utf-8") for page in pages.PAGES]
    assert [pages.paste(text, group, contents) for text in texts] == texts
    assert sorted(name for text in texts for name in pages.block_names(text, group)) == sorted(contents)


def test_the_seconds_of_the_faults_are_those_measured():
    figures = json.loads(faults.FIGURES.read_text(encoding="utf-8"))
    is_on_the_pages("faults", faults.contents(figures))
    assert set(figures) == set(faults.WAYS) and all(figures.values())


def test_the_figure_of_nmf_is_that_of_a_measurement():
    figures = json.loads(baselines.FIGURES.read_text(encoding="utf-8"))
    is_on_the_pages("baselines", baselines.contents(figures))


def test_nmf_was_measured_on_the_shards_of_the_quickstart():
    known = json.loads(quickstart.FIGURES.read_text(encoding="utf-8"))
    figures = json.loads(baselines.FIGURES.read_text(encoding="utf-8"))
    wiener = [run["systems"]["Wiener filter, all labels"]["si_sdr_improvement"] for run in known]
    assert figures["test"]["Wiener filter, all labels"] == pytest.approx(wiener, abs=0.002)


def test_a_figure_that_was_typed_would_be_noticed():
    figures = json.loads(quickstart.FIGURES.read_text(encoding="utf-8"))
    typed = re.sub(r"(\| best trial \| )\+\d", r"\1+9", README)
    assert typed != README == pages.paste(typed, "quickstart", quickstart.contents(figures))


def test_the_tables_of_the_networks_are_those_of_a_comparison():
    figures = json.loads(networks_table.FIGURES.read_text(encoding="utf-8"))
    is_on_the_pages("systems", networks_table.contents(figures))
    networks = load_experiment("systems").variants
    assert set(figures["curves"]) == set(networks) <= {row[0] for row in figures["rows"]}


TABLE = """# Which network?

|  | seeds | SI-SDRi, dB | over seeds | gain over Wiener filter per label | label contrast, dB | audio s | GMAC per s |
|---|---|---|---|---|---|---|---|
| wavenet | 2 of 3 | -0.5 (-1.0 to 2.0) | - | -1.0 | 3.0 | 100 | 0.2 |
| open_unmix | 3 | 9.1 (8.0 to 9.9) | 9.0 to 9.2 | +2.0 | 5.0 | 100 | 0.1 |
| mixture | - | 0.0 | - | -3.3 | - | - | - |
| Wiener filter per label | - | 2.9 | - | - | 9.1 | - | - |

Split test.
"""


def compared_store(folder: Path, table: str = TABLE) -> Path:
    """A store with a comparison of two networks, of one and two finished trials, and a trial of earlier settings."""
    known = json.loads(Path("tests/golden/signatures.json").read_text(encoding="utf-8"))["signatures"]
    study = folder / "studies" / known["experiments/systems.yaml"]
    trials = (
        ("wavenet,seed=0", "finished", 0.0), ("open_unmix,seed=0", "finished", -0.3),
        ("open_unmix,seed=1", "finished", -0.5), ("open_unmix,seed=2", "interrupted", 9.0),
    )  # fmt: skip
    cells = [(known[f"experiments/systems.yaml: {trial[0]}"], *trial) for trial in trials]
    for name, cell, state, loss in [*cells, ("open_unmix,seed=2-0123456789", "open_unmix,seed=2", "finished", 9.0)]:
        reports = [{"train_loss": loss - step / 10, "valid_loss": 10 * loss} for step in range(3)]
        (study / name / "trial").mkdir(parents=True)
        record = {"cell": cell, "state": state, "reports": reports}
        (study / name / "trial" / "trial.json").write_text(json.dumps(record), encoding="utf-8")
    (study / "compare" / "test").mkdir(parents=True)
    (study / "compare" / "test" / "table.md").write_text(table, encoding="utf-8")
    return folder


def test_the_networks_are_ordered_by_their_figure_and_curves_are_means_of_finished_seeds(tmp_path):
    figures, chart = networks_table.read_store(compared_store(tmp_path))
    rows = networks_table.ranking(figures).strip().splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| open_unmix", "| wavenet", "| Wiener filter per label"]
    assert rows[0] == "| open_unmix | 3 | 9.1 (8.0 to 9.9) | 9.0 to 9.2 | +2.0 | 5.0 | 0.1 |"
    assert networks_table.summary(figures).splitlines()[3:] == ["| open_unmix | +2.0 |", "| wavenet | -1.0 |"]
    assert networks_table.table(figures).strip() in TABLE
    assert networks_table.curves(figures).splitlines()[3:] == [
        "| wavenet | 0.0 / 0.0 | -1.0 / 0.0 | -2.0 / 0.0 |",
        "| open_unmix | -4.0 / -4.0 | -5.0 / -4.0 | -6.0 / -4.0 |",
    ]
    assert chart.name == "chart.png"


def test_a_store_without_the_comparison_of_the_networks_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"table.md must be there; got no such file. To fix: run `vimss compare sys"):
        networks_table.read_store(tmp_path)
    with pytest.raises(SystemExit, match="must have the columns of the README; got none called seeds. To fix: run"):
        networks_table.read_store(compared_store(tmp_path, TABLE.replace("| seeds |", "| number |")))


def run_of(seed: int, shards_seconds: float = 30.0, gain: float | None = 1.0) -> dict[str, object]:
    """A quickstart.json with the same figure everywhere."""
    row = dict.fromkeys(quickstart.COLUMNS, gain)
    best = {"metrics": row, "above_wiener": gain, "pieces_above_wiener": gain, "unseen_timbres": row}
    return {
        "seed": seed,
        "seconds": 200.0 + seed,
        "stages": {"imports": 5.0, "corpus and shards": shards_seconds, "search": 100.0 + seed},
        "page": "/a machine/store/stems/piece/page.html",
        "champion": {"sentence": "Not promoted."},
        "best": best,
        "controls": {"no labels": row},
        "systems": {"named by pictures": {**row, "pieces_sdr": None}},
        "baselines": {"mixture": row},
        "labels_gain": gain,
        "pictures_gain": gain,
        "pictures_contrast": gain,
    }


def write_store(folder: Path, *runs: dict[str, object]) -> Path:
    for run in runs:
        (folder / f"quickstart-seed{run['seed']}.json").write_text(json.dumps(run), encoding="utf-8")
    return folder


def test_the_readme_shows_medians_and_ranges_over_the_seeds_of_a_store(tmp_path):
    store = write_store(tmp_path, run_of(10, gain=None), run_of(2, 0.0, gain=3.0), run_of(1, gain=-1.0))
    figures = quickstart.read_store(store)
    seeds = quickstart.the_seeds(figures)
    assert "| best trial, seeds 1, 2 and 10 | median | range | aim |" in seeds
    assert "| label contrast: right label minus an absent one, dB | +1.0 | -1.0 to +3.0 | at least +2.0 |" in seeds
    # Seed 2 found shards of before, so that its seconds say nothing.
    assert "| whole run, s | 206 | 201 to 210 | at most 210 |" in seeds
    assert "Seconds, medians of the seeds 1 and 10: imports 5, corpus and shards 30, search 106." in seeds
    assert f"| best trial |{' +1.0 |' * 7}" in quickstart.the_systems(figures)
    assert "corpus and shards: 30 s\nsearch: 101 s\n" in quickstart.the_run(figures)
    assert quickstart.the_unseen(figures) == "+1.0 dB instead of +1.0"
    assert quickstart.the_gain(figures) == "+1.0 dB (median of the seeds 1, 2 and 10, -1.0 to +3.0)"
    assert quickstart.the_pieces(figures) == "+1.0 dB against its +1.0"
    assert "machine" not in json.dumps(figures)


def test_a_row_that_some_runs_lack_is_shown_all_the_same(tmp_path):
    run = run_of(2)
    row = {**run["baselines"]["mixture"], "pieces_sdr": 3.0}
    store = write_store(tmp_path, run_of(1), {**run, "baselines": {**run["baselines"], "new": row}})
    systems = quickstart.the_systems(quickstart.read_store(store))
    assert f"| new |{' +1.0 |' * 4} +3.0 |{' +1.0 |' * 2}" in systems


def test_the_tables_say_what_pictures_are_worth(tmp_path):
    figures = quickstart.read_store(write_store(tmp_path, run_of(0)))
    (name,) = (name for name, path, _ in quickstart.REACHED if path == ("pictures_gain",))
    assert f"| {name} | +1.0 | - | - |" in quickstart.the_seeds(figures)
    assert f"| named by pictures |{' +1.0 |' * 4} - |{' +1.0 |' * 2}" in quickstart.the_systems(figures)
    del figures[0]["reached"][name]
    assert name not in quickstart.the_seeds(figures), "a figure of no run"


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "must hold quickstart-seed0.json; got no such file. To fix: run `vimss quickstart --seed 0`"),
        (
            [run_of(0, shards_seconds=0.0)],
            "got runs that found shards or trials. To fix: run",
        ),
        (
            [{key: value for key, value in run_of(0).items() if key != "baselines"}],
            "must be of this version's quickstart; got .*seed0.json without `baselines`. To fix: run",
        ),
        (
            [{key: value for key, value in run_of(0).items() if key != "systems"}],
            "must be of this version's quickstart; got .*seed0.json without `systems`. To fix: run",
        ),
    ],
)
def test_figures_of_no_whole_run_of_this_version_are_refused(tmp_path, runs, message):
    with pytest.raises(SystemExit, match=message):
        quickstart.read_store(write_store(tmp_path, *runs))


def test_no_page_holds_a_path_of_a_machine():
    for path in pages.PAGES:
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"(?<![\w.])/(?:root|home|Users|work|tmp|mnt|opt)\b[^\s`]*", text) == [], path


def test_no_placeholder_is_left():
    assert re.findall(r"@@\w+@@", README) == []
