"""The interface of a network: from its outputs and its context to arrays and names. No torch here.

    interface = Interface(WaveUNetConfig(outputs="queries", site="decoder"), labels=("vn", "vc"))
    interface.context_of(["vc"])                              # Float32 "q i": [[0, 1]]
    interface.output_names(["vc"], 1)                         # ("vc",)
    targets, rows = interface.query(mixture, mixing, rng)     # of a mixture that is trained on

Everything that depends on both `outputs` and `context` is decided here; the stream gets an interface as an argument.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float32

from vimss.errors import ConfigError, ModelError
from vimss.model.config import ModelConfig
from vimss.model.contexts import CONTEXTS, Context, Recording
from vimss.model.contexts.labels import one_hot
from vimss.shards.clip import Clip, Player
from vimss.shards.manifest import Manifest
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Mixture, PlayerView, Source

Query = TypeVar("Query")
"""A label, or a player with the view of them."""

PLACES = {2: ("left", "right"), 3: ("left", "middle", "right")}
"""Names of the places of that many players, from left to right; of more, places are counted."""


class Input(NamedTuple):
    """An array that a served model takes; -1 where any size will do."""

    name: str
    dtype: type[np.generic]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Interface:
    """The interface of a network with these settings and labels."""

    config: ModelConfig
    labels: tuple[str, ...]
    features: str = ""
    """Folder beside the shards that the context reads, where it is computed; `prepare` gives it."""

    @cached_property
    def context(self) -> Context:
        """The network's context, where it is conditioned."""
        return CONTEXTS[self.config.context](self.config, self.labels)

    @property
    def is_conditioned(self) -> bool:
        """Whether the network takes a context."""
        return self.config.site != "none"

    @property
    def uses_players(self) -> bool:
        """Whether that context shows players, resting ones too; else it names labels, or there is none."""
        return self.is_conditioned and self.context.uses_players

    @property
    def example_seconds(self) -> float:
        """Seconds of a player's stem that the context shows, from elsewhere than what is separated; 0: none."""
        return self.context.example_seconds if self.is_conditioned else 0.0

    @property
    def takes_labels(self) -> bool:
        """Whether the network is conditioned on labels."""
        return self.is_conditioned and not self.context.uses_players

    @property
    def members(self) -> tuple[str, ...]:
        """Members of a clip to read."""
        return ("audio", *self.context.members) if self.is_conditioned else ("audio",)

    @property
    def computed(self) -> bool:
        """Whether the context was computed from the shards beforehand, into a folder beside them."""
        return self.is_conditioned and self.context.computed

    def prepare(self, manifest: Manifest, folder: str = "") -> str:
        """The folder beside the shards that the context reads, checked, or empty: see `Context.prepare`."""
        return self.context.prepare(manifest, folder) if self.is_conditioned else ""

    def of_player(self, clip: Clip, player: Player) -> np.ndarray:
        """The view of a player in a whole clip, "v ...": one entry per picture."""
        return self.context.of_player(clip, player)

    @property
    def any_order(self) -> bool:
        """Whether the outputs have no order, so that each may be any source."""
        return self.config.outputs == "slots"

    def num_outputs(self, queries: int = 1) -> int:
        """Number of outputs, for that many queries where the network takes queries."""
        return {"instruments": len(self.labels), "slots": self.config.slots, "queries": queries}[self.config.outputs]

    # A mixture that is trained on

    def query(
        self, mixture: Mixture, mixing: MixingConfig, rng: np.random.Generator
    ) -> tuple[list[Sequence[Source]], list[np.ndarray]]:
        """For each output, the sources whose sum is its target, and the rows of their context.

        With queries by label, two players of one instrument are one stem. Queries are drawn as `mixing` says.
        """
        targets: list[Sequence[Source]]
        match self.config.outputs:
            case "slots":
                return self._slots(mixture), []
            case "instruments":
                targets = [mixture.of_label(label) for label in self.labels]
                if self.uses_players:
                    return targets, shown_views(mixture.sources)
                return targets, list(self._label_rows(source.label for source in mixture.sources))
        if self.uses_players:
            players = draw_queries(mixture.sources, mixture.distractors, mixing, rng)
            targets = [(player,) if isinstance(player, Source) else () for player in players]
            return targets, shown_views(players)
        sounding = list(dict.fromkeys(source.label for source in mixture.sources))
        absent = [label for label in self.labels if label not in sounding]
        names = draw_queries(sounding, absent, mixing, rng)
        return [mixture.of_label(name) for name in names], list(self._label_rows(names))

    def _slots(self, mixture: Mixture) -> list[Sequence[Source]]:
        slots = self.config.slots
        if len(mixture.sources) > slots:
            raise ConfigError(
                "a network with slots must have one for each source",
                got=f"model.slots: {slots} and a mixture of {len(mixture.sources)}",
                fix="raise model.slots or lower mixing.max_sources",
            )
        empty: list[Sequence[Source]] = [()] * (slots - len(mixture.sources))
        return [(source,) for source in mixture.sources] + empty

    def join(
        self, contexts: Sequence[Sequence[np.ndarray]]
    ) -> tuple[np.ndarray | None, Bool[np.ndarray, "b p"] | None]:
        """The context of a batch from the rows of each example, and which of its players are real.

        Examples with fewer players than others are filled with zeros.
        """
        if not self.is_conditioned:
            return None, None
        most = max(len(rows) for rows in contexts)
        joined = np.zeros((len(contexts), most, *contexts[0][0].shape), contexts[0][0].dtype)
        for example, rows in enumerate(contexts):
            for place, row in enumerate(rows):
                joined[example, place] = row
        if not self.uses_players:
            return joined, None
        return joined, np.array([[place < len(rows) for place in range(most)] for rows in contexts])

    # Recordings

    def context_of(self, labels: Sequence[str], views: Sequence[np.ndarray] = ()) -> np.ndarray | None:
        """The context rows of these labels or, where players are shown, of the players with these views.

        Of a network with one output per label, the context for all that sounds: give all labels, and all views.

        Raises:
            ModelError: a label that the model does not know.

        """
        if not self.is_conditioned:
            return None
        if self.uses_players:
            return np.stack(views)
        self.check_labels(labels)
        return self._label_rows(labels)

    def of_recording(self, recording: Recording) -> np.ndarray | None:
        """The context of a recording: its players' views, or their labels."""
        if not self.is_conditioned:
            return None
        rows = self.context.of_recording(recording)
        return rows if self.uses_players else self._merged(rows)

    def check_labels(self, names: Sequence[str]) -> None:
        """ModelError with all labels where one is not among them."""
        for name in names:
            if name not in self.labels:
                raise ModelError(
                    "a label must be one of the model's",
                    got=repr(name),
                    fix=f"choose from {', '.join(self.labels)}",
                )

    def _label_rows(self, names: Iterable[str]) -> Float32[np.ndarray, "q i"]:
        return self._merged(one_hot(names, self.labels))

    def _merged(self, rows: Float32[np.ndarray, "q i"]) -> Float32[np.ndarray, "k i"]:
        """One row per query; with one output per label, a single row for all labels."""
        if self.config.outputs == "queries":
            return rows
        return rows.max(axis=0, keepdims=True, initial=0)

    # Names

    @property
    def has_labelled_outputs(self) -> bool:
        """Whether each output is of a label; otherwise it is of a player who was shown, or of any source."""
        return not self.any_order and not (self.config.outputs == "queries" and self.uses_players)

    @property
    def known_outputs(self) -> tuple[str, ...]:
        """Names that outputs can have; empty where they are players, whose number a recording decides."""
        if self.any_order:
            return _numbered("slot", self.config.slots)
        return self.labels if self.has_labelled_outputs else ()

    def output_names(self, queried: Sequence[str], count: int) -> tuple[str, ...]:
        """Names of `count` outputs, in their order, for these queried labels."""
        if self.config.outputs != "queries":
            return self.known_outputs
        return _numbered("player", count) if self.uses_players else tuple(queried)

    def stems_of(self, players: Sequence[str]) -> tuple[tuple[int, str], ...]:
        """The outputs that are of use for players with these labels: number of the output, and the stem it is part of.

        A network that is asked by what it sees of each player gives each a stem, named by the label, and by the place
        where several have it. Of any other, players with the same label are one stem.
        """
        names = tuple(dict.fromkeys(players))
        match self.config.outputs:
            case "slots":
                return tuple(enumerate(self.known_outputs))
            case "instruments":
                return tuple((self.labels.index(name), name) for name in names)
            case "queries":
                return tuple(enumerate(_names_of_players(players) if self.uses_players else names))

    def inputs(self) -> tuple[Input, ...]:
        """The arrays that a served model takes; labels are a parameter."""
        mixture = Input("mixture", np.float32, (-1, self.config.channels, -1))
        if not self.uses_players:
            return (mixture,)
        return mixture, Input(self.config.context, self.context.dtype, (-1, -1, *self.context.view_shape))


def shown_views(players: Iterable[PlayerView]) -> list[np.ndarray]:
    """The view of each of these players; all have one where a context shows players."""
    views = [player.view for player in players]
    assert all(view is not None for view in views), "players are shown to who uses them"  # noqa: S101
    return [view for view in views if view is not None]


def names_by_place(labels: Sequence[str]) -> tuple[str, ...]:
    """Names of players side by side: "vn-left" and "vn-right", or "vn-1st-from-the-left" and so on."""
    count = len(labels)
    places = PLACES.get(count) or tuple(f"{_ordinal(number)}-from-the-left" for number in range(1, count + 1))
    return tuple(f"{label}-{place}" for label, place in zip(labels, places, strict=True))


def _names_of_players(labels: Sequence[str]) -> list[str]:
    """The label alone where no other player has it."""
    counts = Counter(labels)
    return [name if counts[label] > 1 else label for label, name in zip(labels, names_by_place(labels), strict=True)]


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _numbered(kind: str, count: int) -> tuple[str, ...]:
    return tuple(f"{kind}_{number}" for number in range(1, count + 1))


def draw_queries(
    present: Sequence[Query], absent: Sequence[Query], mixing: MixingConfig, rng: np.random.Generator
) -> list[Query]:
    """The queried sources: those present in random order, some replaced by an absent one."""
    order = [present[index] for index in rng.permutation(len(present))]
    queries = []
    for number in range(mixing.queries):
        wants_absent = number >= len(order) or rng.random() < mixing.absent_probability
        queries.append(
            absent[int(rng.integers(len(absent)))] if wants_absent and absent else order[number % len(order)]
        )
    return queries
