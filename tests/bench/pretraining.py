"""Whether pre-training pays: separators queried by pictures or by motion, from other weights and from new ones.

A section of vision.py. All trainings of a table have equal audio seconds, shards and mixtures; a row is where the part
that looks starts from. What the start itself cost is not counted. SI-SDR improvement of two-source mixtures of unseen
works, means over seeds; differences are paired, with 95 % intervals over pieces. For each seed six separators of about
three core minutes, eight where pictures are decoded, and one network of alignment. `instruments` and the two of
correspondence start all seeds from the same weights, those of the first.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from correspondence import models_of
from instruments import SHIPPED, players_shards
from kept import DUOS, Bench
from motion_queries import model_of
from queries import Queried, quickstart_shards

from vimss.console import decibel
from vimss.evaluate import score_mixtures
from vimss.evaluate.records import Values
from vimss.model.pretrained import pretrained_folder
from vimss.shards.manifest import Manifest
from vimss.systems import System, model_system

NEW = "new weights"

MATCHED = {
    f"correspondence, itself from {SHIPPED}": "network=ave_net",
    "correspondence, itself from new weights": "random weights",
}
"""Starts to the cells of experiments/correspondence.yaml whose vision networks they are."""

FRAMES = {"context": "frames", "vision": {"network": "compact", "weights": "random", "frozen": False}}
"""Pictures as the query, by a vision network that is trained along."""


def pretraining(bench: Bench) -> None:
    """A gain over new weights, or none: an interval above 0 dB or not."""
    _print_table("queries by pictures, quickstart", _queried_by_pictures(bench))
    _print_table("queries by motion, two equal players", _queried_by_motion(bench))


def _queried_by_pictures(bench: Bench) -> dict[str, list[Values]]:
    """Of each start the sources, for each seed."""
    shipped = pretrained_folder(SHIPPED)
    assert shipped is not None, "a name of PRETRAINED"
    queried = Queried(bench, quickstart_shards(bench))
    found: dict[str, list[Values]] = {}
    starts = {NEW: None, f"instruments ({SHIPPED})": shipped}
    for start, cell in MATCHED.items():
        starts[start] = models_of(bench, players_shards(bench), "correspondence", bench.seeds[0], cell)[cell]
    for seed in bench.seeds:
        for start, folder in starts.items():
            model = queried.model(seed, FRAMES, start_from=folder)
            found.setdefault(start, []).append(_gains(queried.system(model, start), queried.manifest))
    return found


def _queried_by_motion(bench: Bench) -> dict[str, list[Values]]:
    """The same, on duos of two equal instruments."""
    manifest = bench.shards(DUOS)
    found: dict[str, list[Values]] = {}
    for seed in bench.seeds:
        for start, folder in {NEW: None, "alignment": bench.alignment_folder(seed)}.items():
            model = model_of(bench, manifest, seed, [f"training.start_from={folder}"] if folder else [])
            found.setdefault(start, []).append(
                _gains(model_system(model, manifest, start, device=bench.device), manifest)
            )
    return found


def _gains(system: System, manifest: Manifest) -> Values:
    scores = score_mixtures(system, manifest, "test")
    gains = [gain for score in scores for gain in score.si_sdr_improvement]
    return Values(np.array(gains), [score.pieces for score in scores for _ in score.si_sdr_improvement])


def _print_table(title: str, found: Mapping[str, Sequence[Values]]) -> None:
    """A line per start: every seed's mean, and what it gains over new weights."""
    new = _over_seeds(found[NEW])
    print(f"\n| {title}: {len(new.values)} sources | SI-SDRi of each seed, dB | gain over {NEW} | |\n|---|---|---|---|")
    for start, seeds in found.items():
        means, here = ", ".join(f"{values.mean:+.2f}" for values in seeds), _over_seeds(seeds)
        interval = here.interval_above(new, mean=True)
        verdict = "gain" if interval and interval[0] > 0 else "none"
        cells = ("-", "") if start == NEW else (decibel(here.mean - new.mean, interval), verdict)
        print(f"| {start} | {means} | {' | '.join(cells)} |", flush=True)


def _over_seeds(seeds: Sequence[Values]) -> Values:
    """The mean of each source over trainings with other seeds."""
    return Values(np.mean([values.values for values in seeds], 0), seeds[0].pieces)
