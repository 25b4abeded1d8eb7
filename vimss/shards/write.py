"""From a recipe to shards: tar files of clips that plain `tar` and plain webdataset open, and their manifest.

    with ray_running(place):
        manifest = write_shards(recipe, "quickstart", store, on_progress=print)

The unit of work is a shard: a group of pieces, written by one Ray task under a temporary name and renamed, or uploaded.
An interrupted run resumes; the manifest comes last. vimss.shards.task documents the members of a clip.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from vimss.config import Config, differences, parse_config, signature
from vimss.errors import DataError
from vimss.progress import SoundProgress
from vimss.runtime import parallel_map
from vimss.shards.corpora import Listing, Piece, reader_of
from vimss.shards.manifest import MANIFEST, Manifest, Shard, open_shards
from vimss.shards.recipe import SPLITS, Recipe
from vimss.shards.source import Problems, first_of, source_folder
from vimss.shards.task import INDEX, Bad, Task, Written, write_shard
from vimss.shards.unchanged import check_source, keep_source
from vimss.shards.validate import check_expected, checked_pieces
from vimss.storage import Folder, Store

FORMAT = 2
"""Raised when the members of a clip, or what all readers share, change, so that old shards are written anew. What one
reader changes raises its VERSION."""

_IRRELEVANT = {"description", "licence", "obtain", "expect", "most_silent", "odd_mixtures"}
"""Settings of a recipe that change no shard."""


def shards_folder(recipe: Recipe, name: str, store: Store) -> Folder:
    """Where the shards of a recipe lie: its name and what its content is a function of."""
    return store.shards / f"{name}-{shards_signature(recipe, name)}"


def shards_signature(recipe: Recipe, name: str = "mine") -> str:
    """Equal signatures, equal shards: of the recipe, the version of its reader, and the format.

    Description and the like do not count. ConfigError, with the recipe's name, where its reader has no such options.
    """
    relevant = {key: value for key, value in differences(recipe).items() if key not in _IRRELEVANT}
    # The reader holds the defaults of its options, so those that are spelled out do not count either.
    options = {"options": differences(_options(recipe, name))}
    return signature({**relevant, **options}, reader_of(recipe.corpus).VERSION, FORMAT)


def _options(recipe: Recipe, name: str) -> Config:
    return parse_config(recipe.options, reader_of(recipe.corpus).Options, f"shards/{name}.yaml: options")


def write_shards(
    recipe: Recipe,
    name: str,
    store: Store,
    source: str | Path | None = None,
    on_progress: Callable[[SoundProgress], None] | None = None,
) -> Manifest:
    """Write the shards of a recipe, or open them where they exist. Needs a running Ray.

    Raises:
        DataError: The source is not what the recipe expects. Where pieces cannot be read and the recipe may lack none,
            the error names all of them; what is whole stays written, and the same call resumes once they are repaired.

    """
    source = None if source is None else source_folder(source, recipe)
    folder = shards_folder(recipe, name, store.make())
    if MANIFEST in folder.sizes():
        check_source(folder, source, begun=True)
        manifest = open_shards(folder, store)
        check_expected(
            [piece.seconds for piece in manifest.pieces], manifest.missing, recipe, source or manifest.folder
        )
        return _accepted(manifest, recipe)
    reader, options = reader_of(recipe.corpus), _options(recipe, name)
    listing: Listing = reader.pieces(recipe, options, source)
    groups = _group(checked_pieces(listing, recipe, source), recipe)
    check_source(folder, source, begun=bool((folder / INDEX).sizes()))
    tasks = [Task(folder, shard, tuple(pieces), recipe, options, source) for shard, pieces in groups.items()]
    # The longest first, so that no core waits at the end for one that began late.
    tasks.sort(key=lambda task: -sum(piece.seconds for piece in task.pieces))
    done = _written(tasks, recipe, on_progress)
    keep_source(folder, source)
    pieces = tuple(piece for written in done for piece in written.pieces)
    missing = (*listing.missing, *(reason for written in done for reason in written.missing))
    read = {piece.name for piece in pieces}
    check_expected([piece.seconds for piece in listing.pieces if piece.name in read], missing, recipe, source)
    manifest = Manifest(
        name=name,
        recipe=recipe,
        signature=shards_signature(recipe),
        shards=tuple(written.shard for written in done if written.shard is not None),
        pieces=pieces,
        missing=missing,
        odd_mixtures=tuple(sentence for written in done for sentence in written.odd_mixtures),
        notes=(*listing.notes, *(sentence for written in done for sentence in written.notes)),
        silent={piece: share for written in done for piece, share in written.silent.items()},
        pairs=listing.pairs,
    )
    with folder.atomic_write(MANIFEST) as temporary:
        temporary.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    return _accepted(open_shards(folder, store), recipe)


def _written(
    tasks: Sequence[Task], recipe: Recipe, on_progress: Callable[[SoundProgress], None] | None
) -> list[Written]:
    """The shards of all tasks, in the order of their names; one error for all pieces that cannot be read."""
    report = on_progress or (lambda progress: None)
    pieces = sum(len(task.pieces) for task in tasks)
    done: list[Written] = []
    bad: list[Bad] = []

    def count(result: Written | Bad) -> None:
        if isinstance(result, Bad):
            bad.append(result)
            return
        done.append(result)
        tried = sum(len(entry.tried) for entry in done)
        report(SoundProgress(tried, pieces, sum(entry.seconds for entry in done), tried / pieces))

    report(SoundProgress(0, pieces, 0.0, 0.0))
    parallel_map(write_shard, tasks, count)
    if bad:
        keep_source(
            tasks[0].folder, tasks[0].source, [path for one in bad for piece in one.pieces for path in piece.files]
        )
        problems = Problems()
        problems.found = [
            (piece.name, error) for one in bad for piece, error in zip(one.pieces, one.errors, strict=True)
        ]
        problems.missing(recipe, sum(len(task.pieces) for task in tasks) - len(problems.found))
    _refuse_shared_audio(done)
    return sorted(done, key=lambda written: written.name)


def _accepted(manifest: Manifest, recipe: Recipe) -> Manifest:
    """Shards that are written; DataError where settings that are not in the signature are stricter now than then."""
    # Others in the list are only names, of pieces that the source never had.
    unreadable = [sentence for sentence in manifest.missing if ": " in sentence]
    if unreadable and not recipe.may_lack_pieces:
        raise DataError(
            f"{manifest.home} must lack no piece of its source",
            got=f"{len(unreadable)} that could not be read: {first_of(unreadable, between='; ')}",
            fix=f"repair these pieces and delete {manifest.home}, or let them be missing, by most_missing in "
            "`expect` of the recipe",
        )
    silent = {piece: share for piece, share in manifest.silent.items() if share > recipe.most_silent}
    if silent:
        raise DataError(
            f"at most a share of {recipe.most_silent:g} of the stems of each piece in {manifest.home} may be silent",
            got=first_of([f"{share:.2g} in {piece}" for piece, share in silent.items()]),
            fix=f"repair or take away these pieces and delete {manifest.home}, or allow more: --set most_silent=1",
        )
    if recipe.odd_mixtures == "refuse" and manifest.odd_mixtures:
        raise DataError(
            f"the recorded mixes of {manifest.home} must be nearly the sums of their stems",
            got=first_of(manifest.odd_mixtures, between="; "),
            fix=f"repair or take away these pieces and delete {manifest.home}, or list them: --set odd_mixtures=list",
        )
    return manifest


def _group(pieces: Sequence[Piece], recipe: Recipe) -> dict[str, list[Piece]]:
    """Shard name to its pieces: neighbours of one split, about `clips_per_shard` clips together."""
    groups: dict[str, list[Piece]] = {}
    for split in SPLITS:
        room, number = 0, -1
        for piece in (piece for piece in pieces if piece.split == split):
            if room <= 0:
                number += 1
                room = recipe.clips_per_shard
            groups.setdefault(f"{split}-{number:06d}", []).append(piece)
            room -= math.ceil(piece.seconds / recipe.clip_seconds)
    return groups


def _refuse_shared_audio(done: list[Written]) -> None:
    first: dict[str, tuple[Shard, str]] = {}
    shared: list[str] = []
    for written in done:
        for digest, _, piece in (line.partition(" ") for line in written.digests):
            if written.shard is None:
                continue
            shard, other = first.setdefault(digest, (written.shard, piece))
            if shard.split != written.shard.split:
                shared.append(f"one stem of {other} in {shard.name} and of {piece} in {written.shard.name}")
    if shared:
        raise DataError(
            "the same sound must not stand in two splits",
            got=first_of(list(dict.fromkeys(shared)), between="; "),
            fix="put both pieces into one split",
        )
