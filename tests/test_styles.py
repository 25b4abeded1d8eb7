"""Drawing styles of the embedded corpus; what every picture must hold is in test_chamber.py."""

import hashlib
from dataclasses import fields, replace
from itertools import pairwise, product

import numpy as np
import pytest
from test_chamber import RATE, make_recipe
from test_chamber_pictures import joint

from vimss.shards.corpora.chamber import Options, pieces, read
from vimss.shards.corpora.chamber.arrange import Style, Tone, arrange
from vimss.shards.corpora.chamber.casting import UNSEEN_STYLE, generator, make_plan
from vimss.shards.corpora.chamber.drawing import Film, draw, view_of
from vimss.shards.corpora.chamber.figure import Pen
from vimss.shards.corpora.chamber.motion import move
from vimss.shards.corpora.chamber.palettes import Palette
from vimss.shards.corpora.chamber.props import PROPS
from vimss.shards.corpora.chamber.styles import (
    PLAIN,
    SEEN,
    SIGNED,
    UNSEEN,
    Camera,
    DrawingStyle,
    Family,
    draw_style,
    style_of,
    values_of,
)
from vimss.shards.instruments import INSTRUMENTS

PLAIN_FILMS = "4fbacfbde217de51c3279d39e87a9300806c7aa1a3610492290e29e77715936d"
"""SHA-256 of what `test_films_of_the_plain_style_are_those_of_earlier_corpora` draws, before there were styles."""

STYLES = [draw_style(np.random.default_rng(seed), family) for family in (SEEN, UNSEEN) for seed in range(4)]


def film_of(instrument: str, style: DrawingStyle, seed: int = 0, frames: int = 15, size: int = 64) -> Film:
    tones = [Tone(0.3 * step, 0.3 * step + 0.26, 55 + step * 7 % 12, 0.9) for step in range(8)]
    rng = np.random.default_rng(seed)
    return draw(instrument, move(tones, frames, 12.5, rng), size, rng, style)


# --- the plain style --------------------------------------------------------------------------------------------


def test_films_of_the_plain_style_are_those_of_earlier_corpora() -> None:
    digest = hashlib.sha256()
    for seed, (place, instrument) in product(range(2), enumerate(INSTRUMENTS)):
        film = film_of(instrument, PLAIN, seed * 100 + place, frames=12)
        for array in (film.picture, film.masks, film.boxes, film.skeleton):
            digest.update(array.tobytes())
    assert digest.hexdigest() == PLAIN_FILMS


def test_a_corpus_of_one_style_has_the_plain_one() -> None:
    assert {style_of(0, f"piece {number}", 0, 1, unseen=False) for number in range(50)} == {PLAIN}
    assert Options().styles == 1 and Options().unseen_style_minutes == 0


def test_styles_change_no_sound() -> None:
    recipe = make_recipe(picture={"size": 16, "frame_rate": 5})
    one, several = (Options(minutes=2, styles=count) for count in (1, 9))
    piece = next(piece for piece in pieces(recipe, one, None).pieces if piece.split == "valid")
    (before,), (after,) = (list(read(piece, recipe, options, None)) for options in (one, several))
    for plain, drawn in zip(before.players, after.players, strict=True):
        np.testing.assert_array_equal(plain.audio, drawn.audio)
    assert any((a.picture != b.picture).any() for a, b in zip(before.players, after.players, strict=True))


# --- seen and unseen --------------------------------------------------------------------------------------------


def ranges_of(family: Family) -> dict[str, tuple[float, float]]:
    return {**family.proportions, **family.posture, **family.camera}


def test_no_number_of_an_unseen_style_is_in_a_range_of_the_others() -> None:
    seen, unseen = ranges_of(SEEN), ranges_of(UNSEEN)
    assert list(seen) == list(unseen) == list(values_of(PLAIN))
    for name, (low, high) in unseen.items():
        assert low > seen[name][1] or high < seen[name][0], name
        assert not low <= values_of(PLAIN)[name] <= high, name
    # A body's width is drawn once more for each player, between 0.9 and 1.12.
    assert UNSEEN.proportions["trunk"][1] * 1.12 < SEEN.proportions["trunk"][0] * 0.9


def test_no_name_of_an_unseen_style_is_that_of_another() -> None:
    assert set(SEEN.props).isdisjoint(UNSEEN.props) and {*SEEN.props, *UNSEEN.props} == set(PROPS)
    assert {palette.name for palette in SEEN.palettes}.isdisjoint(palette.name for palette in UNSEEN.palettes)
    assert PLAIN.palette in SEEN.palettes


def colours_of(palette: Palette) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Lowest and highest colours for each thing; the dark and the other ones of clothes together."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for field in fields(palette):
        if field.name != "name":
            value = np.array(getattr(palette, field.name), float)
            many = field.name in ("skins", "hairs")
            boxes = [(one, one) for one in value.reshape(-1, 3)] if many or value.ndim == 1 else [(value[0], value[1])]
            thing = field.name.removeprefix("dark_").replace("silvered", "brass")
            found.setdefault(thing, []).extend(boxes)
    return found


@pytest.mark.parametrize("unseen", UNSEEN.palettes, ids=lambda palette: palette.name)
def test_no_colour_of_an_unseen_palette_is_one_of_the_others(unseen: Palette) -> None:
    for palette in SEEN.palettes:
        for thing, boxes in colours_of(palette).items():
            for (low, high), (lower, higher) in product(boxes, colours_of(unseen)[thing]):
                assert (lower <= higher).all()
                assert (lower > high).any() or (higher < low).any(), (palette.name, thing)


def test_players_of_each_split_are_drawn_in_styles_of_their_family() -> None:
    found = {
        unseen: [style_of(3, f"piece {number}", player, 20, unseen) for number in range(60) for player in range(2)]
        for unseen in (False, True)
    }
    for unseen, family in ((False, SEEN), (True, UNSEEN)):
        for style in found[unseen]:
            assert style.palette in family.palettes and set(style.props) <= set(family.props)
            assert all(low <= values_of(style)[name] <= high for name, (low, high) in ranges_of(family).items())
    assert len(set(found[False])) == 20 and PLAIN in found[False]
    assert len(set(found[True])) == 120


def test_the_values_whose_magnitude_has_a_range_have_both_signs() -> None:
    drawn = [draw_style(np.random.default_rng(seed), UNSEEN) for seed in range(30)]
    for name in SIGNED:
        owner = next(part for part in ("posture", "camera") if hasattr(getattr(drawn[0], part), name))
        signs = {np.sign(getattr(getattr(style, owner), name)) for style in drawn}
        assert signs == {-1, 1}, name


# --- pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.palette.name)
def test_masks_boxes_and_joints_are_exact_in_every_style(style: DrawingStyle) -> None:
    for seed, instrument in enumerate(INSTRUMENTS):
        film = film_of(instrument, style, seed, frames=4)
        for mask, boxes in zip(film.masks, film.boxes, strict=True):
            for pixels, (left, top, right, bottom) in zip(mask, boxes, strict=True):
                assert pixels.sum() == pixels[top:bottom, left:right].sum() > 0, instrument
        drawn = film.masks.any(axis=0)
        for name in ("head", "left hand", "right elbow"):
            for pixels, (x, y, confidence) in zip(drawn, joint(film, name), strict=True):
                row, column = min(63, int(y * 64)), min(63, int(x * 64))
                near = pixels[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                # What stands in front may cover a joint.
                assert confidence == 0 or near.any() or "music stand" in style.props, (instrument, name)
        assert joint(film, "head")[:, 2].all(), instrument


@pytest.mark.parametrize("family", [SEEN, UNSEEN], ids=["seen", "unseen"])
def test_every_instrument_stays_large_enough_to_be_recognised(family: Family) -> None:
    for seed, instrument in product(range(3), INSTRUMENTS):
        film = film_of(instrument, draw_style(generator(seed, instrument), family), seed, frames=9)
        # Of a flute 1.5 % of the picture: at 80 pixels 100 of them.
        assert film.masks[1, -1].mean() > 0.003, instrument


def test_a_camera_that_zooms_makes_player_and_instrument_smaller() -> None:
    near, far = (film_of("vc", replace(PLAIN, camera=Camera(zoom=zoom)), 1) for zoom in (1.0, 0.5))
    for one, other in zip(near.masks[1], far.masks[1], strict=True):
        assert 0.2 < other.sum() / one.sum() < 0.32


@pytest.mark.parametrize("camera", [Camera(), Camera(zoom=0.8, turn=0.3, stretch=1.2, shear=0.2)], ids=str)
def test_a_camera_keeps_the_middle_and_the_area(camera: Camera) -> None:
    view, pen = view_of(camera), Pen(32)
    view.aim(pen, 1 + 0j, 0j, 0j)
    for name, place in (("middle", 0.5 + 0.5j), ("right", 1 + 0.5j), ("below", 0.5 + 1j)):
        pen.mark(name, place)
    right, below = (pen.joints[name] - pen.joints["middle"] for name in ("right", "below"))
    assert pen.joints["middle"] == pytest.approx(0.5 + 0.5j)
    assert (right.conjugate() * below).imag == pytest.approx(0.25 * camera.zoom**2)


def test_what_stands_in_front_covers_the_player_exactly() -> None:
    alone, covered = (film_of("vc", replace(PLAIN, props=props), 2) for props in ((), ("music stand",)))
    hidden = alone.masks & ~covered.masks
    assert hidden.any() and not (covered.masks & ~alone.masks).any()
    changed = np.abs(alone.picture.astype(int) - covered.picture).max(axis=-1) > 60
    assert changed[hidden.any(axis=0)].mean() > 0.3


@pytest.mark.parametrize("name", PROPS)
def test_a_prop_is_seen(name: str) -> None:
    bare, furnished = (film_of("cl", replace(PLAIN, props=props), 3).picture for props in ((), (name,)))
    assert (np.abs(bare.astype(int) - furnished).max(axis=-1) > 40).mean() > 0.003


def test_low_contrast_and_blur_leave_the_mean_as_it_is() -> None:
    soft = Camera(blur=1.0, contrast=0.7)
    plain, faint = (film_of("vn", replace(PLAIN, camera=camera), 4).picture for camera in (Camera(), soft))
    assert faint.std() < 0.8 * plain.std()
    assert abs(faint.mean() - (0.7 * plain.mean() + 0.3 * 90)) < 4


# --- the split test_unseen_style --------------------------------------------------------------------------------


def test_the_unseen_style_has_minutes_of_its_own_and_changes_no_other_piece() -> None:
    plain, more = make_plan(0, 14.0, 30.0), make_plan(0, 14.0, 30.0, unseen_style_minutes=3.0)
    drawn = [casting for casting in more.values() if casting.split == UNSEEN_STYLE]
    assert {name: casting for name, casting in more.items() if casting.split != UNSEEN_STYLE} == plain
    assert sum(casting.seconds for casting in drawn) == pytest.approx(180)


@pytest.mark.slow
def test_its_players_are_drawn_in_other_colours_than_all_others() -> None:
    recipe = make_recipe(picture={"size": 16, "frame_rate": 5})
    options = Options(minutes=2, styles=8, unseen_style_minutes=0.5)
    piece = next(piece for piece in pieces(recipe, options, None).pieces if piece.split == UNSEEN_STYLE)
    (clip,) = read(piece, recipe, options, None)
    assert clip.samples == round(piece.seconds * RATE) and all(p.picture is not None for p in clip.players)
    assert all(player.audio is None or player.audio.any() for player in clip.players)


def test_it_has_quartets_where_other_splits_have_all_the_chorales() -> None:
    plan = make_plan(0, 14.0, 30.0, only_chorales=True, unseen_style_minutes=3.0)
    assert {c.composition.startswith("bach") for c in plan.values() if c.split == UNSEEN_STYLE} == {False}
    assert {c.composition.startswith("bach") for c in plan.values() if c.split != UNSEEN_STYLE} == {True}


def test_duets_of_two_equal_instruments_have_rests_like_other_pieces() -> None:
    plan = [casting for casting in make_plan(0, 40.0, 30.0, doubles=1.0).values() if casting.split == "valid"]
    longest = []
    for casting in plan:
        for tones in arrange(casting, 0, Style()):
            gaps = [after.start - before.end for before, after in pairwise(tones)]
            longest.append(max(gaps))
    assert np.mean(np.array(longest) > 1.5) > 0.4
