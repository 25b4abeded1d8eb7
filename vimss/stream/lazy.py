"""Clips whose metadata is known and whose members are decoded when they are first needed.

for clip in lazy_clips(manifest, "train", shard, parts=("audio", "picture"), keys={"p_000000000"}):
    clip.entry.players[0].instrument     # from the JSON of the clip
    clip.decoded().players[0].audio      # decodes all parts of the clip, once, whichever thread is first
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from vimss.shards.clip import Clip


@dataclass(frozen=True)
class PlayerEntry:
    """The metadata of a player in a shard."""

    instrument: str
    timbre: str
    sounds: bool
    """Whether there is a stem, or features of the sound in its place."""


@dataclass(frozen=True)
class ClipEntry:
    """The metadata of a clip in a shard."""

    shard: str
    """Name of the shard."""
    key: str
    piece: str
    samples: int
    players: tuple[PlayerEntry, ...]

    @property
    def sounding(self) -> tuple[int, ...]:
        """The places of the players that have one of these."""
        return tuple(place for place, player in enumerate(self.players) if player.sounds)


def entry_of(clip: Clip, shard: str = "") -> ClipEntry:
    """The metadata of a decoded clip."""
    players = tuple(
        PlayerEntry(player.instrument, player.timbre, not (player.audio is None and player.sound_features is None))
        for player in clip.players
    )
    return ClipEntry(shard, clip.key, clip.piece, clip.samples, players)


class LazyClip:
    """A clip that is decoded once, by the first thread that needs it; others wait for that one."""

    def __init__(self, entry: ClipEntry, decode: Callable[[], Clip]) -> None:
        self.entry = entry
        self._decode: Callable[[], Clip] | None = decode
        self._clip: Clip | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, clip: Clip) -> "LazyClip":
        """A clip that is decoded already."""
        return cls(entry_of(clip), lambda: clip)

    def decoded(self) -> Clip:
        """The clip with the parts that it was read for; what `decode` raises, where it cannot be decoded."""
        with self._lock:
            if self._clip is None:
                assert self._decode is not None, "it is forgotten after it has returned a clip"  # noqa: S101
                self._clip = self._decode()
                # It holds the members as they lie in the shard.
                self._decode = None
            return self._clip
