"""A picture as the query of a separator: by way of the label that it is named, and as features straight into FiLM.

A section of vision.py. Small Wave-U-Nets (three minutes of one core each, kept in the folder) separate what one query
asks for, out of mixtures of two instruments. All rows are of the same mixtures of pieces that training did not have:

    by labels         a network conditioned on labels, asked by them
    named pictures    the same network, asked by the labels that the pictures of the players are named
    features          one that is conditioned on features of the pictures; its label is never given
    shuffled          the same, trained with the pictures of others: nothing, or what is gained is not by pictures

Contrast is the SI-SDR of the right query's output minus that of the other player's query.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kept import Bench

from vimss.evaluate.pictures import naming
from vimss.evaluate.records import Evaluation, Values
from vimss.evaluate.scores import evaluate
from vimss.features import compute_features
from vimss.model.pretrained import PRETRAINED, pretrained_folder
from vimss.model.vision_config import VisionConfig
from vimss.namer import load_namer
from vimss.runtime import load_place, ray_at_hand
from vimss.search.consistency import load_experiment
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.systems import ModelSystem, NamedSystem, System, model_system
from vimss.train.config import Settings

NAMER = "chamber"
"""The model that comes with VIMSS: it names the pictures, and its vision network makes the features."""

EVERY = 0.5
"""Seconds between two rows of features."""

NETWORK = {
    "outputs": "queries",
    "site": "decoder",
    "op": "film",
    "levels": 7,
    "filters": 24,
    "max_filters": 48,
    "down_kernel": 5,
    "up_kernel": 3,
    "output_activation": "linear",
    "initial_output": "mixture",
    "gain": 10,
}
"""That of experiments/quickstart.yaml, but for its outputs."""

TRAINING = {
    "output_samples": 4227,
    "batch_size": 4,
    "audio_seconds": 3000,
    "report_seconds": 1500,
    "optimizer": "muon",
    "learning_rate": 3.4e-3,
    "learning_rate_decay": 0.1,
    "absent_weight": 1.5,
    "gradient_clip": 1.0,
    "ema": 0.99,
}

LABELS = {"context": "labels"}
FEATURES = {
    "context": "features",
    "vision": {"network": PRETRAINED[NAMER], "weights": NAMER},
    "features_every": EVERY,
}

SHARE, WITHIN, LEAST, NOTHING = 0.9, 0.3, 5.0, 0.2
"""Named pictures: least share of the labels' contrast, most dB below their SI-SDR improvement. Features: least
contrast, dB. Shuffled: most dB of either, up or down."""


@dataclass(frozen=True)
class Queried:
    """Networks on some shards, each trained where it is missing."""

    bench: Bench
    manifest: Manifest

    def settings(
        self, seed: int, model: Mapping[str, Any], shuffled: bool = False, start_from: Path | None = None
    ) -> Settings:
        """Of one training."""
        mixing: dict[str, Any] = {"gain_db": 4.0, "aligned_probability": 0.5, "shuffle_pictures": shuffled}
        if model["context"] == "frames":
            # Decoding is half of such a training, and a pool holds all 28 clips of quickstart: as varied, decoded less.
            mixing["windows_per_clip"] = 64
        training = TRAINING | ({"start_from": str(start_from)} if start_from else {})
        content = {"seed": seed, "model": {**NETWORK, **model}, "mixing": mixing, "training": training}
        return Settings.model_validate(content)

    def model(
        self, seed: int, model: Mapping[str, Any], shuffled: bool = False, start_from: Path | None = None
    ) -> Path:
        """The folder of the trained network."""
        return self.bench.trained("queries", self.settings(seed, model, shuffled, start_from), self.manifest)

    def system(self, folder: Path, name: str) -> ModelSystem:
        """A network as a row of a table."""
        system = model_system(folder, self.manifest, name, device=self.bench.device)
        assert isinstance(system, ModelSystem), "its own shards need no adaptation"
        return system

    def rows(self, seed: int) -> dict[str, System]:
        """The systems of a table, by name."""
        labels = self.system(self.model(seed, LABELS), "by labels")
        folder = pretrained_folder(NAMER)
        assert folder is not None, "a name of PRETRAINED"
        named = NamedSystem(labels, "named pictures", load_namer(folder, NAMER), self.manifest.recipe.labels)
        return {
            "by labels": labels,
            "named pictures": named,
            "features": self.system(self.model(seed, FEATURES), "features"),
            "shuffled": self.system(self.model(seed, FEATURES, shuffled=True), "shuffled"),
        }


def queries(bench: Bench) -> None:
    """Contrast and SI-SDR improvement of one query, medians over sources of two-source mixtures in dB."""
    for shards in (quickstart_shards(bench), bench.shards()):
        _compute_features(bench, shards)
        for seed in bench.seeds:
            rows = Queried(bench, shards).rows(seed)
            for split in ("test", "test_unseen_timbres"):
                print(f"\n{shards.name}, {split}, seed {seed}, {shards.recipe.sample_rate} Hz\n")
                _print_table(
                    {name: evaluate(system, shards, split, whole_pieces=False) for name, system in rows.items()}
                )


def sound_of_pixels(bench: Bench) -> None:
    """experiments/sound_of_pixels.yaml: the same figures of The Sound of Pixels, queried by labels and by pictures."""
    manifest = quickstart_shards(bench)
    _compute_features(bench, manifest)
    for seed in bench.seeds:
        experiment, rows = load_experiment("sound_of_pixels", seed=seed), {}
        for name, control in {"by labels": "labels", "features": "", "shuffled": "shuffled pictures"}.items():
            settings = experiment.settings(experiment.controls[control] if control else {})
            folder = bench.trained("sound_of_pixels", settings, manifest)
            rows[name] = model_system(folder, manifest, name, device=bench.device)
        print(f"\n{manifest.name}, test, seed {seed}, {manifest.recipe.sample_rate} Hz\n")
        _print_table({name: evaluate(row, manifest, "test", whole_pieces=False) for name, row in rows.items()})


def _compute_features(bench: Bench, manifest: Manifest) -> None:
    vision = VisionConfig.model_validate(FEATURES["vision"])
    compute_features(manifest, vision, device=bench.device, every=EVERY)


def quickstart_shards(bench: Bench) -> Manifest:
    """The shards of the quickstart."""
    with ray_at_hand(load_place("local")):
        return write_shards(load_recipe("quickstart"), "quickstart", Store(bench.folder / "store").make())


def _print_table(found: Mapping[str, Evaluation]) -> None:
    print("| query | contrast | SI-SDR improvement | its mean | other query | beside the labels, at least |")
    print("|---|---|---|---|---|---|")
    reference = found["by labels"].two_sources
    for name, evaluation in found.items():
        scored = evaluation.two_sources
        contrast, gain = scored.values("label_contrast"), scored.values("si_sdr_improvement")
        cells = [_with_interval(contrast), _with_interval(gain), f"{gain.mean:+.2f}", _other(evaluation)]
        share = contrast.median / reference.label_contrast
        lost = gain.median - reference.si_sdr_improvement
        cells.append(
            {
                "by labels": "",
                "named pictures": f"{share:.0%} ({SHARE:.0%}), {lost:+.2f} dB ({-WITHIN:g} dB)",
                "features": f"{share:.0%}; contrast {LEAST:g} dB",
                "shuffled": f"0 dB up to {NOTHING:g}",
            }[name]
        )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        if naming(evaluation):
            print(f"| | {naming(evaluation)} | | | | |", flush=True)


def _with_interval(values: Values) -> str:
    low, high = values.interval or (np.nan, np.nan)
    return f"{values.median:+.2f} ({low:+.2f} to {high:+.2f})"


def _other(evaluation: Evaluation) -> str:
    """Of the other player's query; of labels it is not kept."""
    found = evaluation.two_sources.values("other_picture").values
    return f"{np.median(found):+.2f}" if len(found) else ""
