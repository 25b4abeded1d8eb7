"""The table of what a GPU reaches, on a CPU and without one."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).with_name("bench")))  # as where it runs by itself
from bench.gpu import COLUMNS, Case, expected, main
from bench.roofline import LAUNCH_SECONDS


def test_without_a_gpu_it_says_so_and_fails(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 1
    assert "this needs a GPU; PyTorch" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_network_is_bound_by_launches_which_cuda_graphs_save():
    plain, graphs = (expected(Case("quickstart", 2, "float32", how)) for how in ("off", "cuda_graphs"))
    # A step of it has from 50 to 2000 operations.
    seconds = 2 * 4227 / 8000 / plain
    assert 50 * LAUNCH_SECONDS < seconds < 2000 * LAUNCH_SECONDS
    assert graphs > 5 * plain


@pytest.mark.slow
def test_a_row_on_a_cpu_has_speeds_of_training_and_of_separation(capsys):
    small = ["--batch-sizes", "1", "--precisions", "float32", "--steps", "1", "--recording", "0.5"]
    assert main(["quickstart", "--device", "cpu", *small]) == 0
    *_, row = capsys.readouterr().out.splitlines()
    cells = dict(zip(COLUMNS, [cell.strip() for cell in row.strip("|").split("|")], strict=True))
    assert [cells[name] for name in COLUMNS[:4]] == ["quickstart", "1", "float32", "off"]
    for name in ("steps per s", "audio s per s", "separation, audio s per s", COLUMNS[-1]):
        assert float(cells[name]) > 0
    assert cells["GPU busy, %"] == cells["peak GiB"] == "-"
