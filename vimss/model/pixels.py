"""The sound of every pixel: how much of a mixture each place of a player's pictures has, by The Sound of Pixels.

    if shows_pixels(separator):
        places = sound_of_places(separator, read, samples, pictures)
        places.share[0]             # "k l": of the first player, the share of the mixture's energy at each place

In training, a vision network averages its features over a picture. Here each place of its last layer is mapped to
values by itself (Zhao et al. 2018), so that it has a mask of its own; places have the size of that layer's grid.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from vimss.model.apply import Read, read_padded
from vimss.model.networks.sound_of_pixels.network import SoundOfPixels
from vimss.model.networks.spectra.u_net import crop
from vimss.model.separator import Separator
from vimss.model.vision import Vision

LOOKS = 3
"""Pictures that are looked at, spread over the recording, as in the paper."""

STRETCH_SECONDS = 2.0
"""Of sound at a time."""

PLACES_AT_ONCE = 64
"""Masks in memory at a time."""


@dataclass(frozen=True, eq=False)
class Places:
    """The places of all players' pictures."""

    share: Float32[np.ndarray, "p k l"]
    """Of the mixture's energy, 0 to 1."""
    values: Float32[np.ndarray, "p k l m"]
    """The weights of the maps: places with similar weights sound alike."""
    pictures: UInt8[np.ndarray, "p h w 3"]
    """One picture of each player, from the middle of the recording."""


def shows_pixels(separator: Separator) -> bool:
    """Whether a model has a sound for every place: a sound_of_pixels that is queried by pictures."""
    config = separator.config
    return isinstance(separator.network, SoundOfPixels) and (config.context, config.outputs) == ("frames", "queries")


@torch.inference_mode()
def sound_of_places(separator: Separator, read: Read, samples: int, pictures: UInt8[Tensor, "p v h w 3"]) -> Places:
    """The places of pictures that are spread over a recording of so many samples, by a model that `shows_pixels`."""
    network, vision = separator.network, separator.get_submodule("vision")
    assert isinstance(network, SoundOfPixels) and isinstance(vision, Vision), "callers ask shows_pixels"  # noqa: S101
    count = min(LOOKS, pictures.shape[1])
    looked = ((torch.arange(count) + 0.5) * pictures.shape[1] / count).long()
    features = vision.places(pictures[:, looked].flatten(0, 1).to(separator.device))
    values = torch.sigmoid(network.query(features.movedim(1, -1).to(separator.dtype)))
    values = values.unflatten(0, (len(pictures), count)).mean(1)
    rows = values.flatten(0, 2)[None, :, None]
    energy, total = torch.zeros(rows.shape[1], dtype=torch.float64), 0.0
    window = separator.geometry.window_at_least(round(STRETCH_SECONDS * separator.sample_rate))
    for start in range(0, samples, window):
        found, whole = _energies(separator, network, read, (start, window, samples), rows)
        energy, total = energy + found, total + whole
    share = energy / total if total else energy
    return Places(
        share.float().reshape(values.shape[:3]).numpy(),
        (values * network.weight[0]).cpu().float().numpy(),
        pictures[:, pictures.shape[1] // 2].numpy(),
    )


def _energies(
    separator: Separator, network: SoundOfPixels, read: Read, span: tuple[int, int, int], rows: Float[Tensor, "1 q 1 m"]
) -> tuple[Float[Tensor, " q"], float]:
    """The energy of each place in a window of the recording, and that of the mixture."""
    (start, window, samples), margin = span, separator.geometry.context // 2
    mixture = read_padded(read, start - margin, start + window + margin, samples)
    spectrum = network.stft(mixture.to(separator.device, separator.dtype)[None])
    maps, cropped = network.maps_of(network.bands_of(spectrum))
    # The frames of the window alone: those around it are of its neighbours.
    maps, heard = crop(maps, network.margin - cropped), crop(spectrum, network.margin).abs().square()
    parts = [
        (network.bin_masks_of(maps, part).square() * heard[:, None]).sum((0, 2, 3, 4)).cpu().double()
        for part in rows.split(PLACES_AT_ONCE, dim=1)
    ]
    return torch.cat(parts), float(heard.sum())
