"""A comparison as text: the cells of a table, CSV for a script, Markdown for a lab log.

columns(comparison), row_texts(comparison)      # the whole table
blocks(comparison)                              # the same in tables that are narrow enough for a terminal
"""

import csv
import io
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean

from vimss.comparison.rows import Comparison, Cost, Row
from vimss.intervals import Gain

CSV_COLUMNS = (
    "cell", "cells", "seeds", "trials", "finished", "figure", "unit", "split", "value", "low", "high", "seed_lowest",
    "seed_highest", "against", "gain", "gain_low", "gain_high", "pieces", "contrast", "contrast_low", "contrast_high",
    "audio_seconds", "wall_seconds", "weights", "gmac_per_second", "validation_figure", "validation",
)  # fmt: skip
"""`low` to `high`, and those of gain and contrast, are 95 % intervals over pieces; what is not known is empty.
Three more follow for each number of sources that was scored: `sources_3`, `sources_3_low`, `sources_3_high`."""


@dataclass(frozen=True)
class Block:
    """Columns of the table that belong together; a terminal shows each block as a table of its own."""

    title: str
    """Empty of the first block, which the question heads."""
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """One for each row of the comparison, under the headings."""


def blocks(comparison: Comparison) -> list[Block]:
    """The figure with its gain, mixtures by their number of sources where any were scored, and the cost."""
    digits = 1 if comparison.figure.unit == "dB" and comparison.split else 2
    contrast = _contrast if _has_contrast(comparison) else lambda row: ()
    counts = _source_counts(comparison)
    figures = Block(
        "",
        (
            "seeds",
            comparison.figure.heading,
            "over seeds",
            f"gain over {comparison.against}",
            *(("label contrast, dB",) if _has_contrast(comparison) else ()),
        ),
        tuple(
            (_seeds(row), _figure(row, digits), _spread(row, digits), _gain(row.gain, digits), *contrast(row))
            for row in comparison.rows
        ),
    )
    by_sources = Block(
        "SI-SDRi on mixtures of N independent players",
        tuple(f"{count} sources, dB" for count in counts),
        tuple(
            tuple(_known_decibel(*row.by_sources.get(count, (math.nan, None))) for count in counts)
            for row in comparison.rows
        ),
    )
    cost = Block(
        "Cost of the best trials, mean over seeds",
        ("audio s", "wall s", "weights", "GMAC per s"),
        tuple(_cost(row.cost) for row in comparison.rows),
    )
    return [figures, *([by_sources] if counts else []), cost]


def columns(comparison: Comparison) -> tuple[str, ...]:
    """Headings of the whole table."""
    return "", *(heading for block in blocks(comparison) for heading in block.headings)


def row_texts(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row of text per row, under `columns`."""
    parts = zip(*(block.rows for block in blocks(comparison)), strict=True)
    return [(row.name, *itertools.chain(*texts)) for row, texts in zip(comparison.rows, parts, strict=True)]


def caption(comparison: Comparison) -> str:
    """What the figures are of, and how to read them."""
    where = f"Split {comparison.split}: " if comparison.split else ""
    better = "lower" if comparison.figure.direction == "min" else "higher"
    text = f"{where}{comparison.basis}; {better} is better. A gain is positive where the row is the better one."
    if comparison.split:
        text += " Intervals are over pieces, of these seeds; what another seed changes is the range over seeds."
    if _has_contrast(comparison):
        text += " Label contrast is of two-source mixtures: the output for the right label minus that for another one."
    if _source_counts(comparison):
        text += " N sources: median SI-SDR improvement on mixtures of N independent players."
    if comparison.split and len(comparison.rows) > 3:
        text += " Each interval stands alone: of twenty rows that are no better or worse, one seems to be by chance."
    return text


def markdown(comparison: Comparison) -> str:
    """The table with its caption, conventions and sentences."""
    head, rows = columns(comparison), row_texts(comparison)
    lines = [f"| {' | '.join(_cell(text) for text in row)} |" for row in (head, *rows)]
    lines.insert(1, f"|{'---|' * len(head)}")
    notes = [f"- {name}: {text}" for name, text in comparison.conventions.items()]
    notes += [f"- {sentence}" for sentence in comparison.sentences]
    parts = [f"# {' '.join(comparison.question.split())}", "\n".join(lines), caption(comparison), "\n".join(notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def csv_text(comparison: Comparison) -> str:
    """The rows for a script, under CSV_COLUMNS."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    more = [f"sources_{count}{end}" for count in _source_counts(comparison) for end in ("", "_low", "_high")]
    writer.writerow([*CSV_COLUMNS, *more])
    writer.writerows(
        ["" if _is_unknown(value) else value for value in _values(comparison, row)] for row in comparison.rows
    )
    return buffer.getvalue()


def _values(comparison: Comparison, row: Row) -> Iterator[str | float | None]:
    low, high = row.interval or (None, None)
    gain = row.gain
    yield from (row.name, row.cells, len(row.over_seeds), row.trials, row.finished)
    yield from (comparison.figure.title, comparison.figure.unit, comparison.split or "validation")
    yield from (row.value, low, high, min(row.over_seeds, default=None), max(row.over_seeds, default=None))
    yield comparison.against
    yield from (None, None, None, None) if gain is None else (gain.mean, gain.low, gain.high, gain.pieces)
    yield from (row.contrast, *(row.contrast_interval or (None, None)))
    cost = row.cost
    yield from (
        (None,) * 4 if cost is None else (cost.audio_seconds, cost.wall_seconds, cost.weights, cost.gmac_per_second)
    )
    yield comparison.validation.title
    yield mean(row.validation) if row.validation else None
    for count in _source_counts(comparison):
        value, interval = row.by_sources.get(count, (None, None))
        yield from (value, *(interval or (None, None)))


def _is_unknown(value: str | float | None) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _seeds(row: Row) -> str:
    if not row.cells:
        return "-"
    return f"{len(row.over_seeds)}" + (f" of {row.cells}" if len(row.over_seeds) < row.cells else "")


def _figure(row: Row, digits: int) -> str:
    return _with_interval(f"{row.value:.{digits}f}", row.interval, f".{digits}f") if math.isfinite(row.value) else "-"


def _spread(row: Row, digits: int) -> str:
    if len(row.over_seeds) < 2:
        return "-"
    return f"{min(row.over_seeds):.{digits}f} to {max(row.over_seeds):.{digits}f}"


def _has_contrast(comparison: Comparison) -> bool:
    return any(math.isfinite(row.contrast) for row in comparison.rows)


def _contrast(row: Row) -> tuple[str]:
    return (_known_decibel(row.contrast, row.contrast_interval),)


def _source_counts(comparison: Comparison) -> list[int]:
    """The numbers of sources that any row was scored on, beside what all are."""
    return sorted({count for row in comparison.rows for count in row.by_sources})


def _known_decibel(value: float, interval: tuple[float, float] | None) -> str:
    return _with_interval(f"{value:.1f}", interval, ".1f") if math.isfinite(value) else "-"


def _gain(gain: Gain | None, digits: int) -> str:
    if gain is None or not math.isfinite(gain.mean):
        return "-"
    interval = (gain.low, gain.high) if math.isfinite(gain.low) else None
    return _with_interval(f"{gain.mean:+.{digits}f}", interval, f"+.{digits}f")


def _with_interval(text: str, interval: tuple[float, float] | None, digits: str) -> str:
    return text if interval is None else f"{text} ({interval[0]:{digits}} to {interval[1]:{digits}})"


def _cost(cost: Cost | None) -> tuple[str, str, str, str]:
    if cost is None:
        return "-", "-", "-", "-"
    texts = (
        f"{cost.audio_seconds:.0f}",
        f"{cost.wall_seconds:.0f}",
        weights_text(cost.weights),
        f"{cost.gmac_per_second:.3g}",
    )
    return tuple("-" if text == "nan" else text for text in texts)  # type: ignore[return-value]


def weights_text(number: float) -> str:
    """A number of weights.

    >>> weights_text(168146), weights_text(10_260_000)
    ('168 k', '10.3 M')
    """
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
