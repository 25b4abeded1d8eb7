"""Checkpoints: a folder that holds a training as it stands and all that is needed to go on.

    folder/model/             the weights for use (moving average where there is one), as save_separator writes them
    folder/state.safetensors  raw weights, moving average and optimisers
    folder/state.json         position in the stream, what was reported, signature, SHA-256 of all other files

No pickle. A checkpoint is complete and verified or an error; who looks for one takes the newest valid. One between two
reports, of a training that was interrupted, has no model/.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vimss.errors import DataError
from vimss.storage import atomic_write, private_folder, sha256
from vimss.stream.batch import Position
from vimss.train.figure import Figure

TENSORS = "state.safetensors"
ABOUT = "state.json"

TEMPORARY_FOLDER = "TMPDIR"
"""Environment variable that decides where a checkpoint is made, before it is kept."""


@dataclass(frozen=True)
class State:
    """Where a training stands."""

    signature: str
    """Of the training, which is more than its settings: also shards and number of workers. Another one's is refused."""
    validation: str
    """Signature of the validation set that its losses belong to."""
    steps: int
    position: Position
    best: float
    """Best value of the figure so far."""
    best_seconds: float
    """Audio seconds at which it was."""
    metrics: dict[str, float]
    """The last report; empty before the first."""
    reports: tuple[dict[str, float], ...] = ()
    """All reports on this validation set, for a driver that crashed or hung before it had recorded them."""
    since_report: dict[str, float] = field(default_factory=dict)
    """Sums of the next report so far, where this is a checkpoint between two reports; empty where it is one's own."""


@dataclass(frozen=True, eq=False)
class Trained:
    """The network, the moving average of its weights and the optimisers: all that training steps change."""

    network: nn.Module
    average: nn.Module | None
    """The moving average of the weights, where there is one."""
    optimizers: Sequence[torch.optim.Optimizer]

    @property
    def in_use(self) -> nn.Module:
        """The weights for use: the moving average where there is one."""
        return self.average or self.network


def folder_for_checkpoint() -> AbstractContextManager[Path]:
    """An empty folder for a block, to make a checkpoint in; StorageError where there can be none."""
    return private_folder("vimss-checkpoint")


def save_state(folder: Path, state: State, trained: Trained) -> None:
    """Write the tensors and the JSON of a checkpoint into `folder`, beside the model, which must be there before."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor for name, tensor in trained.network.state_dict().items()}
    if trained.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in trained.average.state_dict().items()}
    for number, optimizer in enumerate(trained.optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    with atomic_write(folder / TENSORS, TEMPORARY_FOLDER) as temporary:
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, temporary)
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in folder.glob("*/*")}
    about = {**asdict(state), "sha256": sha256(folder / TENSORS), "files": files}
    with atomic_write(folder / ABOUT, TEMPORARY_FOLDER) as temporary:
        temporary.write_text(json.dumps(about), encoding="utf-8")


def load_state(folder: Path, signature: str, trained: Trained) -> State:
    """Put a checkpoint into network, average and optimisers; DataError where it is damaged or of other settings."""
    again = "delete it to use the checkpoint before it"
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        digest = sha256(folder / TENSORS)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} must hold a checkpoint", got=str(error), fix=again) from error
    if digest != about["sha256"]:
        raise DataError(f"{folder / TENSORS} must have the SHA-256 in {ABOUT}", got=f"{digest[:12]}...", fix=again)
    if about["signature"] != signature:
        raise DataError(
            f"{folder} must be of the same settings, shards and number of workers, {signature}",
            got=about["signature"],
            # Its name, since the folder may be a copy of one at s3://.
            fix="use those that it was trained with (workers_per_trial of the place may have changed), or delete the "
            f"folder {folder.parent.name} of the trial to train from the start",
        )
    tensors = load_file(folder / TENSORS)
    trained.network.load_state_dict(_below(tensors, "model."))
    if trained.average is not None:
        trained.average.load_state_dict(_below(tensors, "average."))
    for number, optimizer in enumerate(trained.optimizers):
        content = optimizer.state_dict()
        content["state"] = _optimizer_state(_below(tensors, f"optimizer{number}."))
        optimizer.load_state_dict(content)
    kept = {name: about[name] for name in ("steps", "best", "best_seconds", "metrics")}
    # Older checkpoints name no validation set, which counts as another one.
    kept |= {"validation": about.get("validation", ""), "since_report": about.get("since_report", {})}
    # Nor all reports, but the last one.
    kept["reports"] = tuple(about.get("reports", filter(None, [about["metrics"]])))
    return State(signature=signature, position=Position(**about["position"]), **kept)


def reported_value(folder: Path, figure: Figure) -> tuple[str, float]:
    """The signature of the validation set of a checkpoint, and the value of the figure that was reported with it.

    The worst possible value where it is between two reports: its weights were not validated.
    """
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    value = figure.worst if about.get("since_report") else about["metrics"][figure.name]
    return about.get("validation", ""), value


def newest_valid(folders: Iterable[Path]) -> Path | None:
    """The first of the folders, newest first, that is whole."""
    return next(filter(is_whole, folders), None)


def is_whole(folder: Path) -> bool:
    """Whether all files of a checkpoint are as its JSON says."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        # Older checkpoints have no digests of the model's files.
        digests = {TENSORS: about["sha256"], **about.get("files", {})}
        return all(sha256(folder / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, KeyError):
        return False


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    return state
