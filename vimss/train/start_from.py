"""The setting `training.start_from`: the initial weights of a training, identified by their digest.

    StartFrom.model_validate("runs/eyes/model").sha256      # digest of its weights, independent of their path

`vimss.train.start` loads them into the network.
"""

import functools
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from vimss.config import Config
from vimss.model.card import WEIGHTS, check_model_folder
from vimss.model.pretrained import pretrained_folder
from vimss.storage import sha256

MODELS = "models:/"
"""Prefix of the name of a model in the registry."""

NEW = "new"
"""`start_from` of a training that starts from new weights."""


class StartFrom(Config):
    """The weights that a training starts from; in YAML a string."""

    sha256: str = Field("", description="of the file of weights; identifies a trial independently of the file's path")
    folder: str = Field("", exclude=True, description="of the model; empty for new weights")

    @model_validator(mode="before")
    @classmethod
    def _is_a_string_in_a_file(cls, value: Any) -> Any:
        if isinstance(value, dict | StartFrom):
            return value
        if not isinstance(value, str):
            raise ValueError("must be new, a folder, or a model such as models:/NAME@champion")
        if value == NEW:
            return {}
        if value.startswith(MODELS):
            return {"folder": value}
        folder = pretrained_folder(value) or Path(value).expanduser().resolve()
        check_model_folder(folder)
        return {"folder": str(folder), "sha256": _digest(folder / WEIGHTS, (folder / WEIGHTS).stat().st_mtime_ns)}

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder)

    def __str__(self) -> str:
        return self.folder or NEW


@functools.lru_cache
def _digest(path: Path, _changed: int) -> str:
    # Every draw of a search builds settings, and a file of weights may be large.
    return sha256(path)
