"""Compute an array for each player with pictures, once, into a folder beside the shards.

    write_arrays(manifest, Computation("resnet18-3f9c2a1b07", features_of, make_entry))
    write_in_parallel(manifest, make_computation)        # the same, a task of Ray per shard
    clips = read_clips(manifest, "train", parts=("features",), features="resnet18-3f9c2a1b07")

A file that exists is complete, so the same call again resumes; several processes may share the work by computing
different shards. What the folder holds: `vimss.shards.computed`.
"""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from safetensors.numpy import save_file

from vimss.errors import ConfigError, DataError
from vimss.runtime import parallel_map
from vimss.shards.cache import ENTRY, FEATURES
from vimss.shards.computed import ROWS, ComputedEntry, digest_of, file_of, middle_pictures, rows_of_pictures
from vimss.shards.manifest import Manifest, Shard, open_manifest, with_manifests
from vimss.storage import Folder
from vimss.stream.read import clips_without, has_part, read_clips

log = logging.getLogger(__name__)

MOST_NAMED = 10
"""Clips that a warning names."""


@dataclass(frozen=True)
class Computation:
    """A computation on a player's pictures in a clip."""

    name: str
    """Of the folder; it must change with all that changes the arrays."""
    of_pictures: Callable[[UInt8[np.ndarray, "v h w 3"]], Shaped[np.ndarray, "v d"]]
    """The rows of these pictures."""
    make_entry: Callable[..., ComputedEntry] = ComputedEntry
    """Called with the fields of ComputedEntry."""
    every: float = 0.0
    """Seconds between two rows, each of the picture in the middle of them; 0: a row for every picture."""

    def check(self, manifest: Manifest) -> None:
        """ConfigError where there would be more rows than pictures."""
        between = 1 / manifest.recipe.picture.frame_rate
        if 0 < self.every < between * (1 - 1e-4):  # a rate in decimals, such as 0.0333
            raise ConfigError(
                f"--every must be at least the time between two pictures of '{manifest.name}', {between:g} s",
                got=f"{self.every:g}",
                fix="leave it out for a row per picture",
            )


def write_arrays(
    manifest: Manifest,
    made: Computation,
    shards: Sequence[Shard] | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Compute the array of every player with pictures.

    Args:
        manifest: the shards.
        made: what is computed.
        shards: the shards of this process, all where not given; the last process to finish writes the entry.
        progress: called after each shard with the seconds of music done.

    Raises:
        ConfigError: where there would be more rows than pictures.
        DataError: where no player has a picture.

    """
    check_pictures(manifest)
    made.check(manifest)
    folder = manifest.home / FEATURES / made.name
    present = folder.sizes()
    done = 0.0
    for shard in manifest.shards if shards is None else shards:
        if file_of(shard) not in present:
            arrays = _shard_arrays(manifest, shard, made)  # none where no player of the shard has a picture
            with folder.atomic_write(file_of(shard)) as temporary:
                save_file(arrays, temporary)
        done += shard.seconds
        if progress is not None:
            progress(done)
    if {file_of(shard) for shard in manifest.shards} <= folder.sizes().keys():
        entry = made.make_entry(
            frame_rate=manifest.recipe.picture.frame_rate,
            shards_digest=manifest.digest,
            files={file_of(shard): digest_of(folder, file_of(shard)) for shard in manifest.shards},
            every=made.every,
        )
        with folder.atomic_write(ENTRY) as temporary:
            temporary.write_text(entry.model_dump_json(indent=2) + "\n", encoding="utf-8")


def write_in_parallel(
    manifest: Manifest,
    make: Callable[[str], Computation],
    on_done: Callable[[int], None] = lambda count: None,
    device: str = "cpu",
    gpu_share: float = 0.0,
) -> Folder:
    """`write_arrays` in parallel, one Ray task per shard; returns the folder.

    Args:
        manifest: the shards.
        make: called with a device in the process of each task; a function of a module, or a partial of one.
        on_done: called with the number of shards that are done.
        device: of the tasks.
        gpu_share: of the GPU that each task needs.

    """
    check_pictures(manifest)
    warn_of_missing(manifest)
    done = itertools.count(1)
    tasks = [ShardTask(manifest.folder, shard, make, device) for shard in manifest.shards]
    run = with_manifests(run_shard, [manifest.folder])
    parallel_map(run, tasks, lambda _: on_done(next(done)), lambda _: gpu_share)
    made = make("cpu")  # this process may have no other device, and computes nothing
    write_arrays(manifest, made)
    return manifest.home / FEATURES / made.name


def check_pictures(manifest: Manifest) -> None:
    """DataError where no player of any split has a picture."""
    if not any(has_part(manifest, split, "picture") for split in manifest.splits):
        raise DataError(
            f"{manifest.home} must hold players with pictures",
            got="none",
            fix="choose a recipe whose corpus has video",
        )


def warn_of_missing(manifest: Manifest) -> None:
    """Log the clips without any picture: nothing is computed for them, and a network that looks cannot read them."""
    missing = [key for split in manifest.splits for key in clips_without(manifest, split, "picture")]
    if missing:
        named = ", ".join(missing[:MOST_NAMED])
        rest = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        log.warning("nothing is computed for clips without pictures: %s%s", named, rest)


@dataclass(frozen=True)
class ShardTask:
    """The arrays of one shard, as plain values for another process."""

    shards: Path
    shard: Shard
    make: Callable[[str], Computation]
    device: str


def run_shard(task: ShardTask) -> None:
    """One task of `write_in_parallel`."""
    write_arrays(open_manifest(task.shards), task.make(task.device), [task.shard])


def _shard_arrays(manifest: Manifest, shard: Shard, made: Computation) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for clip in read_clips(manifest, shard.split, [shard], parts=("picture",)):
        for index, player in enumerate(clip.players):
            if player.picture is None:
                continue
            name, pictures = f"{clip.key}.player{index}", player.picture
            if made.every:
                rows = rows_of_pictures(len(pictures), clip.frame_rate, made.every)
                arrays[name + ROWS], pictures = rows, pictures[middle_pictures(rows)]
            arrays[name] = made.of_pictures(pictures)
    return arrays
