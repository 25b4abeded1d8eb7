"""Duos who move at each of their notes, and an alignment network that needs no training: for tests of who plays what.

network = loudness_network()               # level of the sound against level of the motion, by hand-set weights
stems, motion = duo(20.0, seed=0)          # Float32 "2 1 t", Float16 "2 v 64"
"""

from pathlib import Path

import numpy as np
import torch

from vimss.media import write_video, write_wav
from vimss.model.contexts.motion import GRID, compute_motion
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.train.config import Settings
from vimss.train.objectives.alignment_network import AlignmentNetwork
from vimss.train.objectives.saved import save_network

RATE, PICTURES, SIDE = 8000, 25.0, 32
PICTURE = {"size": SIDE, "frame_rate": PICTURES}


def loudness_network(scale: float = 1.0) -> AlignmentNetwork:
    """Vectors have one number: by how much sound or motion exceeds its mean."""
    network = AlignmentNetwork(Settings.model_validate({"objective": "alignment"}), ("vn", "va"), RATE)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for stack in (network.of_motion, network.of_sound):
            convolutions = [layer for layer in stack if isinstance(layer, torch.nn.Conv1d)]
            for number, layer in enumerate(convolutions):
                layer.weight[0, slice(None) if number == 0 else 0, layer.kernel_size[0] // 2] = 1
            convolutions[0].weight[0] /= convolutions[0].in_channels
        network.scale.fill_(scale)
    return network.eval()


def save_alignment(folder: Path, scale: float = 1.0) -> Path:
    """The folder of that network."""
    save_network(folder, loudness_network(scale), {"picture": PICTURE, "features": "motion-1"})
    return folder


def notes_of(seconds: float, seed: int) -> np.ndarray:
    """Whether each of two players begins a note at each picture."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.random((2, round(seconds * PICTURES / 5))) < 0.4, 5, axis=1)


def duo(seconds: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The stems and the motion of two players."""
    notes = notes_of(seconds, seed)
    rng = np.random.default_rng(seed + 1000)
    noise = rng.uniform(-0.2, 0.2, (2, round(seconds * RATE))).astype(np.float32)
    stems = noise * np.repeat(notes, round(RATE / PICTURES), axis=1)
    motion = np.repeat(notes[:, :, None], GRID * GRID, axis=2).astype(np.float16)
    return stems[:, None], motion


def write_duo(path: Path, seconds: float, seed: int = 0, rate: float = PICTURES) -> np.ndarray:
    """A video of two players whose column flickers while they play; returns their stems."""
    stems, motion = duo(seconds, seed)
    rng, columns = np.random.default_rng(seed), []
    for plays in motion[:, :, 0] > 0:
        pictures = rng.integers(0, 255, (len(plays), SIDE // 4, SIDE // 4), np.uint8) * plays[:, None, None]
        columns.append(np.kron(pictures, np.ones((4, 4), np.uint8)))
    film = np.concatenate(columns, axis=2)[:: round(PICTURES / rate), :, :, None].repeat(3, axis=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, film, rate, stems.sum(0), RATE, {"instruments": "vn,vn"})
    return stems


def duo_shards(folder: Path, store: Store, pieces: int = 3) -> Manifest:
    """The shards of such duos, with their motion."""
    for seed, split in enumerate(["train", "valid", "promote", *["test"] * pieces]):
        piece = folder / split / f"{split} {seed}"
        stems = write_duo(piece / "video.mp4", 8.0, seed)
        for number, stem in enumerate(stems, 1):
            write_wav(piece / f"vn {number}.wav", stem, RATE)
    picture = f"picture={{size: {SIDE}, frame_rate: {PICTURES}}}"
    manifest = write_shards(
        load_recipe("folder", [f"sample_rate={RATE}", picture, "labels=[vn, va]"]), "claps", store, source=folder
    )
    compute_motion(manifest)
    return manifest
