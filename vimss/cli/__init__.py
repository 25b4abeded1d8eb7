"""The command line: one verb per stage. Everything heavy is imported inside the verb that needs it.

Exit codes: 0 done and complete, 1 failed or interrupted, 2 bad usage.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import typer
from typer.core import TyperGroup

from vimss.cli.checks import check_option_names
from vimss.cli.data import features, shard
from vimss.cli.evaluation import evaluate
from vimss.cli.experiments import compare, listen, quickstart, search, sync, train
from vimss.cli.installation import doctor, list_store, schema, ui
from vimss.cli.models import export, promote, separate
from vimss.errors import ConfigError, VimssError

VERBS: dict[str, Callable[..., None]] = {
    "shard": shard,
    "features": features,
    "train": train,
    "search": search,
    "evaluate": evaluate,
    "compare": compare,
    "listen": listen,
    "sync": sync,
    "promote": promote,
    "export": export,
    "separate": separate,
    "list": list_store,
    "ui": ui,
    "quickstart": quickstart,
    "doctor": doctor,
    "schema": schema,
}
"""In the order of the help: that of the stages, then those around them."""


class Verbs(TyperGroup):
    """The verbs, each of which may be interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; typer itself would end without a message at Ctrl-C, and SIGTERM would leave Ray's processes."""
        from vimss.console import err, print_warnings

        print_warnings()
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, signal.default_int_handler) if is_main else None
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            err.print("interrupted; the same command resumes")
            raise typer.Exit(1) from None
        finally:
            if is_main:
                signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Visually-informed music source separation: write shards, search, track, promote, export, separate.",
)
for name, verb in VERBS.items():
    app.command(name)(verb)


def main(arguments: Iterable[str] | None = None) -> None:
    """Entry point: a VimssError becomes one line and an exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        check_option_names(words)
        app(args=words)
    except VimssError as error:
        from vimss.console import err

        err.print(f"error: {error}")
        sys.exit(2 if isinstance(error, ConfigError) else 1)
