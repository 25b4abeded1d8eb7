"""Blocks of our pages that commands of this folder write, from `<!-- GROUP: NAME -->` to `<!-- /GROUP -->`.

    write_figures(FIGURES, figures)                          # the JSON beside the command
    write_pages("baselines", {"nmf": "+12.4 dB"})            # and the pages with their blocks replaced

A test pastes the figures of the JSON into all pages: where nothing changes, nobody typed a figure.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LOG = ROOT / "experiments" / "README.md"
DETAILS = tuple(sorted(path for path in LOG.parent.rglob("*.md") if path != LOG))
"""Pages beside experiments, with what is too long for the lab log."""
PAGES = (ROOT / "README.md", LOG, *DETAILS)


def block_names(text: str, group: str) -> list[str]:
    """The names of the blocks of a group, in their order."""
    return [found["name"] for found in _blocks(group).finditer(text)]


def paste(text: str, group: str, contents: Mapping[str, str]) -> str:
    """A page with the blocks of a group replaced, each by the content of its name."""
    return _blocks(group).sub(lambda found: f"{found['begin']}{contents[found['name']]}{found['end']}", text)


def _blocks(group: str) -> re.Pattern[str]:
    return re.compile(rf"(?P<begin><!-- {group}: (?P<name>\w+) -->).*?(?P<end><!-- /{group} -->)", re.DOTALL)


def write_figures(path: Path, figures: Any) -> None:
    """As JSON."""
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def write_pages(group: str, contents: Mapping[str, str]) -> None:
    """All pages, with the blocks of a group replaced."""
    for page in PAGES:
        page.write_text(paste(page.read_text(encoding="utf-8"), group, contents), encoding="utf-8")
