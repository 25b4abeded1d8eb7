"""The context `example`: the label of the player who is wanted, and a short recording of that player alone.

    Example(config, ("fl", "vn")).of_player(clip, player)     # Float32 "1 d": the label, then the sound of the player

A label says what the training corpus sounded like under it; the recording says what this player sounds like, as the
enrolment does in target speaker extraction (VoiceFilter, Wang et al. 2019). A small encoder, which is trained along,
makes a vector of it (see `vimss.model.example`).

A clip gives the whole stem of its players; the passage that a network gets, of `example_seconds`, is chosen in the
stream, and never from what is separated or scored (see `vimss.stream.passages`):

    training, validation and mixtures   the same clip outside of the output window or excerpt; where the clip is too
                                        short for that, what there is, followed by silence
    whole pieces                        another piece of the split in which the label has the same timbre; a label
                                        without one is not scored

With `mixing.shuffle_pictures` the label stays, and the recording is of another player.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from vimss.config import Config
from vimss.errors import ModelError
from vimss.model.contexts.labels import one_hot
from vimss.model.contexts.recording import Recording
from vimss.model.contexts.refusals import misfit, no_view, shape_of
from vimss.model.contexts.vectors import Vectors
from vimss.shards.clip import Clip, Player

if TYPE_CHECKING:
    import torch

ENCODER = "of_example"
"""Name of the encoder's weights in a separator."""

ENCODED_SIZE = 32
"""Numbers per vector that the encoder gives, of length 1."""


class ExampleSettings(Config):
    """The length of an example."""

    example_seconds: float = Field(
        3.0,
        ge=0.5,
        le=30,
        description="seconds of the recording of a player alone that an `example` context shows beside the label",
    )


@dataclass(frozen=True)
class Example(Vectors):
    """The label and a recording of the player alone."""

    config: ExampleSettings

    Settings: ClassVar[type[Config]] = ExampleSettings
    members: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    uses_players: ClassVar[bool] = True

    @property
    def example_seconds(self) -> float:
        """Of the passage that is shown."""
        return self.config.example_seconds

    @property
    def view_shape(self) -> tuple[int, ...]:
        """The shape of a row, "1 d": as many numbers as labels, then samples."""
        return (1, -1)

    @property
    def width(self) -> int:
        """One number per label, and the vector of the sound."""
        return len(self.labels) + ENCODED_SIZE

    @property
    def norm(self) -> float:
        """A single 1, and a vector of length 1."""
        return 2**0.5

    def modules(self, sample_rate: int) -> dict[str, Any]:
        """The encoder."""
        from vimss.model.example import ExampleEncoder  # loads torch

        return {ENCODER: ExampleEncoder(sample_rate)}

    def encode(
        self, array: "torch.Tensor", players: "torch.Tensor | None", modules: Mapping[str, Any], dtype: "torch.dtype"
    ) -> "torch.Tensor":
        """Rows "b p 1 d" as vectors "b p 1 e"."""
        import torch

        labels = len(self.labels)
        if array.ndim != 4 or array.shape[2] != 1 or array.shape[-1] <= labels:
            rule = f"examples as batch x players x 1 x {labels} labels and the samples of the sound"
            raise misfit(rule, shape_of(tuple(array.shape)))
        label, sound = array[..., :labels], array[..., labels:]
        vectors = modules[ENCODER](sound.flatten(0, 1)).unflatten(0, array.shape[:2])
        return torch.cat([label.to(dtype), vectors.unsqueeze(2).to(dtype)], dim=-1)

    def of_player(self, clip: Clip, player: Player) -> Float32[np.ndarray, "1 d"]:
        """The label of the player and, of their channels the mean, the stem."""
        if player.audio is None:
            fix = "choose a corpus whose players have stems, or set model.context: labels"
            raise no_view("example", "a stem", clip, player, fix=fix)
        from vimss.media import INT16_SCALE  # loads av, which those who only check settings can do without

        return self._row(player.instrument, player.audio.mean(0, dtype=np.float32) / np.float32(INT16_SCALE))

    def of_recording(self, recording: Recording) -> Float32[np.ndarray, "p 1 d"]:
        """The labels of the players with the examples that come with the recording; ModelError where one has none."""
        left = {label: list(sounds) for label, sounds in recording.examples.items()}
        rows = []
        for label in recording.players:
            if not left.get(label):
                given = ", ".join(f"{len(sounds)} of {name}" for name, sounds in recording.examples.items())
                raise ModelError(
                    f"a model whose context is example needs {self.example_seconds:g} s of every player alone, beside "
                    f"{recording.file}",
                    got=f"{given or 'none'} for players of {', '.join(recording.players)}",
                    fix=f"add --example {label}=FILE, or use a model whose context is labels",
                )
            rows.append(self._row(label, left[label].pop(0)))
        return np.stack(rows)

    def _row(self, label: str, sound: Float32[np.ndarray, " t"]) -> Float32[np.ndarray, "1 d"]:
        return np.concatenate([one_hot([label], self.labels)[0], sound])[None]
