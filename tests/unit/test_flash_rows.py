"""Flash rows against one call with the dense mask, in float64; on a GPU against it within half precision."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from data.packing.layout import RowLayout, dense_mask, suffix_positions
from train.model import flash_rows
from train.model.attention import SHARED_PREFIX_UNMASKED, unmasked_attention
from train.model.flash_rows import LONG_PREFIX, MAX_LENGTHS, LongPrefixes, flash_row, plan_row

SCALE = 0.3
LAYOUTS = {
    "one group": ((5, (2, 3)),),
    "many groups": ((5, (2, 3)), (3, (1, 1, 1)), (4, (6, 2))),
    "groups of one": ((5, ()), (1, ()), (3, ())),
    "one suffix each": ((5, (4,)), (2, (1,))),
    "one token": ((1, ()),),
    "mixed": ((4, ()), (5, (2, 3)), (1, ()), (1, (1, 1)), (3, (2,))),
    "empty prefixes": ((0, (2, 3)), (2, (1, 2)), (0, (4,)), (0, (1, 1))),
    "longer than a kernel block": ((70, (30, 40, 1)), (65, ())),
}
layouts = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(1, 5), max_size=4).map(tuple)).filter(lambda group: any(group)),
    min_size=1,
    max_size=4,
).map(lambda groups: RowLayout(tuple(groups)))


def states(layout, heads=4, kv_heads=4, head_dim=8, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    length = sum(layout.group_lengths)
    return [
        torch.randn(1, each, length, head_dim, generator=generator, dtype=torch.float64)
        .to(device, dtype)
        .requires_grad_()
        for each in (heads, kv_heads, kv_heads)
    ]


def dense(query, key, value, layout, suffixes_only):
    repeats = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(repeats, dim=1) for each in (key, value))
    mask = dense_mask(layout).to(query.device)
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=SCALE).transpose(1, 2)
    if suffixes_only:
        asks = torch.zeros(out.shape[1], dtype=torch.bool)
        asks[suffix_positions(layout)] = True
        out = out * asks.to(out.device)[:, None, None]
    return out


def with_gradients(attend, inputs, direction):
    """Return the output and the gradients of the inputs."""
    out = attend(*inputs)
    return out, *torch.autograd.grad(out, inputs, direction.to(out.dtype))


def difference(ours, theirs):
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-9))


def errors(layout, suffixes_only, inputs, attend=flash_row):
    """Return |ours - dense| / |dense| of the output and the gradients, the dense way in float64."""
    exact = [each.detach().double().requires_grad_() for each in inputs]
    direction = torch.randn(1, inputs[0].shape[2], inputs[0].shape[1], inputs[0].shape[3], dtype=torch.float64)
    direction = direction.to(inputs[0].device)
    ours = with_gradients(lambda *qkv: attend(*qkv, layout, suffixes_only, SCALE), inputs, direction)
    theirs = with_gradients(lambda *qkv: dense(*qkv, layout, suffixes_only), exact, direction)
    # A query that sees one key has no gradient: the dense way leaves rounding there, relative to nothing.
    return [
        difference(one, other) if other.norm() > 1e-9 * direction.norm() else float(one.double().norm() > 1e-3)
        for one, other in zip(ours, theirs, strict=True)
    ]


@pytest.mark.parametrize("suffixes_only", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("groups", LAYOUTS.values(), ids=LAYOUTS)
def test_equals_the_dense_mask(groups, kv_heads, suffixes_only):
    layout = RowLayout(groups)
    assert max(errors(layout, suffixes_only, states(layout, kv_heads=kv_heads))) <= 1e-12
    assert max(errors(layout, suffixes_only, states(layout, kv_heads=kv_heads, dtype=torch.float32))) <= 1e-6


@settings(deadline=None)
@given(layouts, st.sampled_from([4, 2]), st.booleans())
def test_equals_the_dense_mask_for_any_layout(layout, kv_heads, suffixes_only):
    assert max(errors(layout, suffixes_only, states(layout, kv_heads=kv_heads))) <= 1e-12


@pytest.fixture
def long_prefixes_apart(monkeypatch):
    """Give every prefix a call of its own, as long ones have on Hopper."""
    monkeypatch.setattr(flash_rows, "has_causal_kernel", lambda device, head_dim: True)
    monkeypatch.setattr(flash_rows, "LONG_PREFIX", 1)
    monkeypatch.setattr(flash_rows, "_long_prefixes", flash_rows.LongPrefixes())


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("groups", LAYOUTS.values(), ids=LAYOUTS)
def test_equals_the_dense_mask_with_a_call_for_each_prefix(groups, kv_heads, long_prefixes_apart):
    layout = RowLayout(groups)
    assert max(errors(layout, False, states(layout, kv_heads=kv_heads))) <= 1e-12
    assert max(errors(layout, True, states(layout, kv_heads=kv_heads))) <= 1e-12


def test_long_prefixes_alone_get_a_call_of_their_own():
    layout = RowLayout(((5, (2, 3)), (3, (1,)), (5, (4,)), (5, ()), (7, (2,))))
    plan = plan_row(layout, False, torch.device("cpu"), frozenset({5}))
    assert plan.long == (slice(0, 5), slice(14, 19))
    asked = [*range(5, 10), *range(10, 14), *range(19, 23), *range(23, 28), *range(28, 37)]
    assert plan.alone.tolist() == asked


def test_kernels_are_planned_for_few_lengths_of_prefixes():
    prefixes = LongPrefixes()
    assert prefixes.among(RowLayout(((LONG_PREFIX, (1,)), (LONG_PREFIX - 1, (1,)), (900, ())))) == {LONG_PREFIX}
    for length in range(LONG_PREFIX, LONG_PREFIX + 2 * MAX_LENGTHS):
        prefixes.among(RowLayout(((length, (1,)),)))
    met = [prefixes.among(RowLayout(((length, (1,)),))) for length in range(LONG_PREFIX, LONG_PREFIX + 2 * MAX_LENGTHS)]
    assert list(map(len, met)) == [1] * MAX_LENGTHS + [0] * MAX_LENGTHS


CLIPS = [((2056, (20,) * 25),), ((2061, (19,)),), ((2056, (20,) * 3), (2056, (31,)), (300, (5, 2)), (700, ()))]
ON_GPU = [
    (groups, *shape, dtype, suffixes_only)
    for shape, dtype, suffixes_only in [
        ((8, 4, 4), torch.float16, False),
        ((32, 4, 2), torch.bfloat16, True),
        ((128, 32, 32), torch.bfloat16, False),
        ((128, 32, 8), torch.bfloat16, False),
        ((128, 32, 8), torch.float16, True),
    ]
    for groups in (LAYOUTS["mixed"], LAYOUTS["empty prefixes"], LAYOUTS["longer than a kernel block"])
] + [
    (groups, 128, 32, kv_heads, torch.bfloat16, suffixes_only)
    for groups in (
        ((2056, (20,) * 25),),
        ((2061, (19,)),),
        ((2056, (20,) * 3), (2056, (31,)), (300, (5, 2)), (700, ())),
    )
    for kv_heads, suffixes_only in ((32, False), (32, True), (8, False))
]


@pytest.mark.gpu
@pytest.mark.parametrize("groups, head_dim, heads, kv_heads, dtype, suffixes_only", ON_GPU)
def test_on_a_gpu_it_errs_as_the_dense_mask_does(groups, head_dim, heads, kv_heads, dtype, suffixes_only):
    """Both round to half precision, in other places: the same size of error, from the same inputs."""
    layout = RowLayout(groups)
    inputs = states(layout, heads, kv_heads, head_dim, dtype, "cuda")
    ours = errors(layout, suffixes_only, inputs)
    masked = errors(
        layout, suffixes_only, inputs, lambda *inputs: dense(*inputs[:3], layout, suffixes_only).contiguous()
    )
    rounding = torch.finfo(dtype).eps / 2
    assert all(one <= 1.5 * other + rounding for one, other in zip(ours, masked, strict=True)), (ours, masked)


def test_prefixes_that_nobody_reads_are_zero():
    layout = RowLayout(((5, (2, 3)), (3, ()), (4, (6,))))
    out = flash_row(*states(layout), layout, True, SCALE)
    assert not out[:, [*range(5), *range(13, 17)]].any()
    assert out[:, suffix_positions(layout)].any(dim=-1).all()


def test_a_row_takes_two_calls():
    layout = RowLayout(((5, (2, 3)), (3, ()), (4, (6, 1)), (0, (2, 2))))
    plan = plan_row(layout, False, torch.device("cpu"))
    assert plan.is_one_call and not plan.long and not plan.is_silent
    assert plan.own.query_ends == plan.own.key_ends == (0, 5, 7, 10, 13, 17, 23, 24, 26, 28)
    assert plan.own.is_causal and not plan.prefix.is_causal
    assert plan.suffixes.tolist() == [*range(5, 10), *range(17, 24)]
    assert list(plan.prefix.spans()) == [(slice(0, 5), slice(0, 5)), (slice(5, 12), slice(13, 17))]
    assert plan.prefix.key_ends[-1] == 28
    last = plan_row(layout, True, torch.device("cpu"))
    assert last.own.query_ends[-1] == len(last.alone) == 5 + 3 + 7 + 4
    assert last.is_silent and last.prefix.key_ends == plan.prefix.key_ends


def test_one_clip_is_read_by_slices():
    layout, cpu = RowLayout(((9, (2, 3)),)), torch.device("cpu")
    assert plan_row(layout, False, cpu).suffixes == slice(9, 14)
    assert plan_row(layout, True, cpu).alone == slice(9, 14)
    apart = plan_row(layout, False, cpu, frozenset({9}))
    assert apart.alone == apart.suffixes == slice(9, 14) and apart.long == (slice(0, 9),)
    assert apart.own.query_ends == (0, 2, 5)


def test_a_layout_of_another_length_is_refused():
    with pytest.raises(RuntimeError, match="cannot split a row of 5"):
        flash_row(*states(RowLayout(((5, ()),))), RowLayout(((6, ()),)), False, SCALE)


def test_a_layout_seen_in_inference_mode_can_be_trained_on():
    with torch.inference_mode():
        layout = RowLayout(((4, (2, 3)), (3, (1, 1))))
        flash_row(*states(layout), layout, False, SCALE)
    assert max(errors(layout, False, states(layout))) <= 1e-12


def test_dropout_and_passes_without_a_layout_are_those_of_sdpa():
    layout = RowLayout(((4, (2, 3)), (3, ())))
    query, key, value = states(layout)
    module = SimpleNamespace(is_causal=True)
    assert AttentionInterface()[SHARED_PREFIX_UNMASKED] is unmasked_attention
    zeros, _ = unmasked_attention(module, query, key, value, None, row_layout=layout, dropout=1.0)
    assert zeros.shape == (1, 12, 4, 8) and not zeros.any()
    causal, _ = unmasked_attention(module, query, key, value, None, scaling=SCALE)
    expected = scaled_dot_product_attention(query, key, value, is_causal=True, scale=SCALE).transpose(1, 2)
    torch.testing.assert_close(causal, expected)


@settings(deadline=None)
@given(layouts)
def test_a_layout_comes_back_from_its_lengths_and_from_a_worker(layout):
    for other in (RowLayout.from_lengths(layout.lengths), pickle.loads(pickle.dumps(layout)), copy.deepcopy(layout)):
        assert other == layout and hash(other) == hash(layout) and torch.equal(other.lengths, layout.lengths)
    assert len(layout.lengths) % 64 == 0
    assert len(pickle.dumps(layout)) < 400
