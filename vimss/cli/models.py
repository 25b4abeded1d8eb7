"""Verbs that use trained models: promote, export, separate."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vimss.cli.checks import (
    check_challenger,
    check_export,
    check_is_there,
    check_models,
    check_players,
    check_promotion,
    check_writable,
    checked_experiment,
    parse_examples,
)
from vimss.cli.options import Device, Examples, Json, On, Seed, Set, Verbose


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
    from vimss.console import out, print_json, print_note
    from vimss.session import open_session

    name = named_models.export_model(open_session(place), model, folder, print_note)
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
    from vimss.console import out, print_json, print_note, stage
    from vimss.separate import InstrumentsFrom, Options, Reports
    from vimss.session import open_session

    given = InstrumentsFrom(instruments_from, Path(instruments_from), players) if instruments_from else instruments
    session = open_session(place)
    options = Options(stream, channel, allow_truncated, overwrite, device=device, examples=of_players)
    with stage(f"separate {file.name}") as show_progress:
        reports = Reports(show_progress, print_note)
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
