"""The files of a saved model; looked for without torch."""

from pathlib import Path

from vimss.errors import ModelError

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
