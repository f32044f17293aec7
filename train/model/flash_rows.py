"""Attention of a packed row by flash kernels, without a mask: two calls, merged by their log-sum-exps.

The first call is causal over every span of the row by itself: prefixes, suffixes, groups that are one causal
sequence. In the second the suffixes of each group look at their prefix. No key is in both calls, so the softmax over
all keys is the mean of the two outputs, weighted by the sums of exponentials that each call has seen:
out = sum_i exp(lse_i - lse) out_i, where lse = log sum_i exp(lse_i).

Where there is a faster kernel for one causal sequence (`has_causal_kernel`), long prefixes are its: a call more for
each, whose output needs no merging, because a prefix sees itself alone. The first call then leaves them out.

The backward pass of a flash kernel rebuilds the probabilities exp(score - lse) from the log-sum-exp that it is given,
and needs the output for one dot product a token. Given the merged two, it computes the gradients of its share of the
keys within the whole softmax; the gradients of all calls add up to those of the dense mask.

Prefixes are read where they are, thousands of tokens: kernels of variable length take sequences that tile their
tensors, so keys that no query of the second call sees become a sequence without queries.

With a graph of the layer the device waits for this function as long as for all else, so it calls as few operations as
it can, and plans a row once for all layers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from data.packing.layout import RowLayout
from train.model.flash_kernels import (
    Problem,
    causal_backward,
    causal_forward,
    flash_backward,
    flash_forward,
    has_causal_kernel,
    lse_dtype,
)

Rows = slice | torch.Tensor
LONG_PREFIX = 512  # tokens; shorter ones gain less than another call costs
MAX_LENGTHS = 32  # of prefixes; clips and pictures under one system prompt have two or three


@dataclass(frozen=True)
class Plan:
    """The calls of a row, and which of its tokens each takes.

    `own`: causal, over the spans of the tokens `alone`. `prefix`: of the tokens `suffixes` on all keys of the row; None
    where no suffix stands apart from its prefix. `long`: prefixes that get a call each.
    """

    length: int
    alone: Rows
    own: Problem
    suffixes: Rows
    prefix: Problem | None
    long: tuple[slice, ...]
    is_one_call: bool  # the first call takes the whole row
    is_silent: bool  # there are tokens that ask nothing


def plan_row(layout: RowLayout, suffixes_only: bool, device: torch.device, long: frozenset[int] = frozenset()) -> Plan:
    """Plan a row. suffixes_only: no token of a prefix that has suffixes asks. long: lengths of the prefixes that get a
    call each."""
    own: list[int] = []  # lengths of the sequences
    prefix: list[tuple[int, int]] = []  # (queries, keys) of each sequence
    alone: list[range] = []
    suffixes: list[range] = []
    calls: list[slice] = []
    start = 0
    for prefix_length, suffix_lengths in layout.groups:
        middle, end = start + prefix_length, start + prefix_length + sum(suffix_lengths)
        is_long = not suffixes_only and prefix_length in long and suffix_lengths
        if is_long:
            calls.append(slice(start, middle))
        leaves_prefix = is_long or (suffixes_only and suffix_lengths)
        is_apart = prefix_length and len(suffix_lengths) >= (1 if leaves_prefix else 2)
        if is_apart:
            prefix += [(end - middle, prefix_length), (0, end - middle)]
            suffixes.append(range(middle, end))
        else:
            prefix.append((0, end - start))
        alone.append(range(middle if leaves_prefix else start, end))
        if is_apart or not prefix_length:
            own += [prefix_length] * bool(prefix_length and not leaves_prefix) + list(suffix_lengths)
        else:
            own.append(end - start)
        start = end
    num_asking = sum(own) + sum(one.stop - one.start for one in calls)
    return Plan(
        length=start,
        alone=_rows(alone, device),
        own=Problem.of([(one, one) for one in own], is_causal=True, device=device),
        suffixes=_rows(suffixes, device),
        prefix=Problem.of(prefix, is_causal=False, device=device) if suffixes else None,
        long=tuple(calls),
        is_one_call=sum(own) == start,
        is_silent=num_asking < start,
    )


class LongPrefixes:
    """Lengths of prefixes that get a call of their own: the first `MAX_LENGTHS` that a process meets, since a kernel's
    plan for a new length takes as long as many calls."""

    def __init__(self) -> None:
        self._met: set[int] = set()

    def among(self, layout: RowLayout) -> frozenset[int]:
        """Return those of a row."""
        lengths = {prefix_length for prefix_length, suffixes in layout.groups if suffixes}
        for length in sorted(each for each in lengths - self._met if each >= LONG_PREFIX):
            if len(self._met) < MAX_LENGTHS:
                self._met.add(length)
        return frozenset(lengths & self._met)


_long_prefixes = LongPrefixes()


def _rows(ranges: Iterable[range], device: torch.device) -> Rows:
    """Return a slice, which copies nothing, where the ranges follow each other."""
    numbers = [number for each in ranges for number in each]
    if not numbers:
        return slice(0, 0)
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return slice(numbers[0], numbers[-1] + 1)
    return torch.tensor(numbers, device=device)


def flash_row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: RowLayout, suffixes_only: bool, scale: float
) -> torch.Tensor:
    """Attend: query (1, H, L, D), key and value (1, H_kv, L, D) -> (1, L, H, D), zero where no token asks."""
    states = (each[0].transpose(0, 1) for each in (query, key, value))
    return attend_row(*states, layout.lengths, suffixes_only, scale)[0][None]


# Operations of their own, so that a graph of torch.compile holds one of them and nothing of a row's lengths, whatever
# they are: a graph of one row serves all others. Selective checkpointing can name them, too.
@torch.library.custom_op("reeltune::attend_row", mutates_args=())
def attend_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: torch.Tensor,
    suffixes_only: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend: query (L, H, D), key and value (L, H_kv, D) -> output (L, H, D) and log-sum-exp (H, L).

    Both are zero where no token asks.

    lengths: those of `RowLayout`, on the CPU.
    """
    plan = _plan(lengths, suffixes_only, query)
    rows = plan.suffixes
    if plan.is_one_call:
        out, lse = flash_forward(query, key, value, plan.own, scale)
    else:
        out = torch.zeros_like(query) if plan.is_silent else torch.empty_like(query)
        lse = query.new_zeros((query.shape[1], plan.length), dtype=lse_dtype(query.dtype))
        alone = plan.alone
        out[alone], lse[:, alone] = flash_forward(query[alone], key[alone], value[alone], plan.own, scale)
    if plan.prefix is not None:
        on_prefix = flash_forward(query[rows], key, value, plan.prefix, scale)
        out[rows], lse[:, rows] = merge(out[rows], lse[:, rows], *on_prefix)
    for one in plan.long:
        out[one], lse[:, one] = causal_forward(query[one], key[one], value[one], scale)
    return out, lse


@attend_row.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: torch.Tensor,
    suffixes_only: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    length, num_heads, _ = query.shape
    lse = query.new_empty((num_heads, length), dtype=lse_dtype(query.dtype))
    return query.new_empty(query.shape), lse


@torch.library.custom_op("reeltune::attend_row_backward", mutates_args=())
def attend_row_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    lengths: torch.Tensor,
    suffixes_only: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key and value."""
    plan = _plan(lengths, suffixes_only, query)
    rows, alone = plan.suffixes, plan.alone
    on_prefix = None
    if plan.prefix is not None:
        on_prefix = flash_backward(grad[rows], query[rows], key, value, out[rows], lse[:, rows], plan.prefix, scale)
    if plan.is_one_call:
        of_query, of_key, of_value = flash_backward(grad, query, key, value, out, lse, plan.own, scale)
        if on_prefix is not None:
            of_key += on_prefix[1]
            of_value += on_prefix[2]
    else:
        of_query = torch.zeros_like(query) if plan.is_silent else torch.empty_like(query)
        of_key, of_value = on_prefix[1:] if on_prefix is not None else (torch.zeros_like(key), torch.zeros_like(value))
        asking = (grad[alone], query[alone], key[alone], value[alone], out[alone], lse[:, alone])
        of_query[alone], more_key, more_value = flash_backward(*asking, plan.own, scale)
        of_key[alone] += more_key
        of_value[alone] += more_value
    if on_prefix is not None:
        of_query[rows] += on_prefix[0]
    for one in plan.long:
        of_query[one], more_key, more_value = causal_backward(
            grad[one], query[one], key[one], value[one], out[one], lse[:, one], scale
        )
        of_key[one] += more_key
        of_value[one] += more_value
    return of_query, of_key, of_value


@attend_row_backward.register_fake
def _(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    lengths: torch.Tensor,
    suffixes_only: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple, output: tuple[torch.Tensor, torch.Tensor]) -> None:
    *states, lengths, suffixes_only, scale = inputs
    ctx.save_for_backward(*states, *output, lengths)
    ctx.mark_non_differentiable(output[1])
    ctx.suffixes_only, ctx.scale = suffixes_only, scale


def _backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    return *attend_row_backward(grad, *ctx.saved_tensors, ctx.suffixes_only, ctx.scale), None, None, None


attend_row.register_autograd(_backward, setup_context=_keep)


def _plan(lengths: torch.Tensor, suffixes_only: bool, query: torch.Tensor) -> Plan:
    gets_long = not suffixes_only and has_causal_kernel(query.device, query.shape[-1])
    plan = _plan_once(lengths.numpy().tobytes(), suffixes_only, query.device, gets_long)
    if len(query) != plan.length:
        raise RuntimeError(f"a layout of {plan.length} tokens cannot split a row of {len(query)}")
    return plan


@lru_cache(maxsize=8)
def _plan_once(lengths: bytes, suffixes_only: bool, device: torch.device, gets_long: bool) -> Plan:
    """Plan a row for all layers and both passes. lengths: those of `RowLayout`, as bytes: quicker to look up."""
    layout = RowLayout.from_lengths(torch.from_numpy(np.frombuffer(lengths, dtype=np.int64).copy()))
    long = _long_prefixes.among(layout) if gets_long else frozenset()
    with torch.inference_mode(False):  # a row seen in evaluation may be trained on
        return plan_row(layout, suffixes_only, device, long)


def merge(
    out: torch.Tensor, lse: torch.Tensor, other_out: torch.Tensor, other_lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output and log-sum-exp over the keys of both."""
    share = (lse - other_lse).sigmoid_().t().unsqueeze(-1)  # (S, H, 1), float32
    return (out * share + other_out * (1 - share)).to(out.dtype), torch.logaddexp(lse, other_lse)
