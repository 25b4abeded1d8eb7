"""Scenes, the input of evaluation, pages and separators: clips and mixtures as sound, stems by label, views of players.

    for scene in pieces_of(manifest, "test", views):
        scene.mixture, scene.references["vn"], scene.views["vn"]            # [c t], [c t], one array per violinist

A reference is a label's stem: the sum of the stems of its players. With `by_player` it is the stem of a player instead,
whose name is the label, with a number from left to right where several have it: "vn 1", "vn 2".
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Float64

from vimss.media import INT16_SCALE
from vimss.shards.clip import NOTES, Clip
from vimss.shards.manifest import Manifest, Shard
from vimss.stream.mix import SOUND_ALONE, Mixture, PlayerViews
from vimss.stream.other_pieces import OtherPieces
from vimss.stream.read import read_pieces

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scene:
    """A piece or a mixture as evaluation uses it: the sound, the stems and the views of the players."""

    name: str
    mixture: Float[np.ndarray, "c t"]
    references: dict[str, Float[np.ndarray, "c t"]]
    """The labels that sound, with the sum of their players' stems."""
    views: Mapping[str, Sequence[np.ndarray]]
    """Label to the view of each of its players, such as pictures "v h w 3" or features "v d", spread evenly over the
    mixture; one that has a single row, such as an example "1 d", is of all of it. Empty for networks that use no
    players. A label that does not sound may have views."""
    unscored: Mapping[str, Float[np.ndarray, "c t"]] = field(default_factory=dict)
    """Labels that also sound, but that a model of the table lacks; no system is conditioned on them."""
    without_example: Mapping[str, Float[np.ndarray, "c t"]] = field(default_factory=dict)
    """Labels that also sound, but of which a player has no example, where the system needs one; it is not conditioned
    on them either, and has no figures of them."""
    notes: Mapping[str, Sequence[Float64[np.ndarray, "_ 3"]]] = field(default_factory=dict)
    """Label to the notes of each of its players that sound: onset in seconds of the scene, pitch in hertz, duration in
    seconds; empty for systems that do not read them."""

    def restricted(self, labels: Collection[str]) -> "Scene":
        """The same sound, with only these labels as references and only views of their players."""
        wanted, without, others = (dict[str, np.ndarray]() for _ in range(3))
        for label, stem in self.references.items():
            (wanted if label in labels else others)[label] = stem
        for label, stem in self.without_example.items():
            (without if label in labels else others)[label] = stem
        views = {label: views for label, views in self.views.items() if label in labels}
        notes = {label: notes for label, notes in self.notes.items() if label in labels}
        unscored = {**self.unscored, **others}
        return replace(self, references=wanted, views=views, unscored=unscored, without_example=without, notes=notes)

    def renamed(self, label: str, other: str) -> "Scene":
        """The same sound, in which the reference of `label` has another name."""
        references = {other if name == label else name: stem for name, stem in self.references.items()}
        notes = {other if name == label else name: notes for name, notes in self.notes.items()}
        return replace(self, references=references, notes=notes)

    def beginning(self, samples: int) -> "Scene":
        """About the first `samples`, cut between two pictures; labels that rest there are left out."""
        total, frames = self.mixture.shape[1], self._frames
        kept = max(1, round(frames * min(samples / total, 1)))
        length = round(kept * total / frames)
        references = {label: stem[:, :length] for label, stem in self.references.items() if stem[:, :length].any()}
        return Scene(self.name, self.mixture[:, :length], references, self._views_of(references, slice(0, kept)))

    @property
    def _frames(self) -> int:
        """The rows of a view over the mixture; as many as samples where none has several."""
        rows = (len(view) for views in self.views.values() for view in views if len(view) > 1)
        return next(rows, self.mixture.shape[1])

    def _views_of(self, labels: Collection[str], rows: slice) -> dict[str, list[np.ndarray]]:
        """These rows of the views of some labels; a single row stays."""
        return {
            label: [view[rows] if len(view) > 1 else view for view in self.views[label]]
            for label in labels
            if label in self.views
        }

    def around(self, first: int, samples: int) -> tuple["Scene", int]:
        """The stretch from picture to picture that holds `samples` from `first` on, and the sample that it begins at.

        Labels that rest there are left out, as in `beginning`.
        """
        total, frames = self.mixture.shape[1], self._frames
        start, end = first * frames // total, -(-min(first + samples, total) * frames // total)
        begin, stop = (round(frame * total / frames) for frame in (start, end))
        references = {
            label: stem[:, begin:stop] for label, stem in self.references.items() if stem[:, begin:stop].any()
        }
        views = self._views_of(references, slice(start, end))
        return Scene(self.name, self.mixture[:, begin:stop], references, views), begin


def pieces_of(
    manifest: Manifest,
    split: str,
    views: PlayerViews = SOUND_ALONE,
    shards: Sequence[Shard] | None = None,
    *,
    by_player: bool = False,
) -> Iterator[Scene]:
    """Whole pieces of a split that have two or more sounding labels, or players if references are `by_player`.

    `views` gives the views of the players. With `shards`, only the pieces in them. Examples of the players are of other
    pieces of the split that have their timbres; where there is none for a label, it is no reference.
    """
    others = OtherPieces(manifest, split, views.example_seconds) if views.example_seconds else None
    for clip in read_pieces(manifest, split, views.members, views.features, shards):
        named = with_player_names(clip) if by_player else clip
        references = references_of(named)
        if len(references) < 2:
            continue
        if others is None:
            yield Scene(clip.piece, mixture_of(clip), references, views_of(named, views), notes=notes_of(named))
            continue
        names = [player.instrument for player in named.players]
        shown = _examples_of(clip, names, views, others)
        scene = Scene(clip.piece, mixture_of(clip), references, shown, notes=notes_of(named)).restricted(shown)
        yield replace(scene, unscored={}, without_example=scene.unscored)


def _examples_of(
    clip: Clip, names: Sequence[str], views: PlayerViews, others: OtherPieces
) -> dict[str, list[np.ndarray]]:
    """The examples of the players that sound, from other pieces, by these names of theirs.

    A name of which a player has no example is left out.
    """
    found: dict[str, list[np.ndarray]] = {}
    missing = set()
    for name, player in zip(names, clip.players, strict=True):
        if player.audio is None or not player.audio.any():
            continue
        passage = others.of_player(clip.piece, player)
        if passage is None:
            missing.add(name)
            log.warning("no example of %s in %s: no other piece of the split has its timbre", name, clip.piece)
        else:
            found.setdefault(name, []).append(views.of_player(clip, replace(player, audio=passage)))
    return {name: shown for name, shown in found.items() if name not in missing}


def with_player_names(clip: Clip) -> Clip:
    """The clip with a name of its own for each player in place of the label."""
    names = player_names([player.instrument for player in clip.players])
    players = tuple(replace(player, instrument=name) for player, name in zip(clip.players, names, strict=True))
    return replace(clip, players=players)


def player_names(labels: Sequence[str]) -> list[str]:
    """A name for each of these players: the label, with a number where several have it, "vn 1" and "vn 2"."""
    counts, seen = Counter(labels), Counter[str]()
    names = []
    for label in labels:
        seen[label] += 1
        names.append(f"{label} {seen[label]}" if counts[label] > 1 else label)
    return names


def scene_of(mixture: Mixture, name: str, *, by_player: bool = False) -> Scene:
    """A drawn mixture, in which the distractors have views too; with `by_player`, each source has its own name."""
    references: dict[str, np.ndarray] = {}
    views: dict[str, list[np.ndarray]] = {}
    notes: dict[str, list[np.ndarray]] = {}
    labels = [source.label for source in mixture.sources]
    names = player_names(labels) if by_player else labels
    for key, source in zip(names, mixture.sources, strict=True):
        references[key] = references.get(key, 0) + source.stem
        if source.notes is not None:
            notes.setdefault(key, []).append(source.notes)
    shown = [*zip(names, mixture.sources, strict=True), *((player.label, player) for player in mixture.distractors)]
    for key, player in shown:
        if player.view is not None:
            views.setdefault(key, []).append(player.view)
    return Scene(name, mixture.sound, references, views, notes=notes)


def views_of(clip: Clip, views: PlayerViews) -> dict[str, list[np.ndarray]]:
    """The views of the players that sound, by label; DataError where the clip lacks one."""
    found: dict[str, list[np.ndarray]] = {}
    for player in clip.players if views.uses_players else ():
        if player.audio is not None and player.audio.any():
            found.setdefault(player.instrument, []).append(views.of_player(clip, player))
    return found


def notes_of(clip: Clip) -> dict[str, list[Float64[np.ndarray, "_ 3"]]]:
    """The notes of the players that sound, by label, as far as they were read."""
    found: dict[str, list[np.ndarray]] = {}
    for player in clip.players:
        if player.audio is not None and player.audio.any() and NOTES in player.annotations:
            found.setdefault(player.instrument, []).append(player.annotations[NOTES])
    return found


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
