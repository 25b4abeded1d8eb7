"""Rows of an earlier evaluation are taken over where their figures would be the same, and only there."""

from dataclasses import replace

import pytest
from untrained_models import saver

from vimss import evaluations
from vimss.errors import DataError
from vimss.evaluate import Evaluation, NamedBy, Row, Table
from vimss.evaluate.kept import KeptRows, kept_file, row_signature
from vimss.search.study import Study


@pytest.fixture(scope="module")
def save(small_manifest, tmp_path_factory):
    return saver(small_manifest, "", tmp_path_factory)


@pytest.fixture
def evaluated(small_manifest, tmp_path, monkeypatch):
    """A function that evaluates models beside the mixture, and returns the rows, what was scored, and what was said."""
    monkeypatch.setattr("vimss.evaluate.scores.TWO_SOURCE_MIXTURES", 4)

    def run(models):
        scored, said = set(), []
        rows = evaluations.evaluate_systems(
            small_manifest, models, "test", baselines=("mixture",), whole_pieces=False,
            on_progress=lambda progress: scored.add(progress.last),
            kept=KeptRows.of(kept_file(tmp_path, "test"), Evaluation, said.append),
        )  # fmt: skip
        evaluations.save_evaluations(Study(tmp_path, ()), "test", rows)
        return rows, scored - {""}, said

    return run


def texts(rows) -> list[str]:
    """As JSON, where an undefined figure equals itself."""
    return [row.model_dump_json(exclude={"system"}) for row in rows]


@pytest.mark.slow
def test_only_what_is_new_is_scored(evaluated, save, tmp_path):
    one, other = save(), save()
    first, scored, said = evaluated({"one": one, "other": other})
    assert scored == {"one", "other", "mixture"} and not said
    second, scored, said = evaluated({"renamed": other, "new": save()})
    assert scored == {"new"}
    where = f"delete {tmp_path}/evaluation-test.json to score all again"
    assert said == [f"2 of 3 rows are kept from the last evaluation; {where}"]
    assert [row.system for row in second] == ["renamed", "new", "mixture"]
    assert texts([second[0], second[2]]) == texts(first[1:])
    # The row of `one` was dropped, as it was no longer in the table.
    _, scored, said = evaluated({"one": one})
    assert scored == {"one"} and said == [f"1 of 2 rows is kept from the last evaluation; {where}"]


@pytest.mark.slow
def test_rows_of_another_scoring_are_scored_again(evaluated, save, tmp_path, monkeypatch):
    models = {"one": save()}
    evaluated(models)
    monkeypatch.setattr("vimss.evaluate.kept.SCORING", 0)
    rows, scored, said = evaluated(models)
    assert scored == {"one", "mixture"} and not said
    # A table that an earlier version kept has rows without signatures.
    old = [row.model_copy(update={"signature": ""}) for row in rows]
    evaluations.save_evaluations(Study(tmp_path, ()), "test", old)
    assert evaluated(models)[1:] == (scored, said)


def test_a_signature_covers_all_that_figures_depend_on(small_manifest, save):
    row, table = Row("a", save()), Table(small_manifest.folder, "test")
    before = row_signature(row, table, small_manifest)
    assert row_signature(replace(row, name="b", device="cuda"), table, small_manifest) == before
    shard, *shards = small_manifest.shards
    rewritten = small_manifest.model_copy(update={"shards": (shard.model_copy(update={"sha256": "0"}), *shards)})
    named = [replace(row, named_by=NamedBy("n", save(), "a")) for _ in range(2)]
    others = [
        row_signature(replace(row, model=save()), table, small_manifest),
        row_signature(row, replace(table, split="valid"), small_manifest),
        row_signature(row, replace(table, sources=(3,)), small_manifest),
        row_signature(row, table, small_manifest, whole_pieces=False),
        row_signature(row, table, rewritten),
        *(row_signature(one, table, small_manifest) for one in named),
        *(row_signature(Row(name), table, small_manifest) for name in ("mixture", "NMF")),
    ]
    assert len({before, *others}) == 1 + len(others)


def test_a_damaged_table_is_refused(tmp_path):
    kept_file(tmp_path, "test").write_text("[{", encoding="utf-8")
    with pytest.raises(
        DataError, match="evaluation-test.json must be a table that .* kept; got .*: delete it, and run"
    ):
        KeptRows.of(kept_file(tmp_path, "test"), Evaluation, print)
