"""Vision features, computed once and written beside the shards.

    folder = write_features(manifest, VisionConfig())              # features/resnet18-3f9c2a1b07/
    folder = write_features(manifest, VisionConfig(), every=0.5)   # features/resnet18-0.5s-3f9c2a1b07/
    clips = read_clips(manifest, "train", parts=("audio", "features"), features="resnet18-3f9c2a1b07")

The context `features` reads them (`vimss.model.contexts.features`). A file that exists is complete, so the same call
resumes; several processes may compute different shards.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, UInt8
from torch import Tensor

from vimss.config import parse_config
from vimss.errors import ConfigError
from vimss.model.contexts.features import FeatureEntry, features_name
from vimss.model.device import gpu_share, on_device
from vimss.model.vision import Vision, weights_digest
from vimss.model.vision_config import KNOWN_WEIGHTS, VisionConfig, known_weights
from vimss.shards.manifest import Manifest, Shard
from vimss.storage import Folder
from vimss.stream.compute import Computation, write_arrays, write_in_parallel


def compute_features(
    manifest: Manifest,
    vision: VisionConfig,
    shards: Sequence[Shard] | None = None,
    progress: Callable[[float], None] | None = None,
    device: str = "cpu",
    every: float = 0.0,
) -> str:
    """Write the features of every picture in `shards` (default: all), and return the folder's name.

    Args:
        manifest: the shards.
        vision: the network, with frozen weights whatever its settings are.
        shards: the shards of this process; the last process to finish writes the entry.
        progress: called after each shard with the seconds of music done.
        device: the device of the network.
        every: seconds between two rows of features, each of the picture in the middle; 0: a row for every picture.

    Raises:
        ConfigError: there would be more rows than pictures.
        DataError: no player has a picture.
        ModelError: the network's weights are not available.

    """
    made = features_computation(vision, every, device)
    write_arrays(manifest, made, shards, progress)
    return made.name


def write_features(
    manifest: Manifest,
    vision: VisionConfig,
    device: str = "cpu",
    on_done: Callable[[int], None] = lambda count: None,
    every: float = 0.0,
) -> Folder:
    """`compute_features` in parallel, one Ray task per shard; returns the folder.

    `on_done` is called with the number of shards that are done.
    """
    make = functools.partial(features_computation, vision, every)
    return write_in_parallel(manifest, make, on_done, device, gpu_share(device))


def features_computation(vision: VisionConfig, every: float, device: str) -> Computation:
    """The features of a network on a device, with a row per picture, or where `every` is not 0 per so many seconds."""
    network = on_device(Vision(vision.model_copy(update={"frozen": True})), device)
    digest = weights_digest(network)
    name = f"{features_name(vision.network, every)}-{digest[:10]}"

    def of_pictures(pictures: UInt8[np.ndarray, "v h w 3"]) -> Float16[np.ndarray, "v d"]:
        features: Tensor = network(torch.from_numpy(pictures).to(device)[None, None])[0, 0]
        return features.cpu().numpy().astype(np.float16)

    about = {"network": vision.network, "weights_sha256": digest, "feature_size": vision.feature_size}
    return Computation(name, of_pictures, functools.partial(FeatureEntry, **about), every)


def load_vision(network: str, weights: str | Path) -> VisionConfig:
    """The settings of a vision network; ConfigError if its weights are neither a known word nor a file."""
    vision = parse_config({"network": network, "weights": str(weights)}, VisionConfig, "vimss features")
    if vision.weights not in KNOWN_WEIGHTS and not Path(vision.weights).is_file():
        raise ConfigError(
            f"--weights must be {known_weights()}",
            got=f"no file {vision.weights}",
            fix="check the path",
        )
    return vision
