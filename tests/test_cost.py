import pytest
import torch
from small_separator import build
from torch import nn

from vimss.model.cost import gmac_per_second, multiplications, num_weights


def test_convolutions_products_and_recurrences_are_counted_by_hand():
    conv = nn.Conv1d(2, 3, 5)
    assert multiplications(conv, torch.zeros(1, 2, 14)) == 10 * 2 * 3 * 5
    assert multiplications(nn.Linear(4, 6), torch.zeros(7, 4)) == 7 * 4 * 6
    # Four gates of input and state in each of nine steps.
    assert multiplications(nn.LSTM(3, 5), torch.zeros(9, 1, 3)) == 9 * 4 * 5 * (3 + 5)
    assert num_weights(conv) == 2 * 3 * 5 + 3


@pytest.mark.parametrize("site", ["none", "decoder", "output"])
def test_the_cost_is_per_second_of_output_so_a_longer_window_costs_less(site):
    outputs = "instruments" if site == "none" else "queries"
    separator = build(torch.float32, outputs=outputs, site=site)
    short, long = (separator.geometry.window_at_least(samples) for samples in (100, 4000))
    assert gmac_per_second(separator, short) > 1.2 * gmac_per_second(separator, long) > 0
    # 1e-9 MAC per second: a second of output at 8 kHz is 8000 samples of at least one product each.
    assert gmac_per_second(separator, long) > 8e-6
