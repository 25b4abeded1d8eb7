"""Which picture belongs to a sound, and where in it the sound comes from: sections of vision.py.

The cells of experiments/correspondence.yaml and experiments/localisation.yaml, judged as `vimss evaluate` judges
them, on 96 mixtures of each split, with 95 % intervals over pieces.
"""

from collections.abc import Mapping
from pathlib import Path

from instruments import players_shards
from kept import Bench

from vimss.evaluate import Row, Table
from vimss.evaluate.figures import (
    FigureEvaluation,
    evaluation_by_figure,
    examine_mixtures,
    figure_spec,
    figure_tasks,
)
from vimss.model.separator import read_card
from vimss.search.consistency import load_experiment
from vimss.shards.manifest import Manifest

SPLITS = ("test", "test_unseen_style", "test_unseen_timbres")

LEAST = {"correspondence": 0.8, "localisation": 0.85}
"""Figure of each experiment on unseen works."""


def correspondence(bench: Bench) -> None:
    """Recall@1 among 8 players of different instruments, both ways, and two-alternative accuracy, from 1 s."""
    _print_tables(bench, "correspondence")


def localisation(bench: Bench) -> None:
    """Pointing accuracy among players side by side, of whom one sounds for 1 s, beside maps that do not listen.

    AP50 of the highest half of the pixels is 0 for every method where a box has less than a quarter of the scene.
    """
    _print_tables(bench, "localisation")


def _print_tables(bench: Bench, name: str) -> None:
    manifest = players_shards(bench)
    for seed in bench.seeds:
        models = models_of(bench, manifest, name, seed)
        for split in SPLITS:
            found = {cell: judged(bench, folder, cell, manifest, split) for cell, folder in models.items()}
            print_table(f"seed {seed}, {split}", found, f"{LEAST[name]:g}" if split == "test" else "")


def models_of(bench: Bench, manifest: Manifest, name: str, seed: int, only: str = "") -> dict[str, Path]:
    """The folders of the cells of an experiment, or of one alone, each trained where it is missing."""
    experiment, folders = load_experiment(name, (), seed), {}
    for cell in experiment.cells():
        if only in ("", cell.name):
            settings = experiment.settings(cell.overrides)
            folders[cell.name] = bench.trained(name, settings, manifest, experiment.validation)
    return folders


def judged(bench: Bench, folder: Path, name: str, manifest: Manifest, split: str) -> FigureEvaluation:
    """The figures of a model on a split."""
    objective = read_card(folder)["objective"]
    seconds = figure_spec(manifest, split, objective).samples / manifest.recipe.sample_rate
    tasks = figure_tasks(Table(manifest.folder, split), Row(name, folder, device=bench.device), seconds)
    return evaluation_by_figure([examine_mixtures(task) for task in tasks], objective, manifest, split)


def print_table(title: str, found: Mapping[str, FigureEvaluation], least: str = "") -> None:
    """A column for each model; the first row is the figure with its interval."""
    first = next(iter(found.values()))
    print(f"\n| {title}: {first.num_pieces} pieces | {' | '.join(found)} | must reach |\n|{'---|' * (len(found) + 2)}")
    cells = []
    for one in found.values():
        low, high = one.interval or (float("nan"), float("nan"))
        cells.append(f"{one.value:.3f} ({low:.3f} to {high:.3f})")
    print(f"| {first.figure.title} | {' | '.join(cells)} | {least} |")
    for row in first.beside:
        print(f"| {row} | {' | '.join(f'{one.beside[row]:.3f}' for one in found.values())} | |", flush=True)
