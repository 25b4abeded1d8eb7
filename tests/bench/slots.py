"""The section `slots` of vision.py: two equal instruments separated into slots, and the slots assigned by the picture.

A separator with the settings of experiments/duos.yaml is trained on duets alone, for each seed, at most for what two
cores do in ten minutes. What is separated are whole pieces of a split that training did not have. Trainings are resumed
from their last checkpoint, and what is finished is kept.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from kept import DUOS, Bench
from scipy.optimize import minimize_scalar
from scipy.special import expit

from vimss.assign import TEMPERATURE
from vimss.evaluate import Row, Table
from vimss.evaluate.players import PlayersEvaluation, evaluate_players, joined_players, players_tasks
from vimss.evaluate.records import Values
from vimss.intervals import Interval, interval_over_pieces, weighted_median
from vimss.pages.charts import curves_png
from vimss.search.consistency import load_experiment

LEAST_ORACLE, LEAST_SHARE, LEAST_CONTRAST, LEAST_RIGHT = 2.0, 0.9, 4.0, 0.9

MOST_SECONDS = 1200
"""Ten minutes of two cores."""


def slots(bench: Bench) -> None:
    """Slots of two equal instruments on whole unseen pieces, in the order of an oracle and of the picture."""
    models = {seed: separator(bench, seed) for seed in bench.seeds}
    valid, test = (
        [evaluated(bench, seed, model, split) for seed, model in models.items()] for split in ("valid", "test")
    )
    columns = ("", *(f"seed {seed}" for seed in bench.seeds), "must reach")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for what, least, of in FIGURES:
        print(f"| {what} | {' | '.join(of(one) for one in test)} | {least} |")
    temperature = fitted_temperature(valid)
    right = np.mean([one.share_right for one in valid])
    pieces = len(valid[0].pieces)
    print(f"valid, {pieces} pieces: {right:.2f} right; likeliest temperature {temperature:.2g}, in use {TEMPERATURE:g}")
    _print_curves(bench, test)


def separator(bench: Bench, seed: int) -> Path:
    """The folder of experiments/duos.yaml trained with this seed."""
    experiment, manifest = load_experiment("duos", (), seed), bench.shards(DUOS)
    return bench.trained("slots", experiment.settings(), manifest, experiment.validation)


def evaluated(bench: Bench, seed: int, model: Path, split: str) -> PlayersEvaluation:
    """Whole pieces of a split, by the alignment model of the same seed, which never saw a duet."""
    manifest, alignment = bench.shards(DUOS), bench.alignment_folder(seed)
    tasks = players_tasks(
        Table(manifest.folder, split), Row(f"seed {seed}", model, device=bench.device), alignment, manifest
    )
    return joined_players([evaluate_players(task) for task in tasks], split)


def _decibel(middle: float, interval: Interval | None) -> str:
    low, high = interval or (float("nan"), float("nan"))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _improvement(values: Values) -> str:
    """Median over players, with its interval over pieces, and the mean."""
    return f"{_decibel(values.median, values.interval)}, mean {values.mean:.2f}"


def _contrast(one: PlayersEvaluation) -> str:
    right, swapped = one.values("picture"), one.values("swapped picture")
    differences = right.values - swapped.values
    interval = interval_over_pieces(right.pieces, lambda weights: weighted_median(differences, weights))
    return _decibel(one.swapped_contrast, interval)


def _right(one: PlayersEvaluation) -> str:
    return f"{_decibel(one.share_right, one.share_interval)}, {len(one.pieces)} pieces"


def _share(one: PlayersEvaluation) -> str:
    return f"{one.values('picture').median / one.values('oracle').median:.2f}"


FIGURES: tuple[tuple[str, str, Callable[[PlayersEvaluation], str]], ...] = (
    ("SI-SDRi ordered by an oracle, dB", f"{LEAST_ORACLE:g}", lambda one: _improvement(one.values("oracle"))),
    ("ordered by the picture, dB", "", lambda one: _improvement(one.values("picture"))),
    ("ordered by the swapped picture, dB", "", lambda one: _improvement(one.values("swapped picture"))),
    ("the picture's share of the oracle's", f"{LEAST_SHARE:g}", _share),
    ("right minus swapped picture, dB", f"{LEAST_CONTRAST:g}", _contrast),
    ("pieces in which the picture is right", f"{LEAST_RIGHT:g}", _right),
)
"""Row, what it must reach, and its value for one seed."""


def fitted_temperature(evaluations: Sequence[PlayersEvaluation]) -> float:
    """The temperature under which it is likeliest what was right and what was wrong.

    With Platt's (1999) targets, which stand for what is unknown of few pieces: where all are right, or margins are
    large, the likeliest one would be 0.
    """
    scores = [piece for one in evaluations for piece in one.pieces]
    margins, right = np.array([piece.margin for piece in scores]), np.array([piece.right for piece in scores])
    target = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))

    def surprise(log_temperature: float) -> float:
        likely = np.clip(expit(margins / np.exp(log_temperature)), 1e-9, 1 - 1e-9)
        return float(-(target * np.log(likely) + (1 - target) * np.log(1 - likely)).sum())

    return float(np.exp(minimize_scalar(surprise, bounds=(-2, 6), method="bounded").x))


def risk_coverage(one: PlayersEvaluation) -> tuple[list[float], list[float]]:
    """Share of the pieces that are assigned, the most certain first, and the share of those that are right."""
    right = [piece.right for piece in sorted(one.pieces, key=lambda piece: -piece.margin)]
    count = np.arange(1, len(right) + 1)
    return list(count / len(right)), list(np.cumsum(right) / count)


def _print_curves(bench: Bench, test: Sequence[PlayersEvaluation]) -> None:
    """The curve of each seed, as numbers and as a picture."""
    print("\n| coverage | share right, by seed |\n|---|---|")
    curves = {one.system: risk_coverage(one) for one in test}
    coverages = next(iter(curves.values()))[0]
    for row, coverage in enumerate(coverages):
        print(f"| {coverage:.2f} | {' | '.join(f'{shares[row]:.2f}' for _, shares in curves.values())} |")
    picture = bench.folder / "vision" / "risk-coverage.png"
    picture.write_bytes(curves_png(curves, "share of the pieces that are assigned", "share of those that are right"))
    print(f"the curve: {picture}")
