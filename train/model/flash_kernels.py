"""torch's flash attention over sequences of variable length that tile their tensors, forward and backward.

On CUDA one call takes all sequences. The CPU's kernel takes one sequence a call, and as many heads of keys as of
queries.

On Hopper cuDNN takes half the time of torch's kernel for one long causal sequence. It makes a plan for each new length,
which takes tens of milliseconds, so only lengths that come back are its: those of prefixes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch

AMPERE = (8, 0)  # the first compute capability that torch's flash kernels run on
MAX_HEAD_DIM = 256  # of the same kernels, in multiples of 8
HOPPER = (9, 0)  # cuDNN has kernels of its own from here on; on an A100 it is no faster
CUDNN_HEAD_DIM = 128  # at most, in multiples of 8
CPU_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def can_flash(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Return whether torch has a flash kernel for such tensors."""
    if device.type == "cpu":
        return dtype in CPU_DTYPES
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and dtype in (torch.float16, torch.bfloat16)
        and head_dim % 8 == 0
        and head_dim <= MAX_HEAD_DIM
        and torch.cuda.get_device_capability(device) >= AMPERE
    )


@lru_cache
def has_causal_kernel(device: torch.device, head_dim: int) -> bool:
    """Return whether `causal_forward` is faster than `flash_forward` for one long sequence on this device."""
    return (
        device.type == "cuda"
        and head_dim % 8 == 0
        and head_dim <= CUDNN_HEAD_DIM
        and torch.cuda.get_device_capability(device) >= HOPPER
        and torch.backends.cudnn.is_available()
    )


@dataclass(frozen=True)
class Problem:
    """Sequences of (queries, keys) tokens each, one behind the other, either number possibly 0."""

    is_causal: bool
    query_ends: tuple[int, ...]  # 0 first
    key_ends: tuple[int, ...]
    max_queries: int
    max_keys: int
    cu_queries: torch.Tensor  # the same ends, int32, on the device
    cu_keys: torch.Tensor

    @staticmethod
    def of(lengths: Sequence[tuple[int, int]], is_causal: bool, device: torch.device) -> "Problem":
        queries, keys = [query for query, _ in lengths], [key for _, key in lengths]
        query_ends, key_ends = (tuple(accumulate(each, initial=0)) for each in (queries, keys))
        return Problem(
            is_causal,
            query_ends,
            key_ends,
            max_queries=max(queries),
            max_keys=max(keys),
            cu_queries=torch.tensor(query_ends, dtype=torch.int32, device=device),
            cu_keys=torch.tensor(key_ends, dtype=torch.int32, device=device),
        )

    def spans(self) -> Iterator[tuple[slice, slice]]:
        """Return the queries and keys of each sequence that has both."""
        for q, q_end, k, k_end in zip(
            self.query_ends, self.query_ends[1:], self.key_ends, self.key_ends[1:], strict=False
        ):
            if q < q_end and k < k_end:
                yield slice(q, q_end), slice(k, k_end)


def flash_forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, problem: Problem, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend: query (Q, H, D), key and value (K, H_kv, D) -> output (Q, H, D) and log-sum-exp (H, Q), float32 or wider.

    Every query must have a key in its sequence.
    """
    if query.is_cuda:
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            query, key, value, problem.cu_queries, problem.cu_keys, problem.max_queries, problem.max_keys,
            0.0, problem.is_causal, False, scale=scale,
        )  # fmt: skip
        return out, lse
    out = torch.empty(query.shape, dtype=query.dtype)
    lse = torch.empty(query.shape[1], len(query), dtype=lse_dtype(query.dtype))
    for q, k in problem.spans():
        one, one_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            _heads_first(query[q]), *_for_each_query_head(query, key[k], value[k]),
            is_causal=problem.is_causal, scale=scale,
        )  # fmt: skip
        out[q], lse[:, q] = one[0].transpose(0, 1), one_lse[0]
    return out, lse


def flash_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    problem: Problem,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key and value, from that of the output: `out` and `lse` may be those of a softmax
    over more keys than the problem has."""
    if query.is_cuda:
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=query.device)
        return torch.ops.aten._flash_attention_backward(
            grad, query, key, value, out, lse.contiguous(), problem.cu_queries, problem.cu_keys,
            problem.max_queries, problem.max_keys, 0.0, problem.is_causal, no_dropout, no_dropout, scale=scale,
        )  # fmt: skip
    of_query = torch.zeros(query.shape, dtype=query.dtype)
    of_key, of_value = (torch.zeros(states.shape, dtype=states.dtype) for states in (key, value))
    for q, k in problem.spans():
        one = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            _heads_first(grad[q]), _heads_first(query[q]), *_for_each_query_head(query, key[k], value[k]),
            _heads_first(out[q]), lse[None, :, q], 0.0, problem.is_causal, scale=scale,
        )  # fmt: skip
        of_query[q] = one[0][0].transpose(0, 1)
        of_key[k] += _of_key_heads(one[1][0], key.shape[1])
        of_value[k] += _of_key_heads(one[2][0], key.shape[1])
    return of_query, of_key, of_value


def causal_forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend within one sequence: (L, H, D), of keys (L, H_kv, D) -> as `flash_forward`."""
    if not query.is_cuda:
        return flash_forward(query, key, value, _one_sequence(query), scale)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        *map(_heads_last_in_memory, (query, key, value)), None, True, 0.0, True, False, scale=scale
    )
    return out[0].transpose(0, 1), lse.view(query.shape[1], len(query))


def causal_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key and value of `causal_forward`."""
    if not query.is_cuda:
        return flash_backward(grad, query, key, value, out, lse, _one_sequence(query), scale)
    length = len(query)
    no_dropout = torch.zeros((), dtype=torch.int64, device=query.device)
    gradients = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        *map(_heads_last_in_memory, (grad, query, key, value, out)), lse.contiguous()[None, :, :, None],
        no_dropout, no_dropout, None, None, None, length, length, 0.0, True, scale=scale,
    )  # fmt: skip
    of_query, of_key, of_value = (each[0].transpose(0, 1) for each in gradients)
    return of_query, of_key, of_value


def _one_sequence(states: torch.Tensor) -> Problem:
    return Problem.of([(len(states), len(states))], is_causal=True, device=states.device)


def _heads_last_in_memory(states: torch.Tensor) -> torch.Tensor:
    """Reshape (L, H, D) -> (1, H, L, D) whose strides do not depend on the length of the row that it was cut out of:
    cuDNN makes another plan for other strides."""
    return _heads_first(states.contiguous())


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the number type of log-sum-exps."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _heads_first(states: torch.Tensor) -> torch.Tensor:
    """Reshape (L, H, D) -> (1, H, L, D)"""
    return states.transpose(0, 1)[None]


def _for_each_query_head(query: torch.Tensor, *states: torch.Tensor) -> Iterator[torch.Tensor]:
    """Reshape (L, H_kv, D) -> (1, H, L, D)"""
    repeats = query.shape[1] // states[0].shape[1]
    return (_heads_first(each.repeat_interleave(repeats, dim=1) if repeats > 1 else each) for each in states)


def _of_key_heads(gradient: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Reshape (H, L, D) -> (L, H_kv, D), summed over the query heads that share a head of keys."""
    return gradient.unflatten(0, (num_heads, -1)).sum(1).transpose(0, 1)
