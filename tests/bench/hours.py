"""What the published trainings of experiments/full/ would take on one H100, from one step's operations; nothing is run.

    platform/local/run python tests/bench/hours.py [EXPERIMENT ...]

It needs neither shards nor a GPU. Hours are steps times the estimate of roofline.py, for TF32 as PyTorch runs it and
for bfloat16 with CUDA graphs; neither validation nor the loader counts. No H100 has confirmed the estimate. TFLOP are
of forward and backward pass of a batch, two per multiplication. GB kept are what a batch holds for its gradients, in
float32: the training loop splits one that does not fit into an H100's 80 GB.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from roofline import count_step

from vimss.api import experiment_recipe
from vimss.search.consistency import load_experiment
from vimss.shards.recipe import Recipe
from vimss.train.config import Settings

PUBLISHED = ("urmp", "solos", "music", "musdb18", "audioset")
COLUMNS = (
    "training",
    "weights",
    "batch",
    "steps",
    "TFLOP per step",
    "GB kept",
    "hours, TF32",
    "hours, bfloat16, graphs",
)


@dataclass(frozen=True)
class Training:
    """One cell of an experiment, as it would be trained."""

    name: str
    settings: Settings
    recipe: Recipe

    @property
    def steps(self) -> int:
        """Of the whole training."""
        config = self.settings.training
        return round(config.audio_seconds * self.recipe.sample_rate / (config.batch_size * config.output_samples))


def trainings(name: str) -> Iterator[Training]:
    """Those of experiments/full/NAME.yaml, without controls."""
    experiment = load_experiment(f"experiments/full/{name}.yaml")
    recipe = experiment_recipe(experiment)
    for cell in experiment.cells():
        if not cell.is_control:
            yield Training(cell.variant or experiment.name, experiment.settings(cell.overrides), recipe)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "experiments", nargs="*", metavar="EXPERIMENT", help=f"of {', '.join(PUBLISHED)}; all where none"
    )
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name in parser.parse_args().experiments or PUBLISHED:
        for training in trainings(name):
            print(_row(name, training), flush=True)


def _row(experiment: str, training: Training) -> str:
    step, steps = count_step(training.settings, training.recipe), training.steps
    hours = [steps * step.seconds(*way) / 3600 for way in (("tf32", False), ("bfloat16", True))]
    name = experiment if training.name == experiment else f"{experiment}, {training.name}"
    cells = [
        name,
        f"{step.weights / 1e6:.1f} M",
        f"{training.settings.training.batch_size}",
        f"{steps}",
        *(f"{each:.2g}" if each < 100 else f"{each:.0f}" for each in (step.flops / 1e12, step.kept / 1e9, *hours)),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
