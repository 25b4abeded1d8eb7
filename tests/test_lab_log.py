"""The lab log: short, about experiments that exist, and linked with the details beside them."""

import re
from pathlib import Path

import pytest
from golden import pages


def entries_of_the_log(text: str) -> list[str]:
    """Experiments that a page of the lab log names: its entries, and every YAML file."""
    headings = re.findall(r"^### ([\w/, ]+)", text, re.MULTILINE)
    entries = [name for heading in headings for name in heading.split(", ")]
    return entries + re.findall(r"(?:experiments/)?((?:full/)?[\w-]+)\.yaml", text)


@pytest.mark.parametrize("page", (pages.LOG, *pages.DETAILS), ids=lambda page: page.name)
def test_the_lab_log_names_experiments_that_exist(page):
    names = entries_of_the_log(page.read_text(encoding="utf-8"))
    assert [name for name in names if not Path(f"experiments/{name}.yaml").exists()] == []


def test_a_log_entry_without_its_experiment_would_be_noticed():
    log = "## Films\n\n### film, motion: slow\n\n`vimss search experiments/joint.yaml` `experiments/full/urmp.yaml`\n"
    assert entries_of_the_log(log) == ["film", "motion", "joint", "full/urmp"]


def test_the_lab_log_reads_in_ten_minutes():
    assert len(pages.LOG.read_text(encoding="utf-8").split()) <= 10 * 250


def anchors(text: str) -> set[str]:
    """What links may name of a page: its headings as GitHub and GitLab write them."""
    return {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


def broken_links(page: Path) -> list[str]:
    """Links of a page to files or headings that do not exist."""
    links = re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8"))
    found = [(page.parent / target if target else page, anchor) for target, anchor in links]
    return [
        f"{path}#{anchor}"
        for path, anchor in found
        if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8")))
    ]


def test_every_link_of_the_pages_leads_somewhere():
    assert {page: broken for page in pages.PAGES if (broken := broken_links(page))} == {}


def test_a_link_to_a_heading_that_is_gone_would_be_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page: one\n[a](#a-page-one) [b](#gone) [c](none.md)", encoding="utf-8")
    assert broken_links(page) == [f"{page}#gone", f"{tmp_path / 'none.md'}#"]


def test_details_lie_beside_their_experiment_and_the_log_leads_to_them():
    log = pages.LOG.read_text(encoding="utf-8")
    for page in pages.DETAILS:
        name = page.relative_to(pages.LOG.parent).as_posix()
        assert page.with_suffix(".yaml").exists() or name == "full/README.md", name
        assert f"]({name}" in log, f"{name} must be linked from the log"
