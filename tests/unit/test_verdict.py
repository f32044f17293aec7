"""A merged model that answers otherwise is told with a way out."""

import pytest
import torch

from data.errors import UserError
from train.merging.verdict import check_difference

WANTED = torch.ones(4)


@pytest.mark.parametrize(
    ("dtype", "found", "said"),
    [
        ("float16", torch.full((4,), torch.inf), "are no numbers: the sums are too large for float16; try --dtype bfl"),
        ("bfloat16", WANTED + 1, r"differ from the adapter's by 1.0e\+00 \(at most 1e-01\); try --dtype float32, or"),
        (
            "bfloat16",
            torch.full((4,), torch.nan),
            "too large for bfloat16; try --dtype float32, or give adapters",
        ),
        ("float32", WANTED + 1, r"\(at most 1e-01\); give adapters smaller weights$"),
        ("float32", torch.full((4,), torch.nan), "too large for float32; give adapters smaller weights$"),
    ],
)
def test_no_number_type_is_advised_that_is_there_already(dtype, found, said):
    with pytest.raises(UserError, match=said):
        check_difference(found, WANTED, 0.1, "the logits", dtype=dtype)


def test_what_is_near_enough_is_told():
    assert check_difference(WANTED + 0.05, WANTED, 0.1, "the logits", dtype="bfloat16") == pytest.approx(0.05)
