"""Passages of the players of a whole piece from other pieces of the split, where a label has the same timbre.

    others = OtherPieces(manifest, "test", seconds=3.0)
    others.of_player("bwv386", player)          # Int16 "c u"; None where no other piece has that timbre

A passage of the piece itself would be part of what is scored.
"""

import numpy as np
from jaxtyping import Int16

from vimss.media import INT16_SCALE
from vimss.shards.clip import Player
from vimss.shards.manifest import Manifest
from vimss.stream.lazy import ClipEntry
from vimss.stream.passages import passage_beside
from vimss.stream.read import list_clips, read_clips
from vimss.stream.stems import sounds

MOST_CLIPS = 4
"""Clips of other pieces that are looked at for one in which the player sounds."""


class OtherPieces:
    """Passages of the players of a split from its other pieces, by the timbres that the corpus names."""

    def __init__(self, manifest: Manifest, split: str, seconds: float) -> None:
        self.manifest = manifest
        self.split = split
        self.length = round(seconds * manifest.recipe.sample_rate)
        self._clips: dict[tuple[str, str], list[tuple[ClipEntry, int]]] = {}
        for clip in list_clips(manifest, split):
            for place in clip.sounding:
                player = clip.players[place]
                # Without a timbre, nobody knows whether two players of a label sound alike.
                if player.timbre:
                    self._clips.setdefault((player.instrument, player.timbre), []).append((clip, place))

    def of_player(self, piece: str, player: Player) -> Int16[np.ndarray, "c u"] | None:
        """A passage of the same label and timbre in another piece, always the same one; None where there is none."""
        others = [found for found in self._clips.get((player.instrument, player.timbre), ()) if found[0].piece != piece]
        # From the piece after its own on, and round to the first: not the same one for all pieces.
        others.sort(key=lambda found: (found[0].piece < piece, found[0].key, found[1]))
        for clip, place in others[:MOST_CLIPS]:
            passage = passage_beside(np.random.default_rng(0), self._stem(clip, place), self.length, 0, 0)
            if sounds(passage, INT16_SCALE):
                return passage
        return None

    def _stem(self, entry: ClipEntry, place: int) -> Int16[np.ndarray, "c t"]:
        shards = [shard for shard in self.manifest.of_split(self.split) if shard.name == entry.shard]
        (clip,) = read_clips(self.manifest, self.split, shards, keys={entry.key})
        audio = clip.players[place].audio
        # Some corpora have features of the sound in its place.
        return np.zeros((1, 0), np.int16) if audio is None else audio
