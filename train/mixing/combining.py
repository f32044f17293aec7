"""Weights of a base that several adapters change, each by its weight: the changes are combined, not the matrices.

The change that an adapter makes to a tensor is what merging it alone would add to it. So ranks, scales, kinds of
adapters and layers may differ: DoRA's and PiSSA's change is as good as another. PEFT's `add_weighted_adapter` combines
the matrices A and B of each by themselves where it is asked for "linear" or "ties"; the product of two sums is no sum
of products. Its "cat", and its names that end in "_svd" with a rank that is large enough, are what is computed here.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft.utils.merge_utils import dare_linear, dare_ties, magnitude_prune, prune, ties

from data.errors import UserError
from train.merging.layout import Layout
from train.merging.sums import Sums
from train.merging.tensors import Weights
from train.mixing.given import DRAWING, LINEAR, Combination

PRUNING = {"ties": ties, "dare_linear": dare_linear, "dare_ties": dare_ties, "magnitude_prune": magnitude_prune}
PIECE = 2**20  # numbers that PEFT combines at once: it makes a dozen copies of them


def linear(base: torch.Tensor, merged: Iterator[tuple[torch.Tensor, float]]) -> torch.Tensor:
    """Return base + sum of weight * (merged - base), which for the weights 1, or 0 and 1, is exactly what is merged."""
    total, rest = torch.zeros_like(base), 1.0
    for tensor, weight in merged:
        total.add_(tensor, alpha=weight)
        rest -= weight
    return total.add_(base, alpha=rest)


class MixedWeights:
    """Returns tensors by name, float32 where an adapter changes them. Raises UserError where one is not finite."""

    def __init__(self, base: Weights, adapters: Sequence[tuple[Sums, float]], layout: Layout, how: Combination):
        self.base, self.adapters, self.layout, self.how = base, adapters, layout, how

    @torch.no_grad()
    def __call__(self, name: str) -> torch.Tensor:
        base = self.base(name)
        changing = [(sums, weight) for sums, weight in self.adapters if sums.changes(name)]
        if not changing or not base.is_floating_point():
            return base
        base = base.float()
        # a layer that has matrices may have a bias that has none
        merged = ((made, weight) for sums, weight in changing if not torch.equal(made := sums(name).float(), base))
        mixed = linear(base, merged) if self.how.method == LINEAR else self._pruned(name, base, merged)
        if not mixed.isfinite().all():
            raise UserError(f"with these weights {name} is no number everywhere: give smaller ones")
        return mixed

    def _pruned(self, name: str, base: torch.Tensor, merged: Iterator[tuple[torch.Tensor, float]]) -> torch.Tensor:
        method, rescale = ("random", True) if self.how.method in DRAWING else ("magnitude", False)
        density = self.how.density
        assert density is not None  # `settings_of_combination` wants one
        kept, weights = [], []
        # what is tied has several names, and one change
        with drawn_alike(min(self.layout.tied[name]), self.how.seed or 0), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The density .* no pruning")
            for tensor, weight in merged:
                kept.append(prune(tensor - base, density, method, rescale).reshape(-1).split(PIECE))
                weights.append(weight)
            mixed = base.clone(memory_format=torch.contiguous_format)
            for piece, *changes in zip(mixed.view(-1).split(PIECE), *kept, strict=True) if kept else ():
                piece += PRUNING[self.how.method](changes, torch.tensor(weights), 1.0)  # all of what was kept
        return mixed


@contextmanager
def drawn_alike(name: str, seed: int) -> Iterator[None]:
    """Have torch draw the same numbers for a tensor, in whatever order and however often tensors are made."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big"))  # and no GPU's
        yield
