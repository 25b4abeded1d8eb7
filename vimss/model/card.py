"""The files of a saved model; looked for without torch."""

from pathlib import Path

from vimss.errors import ConfigError, ModelError

CARD = "model.json"
WEIGHTS = "weights.safetensors"


def check_model_folder(folder: Path) -> None:
    """ModelError where a folder holds no saved model."""
    missing = [file for file in (CARD, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise ModelError(
            f"{folder} must hold {CARD} and {WEIGHTS}",
            got=f"no {' and no '.join(missing)}",
            fix="give the folder of a trained model, or models:/name@alias",
        )


def check_free(folder: Path) -> None:
    """ConfigError where a model cannot be written as a new folder: something is there, other than an empty folder."""
    if folder.is_dir():
        got = f"one that holds {min(path.name for path in folder.iterdir())}" if any(folder.iterdir()) else ""
    else:
        got = "a file" if folder.exists() or folder.is_symlink() else ""
    if got:
        raise ConfigError(
            f"{folder} must be a new or an empty folder", got=got, fix="name another folder, or empty this one"
        )
