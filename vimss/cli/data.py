"""Verbs that write data: shard, features."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vimss.cli.checks import check_writable
from vimss.cli.options import Device, Json, On, RecipeName, Seed, Set, Verbose
from vimss.errors import ConfigError

WEIGHTS = "torchvision"
"""Default of --weights."""


def shard(
    recipe: RecipeName,
    source: Annotated[Path | None, typer.Option(help="Folder of a corpus that is not generated.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Length of a generated corpus, minutes.", min=0)] = None,
    shards: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FOLDER|URL", help="Where to write; default: VIMSS_SHARDS, or the place's, or the store."
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read existing shards again and list errors.")] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Write a page to look at and listen to for one clip of each split.")
    ] = False,
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the shards of a corpus, or open them if they exist."""
    from vimss.shards.corpora import GENERATED
    from vimss.shards.recipe import load_recipe

    loaded = load_recipe(recipe, changes or (), seed, minutes)
    if check and (show or source is not None):
        raise ConfigError(
            "--check reads existing shards",
            got="--source or --show beside it",
            fix="remove --check, or the other option",
        )
    if check:
        _check_shards(recipe, loaded, place, shards, as_json)
        return
    if shards and "://" not in shards:
        check_writable(Path(shards), "--out")
    from vimss import api
    from vimss.console import show_rate, stage
    from vimss.session import open_session

    with open_session(place, shards) as session, stage(f"shards of {Path(recipe).stem}") as show_progress:
        parts = "pieces synthesised" if loaded.corpus in GENERATED else "pieces read"
        manifest = api.write_shards(session, recipe, loaded, source, show_rate(show_progress, parts))
        pages = api.show_shards(session, manifest) if show else []
    _print_shards(manifest, pages, as_json)


def _print_shards(manifest: Any, pages: list[Path], as_json: bool) -> None:
    """Folder, splits and labels of shards, with missing pieces and odd ones."""
    from vimss.console import out, print_json
    from vimss.shards.source import first_of

    seconds = {
        split: sum(shard.seconds for shard in manifest.shards if shard.split == split) for split in manifest.splits
    }
    if as_json:
        found = {"folder": str(manifest.home), "signature": manifest.signature, "seconds": seconds}
        print_json({**found, "missing": manifest.missing, "odd": manifest.odd, "pages": [str(page) for page in pages]})
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


def _check_shards(name: str, recipe: Any, place: str, shards: str | None, as_json: bool) -> None:
    """Read existing shards; exit code 1 if there are errors."""
    from vimss import api
    from vimss.console import out, print_json, stage
    from vimss.session import open_session

    with open_session(place, shards) as session, stage(f"check of {Path(name).stem}") as show_progress:
        folder, found = api.check_shards(session, name, recipe, show_progress)
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
        verdict = f"{len(wrong)} errors" if wrong else "no errors"
        out.print(f"{folder}: {len(found)} shards, {clips} clips, {size / 1e6:.1f} MB: {verdict}")
    if wrong:
        raise typer.Exit(1)


def features(
    recipe: RecipeName,
    network: Annotated[
        str,
        typer.Option(help="Vision network: resnet18, resnet50, mobilenet_v2 or compact; or motion, which needs none."),
    ] = "resnet18",
    weights: Annotated[
        str,
        typer.Option(help="Weights: torchvision; chamber, those of compact that come with VIMSS; random; or a file."),
    ] = WEIGHTS,
    every: Annotated[
        float, typer.Option(help="Seconds between two rows of a network's features; 0: a row for every picture.", min=0)
    ] = 0.0,
    device: Device = "auto",
    seed: Seed = None,
    changes: Set = None,
    place: On = "local",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compute vision features of the pictures in shards, or motion."""
    from vimss.shards.recipe import load_recipe

    loaded = load_recipe(recipe, changes or (), seed)
    from vimss import api
    from vimss.console import out, print_json, stage
    from vimss.features import load_vision
    from vimss.model.contexts.motion import NETWORK
    from vimss.model.device import device_of_tasks
    from vimss.session import open_session

    if network == NETWORK:
        _check_network_is_used(weights, every, device)
        with open_session(place) as session, stage(NETWORK) as show_progress:
            folder = api.write_motion(session, recipe, loaded, show_progress)
    else:
        vision = load_vision(network, weights)
        with open_session(place) as session, stage("features") as show_progress:
            resolved = device_of_tasks(session.place, device)
            folder = api.write_features(session, recipe, loaded, vision, resolved, show_progress, every)
    if as_json:
        print_json({"folder": str(folder)})
    else:
        out.print(str(folder))


def _check_network_is_used(weights: str, every: float, device: str) -> None:
    """ConfigError if an option of a vision network is given with --network motion."""
    given = (("--weights", weights, WEIGHTS), ("--every", f"{every:g}", "0"), ("--device", device, "auto"))
    for option, value, default in given:
        if value != default:
            raise ConfigError(
                f"{option} must be left out with --network motion, which uses no network and needs every picture",
                got=f"{option} {value}",
                fix="leave it out, or choose a vision network",
            )
