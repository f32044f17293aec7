"""Passes of a decoding batch against attention over each answer's whole sequence, written out."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.answering import attention
from train.answering.decoding import Decoding
from train.answering.states import Prefix

HEADS, HEAD_DIM, SCALE = 4, 8, 0.3
CPU = torch.device("cpu")
# The states of a token depend on the ids before it alone: here on a number that stands for them.
TABLE = torch.randn(3, 4096, HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(0))


def states(ids, kv_heads):
    """Return query (T, H, D), key and value (T, H_kv, D) of a whole sequence."""
    history, places = 0, []
    for number in ids:
        history = (31 * history + 7 * int(number) + 1) % 4096
        places.append(history)
    query, key, value = TABLE[:, places]
    return query, key[:, :kv_heads], value[:, :kv_heads]


def written_out(ids, kv_heads):
    """Return what the last token of a sequence gets."""
    query, key, value = states(ids, kv_heads)
    key, value = (each.repeat_interleave(HEADS // kv_heads, dim=1) for each in (key, value))
    scores = torch.einsum("hd,khd->hk", query[-1], key) * SCALE
    return torch.einsum("hk,khd->hd", scores.softmax(-1), value)


class Replayed:
    """A model and a choice: answers say what they are told, and every pass is compared."""

    def __init__(self, kv_heads):
        self.kv_heads, self.device, self.dtype = kv_heads, CPU, torch.float32
        self.config = None

    def __call__(self, input_ids, position_ids, logits_to_keep, answering_step, **_):
        decoding = self.decoding
        ids = self.sequences(input_ids[0].tolist(), position_ids[0].tolist(), answering_step)
        last = [[each[-1] for each in states(one, self.kv_heads)] for one in ids]
        query, key, value = (torch.stack(each) for each in zip(*last, strict=True))
        for layer in range(2):  # the second looks at values of its own
            out = answering_step.attend(layer, query, key, value * (1 + layer), SCALE)
            for answer, at in zip(decoding.answers, logits_to_keep.tolist(), strict=True):
                wanted = written_out([*answer.prompt, *answer.said], self.kv_heads) * (1 + layer)
                torch.testing.assert_close(out[at], wanted, rtol=0, atol=2e-6)
        return mock.Mock(logits=torch.zeros(1, len(decoding.answers), 1))

    def sequences(self, tokens, positions, step):
        """Return for each token of the pass all ids up to it."""
        answers, plan = self.decoding.answers, step.plan
        owners = {}
        for answer, at in zip(answers, plan.last.tolist(), strict=True):
            whole = [*answer.prompt.tolist(), *answer.said]
            for back in range(len(answer.pending)):
                owners[at - back] = whole[: len(whole) - back]
        assert [owners[at][-1] for at in range(len(tokens))] == tokens
        assert [len(owners[at]) - 1 for at in range(len(tokens))] == positions
        return [owners[at] for at in range(len(tokens))]


class Told:
    """Each answer says its number a few times, then ends."""

    ends = frozenset({999})

    def __init__(self, lengths):
        self.lengths = lengths

    def stream(self, prompt):
        return None

    def __call__(self, logits, answers):
        return [
            999 if len(each.said) + 1 >= self.lengths[each.number] else 100 + each.number + len(each.said)
            for each in answers
        ]


def replay(groups, kv_heads, lengths, arrivals):
    """Decode groups (prefix, suffixes), `arrivals` of them in each pass; returns how the answers ended."""
    model = Replayed(kv_heads)
    decoding = model.decoding = Decoding(model, Told(lengths), 99, room=10**6)
    waiting, number, ended = list(groups), 0, {}
    while waiting or decoding.answers:
        for prefix_ids, suffixes in waiting[:arrivals]:
            _, key, value = states(prefix_ids, kv_heads)
            kept = tuple((key.transpose(0, 1), value.transpose(0, 1) * (1 + layer)) for layer in range(2))
            prefix = Prefix(np.array(prefix_ids, dtype=np.int64), kept if prefix_ids else ())
            ordered = sorted(suffixes)
            decoding.add(prefix, [(number + at, np.array(ids)) for at, ids in enumerate(ordered)])
            number += len(suffixes)
        waiting = waiting[arrivals:]
        ended |= {answer.number: len(answer.said) for answer in decoding.step()}
        assert decoding.states.num_answers == len(decoding.answers)
    return ended


words = st.lists(st.integers(0, 3), min_size=1, max_size=5)
some_groups = st.lists(
    st.tuples(st.lists(st.integers(0, 3), max_size=40), st.lists(words, min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


lengths_of_answers = st.lists(st.integers(1, 6) | st.just(33), min_size=16, max_size=16)


@settings(max_examples=15)
@given(some_groups, st.sampled_from([4, 2, 1]), lengths_of_answers, st.integers(1, 3))
def test_every_answer_sees_its_prefix_and_its_own_tokens_alone(groups, kv_heads, lengths, arrivals):
    ended = replay(groups, kv_heads, lengths, arrivals)
    assert ended == {number: lengths[number] for number in range(sum(len(suffixes) for _, suffixes in groups))}


GROUPS = [([1, 2, 3] * 20, [[1], [1, 2], [3, 1]]), ([], [[2, 2], [1]]), ([3] * 600, [[1, 1, 1]])]


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("is_flash", [True, False])
def test_the_plain_form_is_the_same(is_flash, kv_heads, monkeypatch):
    if not is_flash:
        monkeypatch.setattr(attention, "can_flash", lambda *_: False)
        monkeypatch.setattr(attention, "CPU_DTYPES", ())
        monkeypatch.setattr(attention, "PLAIN_QUERIES", 2)
    replay(GROUPS, kv_heads, [1, 3, 35, 2, 70, 5], arrivals=2)


def test_half_precision_is_near(monkeypatch):
    torch.manual_seed(0)
    query, key, value = torch.randn(5, 4, 16), torch.randn(2, 70, 16), torch.randn(2, 70, 16)
    exact, exact_lse = attention.plain_attention(query, key.transpose(0, 1), value.transpose(0, 1), SCALE)
    for dtype, tolerance in [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)]:
        narrow = [each.to(dtype) for each in (query, key, value)]
        for is_flash in (True, False):
            monkeypatch.setattr(attention, "CPU_DTYPES", (dtype,) if is_flash else ())
            monkeypatch.setattr(attention, "can_flash", lambda *_: False)
            out, lse = attention.attend_prefix(*narrow, SCALE)
            assert out.dtype == dtype and lse.dtype == torch.float32
            torch.testing.assert_close(out.float(), exact, rtol=0, atol=tolerance)
            torch.testing.assert_close(lse, exact_lse, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 3), (torch.float16, 3), (torch.float16, 70)])
def test_scores_are_as_exact_as_those_of_the_kernels(dtype, size, monkeypatch):
    """Products of 70 * 70 over 128 numbers are beyond float16 before they are scaled."""
    torch.manual_seed(0)
    query, key = (size * torch.randn(2, 64, 4, 128)).to(dtype), (size * torch.randn(2, 64, 4, 128)).to(dtype)
    value, mask, scale = torch.randn(2, 64, 4, 128).to(dtype), torch.zeros(2, 1, 1, 64, dtype=dtype), 128**-0.5
    exact, _ = attention.attend_own(query[:, 0].double(), key.double(), value.double(), mask.double(), scale)
    kernels, _ = attention.attend_own(query[:, 0], key, value, mask, scale)
    monkeypatch.setattr(attention, "CPU_DTYPES", ())
    with torch.autocast("cpu", dtype):  # as in an evaluation while training
        own, lse = attention.attend_own(query[:, 0], key, value, mask, scale)
        plain = torch.cat([attention.plain_attention(query[i, :1], key[i], value[i], scale)[0] for i in range(2)])
    assert lse.dtype == torch.float32
    least = torch.finfo(dtype).eps  # of values around 1
    for found in (own, plain):
        assert (found - exact).abs().max() <= max(least, 1.5 * (kernels - exact).abs().max())


def test_turns_that_continue_each_other_pass_once():
    plan_tokens = []

    class Counting(Replayed):
        def __call__(self, input_ids, **inputs):
            plan_tokens.append(input_ids.shape[1])
            return super().__call__(input_ids, **inputs)

    with mock.patch(f"{__name__}.Replayed", Counting):
        replay([([1, 2], [[5], [5, 6, 7], [5, 6, 7, 8]])], 2, [2, 2, 2], arrivals=1)
    assert plan_tokens == [4, 3]
