"""How the bowed strings are held and played: violin, viola, cello, double bass.

    draw_violin(pen, body, look, moment)

The player faces us, so the bow hand is at the picture's left. Instrument and bow are drawn in their own coordinates
(complex numbers, along the instrument from its support) and placed by an origin and a turn.
"""

import numpy as np
from jaxtyping import Complex128

from vimss.shards.corpora.chamber.figure import (
    Body,
    Look,
    Pen,
    bent,
    between,
    draw_arm,
    draw_legs,
    draw_trunk,
    turned,
)
from vimss.shards.corpora.chamber.motion import Moment


def _viol(length: float, width: float) -> Complex128[np.ndarray, " n"]:
    """Outline of a body of the violin family, from its lower end along x: two bouts and a waist between them."""
    along = np.array((0.0, 0.06, 0.22, 0.40, 0.55, 0.64, 0.80, 0.94, 1.0))
    half = np.array((0.30, 0.80, 1.0, 0.84, 0.62, 0.70, 0.82, 0.55, 0.15))
    return np.concatenate([length * along + 1j * width * half, (length * along - 1j * width * half)[::-1]])


_VIOLIN = _viol(0.185, 0.056)
_VIOLA = _viol(0.235, 0.072)
_CELLO = _viol(0.43, 0.138)
_BASS = _viol(0.52, 0.185)


def _draw_viol(
    pen: Pen, look: Look, origin: complex, turn: complex, shape: Complex128[np.ndarray, " n"], neck: float, thick: float
) -> None:
    """An instrument of the violin family with fingerboard, bridge, strings and scroll; `neck` is its whole length."""
    length = float(shape.real.max())
    pen.fill(origin + turn * shape, look.wood_shade)
    pen.fill(origin + turn * (shape * 0.88 + 0.06 * length), look.wood)
    pen.line(origin + turn * length * 0.68, origin + turn * neck, thick, look.dark)
    pen.line(origin + turn * length * 0.06, origin + turn * length * 0.3, thick * 1.2, look.dark)
    bridge = length * 0.43
    pen.line(
        origin + turn * (bridge - 0.3j * length * 0.4),
        origin + turn * (bridge + 0.3j * length * 0.4),
        thick * 0.5,
        look.white,
    )
    pen.line(origin + turn * length * 0.25, origin + turn * neck * 0.98, 0.007, look.silver)
    for side in (-0.17j, 0.17j):
        pen.line(origin + turn * length * (0.36 + side), origin + turn * length * (0.5 + side), 0.009, look.dark)
    pen.disc(origin + turn * (neck + thick * 0.4), thick * 0.85, look.wood_shade)


def _draw_bow(pen: Pen, look: Look, contact: complex, turn: complex, length: float, place: float) -> complex:
    """The bow with its point `place` (0 frog, 1 tip) on the string at `contact`; returns the place of the hand."""
    frog = contact - turn * length * (0.08 + 0.84 * place)
    tip = frog + turn * length
    pen.mark("bow frog", frog)
    pen.mark("bow tip", tip)
    pen.line(frog, tip, 0.011, look.white)
    back = turn * -0.022j
    pen.path(
        bent(frog + back * 0.8, frog + back * 0.9 + turn * 0.5 * length, tip + back * 0.25), 0.011, look.wood_shade
    )
    pen.line(frog, frog + back, 0.02, look.dark)
    return frog + back * 0.5


def _chin(
    pen: Pen, body: Body, look: Look, now: Moment, shape: Complex128[np.ndarray, " n"], neck: float, angle: float
) -> None:
    """Violin and viola: under the chin, scroll outward; in rests upright on the thigh, bow down."""
    s = body.scale
    draw_legs(pen, body, look)
    draw_trunk(pen, body, look, face=complex(0.016 * now.ready, 0.006 * now.ready))
    origin = between(body.at(0.17, 0.40), body.at(0.032, -0.012), now.ready)
    turn = turned(-1.45 + (angle + look.angle + 1.45) * now.ready - 0.10 * now.lift) * s * look.size
    _draw_viol(pen, look, origin, turn, shape, neck, 0.022)
    grip = neck * (0.62 + (0.31 - 0.30 * now.height) * now.ready) + 0.006 * now.wobble
    left = origin + turn * (grip + 0.014j)
    draw_arm(pen, body, look, 1, left)
    for finger in range(3):
        pressed = now.fingers >> finger & 1
        tip = left + turn * (0.016 * (finger - 1) - (0.022j if pressed else 0.034j))
        pen.mark(f"left finger {finger}", tip)
        pen.disc(tip, 0.0125 * s, look.skin)
    # The bow tilts with the string it is on: low strings raise the elbow.
    tilt = -1.12 + 0.30 * (now.height - 0.5) + 0.06 * now.nod
    contact = origin + turn * float(shape.real.max()) * 0.58
    contact = between(body.at(-0.13, 0.47), contact + (-0.03 - 0.05j) * s * now.lift * (1 - now.playing), now.ready)
    tilt = 1.25 + (tilt - 1.25) * now.ready
    hand = _draw_bow(pen, look, contact, turned(tilt), 0.40 * s, 0.05 + (now.bow - 0.05) * now.ready)
    draw_arm(pen, body, look, -1, hand)


def draw_violin(pen: Pen, body: Body, look: Look, now: Moment) -> None:
    """Violin, held level by a standing player."""
    _chin(pen, body, look, now, _VIOLIN, 0.325, -0.22)


def draw_viola(pen: Pen, body: Body, look: Look, now: Moment) -> None:
    """Viola, larger and drooping, held by a seated player."""
    _chin(pen, body, look, now, _VIOLA, 0.40, 0.42)


def draw_cello(pen: Pen, body: Body, look: Look, now: Moment) -> None:
    """Cello between the knees, the neck past the player's ear; in rests the bow hangs."""
    s = body.scale
    draw_trunk(pen, body, look, face=complex(-0.012 * now.ready, 0.012 * now.playing))
    draw_legs(pen, body, look, spread=0.215)
    origin = body.at(-0.015 + 0.01 * (1 - now.ready), 0.62)
    turn = turned(-1.43 + 0.5 * look.angle + 0.05 * (1 - now.ready)) * s * look.size
    pen.line(origin - turn * 0.10, origin, 0.012, look.silver)
    _draw_viol(pen, look, origin, turn, _CELLO, 0.78, 0.030)
    left = origin + turn * (0.70 - 0.24 * now.height + 0.008 * now.wobble - 0.012j)
    left = between(origin + turn * (0.40 - 0.05j), left, now.ready)
    draw_arm(pen, body, look, 1, left)
    for finger in range(3):
        lifted = 0.0 if now.fingers >> finger & 1 else 0.016
        tip = left + turn * (0.022 * (1 - finger) - (0.016 + lifted) * 1j)
        pen.mark(f"left finger {finger}", tip)
        pen.disc(tip, 0.0135 * s, look.skin)
    tilt = 0.10 - 0.28 * (now.height - 0.5) + 0.05 * now.nod
    contact = between(body.at(-0.20, 0.30), origin + turn * (0.235 - 0.01 * now.lift), now.ready)
    hand = _draw_bow(
        pen, look, contact, turned(tilt * now.ready + 1.1 * (1 - now.ready)), 0.40 * s, now.bow * now.ready
    )
    draw_arm(pen, body, look, -1, hand)


def draw_double_bass(pen: Pen, body: Body, look: Look, now: Moment) -> None:
    """Double bass, taller than the standing player, who leans around it."""
    s = body.scale
    draw_legs(pen, body, look)
    draw_trunk(pen, body, look, face=complex(0.012, 0.012 * now.playing))
    origin = body.at(0.20, 0.74)
    turn = turned(-1.50 + 0.5 * look.angle + 0.04 * (1 - now.ready)) * s * look.size
    pen.line(origin - turn * 0.08, origin, 0.014, look.silver)
    _draw_viol(pen, look, origin, turn, _BASS, 0.98, 0.038)
    left = origin + turn * (0.90 - 0.32 * now.height + 0.010 * now.wobble - 0.012j)
    left = between(origin + turn * (0.55 - 0.08j), left, now.ready)
    draw_arm(pen, body, look, 1, left)
    for finger in range(2):
        lifted = 0.0 if now.fingers >> finger & 1 else 0.018
        tip = left + turn * (0.026 * (0.5 - finger) + (0.02 + lifted) * 1j)
        pen.mark(f"left finger {finger}", tip)
        pen.disc(tip, 0.016 * s, look.skin)
    tilt = 0.16 - 0.22 * (now.height - 0.5) + 0.05 * now.nod
    contact = between(body.at(-0.13, 0.36), origin + turn * (0.295 - 0.01 * now.lift), now.ready)
    hand = _draw_bow(
        pen, look, contact, turned(tilt * now.ready + 1.3 * (1 - now.ready)), 0.36 * s, now.bow * now.ready
    )
    draw_arm(pen, body, look, -1, hand)
