"""The training loop: next batch, forward, loss, backward, step; once in a while validation and a checkpoint.

Plain PyTorch, with torch.distributed where there are several workers. It reports through a callable and knows neither
Ray nor MLflow:

    train(Training(settings, manifest), report=lambda metrics, folder: print(metrics))
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vimss.config import signature
from vimss.errors import ConfigError, TrainingError
from vimss.features import find_features
from vimss.model.geometry import geometry
from vimss.model.separator import Separator, save_separator
from vimss.shards.manifest import Manifest
from vimss.stream.mix import Asking, Batch, Examples, Mixture, Position, Window, fixed_mixtures, whole_batch
from vimss.train.checkpoint import State, load_state, save_state
from vimss.train.config import Settings, ValidationConfig
from vimss.train.loss import best_order, make_loss, negative_snr
from vimss.train.optimize import make_optimizers

Report = Callable[[dict[str, float], Path | None], None]
"""Called on every rank with the metrics, and on rank 0 with the folder of the checkpoint."""


@dataclass(frozen=True)
class Training:
    """What to train, on what, and who among how many does it."""

    settings: Settings
    manifest: Manifest
    validation: ValidationConfig
    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a constant

    @property
    def signature(self) -> str:
        """Of everything the batches are a function of; a checkpoint belongs to one signature."""
        return signature(self.settings, self.manifest.digest, self.world_size)


def train(training: Training, report: Report, resume: Path | None = None) -> None:
    """Train until the budget of audio seconds is spent; `resume` is the folder of a checkpoint to go on from."""
    settings, config, device = training.settings, training.settings.training, training.device
    local_batch = _local_batch(config.batch_size, training.world_size)
    torch.manual_seed(settings.seed)
    separator = Separator(settings.model, training.manifest.recipe.labels, training.manifest.recipe.sample_rate)
    separator.to(device)
    average = AveragedModel(separator, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
    optimizers = make_optimizers(separator, config, device)
    state = State(training.signature, steps=0, position=Position(), best=math.inf)
    if resume is not None:
        state = load_state(resume, training.signature, separator, average, optimizers)
    network: nn.Module = separator
    if training.world_size > 1:
        network = DistributedDataParallel(
            separator, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
        )

    window = training_window(settings, training.manifest)
    asking = asking_of(settings, training.manifest)
    examples = Examples(training.manifest, "train", settings.mixing, window, asking, settings.seed)
    validate = Validation(training)
    loss_of = make_loss(config)
    seconds_per_step = config.batch_size * window.output_samples / window.sample_rate
    total_steps = math.ceil(config.audio_seconds / seconds_per_step)
    num_reports = max(1, round(config.audio_seconds / config.report_seconds))
    report_steps = {round(total_steps * (number + 1) / num_reports) for number in range(num_reports)}
    batches = examples.batches(local_batch, state.position, training.rank, training.world_size)
    steps, position, best = state.steps, state.position, state.best
    losses: list[float] = []
    clock = _Clock()

    while steps < total_steps:
        with clock.waiting():
            batch, position = next(batches)
        rate = learning_rate(config.learning_rate, steps * seconds_per_step, settings)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        mixture, targets, present = (
            to_device(array, device) for array in (batch.mixture, batch.targets, batch.present)
        )
        with _autocast(config.precision, device):
            estimates = network(mixture, *context_of(batch, device))
        estimates = estimates.float()
        if settings.model.outputs == "slots":
            estimates = best_order(estimates, targets)
        inner = mixture[:, :, window.margin : window.margin + window.output_samples]
        loss = loss_of(estimates, targets, present, inner)
        separator.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(separator.parameters(), config.gradient_clip or math.inf)
        if not torch.isfinite(norm):
            raise TrainingError(
                "loss and gradient must be finite",
                got=f"loss {loss.item():g} and gradient norm {norm.item():g} at step {steps}, "
                f"{steps * seconds_per_step:.0f} audio seconds, batch {position.batch - 1} of epoch {position.epoch}",
                fix="lower training.learning_rate or training.gradient_clip; the checkpoint before it is kept",
            )
        for optimizer in optimizers:
            optimizer.step()
        if average is not None:
            average.update_parameters(separator)
        losses.append(loss.item())
        steps += 1

        if steps in report_steps:
            metrics = {"audio_seconds": steps * seconds_per_step, "train_loss": float(np.mean(losses))}
            metrics |= {"learning_rate": rate, "steps": float(steps), **clock.metrics(len(losses) * seconds_per_step)}
            metrics |= validate(weights_in_use(separator, average))
            best = min(best, metrics["valid_loss"])
            with tempfile.TemporaryDirectory() as folder:
                if training.rank == 0:
                    seen = {name: metrics[name] for name in ("audio_seconds", "valid_loss")}
                    card = {**data_card(training.manifest, asking), **seen}
                    save_separator(Path(folder) / "model", weights_in_use(separator, average), card)
                    now = State(training.signature, steps, position, best)
                    save_state(Path(folder), now, separator, average, optimizers)
                report(metrics, Path(folder) if training.rank == 0 else None)
            losses = []
            clock = _Clock()


class Validation:
    """The fixed set: mean floored -SNR in dB over present sources, whatever the training loss. Lower is better."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.window = reading_window(training.settings, training.manifest, training.validation.seconds)
        self.asking = asking_of(training.settings, training.manifest)
        mixtures = self._mixtures()
        self.batches = [whole_batch(mixture, self.window, self.asking) for mixture in mixtures]

    def _mixtures(self) -> Sequence[Mixture]:
        kinds = [(count, aligned) for count in (2, 3, 4) for aligned in (False, True)]
        if self.asking.outputs == "slots":
            kinds = [kind for kind in kinds if kind[0] <= self.asking.slots]
        counts = [kinds[number % len(kinds)] for number in range(self.training.validation.mixtures)]
        everything = fixed_mixtures(self.training.manifest, "valid", counts, self.window, self.asking)
        return everything[self.training.rank :: self.training.world_size]

    @torch.no_grad()
    def __call__(self, separator: Separator) -> dict[str, float]:
        """`valid_loss` over the whole set, the same on every rank."""
        was_training = separator.training
        separator.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for batch in self.batches:
            device = self.training.device
            targets, present = to_device(batch.targets, device), to_device(batch.present, device)
            estimates = separator(to_device(batch.mixture, device), *context_of(batch, device))
            if self.asking.outputs == "slots":
                estimates = best_order(estimates, targets)
            values = negative_snr(estimates, targets)[present]
            total += torch.tensor([float(values.sum()), float(values.numel())], dtype=torch.float64)
        separator.train(was_training)
        if self.training.world_size > 1:
            total = total.to(self.training.device)
            torch.distributed.all_reduce(total)
        return {"valid_loss": float(total[0] / total[1])}


def training_window(settings: Settings, manifest: Manifest) -> Window:
    """The windows of one training example; ConfigError where the network does not allow the output window."""
    output = settings.training.output_samples
    return Window(geometry(settings.model).input_samples(output), output, manifest.recipe.sample_rate)


def reading_window(settings: Settings, manifest: Manifest, seconds: float) -> Window:
    """The shortest windows of the network that answer at least `seconds`, as far as the clips are that long."""
    shape = geometry(settings.model)
    wanted = min(round(seconds * manifest.recipe.sample_rate), manifest.recipe.clip_samples - shape.stride)
    output = shape.window_at_least(wanted)
    return Window(shape.input_samples(output), output, manifest.recipe.sample_rate)


def asking_of(settings: Settings, manifest: Manifest) -> Asking:
    """What the network needs beside the mixture."""
    model = settings.model
    context = "none" if model.site == "none" else model.context
    features = find_features(manifest, model.vision) if context == "features" else ""
    return Asking(model.outputs, context, manifest.recipe.labels, model.slots, features)


def context_of(batch: Batch, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """Context and players of a batch on the device."""
    context = None if batch.context is None else to_device(batch.context, device)
    return context, None if batch.players is None else to_device(batch.players, device)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor; through pinned memory and without waiting where the device is a GPU."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def learning_rate(start: float, audio_seconds: float, settings: Settings) -> float:
    """Linear warm-up, then exponential decay to `learning_rate_decay` of the start at the end of the budget."""
    config = settings.training
    warmup = min(1.0, audio_seconds / config.warmup_seconds) if config.warmup_seconds else 1.0
    return start * warmup * config.learning_rate_decay ** (audio_seconds / config.audio_seconds)


def weights_in_use(separator: Separator, average: AveragedModel | None) -> Separator:
    """The moving average where there is one, else the raw weights."""
    return separator if average is None else cast(Separator, average.module)


def data_card(manifest: Manifest, asking: Asking) -> dict[str, Any]:
    """What a user of the weights must know of the data they come from."""
    recipe = manifest.recipe
    data = f"{manifest.name}: {recipe.description}"
    card: dict[str, Any] = {"data": data, "licence": recipe.licence, "shards": manifest.digest}
    card["picture"] = recipe.picture.model_dump()
    return card | ({"features": asking.features} if asking.features else {})


def _local_batch(batch_size: int, world_size: int) -> int:
    if batch_size % world_size:
        raise ConfigError(
            "training.batch_size must be a multiple of the number of workers",
            got=f"{batch_size} with {world_size} workers",
            fix=f"set it to {max(world_size, batch_size // world_size * world_size)}",
        )
    return batch_size // world_size


def _autocast(precision: str, device: torch.device) -> torch.autocast | nullcontext[None]:
    if precision == "float32":
        return nullcontext()
    if device.type != "cuda" or not torch.cuda.is_bf16_supported():
        raise ConfigError(
            "training.precision: bfloat16 needs a device with bfloat16 units",
            got=str(device),
            fix="set float32: on a CPU without them bfloat16 is about 50 times slower",
        )
    return torch.autocast("cuda", torch.bfloat16)


class _Clock:
    """Where the time goes between two reports."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.waited = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for a batch."""
        begin = time.monotonic()
        yield
        self.waited += time.monotonic() - begin

    def metrics(self, audio_seconds: float) -> dict[str, float]:
        """Audio seconds per second, and the share of the time spent waiting for batches."""
        passed = max(time.monotonic() - self.begin, 1e-9)
        return {"audio_seconds_per_second": audio_seconds / passed, "loader_wait": self.waited / passed}
