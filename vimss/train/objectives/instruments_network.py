"""The network of the objective `instruments`: sound, pictures of players, or both, to a number per label.

    network = InstrumentsNetwork(settings, labels=("vn", "vc"), sample_rate=8000)
    network(mixture, pictures, players)                     # log-odds "b i"
    network.predict({"frames": pictures})["vn"]             # probabilities " b"

Pictures: a vision network looks at each picture of each player, and its features are averaged over the window. The
head gives a number per label for each player, and the highest of all players counts: an instrument plays where somebody
plays it.

Sound: a log-mel spectrogram through layers of 3x3 convolutions, each followed by average pooling, then a mean over
frequency and time, as in the small networks of PANNs (Kong et al. 2020) and in instrument recognition before them
(Han, Kim and Lee 2017). Group normalisation takes the place of batch norm, so that no example depends on others.

Both are joined late, as in Look, Listen and Learn (Arandjelović and Zisserman 2017): the features of the sound stand
beside those of each player, and a hidden layer comes before the numbers per label.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from vimss.model.interface import Input
from vimss.model.mel import MelSpectrogram
from vimss.model.vision import Vision
from vimss.train.config import Settings

MEL_BANDS = 64
"""As in PANNs."""

WIDTHS = (32, 64, 128, 256)
"""Channels of the convolutions on the spectrogram; the last are the features of the sound."""

GROUPS = 8
"""Of group normalisation (Wu and He 2018)."""

HIDDEN = 128
"""Width of the layer in which sound and pictures meet."""

COVERED = 0.08
"""Share of a place, of the grid on which the compact network looks, that an instrument must cover to be there."""

UNSEEN = 1e-4
"""Added to the share of looks before the logarithm."""

SURE = 1e-6
"""Least probability that a player plays an instrument, or another one, where each player has one label."""


class SoundNetwork(nn.Module):
    """Sound in, one feature vector per window out."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.spectrogram = MelSpectrogram(sample_rate, MEL_BANDS)
        # One mean and deviation for the whole spectrogram: how loud a window is says nothing about who plays.
        self.level = nn.GroupNorm(1, 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, width, 3, padding=1) for before, width in zip((1, *WIDTHS), WIDTHS, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for width in WIDTHS)

    def forward(self, sound: Float[Tensor, "b c t"]) -> Float[Tensor, "b d"]:
        """The features, averaged over the window; channels are mixed."""
        x = self.level(self.spectrogram(sound)[:, None])
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            if number:
                x = F.avg_pool2d(x, 2, ceil_mode=True)
            x = F.relu(norm(convolution(x)))
        return x.mean((2, 3))


class InstrumentsNetwork(nn.Module):
    """Sound, pictures of players, or both in; a number per label out."""

    def __init__(self, settings: Settings, labels: tuple[str, ...], sample_rate: int) -> None:
        """ModelError where weights of the vision network cannot be had."""
        super().__init__()
        self.settings = settings
        self.labels = labels
        self.sample_rate = sample_rate
        config = settings.instruments
        size = 0
        if config.sees:
            self.vision = Vision(settings.model.vision)
            size += settings.model.vision.feature_size
        if config.hears:
            self.sound = SoundNetwork(sample_rate)
            size += WIDTHS[-1]
        if config.sees and config.hears:
            self.joint = nn.Linear(size, HIDDEN)
            size = HIDDEN
        self.head = nn.Linear(size, len(labels))

    def forward(
        self,
        mixture: Float[Tensor, "b c t"] | None,
        pictures: UInt8[Tensor, "b p v h w 3"] | None,
        players: Bool[Tensor, "b p"] | None,
        each: bool = False,
        masks: Bool[Tensor, "b p v h w"] | None = None,
    ) -> Float[Tensor, "n k"]:
        """Log-odds that each label plays; players who are not real are not looked at, and all are where not given.

        A row of each example; with `each` a row of every real player of all examples, which are compared among labels.
        With the masks of the instruments, each of these ends with the logarithm of how much the network looks there.
        """
        config = self.settings.instruments
        heard = self.sound(mixture) if config.hears else None
        if pictures is None or not config.sees:
            return self.head(heard)
        if players is None:
            players = torch.ones(pictures.shape[:2], dtype=torch.bool, device=pictures.device)
        if masks is not None:
            return self._looking(pictures[players], masks[players])
        features = self.vision(pictures[players].unsqueeze(0))[0].mean(1)
        if heard is not None:
            example = players.nonzero()[:, 0]
            features = F.relu(self.joint(torch.cat([features, heard[example]], dim=1)))
        logits = self.head(features)
        if each:
            return logits
        if config.labels == "players":
            logits = torch.logit(logits.softmax(1), eps=SURE)
        padded = logits.new_full((*players.shape, len(self.labels)), -torch.inf).index_put((players,), logits)
        return padded.amax(1)

    def _looking(self, pictures: UInt8[Tensor, "n v h w 3"], masks: Bool[Tensor, "n v h w"]) -> Float[Tensor, "n k"]:
        """Rows of players, whose instruments the masks show."""
        features, weights = self.vision.attend(pictures.flatten(0, 1))
        there = F.adaptive_avg_pool2d(masks.flatten(0, 1).float(), (weights.shape[1], weights.shape[2])) > COVERED
        share = torch.log((weights * there).sum((1, 2)) + UNSEEN)
        # Where nothing of the instrument is in the picture, there is no place to look at.
        looks = torch.where(there.any(2).any(1), share, 0.0)
        of_players = (*pictures.shape[:2], -1)
        logits = self.head(features.reshape(of_players).mean(1))
        return torch.cat([logits, looks.reshape(of_players).mean(1)], dim=1)

    def matrices(self) -> list[nn.Parameter]:
        """Those of the linear layers."""
        layers = [self.joint, self.head] if hasattr(self, "joint") else [self.head]
        return [weight for layer in layers for weight in layer.parameters() if weight.ndim == 2]

    # What a registered model of it takes and gives

    def inputs(self) -> tuple[Input, ...]:
        """Sound of one window, or of any length, and pictures of its players, spread evenly over it."""
        config = self.settings.instruments
        sound = Input("mixture", np.float32, (-1, -1, -1))
        pictures = Input("frames", np.uint8, (-1, -1, -1, -1, -1, 3))
        return (*((sound,) if config.hears else ()), *((pictures,) if config.sees else ()))

    def outputs(self) -> tuple[Input, ...]:
        """The probability of each label."""
        return tuple(Input(label, np.float32, (-1,)) for label in self.labels)

    @torch.no_grad()
    def predict(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The probability that each label plays, for each example of the batch."""
        given = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        odds = self(given.get("mixture"), given.get("frames"), None).float()
        return dict(zip(self.labels, torch.sigmoid(odds).T.numpy(), strict=True))
