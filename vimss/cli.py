"""The command line: one verb per stage. Everything heavy is imported inside the verb that needs it.

Exit codes: 0 done and whole, 1 failed or interrupted, 2 bad usage.
"""

import itertools
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from vimss.errors import ConfigError, VimssError


class Verbs(TyperGroup):
    """The verbs, of which each may be interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb. Typer's own end by Ctrl-C would be silent."""
        from vimss.console import err, print_warnings

        print_warnings()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            err.print("interrupted; the same command resumes")
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Visually-informed music source separation: write shards, search, track, promote, separate.",
)

On = Annotated[
    str, typer.Option("--on", metavar="PLACE", help="Where to run: name of a folder of platform/, or its path.")
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the YAML.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of corpus, sampler and training.", min=0)]
Wait = Annotated[bool, typer.Option("--wait", help="Where the same search runs already, wait for its end.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option(help="Where networks run: cpu, a GPU (cuda, mps), or auto: a GPU where there is one."),
]
ExperimentName = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Name or path of a YAML in experiments/.")]


@app.command()
def shard(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name or path of a YAML in shards/.")],
    source: Annotated[Path | None, typer.Option(help="Folder of the corpus, where it is not generated.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Length of a generated corpus.", min=0)] = None,
    shards: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FOLDER|URL", help="Where shards lie; without, VIMSS_SHARDS, place or store say."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read what was written and list what is wrong with it.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Make a page of one clip of each split, to look at and listen to.")
    ] = False,
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    as_json: Json = False,
) -> None:
    """Write the shards of a corpus; a second call finds them."""
    from vimss import verbs
    from vimss.console import out, stage
    from vimss.shards.source import first_of

    wanted = verbs.recipe_of(recipe, seed, minutes, changes or ())
    if check and (show or source is not None):
        raise ConfigError(
            "--check reads what was written", got="--source or --show beside it", fix="give them without --check"
        )
    if check:
        _check_shards(recipe, wanted, place, shards, as_json)
        return
    with verbs.at_place(place, shards) as work, stage(f"shards of {Path(recipe).stem}") as say:
        manifest = verbs.write(work, recipe, wanted, source, verbs.shard_news(say))
        pages = verbs.show_shards(work, manifest) if show else []
    seconds = {
        split: sum(shard.seconds for shard in manifest.shards if shard.split == split) for split in manifest.splits
    }
    if as_json:
        told = {"folder": str(manifest.home), "signature": manifest.signature, "seconds": seconds}
        print_json({**told, "missing": manifest.missing, "odd": manifest.odd, "pages": [str(page) for page in pages]})
        return
    out.print(f"{manifest.home}: {len(manifest.pieces)} pieces, {sum(seconds.values()) / 60:.1f} minutes")
    for split, length in seconds.items():
        pieces = [piece for piece in manifest.pieces if piece.split == split]
        labels = sorted({label for piece in pieces for label in piece.instruments})
        out.print(f"  {split}: {len(pieces)} pieces, {length / 60:.1f} minutes: {' '.join(labels)}")
    if manifest.missing:
        out.print(f"  missing: {len(manifest.missing)} pieces: {first_of(manifest.missing)}")
    for sentence in manifest.odd:
        out.print(f"  odd: {sentence}")
    for page in pages:
        out.print(str(page))


@app.command()
def features(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name or path of a YAML in shards/, whose shards get features.")
    ],
    network: Annotated[str, typer.Option(help="resnet18, resnet50 or mobilenet_v2.")] = "resnet18",
    weights: Annotated[str, typer.Option(help="torchvision, random, or a path.")] = "torchvision",
    device: Device = "auto",
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    as_json: Json = False,
) -> None:
    """Compute vision features once and write them beside the shards."""
    from vimss import verbs
    from vimss.console import out, stage

    checked = verbs.recipe_of(recipe, seed, overrides=changes or ())
    vision = verbs.vision_of(network, weights)
    with verbs.at_place(place) as work, stage("features") as say:
        where = verbs.device_of_tasks(work.place, device)
        folder = verbs.write_features(work, checked, recipe, vision, say, where)
    if as_json:
        print_json({"folder": str(folder)})
        return
    out.print(str(folder))


@app.command()
def train(
    experiment: ExperimentName,
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Train the one configuration of an experiment: a search with one trial."""
    from vimss import verbs

    _search(verbs.experiment_of(experiment, seed, changes or ()).without_search(), place, wait, as_json)


@app.command()
def search(
    experiment: ExperimentName,
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Search all cells of an experiment; the same command again resumes."""
    from vimss import verbs

    _search(verbs.experiment_of(experiment, seed, changes or ()), place, wait, as_json)


@app.command()
def evaluate(
    experiment: Annotated[
        str | None, typer.Argument(metavar="[EXPERIMENT]", help="Name or path of a YAML in experiments/; else --model.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="models:/NAME@ALIAS, models:/NAME/VERSION, models:/NAME or a folder; several: side by side."
        ),
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Name or path of a YAML in shards/, on whose shards models are scored."),
    ] = None,
    split: Annotated[str, typer.Option(help="test, test_unheard, promote or valid.")] = "test",
    device: Device = "auto",
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    as_json: Json = False,
) -> None:
    """Score the best trial of every cell, or any models on any shards, beside rows that need no training.

    --seed and --set are those of the experiment, or else of the recipe.
    """
    _check_evaluation(experiment, models or [], shards)
    if experiment is None:
        manifest = _shards_for(models or [], str(shards), split, (seed, changes or []), place)
    from vimss import report, verbs
    from vimss.console import stage
    from vimss.shards.written import check_split

    if experiment is None:
        with verbs.at_place(place) as work:
            evaluations = _evaluate_models(work, models or [], manifest, split, device)
        if as_json:
            print_json([evaluation.model_dump(mode="json") for evaluation in evaluations])
        else:
            report.print_evaluations(f"{split} of {manifest.name}", evaluations)
        return
    loaded = verbs.experiment_of(experiment, seed, changes or ())
    with verbs.at_place(place) as work:
        manifest = verbs.shards_of(work, loaded)
        check_split(manifest, split)
        study = verbs.study_of(work, loaded, manifest)
        best = verbs.best_trial(loaded, study)
        trained = {name: trial.folder / "model" for name, trial in verbs.best_trials(loaded, study).items()}
        where = verbs.device_of_tasks(work.place, device)
        with stage(f"evaluation on {split}") as say:
            news = verbs.evaluation_news(say)
            evaluations = verbs.evaluate_systems(manifest, trained, split, on_progress=news, device=where)
        verbs.save_evaluations(study, split, evaluations)
    if as_json:
        print_json([evaluation.model_dump(mode="json") for evaluation in evaluations])
        return
    report.print_evaluations(split, evaluations, best)


@app.command()
def compare(
    experiment: ExperimentName,
    curves: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw the validation loss of each cell's best trial here.")
    ] = None,
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    as_json: Json = False,
) -> None:
    """The result table of an experiment: one row per cell."""
    from vimss import report, verbs
    from vimss.storage import atomic_write

    loaded = verbs.experiment_of(experiment, seed, changes or ())
    if curves is not None:
        _check_picture(curves)
    work = verbs.known_place(place)
    manifest = verbs.shards_of(work, loaded)
    _tell_earlier(work, loaded, manifest)
    study = verbs.study_of(work, loaded, manifest)
    if curves is not None:
        with atomic_write(curves) as temporary:
            temporary.write_bytes(report.curves_picture(verbs.best_trials(loaded, study)))
    if as_json:
        rows = [dict(zip(report.COMPARISON_COLUMNS, row, strict=True)) for row in report.comparison_rows(loaded, study)]
        groups = [dict(zip(report.SEED_COLUMNS, row, strict=True)) for row in report.seed_rows(loaded, study)]
        print_json([*rows, *groups])
        return
    report.print_comparison(loaded, study)


@app.command()
def promote(
    experiment: ExperimentName, seed: Seed = None, changes: Set = None, place: On = "local", as_json: Json = False
) -> None:
    """Register the best trial; it becomes the champion where it is significantly better."""
    from vimss import verbs
    from vimss.console import err, out
    from vimss.shards.written import check_split

    loaded = verbs.experiment_of(experiment, seed, changes or ())
    with verbs.at_place(place) as work:
        manifest = verbs.shards_of(work, loaded)
        check_split(manifest, "promote")
        study = verbs.study_of(work, loaded, manifest)
        verbs.best_trial(loaded, study)
        tracker = verbs.open_tracker(work, loaded, manifest)
        with verbs.delivered(tracker, err.print):
            promotion = verbs.promote_best(work, loaded, manifest, tracker, study)
    if as_json:
        print_json(
            {
                "name": promotion.name,
                "version": promotion.version,
                "champion": promotion.is_champion,
                "sentence": promotion.decision.sentence,
            }
        )
        return
    out.print(
        f"{promotion.name} version {promotion.version}, best trial of cell '{promotion.cell}'. "
        f"{promotion.decision.sentence}"
    )


@app.command()
def separate(
    file: Annotated[Path, typer.Argument(help="A sound or video file.")],
    model: Annotated[
        str,
        typer.Option(
            help="models:/NAME@ALIAS, models:/NAME/VERSION, a folder, or models:/NAME: its champion, else its newest."
        ),
    ] = "models:/quickstart",
    instruments: Annotated[str, typer.Option(help="Labels, as in vn,va,vc; without, the file's metadata say.")] = "",
    out_folder: Annotated[Path | None, typer.Option("--out", help="Where to write; without, the store.")] = None,
    references: Annotated[
        Path | None, typer.Option(help="Folder with true stems, such as vn.wav or violin 1.flac, to score.")
    ] = None,
    stream: Annotated[int, typer.Option(help="Which of several sound streams to hear, from 0.", min=0)] = 0,
    channel: Annotated[
        Literal["all", "left", "right", "mid", "side"], typer.Option(help="Which part of a stereo sound to hear.")
    ] = "all",
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Separate a file that was cut off as far as it goes.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace stems of another recording in the folder of --out.")
    ] = False,
    device: Device = "auto",
    place: On = "local",
    as_json: Json = False,
) -> None:
    """Separate a recording into one WAV per label, with a page to look at and listen to."""
    from vimss import verbs
    from vimss.console import err, out, stage
    from vimss.separate import Options

    def note(sentence: str) -> None:
        err.print(f"  {sentence}")

    work = verbs.known_place(place)
    options = Options(stream, channel, allow_truncated, overwrite, device=device)
    with stage(f"separate {file.name}") as say:
        chosen = verbs.model_in_use(work, model, note)
        result = verbs.separate_file(
            work, file, chosen, instruments, out_folder, references, say, options=options, note=note
        )
    if as_json:
        print_json(result.summary)
        return
    for path in (*result.stems.values(), result.page):
        out.print(str(path))
    for sentence in result.sentences:
        out.print(sentence)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000, place: On = "local"
) -> None:
    """Show runs and models in MLflow's web page, until Ctrl-C."""
    import time
    from contextlib import suppress

    from vimss import verbs
    from vimss.console import out
    from vimss.track import runs_page, serve_ui

    tracking = verbs.known_place(place).tracking
    with suppress(KeyboardInterrupt), serve_ui(tracking, port) as address:
        out.print(f"{runs_page(tracking, address)} (Ctrl-C ends it)")
        while True:
            time.sleep(3600)


@app.command()
def quickstart(seed: Seed = None, place: On = "local", wait: Wait = False, as_json: Json = False) -> None:
    """From scores to stems in three minutes: corpus, search, evaluation, promotion, separation."""
    began = time.time()
    from vimss import verbs
    from vimss.quickstart import run, tell

    result = run(seed, place, began=began, wait=wait)
    if as_json:
        print_json(result.summary)
    else:
        tell(result)
    verbs.check_finished(result.experiment, result.study)


@app.command()
def doctor(place: On = "local", as_json: Json = False) -> None:
    """What this machine has, what is missing, and how to get it."""
    from vimss.console import print_table
    from vimss.doctor import examine

    findings = examine(place)
    if as_json:
        print_json([{"what": f.what, "found": f.found, "ok": f.ok, "fix": f.fix} for f in findings])
    else:
        print_table("vimss doctor", ("", "found", "to fix"), [(f.what, f.found, f.fix) for f in findings])
    if not all(f.ok for f in findings):
        raise typer.Exit(1)


def _search(experiment: Any, place: str, wait: bool, as_json: bool) -> None:
    """Search an experiment and show what came of it; exit code 1 where a cell has no finished trial."""
    from vimss import report, verbs
    from vimss.console import SearchLines, err, stage

    work = verbs.known_place(place)
    manifest = verbs.shards_of(work, experiment)
    _tell_earlier(work, experiment, manifest)
    with stage(f"search of {experiment.name}") as say:
        lines = SearchLines(say, experiment)
        study, tracker = verbs.run_search(work, experiment, manifest, [lines], wait=wait)
    with verbs.delivered(tracker, err.print), stage("pictures and pages"):
        report.log_pictures(experiment, manifest, study, tracker)
    best = verbs.best_trials(experiment, study)
    if as_json:
        cells = {cell: {"trial": trial.trial, **trial.best_report} for cell, trial in best.items()}
        seeds = {spread.name: spread.figures for spread in report.seed_spreads(experiment, study)}
        print_json({"folder": str(study.folder), "cells": cells, **({"over seeds": seeds} if seeds else {})})
    else:
        report.print_comparison(experiment, study)
    verbs.check_finished(experiment, study)


def _tell_earlier(work: Any, experiment: Any, manifest: Any) -> None:
    """Say where studies are that somebody may miss here."""
    from vimss import verbs
    from vimss.console import err

    sentence = verbs.earlier_studies(work, experiment, manifest)
    if sentence:
        err.print(sentence)


def _check_shards(name: str, recipe: Any, place: str, shards: str | None, as_json: bool) -> None:
    """Read what was written; exit code 1 where something is wrong with it."""
    from vimss import verbs
    from vimss.console import out, stage

    with verbs.at_place(place, shards) as work, stage(f"check of {Path(name).stem}") as say:
        folder, found = verbs.check(work, name, recipe, say)
    wrong = [sentence for shard in found for sentence in shard.wrong]
    odd = [sentence for shard in found for sentence in shard.odd]
    clips, size = sum(shard.clips for shard in found), sum(shard.size for shard in found)
    if as_json:
        print_json(
            {"folder": str(folder), "shards": len(found), "clips": clips, "bytes": size, "wrong": wrong, "odd": odd}
        )
    else:
        for sentence in wrong:
            out.print(sentence)
        for sentence in odd:
            out.print(f"odd: {sentence}")
        told = f"{len(wrong)} errors" if wrong else "all whole"
        out.print(f"{folder}: {len(found)} shards, {clips} clips, {size / 1e6:.1f} MB: {told}")
    if wrong:
        raise typer.Exit(1)


def _shards_for(models: list[str], recipe: str, split: str, given: tuple[int | None, list[str]], place: str) -> Any:
    """The shards to score models on. Wrong shards and wrong model folders are refused before the slow imports."""
    from vimss.model.card import check_model_folder
    from vimss.runtime import load_place, open_store
    from vimss.shards.written import check_split, written_shards
    from vimss.track.names import DATABASE, check_registered

    seed, changes = given
    at = load_place(place)
    store = open_store(at)
    manifest = written_shards(store, recipe, f"the shards of '{recipe}'", seed, changes)
    check_split(manifest, split)
    for model in models:
        if not model.startswith("models:"):
            check_model_folder(Path(model))
        elif not at.tracking_uri:
            check_registered(store.tracking / DATABASE, model)
    return manifest


def _evaluate_models(work: Any, models: list[str], manifest: Any, split: str, device: Any) -> list[Any]:
    """Score models on shards, and say what of either is changed or left out."""
    from vimss import verbs
    from vimss.console import err, stage

    def note(sentence: str) -> None:
        err.print(f"  {sentence}")

    asked = verbs.models_on_shards(work, models, manifest, split, note)
    for sentence in asked.sentences:
        note(sentence)
    where = verbs.device_of_tasks(work.place, device)
    with stage(f"evaluation on {split} of {manifest.name}") as say:
        return verbs.evaluate_models(asked, where, verbs.evaluation_news(say))


def _check_evaluation(experiment: str | None, models: list[str], shards: str | None) -> None:
    """ConfigError where the arguments of `evaluate` say neither of the two things that it can do."""
    rule = "vimss evaluate takes an experiment, or models and the shards to score them on"
    given = [f"the experiment '{experiment}'"] if experiment is not None else []
    given += [f"--model {model}" for model in models]
    given += [f"--shards {shards}"] if shards is not None else []
    got = " and ".join(given) or "neither"
    if experiment is not None and len(given) > 1:
        raise ConfigError(rule, got=got, fix="leave the experiment out, or --model and --shards")
    if experiment is None and not models:
        raise ConfigError(rule, got=got, fix="name an experiment, or give --model models:/NAME --shards RECIPE")
    if experiment is None and shards is None:
        raise ConfigError(rule, got=got, fix="add --shards RECIPE")
    if len(set(models)) < len(models):
        raise ConfigError("each --model must be given once", got=got, fix="leave the second one out")


def _check_picture(path: Path) -> None:
    """ConfigError where --curves cannot be written: found before the study is read rather than after."""
    if path.suffix.lower() != ".png":
        raise ConfigError("--curves must name a PNG file", got=str(path), fix=f"write {path.with_suffix('.png')}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        got = "a folder of that name" if path.is_dir() else f"no folder {path.absolute().parent}"
        raise ConfigError("--curves must name a file in a folder that exists", got=got, fix="choose another path")


def print_json(content: Any) -> None:
    """The result for a script, and nothing else, on the standard output."""
    from vimss import console

    console.print_json(content)


def main(arguments: Iterable[str] | None = None) -> None:
    """Entry point: errors of ours become one line and an exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _check_options(words)
        app(args=words)
    except VimssError as error:
        from vimss.console import err

        err.print(f"error: {error}")
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def _check_options(words: list[str]) -> None:
    """ConfigError where typer would print what steers a terminal: it shows the name of an unknown option as it is."""
    for word in itertools.takewhile(lambda word: word != "--", words):
        name = word.partition("=")[0]
        if name.startswith("-") and not name.isprintable():
            raise ConfigError(
                "an option must be one of those that --help lists",
                got=repr(name),
                fix="correct it; write ./ before a file whose name begins with -",
            )
