"""Verbs that answer the question of an experiment: train, search, compare, listen, quickstart."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from vimss.cli.checks import check_picture, check_search, checked_experiment
from vimss.cli.options import ExperimentName, Json, On, Seed, Set, Split, Verbose, Wait
from vimss.loopback import check_port


def train(
    experiment: ExperimentName,
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    wait: Wait = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train an experiment's own settings: a search with one trial."""
    from vimss.search.consistency import load_experiment

    _search(load_experiment(experiment, changes or (), seed).without_search(), place, wait, as_json)


def search(
    experiment: ExperimentName,
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what it would take, from measured steps; start nothing.")
    ] = False,
    trial: Annotated[
        str | None,
        typer.Option(
            "--continue",
            metavar="TRIAL",
            help="Train only this trial, which stopped, to its whole budget: its name, or how that begins.",
        ),
    ] = None,
    wait: Wait = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Search all cells of an experiment, or resume that search."""
    from vimss.search.consistency import load_experiment

    check_search(dry_run, trial)
    loaded = load_experiment(experiment, changes or (), seed)
    if dry_run:
        _estimate(loaded, place, as_json)
    else:
        _search(loaded, place, wait, as_json, trial)


def _estimate(experiment: Any, place: str, as_json: bool) -> None:
    """Print what a search has left; exit code 1 where this machine holds no trial."""
    _check_room(place)
    from vimss import api, estimate_table
    from vimss.console import print_json
    from vimss.session import open_session

    session = open_session(place)
    experiment = api.resolve_models(session, experiment)
    manifest = api.load_shards(session, experiment)
    found = api.estimate(session, experiment, manifest)
    if as_json:
        print_json(estimate_table.estimate_summary(found))
    else:
        estimate_table.print_estimate(experiment, found)


def _search(experiment: Any, place: str, wait: bool, as_json: bool, trial: str | None = None) -> None:
    """Search an experiment and print its results; exit code 1 where a cell has no finished trial.

    Cells that this machine can never train need none. With `trial`, this one alone is continued, and must finish.
    """
    _check_room(place)
    from vimss import api, report
    from vimss.console import print_json, stage
    from vimss.search.left_out import left_out
    from vimss.session import open_session
    from vimss.trials_table import search_stage

    session = open_session(place)
    experiment = api.resolve_models(session, experiment)
    manifest = api.load_shards(session, experiment)
    _print_earlier(session, experiment, manifest)
    with search_stage(f"search of {experiment.name}", experiment, is_whole=trial is None) as reporter:
        if trial is None:
            study = api.run_search(session, experiment, manifest, [reporter], wait=wait)
        else:
            study = api.continue_trial(session, experiment, manifest, trial, [reporter], wait=wait)
    with stage("pictures and pages") as show_progress:
        api.write_pictures(experiment, manifest, study, show_progress)
        _sync_or_note(session, experiment, manifest)
    best = api.best_trials(experiment, study)
    untrained = left_out(experiment, study, session.place)
    if as_json:
        cells = {cell: {"trial": trial.trial, **trial.best_report} for cell, trial in best.items()}
        seeds = {spread.name: spread.figures for spread in report.seed_spreads(experiment, study)}
        more = {name: found for name, found in (("over seeds", seeds), ("left out", untrained)) if found}
        print_json({"folder": str(study.folder), "cells": cells, **more})
    else:
        report.print_comparison(experiment, study, untrained)
    if trial is None:
        api.check_finished(experiment, study, untrained)


def _sync_or_note(session: Any, experiment: Any, manifest: Any) -> None:
    """Write the runs into MLflow; that it is away is noted, and no error: the records are kept."""
    from vimss import api
    from vimss.console import err
    from vimss.errors import PlaceError

    try:
        for sentence in api.sync_runs(session, experiment, manifest).notes:
            err.print(sentence)
    except PlaceError as error:
        err.print(f"{error}; `vimss sync {experiment.name}` then writes the runs")


def sync(
    experiment: ExperimentName,
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    as_json: Json = False,
) -> None:
    """Write into MLflow what it lacks of an experiment's runs."""
    loaded = checked_experiment(experiment, changes, seed, place)
    from vimss import api
    from vimss.console import out, print_json, stage
    from vimss.session import open_session

    session = open_session(place)
    loaded = api.resolve_models(session, loaded)
    manifest = api.load_shards(session, loaded)
    study = api.load_study(session, loaded, manifest)
    session.tracking.client()  # where MLflow is away, that is said before the pages are made
    with stage("pictures and pages") as show_progress:
        api.write_pictures(loaded, manifest, study, show_progress)
    with stage("write runs"):
        synced = api.sync_runs(session, loaded, manifest)
    if as_json:
        print_json({"runs": len(synced.run_ids), "written": synced.written, "notes": synced.notes})
    else:
        out.print(str(synced))


def _check_room(place: str) -> None:
    """An error where the place cannot hold the store, or never a trial: before the imports that take seconds."""
    from vimss.runtime import find_store, load_place

    loaded = load_place(place)
    find_store(loaded)
    from vimss.search.room import check_cluster, check_room

    check_room(loaded)
    check_cluster(loaded)


def _print_earlier(session: Any, experiment: Any, manifest: Any) -> None:
    """Print where earlier trials of the experiment are that do not appear: of other data, or of other settings."""
    from vimss import api
    from vimss.console import err

    for sentence in (
        api.earlier_studies(session, experiment, manifest),
        api.uncounted_trials(session, experiment, manifest),
    ):
        if sentence:
            err.print(sentence)


def compare(
    experiment: ExperimentName,
    split: Split = "test",
    against: Annotated[
        str, typer.Option(metavar="ROW", help="Row of the table to compare the others with; default: the first.")
    ] = "",
    curves: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Draw the curve of each cell's best trial, its figure against audio seconds."),
    ] = None,
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    as_json: Json = False,
) -> None:
    """Compare the cells of an experiment: figures, gains, costs.

    Seeds are gathered, and of a large search it says which axes matter. The figures are those that `vimss evaluate`
    kept, or else of the validation set. The table as Markdown and CSV, a chart and plots of how axes interact are
    written into the study's folder.
    """
    loaded = checked_experiment(experiment, changes, seed, place)
    if curves is not None:
        check_picture(curves)
    from vimss import api, report
    from vimss.console import out, print_json, stage
    from vimss.pages.of_comparison import compare_study
    from vimss.pages.of_trial import figure_curves
    from vimss.session import open_session
    from vimss.shards.written import check_split_name
    from vimss.storage import atomic_write

    session = open_session(place)
    loaded = api.resolve_models(session, loaded)
    manifest = api.load_shards(session, loaded)
    check_split_name(manifest, split)
    _print_earlier(session, loaded, manifest)
    study = api.load_study(session, loaded, manifest)
    if curves is not None:
        with atomic_write(curves) as temporary:
            temporary.write_bytes(figure_curves(api.best_trials(loaded, study)))
    with stage("compare"):
        compared = compare_study(loaded, manifest, study, split, against)
    if as_json:
        print_json(report.compared_summary(compared))
        return
    report.print_compared(compared)
    out.print(f"{compared.folder}: {', '.join(compared.files)}")


def listen(
    experiment: ExperimentName,
    split: Split = "test",
    piece: Annotated[str, typer.Option(help="Piece of the split to hear the beginning of; default: the first.")] = "",
    page_only: Annotated[
        bool,
        typer.Option("--page-only", help="Write the page and end; opened as a file, it offers ratings for download."),
    ] = False,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5001,
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
) -> None:
    """Serve a page to compare all cells by ear, until Ctrl-C.

    It plays the same excerpt of every cell, to switch between and rate blind. Page and ratings lie in the study's
    folder. Only this machine can open the page, by the address that is printed.
    """
    loaded = checked_experiment(experiment, changes, seed, place)
    if not page_only:
        check_port(port)
    from vimss import api
    from vimss.console import out, stage
    from vimss.pages.of_cells import LISTEN_FOLDER, cells_page, excerpt_of_cells
    from vimss.ratings import save_ratings, serve_page
    from vimss.session import open_session
    from vimss.shards.written import check_split
    from vimss.storage import atomic_write

    session = open_session(place)
    loaded = api.resolve_models(session, loaded)
    manifest = api.load_shards(session, loaded)
    check_split(manifest, split)
    study = api.load_study(session, loaded, manifest)
    with stage("separate the excerpt") as show_progress:
        html = cells_page(excerpt_of_cells(loaded, manifest, study, split, piece, show_progress)).encode()
    folder = study.folder / LISTEN_FOLDER
    with atomic_write(folder / "page.html") as temporary:
        temporary.write_bytes(html)
    out.print(str(folder / "page.html"))
    if page_only:
        return
    with suppress(KeyboardInterrupt), serve_page(html, lambda ratings: save_ratings(folder, ratings), port) as address:
        out.print(f"{address} (stop with Ctrl-C)")
        while True:
            time.sleep(3600)


def quickstart(
    seed: Seed = None, place: On = "local", wait: Wait = False, as_json: Json = False, verbose: Verbose = False
) -> None:
    """Run every stage, from scores to stems, in three minutes."""
    began = time.monotonic()
    _check_room(place)
    from vimss.api import check_finished
    from vimss.console import print_json
    from vimss.quickstart import print_result, run

    result = run(seed, place, began=began, wait=wait)
    if as_json:
        print_json(result.summary)
    else:
        print_result(result)
    check_finished(result.experiment, result.study)
