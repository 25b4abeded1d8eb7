"""The posture of each instrument.

    POSTURES["vc"](pen, body_of("vc", 0.3, exchanged=False), look, moment)

Each posture draws one moment: legs, trunk, instrument and arms in its own order. If `moment.ready` is 0 the
instrument is lowered, at 1 it is in playing position.
"""

from collections.abc import Callable

from vimss.shards.corpora.chamber.blown import (
    draw_bassoon,
    draw_clarinet,
    draw_flute,
    draw_horn,
    draw_oboe,
    draw_saxophone,
    draw_trombone,
    draw_trumpet,
    draw_tuba,
)
from vimss.shards.corpora.chamber.bowed import draw_cello, draw_double_bass, draw_viola, draw_violin
from vimss.shards.corpora.chamber.figure import Body, Look, Pen
from vimss.shards.corpora.chamber.motion import Moment

_STANDING = ("db", "fl", "ob", "tbn", "vn")

_EITHER = ("cl", "fl", "hn", "ob", "sax", "tbn", "tpt", "va", "vn")
"""Instruments that some play standing and some sitting."""


def body_of(instrument: str, variety: float, exchanged: bool) -> Body:
    """The trunk for an instrument; `variety` from -1 to 1 moves and scales it a little from player to player.

    `exchanged`: who may do either sits instead of standing, or stands instead of sitting.
    """
    if instrument == "db":
        return Body(centre=0.40, top=0.30, scale=0.90 + 0.03 * variety, standing=True)
    if (instrument in _STANDING) != (exchanged and instrument in _EITHER):
        return Body(centre=0.5 - 0.01 * variety, top=0.34, scale=0.97 + 0.05 * variety, standing=True)
    if instrument in ("tba", "bn", "vc"):
        return Body(centre=0.49, top=0.37, scale=0.93 + 0.04 * variety, standing=False)
    return Body(centre=0.5 + 0.01 * variety, top=0.35, scale=1.0 + 0.04 * variety, standing=False)


POSTURES: dict[str, Callable[[Pen, Body, Look, Moment], None]] = {
    "bn": draw_bassoon,
    "cl": draw_clarinet,
    "db": draw_double_bass,
    "fl": draw_flute,
    "hn": draw_horn,
    "ob": draw_oboe,
    "sax": draw_saxophone,
    "tba": draw_tuba,
    "tbn": draw_trombone,
    "tpt": draw_trumpet,
    "va": draw_viola,
    "vc": draw_cello,
    "vn": draw_violin,
}
"""The posture of each of the 13 instruments."""
