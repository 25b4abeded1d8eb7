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
from vimss.shards.corpora.chamber.styles import DrawingStyle

SCENE, PLAYER, INSTRUMENT = 0, 1, 2
"""Values of the canvas' fourth channel."""

SUPERSAMPLING = 2

Paint = tuple[int, int, int, int]
"""Red, green, blue, and the value of the fourth channel."""

_FRACTION = 4
"""Fractional bits of OpenCV's coordinates."""

cv2.setNumThreads(1)  # the callers run one process per core


class Pen:
    """Draws filled shapes and lines, moved to place * turn + conjugate(place) * squash + shift: any affine map.

    Discs stay round and lines keep their width under it, but for `zoom`.
    """

    def __init__(self, size: int, canvas: UInt8[np.ndarray, "h w 4"] | None = None, zoom: float = 1.0) -> None:
        """For pictures of `size`, on a new canvas or on one that may be larger."""
        side = size * SUPERSAMPLING
        self.canvas: UInt8[np.ndarray, "h w 4"] = np.zeros((side, side, 4), np.uint8) if canvas is None else canvas
        self._unit = side * (1 << _FRACTION)
        self._thickness = zoom * side
        self._radius = zoom * self._unit
        self.joints: dict[str, complex] = {}
        """Places in the picture of the joints of `skeleton.JOINTS` marked so far."""
        self.aim(1 + 0j, 0j)

    def aim(self, turn: complex, shift: complex, squash: complex = 0j) -> None:
        """Set the map for what is drawn from now on."""
        self._turn, self._shift, self._squash = turn, shift, squash
        if squash:
            # Where x and y go, in the canvas' fractions of pixels.
            right, down = (turn + squash) * self._unit, 1j * (turn - squash) * self._unit
            self._matrix = np.array(((right.real, right.imag), (down.real, down.imag)))
            self._offset = np.array((shift.real, shift.imag)) * self._unit

    def mark(self, joint: str, place: complex) -> None:
        """Record the place of a joint; draws nothing."""
        moved = place * self._turn + self._shift
        self.joints[joint] = moved + place.conjugate() * self._squash if self._squash else moved

    def line(self, begin: complex, end: complex, width: float, paint: Paint) -> None:
        """A line with round ends, `width` in parts of the picture."""
        turn, shift, unit = self._turn, self._shift, self._unit
        a, b = begin * turn + shift, end * turn + shift
        if self._squash:
            a += begin.conjugate() * self._squash
            b += end.conjugate() * self._squash
        a, b = a * unit, b * unit
        thickness = max(1, round(width * self._thickness))
        cv2.line(self.canvas, (int(a.real), int(a.imag)), (int(b.real), int(b.imag)), paint, thickness, 8, _FRACTION)

    def disc(self, centre: complex, radius: float, paint: Paint) -> None:
        """A filled circle."""
        c = centre * self._turn + self._shift
        if self._squash:
            c += centre.conjugate() * self._squash
        c *= self._unit
        cv2.circle(self.canvas, (int(c.real), int(c.imag)), int(radius * self._radius), paint, -1, 8, _FRACTION)

    def ring(self, centre: complex, radius: float, width: float, paint: Paint) -> None:
        """A circle's outline."""
        c = (centre * self._turn + centre.conjugate() * self._squash + self._shift) * self._unit
        reach, thickness = int(radius * self._radius), max(1, round(width * self._thickness))
        cv2.circle(self.canvas, (int(c.real), int(c.imag)), reach, paint, thickness, 8, _FRACTION)

    def fill(self, outline: Complex128[np.ndarray, " n"], paint: Paint) -> None:
        """A filled polygon, convex or not."""
        cv2.fillPoly(self.canvas, [self._points(outline)], paint, 8, _FRACTION)

    def fill_convex(self, outline: Complex128[np.ndarray, " n"], paint: Paint) -> None:
        """A filled convex polygon: faster."""
        cv2.fillConvexPoly(self.canvas, self._points(outline), paint, 8, _FRACTION)

    def path(self, outline: Complex128[np.ndarray, " n"], width: float, paint: Paint) -> None:
        """A bent line through all points."""
        thickness = max(1, round(width * self._thickness))
        cv2.polylines(self.canvas, [self._points(outline)], False, paint, thickness, 8, _FRACTION)

    def _points(self, outline: Complex128[np.ndarray, " n"]) -> np.ndarray:
        if self._squash:
            return (outline.view(np.float64).reshape(-1, 2) @ self._matrix + self._offset).astype(np.int32)
        moved = (outline * self._turn + self._shift) * self._unit
        return moved.view(np.float64).reshape(-1, 2).astype(np.int32)


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
    head: float
    """Size of the head; this and what follows are those of the style."""
    limbs: float
    """Width of arms and legs."""
    arms: float
    """Length of the arms."""
    size: float
    """Of the instrument."""
    angle: float
    """Added to the angle of an instrument that is played, radians."""
    stance: float
    """Distance of feet and knees."""


def draw_look(rng: np.random.Generator, warmth: np.ndarray, style: DrawingStyle) -> Look:
    """A random player in a style, under light of the colour `warmth` (three factors)."""
    palette = style.palette

    def paint(colour: np.ndarray, what: int, shade: float = 1.0) -> Paint:
        red, green, blue = np.clip(colour * warmth * shade, 0, 255).astype(int)
        return int(red), int(green), int(blue), what

    skin = np.array(palette.skins[rng.integers(len(palette.skins))], float) + rng.normal(0, 7, 3)
    hair = np.array(palette.hairs[rng.integers(len(palette.hairs))], float)
    shirt = rng.uniform(*(palette.dark_shirts if rng.random() < 0.35 else palette.shirts))
    trousers = rng.uniform(*(palette.dark_trousers if rng.random() < 0.6 else palette.trousers))
    wood = rng.uniform(*palette.wood)
    silvered = rng.random() < 0.3
    brass = np.array(palette.silvered if silvered else palette.brass, float) + rng.normal(0, 10, 3)
    return Look(
        skin=paint(skin, PLAYER),
        skin_shade=paint(skin, PLAYER, 0.82),
        hair=paint(hair, PLAYER),
        shirt=paint(shirt, PLAYER),
        sleeve=paint(shirt, PLAYER, 0.84),
        trousers=paint(trousers, PLAYER),
        shoes=paint(np.array((30.0, 26.0, 24.0)), PLAYER),
        chair=paint(rng.uniform(*palette.chair), SCENE),
        wood=paint(wood, INSTRUMENT),
        wood_shade=paint(wood, INSTRUMENT, 0.6),
        brass=paint(brass, INSTRUMENT),
        brass_shade=paint(brass, INSTRUMENT, 0.62),
        brass_light=paint(brass * 0.4 + 150, INSTRUMENT),
        black=paint(np.array(palette.black, float) + rng.uniform(-8, 12), INSTRUMENT),
        silver=paint(np.array((205.0, 208.0, 214.0)) + rng.uniform(-15, 15), INSTRUMENT),
        white=paint(np.array((236.0, 230.0, 216.0)), INSTRUMENT),
        dark=paint(np.array((20.0, 15.0, 14.0)), INSTRUMENT),
        hair_style=int(rng.integers(5)),
        build=float(rng.uniform(0.9, 1.12)) * style.proportions.trunk,
        short_sleeves=bool(rng.random() < 0.25),
        glasses=bool(rng.random() < 0.25),
        head=style.proportions.head,
        limbs=style.proportions.limbs,
        arms=style.proportions.arms,
        size=style.proportions.instrument,
        angle=style.posture.angle,
        stance=style.posture.stance,
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


@lru_cache(maxsize=64)
def _back(body: Body) -> Complex128[np.ndarray, " n"]:
    """The back of a chair."""
    return outline(body.at(-0.13, 0.08), body.at(0.13, 0.08), body.at(0.13, 0.55), body.at(-0.13, 0.55))


@lru_cache(maxsize=64)
def _chest(body: Body, w: float) -> Complex128[np.ndarray, " n"]:
    """The outline of a trunk of width `w`."""
    at = body.at
    return outline(
        at(-0.05, 0.0), at(0.05, 0.0), at(0.125 * w, 0.035), at(0.145 * w, 0.10),
        at(0.11 * w, 0.42), at(-0.11 * w, 0.42), at(-0.145 * w, 0.10), at(-0.125 * w, 0.035),
    )  # fmt: skip


def draw_legs(pen: Pen, body: Body, look: Look, spread: float = 0.14) -> None:
    """Chair and legs, which stay still while the upper body sways. `spread` is half the distance of the knees."""
    s, thick = body.scale, body.scale * look.limbs
    if body.standing:
        for side in (-1, 1):
            foot = 0.065 * side * look.stance
            pen.line(body.at(0.055 * side, 0.38), body.at(foot, 0.78), 0.085 * thick, look.trousers)
            pen.line(body.at(foot, 0.80), body.at(foot + 0.02 * side, 0.81), 0.05 * thick, look.shoes)
        return
    spread *= look.stance
    pen.fill_convex(_back(body), look.chair)
    pen.line(body.at(-0.15, 0.5), body.at(0.15, 0.5), 0.05 * s, look.chair)
    for side in (-1, 1):
        pen.line(body.at(0.06 * side, 0.40), body.at(spread * side, 0.50), 0.10 * thick, look.trousers)
        pen.line(body.at(spread * side, 0.50), body.at(spread * side * 0.9, 0.75), 0.08 * thick, look.trousers)


def draw_trunk(pen: Pen, body: Body, look: Look, face: complex = 0j) -> None:
    """Torso, neck and head; `face` moves the face within the head, as when the player looks aside."""
    s, at = body.scale, body.at
    pen.fill_convex(_chest(body, look.build), look.shirt)
    pen.line(at(0.0, -0.05), at(0.0, 0.015), 0.055 * s, look.skin_shade)
    # A larger head grows away from the mouth, where reeds and mouthpieces are.
    head = at(0.0, -0.115 - 0.06 * (look.head - 1)) + face * 0.3
    pen.mark("head", head)
    pen.mark("neck", at(0.0, 0.0))
    s = s * look.head
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
    upper, fore = 0.175 * s * look.arms, 0.165 * s * look.arms
    reach = hand - shoulder
    distance = min(abs(reach), upper + fore - 1e-4)
    if distance < 1e-3:
        return
    # The law of cosines: angle at the shoulder between upper arm and the line to the hand.
    cosine = (upper * upper + distance * distance - fore * fore) / (2 * upper * distance)
    angle = cmath.acos(max(-1.0, min(1.0, cosine))).real
    elbow = shoulder + upper * reach / abs(reach) * cmath.exp(1j * angle * (side if raised and side < 0 else -side))
    pen.mark(f"{name} elbow", elbow)
    thick = s * look.limbs
    pen.line(shoulder, elbow, 0.064 * thick, look.sleeve)
    pen.line(elbow, hand, 0.05 * thick, look.skin_shade if look.short_sleeves else look.sleeve)
    pen.disc(hand, 0.029 * s, look.skin)
