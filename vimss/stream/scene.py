"""What evaluation, pages and separators hear and see: clips and mixtures as sound, stems by label, and players in view.

    for scene in pieces_of(manifest, "test", cue="frames"):
        scene.mixture, scene.references["vn"], scene.cues["vn"]            # [c t], [c t], one array per violinist

A reference is a label's stem: the sum of the stems of its players.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from vimss.errors import DataError
from vimss.media import INT16_SCALE
from vimss.shards.clip import Clip
from vimss.shards.manifest import Manifest, Shard
from vimss.stream.mix import Mixture
from vimss.stream.read import read_pieces

Cue = Literal["none", "frames", "features"]
"""What is seen of the players."""

CUE_PARTS: dict[Cue, tuple[str, ...]] = {
    "none": ("audio",),
    "frames": ("audio", "picture"),
    "features": ("audio", "features"),
}
"""What to decode from the shards."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A piece or a mixture, as evaluation hears and sees it."""

    name: str
    mixture: Float[np.ndarray, "c t"]
    references: dict[str, Float[np.ndarray, "c t"]]
    """The labels that sound, with the sum of their players' stems."""
    cues: Mapping[str, Sequence[np.ndarray]]
    """Label to what is seen of each of its players, pictures "v h w 3" or features "v d", spread evenly over the
    mixture; nothing where nobody looks. A label that does not sound may be seen."""
    unscored: Mapping[str, Float[np.ndarray, "c t"]] = field(default_factory=dict)
    """Labels that sound too, but that a model of the table does not know; no system is told of them."""

    def restricted(self, labels: Collection[str]) -> "Scene":
        """The same sound, of which only these labels are references and only their players are seen."""
        parts: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
        for label, stem in self.references.items():
            parts[label not in labels][label] = stem
        cues = {label: cues for label, cues in self.cues.items() if label in labels}
        return replace(self, references=parts[0], cues=cues, unscored={**self.unscored, **parts[1]})

    def renamed(self, label: str, other: str) -> "Scene":
        """The same sound, in which the reference of `label` has another name."""
        references = {other if name == label else name: stem for name, stem in self.references.items()}
        return replace(self, references=references)

    def beginning(self, samples: int) -> "Scene":
        """About the first `samples`, cut between two pictures; labels that rest there are left out."""
        total = self.mixture.shape[1]
        frames = next((len(cue) for cues in self.cues.values() for cue in cues), total)
        kept = max(1, round(frames * min(samples / total, 1)))
        length = round(kept * total / frames)
        references = {label: stem[:, :length] for label, stem in self.references.items() if stem[:, :length].any()}
        cues = {label: [cue[:kept] for cue in self.cues[label]] for label in references if label in self.cues}
        return Scene(self.name, self.mixture[:, :length], references, cues)


def pieces_of(
    manifest: Manifest, split: str, cue: Cue = "none", features: str = "", shards: Sequence[Shard] | None = None
) -> Iterator[Scene]:
    """Whole pieces of a split that have two or more sounding labels; players of one label are one reference.

    `cue` says what to show of the players; of "features", those in the folder `features`. With `shards`, only theirs.
    """
    for clip in read_pieces(manifest, split, CUE_PARTS[cue], features, shards):
        references = references_of(clip)
        if len(references) > 1:
            yield Scene(clip.piece, mixture_of(clip), references, cues_of(clip, cue))


def scene_of(mixture: Mixture, name: str) -> Scene:
    """A drawn mixture, in which the distractors are seen too."""
    references: dict[str, np.ndarray] = {}
    cues: dict[str, list[np.ndarray]] = {}
    for source in mixture.sources:
        references[source.label] = references.get(source.label, 0) + source.stem
    for seen in (*mixture.sources, *mixture.distractors):
        if seen.cue is not None:
            cues.setdefault(seen.label, []).append(seen.cue)
    return Scene(name, mixture.sound, references, cues)


def cues_of(clip: Clip, cue: Cue) -> dict[str, list[np.ndarray]]:
    """What is seen of the players that sound, by label; DataError where one is not seen."""
    cues: dict[str, list[np.ndarray]] = {}
    for player in clip.players if cue != "none" else ():
        if player.audio is not None and player.audio.any():
            seen = player.picture if cue == "frames" else player.features
            if seen is None:
                raise DataError(
                    f"a model with context: {cue} needs {cue} of every player",
                    got=f"none for {player.part} in {clip.key}",
                    fix="evaluate it on a corpus with pictures",
                )
            cues.setdefault(player.instrument, []).append(seen)
    return cues


def references_of(clip: Clip) -> dict[str, Float[np.ndarray, "c t"]]:
    """The sounding labels of a clip with the sum of their players' stems."""
    references: dict[str, np.ndarray] = {}
    for player in clip.players:
        if player.audio is not None and player.audio.any():
            stem = player.audio.astype(np.float32) / INT16_SCALE
            references[player.instrument] = (
                references[player.instrument] + stem if player.instrument in references else stem
            )
    return references


def mixture_of(clip: Clip) -> Float[np.ndarray, "c t"]:
    """The recorded mix, or the sum of the stems."""
    if clip.mixture is not None:
        return clip.mixture.astype(np.float32) / INT16_SCALE
    stems = [player.audio.astype(np.float32) for player in clip.players if player.audio is not None]
    return np.sum(stems, axis=0) / np.float32(INT16_SCALE)
