"""The fixed validation set, and the figure of a network on it, which steers a search.

    spec = validation_spec(manifest, ValidationConfig())
    validate = Validation(objective, settings, manifest, ValidationConfig())
    value = validate(network)

The set is a function of the shards and of the length and number of its mixtures (see `vimss.stream.fixed`), drawn with
the recipe's seed: the same excerpts for every network. As in training, the input extends beyond each excerpt into the
clip, by up to MARGIN_SECONDS, and then into silence. With silence alone, a network with a wide context would get inputs
that it never saw in training. The objective defines the values kept per mixture, and the figure.

A network with K slots can separate at most K sources, so it is scored on the mixtures with K sources or fewer.
"""

import math
from collections.abc import Callable, Sequence
from typing import overload

import torch
from torch import nn

from vimss.errors import ConfigError, DataError
from vimss.shards.manifest import Manifest
from vimss.stream.batch import Batch, NetworkInterface, whole_batch
from vimss.stream.fixed import FixedSet, FixedSpec, fixed_set, mixture_at, read_views
from vimss.stream.mix import Window
from vimss.train.config import Settings, ValidationConfig, scored_sources
from vimss.train.objectives import OBJECTIVES, figure_of
from vimss.train.objectives.protocol import Objective, SeparatingObjective

MARGIN_SECONDS = 3.0
"""Margin around each excerpt: the receptive field of the paper's network at 22050 Hz."""

IMPROVEMENT = "SI-SDRi"
"""Name of the SI-SDR improvement among the parts of the figure, before those of labels and numbers of sources."""


def validation_spec(
    manifest: Manifest, config: ValidationConfig, objective: str = "separation", split: str = "valid"
) -> FixedSpec:
    """The mixtures of the validation set, or of a set drawn like it from another split.

    A larger set starts with the mixtures of a smaller one.

    Raises:
        ConfigError: mixtures that are too short for the objective's figure.

    """
    recipe, entry = manifest.recipe, OBJECTIVES[objective]
    least = entry.least_seconds
    if min(config.seconds, recipe.clip_seconds) < least:
        raise ConfigError(
            f"validation.seconds must be at least {least:g} with objective: {objective}, and clips as long",
            got=f"{config.seconds:g}, and clips of {recipe.clip_seconds:g} s in '{manifest.name}'",
            fix=f"set validation.seconds: {entry.seconds:g}, and clip_seconds of the recipe to more",
        )
    kinds = [(min(count, len(recipe.labels)), aligned) for count in entry.sources for aligned in entry.aligned]
    return FixedSpec(
        split=split,
        samples=min(round(config.seconds * recipe.sample_rate), recipe.clip_samples),
        kinds=tuple(kinds[number % len(kinds)] for number in range(config.mixtures)),
        margin=round(MARGIN_SECONDS * recipe.sample_rate),
        seed=recipe.seed,
        distractors=entry.distractors,
    )


def make_validation_set(manifest: Manifest, config: ValidationConfig, objective: str = "separation") -> str:
    """Draw the validation set and store it beside the shards, unless it exists; returns its signature."""
    spec = validation_spec(manifest, config, objective)
    fixed_set(manifest, spec)
    return spec.signature(manifest)


class FixedBatches(Sequence[Batch]):
    """Batches of one mixture each, made anew each time from the stems, which all processes share; the views are kept.

    Mixing is cheap beside a pass of the network, and batches that are kept would be a copy in each process.
    """

    def __init__(
        self, kept: FixedSet, manifest: Manifest, window: Window, interface: NetworkInterface, numbers: Sequence[int]
    ) -> None:
        self.kept = kept
        self.window = window
        self.interface = interface
        self.numbers = numbers
        self.views = read_views(kept, manifest, window, interface, numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        mixture = mixture_at(self.kept, self.numbers[index], self.window, self.views)
        return whole_batch(mixture, self.window, self.interface)


class Validation:
    """The figure of the objective on the validation set.

    `share` is (rank, number of workers): each worker examines some of the mixtures.
    """

    def __init__(
        self,
        objective: Objective,
        settings: Settings,
        manifest: Manifest,
        config: ValidationConfig,
        share: tuple[int, int] = (0, 1),
        device: torch.device = torch.device("cpu"),  # noqa: B008 - a constant
    ) -> None:
        spec = validation_spec(manifest, config, settings.objective)
        self.signature = spec.signature(manifest)
        self.objective = objective
        self.figure = figure_of(settings.objective)
        self.device = device
        self.share = share
        self.window = objective.window_around(spec.samples)
        kept = fixed_set(manifest, spec)
        most = scored_sources(settings)
        numbers = [number for number, drawn in enumerate(kept.drawn) if len(drawn.sources) <= most]
        if not numbers:
            raise DataError(
                f"a network with {most} slots must have validation mixtures of as many sources",
                got=f"none in the split 'valid' of '{manifest.name}'",
                fix="raise model.slots",
            )
        self.count = len(numbers)
        """Mixtures of all workers."""
        self.separates = OBJECTIVES[settings.objective].separates
        self.sources = torch.tensor([len(kept.drawn[number].sources) for number in numbers])
        self.parts: dict[str, float] = {}
        """The last figure of each label, and for separation of each number of sources, by its name in reports.

        Those of labels are left out where there is only one, and so are those of numbers; also what is not finite. For
        separation, the SI-SDR improvement of all sources and of the same parts.
        """
        self.batches = FixedBatches(
            kept, manifest, self.window, objective.validation_interface, numbers[share[0] :: share[1]]
        )

    @torch.no_grad()
    def __call__(self, network: nn.Module, on_progress: Callable[[], None] = lambda: None) -> float:
        """The figure on the whole set, equal on every rank; `on_progress` is called after each mixture."""
        was_training = network.training
        network.eval()
        rows = []
        for batch in self.batches:
            rows.append(self.objective.examine(network, batch, self.device))
            on_progress()
        network.train(was_training)
        kept = self._of_all_workers(rows)
        parts = self._parts_of(kept)
        gains = self.objective.improvements(kept) if isinstance(self.objective, SeparatingObjective) else None
        if gains is not None:
            parts |= {IMPROVEMENT: self.objective.value(gains)}
            parts |= {f"{IMPROVEMENT} {part}": value for part, value in self._parts_of(gains).items()}
        self.parts = {self.figure.part_name(part): value for part, value in parts.items() if math.isfinite(value)}
        return self.objective.value(kept)

    def _parts_of(self, kept: torch.Tensor) -> dict[str, float]:
        """The means of what was kept, of each label and of each number of sources where there are several."""
        groups = (self.objective.by_label(kept), self._by_sources(kept) if self.separates else {})
        return {part: value for values in groups if len(values) > 1 for part, value in values.items()}

    def _by_sources(self, kept: torch.Tensor) -> dict[str, float]:
        return {
            f"{count} source{'s' * (count > 1)}": self.objective.value(kept[self.sources == count])
            for count in self.sources.unique().tolist()
        }

    def _of_all_workers(self, rows: list[torch.Tensor]) -> torch.Tensor:
        """The rows of all mixtures in order, so that the figure does not depend on how workers share them."""
        rank, workers = self.share
        if workers == 1:
            return torch.stack(rows)
        # A worker without mixtures does not know the length of a row.
        width = torch.tensor(len(rows[0]) if rows else 0, device=self.device)
        torch.distributed.all_reduce(width, torch.distributed.ReduceOp.MAX)
        table = torch.zeros(self.count, int(width), dtype=torch.float64, device=self.device)
        for number, row in enumerate(rows):
            table[rank + number * workers] = row.to(self.device)
        torch.distributed.all_reduce(table)
        return table.cpu()
