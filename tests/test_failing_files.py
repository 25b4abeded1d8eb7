"""Nothing is lost when a file operation fails or a process is killed: every operation of every writer, in turn."""

import pytest
from failing_files import compiler, problems

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs Linux and a C compiler")

LEAST = {"file": 5, "folder": 12}
"""Writers, and how many operations they have at least: fewer would mean that they are not seen."""

LEAST_OF_MORE = {"folder in two steps": 12, "record": 5}

LEAST_WITH_TORCH = {
    "model wave_u_net": 8, "model spectrogram_u_net": 8, "checkpoint": 30, "evaluation": 5, "validation set": 5,
    "shards": 60,
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "least"),
    [
        *LEAST.items(),
        *(pytest.param(*item, marks=pytest.mark.slow) for item in LEAST_OF_MORE.items()),
        *(pytest.param(*item, marks=pytest.mark.faults) for item in LEAST_WITH_TORCH.items()),
    ],
)
def test_the_old_or_the_new_is_left_whole_whatever_operation_fails(tmp_path, case, least):
    found = problems(case, tmp_path)
    assert found["wrong"] == []
    assert found["count"] >= least
