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

    labels: Literal["mixture", "players"] = Field(
        "mixture",
        description="what an example is labelled with. mixture: which instruments sound in it, whoever plays them; "
        "players: the instrument of each player who is shown, where the pictures are the only input",
    )
    augment: bool = Field(
        False,
        description="zoom, turn, shear, mirror and recolour the pictures in training, so that instruments are "
        "recognised in drawings that training did not have",
    )

    masks: bool = Field(
        False,
        description="training also teaches model.vision.network: compact where the instruments are, by the masks that "
        "some shards hold; it then needs fewer pictures",
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


class CorrespondenceConfig(Config):
    """Of `objective: correspondence` and, but for inputs, network and streams, of `objective: localisation`."""

    inputs: Literal["media", "features"] = Field(
        "media",
        description="what is compared. media: a picture and the waveform of a stem; features: those of the picture and "
        "of the sound of a second of some videos, of corpora that have features in place of media",
    )

    network: Literal["ave_net", "avol_net"] = Field(
        "ave_net",
        description="of Arandjelović and Zisserman 2018. ave_net: one vector per picture, whose distance to that of "
        "the sound counts; avol_net: one per place of the picture, of which the nearest to the sound counts, which "
        "also says where the sound comes from",
    )
    loss: Literal["pairs", "info_nce"] = Field(
        "pairs",
        description="pairs: cross entropy of each pair, right ones and wrong ones with equal weight; info_nce: the own "
        "sound is chosen among those of the mixture, and the own picture among its pictures",
    )
    augment: bool = Field(
        False, description="change the pictures in training as instruments.augment does, for drawings not seen before"
    )
    streams: Literal["small", "published"] = Field(
        "small",
        description="what looks and listens. small: model.vision, and a network on 64 mel bands; published: eight "
        "convolutions each, 4.7 million weights, for pictures of 224 pixels and sound at 48 kHz",
    )


class WeakLabelsConfig(Config):
    """Of `objective: weak_labels`."""

    network: Literal["miml", "two_stream"] = Field(
        "miml",
        description="miml, of Gao et al. 2018: of each label the highest score of all bases counts; two_stream, of "
        "Parekh et al. 2019: scores of the bases and of the players' pictures, each a softmax over labels times one "
        "over instances, are added, and those of the bases become masks",
    )
    labels: Literal["pictures", "corpus"] = Field(
        "pictures",
        description="which labels a mixture is trained with. pictures: those that the pictures of its players are "
        "named by the network that comes with VIMSS; corpus: the true ones, as a control",
    )
    inputs: Literal["bases", "sound_features"] = Field(
        "bases",
        description="parts of a mixture that get a score of each label. bases: spectra, by NMF; sound_features: those "
        "of each second of some videos, of corpora that have features in place of the sound",
    )
    bases: int = Field(8, ge=2, le=256, description="spectra that each mixture is a sum of; 25 for 10 s in the paper")
