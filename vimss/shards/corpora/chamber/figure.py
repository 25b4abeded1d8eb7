"""A pen that draws on a canvas with a fourth channel for masks, and the body of a player.

Places are complex numbers: the picture is the square from 0 to 1 + 1j, x to the right, y down. The canvas has twice
the picture's side and is averaged down, which smooths the edges; the fourth channel holds what a pixel belongs to and
is never averaged, so masks are exact and nearly free.
"""

import cmath
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Complex128, UInt8

from vimss.shards.corpora.chamber.skeleton import SIDES

SCENE, PLAYER, INSTRUMENT = 0, 1, 2
"""Values of the canvas' fourth channel."""

SUPERSAMPLING = 2

Paint = tuple[int, int, int, int]
"""Red, green, blue, and the value of the fourth channel."""

_FRACTION = 4
"""Fractional bits of OpenCV's coordinates."""

cv2.setNumThreads(1)  # the callers run one process per core


class Pen:
    """Draws filled shapes and lines, moved by `turn` and `shift`: place -> place * turn + shift."""

    def __init__(self, size: int) -> None:
        side = size * SUPERSAMPLING
        self.canvas: UInt8[np.ndarray, "h w 4"] = np.zeros((side, side, 4), np.uint8)
        self._side = side
        self._unit = side * (1 << _FRACTION)
        self.turn = 1 + 0j
        self.shift = 0j
        self.joints: dict[str, complex] = {}
        """Places in the picture of the joints of `skeleton.JOINTS` marked so far."""

    def mark(self, joint: str, place: complex) -> None:
        """Record the place of a joint; draws nothing."""
        self.joints[joint] = place * self.turn + self.shift

    def line(self, begin: complex, end: complex, width: float, paint: Paint) -> None:
        """A line with round ends, `width` in parts of the picture."""
        a = (begin * self.turn + self.shift) * self._unit
        b = (end * self.turn + self.shift) * self._unit
        thickness = max(1, round(width * self._side))
        cv2.line(self.canvas, (int(a.real), int(a.imag)), (int(b.real), int(b.imag)), paint, thickness, 8, _FRACTION)

    def disc(self, centre: complex, radius: float, paint: Paint) -> None:
        """A filled circle."""
        c = (centre * self.turn + self.shift) * self._unit
        cv2.circle(self.canvas, (int(c.real), int(c.imag)), int(radius * self._unit), paint, -1, 8, _FRACTION)

    def ring(self, centre: complex, radius: float, width: float, paint: Paint) -> None:
        """A circle's outline."""
        c = (centre * self.turn + self.shift) * self._unit
        thickness = max(1, round(width * self._side))
        cv2.circle(self.canvas, (int(c.real), int(c.imag)), int(radius * self._unit), paint, thickness, 8, _FRACTION)

    def fill(self, outline: Complex128[np.ndarray, " n"], paint: Paint) -> None:
        """A filled polygon, convex or not."""
        cv2.fillPoly(self.canvas, [self._points(outline)], paint, 8, _FRACTION)

    def fill_convex(self, outline: Complex128[np.ndarray, " n"], paint: Paint) -> None:
        """A filled convex polygon: faster."""
        cv2.fillConvexPoly(self.canvas, self._points(outline), paint, 8, _FRACTION)

    def path(self, outline: Complex128[np.ndarray, " n"], width: float, paint: Paint) -> None:
        """A bent line through all points."""
        thickness = max(1, round(width * self._side))
        cv2.polylines(self.canvas, [self._points(outline)], False, paint, thickness, 8, _FRACTION)

    def _points(self, outline: Complex128[np.ndarray, " n"]) -> np.ndarray:
        moved = (outline * self.turn + self.shift) * self._unit
        return moved.view(np.float64).reshape(-1, 1, 2).astype(np.int32)


def bent(*places: complex | float) -> Complex128[np.ndarray, " n"]:
    """Corners that change from frame to frame."""
    return np.array(places, np.complex128)


@lru_cache(maxsize=512)
def outline(*places: complex | float) -> Complex128[np.ndarray, " n"]:
    """Corners of a shape in its own coordinates; cached, since they never change."""
    return _unchangeable(bent(*places))


@lru_cache(maxsize=512)
def oval(centre: complex, across: float, down: float, points: int = 14) -> Complex128[np.ndarray, " n"]:
    """An ellipse as a polygon, half axes `across` (x) and `down` (y); cached like `outline`."""
    angles = np.arange(points) * (2 * np.pi / points)
    return _unchangeable(centre + across * np.cos(angles) + 1j * down * np.sin(angles))


def _unchangeable(places: Complex128[np.ndarray, " n"]) -> Complex128[np.ndarray, " n"]:
    places.flags.writeable = False
    return places


def between(rest: complex, play: complex, ready: float) -> complex:
    """The place between resting (ready 0) and playing (ready 1)."""
    return rest + (play - rest) * ready


def turned(angle: float) -> complex:
    """The direction at `angle`, in radians clockwise from the picture's right."""
    return cmath.exp(1j * angle)


@dataclass(frozen=True)
class Look:
    """Colours and build of one player, drawn at random."""

    skin: Paint
    skin_shade: Paint
    hair: Paint
    shirt: Paint
    sleeve: Paint
    trousers: Paint
    shoes: Paint
    chair: Paint
    wood: Paint
    wood_shade: Paint
    brass: Paint
    brass_shade: Paint
    brass_light: Paint
    black: Paint
    silver: Paint
    white: Paint
    dark: Paint
    hair_style: int
    """0 short, 1 long, 2 bald, 3 bun, 4 full."""
    build: float
    """Width of the body, about 1."""
    short_sleeves: bool
    glasses: bool


def draw_look(rng: np.random.Generator, warmth: np.ndarray) -> Look:
    """A random player under light of the colour `warmth` (three factors)."""

    def paint(colour: np.ndarray, what: int, shade: float = 1.0) -> Paint:
        red, green, blue = np.clip(colour * warmth * shade, 0, 255).astype(int)
        return int(red), int(green), int(blue), what

    skins = np.array(
        [(243, 208, 180), (226, 178, 142), (198, 142, 104), (150, 98, 66), (98, 62, 44), (250, 222, 205)], float
    )
    skin = skins[rng.integers(len(skins))] + rng.normal(0, 7, 3)
    hairs = np.array([(32, 24, 20), (70, 46, 28), (122, 82, 46), (190, 156, 98), (150, 150, 150), (128, 54, 26)], float)
    hair = hairs[rng.integers(len(hairs))]
    # Concert black is frequent, any other colour possible.
    shirt = rng.uniform(18, 60, 3) if rng.random() < 0.35 else rng.uniform(30, 235, 3)
    trousers = rng.uniform(15, 70, 3) if rng.random() < 0.6 else rng.uniform(40, 190, 3)
    wood = np.array((rng.uniform(120, 190), rng.uniform(58, 100), rng.uniform(22, 48)))
    silvered = rng.random() < 0.3
    brass = np.array((205, 208, 212) if silvered else (222, 176, 66), float) + rng.normal(0, 10, 3)
    return Look(
        skin=paint(skin, PLAYER),
        skin_shade=paint(skin, PLAYER, 0.82),
        hair=paint(hair, PLAYER),
        shirt=paint(shirt, PLAYER),
        sleeve=paint(shirt, PLAYER, 0.84),
        trousers=paint(trousers, PLAYER),
        shoes=paint(np.array((30.0, 26.0, 24.0)), PLAYER),
        chair=paint(rng.uniform(25, 130, 3), SCENE),
        wood=paint(wood, INSTRUMENT),
        wood_shade=paint(wood, INSTRUMENT, 0.6),
        brass=paint(brass, INSTRUMENT),
        brass_shade=paint(brass, INSTRUMENT, 0.62),
        brass_light=paint(brass * 0.4 + 150, INSTRUMENT),
        black=paint(np.array((38.0, 34.0, 36.0)) + rng.uniform(-8, 12), INSTRUMENT),
        silver=paint(np.array((205.0, 208.0, 214.0)) + rng.uniform(-15, 15), INSTRUMENT),
        white=paint(np.array((236.0, 230.0, 216.0)), INSTRUMENT),
        dark=paint(np.array((20.0, 15.0, 14.0)), INSTRUMENT),
        hair_style=int(rng.integers(5)),
        build=float(rng.uniform(0.9, 1.12)),
        short_sleeves=bool(rng.random() < 0.25),
        glasses=bool(rng.random() < 0.25),
    )


@dataclass(frozen=True)
class Body:
    """Place and size of a player's trunk, upright."""

    centre: float
    """x of the spine."""
    top: float
    """y of the neck's base."""
    scale: float
    """Size; 1 fills the picture from head to knees."""
    standing: bool

    def at(self, right: float, down: float) -> complex:
        """A place relative to the base of the neck, in units of the body."""
        return complex(self.centre + right * self.scale, self.top + down * self.scale)

    @property
    def mouth(self) -> complex:
        """The place of reeds and mouthpieces."""
        return self.at(0.0, -0.055)


def draw_legs(pen: Pen, body: Body, look: Look, spread: float = 0.14) -> None:
    """Chair and legs, which stay still while the upper body sways. `spread` is half the distance of the knees."""
    s = body.scale
    if body.standing:
        for side in (-1, 1):
            pen.line(body.at(0.055 * side, 0.38), body.at(0.065 * side, 0.78), 0.085 * s, look.trousers)
            pen.line(body.at(0.065 * side, 0.80), body.at(0.085 * side, 0.81), 0.05 * s, look.shoes)
        return
    back = outline(body.at(-0.13, 0.08), body.at(0.13, 0.08), body.at(0.13, 0.55), body.at(-0.13, 0.55))
    pen.fill_convex(back, look.chair)
    pen.line(body.at(-0.15, 0.5), body.at(0.15, 0.5), 0.05 * s, look.chair)
    for side in (-1, 1):
        pen.line(body.at(0.06 * side, 0.40), body.at(spread * side, 0.50), 0.10 * s, look.trousers)
        pen.line(body.at(spread * side, 0.50), body.at(spread * side * 0.9, 0.75), 0.08 * s, look.trousers)


def draw_trunk(pen: Pen, body: Body, look: Look, face: complex = 0j) -> None:
    """Torso, neck and head; `face` moves the face within the head, as when the player looks aside."""
    s, w = body.scale, look.build
    at = body.at
    chest = outline(
        at(-0.05, 0.0), at(0.05, 0.0), at(0.125 * w, 0.035), at(0.145 * w, 0.10),
        at(0.11 * w, 0.42), at(-0.11 * w, 0.42), at(-0.145 * w, 0.10), at(-0.125 * w, 0.035),
    )  # fmt: skip
    pen.fill_convex(chest, look.shirt)
    pen.line(at(0.0, -0.05), at(0.0, 0.015), 0.055 * s, look.skin_shade)
    head = at(0.0, -0.115) + face * 0.3
    pen.mark("head", head)
    pen.mark("neck", at(0.0, 0.0))
    if look.hair_style == 1:
        pen.fill_convex(head + 0.015j * s + oval(0j, 0.085 * s, 0.115 * s), look.hair)
    elif look.hair_style == 3:
        pen.disc(head - 0.095j * s, 0.034 * s, look.hair)
    if look.hair_style != 2:
        pen.fill_convex(
            head - 0.014j * s + oval(0j, 0.077 * s, (0.10 if look.hair_style == 4 else 0.09) * s), look.hair
        )
    pen.fill_convex(head + (0.012j + face) * s + oval(0j, 0.066 * s, 0.078 * s), look.skin)
    eyes = head + (face * 1.5 + 0.002j) * s
    for side in (-0.026, 0.026):
        if look.glasses:
            pen.ring(eyes + side * s, 0.018 * s, 0.006 * s, look.shoes)
        pen.disc(eyes + side * s, 0.0085 * s, look.shoes)
    pen.line(eyes + (0.012j + face * 0.3) * s, eyes + (0.028j + face * 0.3) * s, 0.012 * s, look.skin_shade)
    pen.line(eyes + (-0.016 + 0.05j) * s, eyes + (0.016 + 0.05j) * s, 0.011 * s, look.skin_shade)


def draw_arm(pen: Pen, body: Body, look: Look, side: int, hand: complex, raised: bool = False) -> None:
    """An arm from the shoulder to `hand`, the elbow outside and below; `side` is -1 for the picture's left.

    `raised` is for a hand at the height of the face: the elbow then hangs below it.
    """
    s = body.scale
    shoulder = body.at(0.118 * look.build * side, 0.06)
    name = SIDES[side]
    pen.mark(f"{name} shoulder", shoulder)
    pen.mark(f"{name} hand", hand)
    upper, fore = 0.175 * s, 0.165 * s
    reach = hand - shoulder
    distance = min(abs(reach), upper + fore - 1e-4)
    if distance < 1e-3:
        return
    # The law of cosines: angle at the shoulder between upper arm and the line to the hand.
    cosine = (upper * upper + distance * distance - fore * fore) / (2 * upper * distance)
    angle = cmath.acos(max(-1.0, min(1.0, cosine))).real
    elbow = shoulder + upper * reach / abs(reach) * cmath.exp(1j * angle * (side if raised and side < 0 else -side))
    pen.mark(f"{name} elbow", elbow)
    pen.line(shoulder, elbow, 0.064 * s, look.sleeve)
    pen.line(elbow, hand, 0.05 * s, look.skin_shade if look.short_sleeves else look.sleeve)
    pen.disc(hand, 0.029 * s, look.skin)
