"""Stems of players of one instrument: the slots of a recording, assigned by the motion in its picture.

    assigner = open_assigner(alignment, "models:/alignment", separator, Recording(file, ("vn", "vn")))
    stems, found = assigner.rename(stems, sample_rate)       # {"vn-left": ..., "vn-right": ...}
    found.sentence                                           # for the page

Players stand side by side in equal columns of the picture. Where the assignment is less certain than
`assign.LEAST_CONFIDENCE`, stems keep the numbers of their slots.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16

from vimss.assign import LEAST_CONFIDENCE, Assignment, Slots, alignment_scores, assign, check_slots, load_alignment
from vimss.errors import ModelError
from vimss.media.disk import DiskAudio
from vimss.model.contexts import Recording
from vimss.model.contexts.motion import check_visible, motion_of
from vimss.model.contexts.recording import player_pictures
from vimss.model.interface import names_by_place
from vimss.model.separator import Separator, read_card
from vimss.separate.players import checked_names
from vimss.train.objectives.alignment_network import AlignmentNetwork


@dataclass(frozen=True)
class Assigned:
    """The result of an assignment, for people and for a script."""

    assignment: Assignment
    slots: Mapping[str, str]
    """Stem of a player to the name of its slot, also where stems keep the numbers of their slots."""
    alignment: str
    """The alignment model's name."""

    @property
    def sentence(self) -> str:
        """How certain it is, and what follows."""
        confidence = f"confidence {self.assignment.confidence:.2f}"
        if self.assignment.is_certain:
            return f"stems are assigned to players by their motion, {confidence}, by {self.alignment}"
        return (
            f"it is not certain which stem is whose ({confidence}, below {LEAST_CONFIDENCE:g}): stems keep the numbers "
            "of their slots"
        )

    @property
    def summary(self) -> dict[str, Any]:
        """For a script."""
        found = self.assignment
        about = {"confidence": found.confidence, "certain": found.is_certain, "alignment": self.alignment}
        return {"slots": dict(self.slots), **about}


@dataclass(frozen=True, eq=False)
class Assigner:
    """An alignment model and the motion of the players of a recording."""

    network: AlignmentNetwork
    name: str
    names: tuple[str, ...]
    """Names of the players' stems, from left to right."""
    motion: Float16[np.ndarray, "p v d"]
    frame_rate: float

    def rename(self, stems: Mapping[str, DiskAudio], sample_rate: int) -> tuple[dict[str, DiskAudio], Assigned]:
        """The stems of slots as stems of players, those first; slots without a player keep their names."""
        slots = list(stems)
        samples = stems[slots[0]].samples
        motion = self._during(samples / sample_rate)
        sound = Slots(
            lambda first, last: np.stack([stems[slot].read(first, last) for slot in slots]), samples, sample_rate
        )
        found = assign(alignment_scores(self.network, sound, motion).sum(0))
        of_player = {name: slots[slot] for name, slot in zip(self.names, found.slots, strict=True)}
        assigned = Assigned(found, of_player, self.name)
        if not found.is_certain:
            return dict(stems), assigned
        left_over = {slot: stems[slot] for slot in slots if slot not in of_player.values()}
        return {name: stems[slot] for name, slot in of_player.items()} | left_over, assigned

    def _during(self, seconds: float) -> Float16[np.ndarray, "p u d"]:
        """The motion for as long as the sound lasts: row j is that at (j + 0.5) / frame_rate. Beyond the end of the
        picture is stillness.
        """
        count = max(1, round(seconds * self.frame_rate))
        missing = max(0, count - self.motion.shape[1])
        return np.pad(self.motion[:, :count], ((0, 0), (0, missing), (0, 0)))


def open_assigner(folder: Path, name: str, separator: Separator, recording: Recording) -> Assigner:
    """The alignment model in `folder`, called `name`, with the motion of the players of a recording.

    Raises:
        ConfigError: fewer than two players, or more than the separator has slots.
        MediaError: no picture, one that stops before the sound, or too few pictures a second for motion.
        ModelError: a separator without slots, or a model of another objective than alignment.

    """
    if not separator.interface.any_order:
        raise ModelError(
            "--alignment assigns the outputs of a slots model, whose order is unknown",
            got=f"a model with outputs: {separator.config.outputs}",
            fix="leave --alignment out, or separate with a model of outputs: slots",
        )
    network = load_alignment(folder)
    check_slots(separator.config.slots, recording.players)
    names = checked_names(names_by_place(recording.players))
    check_visible(recording, "to assign stems to players by their motion", "leave --alignment out")
    seen = replace(recording, card=read_card(folder)["card"])
    motion = np.stack([motion_of(pictures) for pictures in player_pictures(seen)])
    return Assigner(network, name, names, motion, seen.picture.frame_rate)
