"""Options and arguments that several verbs share."""

from typing import Annotated, Literal

import typer

On = Annotated[str, typer.Option("--on", metavar="PLACE", help="Where to run: name or path of a folder in platform/.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the YAML; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _show_warnings(is_verbose: bool) -> bool:
    if is_verbose:
        from vimss.console import show_warnings_of_workers

        show_warnings_of_workers()
    return is_verbose


Verbose = Annotated[
    bool,
    typer.Option("--verbose", help="Print the warnings of worker processes too.", callback=_show_warnings),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of corpus, sampler and training.", min=0)]
Wait = Annotated[
    bool, typer.Option("--wait", help="If another process is running the same search, wait for it to end.")
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option(help="Device for networks: cpu, cuda, mps, or auto for a GPU if there is one."),
]
Examples = Annotated[
    list[str] | None,
    typer.Option(
        "--example",
        metavar="LABEL=FILE",
        help="A file of a player alone, for a model whose context is example; once for each player.",
    ),
]
Split = Annotated[str, typer.Option(help="Split: test, test_unseen_timbres, test_unseen_style, promote or valid.")]
ExperimentName = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Name or path of a YAML in experiments/.")]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Name or path of a YAML in shards/.")]
