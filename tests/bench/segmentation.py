"""Players, instruments and joints in pictures: a section of vision.py, and the picture that it draws.

The network of experiments/segmentation.yaml, trained for each seed, is judged on all players and all
pictures of a split. Beside it are the mean mask of the training pictures, with the threshold that suits those best,
which does not look, and the same network before training. IoU is summed over pictures, as by the objective; intervals
are over pieces.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from kept import Bench
from torch import Tensor

from vimss.api import experiment_recipe
from vimss.intervals import interval_over_pieces
from vimss.model.device import Device, on_device
from vimss.runtime import load_place, ray_at_hand
from vimss.search.consistency import load_experiment
from vimss.shards.manifest import Manifest
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.read import read_pieces
from vimss.train.objectives.saved import load_network
from vimss.train.objectives.segmentation import SUMS, sums_of, truth_of, with_truth
from vimss.train.objectives.segmentation_network import BODY, CLASSES, SegmentationNetwork, classes_of, places_of

NAME = "segmentation"
SPLITS = ("test", "test_unseen_style")
LEAST = {"player": 0.8, "instrument": 0.6}
"""IoU of each mask on unseen works."""

AT_ONCE = 64
"""Pictures in one pass."""

THRESHOLDS = np.linspace(0.02, 0.98, 49)
SHOWN = 6
"""Players in the picture, of each split."""

LARGER = 4
"""Times that they are drawn larger."""

COLOURS = np.array([(60, 60, 60), (80, 170, 80), (230, 120, 40)], np.uint8)
"""Of CLASSES."""

Find = Callable[[Tensor], Tensor]
"""Maps of pictures, as the network gives them."""

Sums = Mapping[str, np.ndarray]
"""SUMS of each piece."""


def segmentation(bench: Bench) -> None:
    """IoU of player and instrument in drawings, after at most 5 minutes of two cores, and the error of joints."""
    manifest = _shards(bench)
    finders = {f"seed {seed}": _find(_network(bench, manifest, seed), bench.device) for seed in bench.seeds}
    finders["mean mask"] = mean_mask(manifest)
    finders["untrained"] = _find(_untrained(manifest), bench.device)
    for split in SPLITS:
        found = {name: judged(find, manifest, split) for name, find in finders.items()}
        _print_table(split, found)
    path = bench.folder / "vision" / f"{NAME}.png"
    draw(finders[f"seed {bench.seeds[0]}"], manifest, path)
    print(f"\n{path}: pictures, what is true, what seed {bench.seeds[0]} found; joints are white")


def _shards(bench: Bench) -> Manifest:
    """Those of the experiment."""
    recipe = experiment_recipe(load_experiment(NAME))
    with ray_at_hand(load_place("local")):
        return write_shards(recipe, "players", Store(bench.folder / "store").make())


def _network(bench: Bench, manifest: Manifest, seed: int) -> SegmentationNetwork:
    """Trained with this seed, where it is missing."""
    experiment = load_experiment(NAME, (), seed)
    network = load_network(bench.trained(NAME, experiment.settings(), manifest, experiment.validation))
    assert isinstance(network, SegmentationNetwork), "the network of this objective"
    return network


def _find(network: SegmentationNetwork, device: Device) -> Find:
    """The maps of a network on this device, brought to the CPU."""
    ready = on_device(network, device).eval()
    return lambda pictures: ready(pictures.to(device)).float().cpu()


def _untrained(manifest: Manifest) -> SegmentationNetwork:
    """With the first weights, of which the vision network's may come with VIMSS."""
    torch.manual_seed(0)
    return SegmentationNetwork(load_experiment(NAME).settings(), manifest.recipe.labels, manifest.recipe.sample_rate)


def mean_mask(manifest: Manifest) -> Find:
    """What the mean over all players of the split `train` shows, whatever the picture."""
    classes, joints = [], []
    for _, shown in _pictures(manifest, "train"):
        truth = truth_of(shown)
        classes.append(torch.stack([(truth.classes == number).float() for number in range(len(CLASSES))]).mean(1))
        joints.append(truth.joints.nanmean(0))
    shares, places = torch.stack(classes).mean(0), torch.stack(joints).nanmean(0)
    maps = torch.zeros(len(CLASSES) + len(BODY), *shares.shape[1:])
    for number in range(1, len(CLASSES)):
        # Of a mask that is always the same, the right pixels and those that are found or true, by mean shares.
        values = [
            float((shares[number] * mask).sum() / (mask + shares[number] * ~mask).sum())
            for threshold in THRESHOLDS
            for mask in [shares[number] > threshold * shares[number].max()]
        ]
        best = THRESHOLDS[int(np.argmax(values))]
        # The instrument lies in front of the player.
        maps[number] = number * (shares[number] > best * shares[number].max())
    height, width = shares.shape[1:]
    for joint, (x, y) in enumerate(places.tolist()):
        maps[len(CLASSES) + joint, min(int(y * height), height - 1), min(int(x * width), width - 1)] = 100
    maps[0] = 0.5
    return lambda pictures: maps.expand(len(pictures), -1, -1, -1)


def judged(find: Find, manifest: Manifest, split: str) -> Sums:
    """SUMS of each piece of a split, over all pictures of all players."""
    found: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for piece, shown in _pictures(manifest, split):
            for part in shown.split(AT_ONCE):
                sums = sums_of(find(part[..., :3]), truth_of(part)).sum(0).numpy()
                found[piece] = found.get(piece, 0) + sums
    return found


def _pictures(manifest: Manifest, split: str) -> Iterator[tuple[str, Tensor]]:
    """All pictures of each player with what they show, and the piece."""
    for clip in read_pieces(manifest, split, ("picture", "masks", "skeleton")):
        for player in clip.players:
            if player.picture is not None and player.masks is not None and player.skeleton is not None:
                yield clip.piece, torch.from_numpy(with_truth(player.picture, player.masks, player.skeleton))


def _print_table(split: str, found: Mapping[str, Sums]) -> None:
    pieces = len(next(iter(found.values())))
    print(f"\n| {split}: {pieces} pieces | {' | '.join(found)} | must reach |\n|{'---|' * (len(found) + 2)}")
    for mask, least in LEAST.items():
        cells = [_ratio(sums, f"right of {mask}", f"either of {mask}") for sums in found.values()]
        print(f"| IoU of the {mask} | {' | '.join(cells)} | {f'{least:g}' if split == 'test' else ''} |")
    cells = [_ratio(sums, "error of joints", "joints") for sums in found.values()]
    print(f"| error of joints, heights of the player | {' | '.join(cells)} | |", flush=True)


def _ratio(sums: Sums, above: str, below: str) -> str:
    """One sum over another with its interval over pieces."""
    over, under = (np.array([row[SUMS.index(name)] for row in sums.values()]) for name in (above, below))
    low, high = interval_over_pieces(
        [(piece,) for piece in sums], lambda w: (w * over).sum(-1) / (w * under).sum(-1)
    ) or (
        float("nan"),
        float("nan"),
    )
    return f"{over.sum() / under.sum():.3f} ({low:.3f} to {high:.3f})"


def draw(find: Find, manifest: Manifest, path: Path) -> None:
    """A picture with a row for each of some players: the input, what is true, and what is found."""
    rows: list[np.ndarray] = []
    for split in SPLITS:
        players = list(_pictures(manifest, split))
        for _, shown in players[:: max(1, len(players) // SHOWN)][:SHOWN]:
            middle = shown[len(shown) // 2][None]
            with torch.no_grad():
                found = find(middle[..., :3])
            truth, joints = truth_of(middle), places_of(found[:, len(CLASSES) :])
            rows.append(
                np.concatenate(
                    [
                        _larger(middle[0, ..., :3].numpy()),
                        _with_joints(truth.classes[0], truth.joints[0]),
                        _with_joints(classes_of(found)[0], joints[0]),
                    ],
                    axis=1,
                )
            )
    half = len(rows) // 2
    whole = np.concatenate([np.concatenate(part, axis=0) for part in (rows[:half], rows[half:])], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), whole[..., ::-1])


def _larger(picture: np.ndarray) -> np.ndarray:
    return picture.repeat(LARGER, axis=0).repeat(LARGER, axis=1)


def _with_joints(classes: Tensor, joints: Tensor) -> np.ndarray:
    """Classes in COLOURS, and a white dot for each joint."""
    picture = np.ascontiguousarray(_larger(COLOURS[classes.numpy()]))
    for x, y in joints.tolist():
        if np.isfinite(x):
            place = (round(x * picture.shape[1]), round(y * picture.shape[0]))
            cv2.circle(picture, place, LARGER, (255, 255, 255), -1)
    return picture
