"""The network of `correspondence` and `localisation`: pictures and sounds to whether, and where, they belong together.

    network = CorrespondenceNetwork(settings, labels=("vn", "vc"), sample_rate=8000)
    network(sound, pictures)                        # log-odds "b p s", of each picture with each sound of its example
    network.maps(sound, pictures)                   # of AVOL-Net: log-odds "b p s k l" of each place of a picture
    network.predict({"mixture": sound, "frames": pictures})["correspondence"]    # probabilities "b p"
    network.predict({"sound_features": heard, "features": seen})        # the same of `correspondence.inputs: features`

After AVE-Net and AVOL-Net of Objects that Sound (Arandjelović and Zisserman 2018). Each stream ends in two layers of
128 numbers and a division by their norm. AVE-Net: one vector per picture; the distance of the two vectors goes through
an affine layer to two classes. AVOL-Net: one vector per place of the picture; its product with that of the sound goes
through an affine layer, and the highest of all places counts, so that a picture needs to agree in one place. The paper
divides AVOL-Net's vectors by no norm; EZ-VSL (Mo and Morgado 2022), which also takes the maximum, does.

The streams are smaller than the papers': `model.vision` and the network of `objective: instruments` that listens. With
`correspondence.streams: published` they are those of `correspondence_streams`. With `correspondence.inputs: features`
others have looked and listened already, by the networks of a corpus, and each stream is its last two layers alone.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vimss.model.compact_vision import CompactNetwork
from vimss.model.interface import Input
from vimss.model.vision import Vision
from vimss.train.config import Settings
from vimss.train.objectives.correspondence_streams import WIDTHS as PUBLISHED_WIDTHS
from vimss.train.objectives.correspondence_streams import PictureStream, SoundStream
from vimss.train.objectives.instruments_network import WIDTHS, SoundNetwork
from vimss.train.objectives.weak_labels_network import SOUND_FEATURES

EMBEDDING = 128
"""As in the paper."""

PICTURE_FEATURES = 1024
"""Numbers of a picture, as YouTube-8M has them."""

SLOPE = 10.0
"""At the start, of the log-odds over the distance or the product; it is trained."""


class CorrespondenceNetwork(nn.Module):
    """Sounds and pictures in, log-odds of all pairs out."""

    def __init__(self, settings: Settings, labels: tuple[str, ...], sample_rate: int) -> None:
        """ModelError where weights of the vision network cannot be had."""
        super().__init__()
        self.settings = settings
        self.labels = labels
        self.sample_rate = sample_rate
        self.localises = settings.objective == "localisation" or settings.correspondence.network == "avol_net"
        self.takes_media = settings.correspondence.inputs == "media"
        self.vision: Vision | PictureStream | nn.Identity
        self.sound: SoundNetwork | SoundStream | nn.Identity
        if not self.takes_media:
            self.vision, self.sound = nn.Identity(), nn.Identity()
            self.of_picture, self.of_sound = _head(PICTURE_FEATURES), _head(SOUND_FEATURES)
        elif settings.correspondence.streams == "published":
            self.vision, self.sound = PictureStream(), SoundStream(sample_rate)
            self.of_picture, self.of_sound = _head(PUBLISHED_WIDTHS[-1]), _head(PUBLISHED_WIDTHS[-1])
        else:
            self.vision, self.sound = Vision(settings.model.vision), SoundNetwork(sample_rate)
            self.of_picture, self.of_sound = _head(settings.model.vision.feature_size), _head(WIDTHS[-1])
        self.affine = nn.Linear(1, 1 if self.localises else 2)
        slope = torch.tensor([SLOPE] if self.localises else [SLOPE / 2, -SLOPE / 2])
        with torch.no_grad():
            # Log-odds of 0 for vectors at right angles, which have the product 0 and the distance 2 ** 0.5: right and
            # wrong pairs pull with equal strength at the start.
            self.affine.weight.copy_(slope[:, None])
            self.affine.bias.copy_(0 * slope if self.localises else -(2**0.5) * slope)
        if self.localises and isinstance(self.vision, Vision) and isinstance(self.vision.network, CompactNetwork):
            self.vision.network.where.requires_grad_(False)  # the sound says where to look

    def forward(
        self,
        sound: Float[Tensor, "b s c t"] | Float[Tensor, "b s k"],
        pictures: UInt8[Tensor, "b p h w 3"] | Float[Tensor, "b p d"],
    ) -> Float[Tensor, "b p s"]:
        """The log-odds of each picture, or its features, with each sound, or its features, of the same example."""
        if self.localises:
            return self.maps(sound, pictures).flatten(3).amax(3)
        features = self.vision(pictures[:, :, None])[:, :, 0]
        seen = F.normalize(self.of_picture(features), dim=-1)
        classes = self.affine(_distances(seen, self.hear(sound))[..., None])
        return classes[..., 1] - classes[..., 0]

    def maps(self, sound: Float[Tensor, "b s c t"], pictures: UInt8[Tensor, "b p h w 3"]) -> Float[Tensor, "b p s k l"]:
        """The log-odds of each place of each picture, with each sound of the same example."""
        assert not isinstance(self.vision, nn.Identity), "features have no places"  # noqa: S101
        places = self.vision.places(pictures.flatten(0, 1)).movedim(1, -1).unflatten(0, pictures.shape[:2])
        seen = F.normalize(self.of_picture(places), dim=-1)
        products = torch.einsum("bpkld,bsd->bpskl", seen, self.hear(sound))
        return self.affine(products[..., None])[..., 0]

    def hear(self, sound: Float[Tensor, "b s c t"] | Float[Tensor, "b s k"]) -> Float[Tensor, "b s d"]:
        """The vectors of sounds, or of their features."""
        heard = self.sound(sound.flatten(0, 1)).unflatten(0, sound.shape[:2])
        return F.normalize(self.of_sound(heard), dim=-1)

    def matrices(self) -> list[nn.Parameter]:
        """Those of the two heads."""
        heads = (self.of_picture, self.of_sound)
        return [weight for head in heads for weight in head.parameters() if weight.ndim == 2]

    # What a registered model of it takes and gives

    def inputs(self) -> tuple[Input, ...]:
        """A sound, and the pictures of players during it, of which the middle one counts; or the features of both."""
        if not self.takes_media:
            heard = Input("sound_features", np.float32, (-1, -1, SOUND_FEATURES))
            return heard, Input("features", np.float32, (-1, -1, -1, PICTURE_FEATURES))
        return Input("mixture", np.float32, (-1, -1, -1)), Input("frames", np.uint8, (-1, -1, -1, -1, -1, 3))

    def outputs(self) -> tuple[Input, ...]:
        """A probability per player; AVOL-Net also gives that of each place of the player's picture."""
        players = Input("correspondence", np.float32, (-1, -1))
        return (players, Input("places", np.float32, (-1, -1, -1, -1))) if self.localises else (players,)

    @torch.no_grad()
    def predict(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """How probable it is that each player's picture belongs to the sound of its example."""
        sound, pictures = (torch.from_numpy(np.ascontiguousarray(arrays[given.name])) for given in self.inputs())
        if not self.takes_media:
            sound = sound[:, sound.shape[1] // 2]
        pictures = pictures[:, :, pictures.shape[2] // 2]
        if not self.localises:
            return {"correspondence": torch.sigmoid(self(sound[:, None], pictures)[..., 0]).float().numpy()}
        places = torch.sigmoid(self.maps(sound[:, None], pictures)[:, :, 0]).float()
        return {"correspondence": places.amax((2, 3)).numpy(), "places": places.numpy()}


def _head(width: int) -> nn.Sequential:
    # Features of our streams are 0 or more, so without their mean two pictures differ by more, and so do two sounds.
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, EMBEDDING), nn.ReLU(), nn.Linear(EMBEDDING, EMBEDDING))


def _distances(one: Float[Tensor, "b p d"], other: Float[Tensor, "b s d"]) -> Float[Tensor, "b p s"]:
    """Euclidean, of each vector with each of the other kind."""
    # A root has no gradient at 0, where two vectors are equal.
    return (one[:, :, None] - other[:, None]).square().sum(-1).clamp(min=1e-8).sqrt()
