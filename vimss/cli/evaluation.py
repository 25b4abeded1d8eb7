"""The verb evaluate: best trials of an experiment, or any models, beside baselines."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from vimss.cli.checks import check_evaluation, check_separates, checked_experiment, find_shards, numbers_of_sources
from vimss.cli.options import Device, Json, On, Seed, Set, Split, Verbose


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
    from vimss.console import print_note, show_rate, stage
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
        checked = named_models.models_on_shards(
            session, given.models, manifest, split, print_note, given.instruments_from
        )
        for sentence in checked.sentences:
            print_note(sentence)
        resolved = device_of_tasks(session.place, device)
        with stage(f"evaluation on {split} of {manifest.name}") as show_progress:
            return evaluate_models(checked, resolved, show_rate(show_progress, "parts"), given.sources)


def _evaluate_experiment(
    session: Any, experiment: Any, split: str, device: Any, instruments_from: list[str], sources: tuple[int, ...]
) -> tuple[Any, list[Any]]:
    """The best trial of all cells, and the evaluations of each cell's best trial, which are kept in the study."""
    from vimss import api, named_models
    from vimss.console import print_note, show_rate, stage
    from vimss.evaluate import usable_baselines
    from vimss.model.device import device_of_tasks
    from vimss.shards.written import check_split
    from vimss.train.objectives import OBJECTIVES

    experiment = api.resolve_models(session, experiment)
    manifest = api.load_shards(session, experiment)
    check_split(manifest, split)
    study = api.load_study(session, experiment, manifest)
    best = api.best_trial(experiment, study)
    namers = named_models.instrument_namers(session, instruments_from, print_note)
    for sentence in usable_baselines(manifest, split)[1] if OBJECTIVES[experiment.objective].separates else ():
        print_note(sentence)
    resolved = device_of_tasks(session.place, device)
    with stage(f"evaluation on {split}") as show_progress:
        progress = show_rate(show_progress, "parts")
        evaluated = api.evaluate_experiment(
            experiment, manifest, study, split, progress, resolved, namers, sources, print_note
        )
    return best, evaluated
