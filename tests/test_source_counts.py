"""Mixtures of any number of independent players, scored beside those of two."""

import pytest

from vimss import evaluations, report
from vimss.cli.checks import check_separates
from vimss.errors import ConfigError, DataError
from vimss.evaluate import Evaluation, mixture_spec
from vimss.stream.fixed import fixed_set

COUNTS = (2, 3, 5)


@pytest.fixture(scope="module")
def rows(small_manifest) -> dict[str, Evaluation]:
    """The mixture, a filter, a system that separates two alone, on eight mixtures of each number of sources."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vimss.evaluate.scores.TWO_SOURCE_MIXTURES", 8)
        names = ("mixture", "oracle ratio mask", "HPSS, oracle order")
        asked = {"baselines": names, "whole_pieces": False, "sources": COUNTS}
        found = evaluations.evaluate_systems(small_manifest, {}, "test", **asked)
        plain = evaluations.evaluate_systems(small_manifest, {}, "test", **{**asked, "sources": ()})
    return {row.system: row for row in found} | {"without": plain[1]}


@pytest.mark.slow
def test_mixtures_of_each_number_are_of_as_many_instruments(rows):
    for count in rows["mixture"].source_counts:
        assert (count.mixtures, len(count.scores), count.si_sdr_improvement) == (8, 8, pytest.approx(0, abs=1e-6))
        assert all(score.sources == len(set(score.labels)) == count.sources for score in count.scores)
        assert not any(score.aligned for score in count.scores)
    assert tuple(count.sources for count in rows["mixture"].source_counts) == COUNTS


@pytest.mark.slow
def test_what_is_asked_for_beside_leaves_the_mixtures_of_two_as_they_are(rows):
    beside, without = rows["oracle ratio mask"], rows["without"]
    assert beside.two_sources.model_dump_json() == without.two_sources.model_dump_json()
    assert without.source_counts == () and [count.sources for count in beside.source_counts] == [*COUNTS]


@pytest.mark.slow
def test_what_separates_two_sources_is_scored_on_no_more(rows, capsys):
    assert [count.sources for count in rows["HPSS, oracle order"].source_counts] == [2]
    report.print_evaluations("test", list(rows.values()))
    table = capsys.readouterr().out.partition("Mixtures of independent players, 8 of each number: SI-SDRi")[2]
    headings, line = (next(row for row in table.splitlines() if word in row) for word in ("5 sources", "HPSS"))
    assert headings.split() == ["2", "sources", "3", "sources", "5", "sources"] and line.split()[-2:] == ["-", "-"]


@pytest.mark.slow
def test_one_more_source_joins_the_same_excerpts_at_the_same_gains(small_manifest):
    sets = [fixed_set(small_manifest, mixture_spec(small_manifest, "test", count)) for count in (2, 3)]
    for two, three in zip(*(kept.drawn for kept in sets), strict=True):
        assert two.sources == three.sources[:2] and len(three.sources) == 3


def test_more_sources_than_the_split_has_instruments_are_refused(small_manifest):
    known = {label for piece in small_manifest.pieces if piece.split == "test" for label in piece.instruments}
    with pytest.raises(DataError) as caught:
        evaluations.evaluate_systems(small_manifest, {}, "test", sources=(2, len(known) + 1))
    message = str(caught.value)
    assert f"of N instruments, of which the split 'test' of 'small' has {len(known)}: bn, " in message
    assert f"got --sources 2,{len(known) + 1}. To fix: ask for at most {len(known)} sources, or score models" in message


def test_networks_that_do_not_separate_have_no_mixtures_to_be_asked_for():
    with pytest.raises(ConfigError, match="--sources needs an experiment whose networks separate: others .*alignment"):
        check_separates("alignment", separates=False, instruments_from=[], sources=(3,))
