"""What every objective has: the loop, gradients, validation, rescoring and the search call these members only.

An objective that does not separate is evaluated and promoted by its own figure, and has the members of
`FigureObjective` too; its network is a `Predictor`, which `saved` keeps and the registry serves.
tests/test_objectives.py holds each objective to its protocol.
"""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from vimss.shards.recipe import Recipe
from vimss.train.config import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    import numpy as np
    import torch
    from jaxtyping import Float, Float64
    from torch import Tensor, nn

    from vimss.model.interface import Input
    from vimss.stream.batch import Batch, NetworkInterface
    from vimss.stream.mix import Window


@runtime_checkable
class Objective(Protocol):
    """What a network learns, from which batches, and by which figure trainings are compared.

    Axis letters: b batch, s output (a source, or a label), c channel, t audio sample of the input window, u of the
    output window; m validation mixture, k number that is kept of each.
    """

    def __init__(self, settings: Settings, recipe: Recipe, features: str = "") -> None:
        """From the settings, the recipe of the shards, and the folder of features beside them that is read, if any."""

    @property
    def interface(self) -> "NetworkInterface":
        """What it reads of clips and shows of players, and how mixtures become a batch: `make_batch` calls it."""

    @property
    def validation_interface(self) -> "NetworkInterface":
        """The same for the mixtures that `examine` gets, where it needs more of them than a training does."""

    def window(self) -> "Window":
        """The windows of a training example; ConfigError where the network does not allow the output window."""

    def window_around(self, samples: int) -> "Window":
        """The input window around an excerpt of the validation set, which is the output window."""

    def build(self) -> "nn.Module":
        """The network with new weights. It has `matrices()`, the weights that Muon trains: each is a matrix."""

    def save(self, folder: "Path", network: "nn.Module", card: "dict[str, Any]") -> None:
        """Write model.json and weights.safetensors, whole or not at all; `card` is what else there is to say."""

    def load(self, folder: "Path") -> "nn.Module":
        """The network in a folder; ModelError where it is damaged or of other settings."""

    def totals(self, batch: "Batch") -> "Float64[np.ndarray, ' n']":
        """What the shares of the loss are divided by. The totals of parts and workers add up."""

    def loss(
        self, network: "Callable[..., Tensor]", batch: "Batch", totals: "Float[Tensor, ' n']"
    ) -> "Float[Tensor, '']":
        """The share of these examples in the loss of the whole batch, whose totals are given, on the device to use.

        Shares add up over parts and workers. That of an example depends on no other example.
        """

    def examine(self, network: "nn.Module", batch: "Batch", device: "torch.device") -> "Float64[Tensor, ' k']":
        """What is kept of one validation mixture, which is a batch of one; on the CPU."""

    def value(self, kept: "Float64[Tensor, 'm k']") -> float:
        """The figure of the whole validation set, from what was kept of its mixtures in their order."""

    def by_label(self, kept: "Float64[Tensor, 'm k']") -> dict[str, float]:
        """The figure of each label that has one; empty where the figure is not of labels."""


@runtime_checkable
class SeparatingObjective(Objective, Protocol):
    """An objective whose network is a Separator."""

    def improvements(self, kept: "Float64[Tensor, 'm k']") -> "Float64[Tensor, 'm l'] | None":
        """The SI-SDR improvements among `kept`, for `value` and `by_label` to average; None where none are kept."""


@runtime_checkable
class FigureObjective(Objective, Protocol):
    """What an objective that does not separate has beside it: its figure alone says how good a network is."""

    def guess(self, kept: "Float64[Tensor, 'm k']") -> "Float64[Tensor, 'm k']":
        """What would be kept of the same mixtures for a network that knows nothing, and gives all the same answer.

        The first champion must be significantly better than that.
        """

    def beside(self, kept: "Float64[Tensor, 'm k']") -> dict[str, float]:
        """Further figures, by what they are of; NaN where one does not exist, and empty without any."""


@runtime_checkable
class Predictor(Protocol):
    """The network, an nn.Module, of an objective that does not separate; made of these three things."""

    settings: Settings
    labels: tuple[str, ...]
    sample_rate: int

    def inputs(self) -> "tuple[Input, ...]":
        """The arrays that a registered model takes, with a batch axis. One called `mixture` is sound."""

    def outputs(self) -> "tuple[Input, ...]":
        """The arrays that it gives."""

    def predict(self, arrays: "Mapping[str, np.ndarray]") -> "dict[str, np.ndarray]":
        """The outputs for these inputs, each by name."""
