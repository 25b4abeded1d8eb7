"""The validation set, and what a network scores on it: the figure that steers a search.

    spec = validation_spec(manifest, ValidationConfig())
    validate = Validation(settings, manifest, ValidationConfig(), interface)
    loss = validate(separator)

The set is a function of the shards, and of length and number of the mixtures (see `vimss.stream.fixed`), drawn with the
recipe's seed: the same excerpts for every network. A network answers each excerpt by one window, the shortest that is
long enough, with the excerpt in its middle. Around it lies what surrounds it in the clip, as in training, for up to
MARGIN_SECONDS and then silence; silence alone would be an input that a network with a wide context never meets while
it is trained. Only the excerpt is scored.

A network with K slots cannot answer more than K sources: it is scored on the mixtures of the set that have K or fewer.
"""

from collections.abc import Callable

import torch

from vimss.errors import DataError
from vimss.model.interface import Interface
from vimss.model.separator import Separator
from vimss.shards.manifest import Manifest
from vimss.stream.batch import whole_batch
from vimss.stream.fixed import FixedSpec, fixed_set, mixtures_of
from vimss.stream.mix import Window
from vimss.train.config import VALIDATION_SOURCES, Settings, ValidationConfig, scored_sources
from vimss.train.device import context_of, to_device
from vimss.train.figure import figure_of
from vimss.train.loss import best_order, negative_snr

MARGIN_SECONDS = 3.0
"""What is kept around each excerpt: as far as the paper's network looks at 22050 Hz."""


def validation_spec(manifest: Manifest, config: ValidationConfig) -> FixedSpec:
    """The mixtures of the validation set; more of them begin with the same ones."""
    recipe = manifest.recipe
    kinds = [(count, aligned) for count in VALIDATION_SOURCES for aligned in (False, True)]
    return FixedSpec(
        split="valid",
        samples=min(round(config.seconds * recipe.sample_rate), recipe.clip_samples),
        kinds=tuple(kinds[number % len(kinds)] for number in range(config.mixtures)),
        margin=round(MARGIN_SECONDS * recipe.sample_rate),
        seed=recipe.seed,
    )


def make_validation_set(manifest: Manifest, config: ValidationConfig) -> str:
    """Draw the validation set and keep it beside the shards, where it is not there yet; returns its signature."""
    spec = validation_spec(manifest, config)
    fixed_set(manifest, spec)
    return spec.signature(manifest)


def reading_window(settings: Settings, spec: FixedSpec, sample_rate: int) -> tuple[Window, int]:
    """The input window of a network around an excerpt, and how many samples it answers, the excerpt in their middle."""
    shape = settings.model.geometry
    answered = shape.window_at_least(spec.samples)
    return Window(shape.input_samples(answered), spec.samples, sample_rate), answered


class Validation:
    """Mean floored -SNR in dB over present sources of the validation set, whatever the training loss; lower is better.

    `share` is the number of this worker and how many there are: each scores some of the mixtures.
    """

    def __init__(
        self,
        settings: Settings,
        manifest: Manifest,
        config: ValidationConfig,
        interface: Interface,
        share: tuple[int, int] = (0, 1),
        device: torch.device = torch.device("cpu"),  # noqa: B008 - a constant
    ) -> None:
        spec = validation_spec(manifest, config)
        self.signature = spec.signature(manifest)
        self.figure = figure_of("separation")
        self.device = device
        self.world_size = share[1]
        self.any_order = interface.any_order
        self.window, self.answered = reading_window(settings, spec, manifest.recipe.sample_rate)
        kept = fixed_set(manifest, spec)
        most = scored_sources(settings)
        numbers = [number for number, drawn in enumerate(kept.drawn) if len(drawn.sources) <= most]
        if not numbers:
            raise DataError(
                f"a network with {most} slots must have validation mixtures of as many sources",
                got=f"none in the split 'valid' of '{manifest.name}'",
                fix="raise model.slots",
            )
        mixtures = mixtures_of(kept, manifest, self.window, interface, numbers[share[0] :: share[1]])
        self.batches = [whole_batch(mixture, self.window, interface) for mixture in mixtures]

    @torch.no_grad()
    def __call__(self, separator: Separator, going_on: Callable[[], None] = lambda: None) -> float:
        """The mean over the whole set, the same on every rank; `going_on` is called after each batch."""
        was_training = separator.training
        separator.eval()
        total = torch.zeros(2, dtype=torch.float64)
        first = (self.answered - self.window.output_samples) // 2
        for batch in self.batches:
            targets, present = to_device(batch.targets, self.device), to_device(batch.present, self.device)
            estimates = separator(to_device(batch.mixture, self.device), *context_of(batch, self.device))
            estimates = estimates[..., first : first + self.window.output_samples]
            if self.any_order:
                estimates = best_order(estimates, targets)
            values = negative_snr(estimates, targets)[present]
            total += torch.tensor([float(values.sum()), float(values.numel())], dtype=torch.float64)
            going_on()
        separator.train(was_training)
        if self.world_size > 1:
            total = total.to(self.device)
            torch.distributed.all_reduce(total)
        return float(total[0] / total[1])
