"""Verbs about an installation and its files: list, ui, doctor, schema."""

import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vimss.cli.options import Json, On


def ui(
    experiment: Annotated[
        str,
        typer.Argument(metavar="[EXPERIMENT]", help="Name or path of a YAML in experiments/; leave it out for all."),
    ] = "",
    optuna: Annotated[
        bool, typer.Option("--optuna", help="Serve Optuna's dashboard of the experiment's searches instead.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; with any but this machine's own, MLflow's pages ask for a login.")
    ] = "127.0.0.1",
    place: On = "local",
) -> None:
    """Serve MLflow's pages, or Optuna's, until Ctrl-C.

    On this machine alone, unless --host says otherwise; from another one, `ssh -L 5000:127.0.0.1:5000` to it is safer.
    """
    from vimss.cli.checks import check_host
    from vimss.session import open_session

    host = "127.0.0.1" if host == "localhost" else host
    check_host(host, port, optuna)
    session = open_session(place)
    if optuna:
        _serve_dashboard(session, experiment, port)
    else:
        _serve_runs(session, experiment, host, port)


def _serve_runs(session: Any, experiment: str, host: str, port: int) -> None:
    from vimss.console import out, stage
    from vimss.loopback import LOOPBACK
    from vimss.track import experiment_pages, serve_ui
    from vimss.track.login import PASSWORD_FILE, USER

    if session.tracking.is_local:
        session.store.check_exists()
    # An experiment that is not there is said before the server starts.
    name = Path(experiment).stem
    experiment_pages(session.tracking, "", name)
    with ExitStack() as serving, suppress(KeyboardInterrupt):
        with stage("start MLflow") as show_progress:
            address = serving.enter_context(serve_ui(session.tracking, port, show_progress, host))
        for what, page in experiment_pages(session.tracking, address, name).items():
            out.print(f"{what}: {page}")
        if host != LOOPBACK:
            out.print(f"log in as {USER} with the password in {session.tracking.folder / PASSWORD_FILE}")
            out.print(
                "password and pages travel unencrypted: in a network that you do not trust, leave --host out and use "
                f"`ssh -L {port}:{LOOPBACK}:{port}`"
            )
        _wait_for_interrupt()


def _serve_dashboard(session: Any, experiment: str, port: int) -> None:
    from vimss import api
    from vimss.console import out
    from vimss.errors import ConfigError
    from vimss.search.consistency import load_experiment
    from vimss.search.dashboard import optuna_storage, serve_dashboard

    if not experiment:
        raise ConfigError("--optuna shows one experiment", got="none", fix="write `vimss ui EXPERIMENT --optuna`")
    loaded = api.resolve_models(session, load_experiment(experiment))
    study = api.load_study(session, loaded, api.load_shards(session, loaded))
    with suppress(KeyboardInterrupt), serve_dashboard(optuna_storage(loaded, study), port) as address:
        out.print(f"dashboard: {address}")
        _wait_for_interrupt()


def _wait_for_interrupt() -> None:
    from vimss.console import out

    out.print("stop with Ctrl-C")
    while True:
        time.sleep(3600)


def doctor(place: On = "local", as_json: Json = False) -> None:
    """Check this machine: libraries, hardware, place, store."""
    from vimss.console import print_json, print_table
    from vimss.doctor import examine

    findings = examine(place)
    if as_json:
        print_json([{"what": f.what, "found": f.found, "ok": f.ok, "fix": f.fix} for f in findings])
    else:
        print_table("vimss doctor", ("", "found", "to fix"), [(f.what, f.found, f.fix) for f in findings])
    if not all(f.ok for f in findings):
        raise typer.Exit(1)


def list_store(place: On = "local", as_json: Json = False) -> None:
    """List the shards, studies and models in the store."""
    from vimss.inventory import print_inventory
    from vimss.session import open_session

    print_inventory(open_session(place).store, as_json)


def schema(
    kind: Annotated[
        Literal["experiment", "recipe"],
        typer.Argument(metavar="KIND", help="The kind of file: those in experiments/, or those in shards/."),
    ],
) -> None:
    """Print the JSON schema of a YAML file, for editors."""
    from vimss.console import print_json
    from vimss.schema import json_schema

    print_json(json_schema(kind))
