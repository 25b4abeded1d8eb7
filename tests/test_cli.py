import ast
import inspect
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
from contextlib import suppress
from pathlib import Path
from typing import get_args

import matplotlib.image
import numpy as np
import pytest
import ray
import torch
import typer
import yaml

import vimss
from vimss import cli, console, doctor, media, verbs
from vimss.baselines import BASELINES
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, save_separator
from vimss.search.consistency import load_experiment
from vimss.search.events import TrialReported, TrialStarted
from vimss.search.study import TrialRecord, locked, study_folder, write_record
from vimss.shards.write import shards_folder, write_shards
from vimss.storage import Store
from vimss.track import Tracking
from vimss.train.device import has_bfloat16_units

HEAVY = {"torch", "ray", "mlflow", "av", "matplotlib", "webdataset", "numpy", "optuna", "cv2", "music21", "pydantic"}

COMMON = ["--help", "--on", "--set"]
STUDY = [*COMMON, "--json", "--seed"]
OPTIONS = {
    "shard": [*STUDY, "--check", "--minutes", "--out", "--show", "--source"],
    "features": [*STUDY, "--device", "--network", "--weights"],
    "train": [*STUDY, "--wait"],
    "search": [*STUDY, "--wait"],
    "evaluate": [*STUDY, "--device", "--model", "--shards", "--split"],
    "compare": [*STUDY, "--curves"],
    "promote": STUDY,
    "separate": [
        *(
            "--allow-truncated",
            "--channel",
            "--device",
            "--help",
            "--instruments",
            "--json",
            "--model",
            "--on",
            "--out",
        ),
        *("--overwrite", "--references", "--stream"),
    ],
    "ui": ["--help", "--on", "--port"],
    "quickstart": ["--help", "--json", "--on", "--seed", "--wait"],
    "doctor": ["--help", "--json", "--on"],
}
"""Verbs and their options. Each one is a promise to scripts: a new one is added here on purpose or not at all."""

HELP_SECONDS = 0.4


@pytest.fixture
def vimss_says(monkeypatch, tmp_path, capsys):
    """Runs the command line in this process: exit code, output, errors. The store is an empty folder."""
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "store"))

    def run(*arguments: object) -> tuple[object, str, str]:
        code: object = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def migrated(tmp_path_factory) -> Path:
    """The folder of MLflow's empty database: making one takes seconds."""
    tracking = Tracking(Store(tmp_path_factory.mktemp("migrated")))
    tracking.client()
    return tracking.folder


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


def test_help_lists_every_verb(vimss_says):
    code, out, _ = vimss_says("--help")
    assert code == 0 and re.findall(r"^  (\w+) {2,}\S", out.partition("Commands:")[2], re.MULTILINE) == list(OPTIONS)


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
        (["compare", "quickstart", "--set", "training"], "--set takes key=value; got 'training'. To fix: write"),
        (["compare", "quickstart", "--set", "training.batch_size=0"], "greater than or equal to 1; got 0"),
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
        (2, "shard quickstart --source {0}/nowhere", "--source must name the folder that a corpus lies in; got no"),
        (2, "shard urmp --source {0}/file", "--source must name the folder that a corpus lies in; got no folder"),
        (2, "shard quickstart --source {0}", "the chamber corpus is generated; got the source folder"),
        (2, "shard urmp", "the corpus 'urmp' needs the folder that it lies in; got no --source"),
        (2, "shard quickstart --check --show", "--check reads what was written; got --source or --show beside it"),
        (2, "shard quickstart --set options.minute=1", "unknown key 'minute'. To fix: did you mean 'minutes'?"),
        (2, "shard quickstart --minutes 0", "options: minutes: Input should be greater than or equal to 1; got 0"),
        (2, "shard quickstart --out=", "--out must name a folder or a URL; got ''"),
        (2, "shard quickstart --out {0}/file", "file must be a folder for shards, or free to become one; got"),
        (
            2,
            "shard quickstart --out nonsense://x",
            "must begin with a protocol that fsspec has a driver for, such as s3://",
        ),
        (1, "shard quickstart --check", "must hold a manifest.json; got none"),
        (2, "features nothing", "shards/nothing.yaml must be a YAML file"),
        (2, "features quickstart --network resnet19", "network: Input should be 'resnet18'"),
        (2, "features quickstart --weights {0}/w.pth", "--weights must be torchvision, random or the path of a file"),
        (1, "features quickstart", "must hold a manifest.json; got none"),
        (2, "train nothing", "experiments/nothing.yaml must be a YAML file"),
        (2, "train {asked}", "model.channels must be as in the shards 'small', 1; got 2"),
        (1, "train quickstart", "must be written first"),
        (2, "search {asked}", "model.channels must be as in the shards 'small', 1; got 2"),
        (2, "search quickstart --set search.trials=0", "search.trials: Input should be greater than or equal to 1"),
        (2, "search quickstart --set search.trails=2", "unknown key 'search.trails'. To fix: did you mean 'trials'?"),
        (
            2,
            "search quickstart --set nonsense=1",
            "choose from compare, controls, expected, mixing, model, more_shards, ",
        ),
        (
            2,
            "search quickstart --set nonsense=1",
            "more_shards, question, recipe, search, seed, shards, training, tune,",
        ),
        (2, "search quickstart --set name=other", "every key must be known; got the unknown key 'name'"),
        (1, "search quickstart", "must be written first"),
        (2, "evaluate {asked} --split tset", "--split must name a split; got 'tset'. To fix: choose from train, valid"),
        (1, "evaluate {asked}", "must have been searched first"),
        (2, "evaluate", "takes an experiment, or models and the shards to score them on; got neither. To fix: name an"),
        (2, "evaluate {asked} --model m --shards s", "asked.yaml' and --model m and --shards s. To fix: leave the exp"),
        (2, "evaluate {asked} --shards s", "asked.yaml' and --shards s. To fix: leave the experiment out"),
        (2, "evaluate --shards s", "got --shards s. To fix: name an experiment, or give --model models:/NAME"),
        (2, "evaluate --model m", "got --model m. To fix: add --shards RECIPE"),
        (2, "evaluate --model m --model m --shards s", "each --model must be given once; got --model m and --model m"),
        (2, "evaluate --model m --shards nothing", "shards/nothing.yaml must be a YAML file; got no such file"),
        (1, "evaluate --model m --shards quickstart", "the shards of 'quickstart' must be written first; got no"),
        (
            2,
            "evaluate --model m --shards {0}/small.yaml --split tset",
            "--split must name a split; got 'tset'. To fix: choose from train, valid, promote, test, test_unheard",
        ),
        (1, "evaluate --model {0} --shards {0}/small.yaml", "must hold model.json and weights.safetensors; got no mod"),
        (
            1,
            "evaluate --model models:/none/1 --shards {0}/small.yaml",
            "models:/none must have a version or alias '1'; got no model 'none'. To fix: run a search first",
        ),
        (
            1,
            "evaluate --model models:/a/b/c --shards {0}/small.yaml",
            "a model is models:/name@alias, models:/name/3 or a folder; got models:/a/b/c. To fix: write for example",
        ),
        (2, "evaluate --device tpu", "Invalid value for '--device'"),
        (2, "features quickstart --device tpu", "Invalid value for '--device'"),
        (2, "compare quickstart --curves {0}/nowhere/a.png", "--curves must name a file in a folder that exists; got"),
        (2, "compare quickstart --curves {0}/a.jpg", "--curves must name a PNG file; got"),
        (1, "compare {asked}", "must have been searched first"),
        (1, "promote {asked}", "must have been searched first"),
        (2, "promote quickstart --on moon", "--on must name a folder of platform/; got 'moon'"),
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


def test_shards_that_exist_are_found_without_ray(vimss_says, tmp_path, no_ray, written):
    code, out, err = vimss_says("shard", tmp_path / "small.yaml")
    assert code == 0 and "27 pieces" in out, err


@pytest.mark.slow
def test_a_model_in_a_folder_is_scored_on_shards_of_any_recipe(vimss_says, tmp_path, written):
    config = WaveUNetConfig(levels=3, filters=4, down_kernel=5, outputs="queries", site="decoder")
    save_separator(tmp_path / "tiny", Separator(config, ("violin", "kazoo", "flute"), 4000), {})
    code, out, err = vimss_says("evaluate", "--model", tmp_path / "tiny", "--shards", tmp_path / "small.yaml", "--json")
    rows = json.loads(out)
    assert code == 0 and [row["system"] for row in rows] == [str(tmp_path / "tiny"), *BASELINES]
    assert all(row["labels"] == ["fl", "vn"] and row["two_sources"]["intervals"] for row in rows)
    assert "resampled from 8000 Hz to its 4000 Hz and back" in err and "fl is its flute; vn is its violin" in err


def test_a_gpu_that_is_not_there_is_refused_before_a_recording_is_read(vimss_says, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    save_separator(tmp_path / "tiny", Separator(WaveUNetConfig(levels=3, filters=4), ("vn", "vc"), 8000), {})
    code, _, err = vimss_says("separate", tmp_path / "a.wav", "--model", tmp_path / "tiny", "--device", "cuda")
    assert code == 2 and "--device cuda needs an NVIDIA or AMD GPU that PyTorch finds; got only" in err


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
    recipe = verbs.recipe_of(given["recipe"], given["seed"], given["minutes"], given["changes"] or ())
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
    experiment = own_experiment(tmp_path, "recipe: {picture: {size: 32}}")
    (command,) = re.findall("run `vimss (.*)`", vimss_says("compare", experiment)[2])
    vimss_says(*shlex.split(command))
    loaded, store = verbs.experiment_of(str(experiment)), Store(tmp_path / "store")
    folder = study_folder(loaded, verbs.shards_of(verbs.known_place("local"), loaded), store) / "search" / "a"
    (folder / "model").mkdir(parents=True)
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
    assert code == 0 and "-3.00" in out
    assert (
        f"2 earlier studies of own are kept in {store.studies}; they were made with other data or by an earlier version"
    ) in err
    code, _, err = vimss_says("compare", experiment, "--set", "training.audio_seconds=5000")
    assert code == 1 and f"got no trials in {folder.parent.parent} with its settings, 1 with others. To fix: run" in err
    pixels = matplotlib.image.imread(tmp_path / "cells.png")
    assert pixels.shape[:2] == (450, 800) and len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


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
    recipe = verbs.recipe_for(verbs.experiment_of(str(experiment)))
    write_shards(recipe, "my music", store)
    return experiment, store.root


@pytest.mark.slow
def test_a_search_whose_trials_all_fail_ends_with_1_and_says_why_in_a_line(vimss_says, diverging, monkeypatch):
    experiment, store = diverging
    monkeypatch.setenv("VIMSS_STORE", str(store))
    code, out, err = vimss_says("search", experiment)
    assert code == 1 and "search" in out
    assert "Traceback" not in err and "ERROR" not in err and len(err.splitlines()) < 15
    assert "lower training.learning_rate, or set training.gradient_clip: 1; the checkpoint before it is kept" in err
    assert "error: every cell must have a finished trial, and none that was interrupted; got cell 'search'" in err
    assert "1 failed; loss and gradient must be" in err


@pytest.mark.slow
def test_the_same_search_at_once_is_refused_before_ray_starts_and_names_the_other_process(
    vimss_says, diverging, monkeypatch
):
    experiment, store = diverging
    monkeypatch.setenv("VIMSS_STORE", str(store))
    loaded = verbs.experiment_of(str(experiment))
    with locked(study_folder(loaded, verbs.shards_of(verbs.known_place("local"), loaded), Store(store))):
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
def test_ctrl_c_ends_the_pages_of_the_runs_well(ctrl_c, tmp_path, migrated):
    shutil.copytree(migrated, Store(tmp_path / "store").make().tracking)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {**os.environ, "VIMSS_STORE": str(tmp_path / "store"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "vimss", "ui", "--port", str(port)]
    with subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == ""
    assert process.returncode == 0


def test_doctor_asks_the_cluster_of_a_place(vimss_says, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    (tmp_path / "runtime.yaml").write_text(f"ray_address: {address}", encoding="utf-8")
    code, out, _ = vimss_says("doctor", "--json", "--on", tmp_path)
    (ray,) = [finding for finding in json.loads(out) if finding["what"] == "Ray"]
    assert code == 1 and (ray["ok"], ray["fix"]) == (False, "start it, or use --on local")
    assert "Connection refused" in ray["found"]


def test_doctor_finds_a_tracking_server_that_is_down_and_a_temporary_folder_that_is_missing(
    vimss_says, tmp_path, monkeypatch
):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    (tmp_path / "runtime.yaml").write_text(f"tracking_uri: {address}", encoding="utf-8")
    monkeypatch.setenv("TMPDIR", "/nowhere")
    code, out, _ = vimss_says("doctor", "--json", "--on", tmp_path)
    findings = {finding["what"]: finding for finding in json.loads(out)}
    assert code == 1 and not findings["tracking"]["ok"] and "Connection refused" in findings["tracking"]["found"]
    assert findings["temporary files"]["fix"] == "set TMPDIR to a writable folder with free space"
    assert "/nowhere, where no file can be made" in findings["temporary files"]["found"]


def test_doctor_names_the_units_that_training_would_use(vimss_says):
    findings = {finding["what"]: finding["found"] for finding in json.loads(vimss_says("doctor", "--json")[1])}
    has_units = has_bfloat16_units(torch.device("cpu")) or torch.cuda.is_available()
    assert ("no units" in findings["bfloat16"]) != has_units
    assert torch.backends.cpu.get_cpu_capability() in findings["vector units"] or "NEON" in findings["vector units"]


AVX2 = {"avx2": True, "avx512_f": False, "avx512_bf16": False, "architecture": "x86_64"}
AVX512 = {**AVX2, "avx512_f": True, "avx512_bf16": True, "amx_bf16": True, "cpu_name": "bf16"}
ARM = {"neon": True, "bf16": True, "sve": False, "sve_max_length": 0}


@pytest.mark.parametrize(
    ("capabilities", "used", "found"),
    [
        (AVX512, "AVX512", "AVX-512, AVX2; torch computes with AVX512"),
        (AVX2, "AVX2", "AVX2; torch computes with AVX2"),
        (ARM, "DEFAULT", "NEON; torch computes with NEON"),
        ({**ARM, "sve": True}, "SVE256", "SVE, NEON; torch computes with SVE256"),
        ({}, "DEFAULT", "none that is known; torch computes without AVX2: training and separation are slow here"),
    ],
)
def test_doctor_names_the_vector_units(monkeypatch, capabilities, used, found):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    assert doctor.vector_units(capabilities, used) == doctor.Finding("vector units", found)


def test_doctor_tells_who_holds_torch_to_older_units(monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    finding = doctor.vector_units(AVX512, "AVX2")
    assert finding.found == "AVX-512, AVX2; torch is held to AVX2 by ATEN_CPU_CAPABILITY=avx2" and not finding.ok
    assert finding.fix.startswith("unset ATEN_CPU_CAPABILITY")


@pytest.mark.parametrize(
    ("capabilities", "on_gpu", "found"),
    [
        (AVX512, False, "AMX, AVX512_BF16: training.precision: bfloat16 and optimizer: muon have units"),
        (AVX512, True, "AMX, AVX512_BF16, GPU: training.precision: bfloat16 and optimizer: muon have units"),
        (ARM, False, "NEON bf16: training.precision: bfloat16 and optimizer: muon have units"),
        (AVX2, True, "GPU: training.precision: bfloat16 and optimizer: muon have units there, not on the cores"),
        (
            AVX2,
            False,
            "no units for it: training.precision must be float32, and optimizer: muon, which multiplies in bfloat16, "
            "takes longer per step",
        ),
    ],
)
def test_doctor_says_what_follows_from_the_units_for_bfloat16(capabilities, on_gpu, found):
    assert doctor.bfloat16_units(capabilities, on_gpu) == doctor.Finding("bfloat16", found)


def test_an_alias_that_does_not_exist_fails_and_lists_what_there_is(vimss_says, tmp_path, migrated):
    shutil.copytree(migrated, Store(tmp_path / "store").make().tracking)
    code, out, err = vimss_says("separate", "quartet.mp4", "--model", "models:/quickstart@champion")
    assert (code, out) == (1, "")
    assert "version or alias 'champion'; got no model 'quickstart'. To fix: run a search first" in err


def test_a_recording_that_does_not_exist_fails(vimss_says, tmp_path):
    code, out, err = vimss_says(
        "separate", tmp_path / "none.wav", "--model", small_model(tmp_path), "--instruments", "vn"
    )
    assert (code, out) == (1, "") and "none.wav must be a media file; got no such file" in err


def recorded(path: Path, seconds: float = 1.0) -> Path:
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, (1, round(8000 * seconds))).astype(np.float32)
    media.write_wav(path, sound, 8000)
    return path


def test_json_is_all_that_goes_to_the_output(vimss_says, tmp_path):
    recording = recorded(tmp_path / "duet.wav")
    arguments = ["--model", small_model(tmp_path), "--instruments", "vn,vc", "--out", tmp_path / "out", "--json"]
    code, out, err = vimss_says("separate", recording, *arguments)
    found = json.loads(out)
    heard = found.pop("heard")
    assert code == 0 and found == {
        "page": str(tmp_path / "out" / "page.html"),
        "stems": {label: str(tmp_path / "out" / f"{label}.wav") for label in ("vn", "vc")},
        "gain_db": 0.0,
        "scores": {},
        "notes": [],
    }
    assert (
        heard["stream"] == 0
        and heard["seconds"] == pytest.approx(1)
        and heard["level_db"] == pytest.approx(-15.2, abs=0.2)
    )
    assert "separate duet.wav" in err and "heard mono, 8 kHz, 1.0 s, -15.2 dBFS" in err


def test_gain_and_scores_are_told(vimss_says, tmp_path):
    recording = recorded(tmp_path / "duet.wav")
    recorded(tmp_path / "true" / "violin.wav")
    model = small_model(tmp_path, loud=100.0)
    arguments = ["--model", model, "--instruments", "vn,vc", "--references", tmp_path / "true"]
    code, out, _ = vimss_says("separate", recording, *arguments)
    assert code == 0
    assert re.search(r"^all stems are turned down by \d+\.\d dB, so that none clips$", out, re.MULTILINE)
    assert re.search(r"^vn: SI-SDR improvement [+-]\d+\.\d dB$", out, re.MULTILINE)
    found = json.loads(vimss_says("separate", recording, *arguments, "--json")[1])
    assert found["gain_db"] < -1 and list(found["scores"]) == ["vn"]


def test_recordings_of_one_name_have_folders_of_their_own(vimss_says, tmp_path):
    common = ["--model", small_model(tmp_path), "--instruments", "vn", "--json"]
    for number, seconds in enumerate((1.0, 1.5, 2.0)):
        recorded(tmp_path / str(number) / "take.wav", seconds)
    order = (0, 1, 2, 0, 1)
    found = [json.loads(vimss_says("separate", tmp_path / str(n) / "take.wav", *common)[1])["page"] for n in order]
    assert [Path(page).parent.name for page in found] == ["take", "take-2", "take-3", "take", "take-2"]


def test_another_recording_needs_leave_to_replace_stems(vimss_says, tmp_path):
    common = ["--model", small_model(tmp_path), "--instruments", "vn", "--out", tmp_path / "out"]
    for number, seconds in enumerate((1.0, 1.5)):
        recorded(tmp_path / str(number) / "take.wav", seconds)
    assert vimss_says("separate", tmp_path / "0" / "take.wav", *common)[0] == 0
    code, out, err = vimss_says("separate", tmp_path / "1" / "take.wav", *common)
    assert (code, out) == (2, "") and "or add --overwrite to replace them" in err
    assert vimss_says("separate", tmp_path / "1" / "take.wav", *common, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    "name",
    [
        "a" * 251,
        "弦" * 80,
        "two\nlines",
        "-dash",
        "dots..",
        "esc\x1b[31m",
        os.fsdecode(b"latin\xe9"),
        "[red]a[/red]",
        "'\"",
    ],
)
def test_a_recording_may_have_any_name(vimss_says, tmp_path, name):
    recording = recorded(tmp_path / f"{name}.wav")
    code, out, err = vimss_says("separate", recording, "--model", small_model(tmp_path), "--instruments", "vn")
    assert code == 0 and "Traceback" not in err and "\x1b" not in out + err
    lines = out.splitlines()
    assert len(lines) == 2 and lines[1].endswith("page.html")
    (page,) = (tmp_path / "store" / "stems").glob("*/page.html")
    assert page.read_text(encoding="utf-8")


@pytest.mark.parametrize("out", ["x" * 300, "duet.wav/stems", "duet.wav", "loop", ".", ""])
def test_a_folder_that_cannot_be_is_refused_before_the_work(vimss_says, tmp_path, monkeypatch, out):
    recording, model = recorded(tmp_path / "duet.wav"), small_model(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    code, printed, err = vimss_says("separate", recording, "--model", model, "--instruments", "vn", "--out", out)
    assert code in (1, 2) and printed == "" and "heard" not in err and len(err.splitlines()) == 1
    assert err.startswith("error: ") and "To fix: " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stream", "-1"], "Invalid value for '--stream'"),
        (["--stream", "3"], "must have at least 4 sound streams; got 1"),
        (
            ["--channel", "centre"],
            "'centre' is not one of 'all', 'left', 'right', 'mid', 'side'",
        ),
        (["--channel", "side"], "must have two channels to hear their difference; got mono"),
        (["--instruments", "2 violins"], "got '2 violins'. To fix: did you mean 'vn,vn'?"),
        (["--references", "nowhere"], "--references must be a folder of true stems; got nowhere, which does not exist"),
    ],
)
def test_bad_arguments_of_a_separation_are_explained(vimss_says, tmp_path, arguments, message):
    common = ["--model", small_model(tmp_path), "--instruments", "vn", "--out", tmp_path / "out"]
    code, out, err = vimss_says("separate", recorded(tmp_path / "duet.wav"), *common, *arguments)
    assert code in (1, 2) and out == "" and message in err and not (tmp_path / "out").exists()


def test_the_channels_of_the_command_line_are_those_of_media():
    channel = cli.separate.__annotations__["channel"].__origin__
    assert get_args(channel) == get_args(media.Channel)


@pytest.mark.slow
def test_a_full_disk_ends_the_verb_with_one_line_and_exit_code_1(tmp_path):
    recording, model = recorded(tmp_path / "in" / "take.wav", 3.0), small_model(tmp_path)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "vimss", "separate", recording, "--model", model, "--instruments", "vn,vc"]
    ran = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "out" / "take")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1 and ran.stderr.count("\n") == ran.stderr.count("  heard") + 1
    assert "take must fit on the disk; got File too large" in ran.stderr and list((tmp_path / "out").iterdir()) == []


def test_doctor_names_every_library_with_its_version_or_a_way_to_get_it(vimss_says):
    code, out, _ = vimss_says("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(out)}
    machine = {"Python", "cores", "GPUs", "bfloat16", "Ray", "codecs", "names", "temporary files", "store", "tracking"}
    assert set(doctor.LIBRARIES) | machine <= set(findings)
    assert code == (0 if all(finding["ok"] for finding in findings.values()) else 1)
    assert all(finding["found"] and (finding["ok"] or finding["fix"]) for finding in findings.values())


def test_a_json_result_has_null_where_a_figure_is_not_defined(capsys):
    cli.print_json({"label_contrast": float("nan"), "scores": [float("inf"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"label_contrast": None, "scores": [None, 1.5]}


@pytest.mark.parametrize("name", vimss.__all__)
def test_every_public_name_resolves_to_what_its_module_defines(name):
    value = getattr(vimss, name)
    assert callable(value) and value.__module__.startswith("vimss.") and name in dir(vimss)


def test_no_public_name_hides_a_module():
    modules = {path.stem for path in Path(vimss.__file__).parent.iterdir()}
    assert not modules & set(vimss.__all__)


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'vimss' has no attribute 'separat'"):
        vimss.separat  # noqa: B018


def test_the_docstring_lists_every_public_name_in_one_line():
    listed = re.findall(r"^    (\w+) {2,}\S.*$", vimss.__doc__.partition("From a notebook")[2], re.MULTILINE)
    assert listed == vimss.__all__


def test_the_example_of_the_docstring_calls_what_exists_with_arguments_it_takes():
    text = inspect.cleandoc(vimss.__doc__).partition("For example:\n")[2]
    calls = [node for node in ast.walk(ast.parse(inspect.cleandoc(text))) if isinstance(node, ast.Call)]
    ours = [call for call in calls if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "vimss"]
    for call in ours:
        signature = inspect.signature(getattr(vimss, call.func.attr))
        signature.bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})
    assert len(ours) >= 6


def small_model(folder: Path, loud: float = 1.0) -> Path:
    torch.manual_seed(0)
    config = WaveUNetConfig(
        levels=2,
        filters=2,
        down_kernel=5,
        site="decoder",
        outputs="queries",
        padding="same",
        output_activation="linear",
    )
    separator = Separator(config, ("vn", "va", "vc"), 8000)
    with torch.no_grad():
        separator.unet.head.weight.mul_(loud)
    save_separator(folder / "model", separator, {})
    return folder / "model"


def test_waiting_and_lost_clips_are_told_once_a_search(capsys):
    lines = console.SearchLines(lambda _: None, load_experiment("quickstart"))
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
