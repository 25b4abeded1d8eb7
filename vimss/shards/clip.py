"""The one record that fits every dataset: a clip is a stretch of one piece, as a list of players.

Solo corpora have one player, ensembles aligned ones, unlabelled duets players without stems.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float16, Float64, Int16, UInt8

NOTES = "notes"
"""Annotation with a row per note: onset in seconds, pitch in hertz, duration in seconds."""


@dataclass(frozen=True, eq=False)
class Player:
    """One player in a clip: instrument, part, and what there is of sound and picture."""

    instrument: str
    """A label of the recipe, such as "vn"."""
    part: str
    """Name of the part, unique within the clip: two violins are two players."""
    audio: Int16[np.ndarray, "c t"] | None = None
    """The stem; None where the player rests (`silent`) or where no stem exists."""
    silent: bool = False
    """The player is present and has a picture, but plays nothing in this clip."""
    picture: UInt8[np.ndarray, "v h w 3"] | None = None
    """The player's crop of the video, RGB, at the recipe's size and frame rate."""
    features: Float16[np.ndarray, "v d"] | None = None
    """Vision features, one row per frame."""
    sound_features: Float16[np.ndarray, "v k"] | None = None
    """Features of the sound that the corpus has in place of it, one row per frame."""
    skeleton: Float16[np.ndarray, "v j"] | None = None
    """Joints of the body, one row of j numbers per frame, as the corpus has them."""
    masks: Bool[np.ndarray, "2 v h w"] | None = None
    """Ground truth pixels of the player (0) and of the instrument (1), where the corpus has them."""
    boxes: Int16[np.ndarray, "2 v 4"] | None = None
    """Boxes of player and instrument: left, top, right, bottom in pixels, right and bottom exclusive."""
    annotations: Mapping[str, Float64[np.ndarray, "k n"]] = field(default_factory=dict)
    """Annotations of the part, by name, such as "notes": rows that begin with seconds from the clip's
    start, in order."""
    timbre: str = ""
    """The sound that made the stem, such as "sf2:40"; reports group by it."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A stretch of one piece."""

    piece: str
    """Name of the piece, unique in the corpus, of letters, digits, `-` and `_`."""
    offset: int
    """Where in the piece this clip starts, in audio samples."""
    samples: int
    """Length in audio samples."""
    sample_rate: int
    """Audio samples per second."""
    players: tuple[Player, ...]
    frame_rate: float = 0.0
    """Pictures per second; 0 where no player has a picture."""
    mixture: Int16[np.ndarray, "c t"] | None = None
    """The recorded mix, where it is not the sum of the stems."""
    notes: tuple[str, ...] = ()
    """Sentences about oddities that the reader accepted; kept in the manifest, not in shards."""

    @property
    def key(self) -> str:
        """Name of the clip in its shard: piece and offset."""
        return f"{self.piece}_{self.offset:09d}"


def offset_of(key: str) -> int:
    """Where in its piece the clip with this key starts, in audio samples."""
    return int(key.rpartition("_")[2])
