"""Train the model that comes with VIMSS as `chamber`, and write it into the package.

    platform/local/run python tests/bench/pretrained.py [--folder store/bench] [--seed 0] [KEY=VALUE ...]

It is experiments/players.yaml, with changes to its settings if some are given. Its weights are in half precision, and
its vision network gives features whose root mean square is 1 each, as networks that take features expect them. Whoever
runs this changes what `vision.weights: chamber` means: another network gets another name in
vimss/model/pretrained/__init__.py.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from instruments import LEAST, SHIPPED, named_rightly, players_model, players_shards, share_of
from jaxtyping import Float
from kept import Bench
from safetensors.torch import load_file, save_file
from torch import Tensor

from vimss.model.card import CARD, WEIGHTS
from vimss.model.pretrained import pretrained_folder
from vimss.model.vision import weights_digest
from vimss.namer import InstrumentNamer, load_namer
from vimss.shards.manifest import Manifest
from vimss.shards.write import shards_signature
from vimss.storage import atomic_write, sha256
from vimss.stream.read import read_pieces

LICENCE = "GPL-3.0-or-later"

LEAST_SIZE = 1e-3
"""Root mean square below which a feature is never used, and stays as it is."""


@torch.no_grad()
def feature_sizes(namer: InstrumentNamer, manifest: Manifest) -> Float[Tensor, " d"]:
    """The root mean square of each feature, over one picture of each player of the valid split."""
    players = [player for clip in read_pieces(manifest, "valid", ("picture",)) for player in clip.players]
    pictures = np.stack([player.picture[len(player.picture) // 2] for player in players if player.picture is not None])
    features = namer.network.vision(torch.from_numpy(pictures)[None, :, None]).flatten(0, 2)
    return features.square().mean(0).sqrt()


def as_shipped(model: Path, sizes: Float[Tensor, " d"]) -> dict[str, Tensor]:
    """The weights in half precision. Each feature is divided by its size, and what the head makes of it multiplied."""
    weights, sizes = load_file(model / WEIGHTS), torch.where(sizes < LEAST_SIZE, 1.0, sizes)
    weights["vision.network.what.weight"] /= sizes[:, None, None, None]
    weights["vision.network.what.bias"] /= sizes
    weights["head.weight"] *= sizes
    return {name: tensor.half() for name, tensor in weights.items()}


def write(folder: Path, model: Path, weights: dict[str, Tensor], about: dict[str, str]) -> None:
    """A model's folder with other weights; `about` goes into their metadata and into model.json."""
    card = json.loads((model / CARD).read_text(encoding="utf-8"))
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        save_file(weights, temporary / WEIGHTS, about)
        (temporary / WEIGHTS).chmod(0o644)
        card["card"] |= about
        card["sha256"] = sha256(temporary / WEIGHTS)
        (temporary / CARD).write_text(json.dumps(card, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def figures(namers: dict[str, InstrumentNamer], manifest: Manifest) -> str:
    """How many players the last one names rightly; those of all are printed."""
    found = []
    for split in LEAST:
        shares = {name: share_of(named_rightly(namer, manifest, split)) for name, namer in namers.items()}
        print(split, shares, flush=True)
        share, (low, high) = list(shares.values())[-1]
        found.append(f"{split} {share:.3f} ({low:.3f} to {high:.3f})")
    return "; ".join(found)


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes to the experiment's settings")
    parser.add_argument("--folder", type=Path, default=Path("store/bench"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments.folder.absolute(), (arguments.seed,))
    model, manifest = players_model(bench, arguments.seed, *arguments.changes), players_shards(bench)
    folder, tried = pretrained_folder(SHIPPED), bench.folder / "vision" / f"{model.name}-half"
    assert folder is not None, "a name of PRETRAINED"
    whole = load_namer(model, "float32")
    weights = as_shipped(model, feature_sizes(whole, manifest))
    write(tried, model, weights, {})
    half = load_namer(tried, "float16")
    about = {
        "command": " ".join(["python tests/bench/pretrained.py", f"--seed {arguments.seed}", *arguments.changes]),
        "experiment": "players",
        "recipe_signature": shards_signature(manifest.recipe),
        "licence_of_weights": LICENCE,
        "vision_sha256": weights_digest(half.network.vision),
        "players_named_rightly": figures({"float32": whole, "float16": half}, manifest),
    }
    write(folder, model, weights, about)
    print(folder)


if __name__ == "__main__":
    main()
