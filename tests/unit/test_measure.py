"""The benchmarks' measures on steps whose memory and work are known."""

import pytest
import torch

from scripts.benchmarks.measure import count_flops, peak_bytes


def test_peak_is_the_most_at_any_one_time():
    ones = torch.ones(1000, 250)  # 1 MB in float32, there before the step

    def step():
        a = ones + 1
        b = a + 1
        del a
        return b + 1  # never more than two at a time

    assert peak_bytes(step) == pytest.approx(2e6, rel=1e-3)


def test_flops_of_products_and_of_causal_attention():
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert count_flops(lambda: left @ right) == 2 * 3 * 5 * 7
    states = torch.ones(1, 2, 64, 16)
    attend = torch.nn.functional.scaled_dot_product_attention
    whole = 2 * 2 * 2 * 64 * 64 * 16  # two products in each of two heads
    assert count_flops(lambda: attend(states, states, states)) == whole
    assert count_flops(lambda: attend(states, states, states, is_causal=True)) == whole / 2
