"""Verbs about an installation and its files: list, ui, doctor, schema."""

import time
from contextlib import suppress
from typing import Annotated, Literal

import typer

from vimss.cli.options import Json, On


def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000, place: On = "local"
) -> None:
    """Serve MLflow's page of runs and models until Ctrl-C."""
    from vimss.console import out
    from vimss.session import open_session
    from vimss.track import runs_page, serve_ui

    tracking = open_session(place).tracking
    with suppress(KeyboardInterrupt), serve_ui(tracking, port) as address:
        out.print(f"{runs_page(tracking, address)} (stop with Ctrl-C)")
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
    """List the content of the store: shards, studies with their trials, registered models."""
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
