"""One training over any number of workers: the training loop inside a Ray Train TorchTrainer (Train V2).

    fit(Job(...), on_report=[...])     # inside a Ray Tune trial, or alone

The same name in the same storage continues where the run stopped: Ray keeps the list of reported checkpoints there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from vimss.runtime import Place
from vimss.shards.manifest import open_manifest
from vimss.train.config import Settings, ValidationConfig

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Job:
    """One training, as plain values that travel to the workers."""

    name: str
    """Of the run; unique in its storage."""
    storage: Path
    """Absolute folder, shared by all nodes."""
    settings: Settings
    validation: ValidationConfig
    shards: Path
    """Folder of the shards, shared by all nodes."""
    more_shards: tuple[tuple[Path, float], ...]
    """Folders of other corpora that training mixes in, with the share of the mixtures that each gives."""
    place: Place


def fit(job: Job, callbacks: Sequence[Any] = ()) -> None:
    """Run the job to its end on the running Ray; raises what a worker raised."""
    place = job.place
    trainer = ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config={"job": job},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if place.gpus_per_worker else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=place.workers_per_trial,
            use_gpu=place.gpus_per_worker > 0,
            resources_per_worker={"CPU": place.cpus_per_worker}
            | ({"GPU": place.gpus_per_worker} if place.gpus_per_worker else {}),
        ),
        run_config=ray.train.RunConfig(
            name=job.name,
            storage_path=str(job.storage),
            callbacks=list(callbacks),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=KEPT_CHECKPOINTS, checkpoint_score_attribute="valid_loss", checkpoint_score_order="min"
            ),
        ),
    )
    trainer.fit()


def checkpoint_name(steps: float) -> str:
    """Folder of the checkpoint that was reported after so many steps, in the folder of the run."""
    return f"step_{int(steps):08d}"


def _train_worker(config: dict[str, Any]) -> None:
    """What every rank runs. The loop is imported here: the trial's and the controller's process do not need it."""
    from vimss.train.loop import Training, train

    job: Job = config["job"]
    context = ray.train.get_context()
    torch.set_num_threads(max(1, int(job.place.cpus_per_worker) - job.place.loader_workers))
    training = Training(
        settings=job.settings,
        manifest=open_manifest(job.shards, job.more_shards),
        validation=job.validation,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        loader_workers=job.place.loader_workers,
    )

    def report(metrics: dict[str, float], folder: Path | None) -> None:
        checkpoint = None if folder is None else ray.train.Checkpoint.from_directory(str(folder))
        # The name carries the step, so that a checkpoint written again after a restart takes the place of its twin.
        ray.train.report(metrics, checkpoint, checkpoint_dir_name=checkpoint_name(metrics["steps"]))

    train(training, report, _latest_checkpoint())


def _latest_checkpoint() -> Path | None:
    from vimss.train.checkpoint import newest_valid

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    latest = Path(checkpoint.path)
    others = sorted((path for path in latest.parent.glob("step_*") if path != latest), reverse=True)
    return newest_valid([latest, *others])
