"""Shared-prefix attention against one call with the dense mask, written down from the definition."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from data.packing.layout import RowLayout, dense_mask, packed_inputs, suffix_positions
from train.model.attention import SHARED_PREFIX, shared_prefix_attention, unmasked_attention

HEADS, HEAD_DIM = 4, 8


def written_mask(layout, window=1000):
    """Return the mask, token by token: (group, suffix or None for the prefix, position), and place in the row."""
    tokens = []
    for group, (prefix_length, suffix_lengths) in enumerate(layout.groups):
        tokens += [(group, None, position) for position in range(prefix_length)]
        for suffix, length in enumerate(suffix_lengths):
            tokens += [(group, suffix, prefix_length + position) for position in range(length)]
    return torch.tensor(
        [
            [
                q_group == k_group and k_suffix in (None, q_suffix) and k <= q and q_position - k_position < window
                for k, (k_group, k_suffix, k_position) in enumerate(tokens)
            ]
            for q, (q_group, q_suffix, q_position) in enumerate(tokens)
        ]
    )


def states(layout, kv_heads=HEADS, dtype=torch.float32):
    torch.manual_seed(0)
    length = sum(layout.group_lengths)
    return [
        torch.randn(1, heads, length, HEAD_DIM, dtype=dtype, requires_grad=True)
        for heads in (HEADS, kv_heads, kv_heads)
    ]


def assert_equals_dense(layout, kv_heads=HEADS, attention=shared_prefix_attention, window=None):
    query, key, value = inputs = states(layout, kv_heads)
    mask = written_mask(layout, window or 1000)
    repeated = [t.repeat_interleave(HEADS // kv_heads, dim=1) for t in (key, value)]
    expected = scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3).transpose(1, 2)
    module = SimpleNamespace(num_key_value_groups=HEADS // kv_heads, is_causal=True)
    output, weights = attention(
        module, query, key, value, None, row_layout=layout, scaling=0.3, dropout=0.0, sliding_window=window
    )

    assert weights is None
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)
    direction = torch.randn_like(output)
    for ours, theirs in zip(
        torch.autograd.grad(output, inputs, direction),
        torch.autograd.grad(expected, inputs, direction),
        strict=True,
    ):
        # Sums in another order: ten units in the last place of float32 were seen.
        assert (ours - theirs).abs().max() <= 5e-6 * max(1, theirs.abs().max())


LAYOUTS = {
    "one group": ((5, (2, 3)),),
    "many groups": ((5, (2, 3)), (3, (1, 1, 1)), (4, (6, 2))),
    "groups of one": ((5, ()), (1, ()), (3, ())),
    "one token": ((1, ()),),
    "mixed": ((4, ()), (5, (2, 3)), (1, ()), (1, (1, 1))),
    "empty prefix": ((0, (2, 3)), (2, (1, 2))),
    "longer than a kernel block": ((70, (30, 40, 1)), (65, ())),
}


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("groups", LAYOUTS.values(), ids=LAYOUTS)
def test_equals_the_dense_mask(groups, kv_heads):
    assert_equals_dense(RowLayout(groups), kv_heads)


layouts = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(1, 5), max_size=4).map(tuple)), min_size=1, max_size=4
).map(lambda groups: RowLayout(tuple(groups)))


@settings(deadline=None)
@given(layouts, st.sampled_from([4, 2]))
def test_equals_the_dense_mask_for_any_layout(layout, kv_heads):
    assert torch.equal(dense_mask(layout), written_mask(layout))
    assert_equals_dense(layout, kv_heads)


@pytest.mark.parametrize("attention", [shared_prefix_attention, unmasked_attention])
@pytest.mark.parametrize("window", [1, 4, 7, 8, 50, 200])
@pytest.mark.parametrize("groups", LAYOUTS.values(), ids=LAYOUTS)
def test_a_sliding_window_is_that_of_each_sample(groups, window, attention):
    assert_equals_dense(RowLayout(groups), 2, attention, window)


def test_a_sliding_window_without_a_read_prefix():
    layout = RowLayout(((9, (2, 3)), (3, ()), (8, (6,))))
    inputs, asked = states(layout), suffix_positions(layout)
    whole, output = (
        shared_prefix_attention(
            SimpleNamespace(is_causal=True), *inputs, None, row_layout=layout, suffixes_only=only, sliding_window=4
        )[0]
        for only in (False, True)
    )
    torch.testing.assert_close(output[:, asked], whole[:, asked])


def test_prefixes_that_nobody_reads_are_zero():
    layout = RowLayout(((5, (2, 3)), (3, ()), (4, (6,))))
    query, key, value = states(layout)
    assert suffix_positions(layout).tolist() == [*range(5, 13), *range(17, 23)]
    whole, output = (
        shared_prefix_attention(
            SimpleNamespace(is_causal=True), query, key, value, None, row_layout=layout, suffixes_only=suffixes_only
        )[0]
        for suffixes_only in (False, True)
    )
    torch.testing.assert_close(output[:, suffix_positions(layout)], whole[:, suffix_positions(layout)])
    assert not output[:, [*range(5), *range(13, 17)]].any()


def test_a_layout_of_another_length_is_refused():
    query, key, value = states(RowLayout(((5, ()),)))
    with pytest.raises(RuntimeError, match="split"):
        shared_prefix_attention(
            SimpleNamespace(is_causal=True), query, key, value, None, row_layout=RowLayout(((6, ()),))
        )


def test_a_layout_seen_in_inference_mode_can_be_trained_on():
    layout = RowLayout(((4, (2, 3)),))
    with torch.inference_mode():
        shared_prefix_attention(SimpleNamespace(is_causal=True), *states(layout), None, row_layout=layout)
    assert_equals_dense(layout)


def test_dropout_reaches_prefix_and_suffixes():
    layout = RowLayout(((4, (2, 3)), (3, ())))
    query, key, value = states(layout)
    module = SimpleNamespace(is_causal=True)
    zeros, _ = shared_prefix_attention(module, query, key, value, None, row_layout=layout, dropout=1.0)
    assert zeros.shape == (1, 12, HEADS, HEAD_DIM)
    assert not zeros.any()


def test_without_a_layout_it_is_sdpa():
    query, key, value = states(RowLayout(((6, ()),)))
    module, mask = SimpleNamespace(is_causal=True), torch.ones(1, 1, 6, 6, dtype=torch.bool).tril(1)
    for attention_mask in (mask, None):
        ours, _ = shared_prefix_attention(module, query, key, value, attention_mask, scaling=0.3)
        theirs, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=0.3)
        assert torch.equal(ours, theirs)


def tiny_llama(attn_implementation):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config._attn_implementation = attn_implementation
    return LlamaForCausalLM(config).eval()


def test_padded_batches_and_generation_are_those_of_sdpa():
    ids = torch.randint(3, 50, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    ours, theirs = tiny_llama(SHARED_PREFIX), tiny_llama("sdpa")
    assert ours.config._attn_implementation == SHARED_PREFIX
    assert torch.equal(ours(ids, attention_mask=mask).logits, theirs(ids, attention_mask=mask).logits)
    answers = [model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False) for model in (ours, theirs)]
    assert torch.equal(*answers)


def test_a_packed_row_on_another_attention_fails_instead_of_leaking():
    layout = RowLayout(((3, (2, 2)),))
    with pytest.raises(RuntimeError):
        tiny_llama("sdpa")(torch.randint(3, 50, (1, 7)), **packed_inputs(layout))


def test_compiles_for_rows_of_any_layout():
    """The graph breaks at the attention only; after two rows have made lengths dynamic, none recompiles."""
    model = tiny_llama(SHARED_PREFIX)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    rows = [((3, (2, 2)), (4, ())), ((5, (1, 2, 3)), (2, (4, 4))), ((9, ()), (8, (2, 3))), ((6, (7, 5)),)]
    with torch.no_grad():
        for number, groups in enumerate(rows):
            layout = RowLayout(groups)
            ids, inputs = torch.randint(3, 50, (1, sum(layout.group_lengths))), packed_inputs(layout)
            with torch.compiler.set_stance("default" if number < 2 else "fail_on_recompile"):
                logits = compiled(ids, **inputs).logits
            torch.testing.assert_close(logits, model(ids, **inputs).logits)
