"""Settings of single objectives: a group of `Settings` each, named after its objective.

An objective depends on its own group alone (see `vimss.train.objectives`), so a group of another one is refused.
"""

from typing import ClassVar, Literal

from pydantic import Field

from vimss.config import Config
from vimss.renamed import Moved


class InstrumentsConfig(Config):
    """Of `objective: instruments`."""

    inputs: Literal["pictures", "sound", "both"] = Field(
        "pictures", description="what the instruments are recognised by: the players' pictures, the sound, or both"
    )

    every: float = Field(
        0.0,
        ge=0,
        description="seconds between two pictures of a player, of which a window has at least one; 0: all that the "
        "shards hold, each of which costs as much as many seconds of sound",
    )

    @property
    def sees(self) -> bool:
        """Whether pictures are an input."""
        return self.inputs != "sound"

    @property
    def hears(self) -> bool:
        """Whether the sound is an input."""
        return self.inputs != "pictures"


class AlignmentConfig(Config):
    """Of `objective: alignment`."""

    moved: ClassVar = {"pictures": Moved("mixing.shuffle_pictures", "own")}

    seconds: float = Field(
        4.0,
        gt=0,
        description="length of the windows of motion and sound that are compared, within training.output_samples",
    )
    crosstalk_probability: float = Field(
        0.5, ge=0, le=1, description="probability that other players of the mixture sound in a player's stem"
    )
    crosstalk: float = Field(
        0.6, ge=0, le=1, description="largest share of the others' amplitude there; the share is drawn evenly"
    )
