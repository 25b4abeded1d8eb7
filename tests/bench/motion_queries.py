"""One network queried by motion: what the right motion is worth, beside the controls. A section of vision.py.

Every row of the table is a training of experiments/motion.yaml on duos of equal instruments; it is kept in the folder
of the bench, and one that was interrupted resumes. All are scored by player, on whole pieces of unseen works and on
two-source mixtures of them, half of which are of two equal players: with the right player's motion and with that of the
other player. The first seed has a longer training too. Medians are over players, with 95 % intervals over pieces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from kept import DUOS, Bench

from vimss.console import decibel
from vimss.evaluate import MixtureScore, score_mixtures
from vimss.evaluate.records import Values
from vimss.metrics import si_sdr_improvement
from vimss.model.device import Device, on_device
from vimss.model.separator import load_separator, read_card
from vimss.search.consistency import load_experiment
from vimss.shards.manifest import Manifest
from vimss.stream.scene import pieces_of
from vimss.systems import ModelSystem

CONTROL = "shuffled pictures"
"""The control of the experiment that the others are compared with."""

LONGER = ("training.audio_seconds=80000", "training.report_seconds=8000")
"""Twenty minutes of a core instead of three: what two cores do in ten."""

MIXTURES = {
    "two-source mixtures": (False, True),
    "two-source mixtures of two equal players, of one piece": (True,),
    "two-source mixtures of two instruments, of two pieces": (False,),
}
"""Of these shards, to whether their sources are aligned: every piece has two equal players."""


@dataclass(frozen=True)
class Gains:
    """SI-SDR improvement of every player, with the right query and with that of the other player."""

    right: Values
    other: Values

    @property
    def contrast(self) -> Values:
        """The difference."""
        return Values(self.right.values - self.other.values, self.right.pieces)


def motion_queries(bench: Bench) -> None:
    """Queries by motion: at least 1 dB above the control with shuffled pictures, which has 0.0 +- 0.2 dB."""
    manifest = bench.shards(DUOS)
    for seed in bench.seeds:
        aligned = [f"training.start_from={bench.alignment_folder(seed)}"]
        rows = {
            "motion, from alignment": model_of(bench, manifest, seed, aligned),
            CONTROL: model_of(bench, manifest, seed, aligned, CONTROL),
            "motion, from new weights": model_of(bench, manifest, seed),
            "labels": model_of(bench, manifest, seed, [], "labels"),
        }
        if seed == bench.seeds[0]:
            rows["motion, from new weights, longer"] = model_of(bench, manifest, seed, LONGER)
        pieces = {name: on_pieces(bench, folder, manifest) for name, folder in rows.items()}
        print_table(f"seed {seed}, whole pieces of two equal players", pieces)
        mixtures = {name: on_mixtures(bench, folder, manifest) for name, folder in rows.items()}
        for kind in MIXTURES:
            print_table(f"seed {seed}, {kind}", {name: found[kind] for name, found in mixtures.items()})


def looking_to_listen(bench: Bench) -> None:
    """The same by experiments/looking_to_listen.yaml, without its control: the right motion and the other player's."""
    manifest = bench.shards(DUOS)
    for seed in bench.seeds:
        folder = model_of(bench, manifest, seed, name="looking_to_listen")
        print_queries("whole pieces of two equal players", on_pieces(bench, folder, manifest))
        for kind, gains in on_mixtures(bench, folder, manifest).items():
            print_queries(kind, gains)


def print_queries(title: str, gains: Gains) -> None:
    """One line: the medians with their intervals."""
    columns = {"right motion": gains.right, "another player's": gains.other, "right - another's": gains.contrast}
    print(f"{title}: {len(gains.right.values)} players, means {gains.right.mean:.2f} and {gains.other.mean:.2f}")
    for name, values in columns.items():
        print(f"  {name} {decibel(values.median, values.interval)}", flush=True)


def model_of(
    bench: Bench, manifest: Manifest, seed: int, changes: Sequence[str] = (), control: str = "", name: str = "motion"
) -> Path:
    """The folder of a network of an experiment with these changes, or of one of its controls."""
    experiment = load_experiment(name, changes, seed)
    settings = experiment.settings(experiment.controls[control] if control else {})
    return bench.trained(name, settings, manifest, experiment.validation)


def on_pieces(bench: Bench, folder: Path, manifest: Manifest, split: str = "test") -> Gains:
    """The players of whole pieces."""
    system = _system(folder, bench.device)
    by_label = system.interface.has_labelled_outputs
    right, other, pieces = [], [], []
    for scene in pieces_of(manifest, split, system.views, by_player=True):
        names = list(scene.references)
        estimates = system(scene, [name.partition(" ")[0] if by_label else name for name in names])
        for index, name in enumerate(names):
            gains = [
                si_sdr_improvement(scene.mixture, scene.references[name], estimate, manifest.recipe.sample_rate)
                for estimate in (estimates[index], estimates[(index + 1) % len(names)])
            ]
            right.append(gains[0])
            other.append(np.nan if by_label else gains[1])
            pieces.append((scene.name,))
    return Gains(Values(np.array(right), pieces), Values(np.array(other), pieces))


def on_mixtures(bench: Bench, folder: Path, manifest: Manifest, split: str = "test") -> dict[str, Gains]:
    """The sources of the mixtures that `vimss evaluate` scores, of each of MIXTURES."""
    scores = score_mixtures(_system(folder, bench.device), manifest, split)
    return {kind: _gains([score for score in scores if score.aligned in kept]) for kind, kept in MIXTURES.items()}


def _gains(scores: Sequence[MixtureScore]) -> Gains:
    pieces = [score.pieces for score in scores for _ in score.si_sdr_improvement]
    right = np.array([gain for score in scores for gain in score.si_sdr_improvement])
    other = np.array([gain for score in scores for gain in score.other_picture])
    return Gains(Values(right, pieces), Values(other if other.size else np.full(len(right), np.nan), pieces))


def _system(folder: Path, device: Device) -> ModelSystem:
    separator = on_device(load_separator(folder), device)
    return ModelSystem(separator, folder.name, str(read_card(folder)["card"].get("features", "")))


def print_table(title: str, gains: Mapping[str, Gains]) -> None:
    """One line per row; the last columns are the gain above the control, of medians and of means."""
    right = gains[CONTROL].right
    count = len({name for names in right.pieces for name in names})
    columns = ("right motion", "another player's", "right - another's", "right - shuffled", "the same, means")
    print(f"\n| {title}: {len(right.values)} players, {count} pieces | {' | '.join(columns)} |")
    print(f"|{'---|' * (len(columns) + 1)}")
    for name, found in gains.items():
        cells = [decibel(values.median, values.interval) for values in (found.right, found.other, found.contrast)]
        for mean in (False, True):
            value = found.right.mean - right.mean if mean else found.right.median - right.median
            cells.append("-" if name == CONTROL else decibel(value, found.right.interval_above(right, mean)))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
