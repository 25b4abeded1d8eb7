"""The picture of the sound of every pixel, beside the stems of a model that has one: a sound_of_pixels of `frames`.

write_pixels(folder, separator, mixture, pictures, ("vn", "vc"))      # folder/pixels.png
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from vimss.media.disk import DiskAudio
from vimss.model.pixels import shows_pixels, sound_of_places
from vimss.model.separator import Separator
from vimss.pages.pixels import pixels_png

PIXELS = "pixels.png"


def write_pixels(
    folder: Path, separator: Separator, mixture: DiskAudio, pictures: torch.Tensor | None, players: Sequence[str]
) -> bool:
    """Write it into the folder, unless the model has none; returns whether there is one."""
    if pictures is None or not shows_pixels(separator):
        return False

    def read(first: int, last: int) -> torch.Tensor:
        return torch.from_numpy(mixture.read(first, last))

    places = sound_of_places(separator, read, mixture.samples, pictures)
    (folder / PIXELS).write_bytes(pixels_png(places, players))
    return True
