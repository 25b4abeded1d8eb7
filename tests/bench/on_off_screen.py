"""Who is on screen, by motion, by one picture or by neither: experiments/on_off_screen.yaml. A section of vision.py.

Two-source mixtures of two pieces, each player of which is on screen in turn, as Owens and Efros 2018 compare their
networks: full, static, without pictures. SI-SDR improvement by player; the differences are paired, with 95 % intervals
over pieces. For each seed four trainings of about three core minutes, as one of motion_queries, and 12 evaluations.
"""

import numpy as np
from kept import Bench
from motion_queries import model_of

from vimss.console import decibel
from vimss.evaluate import score_mixtures
from vimss.evaluate.records import Values
from vimss.features import write_features
from vimss.model.vision_config import VisionConfig
from vimss.runtime import load_place, ray_at_hand
from vimss.search.consistency import load_experiment
from vimss.shards.manifest import Manifest
from vimss.systems import System, model_system

EXPERIMENT = "on_off_screen"

FULL = "motion"


def on_off_screen(bench: Bench) -> None:
    """Motion above one picture, and both above no picture, by paired differences whose interval is above 0."""
    manifest, experiment = bench.shards(), load_experiment(EXPERIMENT)
    with ray_at_hand(load_place("local")):
        write_features(manifest, VisionConfig(network="compact", weights="chamber"), bench.device, every=2.0)
    for seed in bench.seeds:
        rows = {FULL: "", **{name: name for name in experiment.controls}}
        models = {row: model_of(bench, manifest, seed, (), name, EXPERIMENT) for row, name in rows.items()}
        for split in ("test", "test_unseen_style", "test_unseen_timbres"):
            systems = {row: model_system(folder, manifest, row, device=bench.device) for row, folder in models.items()}
            found = {row: improvements(system, manifest, split) for row, system in systems.items()}
            _print(f"seed {seed}, {split}", found)


def improvements(system: System, manifest: Manifest, split: str) -> Values:
    """Of each player of the two-source mixtures of two pieces."""
    scores = score_mixtures(system, manifest, split)
    chosen = [score for score in scores if not score.aligned]
    gains = [gain for score in chosen for gain in score.si_sdr_improvement]
    return Values(np.array(gains), [score.pieces for score in chosen for _ in score.si_sdr_improvement])


def _print(title: str, found: dict[str, Values]) -> None:
    """The median of each row, and how far motion is above it."""
    full = found[FULL]
    pieces = len({piece for pair in full.pieces for piece in pair})
    print(f"\n| {title}: {len(full.values)} players, {pieces} pieces | SI-SDRi, dB | motion - it |\n|---|---|---|")
    for row, values in found.items():
        gain = decibel(full.median - values.median, full.interval_above(values))
        print(f"| {row} | {decibel(values.median, values.interval)} | {'-' if row == FULL else gain} |", flush=True)
