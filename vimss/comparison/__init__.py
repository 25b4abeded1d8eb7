"""The cells of an experiment side by side, seeds gathered: what `vimss compare` shows.

    comparison = compare(experiment, manifest, study, "test", against="op=concat")
    comparison.rows[0].value, comparison.rows[0].interval, comparison.rows[0].gain, comparison.rows[0].cost

rows     the cells whose seeds are gathered, and their rows
figures  the figure of a row, its interval and its gain over another row
text     the rows as text, CSV and Markdown
"""

from vimss.comparison.rows import Comparison, Cost, Gathered, Row, compare, gathered
from vimss.comparison.text import Block, blocks, caption, columns, csv_text, markdown, row_texts

__all__ = [
    "Block",
    "Comparison",
    "Cost",
    "Gathered",
    "Row",
    "blocks",
    "caption",
    "columns",
    "compare",
    "csv_text",
    "gathered",
    "markdown",
    "row_texts",
]
