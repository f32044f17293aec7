"""Shared-prefix attention: the questions about one clip, side by side behind one copy of its visual tokens.

Importing this module registers two implementations with transformers, `shared_prefix` on sdpa and
`shared_prefix_unmasked` on flash kernels. The decoder alone takes one, the towers keep theirs:
`attn_implementation={"text_config": SHARED_PREFIX}`. With the keyword arguments of `data.packing.layout.packed_inputs`
a forward pass attends as `data.packing.layout` says; without them, in evaluation on padded batches and in generation,
it is that of transformers' `sdpa`, mask and all.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from data.packing.layout import RowLayout, causal_mask, suffix_mask
from train.model.flash_kernels import can_flash
from train.model.flash_rows import flash_row

SHARED_PREFIX = "shared_prefix"
SHARED_PREFIX_UNMASKED = "shared_prefix_unmasked"  # transformers asks for the flash-attn package by the word "flash"


def shared_prefix_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    row_layout: RowLayout | None = None,
    suffixes_only: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend with sdpa: query (B, H, L, D), key and value (B, H_kv, L, D) -> (B, L, H, D), as transformers asks for it.

    suffixes_only: zeros in the prefixes that have suffixes, see `train.model.last_layer`.
    """
    if row_layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    attend = partial(sdpa_attention_forward, module, **kwargs)
    window = kwargs.get("sliding_window")  # Mistral's, and that of some layers of Qwen2
    return _attend_row(attend, query, key, value, row_layout, suffixes_only, window), None


def unmasked_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    row_layout: RowLayout | None = None,
    suffixes_only: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as `shared_prefix_attention`, with flash kernels where there are any for these tensors, no dropout and no
    sliding window."""
    device = query.device.type
    if torch.is_autocast_enabled(device):  # sdpa is on autocast's list, these kernels are not
        query, key, value = (states.to(torch.get_autocast_dtype(device)) for states in (query, key, value))
    is_other = kwargs.get("dropout", 0.0) or kwargs.get("sliding_window") is not None
    if row_layout is None or is_other or not can_flash(query.device, query.dtype, query.shape[-1]):
        return shared_prefix_attention(
            module, query, key, value, attention_mask, row_layout=row_layout, suffixes_only=suffixes_only, **kwargs
        )
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    return flash_row(query, key, value, row_layout, suffixes_only, scale), None


# Every row has other lengths. Traced into the graph they would recompile the decoder for each row until
# torch.compile gives up; outside of it the graph breaks here and everything else of a layer compiles once.
@torch.compiler.disable
def _attend_row(
    attend: Callable,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RowLayout,
    suffixes_only: bool,
    window: int | None,
) -> torch.Tensor:
    """Attend group by group -> (B, L, H, D). `attend` is sdpa, causal where its mask is None."""
    # split, not slices: the gradient of a split is one concatenation, that of each slice a zero-filled row.
    groups = (states.split(layout.group_lengths, dim=2) for states in (query, key, value))
    masks = _masks(layout, suffixes_only, query.device, window)
    outputs = []
    for (prefix_length, _), (is_apart, causal, suffix), q, k, v in zip(layout.groups, masks, *groups, strict=True):
        if not is_apart:
            outputs.append(attend(q, k, v, causal)[0])
            continue
        of_prefix, of_suffixes = q.split([prefix_length, q.shape[2] - prefix_length], dim=2)
        if suffixes_only:
            outputs.append(torch.zeros_like(of_prefix).transpose(1, 2))
        elif prefix_length:
            outputs.append(attend(of_prefix, k[:, :, :prefix_length], v[:, :, :prefix_length], causal)[0])
        outputs.append(attend(of_suffixes, k, v, suffix)[0])
    return torch.cat(outputs, dim=1)


@lru_cache(maxsize=4)
def _masks(
    layout: RowLayout, suffixes_only: bool, device: torch.device, window: int | None
) -> list[tuple[bool, torch.Tensor | None, torch.Tensor | None]]:
    """Return of each group whether suffixes stand apart from their prefix, and masks (1, 1, Q, K): of the prefix, or of
    the whole group where it is one causal sequence, None where every token sees all before it; and of the suffixes.

    Built once for all layers.
    """
    fewest = 1 if suffixes_only else 2
    masks = []
    for prefix_length, suffix_lengths in layout.groups:
        is_apart = len(suffix_lengths) >= fewest
        length = prefix_length if is_apart else prefix_length + sum(suffix_lengths)
        is_narrow = window is not None and prefix_length + max(suffix_lengths, default=0) > window
        causal = causal_mask(length, device, window)[None, None] if is_narrow and length else None
        seen = window if is_narrow else None
        suffix = suffix_mask(prefix_length, suffix_lengths, device, seen)[None, None] if is_apart else None
        masks.append((is_apart, causal, suffix))
    return masks


def forget_masks() -> None:
    """Build the masks of the next row anew, though it be the last one again: whoever counts memory counts them too."""
    _masks.cache_clear()


for name, attention in ((SHARED_PREFIX, shared_prefix_attention), (SHARED_PREFIX_UNMASKED, unmasked_attention)):
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)
