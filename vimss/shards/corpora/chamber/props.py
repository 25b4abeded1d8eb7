"""Things that stand around a drawn player: on the wall, beside the chair, or in front.

    pen = Pen(size, background)
    PROPS["lamp"].draw(pen, place=0.1, ink=inks)

Those behind are drawn once, into the background; those in front with every picture, over player and instrument, so that
the masks are exact where they cover them. `place` is the x of the middle; `ink` gives three colours of the scene.
"""

from collections.abc import Callable
from dataclasses import dataclass

from vimss.shards.corpora.chamber.figure import Paint, Pen, outline

Ink = tuple[Paint, Paint, Paint]


@dataclass(frozen=True)
class Prop:
    """One kind of thing."""

    draw: Callable[[Pen, float, Ink], None]
    in_front: bool = False


def _box(pen: Pen, left: float, top: float, right: float, bottom: float, paint: Paint) -> None:
    corners = (complex(left, top), complex(right, top), complex(right, bottom), complex(left, bottom))
    pen.fill_convex(outline(*corners), paint)


def _window(pen: Pen, place: float, ink: Ink) -> None:
    _box(pen, place - 0.13, 0.06, place + 0.13, 0.46, ink[0])
    _box(pen, place - 0.11, 0.08, place + 0.11, 0.44, ink[1])
    pen.line(complex(place, 0.08), complex(place, 0.44), 0.014, ink[0])
    pen.line(complex(place - 0.11, 0.26), complex(place + 0.11, 0.26), 0.014, ink[0])


def _curtain(pen: Pen, place: float, ink: Ink) -> None:
    for fold in range(5):
        x = place + 0.055 * (fold - 2)
        _box(pen, x - 0.028, -0.05, x + 0.03, 0.92, ink[fold % 2])


def _picture_frame(pen: Pen, place: float, ink: Ink) -> None:
    _box(pen, place - 0.10, 0.10, place + 0.10, 0.25, ink[0])
    _box(pen, place - 0.08, 0.12, place + 0.08, 0.23, ink[1])
    pen.disc(complex(place, 0.18), 0.035, ink[2])


def _lamp(pen: Pen, place: float, ink: Ink) -> None:
    pen.line(complex(place, 0.30), complex(place, 0.93), 0.016, ink[0])
    pen.line(complex(place - 0.07, 0.93), complex(place + 0.07, 0.93), 0.022, ink[0])
    shade = (place - 0.05 + 0.16j, place + 0.05 + 0.16j, place + 0.10 + 0.32j, place - 0.10 + 0.32j)
    pen.fill_convex(outline(*shade), ink[1])


def _plant(pen: Pen, place: float, ink: Ink) -> None:
    for leaf in range(5):
        tip = complex(place + 0.05 * (leaf - 2), 0.52 + 0.03 * abs(leaf - 2))
        pen.line(complex(place, 0.80), tip, 0.028, ink[1 + leaf % 2])
    pot = (place - 0.07 + 0.78j, place + 0.07 + 0.78j, place + 0.05 + 0.95j, place - 0.05 + 0.95j)
    pen.fill_convex(outline(*pot), ink[0])


def _music_stand(pen: Pen, place: float, ink: Ink) -> None:
    # Low and to one side, as in a hall: it may cover a knee, never the instrument's middle.
    side = 0.17 if place < 0.5 else 0.83
    pen.line(complex(side, 0.74), complex(side, 1.02), 0.014, ink[0])
    desk = (side - 0.10 + 0.70j, side + 0.10 + 0.70j, side + 0.12 + 0.84j, side - 0.12 + 0.84j)
    pen.fill_convex(outline(*desk), ink[0])


def _door(pen: Pen, place: float, ink: Ink) -> None:
    _box(pen, place - 0.13, 0.10, place + 0.13, 0.92, ink[0])
    _box(pen, place - 0.09, 0.16, place + 0.09, 0.46, ink[1])
    _box(pen, place - 0.09, 0.52, place + 0.09, 0.86, ink[1])
    pen.disc(complex(place + 0.10, 0.52), 0.014, ink[2])


def _bookshelf(pen: Pen, place: float, ink: Ink) -> None:
    _box(pen, place - 0.15, 0.08, place + 0.15, 0.94, ink[0])
    for shelf in range(4):
        for book in range(5):
            x, y = place - 0.115 + 0.056 * book, 0.12 + 0.21 * shelf
            _box(pen, x - 0.018, y + 0.02 * (book % 2), x + 0.018, y + 0.15, ink[1 + (book + shelf) % 2])


def _clock(pen: Pen, place: float, ink: Ink) -> None:
    centre = complex(place, 0.17)
    pen.disc(centre, 0.085, ink[0])
    pen.disc(centre, 0.068, ink[1])
    pen.line(centre, centre - 0.05j, 0.012, ink[0])
    pen.line(centre, centre + 0.035, 0.012, ink[0])


def _folding_screen(pen: Pen, place: float, ink: Ink) -> None:
    for leaf in range(3):
        x = place + 0.11 * (leaf - 1)
        slope = 0.03 * (-1) ** leaf
        corners = (
            complex(x - 0.055, 0.22 + slope), complex(x + 0.055, 0.22 - slope),
            complex(x + 0.055, 0.92 - slope), complex(x - 0.055, 0.92 + slope),
        )  # fmt: skip
        pen.fill_convex(outline(*corners), ink[leaf % 2])


def _microphone(pen: Pen, place: float, ink: Ink) -> None:
    side = 0.12 if place < 0.5 else 0.88
    head = complex(side + (0.08 if place < 0.5 else -0.08), 0.56)
    pen.line(complex(side, 0.66), complex(side, 1.02), 0.014, ink[0])
    pen.line(complex(side, 0.66), head, 0.014, ink[0])
    pen.disc(head, 0.026, ink[2])


PROPS: dict[str, Prop] = {
    "window": Prop(_window),
    "curtain": Prop(_curtain),
    "picture frame": Prop(_picture_frame),
    "lamp": Prop(_lamp),
    "plant": Prop(_plant),
    "music stand": Prop(_music_stand, in_front=True),
    "door": Prop(_door),
    "bookshelf": Prop(_bookshelf),
    "clock": Prop(_clock),
    "folding screen": Prop(_folding_screen),
    "microphone": Prop(_microphone, in_front=True),
}
"""All kinds, by name."""
