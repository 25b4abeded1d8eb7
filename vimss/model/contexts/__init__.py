"""The contexts that a network can be conditioned on: one file each, all behind one protocol.

    context = CONTEXTS["frames"](config, labels)
    view = context.of_player(clip, clip.players[0])     # "v h w 3": that player's pictures in the clip

To add a context, write a file with a class that has the members of `Context`, and name it in `CONTEXTS`; the keys of
its `Settings` are then keys of every model. `vectors.Vectors` and `vectors.PlayerVectors` have most of the members of
a context without weights; where its vectors are computed beforehand, `vimss.stream.compute` writes them beside the
shards. tests/test_contexts.py holds each context to the protocol.

Nothing here imports torch before `modules` or `encode` is called: threads that load data,
and processes that only start others, use the rest.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from vimss.config import Config, key_paths
from vimss.model.contexts.example import Example
from vimss.model.contexts.features import Features
from vimss.model.contexts.frames import Frames
from vimss.model.contexts.labels import Labels
from vimss.model.contexts.motion import Motion
from vimss.model.contexts.recording import Recording
from vimss.model.contexts.skeleton import Skeleton
from vimss.model.vision_config import VisionSettings
from vimss.shards.clip import Clip, Player
from vimss.shards.manifest import Manifest

if TYPE_CHECKING:
    import torch

__all__ = [
    "CONTEXTS",
    "CONTEXT_KEYS",
    "Context",
    "ContextName",
    "ContextSettings",
    "Recording",
    "contexts_with",
    "describe_contexts",
]


@runtime_checkable
class Context(Protocol):
    """One kind of context.

    The array of an example has one row per player ("p ...") or, of labels, one per query ("q i"); a row has the shape
    `view_shape`. Axis letters: b batch, p player, q query, v video frame, h w pixels, i instrument (label), d feature.
    """

    Settings: ClassVar[type[Config]]
    """The keys that it adds to the model's settings; a key of several contexts is in a class that they share. A model
    with a context that does not depend on a key is refused where it sets it."""
    idle: ClassVar[tuple[str, ...]]
    """Those of these keys on which it does not depend after all."""
    members: ClassVar[tuple[str, ...]]
    """Members of a clip that it reads, beside the sound."""
    source: ClassVar[str]
    """The member that shards must hold for it, where they hold what it is computed from; empty where none is needed."""
    computed: ClassVar[bool]
    """Whether it reads what was computed from the shards and lies in a folder beside them, which `prepare` finds; it is
    then the member `features` of a clip."""
    uses_players: ClassVar[bool]
    """Whether it shows players, so that resting ones are needed as distractors; else it names labels."""
    dtype: ClassVar[type[np.generic]]
    """The number type of the array that a served model takes."""

    def __init__(self, config: Any, labels: tuple[str, ...]) -> None:
        """From the model's settings, which have the keys of `Settings`, and its labels."""

    @property
    def view_shape(self) -> tuple[int, ...]:
        """The shape of one row of the array; -1 where any size is accepted."""

    @property
    def width(self) -> int:
        """Numbers per vector that the network is conditioned on: d of what `encode` gives."""

    @property
    def norm(self) -> float:
        """About how long such a vector is: first weights are divided by it."""

    def prepare(self, manifest: Manifest, folder: str = "") -> str:
        """The folder beside the shards that it reads, checked, where it is `computed`; otherwise empty.

        `folder` is the one that a model was trained on, according to its card: the same must exist. A context may
        compute what is missing, or raise a DataError with the command that does.
        """

    def of_player(self, clip: Clip, player: Player) -> np.ndarray:
        """The player's row in a clip: "v ..." with one entry per picture, at the clip's frame rate; of labels "i".

        Of an example it has one entry, with the whole stem that the clip holds.

        DataError where the clip does not hold what it needs.
        """

    def of_recording(self, recording: Recording) -> np.ndarray:
        """The rows of a recording that is to be separated: one per player, left to right, or one per label."""

    @property
    def example_seconds(self) -> float:
        """Seconds of a player's stem that it shows, from elsewhere than what is separated; 0 where it shows none."""

    def modules(self, sample_rate: int) -> dict[str, Any]:
        """The torch modules of its weights, by their names in the separator; made once, in the separator's __init__."""

    def encode(
        self, array: "torch.Tensor", players: "torch.Tensor | None", modules: Mapping[str, Any], dtype: "torch.dtype"
    ) -> "torch.Tensor":
        """Arrays "b p ..." as vectors "b p v d", each row by itself.

        Args:
            array: what `join` of the interface gives, or one recording's rows as a batch of one.
            players: "b p", which rows are real, all where not given; of the others the result may be anything.
            modules: those of `modules`.
            dtype: of the network.

        Raises:
            ModelError: where the array does not have the shape.

        """


CONTEXTS: dict[str, type[Context]] = {
    "labels": Labels,
    "frames": Frames,
    "features": Features,
    "skeleton": Skeleton,
    "motion": Motion,
    "example": Example,
}
"""`context` of ModelConfig to the class."""


def keys_of(name: str) -> tuple[str, ...]:
    """The keys on which a context depends; of a group its own, as in `vision.network`."""
    context = CONTEXTS[name]
    return tuple(key for key in key_paths(context.Settings) if key not in context.idle)


def contexts_with(key: str) -> tuple[str, ...]:
    """Names of the contexts that depend on a key."""
    return tuple(name for name in CONTEXTS if key in keys_of(name))


CONTEXT_KEYS = tuple(dict.fromkeys(key for name in CONTEXTS for key in keys_of(name)))
"""The keys on which contexts depend."""


def describe_contexts() -> str:
    """Each context with what it is, for people: the first line about its class."""
    about = {name: (context.__doc__ or "").partition("\n")[0].rstrip(".") for name, context in CONTEXTS.items()}
    return "; ".join(f"{name}: {text[:1].lower()}{text[1:]}" for name, text in about.items())


def _settings_of_all() -> type[Config]:
    """One class with the keys of all contexts, in their order; those of pictures are always there, for objectives."""
    kinds: list[type[Config]] = [VisionSettings, *(context.Settings for context in CONTEXTS.values())]
    # A class that another one extends is in that one.
    last = [kind for kind in dict.fromkeys(kinds) if not any(kind in other.__mro__[1:] for other in kinds)]
    # pydantic takes the fields of the last base class first. mypy does not know the bases of a class made at run time.
    made: type[Config] = type(Config)("ContextSettings", tuple(reversed(last)), {"__module__": __name__})  # type: ignore[misc]
    return made


if TYPE_CHECKING:
    ContextName = str
    # The keys that others read; each context reads its own keys through its own class.
    ContextSettings = VisionSettings
else:
    ContextName = Literal[tuple(CONTEXTS)]
    ContextSettings = _settings_of_all()
