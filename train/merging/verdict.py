"""Differences of numbers that should be the same, and how large they may be."""

import math

import torch

from data.errors import UserError
from train.model.fingerprint import difference_of

# Largest relative difference ||merged - adapter|| / ||adapter||: of each layer's output in float32, and of
# the logits in the number type that is saved. Half precision rounds weights and outputs to 8 (bfloat16) or 11
# bits, in another order with and without adapter: 1.3 % and 0.14 % in a model of 4 layers, more in one of 32.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
LAYER_TOLERANCE = TOLERANCES["float32"]
# CPUs and GPUs multiply int8 weights with inputs that are rounded in other ways.
QUANTISED_TOLERANCE = 5e-2


def check_difference(
    found: torch.Tensor,
    wanted: torch.Tensor,
    tolerance: float,
    what: str,
    whose: str = "the adapter's",
    dtype: str = "float32",
) -> float:
    """Return the relative difference. Raises UserError when it is more than `tolerance`, or no number.

    dtype: of the weights that gave what was found.
    """
    difference = difference_of(found, wanted)
    if difference <= tolerance:
        return difference
    if math.isfinite(difference):
        problem, wider = f"differ from {whose} by {difference:.1e} (at most {tolerance:.0e})", ["float32"]
    else:
        problem, wider = f"are no numbers: the sums are too large for {dtype}", ["bfloat16", "float32"]
    others = " or ".join(name for name in wider if dtype not in (name, "float32"))
    way = f"try --dtype {others}, or give" if others else "give"
    raise UserError(f"merging failed, nothing was written: {what} {problem}; {way} adapters smaller weights")
