"""The context `skeleton`: where each player's joints are, as the shards hold them.

Skeleton(config, labels).of_player(clip, player)      # Float16 "v j"

A row has `skeleton_size` numbers per picture. Their order is the corpus's own: the embedded corpus has 16 joints (see
`vimss.shards.corpora.chamber.skeleton`), Solos 47; both give all x, then all y, then all confidences, relative to the
player's crop. No recording can be separated with it, because VIMSS has no pose estimator: it is for questions of what
posture and movement say.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from pydantic import Field

from vimss.config import Config
from vimss.errors import ConfigError, ModelError
from vimss.model.contexts.recording import Recording
from vimss.model.contexts.refusals import no_view
from vimss.model.contexts.vectors import PlayerVectors
from vimss.shards.clip import Clip, Player


class SkeletonSettings(Config):
    """The size of a skeleton."""

    skeleton_size: int = Field(
        48,
        ge=1,
        le=16384,
        description="numbers per frame of a `skeleton` context: 48 are the 16 joints of the embedded corpus, Solos has "
        "141",
    )


@dataclass(frozen=True)
class Skeleton(PlayerVectors):
    """Joints of the players."""

    config: SkeletonSettings

    Settings: ClassVar[type[Config]] = SkeletonSettings
    members: ClassVar[tuple[str, ...]] = ("skeleton",)
    source: ClassVar[str] = "skeleton"
    plural: ClassVar[str] = "skeletons"

    @property
    def width(self) -> int:
        """Numbers per picture."""
        return self.config.skeleton_size

    @property
    def norm(self) -> float:
        """Of numbers that are spread evenly between 0 and 1."""
        return (self.width / 3) ** 0.5

    def of_player(self, clip: Clip, player: Player) -> Float[np.ndarray, "v j"]:
        """The player's joints; ConfigError where the shards have another number of them."""
        if player.skeleton is None:
            fix = "use shards of a corpus that has them, such as chamber, or set model.context: labels"
            raise no_view("skeleton", "the skeleton", clip, player, fix=fix)
        found = player.skeleton.shape[1]
        if found != self.width:
            raise ConfigError(
                f"model.skeleton_size must be that of the skeletons in the shards, {found} numbers per picture",
                got=f"{self.width}, and {found} for {player.part} in {clip.key}",
                fix=f"set model.skeleton_size: {found}, or use shards of the corpus that the model is for",
            )
        return player.skeleton

    def of_recording(self, recording: Recording) -> Float[np.ndarray, "p v j"]:
        """Refused: nothing here finds joints in pictures."""
        raise ModelError(
            "a model whose context is skeleton needs the joints of every player, and VIMSS has no pose estimator",
            got=f"the recording {recording.file}",
            fix="separate it with a model of another context, such as labels, or evaluate this one on shards that hold "
            "skeletons",
        )
