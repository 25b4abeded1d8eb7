"""The two streams of AVE-Net and AVOL-Net at their published size (Arandjelović and Zisserman 2018, section 3).

    PictureStream()(pictures)                   # "b p v 512", for pictures "b p v h w 3" of any size from 16 pixels
    PictureStream().places(pictures)            # "n 512 14 14", for pictures "n 224 224 3"
    SoundStream(48000)(sound)                   # "b 512", for a second of sound by 257 bands in 201 frames

Both have the eight 3x3 convolutions of Look, Listen and Learn (Arandjelović and Zisserman 2017): two each of 64, 128,
256 and 512 channels, the first with a stride of 2, and the highest of 2x2 places after each pair but the last. Their
batch norm is group norm here, so that no example depends on others. Layers and windows are from memory of the papers;
the sizes that result are those of a public re-implementation (rohitrango/objects-that-sound).
"""

import itertools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)
"""Channels of each pair of convolutions; the last are the features."""

GROUPS = 8
"""Of group normalisation (Wu and He 2018)."""

WINDOW_SECONDS = 0.01
"""Of the STFT; half of it between two frames, and the next power of 2 samples for the transform, 512 at 48 kHz."""

QUIET = 1e-6
"""Added to magnitudes before the logarithm."""


class _Pairs(nn.Module):
    """Eight convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        before = [channels, *(width for width in WIDTHS for _ in range(2))]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, stride=1 if number else 2, padding=1, bias=False)
            for number, (narrow, wide) in enumerate(itertools.pairwise(before))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, wide) for wide in before[1:])

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d k l"]:
        """The features of each place; a place is 16 pixels wide."""
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            if number and number % 2 == 0:
                x = F.max_pool2d(x, 2)
            x = F.relu(norm(convolution(x)))
        return x


class PictureStream(nn.Module):
    """Pictures in, features out, as `vimss.model.vision.Vision` gives them; all is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.network = _Pairs(3)

    def forward(self, pictures: UInt8[Tensor, "b p v h w 3"]) -> Float[Tensor, "b p v d"]:
        """The highest of all places, of each feature."""
        return self.places(pictures.flatten(0, 2)).amax((2, 3)).unflatten(0, pictures.shape[:3])

    def places(self, pictures: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n d k l"]:
        """Features at each place."""
        frames = pictures.movedim(-1, -3).to(next(self.network.parameters()).dtype)
        return self.network(frames / 127.5 - 1)


class SoundStream(nn.Module):
    """Sound in, one feature vector per window out."""

    taper: Tensor

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.length = round(WINDOW_SECONDS * sample_rate)
        self.register_buffer("taper", torch.hann_window(self.length), persistent=False)
        # One mean and deviation for the whole spectrogram: how loud a window is says nothing about what sounds.
        self.level = nn.GroupNorm(1, 1)
        self.network = _Pairs(1)

    def forward(self, sound: Float[Tensor, "b c t"]) -> Float[Tensor, "b d"]:
        """The highest of all places of the log spectrogram, of each feature; channels are mixed."""
        # Autocast leaves an STFT in float32.
        with torch.no_grad():
            spectrum = torch.stft(
                sound.mean(1),
                n_fft=2 ** math.ceil(math.log2(self.length)),
                hop_length=self.length // 2,
                win_length=self.length,
                window=self.taper,
                return_complex=True,
            )
            bands = torch.log(spectrum.abs() + QUIET)
        return self.network(self.level(bands[:, None])).amax((2, 3))
