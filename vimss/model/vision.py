"""Pictures to feature vectors, one per player and frame, by a network of torchvision or a small one of our own.

vision = Vision(VisionConfig(network="resnet18", weights="random"))
vision(torch.zeros(1, 2, 5, 96, 96, 3, dtype=torch.uint8))  # [1 2 5 512]
"""

import hashlib
import pickle
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vimss.errors import ModelError
from vimss.model.card import WEIGHTS
from vimss.model.compact_vision import CompactNetwork
from vimss.model.pretrained import pretrained_folder
from vimss.model.vision_config import VisionConfig, known_weights

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in 0..1, R G B: what the weights of torchvision were trained with."""

IN_A_MODEL = "vision.network."
"""Begin of the names of these weights in the file of a model that has trained them."""

CLASSIFIERS = {"fc", "classifier"}
"""Names of the layers of torchvision's networks that come after the features."""

AFTER_PLACES = CLASSIFIERS | {"avgpool"}
"""The same of a resnet, with the mean over places."""

FRAMES_AT_ONCE = 64
"""Pictures in one pass of a frozen network: bounds memory, and larger batches are no faster."""


class Vision(nn.Module):
    """A network without its classifier, always in evaluation mode; frozen, it makes no gradients.

    Trained along, it learns its weights, not batch norm's statistics: those of a batch would let one player's
    features depend on the pictures of all others.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            # Random weights are the same everywhere, so that features computed from them have a meaning elsewhere.
            torch.manual_seed(0)
            network = _untrained(config.network)
        if config.weights != "random":
            network.load_state_dict(_weights(config, network.state_dict()))
        for name in CLASSIFIERS & dict(network.named_children()).keys():
            setattr(network, name, nn.Identity())
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(3, 1, 1), persistent=False)
        if config.frozen:
            self.network.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Vision":
        """Evaluation mode, whatever `mode` is: batch norm would use and change its statistics."""
        return super().train(False)

    def forward(self, pictures: UInt8[Tensor, "b p v h w 3"]) -> Float[Tensor, "b p v d"]:
        """Features of every picture."""
        frames = pictures.flatten(0, 2).movedim(-1, -3)
        if self.config.frozen:
            # Stored features were computed in full precision.
            with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
                features = torch.cat([self._features(part) for part in torch.split(frames, FRAMES_AT_ONCE)])
            # Stored features are float16; those computed on the way must not differ from them.
            features = features.half().to(self.mean.dtype)
        else:
            features = self._features(frames)
        return features.reshape(*pictures.shape[:3], self.config.feature_size)

    def attend(self, pictures: UInt8[Tensor, "n h w 3"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k l"]]:
        """Of the compact network: features of pictures, and where it looks in them."""
        assert isinstance(self.network, CompactNetwork), "settings are checked before"  # noqa: S101
        features, weights = self.network.attend(self._normalised(pictures.movedim(-1, -3)))
        return features, weights

    def levels(self, pictures: UInt8[Tensor, "n h w 3"]) -> list[Float[Tensor, "n _ _ _"]]:
        """Of the compact network: the normalised pictures, and its layers of each size, from fine to coarse."""
        assert isinstance(self.network, CompactNetwork), "settings are checked before"  # noqa: S101
        return self.network.levels(self._normalised(pictures.movedim(-1, -3)))

    def places(self, pictures: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n d k l"]:
        """Features at each place of the last layer, before they are averaged over the picture."""
        x = self._normalised(pictures.movedim(-1, -3))
        if isinstance(self.network, CompactNetwork):
            return self.network.places(x)
        if hasattr(self.network, "features"):  # of mobilenet_v2
            return self.network.get_submodule("features")(x)
        for name, layer in self.network.named_children():
            if name not in AFTER_PLACES:
                x = layer(x)
        return x

    def _features(self, frames: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return self.network(self._normalised(frames))

    def _normalised(self, frames: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        return (frames.to(self.mean.dtype) / 255 - self.mean) / self.deviation


def _untrained(network: str) -> nn.Module:
    if network == "compact":
        return CompactNetwork()
    import torchvision  # loads torch's compiler, which takes seconds

    made: nn.Module = getattr(torchvision.models, network)(weights=None)
    return made


def weights_digest(network: Vision) -> str:
    """SHA-256 over all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _weights(config: VisionConfig, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that the settings name, checked against the network's own names and shapes."""
    if config.weights == "torchvision":
        found = _download(config)
    else:
        comes_with_vimss = pretrained_folder(config.weights)
        found = _read(comes_with_vimss / WEIGHTS if comes_with_vimss else Path(config.weights))
    # A model's own file of weights has them under the name of its vision network, and no classifier, which is not used.
    if any(name.startswith(IN_A_MODEL) for name in found):
        found = {name.removeprefix(IN_A_MODEL): tensor for name, tensor in found.items()}
        found |= {name: tensor for name, tensor in wanted.items() if name.startswith(("fc.", "classifier."))}
    # BatchNorm counts its batches; weights exported from old versions have no such count, and nothing uses it.
    for name in wanted:
        if name.endswith("num_batches_tracked"):
            found.setdefault(name, wanted[name])
    home = "" if config.network == "compact" else " of torchvision"
    for name, tensor in wanted.items():
        if name not in found or found[name].shape != tensor.shape:
            raise ModelError(
                f"{config.weights} must hold the weights of {config.network}{home}",
                got=f"{name} of shape {list(found[name].shape)}" if name in found else f"no {name}",
                fix="set vision.network to the network that the weights are of",
            )
    return {name: found[name] for name in wanted}


def _download(config: VisionConfig) -> dict[str, Tensor]:
    import torchvision

    weights = torchvision.models.get_model_weights(config.network).DEFAULT
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; RuntimeError is a wrong hash
        raise ModelError(
            f"vision.weights: torchvision needs {weights.url} from the network or from torch's cache",
            got=str(error),
            fix="set vision.weights to the path of a .pth or .safetensors file with these weights, or to random",
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    """Weights from a file; no code in it is run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(
            f"vision.weights must be {known_weights()}",
            got=f"{path}, which does not exist",
            fix="correct the path",
        ) from error
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{path} must be a .safetensors file or a .pth file of tensors",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            fix="save the network's state_dict and nothing else",
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(
            f"{path} must hold a dictionary of tensors", got=type(content).__name__, fix="save the network's state_dict"
        )
    return content
