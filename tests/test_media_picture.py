"""Pictures come as a viewer sees them: turned, flipped, with the shape of their pixels."""

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from media_files import filmed, music

from vimss import media

LEVELS = np.array([[250, 170], [90, 10]])
"""Brightness of the quarters of a picture that stands upright."""
TURNS = [
    (1, {"degrees": 0}, lambda picture: picture),
    (2, {"degrees": 0, "hflip": True}, lambda picture: picture[:, ::-1]),
    (3, {"degrees": 180}, lambda picture: picture[::-1, ::-1]),
    (4, {"degrees": 0, "vflip": True}, lambda picture: picture[::-1]),
    (5, {"degrees": 90, "vflip": True}, lambda picture: picture.swapaxes(0, 1)),
    (6, {"degrees": -90}, lambda picture: np.rot90(picture, -1)),
    (7, {"degrees": -90, "vflip": True}, lambda picture: picture[::-1, ::-1].swapaxes(0, 1)),
    (8, {"degrees": 90}, lambda picture: np.rot90(picture)),
]
"""EXIF's number, FFmpeg's turn, and what a viewer does to the stored picture."""


def quarters() -> np.ndarray:
    """A wide picture."""
    return np.repeat(np.repeat(np.repeat(LEVELS, 16, axis=0), 32, axis=1)[..., None], 3, axis=2).astype(np.uint8)


def seen(picture: np.ndarray) -> np.ndarray:
    """The brightness of the quarters of a picture, rounded to tens."""
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    grey = picture.astype(float).mean(axis=2)
    inner = [[grey[y : y + height, x : x + width][3:-3, 3:-3].mean() for x in (0, width)] for y in (0, height)]
    return np.round(np.array(inner), -1)


@pytest.mark.parametrize(
    ("kind", "codec", "turn", "shown"),
    [
        (kind, codec, turn, shown)
        for kind, codec in (("mp4", "libx264"), ("matroska", "libx264"), ("mov", "mjpeg"))
        for _, turn, shown in TURNS
        if len(turn) == 1 or kind != "matroska"  # which cannot tell flips
    ],
)
def test_a_turned_video_is_read_as_a_viewer_sees_it(tmp_path: Path, kind, codec, turn, shown) -> None:
    path = tmp_path / "a"
    path.write_bytes(filmed(kind, np.repeat(quarters()[None], 5, axis=0), codec=codec, turn=turn))
    viewed = shown(quarters())
    height, width = viewed.shape[:2]
    assert media.probe(path).size == (height, width)
    assert np.array_equal(seen(media.read_video(path, (height, width), 5.0)[2]), shown(LEVELS))
    assert media.columns(path, 2) == [(0, 0, width // 2, height), (width // 2, 0, width, height)]
    left, right = media.read_crops(path, media.columns(path, 2), 16, 5.0, 1.0)
    for crop, column in zip((left, right), shown(LEVELS).T, strict=True):
        assert np.array_equal(seen(crop[2])[:, 0], column) and np.array_equal(seen(crop[2])[:, 1], column)
    (square,) = media.read_crops(path, [media.middle_square(path)], 32, 5.0, 1.0)
    assert np.array_equal(seen(square[0]), shown(LEVELS))


@pytest.mark.parametrize(("number", "turn", "shown"), [*TURNS, (0, {}, lambda picture: picture)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_of_a_photograph_is_followed(tmp_path: Path, number, turn, shown, order) -> None:
    data = filmed("image2pipe", quarters()[None], codec="mjpeg")
    directory = struct.pack(order + "HHHIHHHI", 1, 0x112, 3, 1, number, 0, 0, 0)
    tiff = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8) + directory
    segment = b"Exif\0\0" + tiff
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:])
    height, width = shown(quarters()).shape[:2]
    assert media.probe(path).size == (height, width)
    (picture,) = media.read_images([path], [(0, 0, width, height)], 32)
    assert np.array_equal(seen(picture[0]), shown(LEVELS))


def test_a_display_matrix_that_turns_by_no_quarter_leaves_the_picture_as_it_is() -> None:
    half = round(65536 * 0.5**0.5)
    matrix = [half, half, 0, -half, half, 0, 0, 0, 1 << 30]
    data = filmed("mp4", np.repeat(quarters()[None], 2, axis=0), matrix=matrix)
    assert np.array_equal(seen(media.read_video(data, (32, 64), 5.0)[0]), LEVELS)


@pytest.mark.parametrize(("aspect", "width"), [(Fraction(2), 128), (Fraction(16, 15), 68), (Fraction(9), 64)])
def test_pixels_that_are_not_square_are_shown_in_their_shape(tmp_path: Path, aspect: Fraction, width: int) -> None:
    (tmp_path / "a.mp4").write_bytes(filmed("mp4", np.repeat(quarters()[None], 2, axis=0), aspect=aspect))
    assert media.probe(tmp_path / "a.mp4").size == (32, width)
    left, _ = media.read_crops(tmp_path / "a.mp4", media.columns(tmp_path / "a.mp4", 2), 16, 5.0, 0.4)
    assert np.array_equal(seen(left[0])[:, 0], LEVELS[:, 0])


def test_a_turned_video_keeps_time_zero_with_its_sound() -> None:
    pictures = np.repeat(np.arange(10, dtype=np.uint8) * 20, 32 * 64 * 3).reshape(10, 32, 64, 3)
    data = filmed("mp4", pictures, sound=music(2.0), turn={"degrees": 90})
    rows = media.read_video(data, (64, 32), 5.0)
    assert [round(float(row.mean()) / 20) for row in rows] == list(range(10))
    assert media.read_audio(data, 44100).shape[1] == pytest.approx(2 * 44100, abs=2)


def test_the_picture_goes_on_after_damage_and_after_a_restart_of_time_stamps() -> None:
    pictures = np.repeat(np.arange(10, dtype=np.uint8) * 20, 32 * 64 * 3).reshape(10, 32, 64, 3)
    data = filmed("mpegts", pictures, codec="mpeg2video", sound=music(2.0))
    assert 18 <= len(media.read_video(data + data, (32, 64), 5.0)) <= 22
    report = media.SoundReport()
    assert media.read_audio(data + data, 44100, report=report).shape[1] == pytest.approx(4 * 44100, abs=0.1 * 44100)
    assert any("joined are read one after the other; the time starts again at" in note for note in report.notes)
