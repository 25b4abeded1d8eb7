"""The instrument of each player, named from pictures: the picture as a query by way of its label.

    namer = load_namer(folder, "models:/instruments@champion")     # a model of the objective `instruments`
    named = namer.name_player(view, namer.choices(("vn", "vc")))    # of one player's pictures "v h w 3"
    named.label, named.probability, named.is_sure                   # "vn", 0.97, True

A separator that is conditioned on labels can then be queried by pictures, without training: see `vimss.systems` and
`vimss.separate`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8

from vimss.errors import ModelError
from vimss.model.interface import Interface
from vimss.model.networks import DEFAULT
from vimss.model.pretrained import pretrained_folder
from vimss.model.separator import read_card
from vimss.shards.instruments import label_named
from vimss.train.config import Settings
from vimss.train.objectives.instruments_network import InstrumentsNetwork
from vimss.train.objectives.saved import load_network, settings_of

PICTURES = 8
"""Looked at of each player: an instrument does not change from picture to picture."""

ENLARGED = 1.4
"""Each picture is also looked at mirrored, and as much larger: small players in unusual drawings are named rightly more
often, see experiments/players.md."""

SURE = 0.5
"""Probability below which a label is uncertain: then others together are more likely."""


@dataclass(frozen=True)
class Named:
    """The instrument that a player's pictures were named."""

    label: str
    probability: float

    @property
    def is_sure(self) -> bool:
        """Whether it is more likely than all others together."""
        return self.probability >= SURE


class InstrumentNamer:
    """A network of the objective `instruments` that looks at pictures alone, for one player at a time."""

    def __init__(self, network: InstrumentsNetwork, name: str, about: Mapping[str, Any]) -> None:
        """`about` is the content of the model's model.json."""
        self.network = network.eval()
        self.name = name
        self.weights: str = about["sha256"]
        self.card: Mapping[str, Any] = about["card"]

    def choices(self, labels: Sequence[str]) -> dict[str, int]:
        """Those of these labels that the network knows, by any name, with the number of its output.

        ModelError where it knows none.
        """
        own = self.network.labels
        known = {label: label_named(label, own) for label in labels}
        found = {label: own.index(name) for label, name in known.items() if name is not None}
        if not found:
            raise ModelError(
                f"the model '{self.name}', which is to name instruments, must know one of {', '.join(labels)}",
                got=f"a model of {', '.join(own)}",
                fix="choose a model that was trained on the instruments of the separator",
            )
        return found

    @torch.no_grad()
    def name_player(self, view: UInt8[np.ndarray, "v h w 3"], choices: Mapping[str, int]) -> Named:
        """The most likely of these labels for the player in some pictures, if the player has one of them."""
        count = min(len(view), PICTURES)
        some = view[((np.arange(count) + 0.5) * len(view) / count).astype(int)]
        device = next(self.network.parameters()).device
        looks = _looks(torch.from_numpy(np.ascontiguousarray(some)).to(device))
        logits = torch.stack([self.network(None, look[None, None], None)[0].double() for look in looks]).mean(0)
        # A number is the log-odds of its label alone; given that it is exactly one, odds are in proportion.
        shares = torch.softmax(logits[list(choices.values())], 0)
        best = int(shares.argmax())
        return Named(list(choices)[best], float(shares[best]))


def _looks(pictures: UInt8[torch.Tensor, "v h w 3"]) -> tuple[torch.Tensor, ...]:
    """The pictures as they are, mirrored, and larger."""
    size = [round(ENLARGED * side) for side in pictures.shape[1:3]]
    larger = F.interpolate(pictures.movedim(-1, 1).float(), size, mode="bilinear").round().to(torch.uint8)
    return pictures, pictures.flip(2), larger.movedim(1, -1)


def picture_views(labels: Sequence[str]) -> Interface:
    """The views that an InstrumentNamer needs of players: their pictures."""
    looking = DEFAULT.model_copy(update={"context": "frames", "site": "decoder", "outputs": "queries"})
    return Interface(looking, tuple(labels))


def namer_folder(name: str) -> Path:
    """The folder of a model that comes with VIMSS, such as chamber, or else the folder that is named."""
    return pretrained_folder(name) or Path(name)


def load_namer(folder: Path, name: str) -> InstrumentNamer:
    """The model in a folder, called `name` in errors.

    Raises:
        ModelError: no model is there, or it is of another objective, or needs the sound too.

    """
    about = read_card(folder)
    settings = settings_of(about)
    if settings.objective != "instruments" or settings.instruments.inputs != "pictures":
        inputs = f" with instruments.inputs: {settings.instruments.inputs}" * (settings.objective == "instruments")
        raise ModelError(
            f"the model '{name}' must be of the objective 'instruments' with instruments.inputs: pictures, to name the "
            "players",
            got=f"one of the objective '{settings.objective}'{inputs} in {folder}",
            fix="choose another, or train one: `vimss train instruments --set instruments.inputs=pictures`",
        )
    network = load_network(folder)
    assert isinstance(network, InstrumentsNetwork), "the network of this objective"  # noqa: S101
    return InstrumentNamer(network, name, about)


def namer_settings(folder: Path) -> tuple[Settings, bool]:
    """The settings of a model that names players, and whether it was trained with shuffled pictures."""
    about = read_card(folder)
    return settings_of(about), bool(about["card"].get("shuffle_pictures", False))
