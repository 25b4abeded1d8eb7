"""Shards that must have been written before, found without reading any; quick, and without torch.

manifest = written_shards(store, "quickstart", "the shards of 'quickstart'")
check_split(manifest, "test")
"""

import shlex
from collections.abc import Sequence
from contextlib import suppress

from vimss.errors import ConfigError, DataError, VimssError
from vimss.shards.corpora import GENERATED
from vimss.shards.manifest import MANIFEST, Manifest, open_shards, read_manifest
from vimss.shards.recipe import SPLITS, load_recipe, recipe_name
from vimss.shards.write import shards_folder
from vimss.storage import LocalFolder, Store, kept_beside


def written_shards(
    store: Store, name: str, what: str, seed: int | None = None, changes: Sequence[str] = ()
) -> Manifest:
    """The shards of a recipe, with the seed and the changes of the command line.

    Where they are not there: DataError, with the command that writes `what`, and how to obtain a corpus from elsewhere.
    """
    recipe = load_recipe(name, changes, seed)
    folder = shards_folder(recipe, recipe_name(name), store)
    if MANIFEST not in folder.sizes():
        words = ["vimss", "shard", name, *([] if seed is None else ["--seed", str(seed)])]
        for change in changes:
            words += ["--set", change]
        on_disk = recipe.corpus not in GENERATED
        words += ["--source", "DIR"] if on_disk else []
        others = kept_beside(folder.path) if isinstance(folder, LocalFolder) else []
        is_there = store.shards_at is not None or store.root.is_dir()
        raise DataError(
            f"{what} must be written first",
            got=f"no {folder}/{MANIFEST}"
            + ("" if is_there else f", nor the store {store.root}, which VIMSS_STORE or the place names")
            + (f"; {len(others)} of other settings or an earlier version" if others else ""),
            fix=f"run `{shlex.join(words)}`" + (f". To obtain the data: {recipe.obtain}" if on_disk else ""),
        )
    return open_shards(folder, store)


def shards_of_digest(store: Store, digest: str) -> Manifest | None:
    """The shards in a store with this digest, which runs record, where they are still there."""
    folders = {path.partition("/")[0] for path in store.shards.sizes() if path.endswith(f"/{MANIFEST}")}
    for name in sorted(folders):
        folder = store.shards / name
        with suppress(VimssError):  # shards of another version of VIMSS
            if read_manifest(folder).digest == digest:
                return open_shards(folder, store)
    return None


def check_split(manifest: Manifest, split: str) -> None:
    """ConfigError where no shards have a split of that name, DataError where these shards have none."""
    check_split_name(manifest, split)
    manifest.of_split(split)


def check_split_name(manifest: Manifest, split: str) -> None:
    """ConfigError, with the splits of these shards, where no shards have a split of that name."""
    if split not in SPLITS:
        there = ", ".join(manifest.splits)
        raise ConfigError("--split must name a split", got=repr(split), fix=f"choose from {there}")
