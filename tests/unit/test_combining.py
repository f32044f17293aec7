"""Changes of tensors, combined: on tensors that are written out, without a model."""

from types import SimpleNamespace

import pytest
import torch

from data.errors import UserError
from train.mixing.combining import MixedWeights
from train.mixing.given import Combination

NAMES = ("a", "b", "tied")


class Changed:
    """Stands for an adapter that adds `change` to the tensors called `names`."""

    def __init__(self, change: torch.Tensor, base: torch.Tensor, names=NAMES):
        self.change, self.base, self.names = change, base, names

    def changes(self, name: str) -> bool:
        return name in self.names

    def __call__(self, name: str) -> torch.Tensor:
        return self.base + self.change


def mixture(base, changes, weights, *how, names=NAMES) -> MixedWeights:
    layout = SimpleNamespace(tied={"a": ("a",), "b": ("b", "tied"), "tied": ("b", "tied")})
    adapters = [(Changed(change, base, names), weight) for change, weight in zip(changes, weights, strict=True)]
    return MixedWeights(lambda name: base, adapters, layout, Combination(*how))


def test_ties_by_hand():
    """Keep the two largest of four of each change; where signs differ, the larger sum wins; a mean of what agrees."""
    base = torch.tensor([10.0, 20.0, 30.0, 40.0])
    first, second = torch.tensor([4.0, -3.0, 1.0, 0.5]), torch.tensor([2.0, 5.0, -0.25, 1.0])
    found = mixture(base, [first, second], [0.5, 2.0], "ties", 0.5)("a")
    # kept: [4, -3, 0, 0] and [2, 5, 0, 0]; elected: +, +; means of [2, 4] and of [10]
    assert torch.equal(found, base + torch.tensor([3.0, 10.0, 0.0, 0.0]))
    found = mixture(base, [first, second], [0.5, 2.0], "magnitude_prune", 0.5)("a")
    assert torch.equal(found, base + torch.tensor([6.0, 8.5, 0.0, 0.0]))
    found = mixture(base, [first, second], [0.5, -2.0])("a")
    assert torch.allclose(found, base + 0.5 * first - 2 * second)


def test_density_of_one_keeps_all_without_a_warning(recwarn):
    base, changes = torch.zeros(64), [torch.randn(64), torch.randn(64)]
    found = mixture(base, changes, [0.5, 0.25], "dare_linear", 1.0, 0)("a")
    assert torch.allclose(found, 0.5 * changes[0] + 0.25 * changes[1]) and not recwarn


def test_dare_keeps_a_share_enlarged_and_drawn_by_seed_and_name():
    base, change, density = torch.randn(200, 100), torch.randn(200, 100), 0.25
    before = torch.random.get_rng_state()
    found = mixture(base, [change], [0.5], "dare_linear", density, 1)
    added = found("a") - base
    is_kept = added.abs() > 1e-3
    assert 0.23 < is_kept.float().mean() < 0.27
    assert torch.allclose(added[is_kept], (0.5 / density * change)[is_kept], atol=1e-5)
    assert not torch.equal(found("b"), found("a")) and torch.equal(found("b"), found("tied"))
    again = mixture(base, [change], [0.5], "dare_linear", density, 1)
    other = mixture(base, [change], [0.5], "dare_linear", density, 2)
    assert torch.equal(again("a"), found("a")) and not torch.equal(other("a"), found("a"))
    assert torch.equal(torch.random.get_rng_state(), before), "nobody else's numbers are drawn"


def test_what_no_adapter_changes_is_the_base_s_own_tensor():
    base = torch.randn(8).bfloat16()
    assert mixture(base, [torch.ones(8)], [0.7], names=("a",))("b") is base
    unchanged = torch.randn(8)  # a bias beside matrices
    assert torch.equal(mixture(unchanged, [torch.zeros(8)] * 2, [0.7, 0.2])("a"), unchanged)
    assert torch.equal(mixture(unchanged, [torch.zeros(8)], [0.7], "ties", 0.5)("a"), unchanged)
    with pytest.raises(UserError, match="with these weights a is no number everywhere: give smaller ones"):
        mixture(base, [torch.ones(8)], [3.4e38])("a")
