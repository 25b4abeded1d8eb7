"""Vision features, computed once and written beside the shards.

    folder = write_features(manifest, VisionConfig())              # features/resnet18-3f9c2a1b07/
    clips = read_clips(manifest, "train", parts=("audio", "features"), features="resnet18-3f9c2a1b07")

One safetensors file per shard (arrays of float16, "v d", named CLIP.playerN) and, once all of them exist, an entry with
the network, its weights and the shards. A file that exists is complete, so the same call resumes; several
processes may compute different shards.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, UInt8
from pydantic import Field
from safetensors.numpy import save_file
from torch import Tensor

from vimss.config import Config, parse_config
from vimss.errors import ConfigError, DataError
from vimss.model.config import VisionConfig
from vimss.model.device import gpu_share, on_device
from vimss.model.vision import Vision, weights_digest
from vimss.runtime import parallel_map
from vimss.shards.cache import ENTRY, FEATURES
from vimss.shards.manifest import Manifest, Shard, open_manifest
from vimss.storage import Folder, sha256
from vimss.stream.read import read_clips


class FeatureEntry(Config):
    """Contents of a folder of features."""

    network: str = Field(description="network of torchvision")
    weights_sha256: str = Field(description="of all weights of the network, in the order of their names")
    feature_size: int = Field(ge=1, description="numbers per frame")
    frame_rate: float = Field(ge=0, description="frames per second, those of the pictures")
    shards_digest: str = Field(description="of the manifest of the shards")
    files: dict[str, str] = Field(description="file to its SHA-256")


def compute_features(
    manifest: Manifest,
    vision: VisionConfig,
    shards: Sequence[Shard] | None = None,
    progress: Callable[[float], None] | None = None,
    device: str = "cpu",
) -> str:
    """Write the features of every picture in `shards` (default: all), and return the folder's name.

    Args:
        manifest: the shards.
        vision: the network, with frozen weights whatever its settings are.
        shards: the shards of this process; the last process to finish writes the entry.
        progress: called after each shard with the seconds of music done.
        device: the device of the network.

    Raises:
        DataError: no player of a shard has a picture.
        ModelError: the network's weights are not available.

    """
    network = on_device(Vision(vision.model_copy(update={"frozen": True})), device)
    digest = weights_digest(network)
    name = f"{vision.network}-{digest[:10]}"
    folder = manifest.home / FEATURES / name
    present = folder.sizes()
    done = 0.0
    for shard in manifest.shards if shards is None else shards:
        if _file_of(shard) not in present:
            arrays = _shard_features(manifest, shard, network, device)
            with folder.atomic_write(_file_of(shard)) as temporary:
                save_file(arrays, temporary)
        done += shard.seconds
        if progress is not None:
            progress(done)
    if {_file_of(shard) for shard in manifest.shards} <= folder.sizes().keys():
        entry = FeatureEntry(
            network=vision.network,
            weights_sha256=digest,
            feature_size=vision.feature_size,
            frame_rate=manifest.recipe.picture.frame_rate,
            shards_digest=manifest.digest,
            files={_file_of(shard): _digest(folder, _file_of(shard)) for shard in manifest.shards},
        )
        with folder.atomic_write(ENTRY) as temporary:
            temporary.write_text(entry.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return name


def write_features(
    manifest: Manifest, vision: VisionConfig, device: str = "cpu", on_done: Callable[[int], None] = lambda count: None
) -> Folder:
    """`compute_features` in parallel, one Ray task per shard; returns the folder.

    `on_done` is called with the number of shards that are done.
    """
    done = itertools.count(1)
    tasks = [FeaturesTask(manifest.folder, vision, shard, device) for shard in manifest.shards]
    parallel_map(run_features, tasks, lambda _: on_done(next(done)), lambda task: gpu_share(task.device))
    return manifest.home / FEATURES / compute_features(manifest, vision)


@dataclass(frozen=True)
class FeaturesTask:
    """The features of one shard, as plain values for another process."""

    shards: Path
    vision: VisionConfig
    shard: Shard
    device: str


def run_features(task: FeaturesTask) -> str:
    """One task of `write_features`."""
    return compute_features(open_manifest(task.shards), task.vision, [task.shard], device=task.device)


def load_vision(network: str, weights: str | Path) -> VisionConfig:
    """The settings of a vision network; ConfigError if its weights are neither a known word nor a file."""
    vision = parse_config({"network": network, "weights": str(weights)}, VisionConfig, "vimss features")
    if vision.weights not in {"torchvision", "random"} and not Path(vision.weights).is_file():
        raise ConfigError(
            "--weights must be torchvision, random or the path of a file",
            got=f"no file {vision.weights}",
            fix="check the path",
        )
    return vision


def read_features(manifest: Manifest, name: str) -> FeatureEntry:
    """The entry of a folder of features, after a check that it is complete and belongs to these shards."""
    folder = manifest.home / FEATURES / name
    again = f"run `vimss features {manifest.name}`"
    try:
        content = json.loads(folder.read_bytes(ENTRY))
    except FileNotFoundError as error:
        known = ", ".join(available_features(manifest)) or "none"
        raise DataError(
            f"the features '{name}' of {manifest.home} must be complete", got=f"complete are: {known}", fix=again
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}/{ENTRY} must be JSON", got=str(error), fix=f"delete {folder} and {again}") from error
    entry = parse_config(content, FeatureEntry, f"{folder}/{ENTRY}")
    if entry.shards_digest != manifest.digest:
        raise DataError(
            f"{folder} must hold features of the shards beside it",
            got=f"features of shards with the digest {entry.shards_digest} instead of {manifest.digest}",
            fix=f"delete {folder} and {again}",
        )
    present = folder.sizes()
    for file, digest in entry.files.items():
        # Files behind a URL are verified when they are fetched.
        if file not in present or (manifest.origin is None and _digest(folder, file) != digest):
            raise DataError(
                f"{folder}/{file} must have the SHA-256 in its {ENTRY}",
                got="another" if file in present else "no such file",
                fix=f"delete {folder} and {again}",
            )
    return entry


def available_features(manifest: Manifest) -> tuple[str, ...]:
    """Names of the complete folders of features beside the shards."""
    found = (manifest.home / FEATURES).sizes()
    return tuple(sorted(file.removesuffix(f"/{ENTRY}") for file in found if file.endswith(f"/{ENTRY}")))


def find_features(manifest: Manifest, vision: VisionConfig, feature_size: int) -> str:
    """The complete folder of features of this network, after a check of every file.

    Raises:
        DataError: there is none or more than one, or it is damaged, or of other shards or another network.
        ConfigError: its features have another size.

    """
    found = [name for name in available_features(manifest) if name.rpartition("-")[0] == vision.network]
    if len(found) != 1:
        raise DataError(
            f"a `features` context needs one complete folder of {vision.network} features beside {manifest.home}",
            got=", ".join(found) or "none",
            fix="delete all but one" if found else f"run `vimss features {manifest.name} --network {vision.network}`",
        )
    entry = read_features(manifest, found[0])
    if entry.network != vision.network:
        raise DataError(
            f"the features '{found[0]}' must be of {vision.network}, as in their name",
            got=entry.network,
            fix=f"delete them and run `vimss features {manifest.name} --network {vision.network}`",
        )
    if entry.feature_size != feature_size:
        raise ConfigError(
            f"model.feature_size must be that of the features '{found[0]}'",
            got=f"{feature_size} instead of {entry.feature_size}",
            fix=f"set model.feature_size: {entry.feature_size}, or remove it",
        )
    return found[0]


def _digest(folder: Folder, file: str) -> str:
    with folder.copied(file) as path:
        return sha256(path)


def _file_of(shard: Shard) -> str:
    return Path(shard.name).with_suffix(".safetensors").name


def _shard_features(
    manifest: Manifest, shard: Shard, network: Vision, device: str
) -> dict[str, Float16[np.ndarray, "v d"]]:
    arrays = {}
    for clip in read_clips(manifest, shard.split, [shard], parts=("picture",)):
        for index, player in enumerate(clip.players):
            if player.picture is not None:
                arrays[f"{clip.key}.player{index}"] = _features(network, torch.from_numpy(player.picture).to(device))
    if not arrays:
        raise DataError(
            f"{manifest.home}/{shard.name} must hold players with pictures",
            got="none",
            fix="choose a recipe whose corpus has video",
        )
    return arrays


def _features(network: Vision, pictures: UInt8[Tensor, "v h w 3"]) -> Float16[np.ndarray, "v d"]:
    return network(pictures[None, None])[0, 0].cpu().numpy().astype(np.float16)
