"""Models that come with VIMSS, a folder each, with model.json and weights.safetensors: nothing is downloaded.

    pretrained_folder("chamber")     # the folder; None where no model that comes with VIMSS has this name

They are models like any other: `vision.weights` and `vimss features --weights` take the name for a vision network,
`--instruments-from` and `training.start_from` for the model. A folder of the same name here is ./NAME.

chamber names the instruments of drawn players by their pictures: experiments/players.yaml, trained by
tests/bench/pretrained.py. Its figures are in its model.json, in the metadata of its weights and in the lab log.
"""

import json
from pathlib import Path

from vimss.model.card import CARD

PRETRAINED = {"chamber": "compact"}
"""Name of each to its vision network. Signatures of settings hold the name, so other weights get another one."""


def pretrained_folder(name: str) -> Path | None:
    """The folder of a model that comes with VIMSS; None for any other name."""
    return Path(__file__).parent / name if name in PRETRAINED else None


def vision_digest(name: str) -> str:
    """What `vimss.model.vision.weights_digest` gives of one of PRETRAINED; known without loading its weights."""
    about = json.loads((Path(__file__).parent / name / CARD).read_text(encoding="utf-8"))
    digest: str = about["card"]["vision_sha256"]
    return digest
