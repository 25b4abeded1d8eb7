"""Compute an array for each player with pictures, once, into a folder beside the shards.

    write_arrays(manifest, "resnet18-3f9c2a1b07", features_of, make_entry)
    clips = read_clips(manifest, "train", parts=("features",), features="resnet18-3f9c2a1b07")

A file that exists is complete, so the same call again resumes; several processes may share the work by computing
different shards. What the folder holds: `vimss.shards.computed`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Shaped, UInt8
from safetensors.numpy import save_file

from vimss.errors import DataError
from vimss.shards.cache import ENTRY, FEATURES
from vimss.shards.computed import ComputedEntry, digest_of, file_of
from vimss.shards.manifest import Manifest, Shard
from vimss.stream.read import read_clips


def write_arrays(
    manifest: Manifest,
    name: str,
    of_pictures: Callable[[UInt8[np.ndarray, "v h w 3"]], Shaped[np.ndarray, "v d"]],
    make_entry: Callable[..., ComputedEntry] = ComputedEntry,
    shards: Sequence[Shard] | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Compute the array of every player with pictures.

    Args:
        manifest: the shards.
        name: of the folder; it must change with all that changes the arrays.
        of_pictures: a player's array, in a clip, from the player's pictures.
        make_entry: called with the fields of ComputedEntry.
        shards: the shards of this process, all where not given; the last process to finish writes the entry.
        progress: called after each shard with the seconds of music done.

    Raises:
        DataError: where no player of a shard has a picture.

    """
    folder = manifest.home / FEATURES / name
    present = folder.sizes()
    done = 0.0
    for shard in manifest.shards if shards is None else shards:
        if file_of(shard) not in present:
            arrays = _shard_arrays(manifest, shard, of_pictures)
            with folder.atomic_write(file_of(shard)) as temporary:
                save_file(arrays, temporary)
        done += shard.seconds
        if progress is not None:
            progress(done)
    if {file_of(shard) for shard in manifest.shards} <= folder.sizes().keys():
        entry = make_entry(
            frame_rate=manifest.recipe.picture.frame_rate,
            shards_digest=manifest.digest,
            files={file_of(shard): digest_of(folder, file_of(shard)) for shard in manifest.shards},
        )
        with folder.atomic_write(ENTRY) as temporary:
            temporary.write_text(entry.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _shard_arrays(
    manifest: Manifest, shard: Shard, of_pictures: Callable[[np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    arrays = {
        f"{clip.key}.player{index}": of_pictures(player.picture)
        for clip in read_clips(manifest, shard.split, [shard], parts=("picture",))
        for index, player in enumerate(clip.players)
        if player.picture is not None
    }
    if not arrays:
        raise DataError(
            f"{manifest.home}/{shard.name} must hold players with pictures",
            got="none",
            fix="choose a recipe whose corpus has video",
        )
    return arrays
