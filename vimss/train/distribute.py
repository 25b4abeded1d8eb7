"""One training over any number of workers, with its checkpoints: the loop here, or in a Ray Train TorchTrainer.

    fit(Job(...), report=print)     # inside a Ray Tune trial, or alone

The same job again continues where it stopped or paused; one that is told to end by SIGTERM writes a checkpoint first.
Rank 0 keeps the checkpoints, the same way with one worker or several: Ray Train sees none of them. The folder holds:

    train/step_00000120/    a checkpoint: the newest, and the best of those before it
    progress                a count and the audio seconds seen, a sign of life between two reports
    stop                    a file that asks the training to write a checkpoint and end
    log.txt                 what the trial's process logged, and log_rank0.txt and so on of its workers, if several
"""

import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.util.queue import Empty, Queue

from vimss.errors import PlaceError
from vimss.runtime import LOG, Place, log_to, rank_log, termination_requested
from vimss.shards.manifest import Origin, copy_manifests, open_manifest
from vimss.storage import TEMPORARY, atomic_write, copy_folder, finish_replacements, private_folder, remove_whole
from vimss.train.config import Settings, ValidationConfig
from vimss.train.figure import Figure
from vimss.train.objectives import figure_of
from vimss.train.own_copy import CHECKPOINTS, PROGRESS, STOP, OwnCopy, forget_stop, own_copy

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2

PROGRESS_SECONDS = 5.0
"""Between two signs of life."""

STOP_SECONDS = 1.0
"""Between two looks at the file that asks a training to end: the folder may be on another machine."""

DRAINED_EVERY = 8
"""Questions whether to end, one after each step, of which one asks Train whether a node is drained."""

POLL_SECONDS = 1.0
"""How long the trial's process waits for a report before it looks whether the trainer has ended."""

Metrics = dict[str, float]


@dataclass(frozen=True)
class Job:
    """One training, as plain values that travel to the workers."""

    storage: Path
    """Absolute folder, shared by all nodes; or one in the copy of studies behind a URL, which need be on no node."""
    settings: Settings
    validation: ValidationConfig
    shards: Path
    """Folder of the shards, or of the copy of their manifest."""
    more_shards: tuple[tuple[Path, float], ...]
    """Folders of other corpora that training mixes in, with the share of the mixtures that each gives."""
    place: Place
    pause_seconds: float = math.inf
    reported_steps: float = math.inf
    """Both as in `vimss.train.loop.Training`."""
    origins: Mapping[Path, Origin] = field(default_factory=dict)
    """Of `vimss.shards.manifest.origins_of`, for nodes that share no folder with the process that made the job."""


def fit(job: Job, report: Callable[[Metrics], None]) -> None:
    """Run the job to its end.

    `report` is called with the metrics of each validation, in order, in the thread that called `fit`; what it raises
    ends the job. Raises what a worker raised: InterruptionError where one was told to end.
    """
    forget_stop(job.storage)
    is_alone = job.place.workers_per_trial == 1
    with own_copy(job.storage, LOG, keeps_checkpoints=is_alone) as own, log_to(own.path / LOG):
        if is_alone:
            is_asked = _StopFile(own.path / STOP)
            with termination_requested(job.place.grace_seconds) as is_requested:
                _fit_here(job, own, report, lambda: is_requested() or is_asked())
        else:
            with private_folder("vimss-ray-train") as scratch:
                _fit_on_workers(job, report, scratch)


def own_device(place: Place) -> torch.device:
    """Where a single worker trains; of the GPUs that Ray counts it sees its own alone."""
    if not place.gpus_per_worker:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise PlaceError(
            f"'{place.name}' must have GPUs that PyTorch finds, for gpus_per_worker: {place.gpus_per_worker:g}",
            got=f"none, with PyTorch {torch.__version__}",
            fix="install its driver, and PyTorch for CUDA or ROCm, on every node, or set gpus_per_worker: 0",
        )
    return torch.device("cuda")


def checkpoint_name(steps: float) -> str:
    """Folder of the checkpoint that was reported after so many steps, in the folder of the job's checkpoints."""
    return f"step_{int(steps):08d}"


def _fit_here(job: Job, own: OwnCopy, report: Callable[[Metrics], None], should_stop: Callable[[], bool]) -> None:
    """With one worker: no processes beside this one, which a search may use again for the next trial."""
    # Only here: the process of a trial with several workers does not need the loop.
    from vimss.train.device import limit_memory
    from vimss.train.loop import train

    figure = figure_of(job.settings.objective)

    def keep_and_report(metrics: Metrics, checkpoint: Path | None) -> None:
        if checkpoint is not None:
            _keep(checkpoint, own, checkpoint_name(metrics["steps"]), figure)
        if figure.name in metrics:
            report(metrics)

    resume = _newest_checkpoint(own.path / CHECKPOINTS)
    device = own_device(job.place)
    limit_memory(job.place.gpus_per_worker, device)
    progress = _SignOfLife(own.path / PROGRESS)
    progress(0.0)
    train(_training(job, 0, 1, device), keep_and_report, resume, progress, should_stop)


def _newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to resume from, if any; what is damaged, or left of a process that was killed, is removed."""
    from vimss.train.checkpoint import newest_valid

    finish_replacements(folder)
    checkpoints = sorted(folder.glob("step_*"), reverse=True)
    resume = newest_valid(checkpoints)
    damaged = checkpoints if resume is None else checkpoints[: checkpoints.index(resume)]
    for useless in (*damaged, *folder.glob(f"{TEMPORARY}*")):
        shutil.rmtree(useless, ignore_errors=True)
    return resume


def _keep(checkpoint: Path, own: OwnCopy, name: str, figure: Figure) -> None:
    """Keep a checkpoint where all nodes find it."""
    keep_checkpoint(checkpoint, own.path / CHECKPOINTS / name, figure)
    own.upload_checkpoints()


def keep_checkpoint(checkpoint: Path, kept: Path, figure: Figure) -> None:
    """Copy a finished checkpoint to where it is kept, whole or not at all, and remove those that it supersedes."""
    with atomic_write(kept) as temporary:
        copy_folder(checkpoint, temporary)
    _delete_old_checkpoints(kept.parent, figure)


def _fit_on_workers(job: Job, report: Callable[[Metrics], None], scratch: Path) -> None:
    """With several workers: a TorchTrainer (Train V2) in a thread, whose reports are passed on by this one.

    Ray's own TuneReportCallback lets the process that reads its queue also fill the queue that Tune reads. Where the
    trial's function returns before the last report was read, that process waits for itself without end (Ray 2.60).
    """
    queue = Queue(actor_options={"num_cpus": 0})
    trainer = _trainer(job, queue, scratch)
    log.info("trains on %d workers, each with a log of its own", job.place.workers_per_trial)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # raised again below, in the thread that Tune looks at
            errors.append(error)

    # A daemon: where Tune stops the trial, nobody waits for the trainer, which ends with this process.
    thread = threading.Thread(target=run, name="trainer", daemon=True)
    thread.start()
    try:
        while True:
            # Asked first: all that was reported before the end is in the queue then.
            ended = not thread.is_alive()
            try:
                metrics = queue.get(timeout=POLL_SECONDS)
            except Empty:
                if ended:
                    break
            else:
                report(metrics)
    finally:
        # Where `report` raised, the trainer fails at its next report, or ends with this process.
        queue.shutdown(force=True)
    if errors:
        raise errors[0]


class _Trainer(ray.train.torch.TorchTrainer):
    """Without the process that removes the placement group of a dead training: see `vimss.runtime.placement`."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]


def _trainer(job: Job, queue: Queue, scratch: Path) -> _Trainer:
    place, figure = job.place, figure_of(job.settings.objective)
    return _Trainer(
        _train_worker,
        train_loop_config={"job": job},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if place.gpus_per_worker else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=place.workers_per_trial,
            use_gpu=place.gpus_per_worker > 0,
            resources_per_worker=place.worker_resources,
            # On as few nodes as hold them: gradients travel faster within a node than between two.
            placement_strategy="PACK",
        ),
        run_config=ray.train.RunConfig(
            # For what it keeps of its own: of this process and of its controller, which is on the same node.
            storage_path=str(scratch),
            callbacks=[_PutReports(queue, figure)],
        ),
    )


class _PutReports(ray.train.UserCallback):
    """In the process of Train's controller: puts what the first worker reports into a queue, which has no bound.

    Without the figure it is only the checkpoint of a training that was told to end.
    """

    def __init__(self, queue: Queue, figure: Figure) -> None:
        self.queue = queue
        self.figure = figure

    def after_report(self, run_context: Any, metrics: list[Metrics], checkpoint: Any) -> None:
        if self.figure.name in metrics[0]:
            self.queue.put(metrics[0])


def _train_worker(config: dict[str, Any]) -> None:
    """What every rank runs. The loop is imported here: the trial's and the controller's process do not need it."""
    from vimss.train.loop import train

    job: Job = config["job"]
    context = ray.train.get_context()
    rank = context.get_world_rank()
    is_first, log_name, figure = rank == 0, rank_log(rank), figure_of(job.settings.objective)
    with (
        own_copy(job.storage, log_name, keeps_checkpoints=is_first) as own,
        log_to(own.path / log_name),
        termination_requested(job.place.grace_seconds) as is_requested,
    ):

        def report(metrics: Metrics, checkpoint: Path | None) -> None:
            if checkpoint is not None:
                _keep(checkpoint, own, checkpoint_name(metrics["steps"]), figure)
            ray.train.report(metrics)

        progress = _SignOfLife(own.path / PROGRESS) if is_first else _no_progress
        progress(0.0)
        is_asked = _StopFile(own.path / STOP)
        should_stop = ToldToEnd(
            lambda: is_requested() or is_asked(), lambda: ray.train.get_preemption_info() is not None
        )
        training = _training(job, rank, context.get_world_size(), ray.train.torch.get_device())
        train(training, report, _checkpoint_of_all(own, is_first, training.device), progress, should_stop)


def _checkpoint_of_all(own: OwnCopy, is_first: bool, device: torch.device) -> Path | None:
    """The checkpoint to resume from, which rank 0 chooses for all ranks; None: to start anew."""
    folder = own.path / CHECKPOINTS
    newest = _newest_checkpoint(folder) if is_first else None
    names = [newest.name if newest else ""]
    torch.distributed.broadcast_object_list(names, src=0, device=device)
    (name,) = names
    if not name:
        return None
    if not is_first:
        own.fetch_checkpoint(name)
    return folder / name


def _training(job: Job, rank: int, world_size: int, device: torch.device) -> Any:
    """One rank's part of the job."""
    from vimss.train.device import flush_denormals, multiply_as_usual
    from vimss.train.loop import Training

    multiply_as_usual()
    flush_denormals()
    copy_manifests(job.origins)
    torch.set_num_threads(max(1, int(job.place.cpus_per_worker) - job.place.loader_workers))
    return Training(
        settings=job.settings,
        manifest=open_manifest(job.shards, job.more_shards),
        validation=job.validation,
        rank=rank,
        world_size=world_size,
        device=device,
        loader_workers=job.place.loader_workers,
        pause_seconds=job.pause_seconds,
        reported_steps=job.reported_steps,
    )


def _delete_old_checkpoints(folder: Path, figure: Figure) -> None:
    """Keep the newest and the best of those before it: of the best weights, and where the newest is damaged."""
    from vimss.train.checkpoint import reported_value

    *before, newest = sorted(folder.glob("step_*"))
    scored_on, _ = reported_value(newest, figure)
    values: dict[Path, tuple[str, float]] = {}
    for checkpoint in before:
        with suppress(OSError, ValueError, KeyError):  # a damaged one
            values[checkpoint] = reported_value(checkpoint, figure)
    best = best_of_checkpoints(values, scored_on, figure)
    for checkpoint in before:
        if checkpoint != best:
            with suppress(OSError):  # one that stays does no harm
                remove_whole(checkpoint)


def best_of_checkpoints(values: Mapping[Path, tuple[str, float]], validation: str, figure: Figure) -> Path | None:
    """The checkpoint with the best value among those that were scored on this validation set; None without one.

    Args:
        values: of each checkpoint its validation set and its value there. Values on two sets cannot be compared.
        validation: signature of the set.
        figure: what the values are of.

    """
    comparable = [checkpoint for checkpoint, (scored_on, _) in values.items() if scored_on == validation]
    return min(comparable, key=lambda checkpoint: figure.rank(values[checkpoint][1]), default=None)


class ToldToEnd:
    """Whether a rank was told to end, or its node is drained, which Train knows where its watcher of preemptions runs.

    Train asks all ranks at once, through an actor: each must ask as often as the others, whatever else it was told, and
    not at each step, which would wait for the actor.
    """

    def __init__(self, is_told: Callable[[], bool], is_drained: Callable[[], bool]) -> None:
        self.is_told = is_told
        self.is_drained = is_drained
        self.calls = 0

    def __call__(self) -> bool:
        """After each step."""
        self.calls += 1
        drained = self.calls % DRAINED_EVERY == 0 and self.is_drained()
        return drained or self.is_told()


class _StopFile:
    """Whether the file that asks a training to end is there, by a look now and then."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_there = False
        self.looked = -STOP_SECONDS

    def __call__(self) -> bool:
        if not self.is_there and time.monotonic() - self.looked >= STOP_SECONDS:
            self.looked = time.monotonic()
            self.is_there = self.path.exists()
        return self.is_there


class _SignOfLife:
    """Writes a count and the audio seconds seen to a file, now and then; the count changes while nothing is trained."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.written = -PROGRESS_SECONDS

    def __call__(self, audio_seconds: float) -> None:
        self.count += 1
        if time.monotonic() - self.written >= PROGRESS_SECONDS:
            self.written = time.monotonic()
            # Training does not end because a sign of life does not fit on the disk.
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_text(f"{self.count} {audio_seconds:.3f} {time.time():.0f}", encoding="utf-8")


def _no_progress(audio_seconds: float) -> None:
    """Other ranks than the first are silent."""
