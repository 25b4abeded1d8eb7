"""Checkpoints: a folder that holds a training as it stands and all that is needed to go on.

    folder/model/             the weights for use (moving average where there is one), as save_separator writes them
    folder/state.safetensors  raw weights, moving average and optimisers
    folder/state.json         position in the stream, what was reported, signature, SHA-256 of the tensors

No pickle. A checkpoint is complete and verified or an error; who looks for one takes the newest valid.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vimss.errors import DataError
from vimss.storage import atomic_write, sha256
from vimss.stream.batch import Position
from vimss.train.figure import Figure

TENSORS = "state.safetensors"
ABOUT = "state.json"


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
    """The report of this checkpoint, for a driver that crashed before recording it."""


def save_state(
    folder: Path, state: State, model: nn.Module, average: nn.Module | None, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Write the tensors and the JSON of a checkpoint into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    with atomic_write(folder / TENSORS) as temporary:
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, temporary)
    with atomic_write(folder / ABOUT) as temporary:
        temporary.write_text(json.dumps({**asdict(state), "sha256": sha256(folder / TENSORS)}), encoding="utf-8")


def load_state(
    folder: Path,
    signature: str,
    model: nn.Module,
    average: nn.Module | None,
    optimizers: Sequence[torch.optim.Optimizer],
) -> State:
    """Put a checkpoint into model, average and optimisers; DataError where it is damaged or of other settings."""
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
            fix="continue with those of then",
        )
    tensors = load_file(folder / TENSORS)
    model.load_state_dict(_below(tensors, "model."))
    if average is not None:
        average.load_state_dict(_below(tensors, "average."))
    for number, optimizer in enumerate(optimizers):
        content = optimizer.state_dict()
        content["state"] = _optimizer_state(_below(tensors, f"optimizer{number}."))
        optimizer.load_state_dict(content)
    kept = {name: about[name] for name in ("steps", "best", "best_seconds", "metrics")}
    # Older checkpoints name no validation set, which counts as another one.
    validation = about.get("validation", "")
    return State(signature=signature, validation=validation, position=Position(**about["position"]), **kept)


def reported_value(folder: Path, figure: Figure) -> tuple[str, float]:
    """The signature of the validation set of a checkpoint, and the value of the figure that was reported with it."""
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return about.get("validation", ""), about["metrics"][figure.name]


def newest_valid(folders: Iterable[Path]) -> Path | None:
    """The first of the folders, newest first, whose tensors are as their JSON says."""
    for folder in folders:
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            if sha256(folder / TENSORS) == about["sha256"]:
                return folder
        except (OSError, ValueError, KeyError):
            continue
    return None


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    return state
