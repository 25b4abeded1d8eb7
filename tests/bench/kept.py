"""What the sections of vision.py share: shards and trained networks, each made where it is missing and kept."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from in_step import Learned, Score, fitted, parts_of

from vimss.api import experiment_recipe
from vimss.config import signature
from vimss.model.contexts.motion import FOLDER, write_motion
from vimss.model.device import Device, on_device
from vimss.runtime import load_place, ray_at_hand
from vimss.search.consistency import load_experiment
from vimss.shards.computed import available_features
from vimss.shards.manifest import MANIFEST, Manifest, open_shards
from vimss.shards.write import shards_folder, write_shards
from vimss.storage import Store, atomic_write
from vimss.train.checkpoint import newest_valid
from vimss.train.config import Settings, ValidationConfig
from vimss.train.device import flush_denormals, multiply_as_usual
from vimss.train.loop import Training, train
from vimss.train.objectives.alignment_network import AlignmentNetwork
from vimss.train.objectives.saved import load_network

DUOS = "options.doubles=1"
"""What makes pieces of two equal instruments of the recipe."""

VALIDATION = ValidationConfig()
"""That of an experiment that does not say another."""


@dataclass(frozen=True)
class Bench:
    """Shards and networks of these measurements, each made where it is missing."""

    folder: Path
    seeds: Sequence[int]
    device: Device = "cpu"
    """Of trainings and of what they made. Kept networks are used on another device too."""
    loader_workers: int = 0
    """Threads that make the batches of a training ahead; the batches do not depend on their number."""

    def shards(self, *changes: str) -> Manifest:
        """Those of experiments/alignment.yaml, with changes; their motion is beside them."""
        recipe = experiment_recipe(load_experiment("alignment", [f"recipe.{change}" for change in changes]))
        store = Store(self.folder / "store").make()
        folder = shards_folder(recipe, "chamber", store)
        if MANIFEST in folder.sizes() and FOLDER in available_features(open_shards(folder, store)):
            return open_shards(folder, store)
        with ray_at_hand(load_place("local")):
            manifest = write_shards(recipe, "chamber", store)
            if FOLDER not in available_features(manifest):
                begin = time.perf_counter()
                write_motion(manifest)
                print(f"motion of {minutes(manifest):.0f} minutes took {time.perf_counter() - begin:.0f} s")
        return manifest

    def network(self, seed: int, *changes: str) -> AlignmentNetwork:
        """experiments/alignment.yaml trained with this seed."""
        network = load_network(self.alignment_folder(seed, *changes))
        assert isinstance(network, AlignmentNetwork), "the network of this objective"
        return on_device(network, self.device).eval()

    def untrained(self, seed: int) -> AlignmentNetwork:
        """The same network with new weights."""
        torch.manual_seed(seed)
        settings, recipe = load_experiment("alignment").settings(), self.shards().recipe
        return on_device(AlignmentNetwork(settings, recipe.labels, recipe.sample_rate), self.device).eval()

    def alignment_folder(self, seed: int, *changes: str) -> Path:
        """The folder of such a network, which is trained where it is missing."""
        experiment = load_experiment("alignment", changes, seed)
        return self.trained("alignment", experiment.settings(), self.shards(), experiment.validation)

    def trained(
        self, name: str, settings: Settings, manifest: Manifest, validation: ValidationConfig = VALIDATION
    ) -> Path:
        """The folder of a model, trained where it is missing; one that was interrupted goes on. Prints seconds."""
        folder = self.folder / "vision" / f"{name}-{signature(settings, manifest.digest)}"
        if folder.exists():
            return folder
        checkpoint, spent = folder.with_suffix(".checkpoint"), folder.with_suffix(".seconds")
        clock, unit = (time.process_time, "CPU s") if self.device == "cpu" else (time.perf_counter, "s")
        before, begin = float(spent.read_text()) if checkpoint.exists() else 0.0, clock()
        folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"training {folder.name}", flush=True)

        def keep(metrics: Mapping[str, float], made: Path | None) -> None:
            if made is None:
                return
            seconds = before + clock() - begin
            values = "".join(
                f", {name} {value:.3f}"
                for name, value in metrics.items()
                if name.startswith("valid_") and "/" not in name
            )
            print(f"  {metrics['audio_seconds']:.0f} audio seconds, {seconds:.0f} {unit}{values}", flush=True)
            with atomic_write(checkpoint) as temporary:
                shutil.copytree(made, temporary)
            spent.write_text(f"{seconds:.0f}")

        multiply_as_usual()
        flush_denormals()
        device, workers = torch.device(self.device), self.loader_workers
        training = Training(settings, manifest, validation, device=device, loader_workers=workers)
        train(training, keep, newest_valid([checkpoint]))
        with atomic_write(folder) as temporary:
            shutil.copytree(checkpoint / "model", temporary)
        shutil.rmtree(checkpoint)
        spent.unlink()
        return folder

    @cached_property
    def networks(self) -> list[Score]:
        """Of all seeds."""
        return [Learned(self.network(seed)) for seed in self.seeds]

    @cached_property
    def handmade(self) -> Score:
        """Fitted on the valid split."""
        return fitted(parts_of(self.shards(), "valid"))


def minutes(manifest: Manifest) -> float:
    """Of music in the shards."""
    return sum(piece.seconds for piece in manifest.pieces) / 60
