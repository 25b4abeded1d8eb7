"""Nothing is lost when a file operation fails or a process is killed: every operation of every writer, in turn."""

import pytest
from failing_files import compiler, problems

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs Linux and a C compiler")

LEAST = {"file": 5, "folder": 12, "folder in two steps": 12, "record": 5}
"""Writers, and how many operations they have at least: fewer would mean that they are not seen."""


@pytest.mark.parametrize("case", LEAST)
def test_the_old_or_the_new_is_left_whole_whatever_operation_fails(tmp_path, case):
    found = problems(case, tmp_path)
    assert found["wrong"] == []
    assert found["count"] >= LEAST[case]
