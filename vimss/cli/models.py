"""Verbs that use trained models: evaluate, promote, export, separate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vimss.cli.checks import (
    check_challenger,
    check_evaluation,
    check_export,
    check_is_there,
    check_models,
    check_players,
    check_promotion,
    check_separates,
    check_writable,
    checked_experiment,
    find_shards,
    numbers_of_sources,
    parse_examples,
)
from vimss.cli.options import Device, Examples, Json, On, Seed, Set, Split, Verbose


def evaluate(
    experiment: Annotated[
        str | None,
        typer.Argument(
            metavar="[EXPERIMENT]", help="Name or path of a YAML in experiments/; leave it out with --model."
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Folder, models:/NAME@ALIAS, models:/NAME/VERSION or models:/NAME; repeatable."),
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Name or path of a YAML in shards/: the shards to score models on."),
    ] = None,
    split: Split = "test",
    instruments_from: Annotated[
        list[str] | None,
        typer.Option(
            "--instruments-from",
            metavar="MODEL",
            help="A model that names players from pictures, and asks models conditioned on labels, such as chamber, "
            "which comes with VIMSS; repeatable.",
        ),
    ] = None,
    alignment: Annotated[
        str | None,
        typer.Option(help="Model of the objective alignment, to assign the slots of each --model to players."),
    ] = None,
    sources: Annotated[
        str, typer.Option(metavar="N,N,...", help="Also score mixtures of so many independent players, as in 2,3,4.")
    ] = "",
    device: Device = "auto",
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Score best trials, or any models, beside baselines.

    With EXPERIMENT, the best trial of each of its cells; with --model and --shards, any models on any shards. --seed
    and --set change the experiment, or the recipe of --shards. Networks that do not separate are scored by the figure
    of their objective. With --alignment, slots models are scored by player: their outputs ordered by an oracle, by the
    picture and by the swapped picture.
    """
    check_evaluation(experiment, models or [], shards, alignment, instruments_from, sources)
    counts = numbers_of_sources(sources)
    if experiment is None:
        needed = [*(models or []), *([alignment] if alignment else [])]
        manifest = find_shards(needed, str(shards), split, (seed, changes or []), place)
    else:
        loaded = checked_experiment(experiment, changes, seed, place)
    from vimss import report
    from vimss.console import print_json
    from vimss.session import open_session
    from vimss.train.objectives import OBJECTIVES

    if experiment is None:
        title, best, separates = f"{split} of {manifest.name}", None, True
        given = GivenModels(models or [], instruments_from or [], alignment, counts)
        evaluations = _evaluate_models(given, manifest, split, device, place)
    else:
        title, separates = split, OBJECTIVES[loaded.objective].separates
        check_separates(loaded.objective, separates, instruments_from or [], counts)
        with open_session(place) as session:
            best, evaluations = _evaluate_experiment(session, loaded, split, device, instruments_from or [], counts)
    if as_json:
        print_json([evaluation.model_dump(mode="json") for evaluation in evaluations])
    elif alignment:
        report.print_players(title, evaluations)
    elif separates:
        report.print_evaluations(title, evaluations, best)
    else:
        report.print_figures(title, evaluations)


@dataclass(frozen=True)
class GivenModels:
    """The models to evaluate where no experiment is given."""

    models: list[str]
    instruments_from: list[str]
    alignment: str | None
    sources: tuple[int, ...]


def _evaluate_models(given: GivenModels, manifest: Any, split: str, device: Any, place: str) -> list[Any]:
    """Score models on shards, and print adaptations and omissions; by player, if an alignment model assigns slots."""
    from vimss import named_models
    from vimss.console import show_rate, stage
    from vimss.evaluations import evaluate_models
    from vimss.model.device import device_of_tasks
    from vimss.session import open_session

    with open_session(place) as session:
        if given.alignment:
            resolved = device_of_tasks(session.place, device)
            with stage(f"evaluation by player on {split} of {manifest.name}") as show_progress:
                progress = show_rate(show_progress, "parts")
                return named_models.models_on_duos(
                    session, given.models, given.alignment, manifest, split, on_progress=progress, device=resolved
                )
        checked = named_models.models_on_shards(session, given.models, manifest, split, _note, given.instruments_from)
        for sentence in checked.sentences:
            _note(sentence)
        resolved = device_of_tasks(session.place, device)
        with stage(f"evaluation on {split} of {manifest.name}") as show_progress:
            return evaluate_models(checked, resolved, show_rate(show_progress, "parts"), given.sources)


def _evaluate_experiment(
    session: Any, experiment: Any, split: str, device: Any, instruments_from: list[str], sources: tuple[int, ...]
) -> tuple[Any, list[Any]]:
    """The best trial of all cells, and the evaluations of each cell's best trial, which are kept in the study."""
    from vimss import api, named_models
    from vimss.console import show_rate, stage
    from vimss.evaluate import usable_baselines
    from vimss.model.device import device_of_tasks
    from vimss.shards.written import check_split
    from vimss.train.objectives import OBJECTIVES

    experiment = api.resolve_models(session, experiment)
    manifest = api.load_shards(session, experiment)
    check_split(manifest, split)
    study = api.load_study(session, experiment, manifest)
    best = api.best_trial(experiment, study)
    namers = named_models.instrument_namers(session, instruments_from, _note)
    for sentence in usable_baselines(manifest, split)[1] if OBJECTIVES[experiment.objective].separates else ():
        _note(sentence)
    resolved = device_of_tasks(session.place, device)
    with stage(f"evaluation on {split}") as show_progress:
        progress = show_rate(show_progress, "parts")
        return best, api.evaluate_experiment(experiment, manifest, study, split, progress, resolved, namers, sources)


def promote(
    challenger: Annotated[
        str,
        typer.Argument(
            metavar="EXPERIMENT|RUN",
            help="Name or path of a YAML in experiments/, or the id or name of a trial's run in MLflow.",
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Registered model; default: the experiment's name.")
    ] = "",
    margin: Annotated[
        float,
        typer.Option(
            metavar="DB",
            help="The whole interval of the gain must lie above it; in dB, or in the unit of the figure.",
            min=0.0,
        ),
    ] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide and print; register nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Make it the champion whatever the decision is.")] = False,
    why: Annotated[str, typer.Option(metavar="TEXT", help="The reason for --force, kept with the version.")] = "",
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Make the champion before this one the champion again.")
    ] = False,
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Register a trial, as champion if significantly better.

    Both versions keep all scores, and a page that shows them, in their runs in MLflow.
    """
    check_promotion(margin, dry_run, force, why, rollback)
    is_run = check_challenger(challenger, model, (seed, changes or []), rollback, place)
    loaded = None if is_run else checked_experiment(challenger, changes, seed, place)
    if rollback and loaded is not None:
        _roll_back(model or loaded.name, place, as_json)
        return
    from vimss.promote import Terms
    from vimss.session import open_session

    with open_session(place) as session:
        trial = _challenger(session, loaded, challenger, model)
        if dry_run:
            _try_promotion(session, trial, margin, as_json)
        else:
            _promote(session, trial, Terms(margin, why.strip()), as_json)


def _challenger(session: Any, experiment: Any, given: str, model: str) -> Any:
    """The trial of a run, or the best one of an experiment."""
    from vimss import api
    from vimss.promote import best_challenger, challenger_of_run
    from vimss.shards.written import check_split

    if experiment is None:
        return challenger_of_run(session, given, model)
    experiment = api.resolve_models(session, experiment)
    manifest = api.load_shards(session, experiment)
    check_split(manifest, "promote")
    study = api.load_study(session, experiment, manifest)
    api.best_trial(experiment, study)
    return best_challenger(session, experiment, manifest, study, model)


def _promote(session: Any, challenger: Any, terms: Any, as_json: bool) -> None:
    from vimss.console import out, print_json, show_rate, stage
    from vimss.promote import promote_challenger

    with stage(f"promotion of {challenger.name}") as show_progress:
        promotion = promote_challenger(session, challenger, terms, show_rate(show_progress, "parts"))
    if as_json:
        print_json(
            {
                "name": promotion.name,
                "version": promotion.version,
                "champion": promotion.is_champion,
                "sentence": promotion.decision.sentence,
                "forced": promotion.forced,
                "report": promotion.report,
            }
        )
        return
    out.print(
        f"{promotion.name} version {promotion.version}, trial {challenger.trial.trial} of cell '{promotion.cell}'. "
        f"{promotion.decision.sentence}"
    )
    if promotion.forced:
        out.print(f"It is the champion by force: {promotion.forced}")
    if promotion.report:
        out.print(promotion.report)


def _try_promotion(session: Any, challenger: Any, margin: float, as_json: bool) -> None:
    from vimss.console import out, print_json, show_rate, stage
    from vimss.promote import judge_challenger

    with stage(f"promotion of {challenger.name}") as show_progress:
        decision = judge_challenger(session, challenger, margin, show_rate(show_progress, "parts"))
    if as_json:
        print_json({"name": challenger.name, "would_promote": decision.promoted, "sentence": decision.sentence})
        return
    out.print(
        f"{challenger.name}, trial {challenger.trial.trial} of cell '{challenger.trial.cell}', nothing registered. "
        f"{decision.sentence}"
    )


def _roll_back(name: str, place: str, as_json: bool) -> None:
    check_models([f"models:/{name}"], place)
    from vimss.console import out, print_json
    from vimss.promote import rollback
    from vimss.session import open_session

    new, old = rollback(open_session(place).tracking, name)
    if as_json:
        print_json({"name": name, "champion": new, "previous": old})
        return
    out.print(f"{name} version {new} is the champion again; version {old} is the previous one.")


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="NAME@ALIAS, NAME/VERSION, or NAME for its champion, else its newest version."
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write: a new or an empty one.")],
    place: On = "local",
    as_json: Json = False,
) -> None:
    """Write a registered model as a folder for --model anywhere."""
    check_export(model, folder, place)
    from vimss import named_models
    from vimss.console import out, print_json
    from vimss.session import open_session

    name = named_models.export_model(open_session(place), model, folder, _note)
    if as_json:
        print_json({"model": name, "folder": str(folder.absolute())})
        return
    out.print(f"{name} is in {folder}, which --model takes in place of the name")


def separate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A sound or video file.")],
    model: Annotated[
        str,
        typer.Option(
            help="Folder, models:/NAME@ALIAS, models:/NAME/VERSION, or models:/NAME for its champion, else its newest."
        ),
    ] = "models:/quickstart",
    instruments: Annotated[
        str, typer.Option(help="Labels, as in vn,va,vc; default: those in the file's metadata.")
    ] = "",
    instruments_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A model that names the players from pictures, in place of --instruments; chamber comes with VIMSS.",
        ),
    ] = None,
    players: Annotated[
        int | None,
        typer.Option(help="Players in equal columns of the picture; default: as many as in the metadata.", min=1),
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; default: one in the store.")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="Folder of true stems, such as vn.wav or violin 1.flac, for scores.")
    ] = None,
    alignment: Annotated[
        str, typer.Option(help="Model of the objective alignment, to assign the slots of --model to the players.")
    ] = "",
    examples: Examples = None,
    stream: Annotated[int, typer.Option(help="Number of the sound stream to separate, from 0.", min=0)] = 0,
    channel: Annotated[
        Literal["all", "left", "right", "mid", "side"], typer.Option(help="Part of a stereo sound to separate.")
    ] = "all",
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Separate the readable part of a file that was cut off.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace stems of another recording in the folder of --out.")
    ] = False,
    device: Device = "auto",
    place: On = "local",
    as_json: Json = False,
) -> None:
    """Separate a recording into one WAV per label, with a page.

    The page plays the recording and its stems, and shows their spectrograms, the video, and the limits of the model.
    With --alignment, the outputs of a slots model become stems of players, named by their places in the picture.
    """
    check_players(instruments, instruments_from, players)
    check_models([name for name in (model, instruments_from, alignment) if name], place)
    check_is_there(file)
    of_players = parse_examples(examples)
    if out_folder is not None:
        check_writable(out_folder, "--out")
    from vimss import named_models
    from vimss.console import out, print_json, stage
    from vimss.separate import InstrumentsFrom, Options, Reports
    from vimss.session import open_session

    given = InstrumentsFrom(instruments_from, Path(instruments_from), players) if instruments_from else instruments
    session = open_session(place)
    options = Options(stream, channel, allow_truncated, overwrite, device=device, examples=of_players)
    with stage(f"separate {file.name}") as show_progress:
        reports = Reports(show_progress, _note)
        result = named_models.separate_file(
            session,
            file,
            model,
            given,
            out_folder,
            references,
            alignment=alignment,
            options=options,
            reports=reports,
        )
    if as_json:
        print_json(result.summary)
        return
    for path in (*result.stems.values(), result.page):
        out.print(str(path))
    for sentence in result.sentences:
        out.print(sentence)


def _note(sentence: str) -> None:
    from vimss.console import err

    err.print(f"  {sentence}")
