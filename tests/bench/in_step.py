"""How well a score tells which sound a player's motion is in step with: of a trained network, or made by hand.

    parts = parts_of(manifest, "test")
    accuracy_by_player(Learned(network), parts, seconds=5.0)          # {(piece, part): share of right choices}
    accuracy_by_pair(fitted(parts_of(manifest, "valid")), pairs_of(parts), seconds=5.0)

A score has one vector per picture for the sound, and one for the motion; that of two windows is the sum of the products
of their vectors. All choices are between two sounds for a motion, or between two orders of two players.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from vimss.intervals import Source
from vimss.media import INT16_SCALE
from vimss.model.contexts.motion import FOLDER
from vimss.model.motion import REACH
from vimss.shards.manifest import Manifest
from vimss.stream.read import read_pieces
from vimss.stream.stems import SILENCE_RMS
from vimss.train.objectives.alignment import APART, SOUNDING
from vimss.train.objectives.alignment_network import STEP, AlignmentNetwork

LAGS = range(-10, 11)
"""Pictures; at 25 a second up to 0.4 s."""


@dataclass(frozen=True, eq=False)
class Part:
    """A player's sound, or what is put in its place, and motion, throughout a piece."""

    piece: str
    part: str
    label: str
    sound: Float32[np.ndarray, " t"]
    motion: Float[np.ndarray, "v d"]
    heard: Bool[np.ndarray, " v"]
    """Whether the player's own stem sounds during each picture."""
    rate: float
    """Pictures per second."""

    @property
    def source(self) -> Source:
        """Its name in a table."""
        return self.piece, self.part


Scores = Float64[np.ndarray, "n _"]
"""Of windows of motion with windows of sound."""

Vectors = tuple[Float[Tensor, "e w"], Float[Tensor, "e w"]]
"""Of sound and of motion, for each picture that is REACH or more from both ends."""


class Score(Protocol):
    """How well motion and sound fit."""

    correlates: bool
    """Whether windows are divided by their norms: what remains of their product is Pearson's correlation."""

    def vectors(self, part: Part) -> Vectors:
        """Of the sound and of the motion of a part."""


@dataclass(frozen=True)
class Learned:
    """What `objective: alignment` has learned."""

    network: AlignmentNetwork
    correlates = False
    known: dict[Part, Vectors] = field(default_factory=dict, compare=False, repr=False)
    """Windows of all lengths are cut from the same vectors."""

    @torch.no_grad()
    def vectors(self, part: Part) -> Vectors:
        """Those of the network."""
        if part not in self.known:
            device = next(self.network.parameters()).device
            sound, motion = torch.from_numpy(part.sound)[None, None], torch.from_numpy(part.motion)[None]
            heard, seen = self.network.vectors(sound.to(device), motion.to(device))
            self.known[part] = heard[0].cpu(), seen[0].cpu()
        return self.known[part]


@dataclass(frozen=True)
class Correlations:
    """Correlations of a property of the sound with one of the motion, added."""

    signs: Mapping[tuple[str, str], int]
    lags: Mapping[tuple[str, str], int]
    """Pictures by which the motion is delayed."""
    correlates = True

    def vectors(self, part: Part) -> Vectors:
        """One row per correlation."""
        edges = np.linspace(0, len(part.sound), len(part.motion) + 1).astype(int)
        level = np.log(np.add.reduceat(np.square(part.sound), edges[:-1]) / np.diff(edges) + 1e-6)
        energy = part.motion.mean(1)
        rise, onset = (np.diff(track, prepend=track[:1]) for track in (energy, level))
        tracks = {"level": level, "onset": np.maximum(onset, 0), "energy": energy, "rise": rise}
        heard = [sign * tracks[sound] for (sound, _), sign in self.signs.items()]
        seen = [np.roll(tracks[motion], self.lags[sound, motion]) for sound, motion in self.signs]
        return _inner(heard), _inner(seen)


def _inner(rows: Sequence[Float[np.ndarray, " v"]]) -> Float32[Tensor, "e w"]:
    """What an alignment network has a vector of: it loses REACH pictures at either end."""
    return torch.from_numpy(np.stack(rows)[:, REACH:-REACH].astype(np.float32))


PLAIN = Correlations({("onset", "energy"): 1}, {("onset", "energy"): 0})
"""Strength of onsets with energy of motion at the same time. Motion precedes the note: see `fitted`."""


def fitted(parts: Sequence[Part], seconds: float = 5.0) -> Correlations:
    """Four correlations, each with the sign and the lag whose accuracy on these parts is farthest from chance."""
    signs, lags = {}, {}
    for names in itertools.product(("level", "onset"), ("energy", "rise")):
        found = {lag: _mean(accuracy_by_player(Correlations({names: 1}, {names: lag}), parts, seconds)) for lag in LAGS}
        lags[names] = max(found, key=lambda lag: abs(found[lag] - 0.5))
        signs[names] = 1 if found[lags[names]] >= 0.5 else -1
    return Correlations(signs, lags)


def _mean(values: Mapping[Source, float]) -> float:
    return float(np.mean(list(values.values())))


def parts_of(manifest: Manifest, split: str) -> list[Part]:
    """All players of a split who sound."""
    found = []
    for clip in read_pieces(manifest, split, ("audio", "features"), FOLDER):
        for player in clip.players:
            if player.audio is not None and player.features is not None and player.audio.any():
                sound = player.audio.mean(0, dtype=np.float32) / INT16_SCALE
                edges = np.linspace(0, len(sound), len(player.features) + 1).astype(int)
                energy = np.add.reduceat(np.square(sound), edges[:-1])
                heard = energy > SILENCE_RMS**2 * np.diff(edges)
                rate = len(player.features) * manifest.recipe.sample_rate / len(sound)
                motion = np.asarray(player.features, np.float32)
                found.append(Part(clip.piece, player.part, player.instrument, sound, motion, heard, rate))
    return found


def pairs_of(parts: Sequence[Part], same: bool = True) -> list[tuple[Part, Part]]:
    """Two players of one piece with the same instrument, or with different ones."""
    pieces = [list(group) for _, group in itertools.groupby(parts, key=lambda part: part.piece)]
    pairs = [pair for piece in pieces for pair in itertools.combinations(piece, 2)]
    return [(one, other) for one, other in pairs if (one.label == other.label) == same]


def with_crosstalk(pair: tuple[Part, Part], share: float) -> tuple[Part, Part]:
    """A share of the other's amplitude in the sound of each."""
    one, other = pair
    return (
        replace(one, sound=one.sound + np.float32(share) * other.sound),
        replace(other, sound=other.sound + np.float32(share) * one.sound),
    )


def in_the_mixture(parts: Sequence[Part]) -> list[Part]:
    """All players of a piece in the sound of each."""
    found = []
    for _, group in itertools.groupby(parts, key=lambda part: part.piece):
        players = list(group)
        total = np.sum([player.sound for player in players], axis=0, dtype=np.float32)
        found += [replace(player, sound=np.asarray(total)) for player in players]
    return found


def _windows(rows: Float[Tensor, "e w"], length: int, step: int, scaled: bool) -> Float[Tensor, "n e l"]:
    """Windows of all rows without their mean and, for a correlation, divided by their norm."""
    cut = rows.unfold(1, length, step).transpose(0, 1)
    cut = cut - cut.mean(2, keepdim=True)
    return cut / (cut.square().sum(2, keepdim=True).sqrt() + 1e-6) if scaled else cut


def _table(score: Score, moving: Part, sounding: Part, seconds: float) -> Float[np.ndarray, "n n"]:
    """Scores of the motion of one part with the sound of another one, of windows every STEP seconds."""
    length, step = round(seconds * moving.rate), round(STEP * moving.rate)
    heard, seen = score.vectors(sounding)[0], score.vectors(moving)[1]
    if seen.shape[1] < length:
        return np.zeros((0, 0), np.float32)
    motion, sound = (_windows(rows, length, step, score.correlates) for rows in (seen, heard))
    return (motion.flatten(1) @ sound.flatten(1).T).numpy()


def _sounding(part: Part, seconds: float, least: float) -> Bool[np.ndarray, " n"]:
    """The windows in which the part sounds for so large a share."""
    length, step = round(seconds * part.rate), round(STEP * part.rate)
    inner = torch.from_numpy(part.heard[REACH:-REACH].astype(np.float32))
    return (inner.unfold(0, length, step).mean(1) >= least).numpy() if len(inner) >= length else np.zeros(0, bool)


def accuracy_by_player(
    score: Score, parts: Sequence[Part], seconds: float, shown: Sequence[Part] | None = None
) -> dict[Source, float]:
    """Two-alternative accuracy: the sound of the same time against those APART seconds or more away.

    `shown` are the parts whose motion is shown, where it is not each part's own.
    """

    def wins(right: Scores, others: Scores) -> Scores:
        return (right > others) + 0.5 * (right == others)

    return _by_player(score, parts, seconds, wins, shown or parts)


def bits_by_player(score: Score, parts: Sequence[Part], seconds: float) -> dict[Source, float]:
    """What a score says of the same choices, in bits: 1 where it is sure and right, 0 where it says nothing.

    Of two sounds the right one has the probability that the sigmoid gives the difference of their scores. An accuracy
    counts the smallest difference like the largest.
    """

    def bits(right: Scores, others: Scores) -> Scores:
        return 1 - np.logaddexp(0, others - right) / np.log(2)

    return _by_player(score, parts, seconds, bits, parts)


def _by_player(
    score: Score,
    parts: Sequence[Part],
    seconds: float,
    worth: Callable[[Scores, Scores], Scores],
    shown: Sequence[Part],
) -> dict[Source, float]:
    """The mean of what right scores are worth beside those of APART seconds or more away."""
    found = {}
    for part, moving in zip(parts, shown, strict=True):
        table, heard = _table(score, moving, part, seconds), _sounding(part, seconds, SOUNDING)
        count = min(*table.shape, len(heard))
        starts = np.arange(count) * round(STEP * part.rate)
        wrong = np.abs(starts[:, None] - starts) >= round(APART * part.rate)
        counted = heard[:count] & wrong.any(1)
        if counted.any():
            table = table[:count, :count].astype(np.float64)
            values = worth(np.diagonal(table)[:, None], table)
            shares = (values * wrong).sum(1)[counted] / wrong.sum(1)[counted]
            found[part.source] = float(shares.mean())
    return found


def of_other_pieces(parts: Sequence[Part]) -> list[Part]:
    """For each part one of the next piece, whose motion has nothing to do with it."""
    pieces = [list(group) for _, group in itertools.groupby(parts, key=lambda part: part.piece)]
    following = [*pieces[1:], pieces[0]]
    return [
        other[number % len(other)] for own, other in zip(pieces, following, strict=True) for number in range(len(own))
    ]


def accuracy_by_pair(
    score: Score, pairs: Sequence[tuple[Part, Part]], seconds: float, least: float = SOUNDING
) -> dict[Source, float]:
    """How often two players and two sounds are assigned rightly, over the windows in which both sound enough."""
    found = {}
    for pair in pairs:
        own, exchanged = (
            np.sum(
                [
                    np.diagonal(_table(score, moving, sounding, seconds))
                    for moving, sounding in zip(pair, sounds, strict=True)
                ],
                axis=0,
            )
            for sounds in (pair, pair[::-1])
        )
        both = np.logical_and(*(_sounding(part, seconds, least) for part in pair))[: len(own)]
        if both.any():
            wins = (own > exchanged) + 0.5 * (own == exchanged)
            found[pair[0].piece, f"{pair[0].part}, {pair[1].part}"] = float(wins[both].mean())
    return found
