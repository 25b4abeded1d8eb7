"""Evaluations as they are kept in a study's folder, a file for each split, and their figures by name.

for split, path in kept_files(study.folder).items():
    figures_by_weights(path)        # {"3fa9...": {"test_si_sdr_improvement": 3.1, "test_pieces_sdr": 4.2, ...}}

The next evaluation takes over the rows of the file whose figures would be the same again, by their signatures:

    kept = KeptRows.of(kept_file(study.folder, "test"), Evaluation, note=print)
    kept.take([row_signature(row, table, manifest)])    # "1 of 1 rows is kept from the last evaluation; ..."
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from vimss.config import parse_config, signature
from vimss.errors import ConfigError, DataError
from vimss.evaluate.figures import FigureEvaluation
from vimss.evaluate.records import Evaluation
from vimss.evaluate.tasks import Row, Table
from vimss.metrics import CONVENTIONS
from vimss.model.separator import read_card
from vimss.shards.manifest import Manifest
from vimss.storage import atomic_write, origin_of

SCORING = 1
"""Raise it when the same system gets other figures on the same shards: after a change of the metrics, the mixtures that
are drawn, a baseline, or how a network separates. Rows of before are then scored again, as after one of CONVENTIONS."""

AnyEvaluation = TypeVar("AnyEvaluation", Evaluation, FigureEvaluation)

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


def write_kept(path: Path, rows: Sequence[Evaluation] | Sequence[FigureEvaluation]) -> None:
    """Keep the rows of a table, in place of those of an earlier one."""
    with atomic_write(path) as temporary:
        lines = ",\n".join(row.model_dump_json(indent=1) for row in rows)
        temporary.write_text(f"[{lines}]\n", encoding="utf-8")


def row_signature(row: Row, table: Table, manifest: Manifest, whole_pieces: bool = True) -> str:
    """Equal for two rows whose figures must be equal: it covers the system, what it is scored on, and `SCORING`.

    A row without a model is the baseline of its name; it need not be fitted. Names of models do not count, and neither
    does the device, on which figures depend by rounding alone.
    """
    shards = [(one.signature, one.digest, share) for one, share in ((manifest, 1.0), *manifest.more)]
    scored_on = table.split, table.labels, table.sources, whole_pieces and row.whole_pieces
    # The whole model.json, with the SHA-256 of the weights: the same weights separate otherwise with other settings.
    system = row.name if row.model is None else read_card(row.model)
    named_by = None if row.named_by is None else read_card(row.named_by.folder)
    return signature(SCORING, CONVENTIONS, shards, scored_on, system, row.names, named_by)


@dataclass(frozen=True)
class KeptRows(Generic[AnyEvaluation]):
    """The rows of an earlier table, to be taken over where their figures would be the same again."""

    rows: Mapping[str, AnyEvaluation] = field(default_factory=dict)
    """By their signatures."""
    path: Path = Path()
    note: Callable[[str], None] = lambda sentence: None
    """Called with a sentence about what is taken over."""

    @classmethod
    def of(cls, path: Path, kind: type[AnyEvaluation], note: Callable[[str], None]) -> "KeptRows[AnyEvaluation]":
        """Those of a kept table; none where there is no file. DataError where it is damaged."""
        rows = {row.signature: row for row in read_kept(path) if isinstance(row, kind) and row.signature}
        return cls(rows, path, note)

    def take(self, signatures: Sequence[str]) -> dict[str, AnyEvaluation]:
        """Those with the signatures of a new table's rows."""
        count = sum(signature in self.rows for signature in signatures)
        if count:
            self.note(
                f"{count} of {len(signatures)} row{'s' * (len(signatures) > 1)} {'is' if count == 1 else 'are'} "
                "kept from the last evaluation; "
                f"delete {origin_of(self.path) or self.path} to score all again"
            )
        return {signature: self.rows[signature] for signature in signatures if signature in self.rows}


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
