"""Attention of a packed row by flash kernels, without a mask: two calls, merged by their log-sum-exps.

The first call is causal over every span of the row by itself: prefixes, suffixes, groups that are one causal
sequence. In the second the suffixes of each group look at their prefix. No key is in both calls, so the softmax over
all keys is the mean of the two outputs, weighted by the sums of exponentials that each call has seen:
out = sum_i exp(lse_i - lse) out_i, where lse = log sum_i exp(lse_i).

The backward pass of a flash kernel rebuilds the probabilities exp(score - lse) from the log-sum-exp that it is given,
and needs the output for one dot product a token. Given the merged two, it computes the gradients of its share of the
keys within the whole softmax; the gradients of both calls add up to those of the dense mask.

Where there is a faster kernel for one causal sequence (`has_causal_kernel`), long prefixes are its: a call more for
each, whose output needs no merging, because a prefix sees itself alone.

All calls read queries, keys and values where they are. Kernels of variable length take sequences that tile their
tensors, so keys that no query of a call sees become a sequence without queries.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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
    """The calls of a row. Queries of `own` are the tokens `queries` of the row; those of `prefix`, None where no suffix
    stands apart from its prefix, are the rows `suffixes` among them. `long` are prefixes whose tokens ask in calls of
    their own."""

    queries: Rows
    own: Problem
    suffixes: Rows
    prefix: Problem | None
    long: tuple[slice, ...] = ()


@lru_cache(maxsize=8)
def plan_row(layout: RowLayout, suffixes_only: bool, device: torch.device, long: frozenset[int] = frozenset()) -> Plan:
    """Built once for all layers of a row.

    suffixes_only: no token of a prefix that has suffixes asks. long: lengths of the prefixes that get a call each.
    """
    own: list[tuple[int, int]] = []  # (queries, keys) of each sequence
    prefix: list[tuple[int, int]] = []
    asking: list[range] = []
    merged: list[range] = []  # among the asking
    alone: list[slice] = []
    start = num_asking = 0
    for prefix_length, suffix_lengths in layout.groups:
        length = prefix_length + sum(suffix_lengths)
        is_alone = not suffixes_only and prefix_length in long and suffix_lengths
        if is_alone:
            alone.append(slice(start, start + prefix_length))
        is_apart = prefix_length and len(suffix_lengths) >= (1 if suffixes_only or is_alone else 2)
        first = prefix_length if (suffixes_only or is_alone) and suffix_lengths else 0
        if is_apart:
            own.append((prefix_length - first, prefix_length))
            prefix += [(length - prefix_length, prefix_length), (0, length - prefix_length)]
            merged.append(range(num_asking + prefix_length - first, num_asking + length - first))
        else:
            prefix.append((0, length))
        if is_apart or not prefix_length:
            own += [(one, one) for one in suffix_lengths]
        else:
            own.append((length, length))
        asking.append(range(start + first, start + length))
        start += length
        num_asking += length - first
    return Plan(
        queries=_rows(asking, device),
        own=Problem.of(own, is_causal=True, device=device),
        suffixes=_rows(merged, device),
        prefix=Problem.of(prefix, is_causal=False, device=device) if merged else None,
        long=tuple(alone),
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
    asking = query[plan.queries]
    out, lse = flash_forward(asking, key, value, plan.own, scale)
    if plan.prefix is not None:
        rows = plan.suffixes
        merged = merge(out[rows], lse[:, rows], *flash_forward(asking[rows], key, value, plan.prefix, scale))
        out[rows], lse[:, rows] = merged
    if len(out) == len(query):
        return out, lse
    out, lse = _spread(out, plan.queries, len(query), 0), _spread(lse, plan.queries, len(query), 1)
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
    asked, asked_lse = [each[plan.queries] for each in (grad, query, out)], lse[:, plan.queries]
    of_query, of_key, of_value = flash_backward(*asked[:2], key, value, asked[2], asked_lse, plan.own, scale)
    if plan.prefix is not None:
        rows = plan.suffixes
        direction, suffixes, merged = (each[rows] for each in asked)
        of_suffixes, of_key, of_value = flash_backward(
            direction, suffixes, key, value, merged, asked_lse[:, rows], plan.prefix, scale, onto=(of_key, of_value)
        )
        of_query[rows] += of_suffixes
    if len(of_query) != len(query):
        of_query = _spread(of_query, plan.queries, len(query), 0)
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
    layout = RowLayout.from_lengths(lengths)
    if len(query) != sum(layout.group_lengths):
        raise RuntimeError(f"a layout of {sum(layout.group_lengths)} tokens cannot split a row of {len(query)}")
    long = _long_prefixes.among(layout) if not suffixes_only and has_causal_kernel(query) else frozenset()
    return plan_row(layout, suffixes_only, query.device, long)


def _spread(states: torch.Tensor, rows: Rows, length: int, dim: int) -> torch.Tensor:
    """Put states of the asking tokens where they stand in the row, zeros elsewhere."""
    shape = list(states.shape)
    shape[dim] = length
    whole = states.new_zeros(shape)
    whole[(slice(None),) * dim + (rows,)] = states
    return whole


def merge(
    out: torch.Tensor, lse: torch.Tensor, other_out: torch.Tensor, other_lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output and log-sum-exp over the keys of both."""
    both = torch.logaddexp(lse, other_lse)
    share, other_share = ((one - both).exp().t().unsqueeze(-1) for one in (lse, other_lse))  # (S, H, 1), float32
    return (out * share + other_out * other_share).to(out.dtype), both
