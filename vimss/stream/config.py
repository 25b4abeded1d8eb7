"""Settings of mixing: how clips become training examples."""

from typing import ClassVar

from pydantic import Field, model_validator

from vimss.config import Config


class MixingConfig(Config):
    """How players are drawn, changed and added."""

    renamed: ClassVar = {
        "aligned_share": "aligned_probability",
        "absent_share": "absent_probability",
        "silence_share": "silence_probability",
        "remix_share": "remix_probability",
    }

    min_sources: int = Field(2, ge=1, le=7, description="fewest players in a mixture")
    max_sources: int = Field(2, ge=1, le=7, description="most players in a mixture; the number is drawn evenly")
    aligned_probability: float = Field(
        0.25,
        ge=0,
        le=1,
        description="probability that the players of a mixture come from one clip at one time, not independently",
    )
    same_label_probability: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability that the second of independent players has the label of the first, where the pool has "
        "another one: for networks whose outputs are slots or players",
    )
    absent_probability: float = Field(
        0.2,
        ge=0,
        le=1,
        description="probability that a query names a player who is not in the mixture; the target is silence",
    )
    queries: int = Field(2, ge=1, le=8, description="queries per mixture, where the network takes queries")
    gain_db: float = Field(4.0, ge=0, le=20, description="each stem is made louder or softer by up to this many dB")
    flip_polarity: bool = Field(True, description="each stem keeps or flips its sign at random")
    equaliser_db: float = Field(
        0.0, ge=0, le=20, description="largest gain of a random smooth equaliser on each stem, dB"
    )
    pitch_semitones: float = Field(
        0.0,
        ge=0,
        le=12,
        description="each stem is played faster or slower, and so higher or lower, by up to this many semitones; "
        "players of one clip at one time by the same",
    )
    room_seconds: float = Field(
        0.0, ge=0, le=5, description="each stem sounds in a random room that reverberates for up to this many seconds"
    )
    silence_probability: float = Field(
        0.0, ge=0, le=1, description="probability that a stem is silent during 10 to 50 % of the output window"
    )
    swap_channels: bool = Field(False, description="left and right of each stem change places at random")
    remix_probability: float = Field(
        0.0, ge=0, le=1, description="probability that stems change places between the mixtures of a batch"
    )
    shuffle_pictures: bool = Field(
        False,
        description="as a control: in training every player is shown with the pictures, features, joints, motion or "
        "example of another player, chosen at random; labels stay, and so do validation and evaluation",
    )
    curriculum_epochs: int = Field(
        0, ge=0, description="epochs in which the most players grow from min_sources to max_sources; 0: at once"
    )
    pool_clips: int = Field(64, ge=2, description="clips held in memory, from which independent players are drawn")
    windows_per_clip: int = Field(16, ge=1, description="mixtures drawn for each clip of the pool before it is left")

    @model_validator(mode="after")
    def _counts_are_ordered(self) -> "MixingConfig":
        if self.min_sources > self.max_sources:
            raise ValueError(f"min_sources ({self.min_sources}) must not exceed max_sources ({self.max_sources})")
        return self
