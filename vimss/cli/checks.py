"""Wrong arguments, refused before slow imports and before Ray starts."""

import itertools
import math
import re
import socket
import tempfile
from pathlib import Path
from typing import Any

from vimss.errors import ConfigError, MediaError
from vimss.loopback import LOOPBACK

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")

LONGEST_REASON = 1000
"""Characters of --why, which becomes a tag of a version."""


def check_option_names(words: list[str]) -> None:
    """ConfigError for an option with control characters, which typer would print unescaped."""
    for word in itertools.takewhile(lambda word: word != "--", words):
        name = word.partition("=")[0]
        if name.startswith("-") and not name.isprintable():
            raise ConfigError(
                "an option must be one of those that --help lists",
                got=repr(name),
                fix="correct it; write ./ before a file whose name starts with -",
            )


def checked_experiment(name: str, changes: list[str] | None, seed: int | None, place: str) -> Any:
    """An experiment, where it, the place and the store are right: said before the imports of a verb, of seconds."""
    from vimss.runtime import find_store, load_place
    from vimss.search.consistency import load_experiment

    loaded = load_experiment(name, changes or (), seed)
    find_store(load_place(place))
    return loaded


def check_search(dry_run: bool, trial: str | None) -> None:
    """ConfigError where a trial is to continue and nothing is to start."""
    if dry_run and trial is not None:
        raise ConfigError(
            "vimss search takes --dry-run or --continue",
            got=f"--dry-run and --continue {trial}",
            fix="remove one of them",
        )


def check_evaluation(
    experiment: str | None,
    models: list[str],
    shards: str | None,
    alignment: str | None = None,
    instruments_from: list[str] | None = None,
    sources: str = "",
) -> None:
    """ConfigError unless the arguments of `evaluate` name an experiment, or models and shards."""
    if alignment is not None and instruments_from:
        raise ConfigError(
            "vimss evaluate takes --alignment, for models with slots, or --instruments-from, for models with labels",
            got=f"--alignment {alignment} and --instruments-from {' and '.join(instruments_from)}",
            fix="remove one of them",
        )
    if alignment is not None and not models:
        raise ConfigError(
            "--alignment assigns the slots of models that are given by --model",
            got=f"--alignment {alignment} without --model",
            fix="add --model models:/NAME --shards RECIPE",
        )
    if alignment is not None and sources:
        raise ConfigError(
            "--sources asks for mixtures, and --alignment scores whole pieces by player",
            got=f"--sources {sources} and --alignment {alignment}",
            fix="remove one of them",
        )
    rule = "vimss evaluate takes an experiment, or models and the shards to score them on"
    given = [f"the experiment '{experiment}'"] if experiment is not None else []
    given += [f"--model {model}" for model in models]
    given += [f"--shards {shards}"] if shards is not None else []
    got = " and ".join(given) or "neither"
    if experiment is not None and len(given) > 1:
        raise ConfigError(rule, got=got, fix="remove the experiment, or --model and --shards")
    if experiment is None and not models:
        raise ConfigError(rule, got=got, fix="name an experiment, or give --model models:/NAME --shards RECIPE")
    if experiment is None and shards is None:
        raise ConfigError(rule, got=got, fix="add --shards RECIPE")
    if len(set(models)) < len(models):
        raise ConfigError("each --model must be given once", got=got, fix="remove the duplicate")


def numbers_of_sources(text: str) -> tuple[int, ...]:
    """The numbers in `--sources`, in order; ConfigError unless each is at least 2 and given once.

    >>> numbers_of_sources("2,3,6")
    (2, 3, 6)
    """
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")] if text else []
    if any(number < 2 for number in numbers) or len(set(numbers)) < len(numbers):
        raise ConfigError(
            "--sources must be different numbers of sources, each at least 2",
            got=repr(text),
            fix="separate them by commas, as in --sources 2,3,4",
        )
    return tuple(sorted(numbers))


def check_players(instruments: str, instruments_from: str | None, players: int | None) -> None:
    """ConfigError where instruments are both given and to be named, or players are counted for nothing."""
    if instruments and instruments_from is not None:
        raise ConfigError(
            "vimss separate takes --instruments or --instruments-from",
            got=f"--instruments {instruments} and --instruments-from {instruments_from}",
            fix="remove one of them",
        )
    if players is not None and instruments_from is None:
        raise ConfigError(
            "--players is for --instruments-from, which names the instrument of each",
            got=f"--players {players} alone",
            fix="add --instruments-from MODEL, or give --instruments in its place",
        )


def parse_examples(given: list[str] | None) -> tuple[tuple[str, Path], ...]:
    """The labels and files of --example; ConfigError where one is not written LABEL=FILE, MediaError without a file."""
    examples = []
    for text in given or ():
        label, _, file = text.partition("=")
        if not label or not file:
            raise ConfigError(
                "--example takes LABEL=FILE", got=repr(text), fix="write for example --example vn=violin.wav"
            )
        check_is_there(Path(file))
        examples.append((label, Path(file)))
    return tuple(examples)


def check_is_there(file: Path) -> None:
    """MediaError where there is no file of that name; what else may be wrong with it is said by what reads it."""
    try:
        file.stat()
    except FileNotFoundError as error:
        raise MediaError(f"{file} must be a media file", got="no such file", fix="check the path") from error
    except OSError:
        return


def check_separates(objective: str, separates: bool, instruments_from: list[str], sources: tuple[int, ...]) -> None:
    """ConfigError where a network that does not separate is to be queried by pictures, or scored on mixtures."""
    if instruments_from and not separates:
        raise ConfigError(
            "--instruments-from needs an experiment whose networks separate: they are asked by what it names",
            got=f"one of the objective '{objective}'",
            fix="leave --instruments-from out",
        )
    if sources and not separates:
        raise ConfigError(
            "--sources needs an experiment whose networks separate: others are scored by the figure of their objective",
            got=f"one of the objective '{objective}'",
            fix="leave --sources out",
        )


def find_shards(models: list[str], recipe: str, split: str, given: tuple[int | None, list[str]], place: str) -> Any:
    """The shards to score models on; an error if they, or the folder or name of a model, do not exist.

    `given` are --seed and --set of the recipe.
    """
    from vimss.runtime import load_place, open_store
    from vimss.shards.written import check_split, written_shards

    seed, changes = given
    manifest = written_shards(open_store(load_place(place)), recipe, f"the shards of '{recipe}'", seed, changes)
    check_split(manifest, split)
    check_models(models, place)
    return manifest


def check_models(models: list[str], place: str) -> None:
    """ModelError where a folder holds no model, or the registry is the store's own and has none of a name."""
    from vimss.model.card import check_model_folder
    from vimss.model.pretrained import pretrained_folder
    from vimss.runtime import load_place, open_store
    from vimss.track.names import DATABASE, check_registered

    at = load_place(place)
    for model in models:
        if not model.startswith("models:"):
            check_model_folder(pretrained_folder(model) or Path(model))
        elif not at.tracking_uri:
            store = open_store(at)
            store.check_exists()
            check_registered(store.tracking / DATABASE, model)


def check_promotion(margin: float, dry_run: bool, force: bool, why: str, rollback: bool) -> None:
    """ConfigError where the options of `promote` contradict each other, or --force has no reason."""
    given = {"--dry-run": dry_run, "--force": force, "--rollback": rollback}
    modes = [option for option, is_given in given.items() if is_given]
    if rollback and margin:
        modes.append("--margin")
    if len(modes) > 1:
        raise ConfigError(
            "vimss promote takes one of --dry-run, --force and --rollback, and a rollback has no margin",
            got=" and ".join(modes),
            fix="remove one of them",
        )
    if not math.isfinite(margin):
        raise ConfigError("--margin must be a finite number", got=str(margin), fix="write for example --margin 0.5")
    if why and not force:
        raise ConfigError("--why is the reason for --force", got="--why alone", fix="add --force, or remove --why")
    if force and not why.strip():
        raise ConfigError("--force needs a reason", got="no --why", fix="add --why 'what the decision cannot know'")
    if len(why) > LONGEST_REASON:
        raise ConfigError(
            f"--why takes up to {LONGEST_REASON} characters", got=f"{len(why)}", fix="name a page that says more"
        )


def check_challenger(given: str, model: str, changed: tuple[int | None, list[str]], rollback: bool, place: str) -> bool:
    """Whether `promote` is given a run in place of an experiment; an error where it is neither, or a name is odd.

    `changed` are --seed and --set.
    """
    from vimss.experiment import EXPERIMENTS
    from vimss.runtime import load_place, open_store
    from vimss.track.names import DATABASE, has_run
    from vimss.yaml_files import find_named, is_path, known_names

    if model and not MODEL_NAME.fullmatch(model):
        raise ConfigError(
            "--model must be a name of letters, digits, - and _",
            got=repr(model),
            fix="write for example --model quartets",
        )
    if is_path(given) or find_named(given, EXPERIMENTS) is not None:
        return False
    at = load_place(place)
    if not at.tracking_uri and not has_run(open_store(at).tracking / DATABASE, given):
        known = known_names(EXPERIMENTS)
        raise ConfigError(
            "vimss promote takes an experiment, or the id or name of a trial's run in MLflow",
            got=f"'{given}', which is neither",
            fix=f"choose one of {', '.join(known)}, or copy a run's id from the pages of `vimss ui`",
        )
    seed, changes = changed
    options = [*([] if seed is None else ["--seed"]), *(["--set"] if changes else []), *["--rollback"] * rollback]
    if options:
        raise ConfigError(
            "--seed, --set and --rollback are for an experiment",
            got=f"{' and '.join(options)} with the run '{given}'",
            fix="leave them out, or name the experiment",
        )
    return True


def check_export(model: str, folder: Path, place: str) -> None:
    """An error if a folder is not free, or a registered model does not exist."""
    from vimss.model.card import check_free

    check_free(folder)
    check_writable(folder, "DIR")
    check_models([f"models:/{model.removeprefix('models:/')}"], place)


def check_picture(path: Path) -> None:
    """ConfigError if --curves cannot be written."""
    if path.suffix.lower() != ".png":
        raise ConfigError("--curves must name a PNG file", got=str(path), fix=f"write {path.with_suffix('.png')}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        got = "a folder of that name" if path.is_dir() else f"no folder {path.absolute().parent}"
        raise ConfigError("--curves must name a file in a folder that exists", got=got, fix="choose another path")
    check_writable(path, "--curves")


def check_writable(path: Path, option: str) -> None:
    """ConfigError where nothing can be written at a path: said before the work whose result it shall hold."""
    try:
        there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ConfigError(
            f"{option} must be where files can be written", got=f"{path}: {error.strerror}", fix="choose another path"
        ) from error


def check_host(host: str, port: int, optuna: bool) -> None:
    """ConfigError where pages would be served to other machines without a login: Optuna's have none."""
    if host == LOOPBACK:
        return
    if optuna:
        raise ConfigError(
            f"--optuna needs --host {LOOPBACK}: Optuna's pages have no login",
            got=host,
            fix=f"leave --host out; on the other machine run `ssh -L {port}:{LOOPBACK}:{port} {socket.gethostname()}`, "
            f"and open http://{LOOPBACK}:{port} there",
        )
    from vimss.track.login import check_installed

    check_installed()
