"""Equal instruments by player: the outputs of a slots model, ordered by an oracle, by the picture or by the wrong one.

    part = evaluate_players(PlayersTask(table, row, alignment_folder, shard))
    evaluation = joined_players([part], "test")
    evaluation.values("picture").median, evaluation.share_right, evaluation.risk_coverage

References are by player, of whole pieces. A piece is separated once; its three rows are the same slots in three orders,
so their differences are the worth of the picture. Of two players a swapped picture is the other order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np
from pydantic import Field
from scipy.stats import binomtest

from vimss.assign import LEAST_CONFIDENCE
from vimss.config import Config
from vimss.errors import DataError
from vimss.evaluate.assigned import AssignedSystem, Order, assigned_system
from vimss.evaluate.records import Values
from vimss.evaluate.tasks import Row, Table
from vimss.intervals import Interval
from vimss.metrics import si_sdr_improvement
from vimss.shards.manifest import Manifest, Shard, open_manifest
from vimss.stream.read import list_clips
from vimss.stream.scene import Scene, pieces_of

ROWS: tuple[Order, ...] = get_args(Order)
"""Of a table of players."""

THRESHOLDS = (0.0, 0.6, 0.7, 0.8, LEAST_CONFIDENCE, 0.95, 0.99)
"""Least confidences of a risk-coverage curve."""


class PieceScore(Config):
    """The players of one whole piece."""

    model_config = Config.model_config | {"allow_inf_nan": True, "ser_json_inf_nan": "strings"}

    piece: str
    players: tuple[str, ...] = Field(description="from left to right: labels, with numbers where several have one")
    si_sdr_improvement: dict[str, tuple[float, ...]] = Field(description="of each player, by the order of the slots")
    right: bool = Field(description="whether the picture gives every player the slot that an oracle gives")
    margin: float = Field(description="difference to the second-best assignment, logits")
    confidence: float = Field(description="estimated probability that it is right")


@dataclass(frozen=True)
class RiskCoverage:
    """What is gained where assignments below a confidence are left out."""

    least_confidence: float
    coverage: float
    """Share of the pieces that are assigned."""
    right: float
    """Share of those in which every player has the right slot; NaN of none."""
    si_sdr_improvement: float
    """Their median by the picture, dB."""


class PlayersEvaluation(Config):
    """One slots model, with one alignment model, on one split."""

    model_config = Config.model_config | {"allow_inf_nan": True, "ser_json_inf_nan": "strings"}

    system: str
    weights: str = Field(description="SHA-256 of the weights of the slots model")
    alignment: str = Field(description="folder of the alignment model")
    split: str
    pieces: tuple[PieceScore, ...]

    def values(self, order: Order, least_confidence: float = 0.0) -> Values:
        """The SI-SDR improvement of every player in this order of the slots."""
        kept = [piece for piece in self.pieces if piece.confidence >= least_confidence]
        found = [(value, (piece.piece,)) for piece in kept for value in piece.si_sdr_improvement[order]]
        return Values(np.array([value for value, _ in found]), [piece for _, piece in found])

    @property
    def share_right(self) -> float:
        """Share of the pieces in which every player has the right slot."""
        return float(np.mean([piece.right for piece in self.pieces]))

    @property
    def share_interval(self) -> Interval:
        """Its exact confidence interval: pieces are independent of each other, and 16 of 16 prove no certainty."""
        right = [piece.right for piece in self.pieces]
        found = binomtest(sum(right), len(right)).proportion_ci()
        return float(found.low), float(found.high)

    @property
    def risk_coverage(self) -> tuple[RiskCoverage, ...]:
        """One point for each of THRESHOLDS."""
        points = []
        for least in THRESHOLDS:
            kept = [piece.right for piece in self.pieces if piece.confidence >= least]
            coverage, right = len(kept) / len(self.pieces), float(np.mean(kept)) if kept else float("nan")
            points.append(RiskCoverage(least, coverage, right, self.values("picture", least).median))
        return tuple(points)

    @property
    def swapped_contrast(self) -> float:
        """Median over players of the improvement by the right picture minus that by the swapped one."""
        right, swapped = (self.values(order).values for order in ("picture", "swapped picture"))
        differences = [float(value) for value in right - swapped if np.isfinite(value)]
        return median(differences) if differences else float("nan")


@dataclass(frozen=True)
class PlayersTask:
    """The whole pieces of a shard for one slots model; plain values that travel to another process."""

    table: Table
    row: Row
    alignment: Path
    shard: Shard

    @property
    def seconds(self) -> float:
        """Seconds of sound that are separated."""
        return self.shard.seconds


@dataclass(frozen=True)
class PlayersPart:
    """The pieces of one task."""

    system: str
    weights: str
    alignment: str
    pieces: tuple[PieceScore, ...]
    seconds: float = 0.0


def check_pieces(manifest: Manifest, split: str) -> tuple[str, ...]:
    """The labels of the players of the piece that has most of them; DataError where no piece has two that sound."""
    players: dict[str, dict[int, str]] = {}
    for clip in list_clips(manifest, split):
        sounding = {place: clip.players[place].instrument for place in clip.sounding}
        players.setdefault(clip.piece, {}).update(sounding)
    most = max(players.values(), key=len)
    if len(most) < 2:
        raise DataError(
            f"the split '{split}' of '{manifest.name}' must have pieces of two or more players that sound",
            got=f"{len(players)} of one player or none",
            fix="use shards of duos, such as `vimss shard duos`",
        )
    return tuple(most.values())


def players_tasks(table: Table, row: Row, alignment: Path, manifest: Manifest) -> list[PlayersTask]:
    """One model in parts for the cores."""
    return [PlayersTask(table, row, alignment, shard) for shard in manifest.of_split(table.split)]


def evaluate_players(task: PlayersTask) -> PlayersPart:
    """Run a task and return its scores."""
    manifest, row = open_manifest(task.table.shards), task.row
    assert row.model is not None, "a row of a model"  # noqa: S101
    system = assigned_system(row.model, task.alignment, manifest, row.name, device=row.device)
    pieces = pieces_of(manifest, task.table.split, system.views, [task.shard], by_player=True)
    scores = tuple(score_players(system, piece, manifest.recipe.sample_rate) for piece in pieces)
    return PlayersPart(row.name, system.weights, str(task.alignment), scores, task.seconds)


def score_players(system: AssignedSystem, piece: Scene, sample_rate: int) -> PieceScore:
    """The players of a piece, in every order."""
    slots, orders = system.separate(piece)
    gains = {
        order: tuple(
            si_sdr_improvement(piece.mixture, piece.references[player], slots[slot], sample_rate)
            for player, slot in zip(piece.views, orders.of(order), strict=True)
        )
        for order in ROWS
    }
    return PieceScore(
        piece=piece.name,
        players=tuple(piece.views),
        si_sdr_improvement=gains,
        right=orders.assignment.slots == orders.oracle,
        margin=orders.assignment.margin,
        confidence=orders.assignment.confidence,
    )


def joined_players(parts: Sequence[PlayersPart], split: str) -> PlayersEvaluation:
    """The evaluation of one model, from the parts of all its tasks in order."""
    first, pieces = parts[0], tuple(piece for part in parts for piece in part.pieces)
    return PlayersEvaluation(
        system=first.system, weights=first.weights, alignment=first.alignment, split=split, pieces=pieces
    )
