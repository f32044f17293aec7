"""The loss on labelled positions against torch's own on all of them."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from train.loop.loss import labelled_positions, token_loss


def test_labelled_positions_of_a_row():
    labels = torch.tensor([[-100, -100, 5, 6, -100, 7]])
    positions, targets = labelled_positions(labels)
    assert positions.tolist() == [1, 2, 4]
    assert targets.tolist() == [[5, 6, 7]]


def test_labelled_positions_of_a_batch_are_the_union():
    labels = torch.tensor([[-100, -100, 5, 6], [-100, 4, 7, -100]])
    positions, targets = labelled_positions(labels)
    assert positions.tolist() == [0, 1, 2]
    assert targets.tolist() == [[-100, 5, 6], [4, 7, -100]]


def test_a_label_on_the_first_token_has_no_predictor():
    positions, targets = labelled_positions(torch.tensor([[3, -100, -100]]))
    assert positions.tolist() == []
    assert targets.shape == (1, 0)


def full_loss(hidden, head, labels):
    """Return the loss of every position through the head, shifted, summed in one piece."""
    logits = (hidden @ head).float()
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 5, 100])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_equals_the_loss_on_all_positions(batch_size, chunk_size):
    torch.manual_seed(0)
    labels = torch.randint(0, 11, (batch_size, 13))
    labels[torch.rand(labels.shape) < 0.6] = -100
    hidden, head = torch.randn(batch_size, 13, 8), torch.randn(8, 11, requires_grad=True)
    (expected,) = torch.autograd.grad(full_loss(hidden, head, labels) / 7, head)

    positions, targets = labelled_positions(labels)
    loss = token_loss(hidden[:, positions] @ head, targets, num_items=7, chunk_size=chunk_size)
    (gradient,) = torch.autograd.grad(loss, head)
    torch.testing.assert_close(loss, full_loss(hidden, head, labels) / 7)
    torch.testing.assert_close(gradient, expected)


def test_num_items_may_be_a_tensor():
    logits, targets = torch.randn(1, 2, 5), torch.tensor([[1, 2]])
    torch.testing.assert_close(token_loss(logits, targets, torch.tensor(4)), token_loss(logits, targets, 4))


@pytest.mark.parametrize("num_items", [0, 9])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_no_labelled_token_is_a_zero_with_a_zero_gradient(batch_size, num_items):
    hidden = torch.randn(batch_size, 4, 8, requires_grad=True)
    head = torch.randn(8, 11, requires_grad=True)
    positions, targets = labelled_positions(torch.full((batch_size, 4), -100))
    loss = token_loss(hidden[:, positions] @ head, targets, num_items)
    loss.backward()
    assert loss.item() == 0
    assert not hidden.grad.any() and not head.grad.any()


def test_bfloat16_logits_are_summed_in_float32():
    torch.manual_seed(0)
    logits = torch.randn(1, 600, 17).bfloat16().requires_grad_()
    targets = torch.randint(0, 17, (1, 600))
    loss = token_loss(logits, targets, num_items=600)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(logits[0].float(), targets[0]))
    loss.backward()
    assert logits.grad.dtype == torch.bfloat16


class Float32Sizes(TorchDispatchMode):
    """Records how many elements each float32 tensor has that any operation makes."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.sizes += [leaf.numel() for leaf in tree_leaves(out) if getattr(leaf, "dtype", None) == torch.float32]
        return out


def test_never_more_than_a_chunk_in_float32():
    logits = torch.randn(1, 64, 17).bfloat16().requires_grad_()
    with Float32Sizes() as recorded:
        token_loss(logits, torch.zeros(1, 64, dtype=torch.long), 64, chunk_size=8).backward()
    assert max(recorded.sizes) == 8 * 17


def test_nothing_in_float32_is_kept_for_the_backward_pass():
    kept = []
    logits = torch.randn(1, 64, 17).bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        token_loss(logits, torch.zeros(1, 64, dtype=torch.long), 64, chunk_size=8)
    assert not [t.shape for t in kept if t.dtype == torch.float32 and t.numel() > 1]
