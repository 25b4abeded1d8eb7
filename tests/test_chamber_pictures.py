import numpy as np
import pytest

from vimss.shards.corpora.chamber.arrange import Tone
from vimss.shards.corpora.chamber.drawing import Film, boxes_of, draw
from vimss.shards.corpora.chamber.motion import move
from vimss.shards.corpora.chamber.skeleton import JOINTS, UNSEEN, skeleton_rows
from vimss.shards.corpora.chamber.styles import PLAIN
from vimss.shards.instruments import INSTRUMENTS


def film_of(instrument: str, tones: list[Tone], seconds: float, seed: int = 0) -> Film:
    rng = np.random.default_rng(seed)
    return draw(instrument, move(tones, round(seconds * 12.5), 12.5, rng), 64, rng, PLAIN)


@pytest.mark.parametrize("instrument", list(INSTRUMENTS))
def test_players_move_with_their_notes_and_are_nearly_still_in_rests(instrument: str) -> None:
    tones = [Tone(0.3 * step, 0.3 * step + 0.26, 55 + step * 7 % 12, 0.9) for step in range(8)]
    picture = film_of(instrument, tones, seconds=6.0).picture.astype(np.int16)
    difference = np.abs(np.diff(picture, axis=0))
    moving = np.where(difference > 16, difference, 0).mean(axis=(1, 2, 3))
    # Playing until 2.4 s; from 4 s on the instrument is down.
    assert moving[:28].mean() > 4 * moving[52:].mean()


def test_louder_strokes_are_longer() -> None:
    rng = np.random.default_rng(0)
    soft, strong = (
        np.ptp([m.bow for m in move([Tone(0.5 * k, 0.5 * k + 0.45, 60, loud) for k in range(6)], 38, 12.5, rng)])
        for loud in (0.3, 0.9)
    )
    assert strong > 2 * soft


@pytest.mark.parametrize("instrument", list(INSTRUMENTS))
def test_masks_lie_in_their_boxes_and_touch_all_sides(instrument: str) -> None:
    film = film_of(instrument, [Tone(0.5, 1.0, 60, 0.8)], seconds=1.2)
    assert not (film.masks[0] & film.masks[1]).any()
    for mask, boxes in zip(film.masks, film.boxes, strict=True):
        for pixels, (left, top, right, bottom) in zip(mask, boxes, strict=True):
            inside = pixels[top:bottom, left:right]
            assert pixels.sum() == inside.sum() > 0
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def joint(film: Film, name: str) -> np.ndarray:
    """x, y and confidence of a joint in each picture."""
    return film.skeleton.astype(float)[:, JOINTS.index(name) :: len(JOINTS)]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("instrument", list(INSTRUMENTS))
def test_head_hands_and_fingers_of_a_skeleton_lie_on_the_drawn_player(instrument: str, seed: int) -> None:
    # One of the two seeds mirrors the player of an instrument, or both or none; all have to fit the picture.
    film = film_of(instrument, [Tone(0.3, 0.7, 60, 0.8), Tone(0.7, 1.0, 67, 0.8)], seconds=1.2, seed=seed)
    assert film.skeleton.shape == (15, 3 * len(JOINTS)) and film.skeleton.dtype == np.float16
    drawn = film.masks.any(axis=0)
    for name in ("head", "right hand", "left hand", "left finger 0", "right finger 2", "right elbow"):
        for pixels, (x, y, confidence) in zip(drawn, joint(film, name), strict=True):
            row, column = min(63, int(y * 64)), min(63, int(x * 64))
            assert confidence == 0 or pixels[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].any(), name
    assert joint(film, "head")[:, 2].all() and joint(film, "left hand")[:, 2].all()


def test_the_bow_of_a_skeleton_goes_with_the_music() -> None:
    film = film_of("vn", [Tone(0.5 * k, 0.5 * k + 0.45, 60, 0.9) for k in range(6)], seconds=6.0)
    frog = joint(film, "bow frog")[:, :2]
    moving = np.abs(np.diff(frog, axis=0)).sum(axis=1)
    # Playing until 2.95 s; from 4 s on the instrument is down.
    assert joint(film, "bow frog")[:, 2].all() and moving[:35].mean() > 4 * moving[52:].mean()
    flute = film_of("fl", [Tone(0.0, 1.0, 60, 0.9)], seconds=1.2)
    assert not joint(flute, "bow frog").any() and not joint(flute, "bow tip").any()


def test_left_and_right_change_in_a_mirrored_picture() -> None:
    places = [0.2 + 0.25j if name == "right hand" else UNSEEN for name in JOINTS]
    plain, mirrored = (skeleton_rows([places], mirrored)[0].astype(float) for mirrored in (False, True))
    right, left = JOINTS.index("right hand"), JOINTS.index("left hand")
    np.testing.assert_allclose(plain[right :: len(JOINTS)], [0.2, 0.25, 1], atol=1e-3)
    np.testing.assert_allclose(mirrored[left :: len(JOINTS)], [0.8, 0.25, 1], atol=1e-3)
    assert np.count_nonzero(plain) == np.count_nonzero(mirrored) == 3


@pytest.mark.parametrize("place", [-0.1 + 0.5j, 0.5 + 1.1j, UNSEEN], ids=str)
def test_a_joint_that_is_not_in_the_picture_has_no_confidence(place: complex) -> None:
    assert not skeleton_rows([[place] * len(JOINTS)], mirrored=False).any()


def test_an_empty_mask_has_an_empty_box() -> None:
    masks = np.zeros((2, 1, 8, 8), bool)
    masks[0, 0, 2:4, 5:8] = True
    assert boxes_of(masks).tolist() == [[[5, 2, 8, 4]], [[0, 0, 0, 0]]]


@pytest.mark.parametrize("seed", range(4))
def test_only_masked_pixels_change_when_the_instrument_is_lowered(seed: int) -> None:
    # Seeds 0 to 3 have mirrored and plain players; a trombone reaches far to one side.
    film = film_of("tbn", [Tone(0.0, 0.5, 60, 0.8)], seconds=3.0, seed=seed)
    playing, lowered = 3, -1
    changed = np.abs(film.picture[playing].astype(float) - film.picture[lowered]).mean(axis=-1)
    masked = film.masks[:, playing].any(axis=0) | film.masks[:, lowered].any(axis=0)
    assert changed[~masked].mean() < 0.2 * changed[masked].mean()


def test_players_and_scenes_differ_in_colour() -> None:
    films = [film_of("vn", [Tone(0.5, 1.0, 60, 0.8)], seconds=0.4, seed=seed) for seed in range(6)]
    people = np.array([film.picture[0][film.masks[0, 0]].mean(axis=0) for film in films])
    scenes = np.array([film.picture[0][~film.masks[:, 0].any(axis=0)].mean(axis=0) for film in films])
    for colours in (people, scenes):
        hues = colours - colours.mean(axis=1, keepdims=True)  # without the brightness, which the light changes too
        assert hues.std(axis=0).min() > 10
