import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import ray
import typer
import yaml

from vimss import api, cli
from vimss.baselines import BASELINES
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, save_separator
from vimss.runtime import JOB_VARIABLE
from vimss.search.consistency import load_experiment
from vimss.search.lock import locked
from vimss.search.study import TrialRecord, study_folder, write_record
from vimss.session import open_session
from vimss.shards.recipe import load_recipe
from vimss.shards.write import shards_folder, write_shards
from vimss.storage import Store

HEAVY = {"torch", "ray", "mlflow", "av", "matplotlib", "webdataset", "numpy", "optuna", "cv2", "music21", "pydantic"}

COMMON = ["--help", "--on", "--set"]
STUDY = [*COMMON, "--json", "--seed"]
OPTIONS = {
    "shard": [*STUDY, "--check", "--minutes", "--out", "--show", "--source", "--verbose"],
    "features": [*STUDY, "--device", "--every", "--network", "--weights", "--verbose"],
    "train": [*STUDY, "--wait", "--verbose"],
    "search": [*STUDY, "--continue", "--dry-run", "--wait", "--verbose"],
    "evaluate": [
        *STUDY,
        "--alignment",
        "--device",
        "--instruments-from",
        "--model",
        "--shards",
        "--sources",
        "--split",
        "--verbose",
    ],
    "compare": [*STUDY, "--against", "--curves", "--split"],
    "listen": [*COMMON, "--page-only", "--piece", "--port", "--seed", "--split"],
    "sync": [*STUDY],
    "promote": [*STUDY, "--dry-run", "--force", "--margin", "--model", "--rollback", "--verbose", "--why"],
    "export": ["--help", "--json", "--on"],
    "separate": [
        *(
            "--alignment",
            "--allow-truncated",
            "--channel",
            "--device",
            "--example",
            "--help",
            "--instruments",
            "--instruments-from",
            "--json",
            "--model",
            "--on",
            "--out",
        ),
        *("--overwrite", "--players", "--references", "--stream"),
    ],
    "list": ["--help", "--json", "--on"],
    "ui": ["--help", "--host", "--on", "--optuna", "--port"],
    "quickstart": ["--help", "--json", "--on", "--seed", "--wait", "--verbose"],
    "doctor": ["--help", "--json", "--on"],
    "schema": ["--help"],
}
"""Verbs and their options. Each one is a promise to scripts: a new one is added here on purpose or not at all."""

HELP_SECONDS = 0.4


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh Python has loaded when it has run `code`."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def processor_seconds(*arguments: str) -> float:
    """Of a subprocess, in the program and in the kernel on its behalf: other processes do not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_importing_vimss_loads_nothing_heavy():
    assert modules_after("import vimss; assert vimss.__version__") & HEAVY == set()


def test_help_loads_nothing_heavy():
    code = "from vimss.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert modules_after(code) & HEAVY == set()


def test_help_takes_less_than_the_time_one_notices():
    assert min(processor_seconds("-m", "vimss", "--help") for _ in range(3)) < HELP_SECONDS


def test_help_lists_every_verb_with_a_whole_sentence(vimss_says):
    code, out, _ = vimss_says("--help")
    verbs = out.partition("Commands:")[2]
    assert code == 0 and re.findall(r"^  (\w+) {2,}\S", verbs, re.MULTILINE) == list(OPTIONS) and "..." not in verbs


@pytest.mark.parametrize("verb", OPTIONS)
def test_every_verb_explains_itself_and_each_of_its_options(vimss_says, verb):
    code, out, _ = vimss_says(verb, "--help")
    assert code == 0 and re.match(rf"Usage: .*{verb} \[OPTIONS\]", out)
    command = typer.main.get_command(cli.app).commands[verb]
    assert all(parameter.help for parameter in command.params)


def test_verbs_and_options_do_not_grow_unnoticed():
    commands = typer.main.get_command(cli.app).commands
    found = {
        verb: sorted({name for parameter in command.params for name in parameter.opts if name.startswith("-")})
        for verb, command in commands.items()
    }
    assert found == {verb: sorted(set(options) - {"--help"}) for verb, options in OPTIONS.items()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serach", "quickstart"], "No such command 'serach'"),
        (["search"], "Missing argument 'EXPERIMENT'"),
        (["compare", "quickstart", "--sed", "1"], "No such option: --sed"),
        (["compare", "quickstart", "--seed", "-1"], "Invalid value for '--seed'"),
        (["shard", "nothing"], "shards/nothing.yaml must be a YAML file; got no such file. To fix: choose one of"),
        (["shard", "quickstart", "--set", "sample_rat=8000"], "unknown key 'sample_rat'. To fix: did you mean"),
        (
            ["compare", "quickstart", "--set", "training"],
            "--set takes key=value; got 'training'. To fix: write for example --set seed=1",
        ),
        (["compare", "quickstart", "--set", "training.batch_size=0"], "greater than or equal to 1; got 0"),
        (
            ["evaluate", "--model", "m", "--shards", "s", "--alignment", "a", "--instruments-from", "i"],
            "for models with labels; got --alignment a and --instruments-from i. To fix: remove one of them",
        ),
        (
            ["evaluate", "--model", "m", "--shards", "s", "--alignment", "a", "--sources", "3"],
            "whole pieces by player; got --sources 3 and --alignment a. To fix: remove one of them",
        ),
        (["evaluate", "quickstart", "--sources", "1,3"], "numbers of sources, each at least 2; got '1,3'. To fix: sep"),
        (["evaluate", "quickstart", "--sources", "2,2"], "different numbers of sources, each at least 2; got '2,2'"),
        (["evaluate", "quickstart", "--sources", "2;3"], "--sources must be different numbers of sources"),
        (["evaluate", "quickstart", "--alignment", "a"], "models that are given by --model; got --alignment a without"),
        (["compare", "quickstart", "--on", "moon"], "--on must name a folder of platform/; got 'moon'"),
    ],
)
def test_bad_usage_ends_with_2_and_says_what_is_wrong(vimss_says, arguments, message):
    code, out, err = vimss_says(*arguments)
    assert (code, out) == (2, "") and message in err


@pytest.fixture
def no_ray(monkeypatch):
    """Fails where Ray would start: what is wrong with a command is told before."""

    def start(**_: object) -> None:
        pytest.fail("Ray would have started")

    monkeypatch.setattr(ray, "init", start)


@pytest.fixture
def written(tmp_path, small_manifest, small_recipe) -> Path:
    """A question about a small corpus whose shards lie in the store, but which nobody searched."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(json.dumps(small_recipe.model_dump(mode="json")), encoding="utf-8")
    shutil.copytree(small_manifest.folder, tmp_path / "store" / "shards" / small_manifest.folder.name)
    question = tmp_path / "asked.yaml"
    question.write_text(f"question: q\nexpected: e\nshards: {recipe}\nmodel: {{channels: 2}}", encoding="utf-8")
    return question


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, "shard nothing", "shards/nothing.yaml must be a YAML file; got no such file"),
        (2, "shard quickstart --source {0}/nowhere", "--source must name the folder of a corpus; got no folder"),
        (2, "shard urmp --source {0}/file", "--source must name the folder of a corpus; got no folder"),
        (2, "shard quickstart --source {0}", "the chamber corpus is generated; got the source folder"),
        (2, "shard urmp", "the corpus 'urmp' needs the folder that it lies in; got no --source"),
        (2, "shard quickstart --check --show", "--check reads existing shards; got --source or --show beside it"),
        (2, "shard quickstart --set options.minute=1", "unknown key 'minute'. To fix: did you mean 'minutes'?"),
        (
            2,
            "shard quickstart --set labels=[R&B,R+B]",
            "labels 'R&B' and 'R+B' must differ in letters, digits or one of",
        ),
        (2, "shard quickstart --minutes 0", "options: minutes: must be greater than or equal to 1; got 0"),
        (2, "shard quickstart --out=", "--out must name a folder or a URL; got ''"),
        (2, "shard quickstart --out {0}/file", "file must be a folder for shards, or free to become one; got"),
        (
            2,
            "shard quickstart --out nonsense://x",
            "must begin with a protocol that fsspec has a driver for, such as s3://",
        ),
        (1, "shard quickstart --check", "must hold a manifest.json; got none"),
        (2, "features nothing", "shards/nothing.yaml must be a YAML file"),
        (2, "features quickstart --network resnet19", "network: must be 'resnet18'"),
        (
            2,
            "features quickstart --weights {0}/w.pth",
            "--weights must be torchvision, chamber, random or the path of a file",
        ),
        (1, "features quickstart", "must hold a manifest.json; got none"),
        (2, "train nothing", "experiments/nothing.yaml must be a YAML file"),
        (2, "train {asked}", "model.channels must be as in the shards 'small', 1; got 2"),
        (1, "train quickstart", "must be written first"),
        (2, "search {asked}", "model.channels must be as in the shards 'small', 1; got 2"),
        (
            2,
            "search systems --seed 3",
            "compare.seed lists the seeds of the cells; got --seed 3 and compare.seed: [0, 1, 2]. To fix: write --set",
        ),
        (2, "search quickstart --set search.trials=0", "search.trials: must be greater than or equal to 1"),
        (2, "search quickstart --set search.trails=2", "unknown key 'search.trails'. To fix: did you mean 'trials'?"),
        (
            2,
            "search quickstart --set nonsense=1",
            "choose from alignment, compare, controls, correspondence, expected, instruments, ",
        ),
        (
            2,
            "search quickstart --set nonsense=1",
            "more_shards, objective, question, recipe, search, seed, shards, systems, training,",
        ),
        (2, "search quickstart --set name=other", "every key must be known; got the unknown key 'name'"),
        (1, "search quickstart", "must be written first"),
        (2, "evaluate {asked} --split tset", "--split must name a split; got 'tset'. To fix: choose from train, valid"),
        (1, "evaluate {asked}", "must have been searched first"),
        (2, "evaluate", "takes an experiment, or models and the shards to score them on; got neither. To fix: name an"),
        (2, "evaluate {asked} --model m --shards s", "asked.yaml' and --model m and --shards s. To fix: remove the"),
        (2, "evaluate {asked} --shards s", "asked.yaml' and --shards s. To fix: remove the experiment"),
        (2, "evaluate --shards s", "got --shards s. To fix: name an experiment, or give --model models:/NAME"),
        (2, "evaluate --model m", "got --model m. To fix: add --shards RECIPE"),
        (2, "evaluate --model m --model m --shards s", "each --model must be given once; got --model m and --model m"),
        (2, "evaluate --model m --shards nothing", "shards/nothing.yaml must be a YAML file; got no such file"),
        (1, "evaluate --model m --shards quickstart", "the shards of 'quickstart' must be written first; got no"),
        (
            2,
            "evaluate --model m --shards {0}/small.yaml --split tset",
            "--split must name a split; got 'tset'. To fix: choose from train, valid, promote, test, test_unseen",
        ),
        (1, "evaluate --model {0} --shards {0}/small.yaml", "must hold model.json and weights.safetensors; got no mod"),
        (
            1,
            "evaluate --model models:/none/1 --shards {0}/small.yaml",
            "models:/none must have a version or alias '1'; got no model 'none'. To fix: run `vimss promote",
        ),
        (
            1,
            "evaluate --model models:/a/b/c --shards {0}/small.yaml",
            "a model is models:/name@alias, models:/name/3 or a folder; got models:/a/b/c. To fix: write for example",
        ),
        (2, "evaluate --device tpu", "Invalid value for '--device'"),
        (2, "features quickstart --device tpu", "Invalid value for '--device'"),
        (2, "compare quickstart --curves {0}/nowhere/a.png", "--curves must name a file in a folder that exists; got"),
        (
            2,
            "compare quickstart --curves /proc/a.png",
            "--curves must be where files can be written; got /proc/a.png: No",
        ),
        (2, "shard quickstart --out /proc/a", "--out must be where files can be written; got /proc/a: No such file"),
        (
            2,
            "separate {0}/file --model chamber --out /proc/a/b",
            "--out must be where files can be written; got /proc/a/b",
        ),
        (2, "export quickstart /proc/a", "DIR must be where files can be written; got /proc/a: No such file"),
        (2, "compare quickstart --curves {0}/a.jpg", "--curves must name a PNG file; got"),
        (1, "compare {asked}", "must have been searched first"),
        (2, "compare {asked} --split tset", "--split must name a split; got 'tset'. To fix: choose from train, valid"),
        (1, "listen {asked}", "must have been searched first"),
        (1, "promote {asked}", "must have been searched first"),
        (1, "sync {asked}", "must have been searched first"),
        (2, "promote quickstart --on moon", "--on must name a folder of platform/; got 'moon'"),
        (2, "promote {asked} --force", "--force needs a reason; got no --why. To fix: add --why"),
        (2, "promote {asked} --force --why=", "--force needs a reason; got no --why. To fix: add --why"),
        (2, "promote {asked} --why better", "--why is the reason for --force; got --why alone. To fix: add --force"),
        (2, "promote {asked} --dry-run --force --why so", "and a rollback has no margin; got --dry-run and --force"),
        (2, "promote {asked} --rollback --margin 1", "got --rollback and --margin. To fix: remove one of them"),
        (
            2,
            "promote quickstrat",
            "an experiment, or the id or name of a trial's run in MLflow; got 'quickstrat', which",
        ),
        (2, "promote {asked} --model a/b", "--model must be a name of letters, digits, - and _; got 'a/b'. To fix"),
        (1, "promote {asked} --rollback", "must have a version or alias 'champion'; got no model 'asked'. To fix: run"),
        (2, "promote {asked} --margin inf", "--margin must be a finite number; got inf. To fix: write for example"),
        (2, "export quickstart {0}", " must be a new or an empty folder; got one that holds asked.yaml. To fix: name"),
        (2, "export quickstart {0}/file", "file must be a new or an empty folder; got a file"),
        (1, "export quickstart@champion {0}/new", "version or alias 'champion'; got no model 'quickstart'"),
        (1, "export a/b/c {0}/new", "a model is models:/name@alias, models:/name/3 or a folder; got models:/a/b/c"),
        (2, "quickstart --on {0}/file", "file must hold `key: value` lines"),
        (2, "quickstart --on {0}/nowhere", "nowhere must be a YAML file; got no such file"),
        (2, "ui --on moon", "--on must name a folder of platform/; got 'moon'"),
        (2, "doctor --on moon", "--on must name a folder of platform/; got 'moon'"),
    ],
)
def test_what_is_wrong_with_a_command_is_told_before_ray_starts(
    vimss_says, tmp_path, no_ray, written, code, arguments, message
):
    (tmp_path / "file").write_text("text", encoding="utf-8")
    words = [word.format(tmp_path, asked=written) for word in arguments.split()]
    ended, out, err = vimss_says(*words)
    assert (ended, out) == (code, "") and message in err


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ("list", "error: there must be a store, the folder of all that VIMSS writes"),
        ("ui", "error: there must be a store"),
        ("separate pyproject.toml", "error: there must be a store"),
        ("promote quickstart --rollback", "error: there must be a store"),
        ("promote run", "which is neither"),
        ("shard quickstart --check", "error: there must be a store"),
        ("compare quickstart", ", nor the store {store}, which VIMSS_STORE or the place names. To fix"),
        ("search quickstart --dry-run", ", nor the store {store}, which"),
    ],
)
def test_what_only_reads_makes_no_store(vimss_says, tmp_path, no_ray, verb, message):
    store = tmp_path / "store"
    code, out, err = vimss_says(*verb.split())
    assert code and not out and message.format(store=store) in err and not store.exists()


def test_shards_that_exist_are_found_without_ray(vimss_says, tmp_path, no_ray, written):
    code, out, err = vimss_says("shard", tmp_path / "small.yaml")
    assert code == 0 and "27 pieces" in out, err


@pytest.mark.slow
def test_a_model_in_a_folder_is_scored_on_shards_of_any_recipe(vimss_says, tmp_path, written):
    config = WaveUNetConfig(levels=3, filters=4, down_kernel=5, outputs="queries", site="decoder")
    save_separator(tmp_path / "tiny", Separator(config, ("violin", "kazoo", "flute"), 4000), {})
    given = "--model", tmp_path / "tiny", "--shards", tmp_path / "small.yaml", "--sources", "2"
    code, out, err = vimss_says("evaluate", *given, "--json")
    rows = json.loads(out)
    without_notes = [name for name, baseline in BASELINES.items() if baseline.conditioned_on != "notes"]
    assert code == 0 and [row["system"] for row in rows] == [str(tmp_path / "tiny"), *without_notes]
    assert all(row["labels"] == ["fl", "vn"] and row["two_sources"]["intervals"] for row in rows)
    assert {count["sources"] for row in rows for count in row["source_counts"]} == {2}
    assert "resampled from 8000 Hz to its 4000 Hz and back" in err and "fl is its flute; vn is its violin" in err
    assert "no row 'NMF, all notes': not all players" in err


def test_an_unknown_experiment_lists_those_that_exist(vimss_says):
    code, _, err = vimss_says("compare", "nothing")
    known = ", ".join(sorted(path.name for path in Path("experiments").glob("*.yaml")))
    assert (
        code == 2
        and f"experiments/nothing.yaml must be a YAML file; got no such file. To fix: choose one of {known}" in err
    )


def test_an_experiment_whose_shards_are_not_written_fails_and_says_how_to_write_them(vimss_says):
    code, out, err = vimss_says("compare", "quickstart", "--seed", "3")
    assert (code, out) == (1, "")
    assert "the shards of the experiment 'quickstart' must be written first" in err
    assert "run `vimss shard quickstart --seed 3`" in err


@pytest.mark.parametrize("name", ["urmp", "solos", "music", "musdb18", "audioset", "youtube8m"])
def test_a_search_whose_corpus_is_not_there_says_where_it_comes_from(vimss_says, name):
    code, out, err = vimss_says("search", f"experiments/full/{name}.yaml", "--dry-run")
    assert (code, out) == (1, "")
    assert re.search(rf"run `vimss shard {name} .*--source DIR`\. To obtain the data: .*https://", err)


def test_shards_of_an_earlier_version_are_counted_where_those_of_this_one_are_not_written(vimss_says, tmp_path):
    for name in ("quickstart-0123456789", "quickstart-1123456789", "other-0123456789"):
        (tmp_path / "store" / "shards" / name).mkdir(parents=True)
    _, _, err = vimss_says("compare", "quickstart")
    assert "manifest.json; 2 of other settings or an earlier version. To fix: run `vimss shard quickstart`" in err


def own_experiment(folder: Path, *lines: str) -> Path:
    """An experiment on a small corpus whose recipe has a seed of its own: no seed is not seed 0 there."""
    recipe = yaml.safe_load(Path("shards/quickstart.yaml").read_text(encoding="utf-8"))
    recipe |= {"seed": 7, "options": {"minutes": 1, "piece_seconds": 3}, "clip_seconds": 3}
    (folder / "my music.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    text = "\n".join(["question: q", "expected: e", f"shards: {folder / 'my music.yaml'}", *lines])
    (folder / "own.yaml").write_text(text, encoding="utf-8")
    return folder / "own.yaml"


@pytest.mark.parametrize(
    ("lines", "arguments", "expected"),
    [
        ([], [], {"seed": 7}),
        ([], ["--seed", 0], {"seed": 0}),
        (["seed: 2"], [], {"seed": 2}),
        (["recipe: {audio_format: flac, options: {minutes: 2}}"], [], {"seed": 7, "audio_format": "flac"}),
        ([], ["--set", "recipe.options.minutes=2"], {"options": {"minutes": 2, "piece_seconds": 3}}),
    ],
)
def test_that_command_writes_the_shards_that_the_experiment_looks_for(vimss_says, tmp_path, lines, arguments, expected):
    _, _, err = vimss_says("compare", own_experiment(tmp_path, *lines), *arguments)
    (wanted,), (command,) = re.findall(r"got no (.*)/manifest.json", err), re.findall("run `vimss (.*)`", err)
    verb, *words = shlex.split(command)
    given = typer.main.get_command(cli.app).commands[verb].make_context(verb, words).params
    recipe = load_recipe(given["recipe"], given["changes"] or (), given["seed"], given["minutes"])
    assert str(shards_folder(recipe, "my music", Store(tmp_path / "store"))) == wanted
    assert expected.items() <= recipe.model_dump().items()


@pytest.mark.slow
def test_when_that_command_has_run_the_shards_are_found(vimss_says, tmp_path):
    experiment = own_experiment(tmp_path, "recipe: {picture: {size: 32}}")
    (command,) = re.findall("run `vimss (.*)`", vimss_says("compare", experiment)[2])
    assert vimss_says(*shlex.split(command))[0] == 0
    assert "must have been searched first" in vimss_says("compare", experiment)[2]


@pytest.mark.slow
def test_compare_draws_the_losses_of_the_best_trials(vimss_says, tmp_path):
    model = "model: {levels: 3, filters: 4, max_filters: 8, down_kernel: 5, outputs: queries, site: decoder}"
    experiment = own_experiment(tmp_path, "recipe: {picture: {size: 32}}", model, "training: {output_samples: 2005}")
    (command,) = re.findall("run `vimss (.*)`", vimss_says("compare", experiment)[2])
    vimss_says(*shlex.split(command))
    loaded, store = load_experiment(str(experiment)), Store(tmp_path / "store")
    folder = study_folder(loaded, api.load_shards(open_session("local"), loaded), store) / "search" / "a"
    save_separator(folder / "model", Separator(loaded.settings().model, ("vn", "va"), 8000), {})
    reports = tuple({"audio_seconds": 4.0 * number, "valid_loss": -1.0 * number} for number in (1, 2, 3))
    write_record(
        TrialRecord(
            cell="search",
            trial="a",
            state="finished",
            chosen={},
            settings=loaded.settings(),
            reports=reports,
            begun=0,
            folder=folder,
        )
    )
    for earlier in ("own-0123456789", "own-0123456780", "owner-0123456789"):
        (store.studies / earlier).mkdir()
    code, out, err = vimss_says("compare", experiment, "--curves", tmp_path / "cells.png")
    assert code == 0 and re.search("^compare: [0-9]+ s$", err, re.MULTILINE)
    assert "-3.00" in out and "not evaluated on test: run `vimss evaluate own --split test`" in out
    assert (
        f"2 earlier studies of own are kept in {store.studies}; they were made with other data or by an earlier version"
    ) in err
    code, _, err = vimss_says("compare", experiment, "--set", "training.audio_seconds=5000")
    assert code == 1 and f"got no trials in {folder.parent.parent} with its settings, 1 with others. To fix: run" in err
    assert (
        f"{folder.parent.parent} also holds 1 trial of cells or axis values that the experiment no longer has; it is "
        "kept but not counted"
    ) in err
    pixels = matplotlib.image.imread(tmp_path / "cells.png")
    assert pixels.shape[:2] == (450, 800) and len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


@pytest.mark.slow
def test_a_server_that_is_away_is_told_before_pages_are_made(vimss_says, tmp_path, written):
    loaded = load_experiment(str(written))
    folder = study_folder(loaded, api.load_shards(open_session("local"), loaded), Store(tmp_path / "store"))
    trial = TrialRecord(
        cell="search",
        trial="a",
        state="finished",
        chosen={},
        settings=loaded.settings(),
        begun=0,
        folder=folder / "search" / "a",
    )
    write_record(trial)
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "runtime.yaml").write_text("tracking_uri: http://127.0.0.1:1", encoding="utf-8")
    code, out, err = vimss_says("sync", written, "--on", tmp_path / "away")
    assert (code, out) == (1, "") and err.startswith("error: MLflow at http://127.0.0.1:1 must answer; got ")


DIVERGES = (
    "recipe: {picture: {size: 32}}",
    "model: {levels: 3, filters: 4, max_filters: 8, down_kernel: 5, outputs: queries, site: decoder, "
    "output_activation: linear, initial_output: mixture}",
    "training: {output_samples: 2005, audio_seconds: 100, report_seconds: 4, batch_size: 4, learning_rate: 1.0, "
    "gradient_clip: 0, loss: mse}",
    "mixing: {windows_per_clip: 2}",
    "validation: {mixtures: 6, seconds: 0.25}",
)
"""The lines of an experiment whose one trial has a loss that is not finite, after some reports."""


@pytest.fixture(scope="module")
def diverging(tmp_path_factory) -> tuple[Path, Path]:
    """The YAML of that experiment, and a store with its shards."""
    folder = tmp_path_factory.mktemp("diverging")
    experiment, store = own_experiment(folder, *DIVERGES), Store(folder / "store").make()
    recipe = api.experiment_recipe(load_experiment(str(experiment)))
    write_shards(recipe, "my music", store)
    return experiment, store.root


@pytest.mark.slow
def test_a_search_whose_trials_all_fail_ends_with_1_and_says_why_in_a_line(vimss_says, diverging, monkeypatch):
    experiment, store = diverging
    monkeypatch.setenv("VIMSS_STORE", str(store))
    code, out, err = vimss_says("search", experiment)
    assert code == 1 and "search" in out
    assert "Traceback" not in err and "ERROR" not in err and len(err.splitlines()) < 15
    assert "lower training.learning_rate, or set training.gradient_clip: 1; the last checkpoint is kept" in err
    assert "error: every cell must have a finished trial, and none that was interrupted; got cell 'search'" in err
    assert "1 failed; loss and gradient must be" in err


@pytest.mark.slow
def test_the_same_search_at_once_is_refused_before_ray_starts_and_names_the_other_process(
    vimss_says, diverging, monkeypatch
):
    experiment, store = diverging
    monkeypatch.setenv("VIMSS_STORE", str(store))
    loaded = load_experiment(str(experiment))
    with locked(study_folder(loaded, api.load_shards(open_session("local"), loaded), Store(store))):
        monkeypatch.setattr("ray.init", None)
        code, out, err = vimss_says("search", experiment)
    assert (code, out) == (1, "")
    assert "one process at a time may search the study own-" in err and f"got process {os.getpid()} on " in err


@pytest.fixture
def ctrl_c():
    """Processes begun meanwhile take Ctrl-C; in the background of a shell they would inherit that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_an_interrupted_verb_ends_with_1_and_says_that_it_resumes(ctrl_c, tmp_path):
    """Interrupted while it waits: a pipe has no end of file yet."""
    os.mkfifo(tmp_path / "slow.yaml")
    command = [sys.executable, "-m", "vimss", "compare", str(tmp_path / "slow.yaml")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with process, (tmp_path / "slow.yaml").open("w", encoding="utf-8"):
        # Between the opening and the reading of a file Python does not look for signals: it may take a second one.
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        assert process.stderr.read() == "interrupted; the same command resumes\n"
    assert process.returncode == 1


@pytest.mark.slow
def test_ctrl_c_ends_the_pages_of_the_runs_well(ctrl_c, tmp_path, empty_database):
    shutil.copytree(empty_database, Store(tmp_path / "store").make().tracking)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {**os.environ, "VIMSS_STORE": str(tmp_path / "store"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "vimss", "ui", "--port", str(port)]
    with subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1].splitlines()
        assert said and all(line.lstrip().startswith("start MLflow: ") for line in said)
    assert process.returncode == 0


def test_optunas_pages_are_not_served_to_other_machines(vimss_says):
    code, out, err = vimss_says("ui", "small", "--optuna", "--host", "0.0.0.0", "--port", "5001")  # noqa: S104 - refused
    assert (code, out) == (2, "")
    assert "--optuna needs --host 127.0.0.1: Optuna's pages have no login; got 0.0.0.0" in err
    assert "run `ssh -L 5001:127.0.0.1:5001 " in err and "open http://127.0.0.1:5001 there" in err


def test_an_alias_that_does_not_exist_fails_and_says_how_to_get_a_model(vimss_says, tmp_path, empty_database):
    shutil.copytree(empty_database, Store(tmp_path / "store").make().tracking)
    code, out, err = vimss_says("separate", "quartet.mp4", "--model", "models:/quickstart@champion")
    assert (code, out) == (1, "")
    assert "version or alias 'champion'; got no model 'quickstart'. To fix: run `vimss promote EXPERIMENT`" in err


MISTAKES = [
    "shard nothing",
    "features nothing",
    "evaluate nothing",
    "compare nothing",
    "compare quickstart --on moon",
    "listen nothing",
    "listen quickstart --port {taken}",
    "sync nothing",
    "promote quickstart --set nonsense=1",
    "promote quickstart --rollback",
    "separate quartet.mp4 --model models:quickstart",
    "separate quartet.mp4 --model chamber",
]

# Where a relative store is one.
IN_A_JOB = ["search quickstart", "train quickstart", "quickstart", "compare quickstart", "sync quickstart"]


@pytest.mark.slow
@pytest.mark.parametrize("mistakes", [MISTAKES, IN_A_JOB], ids=["here", "in a job"])
def test_mistakes_are_told_before_the_imports_that_take_seconds(tmp_path, monkeypatch, mistakes):
    """All in one process, which loads nothing slow for any of them."""
    monkeypatch.setenv("VIMSS_STORE", "store" if mistakes is IN_A_JOB else str(tmp_path / "store"))
    if mistakes is IN_A_JOB:
        monkeypatch.setenv(JOB_VARIABLE, "{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [each.format(taken=taken.getsockname()[1]).split() for each in mistakes]
        code = f"""
            import sys
            from vimss.cli import main
            for words in {words}:
                try:
                    main(words)
                except SystemExit as ended:
                    assert ended.code, words
                slow = {{"torch", "ray", "mlflow"}} & set(sys.modules)
                assert not slow, (words, slow)
            """
        modules_after(textwrap.dedent(code))
