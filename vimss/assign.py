"""Which slot is which player's: the outputs of a slots model and the motion of the players in, an assignment out.

    scores = alignment_scores(network, sound, motion)     # "w k p": stretch, slot, player
    found = assign(scores.sum(0))
    found.slots, found.confidence                          # (1, 0), 0.97: the first player is heard in the second slot

Slots have no order and players of one instrument have one label, so only the picture says who plays what. An alignment
model (see `vimss.train.objectives.alignment`) scores every slot against every player, in stretches of STRETCH_SECONDS:
each is standardised by itself, as the excerpts of its training were, and a long piece takes no more memory than a short
one. Scores of stretches are logits of independent evidence, so they add up.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.special import expit

from vimss.errors import ConfigError, ModelError
from vimss.media.resample import resample
from vimss.model.separator import read_card
from vimss.train.objectives.alignment_network import AlignmentNetwork
from vimss.train.objectives.saved import load_network

STRETCH_SECONDS = 10.0
"""About as long as the excerpts that alignment is trained on."""

TEMPERATURE = 8.0
"""Divides the margin of an assignment, in logits, before it becomes a probability: the most likely one for 52 duos of
slots from two short trainings, valid and test. True stems have margins of 57 and more."""

LEAST_CONFIDENCE = 0.9
"""Below it slots keep their numbers."""


@dataclass(frozen=True, eq=False)
class Slots:
    """The outputs of a slots model, which may lie on a disk."""

    read: Callable[[int, int], Float[np.ndarray, "k c n"]]
    """Gives samples of every slot, from the first to the last, exclusive."""
    samples: int
    sample_rate: int

    @classmethod
    def of(cls, sound: Float[np.ndarray, "k c t"], sample_rate: int) -> "Slots":
        """Slots in memory."""
        return cls(lambda first, last: sound[..., first:last], sound.shape[-1], sample_rate)


@dataclass(frozen=True)
class Assignment:
    """Which slot each player is heard in."""

    slots: tuple[int, ...]
    """The slot of each player, in the order of the players."""
    margin: float
    """Difference of its score to that of the second-best assignment, in logits."""

    @property
    def confidence(self) -> float:
        """Probability that all players have the right slot, from the margin."""
        return float(expit(self.margin / TEMPERATURE))

    @property
    def is_certain(self) -> bool:
        """Whether stems can be named by players."""
        return self.confidence >= LEAST_CONFIDENCE


def load_alignment(folder: Path) -> AlignmentNetwork:
    """The alignment model in a folder; ModelError where it is of another objective."""
    objective = read_card(folder).get("objective", "separation")
    if objective != "alignment":
        raise ModelError(
            "--alignment must be a model of the objective 'alignment', which says whose motion a sound is in step with",
            got=f"{'a separator' if objective == 'separation' else f'one of the objective {objective!r}'} in {folder}",
            fix="train one with `vimss search alignment`, and give its folder or models:/alignment",
        )
    return cast(AlignmentNetwork, load_network(folder))


def check_slots(slots: int, players: Sequence[str]) -> None:
    """ConfigError unless there are several players, and a slot for each."""
    if len(players) < 2:
        raise ConfigError(
            "stems are assigned to players where two or more of them play",
            got=", ".join(players) or "none",
            fix="name all players from left to right, as in --instruments vn,vn, or leave --alignment out",
        )
    if len(players) > slots:
        counted = "1 slot separates 1 player" if slots == 1 else f"{slots} slots separates at most {slots} players"
        raise ConfigError(
            f"a model with {counted}",
            got=f"{len(players)}: {', '.join(players)}",
            fix=f"use a model with model.slots: {len(players)} or more",
        )


def alignment_scores(
    network: AlignmentNetwork, slots: Slots, motion: Float[np.ndarray, "p v d"]
) -> Float[np.ndarray, "w k p"]:
    """The score of every slot with the motion of every player, for each stretch of the piece in turn."""
    pictures, scores = motion.shape[1], []
    count = max(1, round(slots.samples / slots.sample_rate / STRETCH_SECONDS))
    edges = np.linspace(0, pictures, count + 1).round().astype(int)
    for first, last in itertools.pairwise(edges.tolist()):
        begin, end = (round(edge * slots.samples / pictures) for edge in (first, last))
        sound = _at_rate(slots.read(begin, end), slots.sample_rate, network.sample_rate)
        seen = np.broadcast_to(motion[:, first:last], (len(sound), *motion[:, first:last].shape))
        scores.append(network.predict({"mixture": sound, "motion": seen})["alignment"])
    return np.stack(scores)


def _at_rate(sound: Float[np.ndarray, "k c n"], rate: int, wanted: int) -> Float[np.ndarray, "k c u"]:
    sound = sound.astype(np.float32)
    return sound if rate == wanted else np.stack([resample(slot, rate, wanted) for slot in sound])


def assign(scores: Float[np.ndarray, "k p"]) -> Assignment:
    """The slot of each player with the highest sum of scores; more slots than players are left over."""
    best, total = _best(scores)
    others = []
    for player, slot in enumerate(best):
        without = scores.copy()
        without[slot, player] = -np.inf
        # With one slot and one player there is no other assignment.
        if len(scores) > 1:
            others.append(_best(without)[1])
    margin = total - max(others, default=-np.inf)
    return Assignment(best, margin)


def _best(scores: Float[np.ndarray, "k p"]) -> tuple[tuple[int, ...], float]:
    """The slot of each player, and the sum of their scores."""
    players, slots = linear_sum_assignment(scores.T, maximize=True)
    return tuple(slots.tolist()), float(scores[slots, players].sum())
