"""The network of the objective `alignment`: a player's motion and a sound to how well they are in step.

    network = AlignmentNetwork(settings, labels=("vn", "vc"), sample_rate=8000)
    network(sound, motion)                                                # "n m s": scores of their windows
    network.predict({"mixture": sound, "motion": motion})["alignment"]    # "b p", the highest of whom it fits best

Two stacks of convolutions over time, one for motion (the grid of `vimss.model.contexts.motion`) and one for sound
(log-mel energies, two for each picture), give a vector per picture each. The score of two windows is the sum of the
products of their vectors, times a scale: a correlation of 32 learned signals, after the two streams of SyncNet (Chung
and Zisserman 2016).

Three things must not give the right window away. Convolutions have no padding, and pictures whose STFT window reaches
beyond the excerpt are left out: else the edges of both streams would look alike. The mean over the window is removed
from the vectors of motion: else loud windows would have high scores whatever moves. Each input is standardised over the
excerpt, the same for all of its windows.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vimss.errors import ModelError
from vimss.model.contexts.motion import GRID
from vimss.model.interface import Input
from vimss.model.mel import MelSpectrogram, fft_samples
from vimss.model.motion import REACH, motion_stack, standardised
from vimss.train.config import Settings

MEL_BANDS = 40

SUBFRAMES = 2
"""Spectra per picture."""

STEP = 0.5
"""Seconds between two windows of motion."""


def lost_pictures(samples: int, pictures: int, sample_rate: int) -> int:
    """Pictures at either end of an excerpt that have no vector."""
    return REACH + math.ceil(fft_samples(sample_rate) / 2 * pictures / samples)


class AlignmentNetwork(nn.Module):
    """Sound and motion in, scores of their windows out."""

    def __init__(self, settings: Settings, labels: tuple[str, ...], sample_rate: int) -> None:
        super().__init__()
        self.settings = settings
        self.labels = labels
        self.sample_rate = sample_rate
        self.mel = MelSpectrogram(sample_rate, MEL_BANDS)
        self.of_motion = motion_stack(GRID * GRID)
        self.of_sound = motion_stack(MEL_BANDS * SUBFRAMES)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, sound: Float[Tensor, "n c t"], motion: Float[Tensor, "n v d"]) -> Float[Tensor, "n m s"]:
        """Scores of windows of `alignment.seconds`: of motion one every STEP seconds, of sound all."""
        rate = motion.shape[1] * self.sample_rate / sound.shape[-1]
        length, step = round(self.settings.alignment.seconds * rate), round(STEP * rate)
        return self.scores(*self.vectors(sound, motion), length, step)

    def vectors(
        self, sound: Float[Tensor, "n c t"], motion: Float[Tensor, "n v d"]
    ) -> tuple[Float[Tensor, "n e w"], Float[Tensor, "n e w"]]:
        """The vectors of sound and of motion, for each picture that is far enough from the ends.

        ModelError where none is.
        """
        pictures = motion.shape[1]
        lost = lost_pictures(sound.shape[-1], pictures, self.sample_rate)
        if pictures <= 2 * lost:
            raise ModelError(
                f"an excerpt must have more than {2 * lost} pictures",
                got=f"{pictures} in {sound.shape[-1] / self.sample_rate:.2g} s",
                fix="give a longer one",
            )
        edge = lost - REACH
        inner = slice(edge, pictures - edge)
        heard = standardised(self.spectrogram(sound, pictures))[..., inner]
        seen = standardised(motion.float().transpose(1, 2))[..., inner]
        return self.of_sound(heard), self.of_motion(seen)

    def scores(
        self, heard: Float[Tensor, "n e w"], seen: Float[Tensor, "n e w"], length: int, step: int = 1
    ) -> Float[Tensor, "n m s"]:
        """Scores of windows of `length` pictures, of motion one every `step` pictures, from their vectors."""
        moving = seen.unfold(2, length, step)
        moving = moving - moving.mean(-1, keepdim=True)
        return self.scale * torch.einsum("nemt,nest->nms", moving, heard.unfold(2, length, 1))

    def spectrogram(self, sound: Float[Tensor, "n c t"], pictures: int) -> Float[Tensor, "n f v"]:
        """Log energies in mel bands, SUBFRAMES for each picture, spread evenly over the excerpt."""
        bands = self.mel.spread(sound, SUBFRAMES * pictures).transpose(1, 2)
        return bands.reshape(len(sound), pictures, SUBFRAMES * MEL_BANDS).transpose(1, 2)

    def matrices(self) -> list[nn.Parameter]:
        """None: all weights are of convolutions over time."""
        return []

    # What a registered model of it takes and gives

    def inputs(self) -> tuple[Input, ...]:
        """Sound of some length, and the motion of its players, spread evenly over it."""
        return Input("mixture", np.float32, (-1, -1, -1)), Input("motion", np.float16, (-1, -1, -1, GRID * GRID))

    def outputs(self) -> tuple[Input, ...]:
        """A number per player."""
        return (Input("alignment", np.float32, (-1, -1)),)

    @torch.no_grad()
    def predict(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The score of each player's motion with the sound of its example, over the whole of it."""
        sound, motion = (torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in ("mixture", "motion"))
        count = motion.shape[1]
        heard, seen = self.vectors(sound.repeat_interleave(count, 0), motion.flatten(0, 1))
        found = self.scores(heard, seen, heard.shape[-1])[:, 0, 0]
        return {"alignment": found.reshape(len(sound), count).float().numpy()}
