"""The fixed validation set, and the figure of a network on it, which steers a search.

    spec = validation_spec(manifest, ValidationConfig())
    validate = Validation(objective, settings, manifest, ValidationConfig())
    value = validate(network)

The set is a function of the shards, and of length and number of the mixtures (see `vimss.stream.fixed`), drawn with the
recipe's seed: the same excerpts for every network. Around each excerpt lies what surrounds it in the clip, as in
training, for up to MARGIN_SECONDS and then silence; silence alone would be an input that a network with a wide context
never meets while it is trained. What is kept of each mixture, and the figure, are the objective's.

A network with K slots cannot answer more than K sources: it is scored on the mixtures of the set that have K or fewer.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from vimss.errors import DataError
from vimss.shards.manifest import Manifest
from vimss.stream.batch import Batch, whole_batch
from vimss.stream.fixed import FixedSet, FixedSpec, fixed_set, mixtures_of
from vimss.train.config import VALIDATION_SOURCES, Settings, ValidationConfig, scored_sources
from vimss.train.objectives import OBJECTIVES, Objective, figure_of

MARGIN_SECONDS = 3.0
"""What is kept around each excerpt: as far as the paper's network looks at 22050 Hz."""


def validation_spec(
    manifest: Manifest, config: ValidationConfig, objective: str = "separation", split: str = "valid"
) -> FixedSpec:
    """The mixtures of the validation set, or of a set that is drawn like it from another split.

    More of them begin with the same ones.
    """
    recipe = manifest.recipe
    kinds = [(count, aligned) for count in VALIDATION_SOURCES for aligned in (False, True)]
    return FixedSpec(
        split=split,
        samples=min(round(config.seconds * recipe.sample_rate), recipe.clip_samples),
        kinds=tuple(kinds[number % len(kinds)] for number in range(config.mixtures)),
        margin=round(MARGIN_SECONDS * recipe.sample_rate),
        seed=recipe.seed,
        distractors=OBJECTIVES[objective].distractors,
    )


def make_validation_set(manifest: Manifest, config: ValidationConfig, objective: str = "separation") -> str:
    """Draw the validation set and keep it beside the shards, where it is not there yet; returns its signature."""
    spec = validation_spec(manifest, config, objective)
    fixed_set(manifest, spec)
    return spec.signature(manifest)


def batches_of(objective: Objective, manifest: Manifest, kept: FixedSet, numbers: Sequence[int]) -> Iterator[Batch]:
    """The mixtures with these numbers, each as a batch of one, as `examine` of the objective takes it."""
    window = objective.window_around(kept.spec.samples)
    for mixture in mixtures_of(kept, manifest, window, objective.interface, numbers):
        yield whole_batch(mixture, window, objective.interface)


class Validation:
    """The figure of the objective on the validation set.

    `share` is the number of this worker and how many there are: each examines some of the mixtures.
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
        self.batches = list(batches_of(objective, manifest, kept, numbers[share[0] :: share[1]]))

    @torch.no_grad()
    def __call__(self, network: nn.Module, going_on: Callable[[], None] = lambda: None) -> float:
        """The figure on the whole set, the same on every rank; `going_on` is called after each mixture."""
        was_training = network.training
        network.eval()
        rows = []
        for batch in self.batches:
            rows.append(self.objective.examine(network, batch, self.device))
            going_on()
        network.train(was_training)
        return self.objective.value(self._of_all_workers(rows))

    def _of_all_workers(self, rows: list[torch.Tensor]) -> torch.Tensor:
        """The rows of all mixtures in their order: so the figure does not depend on who examined which of them."""
        rank, workers = self.share
        if workers == 1:
            return torch.stack(rows)
        # A worker may have no mixture, and does not know then how long a row is.
        width = torch.tensor(len(rows[0]) if rows else 0, device=self.device)
        torch.distributed.all_reduce(width, torch.distributed.ReduceOp.MAX)
        table = torch.zeros(self.count, int(width), dtype=torch.float64, device=self.device)
        for number, row in enumerate(rows):
            table[rank + number * workers] = row.to(self.device)
        torch.distributed.all_reduce(table)
        return table.cpu()
