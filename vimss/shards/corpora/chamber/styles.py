"""Drawing styles: what changes from one illustrator to the next, so that a network cannot rely on one way of drawing.

    style = style_of(seed=0, piece="train-000-bwv66_6", player=1, styles=24, unseen=False)
    style.proportions.head     # 1.17
    style.palette.name         # "pastel"

The first style, PLAIN, is the only one of a corpus with `styles: 1`. All others are drawn from a family: SEEN for every
split but test_unseen_style, whose players have values of UNSEEN alone. The two share no value: ranges do not overlap,
props and palettes have other names and other colours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from vimss.shards.corpora.chamber.casting import generator
from vimss.shards.corpora.chamber.palettes import CONCERT, SEEN_PALETTES, UNSEEN_PALETTES, Palette

MOST_PROPS = 3
"""Most things that stand around a player."""


@dataclass(frozen=True)
class Proportions:
    """Sizes relative to those of the plain style."""

    head: float = 1.0
    limbs: float = 1.0
    """Width of arms and legs."""
    trunk: float = 1.0
    """Width of the body."""
    arms: float = 1.0
    """Length of the arms."""
    instrument: float = 1.0


@dataclass(frozen=True)
class Posture:
    """How the player sits or stands, and holds the instrument."""

    angle: float = 0.0
    """Added to the instrument's angle in playing position, radians; half as much where it stands on the floor."""
    lean: float = 0.0
    """The whole player, radians."""
    stance: float = 1.0
    """Distance of the feet, and of the knees of those who sit, relative to the plain style."""
    exchanged: bool = False
    """Whether those who play some instruments standing sit, and the other way round. Both families have both."""


@dataclass(frozen=True)
class Camera:
    """How the player is seen."""

    zoom: float = 1.0
    right: float = 0.0
    """Displacement of the player in the picture, in parts of it."""
    down: float = 0.0
    turn: float = 0.0
    """Of the camera, radians."""
    stretch: float = 1.0
    """Width against height."""
    shear: float = 0.0
    blur: float = 0.0
    """Share of the blurred picture in what is seen."""
    contrast: float = 1.0


@dataclass(frozen=True)
class DrawingStyle:
    """One style."""

    proportions: Proportions = Proportions()
    posture: Posture = Posture()
    camera: Camera = Camera()
    palette: Palette = CONCERT
    props: tuple[str, ...] = ()
    """Names in `props.PROPS`, from back to front."""


PLAIN = DrawingStyle()
"""The style of a corpus that has only one."""


@dataclass(frozen=True)
class Family:
    """The values that the styles of some splits have."""

    proportions: Mapping[str, tuple[float, float]]
    posture: Mapping[str, tuple[float, float]]
    camera: Mapping[str, tuple[float, float]]
    palettes: tuple[Palette, ...]
    props: tuple[str, ...]


SIGNED = ("angle", "lean", "right", "down", "turn", "shear")
"""Values whose range is of their magnitude; the sign is drawn too."""

SEEN = Family(
    proportions={
        "head": (0.85, 1.25),
        "limbs": (0.8, 1.25),
        "trunk": (0.88, 1.2),
        "arms": (0.96, 1.08),
        "instrument": (0.92, 1.1),
    },
    posture={"angle": (0.0, 0.12), "lean": (0.0, 0.05), "stance": (0.85, 1.2)},
    camera={
        "zoom": (0.86, 1.05),
        "right": (0.0, 0.03),
        "down": (0.0, 0.03),
        "turn": (0.0, 0.07),
        "stretch": (0.93, 1.08),
        "shear": (0.0, 0.08),
        "blur": (0.0, 0.5),
        "contrast": (0.85, 1.12),
    },
    palettes=SEEN_PALETTES,
    props=("window", "curtain", "picture frame", "lamp", "plant", "music stand"),
)

UNSEEN = Family(
    proportions={
        "head": (1.32, 1.44),
        "limbs": (0.62, 0.74),
        "trunk": (0.6, 0.7),
        "arms": (1.12, 1.2),
        "instrument": (0.82, 0.89),
    },
    posture={"angle": (0.15, 0.21), "lean": (0.065, 0.1), "stance": (1.3, 1.5)},
    camera={
        "zoom": (0.74, 0.82),
        "right": (0.045, 0.06),
        "down": (0.045, 0.06),
        "turn": (0.09, 0.13),
        "stretch": (1.12, 1.2),
        "shear": (0.1, 0.15),
        "blur": (0.65, 0.9),
        "contrast": (0.66, 0.8),
    },
    palettes=UNSEEN_PALETTES,
    props=("door", "bookshelf", "clock", "folding screen", "microphone"),
)


def style_of(seed: int, piece: str, player: int, styles: int, unseen: bool) -> DrawingStyle:
    """The style of a player: one of the corpus' `styles`, each as likely, or an unseen one of this player alone."""
    rng = generator(seed, "style", piece, player)
    if unseen:
        return draw_style(rng, UNSEEN)
    number = int(rng.integers(styles))
    return PLAIN if number == 0 else draw_style(generator(seed, "style", number), SEEN)


def draw_style(rng: np.random.Generator, family: Family) -> DrawingStyle:
    """A random style of a family."""
    return DrawingStyle(
        Proportions(**_values(rng, family.proportions)),
        Posture(**_values(rng, family.posture), exchanged=bool(rng.random() < 0.5)),
        Camera(**_values(rng, family.camera)),
        family.palettes[int(rng.integers(len(family.palettes)))],
        _some(rng, family.props),
    )


def _values(rng: np.random.Generator, ranges: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    drawn = {name: float(rng.uniform(*limits)) for name, limits in ranges.items()}
    return {name: -value if name in SIGNED and rng.random() < 0.5 else value for name, value in drawn.items()}


def _some(rng: np.random.Generator, names: tuple[str, ...]) -> tuple[str, ...]:
    """Some of the names, in their order."""
    count = int(rng.integers(MOST_PROPS + 1))
    return tuple(names[index] for index in sorted(rng.permutation(len(names))[:count].tolist()))


def values_of(style: DrawingStyle) -> dict[str, float]:
    """The numbers of a style by name, magnitudes where the sign is drawn; for tests and tables."""
    parts = (style.proportions, style.posture, style.camera)
    named = {field.name: getattr(part, field.name) for part in parts for field in fields(part)}
    del named["exchanged"]
    return {name: abs(value) if name in SIGNED else value for name, value in named.items()}
