"""The plan of the corpus: pieces with their splits, scores and instruments, before any score is read.

    plan = make_plan(seed=0, minutes=14.0, piece_seconds=30.0)
    plan["train-000-bwv66_6"].instruments  # ("vn", "tba", "cl")

Every four pieces of a split are a duet, a trio and two quartets, 13 players in all, which use each of the 13
instruments once: so every split has every instrument, and all of them about equally often. A share of the pieces,
`doubles`, are duets of two equal instruments instead: only a picture tells who of the two plays which part.
"""

import hashlib
import itertools
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

import numpy as np

from vimss.shards.corpora.chamber.catalogue import Work, chorales, quartets
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.recipe import SPLITS

UNSEEN_STYLE = "test_unseen_style"
"""The split whose players are drawn in styles of their own, which has minutes of its own."""

SHARES = dict(zip(SPLITS[:5], (0.55, 0.12, 0.11, 0.12, 0.10), strict=True))
"""Share of each other split in the minutes."""

FEWEST_PIECES = 4
"""Fewest pieces of a split: four use each of the 13 instruments once."""

JUDGING, PIECES_TO_JUDGE, SHORTEST_TO_JUDGE = ("promote", "test"), 16, 10.0
"""Splits whose pieces are compared, the number of pieces that this needs, and the shortest piece in seconds. Intervals
are over pieces, so in these splits a small corpus has more and shorter ones."""

MOST_PLAYERS = 4
"""Largest number of different instruments in a piece."""

DOUBLES_FROM_MINUTES = 30.0
"""In corpora of at least this length, every tenth piece has two players of one instrument."""

RANGES = {
    "bn": (34, 74),
    "cl": (50, 89),
    "db": (28, 65),
    "fl": (60, 94),
    "hn": (38, 77),
    "ob": (58, 89),
    "sax": (44, 74),
    "tba": (29, 63),
    "tbn": (40, 72),
    "tpt": (54, 84),
    "va": (48, 86),
    "vc": (36, 77),
    "vn": (55, 96),
}
"""Lowest and highest sounding MIDI pitch of each instrument in chamber music."""


@dataclass(frozen=True)
class Casting:
    """One piece before its score is read: a stretch of a score and the instruments that play it."""

    name: str
    split: str
    composition: str
    score: str
    slot: tuple[int, int]
    """(index, count): the piece is this one of `count` equal parts of the score, which several pieces may share."""
    seconds: float
    instruments: tuple[str, ...]
    resting: str | None
    """Instrument of an additional player, who is visible and plays nothing."""


def generator(seed: int, *names: object) -> np.random.Generator:
    """A generator that depends only on the seed and the names, not on order or process."""
    digest = hashlib.sha256(":".join(map(str, (seed, *names))).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


@lru_cache(maxsize=8)
def make_plan(
    seed: int,
    minutes: float,
    piece_seconds: float,
    only_chorales: bool = False,
    labels: tuple[str, ...] = tuple(INSTRUMENTS),
    doubles: float = 0.0,
    unseen_style_minutes: float = 0.0,
) -> dict[str, Casting]:
    """All pieces of the corpus by name, in the order of the splits; `labels` are at least four instruments."""
    plan: dict[str, Casting] = {}
    lengths = {split: minutes * 60 * share for split, share in SHARES.items()}
    if unseen_style_minutes:
        lengths[UNSEEN_STYLE] = unseen_style_minutes * 60
    for split, seconds in lengths.items():
        rng = generator(seed, "cast", split)
        count = max(FEWEST_PIECES, int(np.ceil(seconds / piece_seconds - 1e-9)))
        if split in JUDGING:
            count = max(count, min(PIECES_TO_JUDGE, int(seconds / SHORTEST_TO_JUDGE)))
        scores = _choose_scores(rng, split, count, only_chorales)
        pairs = itertools.cycle(_shuffled(generator(seed, "doubles", split), labels))
        for number, (instruments, (composition, score, slot)) in enumerate(
            zip(_deal(rng, count, labels), scores, strict=True)
        ):
            cast, resting = _guests(rng, instruments, labels, doubles=minutes >= DOUBLES_FROM_MINUTES)
            if int((number + 1) * doubles) > int(number * doubles):  # evenly spread over the split
                cast, resting = (next(pairs),) * 2, None
            stem = PurePosixPath(score).with_suffix("")
            title = (stem.name if stem.parts[0] == "bach" else "-".join(stem.parts)).replace(".", "_")
            name = f"{split}-{number:03d}-{title}"
            plan[name] = Casting(name, split, composition, score, slot, seconds / count, cast, resting)
    return plan


def _choose_scores(
    rng: np.random.Generator, split: str, count: int, only_chorales: bool
) -> list[tuple[str, str, tuple[int, int]]]:
    """Composition, score and slot of each piece: chorales and quartets in turn, each work as rarely as possible."""
    sources = [_in_turn(rng, chorales(split))] if chorales(split) else []
    if not only_chorales:
        sources.append(_in_turn(rng, quartets(split)))
    kinds = len(sources)
    chosen = [sources[number % kinds][number // kinds % len(sources[number % kinds])] for number in range(count)]
    uses = {score: sum(score == other for _, other in chosen) for _, score in chosen}
    seen: dict[str, int] = {}
    slots = []
    for composition, score in chosen:
        seen[score] = seen.get(score, 0) + 1
        slots.append((composition, score, (seen[score] - 1, uses[score])))
    return slots


def _in_turn(rng: np.random.Generator, works: tuple[Work, ...]) -> list[tuple[str, str]]:
    """(composition, score) of all scores, ordered so that no work repeats before all others were used."""
    shuffled = [(work.composition, rng.permutation(np.array(work.scores))) for work in works]
    shuffled = [shuffled[index] for index in rng.permutation(len(shuffled))]
    longest = max(len(scores) for _, scores in shuffled)
    return [
        (composition, str(scores[turn]))
        for turn in range(longest)
        for composition, scores in shuffled
        if turn < len(scores)
    ]


def _deal(rng: np.random.Generator, count: int, labels: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Instruments of each of `count` pieces: two to four, all different, and all labels in turn."""
    hands: list[tuple[str, ...]] = []
    deck: list[str] = []
    while len(hands) < count:
        deck = deck or _shuffled(rng, labels)
        for players in rng.permutation(np.array([2, 3, 4, 4])):
            if len(deck) < players:
                # The rest of the deck is dealt first, so that all labels occur equally often.
                deck += [code for code in _shuffled(rng, labels) if code not in deck]
            hands.append(tuple(deck[:players]))
            del deck[:players]
    return hands[:count]


def _shuffled(rng: np.random.Generator, labels: tuple[str, ...]) -> list[str]:
    return [str(code) for code in rng.permutation(np.array(labels))]


def _guests(
    rng: np.random.Generator, instruments: tuple[str, ...], labels: tuple[str, ...], doubles: bool
) -> tuple[tuple[str, ...], str | None]:
    """The players, sometimes with a second one of the same instrument, or one who rests throughout."""
    chance = rng.random()
    if len(instruments) == 4:
        return instruments, None
    # Only half of the pieces, duets and trios, have a free seat: a fifth of those is a tenth of all.
    if doubles and chance < 0.2:
        return (*instruments, instruments[int(rng.integers(len(instruments)))]), None
    if chance > 0.8:
        others = [code for code in labels if code not in instruments]
        return instruments, others[int(rng.integers(len(others)))]
    return instruments, None
