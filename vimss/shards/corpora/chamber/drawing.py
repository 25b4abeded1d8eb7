"""One player's film: scene, light, camera and the moving figure, with exact masks, boxes and joints.

    film = draw("vc", moments, size=96, rng=rng, style=PLAIN)
    film.picture  # uint8 "v h w 3"
    film.masks    # bool "2 v h w": player, instrument
    film.skeleton  # float16 "v j": see `skeleton`

Skin, clothes, light, background, place, mirroring, camera drift and sensor noise are drawn at random, so that a network
cannot tell players apart by a constant. The style says in which proportions, colours and posture the player is drawn,
what stands around, and what camera looks (see `styles`).
"""

import cmath
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float16, Int16, UInt8

from vimss.shards.corpora.chamber.figure import INSTRUMENT, PLAYER, SCENE, SUPERSAMPLING, Paint, Pen, draw_look
from vimss.shards.corpora.chamber.motion import Moment
from vimss.shards.corpora.chamber.palettes import Palette
from vimss.shards.corpora.chamber.postures import POSTURES, body_of
from vimss.shards.corpora.chamber.props import PROPS, Ink
from vimss.shards.corpora.chamber.skeleton import JOINTS, UNSEEN, skeleton_rows
from vimss.shards.corpora.chamber.styles import Camera, DrawingStyle

_MARGIN = 0.06
"""Extra background on each side, as a share of the picture, for the drift of the camera."""

_DRIFT = 0.012
"""Slow displacement of the camera, in parts of the picture."""

_MIDDLE = 0.5 + 0.5j

_GREY = 90.0
"""Brightness that stays as it is when the contrast changes."""

_PEDESTAL = 32
"""Mean of the sensor noise, which is taken off again."""


@dataclass(frozen=True, eq=False)
class Film:
    """One player's picture with ground truth."""

    picture: UInt8[np.ndarray, "v h w 3"]
    masks: Bool[np.ndarray, "2 v h w"]
    boxes: Int16[np.ndarray, "2 v 4"]
    skeleton: Float16[np.ndarray, "v j"]


@dataclass(frozen=True)
class _View:
    """What a camera does to places, as in Pen: place * turn + conjugate(place) * squash + shift."""

    turn: complex
    squash: complex
    shift: complex

    def aim(self, pen: Pen, turn: complex, shift: complex, drift: complex, place: complex = 0j) -> None:
        """Let a pen draw what is turned and shifted first, then seen by the camera, then displaced."""
        seen = self.turn * shift + self.squash * shift.conjugate() + self.shift
        pen.aim(self.turn * turn, seen + drift + place, self.squash * turn.conjugate())


def view_of(camera: Camera) -> _View:
    """A camera's map, about the middle of the picture."""
    turned = camera.zoom * complex(np.cos(camera.turn), np.sin(camera.turn))
    # The columns of stretch and shear, as complex numbers: where 1 and 1j go.
    across, down = turned * camera.stretch, turned * complex(camera.shear, 1 / camera.stretch)
    turn, squash = (across - 1j * down) / 2, (across + 1j * down) / 2
    kept = _MIDDLE * turn + _MIDDLE.conjugate() * squash
    return _View(turn, squash, _MIDDLE - kept + complex(camera.right, camera.down))


def draw(instrument: str, moments: Sequence[Moment], size: int, rng: np.random.Generator, style: DrawingStyle) -> Film:
    """Draw all moments of one player."""
    warmth = rng.uniform(0.72, 1.12) * (1 + rng.normal(0, 0.05, 3))
    look = draw_look(rng, warmth, style)
    body = body_of(instrument, float(rng.uniform(-1, 1)), style.posture.exchanged)
    pen = Pen(size, zoom=style.camera.zoom)
    side = size * SUPERSAMPLING
    margin = round(_MARGIN * side)
    background = _background(side + 2 * margin, warmth, style.palette, rng)
    light = _light(size, rng)
    grain = _grain(size, rng)
    camera = _camera(len(moments), rng)
    place = complex(rng.uniform(-0.02, 0.02), rng.uniform(-0.012, 0.012))
    picture = np.empty((len(moments), size, size, 3), np.uint8)
    belongs = np.empty((len(moments), size, size), np.uint8)
    mirrored = rng.random() < 0.5
    view = view_of(style.camera)
    lean = cmath.exp(1j * style.posture.lean)
    in_front = _props(style, size, background, warmth, rng)
    hips = body.at(0.0, 0.45)
    small = np.empty((size, size, 4), np.uint8)
    places: list[list[complex]] = []
    for frame, now in enumerate(moments):
        drift = complex(camera[frame])
        x, y = margin - round(drift.real * side), margin - round(drift.imag * side)
        np.copyto(pen.canvas, background[y : y + side, x : x + side])
        # The upper body turns about the hips, and bends into each onset.
        turn = complex(1.0, 0.034 * now.sway.real + 0.016 * now.nod) * lean
        moved = complex(0.012 * now.sway.real, 0.008 * now.sway.imag + 0.014 * now.nod - 0.010 * now.lift)
        view.aim(pen, turn, hips - hips * turn + moved, drift, place)
        pen.joints.clear()
        POSTURES[instrument](pen, body, look, now)
        if in_front:
            view.aim(pen, 1 + 0j, 0j, drift)
            for name, where, ink in in_front:
                PROPS[name].draw(pen, where, ink)
        places.append([pen.joints.get(joint, UNSEEN) for joint in JOINTS])
        belongs[frame] = pen.canvas[::SUPERSAMPLING, ::SUPERSAMPLING, 3]
        cv2.resize(pen.canvas, (size, size), dst=small, interpolation=cv2.INTER_AREA)
        cv2.cvtColor(small, cv2.COLOR_RGBA2RGB, dst=picture[frame])
        if mirrored:
            cv2.flip(picture[frame], 1, dst=picture[frame])
            cv2.flip(belongs[frame], 1, dst=belongs[frame])
    _develop(picture, light, grain, style.camera, rng)
    masks = np.stack([belongs == PLAYER, belongs == INSTRUMENT])
    return Film(picture, masks, boxes_of(masks), skeleton_rows(places, mirrored))


def boxes_of(masks: Bool[np.ndarray, "2 v h w"]) -> Int16[np.ndarray, "2 v 4"]:
    """Smallest boxes around the masks: left, top, right, bottom (the last two exclusive); zeros for an empty mask."""
    columns, rows = np.asarray(masks.any(axis=2)), np.asarray(masks.any(axis=3))
    left, top = columns.argmax(axis=-1), rows.argmax(axis=-1)
    right = columns.shape[-1] - columns[..., ::-1].argmax(axis=-1)
    bottom = rows.shape[-1] - rows[..., ::-1].argmax(axis=-1)
    boxes = np.stack([left, top, right, bottom], axis=-1)
    boxes[~columns.any(axis=-1)] = 0
    return boxes.astype(np.int16)


def _props(
    style: DrawingStyle, size: int, background: UInt8[np.ndarray, "h w 4"], warmth: np.ndarray, rng: np.random.Generator
) -> list[tuple[str, float, Ink]]:
    """Draw what stands behind the player into the background; returns what stands in front."""
    if not style.props:
        return []
    pen = Pen(size, background, style.camera.zoom)
    margin = (len(background) / (size * SUPERSAMPLING) - 1) / 2
    view_of(style.camera).aim(pen, 1 + 0j, 0j, complex(margin, margin))
    in_front = []
    for name in style.props:
        one, two, three = (_ink(style.palette, warmth, rng) for _ in range(3))
        ink = (one, two, three)
        # To the left or right of the player.
        where = float(rng.uniform(0.02, 0.24) if rng.random() < 0.5 else rng.uniform(0.76, 0.98))
        if PROPS[name].in_front:
            in_front.append((name, where, ink))
        else:
            PROPS[name].draw(pen, where, ink)
    return in_front


def _ink(palette: Palette, warmth: np.ndarray, rng: np.random.Generator) -> Paint:
    """A colour of the scene."""
    red, green, blue = np.clip(rng.uniform(*palette.things) * warmth, 0, 255).astype(int).tolist()
    return red, green, blue, SCENE


def _background(
    side: int, warmth: np.ndarray, palette: Palette, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 4"]:
    """A wall with a soft pattern, a floor, and a few blurred things, as RGB and a fourth channel of zeros."""
    wall, floor = rng.uniform(*palette.wall) * warmth, rng.uniform(*palette.floor) * warmth
    image = np.empty((side, side, 3), np.float32)
    image[:] = wall
    image[round(side * rng.uniform(0.72, 0.95)) :] = floor
    for _ in range(int(rng.integers(0, 6))):
        left, top = rng.uniform(-0.2, 0.9, 2) * side
        wide, high = rng.uniform(0.08, 0.5, 2) * side
        colour = (rng.uniform(*palette.things) * warmth).tolist()
        if rng.random() < 0.5:
            cv2.rectangle(image, (int(left), int(top)), (int(left + wide), int(top + high)), colour, -1)
        else:
            cv2.circle(image, (int(left), int(top)), int(wide / 3), colour, -1)
    blur = 2 * round(side * rng.uniform(0.005, 0.05)) + 1
    image = cv2.blur(image, (blur, blur))
    patches = cv2.resize(rng.normal(0, 6, (9, 9)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    image += patches[:, :, None]
    return np.dstack([np.clip(image, 0, 255).astype(np.uint8), np.zeros((side, side), np.uint8)])


def _light(size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Brightness of the light at each pixel, 200 being neutral: brighter on one side, darker in the corners."""
    across = np.linspace(-1, 1, size)
    side = rng.uniform(-0.2, 0.2) * across[None, :] + rng.uniform(-0.12, 0.12) * across[:, None]
    corners = rng.uniform(0, 0.12) * (across[None, :] ** 2 + across[:, None] ** 2)
    return np.repeat(np.clip(200 * (1 + side - corners), 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def _grain(size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "large large 3"]:
    """Sensor noise around 32, larger than the picture: each frame uses another part of it."""
    noise = rng.normal(32, rng.uniform(1.0, 3.5), (size + 48, size + 48, 3))
    return np.clip(np.rint(noise), 0, 64).astype(np.uint8)


def _camera(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Slow drift of the camera as complex displacements."""
    rates, phases = rng.uniform(0.0005, 0.004, (2, 2)), rng.uniform(0, 2 * np.pi, (2, 2))
    axes = np.sin(2 * np.pi * np.arange(frames)[:, None, None] * rates + phases).mean(axis=2) * _DRIFT
    return axes[:, 0] + 1j * axes[:, 1]


def _develop(
    picture: UInt8[np.ndarray, "v h w 3"],
    light: UInt8[np.ndarray, "h w 3"],
    grain: UInt8[np.ndarray, "large large 3"],
    camera: Camera,
    rng: np.random.Generator,
) -> None:
    """Light, blur, contrast and noise, in place, frame by frame."""
    size = picture.shape[1]
    corners = rng.integers(0, grain.shape[0] - size + 1, (len(picture), 2))
    # Contrast needs no pass of its own: what it takes from or adds to all pixels goes off with the pedestal.
    pedestal = np.full((size, size, 3), max(0, round(_PEDESTAL - _GREY * (1 - camera.contrast))), np.uint8)
    wide = 2 * max(1, round(size / 80)) + 1
    for frame, (top, left) in zip(picture, corners.tolist(), strict=True):
        if camera.blur:
            cv2.addWeighted(frame, 1 - camera.blur, cv2.blur(frame, (wide, wide)), camera.blur, 0, dst=frame)
        cv2.multiply(frame, light, dst=frame, scale=camera.contrast / 200)
        cv2.add(frame, grain[top : top + size, left : left + size], dst=frame)
        cv2.subtract(frame, pedestal, dst=frame)
