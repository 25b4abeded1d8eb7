"""Evaluations as they are kept in a study's folder, a file for each split, and their figures by name.

for split, path in kept_files(study.folder).items():
    figures_by_weights(path)        # {"3fa9...": {"test_si_sdr_improvement": 3.1, "test_pieces_sdr": 4.2, ...}}
"""

import functools
import json
from pathlib import Path
from typing import Any

from vimss.config import parse_config
from vimss.errors import ConfigError, DataError
from vimss.evaluate.figures import FigureEvaluation
from vimss.evaluate.records import Evaluation

_PREFIX = "evaluation-"


def kept_file(folder: Path, split: str) -> Path:
    """The file of a split in a study's folder."""
    return folder / f"{_PREFIX}{split}.json"


def kept_files(folder: Path) -> dict[str, Path]:
    """The files of all splits that were evaluated, by split."""
    return {path.stem.removeprefix(_PREFIX): path for path in sorted(folder.glob(f"{_PREFIX}*.json"))}


def read_kept(path: Path) -> list[Evaluation | FigureEvaluation]:
    """The rows of a table; none where its split was not evaluated. DataError where the file is damaged."""
    if not path.exists():
        return []
    try:
        return [_row(content) for content in json.loads(path.read_text(encoding="utf-8"))]
    except (ConfigError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} must be a table that `vimss evaluate` kept",
            got=f"{error.rule}, {error.got}" if isinstance(error, ConfigError) else str(error),
            fix="delete it, and run `vimss evaluate` with the same experiment again",
        ) from error


def _row(content: dict[str, Any]) -> Evaluation | FigureEvaluation:
    if "objective" in content:
        return parse_config(content, FigureEvaluation, "table")
    return parse_config(content, Evaluation, "table")


def named_figures(evaluation: Evaluation | FigureEvaluation) -> dict[str, float]:
    """The figures by which models are compared in MLflow; NaN where one is not defined for the network."""
    split = evaluation.split
    if isinstance(evaluation, FigureEvaluation):
        return {f"{split}_{evaluation.figure.name.removeprefix('valid_')}": evaluation.value}
    return {
        f"{split}_si_sdr_improvement": evaluation.two_sources.si_sdr_improvement,
        f"{split}_label_contrast": evaluation.two_sources.label_contrast,
        f"{split}_pieces_si_sdr_improvement": evaluation.median("si_sdr_improvement"),
        f"{split}_pieces_sdr": evaluation.median("sdr"),
    }


def figures_by_weights(path: Path) -> dict[str, dict[str, float]]:
    """The named figures of a table's models, by the SHA-256 of their weights; of two rows with the same, the first."""
    return _figures_by_weights(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=100)
def _figures_by_weights(path: Path, changed: int) -> dict[str, dict[str, float]]:
    return {row.weights: named_figures(row) for row in reversed(read_kept(path)) if row.weights}
