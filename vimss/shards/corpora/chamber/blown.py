"""How the nine wind instruments are held and played, woodwind and brass.

    draw_flute(pen, body, look, moment)

The player faces us, so the right hand is at the picture's left. Each instrument is drawn in its own coordinates
(complex numbers, along the tube from the mouthpiece) and placed by an origin and a turn.
"""

from vimss.shards.corpora.chamber.figure import (
    Body,
    Look,
    Pen,
    bent,
    between,
    draw_arm,
    draw_legs,
    draw_trunk,
    outline,
    oval,
    turned,
)
from vimss.shards.corpora.chamber.motion import Moment
from vimss.shards.corpora.chamber.skeleton import SIDES


def _fingers(
    pen: Pen, look: Look, side: int, hand: complex, turn: complex, bits: int, step: float, away: complex
) -> None:
    """Three fingers of a hand over the keys: pressed ones lie on the tube, the others are raised `away` from it."""
    for finger in range(3):
        raised = 0.15 if bits >> finger & 1 else 1.15
        tip = hand + turn * (step * (finger - 1) + away * raised)
        pen.mark(f"{SIDES[side]} finger {finger}", tip)
        pen.disc(tip, 0.0145, look.skin)


def draw_flute(pen: Pen, body: Body, look: Look, now: Moment) -> None:
    """Flute sideways at the lip; in rests upright before the chest."""
    s = body.scale
    draw_legs(pen, body, look)
    draw_trunk(pen, body, look, face=complex(-0.012 * now.ready, 0.004))
    angle = 2.95 + look.angle - 0.10 * now.lift + 0.03 * now.nod
    origin = between(body.at(-0.02, 0.40), body.at(0.05, -0.062 - 0.015 * now.lift), now.ready)
    turn = turned(4.45 + (angle - 4.45) * now.ready) * s * look.size
    pen.line(origin, origin + turn * 0.47, 0.022 * s, look.silver)
    pen.line(origin + turn * 0.03, origin + turn * 0.075, 0.030 * s, look.white)
    for key in range(7):
        pen.disc(origin + turn * (0.17 + 0.035 * key - 0.004j), 0.010 * s, look.black)
    for side, along, bits in ((1, 0.20, now.fingers & 7), (-1, 0.335, now.fingers >> 3)):
        hand = origin + turn * (along - 0.030j)
        draw_arm(pen, body, look, side, hand, raised=now.ready > 0.5)
        _fingers(pen, look, side, hand, turn, bits, 0.026, 0.045j)


def _reed(
    pen: Pen,
    body: Body,
    look: Look,
    now: Moment,
    rest: complex,
    play_angle: float,
    rest_angle: float,
) -> tuple[complex, complex]:
    """Origin (at the mouth) and turn of a straight reed instrument."""
    origin = between(rest, body.mouth + complex(0, 0.012 - 0.02 * now.lift) * body.scale, now.ready)
    angle = play_angle + look.angle - 0.16 * now.lift + 0.05 * now.nod
    return origin, turned(rest_angle + (angle - rest_angle) * now.ready) * body.scale * look.size


def draw_clarinet(pen: Pen, body: Body, look: Look, now: Moment) -> None:
    """Clarinet: black, straight down from the mouth, silver rings, wide bell; in rests across the lap."""
    draw_legs(pen, body, look)
    draw_trunk(pen, body, look)
    origin, turn = _reed(pen, body, look, now, body.at(0.17, 0.33), 1.66, 2.75)
    s = body.scale
    pen.line(origin, origin + turn * 0.45, 0.030 * s, look.black)
    pen.fill_convex(origin + turn * outline(0.42 - 0.016j, 0.50 - 0.048j, 0.50 + 0.048j, 0.42 + 0.016j), look.black)
    for ring in (0.07, 0.13, 0.27, 0.42):
        pen.line(origin + turn * (ring - 0.014j), origin + turn * (ring + 0.014j), 0.012, look.silver)
    for key in range(5):
        pen.disc(origin + turn * (0.16 + 0.05 * key + 0.010j), 0.008 * s, look.silver)
    for side, along, bits in ((-1, 0.335, now.fingers >> 3), (1, 0.20, now.fingers & 7)):
        hand = origin + turn * (along + 0.036j * -side)
        draw_arm(pen, body, look, side, hand)
        _fingers(pen, look, side, hand, turn, bits, 0.027, 0.034j * side)


def draw_oboe(pen: Pen, body: Body, look: Look, now: Moment) -> None:
    """Oboe: thin rosewood held out to one side, a pale reed, a small round bell; in rests on the shoulder."""
    s = body.scale
    draw_legs(pen, body, look)
    draw_trunk(pen, body, look, face=complex(0.014, 0.004))
    origin, turn = _reed(pen, body, look, now, body.at(0.05, 0.36), 0.72, -0.85)
    pen.line(origin, origin + turn * 0.06, 0.010, look.white)
    pen.fill_convex(
        origin + turn * outline(0.05 - 0.007j, 0.37 - 0.016j, 0.37 + 0.016j, 0.05 + 0.007j), look.wood_shade
    )
    pen.fill_convex(origin + turn * oval(0.385 + 0j, 0.028, 0.025), look.wood_shade)
    for key in range(8):
        pen.disc(origin + turn * (0.10 + 0.033 * key - 0.006j), 0.0075 * s, look.silver)
    for side, along, bits in ((1, 0.15, now.fingers & 7), (-1, 0.27, now.fingers >> 3)):
        hand = origin + turn * (along + 0.030j)
        draw_arm(pen, body, look, side, hand)
        _fingers(pen, look, side, hand, turn, bits, 0.024, -0.040j)


def draw_bassoon(pen: Pen, body: Body, look: Look, now: Moment) -> None:
    """Bassoon: a long red-brown tube across the body, above the head at one end, at the hip at the other."""
    s = body.scale
    draw_legs(pen, body, look)
    draw_trunk(pen, body, look, face=complex(0.008, 0.004))
    origin = body.at(-0.17 - 0.03 * (1 - now.ready), 0.60) - 0.012j * now.lift
    turn = turned(-1.19 + 0.5 * look.angle + 0.04 * now.nod - 0.14 * (1 - now.ready)) * s * look.size
    pen.line(origin, origin + turn * 0.52, 0.058 * s, look.wood_shade)
    pen.line(origin + turn * 0.02, origin + turn * 0.90, 0.036 * s, look.wood)
    pen.line(origin + turn * 0.84, origin + turn * 0.87, 0.050 * s, look.white)
    crook = bent(
        origin + turn * (0.52 - 0.012j), origin + turn * (0.60 - 0.055j), origin + turn * (0.585 - 0.09j),
        between(origin + turn * (0.56 - 0.15j), body.mouth + 0.012j, now.ready),
    )  # fmt: skip
    pen.path(crook, 0.011, look.silver)
    for key in range(9):
        pen.disc(origin + turn * (0.10 + 0.075 * key + 0.012j), 0.009 * s, look.silver)
    for side, along, bits in ((-1, 0.20, now.fingers >> 3), (1, 0.43, now.fingers & 7)):
        hand = origin + turn * (along + 0.034j * side)
        draw_arm(pen, body, look, side, hand)
        _fingers(pen, look, side, hand, turn, bits, 0.028, -0.038j * side)


def draw_saxophone(pen: Pen, body: Body, look: Look, now: Moment) -> None:
    """Saxophone: golden, hooked neck, bow at the hip and the bell turned up in front."""
    s = body.scale
    draw_legs(pen, body, look)
    draw_trunk(pen, body, look)
    pen.line(body.at(-0.04, 0.0), body.at(-0.06, 0.20), 0.012, look.trousers)
    top = between(body.at(-0.055, 0.11), body.at(-0.055, 0.015 - 0.02 * now.lift), now.ready)
    turn = turned(1.78 + look.angle + 0.06 * now.nod - 0.10 * now.lift - 0.2 * (1 - now.ready)) * s * look.size
    mouth = between(top + turn * -0.06j, body.mouth + 0.012j, now.ready)
    pen.path(bent(mouth, mouth + turn * (-0.012 + 0.03j), top), 0.020 * s, look.brass_shade)
    pen.line(mouth, mouth + turn * 0.022j, 0.022 * s, look.dark)
    pen.fill_convex(top + turn * outline(0 - 0.014j, 0.42 - 0.030j, 0.42 + 0.030j, 0 + 0.014j), look.brass)
    pen.path(top + turn * outline(0.41, 0.465 + 0.03j, 0.465 + 0.085j, 0.40 + 0.115j), 0.056 * s, look.brass)
    pen.fill_convex(top + turn * outline(0.42 + 0.085j, 0.42 + 0.142j, 0.22 + 0.21j, 0.20 + 0.085j), look.brass)
    pen.fill_convex(top + turn * oval(0.21 + 0.148j, 0.026, 0.066), look.brass_light)
    pen.fill_convex(top + turn * oval(0.21 + 0.148j, 0.015, 0.048), look.brass_shade)
    for key in range(6):
        pen.disc(top + turn * (0.07 + 0.055 * key), 0.012 * s, look.brass_light)
    for side, along, bits in ((1, 0.13, now.fingers & 7), (-1, 0.29, now.fingers >> 3)):
        hand = top + turn * (along - 0.036j * side)
        draw_arm(pen, body, look, side, hand)
        _fingers(pen, look, side, hand, turn, bits, 0.028, 0.036j * side)


def draw_trumpet(pen: Pen, body: Body, look: Look, now: Moment) -> None:
    """Trumpet straight out to the side with three valves; in rests upright on the knee."""
    s = body.scale
    draw_legs(pen, body, look)
    draw_trunk(pen, body, look, face=complex(-0.018 * now.ready, 0.0))
    origin = between(body.at(-0.14, 0.45), body.mouth + complex(-0.005, 0.012 - 0.02 * now.lift), now.ready)
    angle = 2.98 + look.angle + 0.10 * now.lift - 0.03 * now.nod
    turn = turned(4.5 + (angle - 4.5) * now.ready) * s * look.size
    pen.line(origin, origin + turn * 0.36, 0.017 * s, look.brass)
    pen.disc(origin, 0.014 * s, look.brass_shade)
    pen.path(origin + turn * outline(0.13, 0.14 - 0.062j, 0.28 - 0.062j, 0.30), 0.016 * s, look.brass_shade)
    pen.fill(
        origin
        + turn * outline(0.32 - 0.009j, 0.385 - 0.022j, 0.425 - 0.068j, 0.425 + 0.068j, 0.385 + 0.022j, 0.32 + 0.009j),
        look.brass,
    )
    pen.fill_convex(origin + turn * oval(0.425 + 0j, 0.014, 0.070), look.brass_light)
    left = origin + turn * (0.20 - 0.05j)
    draw_arm(pen, body, look, 1, left)
    hand = origin + turn * (0.215 + 0.030j)
    draw_arm(pen, body, look, -1, hand, raised=now.ready > 0.5)
    for valve in range(3):
        down = 0.012 if now.fingers >> valve & 1 else 0.040
        foot = 0.175 + 0.032 * valve
        pen.line(origin + turn * (foot - 0.055j), origin + turn * (foot + 0.022j), 0.020 * s, look.brass_light)
        pen.line(origin + turn * (foot + 0.022j), origin + turn * (foot + 0.012j + 1j * down), 0.009, look.silver)
        tip = origin + turn * (foot + 0.020j + 1j * down)
        pen.mark(f"right finger {valve}", tip)
        pen.disc(tip, 0.0125 * s, look.skin)


def draw_trombone(pen: Pen, body: Body, look: Look, now: Moment) -> None:
    """Trombone: a long slide out to one side, the bell beside the head; in rests pointing down."""
    s = body.scale
    draw_legs(pen, body, look)
    draw_trunk(pen, body, look, face=complex(-0.018 * now.ready, 0.0))
    origin = between(body.at(0.03, 0.20), body.mouth + complex(0.0, 0.012 - 0.02 * now.lift), now.ready)
    angle = 2.78 + look.angle + 0.10 * now.lift - 0.03 * now.nod
    turn = turned(2.05 + (angle - 2.05) * now.ready) * s * look.size
    # The bell section: from behind the shoulder, over the slide, forward.
    pen.path(
        origin + turn * outline(0.10, 0.02 + 0.012j, -0.13 + 0.03j, -0.15 + 0.065j, -0.12 + 0.095j, 0.05 + 0.10j),
        0.018 * s,
        look.brass_shade,
    )
    pen.fill(
        origin + turn * outline(0.0 + 0.088j, 0.16 + 0.075j, 0.245 + 0.01j, 0.245 + 0.19j, 0.16 + 0.125j, 0.0 + 0.112j),
        look.brass,
    )
    pen.fill_convex(origin + turn * oval(0.245 + 0.10j, 0.022, 0.094), look.brass_light)
    pen.fill_convex(origin + turn * oval(0.249 + 0.10j, 0.010, 0.066), look.brass_shade)
    out = 0.20 * now.slide * now.ready
    for side in (0j, -0.045j):
        pen.line(origin + turn * side, origin + turn * (0.36 + side), 0.011 * s, look.silver)
        pen.line(origin + turn * (0.16 + out + side), origin + turn * (0.46 + out + side), 0.018 * s, look.brass)
    pen.line(origin + turn * (0.46 + out), origin + turn * (0.46 + out - 0.045j), 0.018 * s, look.brass)
    pen.line(origin + turn * (0.17 + out), origin + turn * (0.17 + out - 0.045j), 0.014 * s, look.brass_light)
    draw_arm(pen, body, look, 1, origin + turn * (0.075 - 0.012j))
    draw_arm(pen, body, look, -1, origin + turn * (0.17 + out - 0.035j), raised=now.ready > 0.5)


def draw_horn(pen: Pen, body: Body, look: Look, now: Moment) -> None:
    """Horn: a coil before the chest, the bell at the hip with the right hand in it."""
    s = body.scale
    draw_legs(pen, body, look)
    draw_trunk(pen, body, look, face=complex(0.008, 0.006))
    centre = between(body.at(-0.01, 0.36), body.at(-0.01, 0.225 - 0.02 * now.lift), now.ready)
    s *= look.size
    turn = turned(look.angle + 0.05 * now.nod - 0.05 * now.lift + 0.35 * (1 - now.ready)) * s
    bell = centre + turn * (-0.15 + 0.115j)
    pen.fill(
        centre + turn * outline(-0.02 + 0.10j, -0.10 - 0.02j, -0.24 + 0.02j, -0.27 + 0.16j, -0.13 + 0.24j), look.brass
    )
    pen.fill_convex(bell + turn * oval(-0.03 + 0.01j, 0.125, 0.115, 18), look.brass_light)
    pen.fill_convex(bell + turn * oval(-0.03 + 0.01j, 0.098, 0.090, 16), look.brass_shade)
    draw_arm(pen, body, look, -1, bell + turn * (-0.03 + 0.03j) + 0.01 * now.wobble)
    pen.ring(centre, 0.118 * s, 0.026 * s, look.brass)
    pen.ring(centre, 0.072 * s, 0.020 * s, look.brass_shade)
    pen.line(centre + turn * (-0.06 - 0.02j), centre + turn * (0.06 + 0.03j), 0.020 * s, look.brass_light)
    mouth = between(centre + turn * (0.03 - 0.22j), body.mouth + 0.014j, now.ready)
    pen.path(bent(mouth, centre + turn * (0.07 - 0.15j), centre + turn * (0.118 - 0.04j)), 0.015 * s, look.brass)
    pen.disc(mouth, 0.013 * s, look.brass_shade)
    left = centre + turn * (0.115 + 0.035j)
    draw_arm(pen, body, look, 1, left)
    for valve in range(3):
        down = 0.0 if now.fingers >> valve & 1 else 0.024
        pen.line(
            centre + turn * (0.05 + 0.028j * (valve - 1)),
            centre + turn * (0.085 + 0.028j * (valve - 1)),
            0.018 * s,
            look.brass_light,
        )
        tip = centre + turn * (0.088 + down + 0.028j * (valve - 1))
        pen.mark(f"left finger {valve}", tip)
        pen.disc(tip, 0.0135 * s, look.skin)


def draw_tuba(pen: Pen, body: Body, look: Look, now: Moment) -> None:
    """Tuba on the lap, wide as the player, the bell above the head."""
    s = body.scale
    draw_trunk(pen, body, look, face=complex(-0.012, 0.004))
    draw_legs(pen, body, look)
    # A small one is held higher, so that its bell does not cover the face.
    centre = (
        body.at(0.03, 0.29 + 0.47 * (look.size - 1)) + complex(0.0, -0.012 * now.lift + 0.012 * (1 - now.ready)) * s
    )
    turn = turned(0.5 * look.angle + 0.03 * now.nod + 0.10 * (1 - now.ready)) * s * look.size
    pen.fill_convex(centre + turn * oval(0j, 0.165, 0.215, 18), look.brass_shade)
    pen.fill_convex(centre + turn * oval(0j, 0.138, 0.188, 18), look.brass)
    pen.fill_convex(centre + turn * oval(0j, 0.098, 0.148, 16), look.brass_shade)
    pen.fill_convex(centre + turn * oval(0j, 0.070, 0.120, 16), look.brass)
    stem = outline(0.075 + 0.10j, 0.155 + 0.05j, 0.150 - 0.32j, 0.215 - 0.46j, 0.005 - 0.46j, 0.085 - 0.32j)
    pen.fill(centre + turn * stem, look.brass)
    pen.fill_convex(centre + turn * oval(0.11 - 0.47j, 0.165, 0.060, 18), look.brass_light)
    pen.fill_convex(centre + turn * oval(0.11 - 0.475j, 0.130, 0.040, 16), look.brass_shade)
    mouth = between(centre + turn * (-0.01 - 0.29j), body.mouth + 0.014j, now.ready)
    pen.path(
        bent(mouth, centre + turn * (-0.035 - 0.26j), centre + turn * (-0.07 - 0.13j)), 0.018 * s, look.brass_light
    )
    pen.disc(mouth, 0.016 * s, look.brass_shade)
    draw_arm(pen, body, look, 1, centre + turn * (0.15 + 0.11j))
    draw_arm(pen, body, look, -1, centre + turn * (-0.10 - 0.005j))
    for valve in range(3):
        down = 0.026 if now.fingers >> valve & 1 else 0.0
        at = -0.075 + 0.036 * valve
        pen.line(centre + turn * (at + 0.03j), centre + turn * (at - 0.035j), 0.024 * s, look.silver)
        tip = centre + turn * (at - 0.065j + 1j * down)
        pen.mark(f"right finger {valve}", tip)
        pen.disc(tip, 0.0145 * s, look.skin)
