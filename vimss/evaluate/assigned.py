"""A slots model as a system whose outputs are players: an alignment model assigns the slots.

system = assigned_system(folder, alignment, manifest, "best trial", order="picture")
estimates = system(scene, ["vn 1", "vn 2"])                             # [2 c t]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from vimss.assign import Assignment, Slots, alignment_scores, assign, check_slots, load_alignment
from vimss.errors import ModelError
from vimss.model.device import on_device
from vimss.model.separator import load_separator, read_card
from vimss.shards.manifest import Manifest
from vimss.stream.mix import PlayerViews
from vimss.stream.scene import Scene
from vimss.systems import ModelSystem, WrongContext, best_order, check_same_recipe
from vimss.train.objectives import open_objective
from vimss.train.objectives.alignment_network import AlignmentNetwork

Order = Literal["oracle", "picture", "swapped picture"]
"""How slots become players: by the true stems, by the motion of each player, or by that of the next player."""

ORDERS: dict[Order, str] = {"oracle": "an oracle", "picture": "the picture", "swapped picture": "the swapped picture"}
"""In the names of rows."""


@dataclass(frozen=True)
class SlotOrders:
    """The slots of the players of a scene, in the order of its views."""

    oracle: tuple[int, ...]
    assignment: Assignment
    """By the motion of each player."""

    def of(self, order: Order) -> tuple[int, ...]:
        """The slot of each player; with swapped pictures, the one that is assigned to the next player."""
        if order == "oracle":
            return self.oracle
        by_picture = self.assignment.slots
        return by_picture if order == "picture" else (*by_picture[1:], by_picture[0])


class AssignedSystem:
    """A slots model whose outputs are assigned to players, for scenes with references and views by player."""

    ordered = True
    wrong_context: WrongContext = "none"

    def __init__(self, model: ModelSystem, alignment: AlignmentNetwork, views: PlayerViews, order: Order) -> None:
        """`views` show the motion of the players."""
        self.model, self.alignment, self.views, self.order = model, alignment, views, order
        self.name, self.weights = f"{model.name}, ordered by {ORDERS[order]}", model.weights

    def __call__(self, scene: Scene, queried: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """The slots of the queried players."""
        slots, orders = self.separate(scene)
        of_player = dict(zip(scene.views, orders.of(self.order), strict=True))
        return slots[[of_player[player] for player in queried]]

    def separate(self, scene: Scene) -> tuple[Float[np.ndarray, "k c t"], SlotOrders]:
        """All slots, and those of the players."""
        players, rate = list(scene.views), self.model.separator.sample_rate
        check_slots(self.model.separator.config.slots, players)
        slots = self.model.slots(scene)
        motion = np.stack([view for views in scene.views.values() for view in views])
        scores = alignment_scores(self.alignment, Slots.of(slots, rate), motion).sum(0)
        oracle = best_order(slots, scene, players, rate)
        return slots, SlotOrders(tuple(oracle.tolist()), assign(scores))

    def exchanged(self, scene: Scene, label: str, absent: str) -> Float[np.ndarray, "c t"]:
        """Never called: the wrong context is the order "swapped picture"."""
        raise TypeError("players have no label to exchange")


def assigned_system(
    folder: Path, alignment: Path, manifest: Manifest, name: str, order: Order = "picture", device: str = "cpu"
) -> AssignedSystem:
    """The slots model in `folder` with the alignment model in `alignment`, to be evaluated on duos.

    Raises:
        DataError: The motion of the players is not beside the shards.
        ModelError: One of the two is no model of its kind, or of another rate or other labels than the shards.

    """
    separator = on_device(load_separator(folder), device)
    if separator.config.outputs != "slots":
        raise ModelError(
            "outputs that are assigned to players must be slots, whose order is unknown",
            got=f"outputs: {separator.config.outputs} in {folder}",
            fix="evaluate this model without --alignment",
        )
    check_same_recipe(separator, folder, manifest, name)
    network = load_alignment(alignment)
    objective = open_objective(network.settings, manifest)
    assert isinstance(objective.interface, PlayerViews), "alignment shows motion"  # noqa: S101
    model = ModelSystem(separator, name, weights=read_card(folder)["sha256"])
    return AssignedSystem(model, network, objective.interface, order)
