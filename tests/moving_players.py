"""Trios who move at each of their notes, as stems and a video: for tests of what is in step with what.

moving_shards(folder, store)      # pieces of 16 s in every split, 12.5 pictures a second
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vimss.media import write_video, write_wav
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store

RATE, PICTURES, SIDE = 8000, 12.5, 32
SECONDS = 16
PIECES = {"train": 4, "valid": 2, "promote": 2, "test": 2}
PITCHES = {"fl": 1000, "vn": 600, "vc": 300}
"""Of the notes of each player, Hz."""


def moving_shards(folder: Path, store: Store, seconds: float = SECONDS, pieces: Mapping[str, int] = PIECES) -> Manifest:
    """The shards of such trios; `pieces` are so many in each split."""
    rng = np.random.default_rng(0)
    for split, count in pieces.items():
        for number in range(count):
            _write_piece(folder / split / f"{split} {number}", seconds, rng)
    picture = f"picture={{size: {SIDE}, frame_rate: {PICTURES}}}"
    recipe = load_recipe("folder", [f"sample_rate={RATE}", picture, f"labels=[{', '.join(PITCHES)}]"])
    return write_shards(recipe, "moving", store, source=folder)


def _write_piece(piece: Path, seconds: float, rng: np.random.Generator) -> None:
    samples, count = round(RATE / PICTURES), round(seconds * PICTURES)
    columns = []
    for name, pitch in sorted(PITCHES.items()):
        notes = rng.random(count) < 0.25
        tone = 0.2 * np.sin(2 * np.pi * pitch * np.arange(count * samples) / RATE)
        write_wav(piece / f"{name}.wav", (tone * np.repeat(notes, samples)).astype(np.float32)[None], RATE)
        pictures = np.zeros((count, SIDE, SIDE, 3), np.uint8)
        place = rng.integers(0, SIDE - 8, 2)
        for picture, note in zip(pictures, notes, strict=True):
            place = rng.integers(0, SIDE - 8, 2) if note else place
            picture[place[0] : place[0] + 8, place[1] : place[1] + 8] = 255
        columns.append(pictures)
    write_video(piece / "video.mp4", np.concatenate(columns, axis=2), PICTURES)
