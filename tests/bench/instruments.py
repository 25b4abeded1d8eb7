"""How often players are named rightly by their pictures, and the networks that do it: experiments/players.yaml.

    model = players_model(bench, seed=0)                       # the folder of a trained model
    named_rightly(load_namer(model, "mine"), manifest, "test")     # {(piece, part): 1.0 or 0.0}

A section of vision.py. All players count, also those who rest throughout.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from kept import Bench

from vimss.api import experiment_recipe
from vimss.intervals import Source, interval_over_pieces, weighted_mean
from vimss.model.device import on_device
from vimss.model.pretrained import pretrained_folder
from vimss.namer import InstrumentNamer, load_namer
from vimss.runtime import load_place, ray_at_hand
from vimss.search.consistency import load_experiment
from vimss.shards.manifest import Manifest
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.read import read_pieces

LEAST = {"test": 0.95, "test_unseen_style": 0.6, "test_unseen_timbres": 0.95}
"""Share of the players of each split who must be named rightly. Timbres say nothing to who looks: their works do."""

SHIPPED = "chamber"
"""The model that comes with VIMSS."""


def players_shards(bench: Bench) -> Manifest:
    """Those of experiments/players.yaml."""
    recipe = experiment_recipe(load_experiment("players"))
    with ray_at_hand(load_place("local")):
        return write_shards(recipe, "players", Store(bench.folder / "store").make())


def players_model(bench: Bench, seed: int, *changes: str) -> Path:
    """The folder of experiments/players.yaml trained with this seed."""
    experiment, manifest = load_experiment("players", changes, seed), players_shards(bench)
    return bench.trained("players", experiment.settings(), manifest, experiment.validation)


def named_rightly(namer: InstrumentNamer, manifest: Manifest, split: str) -> dict[Source, float]:
    """Of each player of a split 1 where the pictures are named the player's own label, and 0 elsewhere."""
    choices = namer.choices(manifest.recipe.labels)
    return {
        (clip.piece, player.part): float(namer.name_player(player.picture, choices).label == player.instrument)
        for clip in read_pieces(manifest, split, ("picture",))
        for player in clip.players
        if player.picture is not None
    }


def share_of(values: Mapping[Source, float]) -> tuple[float, tuple[float, float]]:
    """The share of the players, with its interval over pieces."""
    numbers = np.array(list(values.values()))
    found = interval_over_pieces([(piece,) for piece, _ in values], lambda weights: weighted_mean(numbers, weights))
    low, high = found or (np.nan, np.nan)
    return float(numbers.mean()), (max(low, 0.0), min(high, 1.0))


def instruments(bench: Bench) -> None:
    """Players named rightly by eight of their pictures, of 13 instruments; the model that comes with VIMSS beside."""
    models = {f"seed {seed}": players_model(bench, seed) for seed in bench.seeds}
    shipped = pretrained_folder(SHIPPED)
    assert shipped is not None, "a name of PRETRAINED"
    models[f"{SHIPPED}, which comes with VIMSS"] = shipped
    namers = [load_namer(folder, name) for name, folder in models.items()]
    for namer in namers:
        on_device(namer.network, bench.device)
    for manifest in (players_shards(bench), bench.shards()):
        print(f"\n| {manifest.name} | {' | '.join(models)} | must reach |\n|{'---|' * (len(models) + 2)}")
        for split, least in LEAST.items():
            found = [named_rightly(namer, manifest, split) for namer in namers]
            print(f"| {split} | {' | '.join(map(_cell, found))} | {least:g} |", flush=True)


def _cell(values: Mapping[Source, float]) -> str:
    share, (low, high) = share_of(values)
    pieces = len({piece for piece, _ in values})
    return f"{share:.3f} ({low:.3f} to {high:.3f}; {len(values)} players of {pieces} pieces)"
