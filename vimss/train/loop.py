"""The training loop: next batch, forward, loss, backward, step; once in a while validation and a checkpoint.

Plain PyTorch, with torch.distributed if there are several workers. It reports through a callable and knows neither
Ray nor MLflow:

    train(Training(settings, manifest), report=lambda metrics, folder: print(metrics))
"""

import copy
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vimss.config import signature
from vimss.errors import ConfigError, InterruptionError, TrainingError
from vimss.shards.manifest import Manifest
from vimss.stream.batch import Examples, Levels, NetworkInterface, Position
from vimss.train.between_reports import Clock, Losses
from vimss.train.checkpoint import State, Trained, folder_for_checkpoint, load_state, save_state
from vimss.train.config import AGAINST_WAITING, MUCH_WAITING, Settings, TrainingConfig, ValidationConfig, reaches
from vimss.train.ddp import distribute
from vimss.train.figure import Figure
from vimss.train.gradients import Gradients
from vimss.train.loader import load
from vimss.train.objectives import figure_of, open_objective
from vimss.train.objectives.protocol import Objective
from vimss.train.optimize import Trainable, make_optimizers
from vimss.train.start import start
from vimss.train.validation import Validation

log = logging.getLogger(__name__)

Report = Callable[[dict[str, float], Path | None], None]
"""Called on every rank with the metrics; on rank 0 also with the folder of the checkpoint, if there is a new one.

The checkpoint of a training that was interrupted between two reports comes with metrics that lack the figure."""

Progress = Callable[[float], None]
"""Called after each step, and each batch of the validation, with the audio seconds seen so far."""

STOP_EVERY = 8
"""Steps between two collective checks for an interruption on several GPUs: each check waits for the GPU."""

NO_GRADIENT = 1e-3
"""Of the mean gradient norm before the first report: below this share of it, a training is said to stand still."""


@dataclass(frozen=True)
class Training:
    """A training: settings, shards, and this worker's rank and device."""

    settings: Settings
    manifest: Manifest
    validation: ValidationConfig
    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a constant
    loader_workers: int = 0
    """Threads that make batches ahead of the loop; the batches do not depend on their number."""
    pause_seconds: float = math.inf
    """Audio seconds: the first report at or after them is the last of this call. Resumed without it, training continues
    as if it had never paused."""
    reported_steps: float = math.inf
    """Steps of the last report that is on record: when resuming, later ones of the checkpoint are reported again."""

    @property
    def signature(self) -> str:
        """Signature of everything that determines the batches; a checkpoint belongs to one signature."""
        more = [[other.digest, share] for other, share in self.manifest.more]
        return signature(self.settings, self.manifest.digest, self.world_size, *more)


def train(
    training: Training,
    report: Report,
    resume: Path | None = None,
    progress: Progress = lambda audio_seconds: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> nn.Module:
    """Train until the budget of audio seconds or the patience is used up, or until the pause.

    Returns the network with its raw weights.

    Args:
        training: settings, shards, rank and device.
        report: called after each validation; when resuming, first with the last report of the checkpoint, and with
            those before it that are not on record.
        resume: folder of the checkpoint to resume from.
        progress: called after each step, as a sign of life.
        should_stop: polled after each step and during validation; once true, training writes a checkpoint and ends.

    Raises:
        ConfigError: the settings do not fit the data, the device or the number of workers.
        InterruptionError: `should_stop` became true; a training that resumes from the checkpoint that was reported then
            equals one that was never interrupted.
        TrainingError: a loss, a gradient or the validation figure is not finite; the last checkpoint is kept.

    """
    settings, config, device = training.settings, training.settings.training, training.device
    local_batch = _local_batch(config.batch_size, training.world_size)
    objective = open_objective(settings, training.manifest)
    torch.manual_seed(settings.seed)
    network = objective.build()
    if resume is None:
        start(network, settings)
    network.to(device)
    average = copy.deepcopy(network).requires_grad_(False) if config.ema else None
    optimizers = make_optimizers(cast(Trainable, network), config, device)
    trained = Trained(network, average, optimizers)
    share = (training.rank, training.world_size)
    validate = Validation(objective, settings, training.manifest, training.validation, share, device)
    checkpoint = functools.partial(_checkpoint, training, objective, trained)
    state = State(
        training.signature,
        validate.signature,
        steps=0,
        position=Position(),
        best=validate.figure.worst,
        best_seconds=0.0,
        metrics={},
    )
    if resume is not None:
        state = load_state(resume, training.signature, trained)
        state = _reported_again(state, training, trained, validate, checkpoint, report)
    parallel: nn.Module = network
    if training.world_size > 1:
        parallel = distribute(network, device, config.gradient_compression)

    window = objective.window()
    examples = Examples(training.manifest, "train", settings.mixing, window, objective.interface, settings.seed)
    gradients = Gradients(parallel, objective, config, device, micro_batch=local_batch)
    seconds_per_step = config.batch_size * window.output_samples / window.sample_rate
    total_steps = math.ceil(config.audio_seconds / seconds_per_step)
    num_reports = config.num_reports
    # The first step that reaches each share of the budget: one step earlier, a report would miss ASHA's rung.
    report_steps = {math.ceil(total_steps * (number + 1) / num_reports) for number in range(num_reports)}
    steps, best, best_seconds, position = state.steps, state.best, state.best_seconds, state.position
    # Both were decided at the last report, which may be earlier than the checkpoint of an interrupted training.
    reported_seconds = state.metrics.get("audio_seconds", 0.0)
    patient = should_continue(config, reported_seconds, best_seconds)
    paused = reaches(reported_seconds, training.pause_seconds)
    losses, levels, clock, lost = Losses(config, share, device), Levels(), Clock(device), 0.0
    if state.since_report:
        losses.restore(state.since_report)
        lost = _restore(levels, state.since_report)
    # If it was interrupted during the validation of its last step, that validation comes first.
    due = bool(state.since_report) and steps in report_steps
    log.info("begins after step %d of %d, %s", steps, total_steps, "resumed" if resume else "anew")

    with closing(
        load(
            examples,
            local_batch,
            state.position,
            training.rank,
            training.world_size,
            workers=training.loader_workers,
            pinned=device.type == "cuda",
        )
    ) as batches:
        while (due or steps < total_steps) and patient and not paused:
            if not due:
                with clock.waiting():
                    made = next(batches)
                position, lost = made.position, float(made.lost)
                levels.add(made.batch)
                steps += 1
                rate = learning_rate(config, steps * seconds_per_step)
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                loss = gradients(made.batch)
                norm = nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip or math.inf)
                where = f"step {steps}, {steps * seconds_per_step:.0f} audio seconds, {_place_of(position)}"
                losses.add(loss, norm, where)
                for optimizer in optimizers:
                    optimizer.step()
                if average is not None:
                    update_ema(average, network, config.ema)
                clock.look()
                due = steps in report_steps

            seconds = steps * seconds_per_step
            progress(seconds)
            stops = _any_should_stop(should_stop, steps, training)
            if due and not stops:
                metrics = {"audio_seconds": seconds, "train_loss": losses.mean(), "gradient_norm": losses.mean_norm()}
                metrics |= {"learning_rate": learning_rate(config, seconds), "steps": float(steps)}
                metrics |= {"micro_batch": float(gradients.micro_batch)} | clock.metrics(seconds_per_step)
                metrics |= {"lost_clips": lost} | levels.metrics()
                _warn_of_waiting(metrics["loader_wait"])
                _warn_of_no_gradient(metrics["gradient_norm"], state.reports)
                on_progress = functools.partial(_during_validation, progress, seconds, should_stop, training)
                values = _validated(validate, trained, on_progress)
                stops = not values
            if due and not stops:
                metrics |= values
                _check_validation(metrics, validate.figure)
                log.info("%s", ", ".join(f"{name} {value:.6g}" for name, value in metrics.items()))
                if validate.figure.better(metrics[validate.figure.name], best):
                    best, best_seconds = metrics[validate.figure.name], seconds
                patient = should_continue(config, seconds, best_seconds)
                metrics["stopped_early"] = float(not patient)
                paused = reaches(seconds, training.pause_seconds)
                signatures = training.signature, validate.signature
                reports = (*state.reports, metrics)
                state = State(*signatures, steps, position, best, best_seconds, metrics, reports)
                with checkpoint(state) as folder:
                    report(metrics, folder)
                losses, levels, clock, due = Losses(config, share, device), Levels(), Clock(device), False
            if stops and (due or steps < total_steps):
                sums = {**losses.sums(), **vars(levels), "lost": lost}
                state = replace(state, validation=validate.signature, steps=steps, position=position, since_report=sums)
                with checkpoint(state) as folder:
                    report({"audio_seconds": seconds, "steps": float(steps)}, folder)
                raise InterruptionError(
                    "training must not be interrupted",
                    got=f"SIGTERM or a preemption after step {steps} of {total_steps}, where it wrote a checkpoint",
                    fix="run the same command again, which resumes it",
                )
    return network


def _reported_again(
    state: State,
    training: Training,
    trained: Trained,
    validate: Validation,
    checkpoint: Callable[[State], AbstractContextManager[Path | None]],
    report: Report,
) -> State:
    """Report what a checkpoint was reported with; after a change of the validation set, scored on the new one."""
    if state.validation == validate.signature or not state.metrics:
        # The driver may have crashed before recording them, and this may be the last report. The checkpoint exists.
        missed = [metrics for metrics in state.reports[:-1] if metrics["steps"] > training.reported_steps]
        for metrics in (*missed, *state.reports[-1:]):
            report(metrics, None)
        return state
    if state.since_report:
        # The weights of its last report are gone, so its value on the new set cannot be computed.
        return replace(state, validation=validate.signature, best=validate.figure.worst, metrics={}, reports=())
    state = _scored_again(state, validate, trained)
    with checkpoint(state) as folder:
        report(state.metrics, folder)
    return state


@contextmanager
def _checkpoint(training: Training, objective: Objective, trained: Trained, state: State) -> Iterator[Path | None]:
    """A folder with a checkpoint for the block, on rank 0; None on the others."""
    if training.rank != 0:
        yield None
        return
    with folder_for_checkpoint() as folder:
        if not state.since_report:
            seen = {key: state.metrics[key] for key in ("audio_seconds", figure_of(training.settings.objective).name)}
            card = {**data_card(training.manifest, objective.interface), **seen, "validation": state.validation}
            if training.settings.mixing.shuffle_pictures:
                card["shuffle_pictures"] = True
            if training.settings.training.loss == "si_sdr":
                card["any_level"] = True
            objective.save(folder / "model", trained.in_use, card)
        save_state(folder, state, trained)
        yield folder


def _validated(
    validate: Validation, trained: Trained, on_progress: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """The figure of the weights in use, and its parts; if those are a moving average, also that of the raw ones.

    Empty if interrupted.
    """
    figure = validate.figure
    try:
        values = {figure.name: validate(trained.in_use, on_progress), **validate.parts}
        if trained.average is not None:
            values[figure.raw_name] = validate(trained.network, on_progress)
        return values
    except _ValidationInterruptedError:
        return {}


class _ValidationInterruptedError(Exception):
    """Raised from the progress callback to leave a validation."""


def _during_validation(progress: Progress, seconds: float, should_stop: Callable[[], bool], training: Training) -> None:
    """Report progress. A single worker stops at once; several wait for each other, so they finish the validation."""
    progress(seconds)
    if training.world_size == 1 and should_stop():
        raise _ValidationInterruptedError


def _any_should_stop(should_stop: Callable[[], bool], steps: int, training: Training) -> bool:
    """Whether any worker should stop; several workers exchange this at the same steps."""
    if training.world_size == 1:
        return should_stop()
    if training.device.type == "cuda" and steps % STOP_EVERY:
        return False
    stops = torch.tensor(float(should_stop()), device=training.device)
    torch.distributed.all_reduce(stops, torch.distributed.ReduceOp.MAX)
    return bool(stops)


def _restore(levels: Levels, sums: Mapping[str, float]) -> float:
    """Restore the levels of an interrupted training; returns how many clips it had lost."""
    for name in vars(levels):
        setattr(levels, name, sums[name])
    return sums["lost"]


def _scored_again(state: State, validate: Validation, trained: Trained) -> State:
    """The state scored on the current validation set, after a change of the set; its best figure starts anew."""
    metrics = {**validate.figure.without(state.metrics), **_validated(validate, trained)}
    _check_validation(metrics, validate.figure)
    best, seconds = metrics[validate.figure.name], metrics["audio_seconds"]
    state = replace(state, validation=validate.signature, metrics=metrics, reports=(metrics,))
    return replace(state, best=best, best_seconds=seconds)


def learning_rate(config: TrainingConfig, audio_seconds: float) -> float:
    """Learning rate of the step that ends at `audio_seconds`: linear warm-up times exponential decay."""
    warmup = min(1.0, audio_seconds / config.warmup_seconds) if config.warmup_seconds else 1.0
    begin = config.constant_seconds
    decayed = max(0.0, audio_seconds - begin) / (config.audio_seconds - begin)
    return config.learning_rate * warmup * config.learning_rate_decay**decayed


def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """One step of the moving average: `decay` times itself plus the rest of the network's weights."""
    update = get_ema_multi_avg_fn(decay)
    update(list(average.parameters()), list(network.parameters()), 0)


def should_continue(config: TrainingConfig, audio_seconds: float, best_seconds: float) -> bool:
    """Whether the patience lasts, if the best value of the figure was at `best_seconds`."""
    return config.patience_seconds == 0 or audio_seconds - best_seconds < config.patience_seconds


def data_card(manifest: Manifest, interface: NetworkInterface) -> dict[str, Any]:
    """Facts about the training data that a user of the weights needs."""
    recipe = manifest.recipe
    data = f"{manifest.name}: {recipe.description}"
    card: dict[str, Any] = {"data": data, "licence": recipe.licence, "shards": manifest.digest}
    card["picture"] = recipe.picture.model_dump()
    return card | ({"features": interface.features} if interface.features else {})


def _local_batch(batch_size: int, world_size: int) -> int:
    if batch_size % world_size:
        raise ConfigError(
            "training.batch_size must be a multiple of the number of workers",
            got=f"{batch_size} with {world_size} workers",
            fix=f"set it to {max(world_size, batch_size // world_size * world_size)}",
        )
    return batch_size // world_size


def _place_of(position: Position) -> str:
    """The batch before a position, in words."""
    return f"batch {position.batch - 1} of epoch {position.epoch}"


def _warn_of_waiting(share: float) -> None:
    """Log how to speed up the loader if the loop waits for batches."""
    if share > MUCH_WAITING:
        log.warning("%.0f %% of the time was spent waiting for batches: %s", 100 * share, AGAINST_WAITING)


def _warn_of_no_gradient(norm: float, reports: Sequence[Mapping[str, float]]) -> None:
    """Log that a training stands still, which a curve that is flat at 0 dB does not say."""
    if reports and norm < NO_GRADIENT * reports[0]["gradient_norm"]:
        log.warning(
            "hardly anything is learned any more: the gradient norm is %.1g, and was %.1g at first, as where all "
            "outputs fell silent. A lower training.learning_rate, or training.warmup_seconds, may prevent it",
            norm,
            reports[0]["gradient_norm"],
        )


def _check_validation(metrics: dict[str, float], figure: Figure) -> None:
    """TrainingError if the figure is not finite: such weights must not enter a checkpoint."""
    values = {name: value for name, value in metrics.items() if name in {figure.name, figure.raw_name}}
    if not all(map(math.isfinite, values.values())):
        raise TrainingError(
            f"the {figure.title} must be finite",
            got=f"{values} after {metrics['steps']:.0f} steps, {metrics['audio_seconds']:.0f} audio seconds",
            fix="lower training.learning_rate; the last checkpoint is kept",
        )
