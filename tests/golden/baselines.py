"""The README's figures of NMF on the quickstart's shards, and the command that measures and pastes them:

    platform/local/run python tests/golden/baselines.py

It writes the shards of each seed into a temporary folder, fits the baselines on their train split and scores two-source
mixtures. The figures are kept in baselines.json beside this file.
"""

import statistics
import tempfile
from pathlib import Path

from pages import write_figures, write_pages

from vimss.api import experiment_recipe
from vimss.console import decibel
from vimss.evaluate import evaluate
from vimss.search.consistency import load_experiment
from vimss.shards.manifest import Manifest
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.systems import System, baseline_systems

FIGURES = Path(__file__).with_suffix(".json")
NMF = "NMF, all labels"
ROWS = ("Wiener filter, all labels", NMF)
SEEDS = (0, 1, 2)
SPLITS = ("test", "test_unseen_timbres")

Figures = dict[str, dict[str, list[float]]]
"""Split to row to the median SI-SDR improvement on two-source mixtures, dB, of each seed."""


def measure() -> Figures:
    """Score the rows on the shards of each seed."""
    found: Figures = {split: {row: [] for row in ROWS} for split in SPLITS}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            recipe = experiment_recipe(load_experiment("quickstart", seed=seed))
            manifest = write_shards(recipe, "quickstart", Store(Path(folder)))
            for system in baseline_systems(manifest, ROWS):
                for split in SPLITS:
                    found[split][system.name].append(score(system, manifest, split))
    return found


def score(system: System, manifest: Manifest, split: str) -> float:
    """The median SI-SDR improvement on the two-source mixtures of a split."""
    return round(evaluate(system, manifest, split, whole_pieces=False).two_sources.si_sdr_improvement, 3)


def contents(figures: Figures) -> dict[str, str]:
    """Of the README's block."""
    return {"nmf": f"{decibel(statistics.median(figures['test'][NMF]))} dB"}


if __name__ == "__main__":
    figures = measure()
    write_figures(FIGURES, figures)
    write_pages("baselines", contents(figures))
