"""Attention of a decoding batch: all answers of a group ask its one prefix at once, and each its own tokens.

The two parts are merged by their log-sum-exps, as in `train.model.flash_rows`, and so no prefix is copied and none of
its keys is read twice in a step. Importing this module registers `shared_answers` with transformers; without a `Step`
it is transformers' sdpa.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from train.model.flash_kernels import CPU_DTYPES, Problem, can_flash, flash_forward, lse_dtype

SHARED_ANSWERS = "shared_answers"
# Queries of one plain product: their scores are there all at once, 16 MiB a head for 8,192 keys.
PLAIN_QUERIES = 512


class Step(Protocol):
    """A forward pass over tokens of several answers, one behind the other."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Keep and attend: query (L, H, D), key and value (L, H_kv, D), the new tokens' alone -> (L, H, D)."""
        ...


def answering_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    answering_step: Step | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attend: query (1, H, L, D), key and value (1, H_kv, L, D) -> (1, L, H, D), as transformers asks for it."""
    if answering_step is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    device = query.device.type
    if torch.is_autocast_enabled(device):  # sdpa is on autocast's list, these kernels are not
        query, key, value = (states.to(torch.get_autocast_dtype(device)) for states in (query, key, value))
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    layer: Any = module.layer_idx
    query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
    return answering_step.attend(layer, query, key, value, scale)[None], None


@contextmanager
def answering_with(model: PreTrainedModel) -> Iterator[None]:
    """Let the decoder attend as this module does, for a while."""
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation({"text_config": SHARED_ANSWERS})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})


def attend_sequences(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, problem: Problem, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend within each sequence of `problem`, see `flash_forward`."""
    if can_flash(query.device, query.dtype, query.shape[-1]):
        return flash_forward(query, key, value, problem, scale)
    out = torch.empty_like(query)
    lse = torch.empty(query.shape[1], len(query), dtype=lse_dtype(query.dtype), device=query.device)
    for q, k in problem.spans():
        out[q], lse[:, q] = plain_attention(query[q], key[k], value[k], scale, is_causal=problem.is_causal)
    return out, lse


def attend_prefix(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Look at a whole prefix: query (Q, H, D), key and value (H_kv, P, D) -> output (Q, H, D) and log-sum-exp (H, Q).

    The heads that share one of keys stand in the query dimension, too: no key is repeated.
    """
    if query.device.type != "cpu" or query.dtype not in CPU_DTYPES:
        key, value = key.transpose(0, 1), value.transpose(0, 1)
        if can_flash(query.device, query.dtype, query.shape[-1]):
            problem = Problem.of([(len(query), len(key))], is_causal=False, device=query.device)
            return flash_forward(query, key, value, problem, scale)
        return plain_attention(query, key, value, scale)
    num_queries, num_heads, _ = query.shape
    folded = query.unflatten(1, (len(key), -1)).transpose(0, 1).flatten(1, 2)  # (H_kv, Q * H / H_kv, D)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        folded[None], key[None], value[None], scale=scale
    )
    out = out[0].unflatten(1, (num_queries, -1)).transpose(0, 1).flatten(1, 2)
    return out, lse[0].unflatten(1, (num_queries, -1)).transpose(1, 2).reshape(num_heads, num_queries)


def attend_own(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Look at each answer's own tokens: query (N, H, D), key and value (N, C, H_kv, D), mask (N, 1, 1, C), 0 or -inf ->
    output (N, H, D) and log-sum-exp (H, N)."""
    queries = query.unflatten(1, (key.shape[2], -1))  # (N, H_kv, H / H_kv, D)
    key, value = key.transpose(1, 2), value.transpose(1, 2)
    if query.device.type == "cpu" and query.dtype in CPU_DTYPES:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, key, value, attn_mask=mask, scale=scale
        )
    else:
        out, lse = _softmax_over_keys(queries, key.transpose(2, 3), value, scale, mask)
    return out.flatten(1, 2), lse.flatten(1, 2).t()


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, is_causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend as written: query (Q, H, D), key and value (K, H_kv, D) -> output (Q, H, D) and log-sum-exp (H, Q).

    Causal over as many keys as queries.
    """
    keys, values = key.permute(1, 2, 0).unsqueeze(1), value.transpose(0, 1).unsqueeze(1)  # (H_kv, 1, D, K) and K, D
    outs, lses = [], []
    for start in range(0, len(query), PLAIN_QUERIES):
        part = query[start : start + PLAIN_QUERIES]
        queries = part.unflatten(1, (key.shape[1], -1)).permute(1, 2, 0, 3)  # (H_kv, H / H_kv, Q, D)
        mask = None
        if is_causal:
            mask = torch.full((len(part), len(key)), -torch.inf, device=query.device).triu(start + 1)
        out, lse = _softmax_over_keys(queries, keys, values, scale, mask)
        outs.append(out.permute(2, 0, 1, 3).flatten(1, 2))
        lses.append(lse.flatten(0, 1))
    return torch.cat(outs), torch.cat(lses, dim=1)


def _softmax_over_keys(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend: query (..., Q, D), key (..., D, K), value (..., K, D), mask (..., Q, K), 0 or -inf -> output (..., Q, D)
    and log-sum-exp (..., Q).

    Scores are float32 at least, as in the kernels: float16 overflows in them, and bfloat16 keeps 8 bits of each.
    """
    wide = lse_dtype(query.dtype)
    with torch.autocast(query.device.type, enabled=False):
        scores = query.to(wide) @ key.to(wide) * scale
        if mask is not None:
            scores += mask
        lse = scores.logsumexp(-1)
        return (scores - lse[..., None]).exp().to(value.dtype) @ value, lse


AttentionInterface.register(SHARED_ANSWERS, answering_attention)
AttentionMaskInterface.register(SHARED_ANSWERS, sdpa_mask)
