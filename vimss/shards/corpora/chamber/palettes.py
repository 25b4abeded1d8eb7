"""Palettes: families of colours for skin, hair, clothes, instruments, wall and floor, before the light falls on them.

    CONCERT.skins[0]     # (243, 208, 180)

Where a colour is drawn from a range, the range is a box of red, green and blue. No colour of an unseen palette lies in
a range of a seen one for the same thing.
"""

from dataclasses import dataclass

Colour = tuple[int, int, int]
Shades = tuple[Colour, Colour]
"""Lowest and highest red, green and blue."""


def _grey(low: int, high: int) -> Shades:
    """Any colour whose red, green and blue are in a range."""
    return (low, low, low), (high, high, high)


@dataclass(frozen=True)
class Palette:
    """Colours of one name."""

    name: str
    skins: tuple[Colour, ...]
    hairs: tuple[Colour, ...]
    dark_shirts: Shades
    shirts: Shades
    dark_trousers: Shades
    trousers: Shades
    wood: Shades
    brass: Colour
    silvered: Colour
    """Of some brass instruments instead."""
    black: Colour
    """Of woodwinds."""
    chair: Shades
    wall: Shades
    floor: Shades
    things: Shades
    """On the wall and around the player."""


CONCERT = Palette(
    name="concert",
    skins=((243, 208, 180), (226, 178, 142), (198, 142, 104), (150, 98, 66), (98, 62, 44), (250, 222, 205)),
    hairs=((32, 24, 20), (70, 46, 28), (122, 82, 46), (190, 156, 98), (150, 150, 150), (128, 54, 26)),
    # Concert black is frequent, any other colour possible.
    dark_shirts=_grey(18, 60),
    shirts=_grey(30, 235),
    dark_trousers=_grey(15, 70),
    trousers=_grey(40, 190),
    wood=((120, 58, 22), (190, 100, 48)),
    brass=(222, 176, 66),
    silvered=(205, 208, 212),
    black=(38, 34, 36),
    chair=_grey(25, 130),
    wall=_grey(50, 225),
    floor=_grey(30, 150),
    things=_grey(20, 235),
)

SEEN_PALETTES = (
    CONCERT,
    Palette(
        name="pastel",
        skins=((252, 226, 208), (238, 196, 164), (206, 158, 124), (166, 120, 92)),
        hairs=((110, 80, 60), (214, 182, 130), (168, 110, 76), (90, 84, 96)),
        dark_shirts=((90, 90, 130), (150, 150, 190)),
        shirts=_grey(150, 235),
        dark_trousers=_grey(80, 140),
        trousers=_grey(120, 190),
        wood=((196, 140, 84), (226, 172, 116)),
        brass=(214, 158, 66),
        silvered=(150, 160, 182),
        black=(70, 62, 66),
        chair=_grey(110, 180),
        wall=((180, 180, 170), (225, 225, 225)),
        floor=((110, 96, 80), (150, 140, 130)),
        things=_grey(140, 235),
    ),
    Palette(
        name="night",
        skins=((196, 160, 140), (160, 118, 96), (118, 82, 66), (76, 50, 44)),
        hairs=((18, 16, 24), (52, 40, 40), (96, 76, 60)),
        dark_shirts=_grey(18, 40),
        shirts=((40, 30, 60), (120, 70, 130)),
        dark_trousers=_grey(15, 34),
        trousers=_grey(24, 60),
        wood=((84, 40, 22), (122, 60, 36)),
        brass=(196, 150, 60),
        silvered=(160, 166, 178),
        black=(26, 24, 30),
        chair=_grey(25, 60),
        wall=((50, 50, 62), (80, 80, 110)),
        floor=_grey(30, 50),
        things=_grey(24, 110),
    ),
    Palette(
        name="poster",
        skins=((246, 200, 156), (212, 144, 96), (140, 84, 54), (92, 56, 40)),
        hairs=((24, 20, 22), (150, 70, 30), (224, 180, 92)),
        dark_shirts=((20, 30, 90), (50, 60, 150)),
        shirts=((170, 40, 30), (235, 180, 70)),
        dark_trousers=((15, 20, 50), (50, 50, 90)),
        trousers=((50, 80, 90), (120, 160, 170)),
        wood=((150, 62, 30), (205, 110, 58)),
        brass=(232, 184, 48),
        silvered=(190, 196, 206),
        black=(30, 28, 32),
        chair=_grey(40, 100),
        wall=((50, 110, 110), (220, 200, 150)),
        floor=((80, 50, 30), (150, 100, 70)),
        things=((20, 60, 20), (235, 235, 200)),
    ),
    Palette(
        name="sepia",
        skins=((226, 196, 160), (190, 152, 114), (150, 112, 80), (108, 78, 54)),
        hairs=((60, 44, 30), (96, 72, 50), (140, 116, 88)),
        dark_shirts=((50, 38, 26), (80, 64, 46)),
        shirts=((120, 100, 74), (220, 196, 156)),
        dark_trousers=((44, 34, 24), (70, 56, 40)),
        trousers=((90, 74, 54), (150, 128, 100)),
        wood=((110, 74, 44), (150, 106, 68)),
        brass=(202, 170, 112),
        silvered=(196, 184, 160),
        black=(52, 42, 32),
        chair=((60, 46, 32), (120, 98, 72)),
        wall=((150, 128, 98), (222, 200, 164)),
        floor=((80, 64, 46), (140, 118, 88)),
        things=((70, 56, 40), (210, 186, 148)),
    ),
    Palette(
        name="garden",
        skins=((244, 210, 186), (216, 168, 130), (172, 122, 88), (112, 74, 52)),
        hairs=((40, 30, 24), (130, 92, 54), (204, 166, 104), (120, 60, 36)),
        dark_shirts=((30, 60, 40), (60, 110, 70)),
        shirts=((150, 150, 120), (235, 235, 220)),
        dark_trousers=((40, 50, 60), (70, 80, 96)),
        trousers=((90, 90, 70), (180, 180, 150)),
        wood=((160, 96, 50), (200, 136, 84)),
        brass=(226, 190, 92),
        silvered=(212, 216, 216),
        black=(46, 38, 34),
        chair=((70, 60, 40), (130, 120, 90)),
        wall=((90, 140, 80), (180, 220, 190)),
        floor=((60, 100, 40), (110, 150, 80)),
        things=((40, 90, 40), (200, 220, 160)),
    ),
)
"""Of all splits but test_unseen_style."""

UNSEEN_PALETTES = (
    Palette(
        name="newspaper",
        skins=((222, 222, 222), (184, 184, 184), (136, 136, 136), (92, 92, 92)),
        hairs=((28, 28, 28), (84, 84, 84), (172, 172, 172)),
        dark_shirts=_grey(4, 14),
        shirts=_grey(238, 252),
        dark_trousers=_grey(3, 12),
        trousers=_grey(194, 212),
        wood=_grey(104, 118),
        brass=(138, 138, 138),
        silvered=(96, 96, 96),
        black=(22, 22, 22),
        chair=_grey(6, 20),
        wall=_grey(228, 250),
        floor=_grey(156, 186),
        things=_grey(238, 252),
    ),
    Palette(
        name="comic",
        skins=((255, 214, 64), (255, 190, 96), (236, 160, 70)),
        hairs=((20, 40, 120), (190, 30, 30), (255, 140, 30), (12, 12, 16)),
        dark_shirts=((0, 60, 150), (14, 110, 220)),
        shirts=((238, 20, 20), (255, 90, 90)),
        dark_trousers=((0, 30, 100), (12, 60, 180)),
        trousers=((196, 90, 0), (240, 130, 20)),
        wood=((230, 96, 12), (250, 126, 20)),
        brass=(255, 208, 0),
        silvered=(214, 236, 255),
        black=(8, 8, 14),
        chair=((140, 20, 20), (180, 60, 60)),
        wall=((80, 180, 236), (140, 220, 255)),
        floor=((156, 120, 40), (200, 150, 80)),
        things=((238, 120, 20), (255, 235, 120)),
    ),
    Palette(
        name="blackboard",
        skins=((214, 228, 236), (186, 204, 214), (150, 172, 184)),
        hairs=((230, 222, 190), (120, 140, 150), (176, 190, 120)),
        dark_shirts=((0, 70, 90), (14, 110, 130)),
        shirts=((236, 238, 210), (255, 255, 240)),
        dark_trousers=((196, 200, 210), (220, 224, 235)),
        trousers=((0, 80, 60), (12, 120, 100)),
        wood=((206, 196, 170), (226, 214, 186)),
        brass=(246, 238, 170),
        silvered=(176, 214, 232),
        black=(84, 92, 96),
        chair=((0, 90, 100), (20, 120, 130)),
        wall=((10, 34, 28), (34, 48, 46)),
        floor=((6, 14, 12), (24, 28, 26)),
        things=((0, 70, 60), (16, 120, 110)),
    ),
    Palette(
        name="copper",
        skins=((248, 190, 158), (210, 130, 92), (128, 66, 40)),
        hairs=((96, 16, 8), (210, 96, 30), (40, 10, 30)),
        dark_shirts=((60, 0, 60), (110, 14, 110)),
        shirts=((238, 150, 60), (255, 200, 120)),
        dark_trousers=((90, 0, 50), (130, 12, 90)),
        trousers=((200, 120, 40), (235, 170, 90)),
        wood=((92, 20, 70), (118, 38, 100)),
        brass=(138, 58, 34),
        silvered=(250, 232, 214),
        black=(58, 10, 22),
        chair=((132, 40, 0), (180, 80, 20)),
        wall=((230, 130, 80), (255, 180, 130)),
        floor=((156, 70, 30), (200, 110, 60)),
        things=((238, 60, 40), (255, 130, 100)),
    ),
)
"""Of test_unseen_style."""
