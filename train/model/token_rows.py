"""Rows of the embeddings for new tokens: those that a vocabulary has to spare, then more of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

MULTIPLE = 64  # a matrix grows to a multiple of it, as Video-LLaVA's 32,064 rows are: GPUs multiply such ones faster


def num_rows(have: int, token_ids: Sequence[int]) -> int:
    """Return how many rows the embeddings have once these tokens have one."""
    needed = max(token_ids) + 1
    return have if needed <= have else -(-needed // MULTIPLE) * MULTIPLE


def give_rows(model: PreTrainedModel, token_ids: Sequence[int], keeps_known: bool = False) -> None:
    """Give each token a row in the embeddings and in the head that is the mean of the others' rows, in place.

    The same model gets the same rows: nothing is drawn at random. keeps_known: leave rows that are there as they are,
    for an adapter that brings its own, perhaps of the embeddings alone.
    """
    if not token_ids:
        return
    have = embeddings(model)[0].weight.shape[0]
    if (rows := num_rows(have, token_ids)) > have:
        frozen = not any(parameter.requires_grad for parameter in model.parameters())
        model.resize_token_embeddings(rows, mean_resizing=False)
        if frozen:
            model.requires_grad_(False)
    for layer in embeddings(model):
        fill_rows(layer.weight, have, token_ids, keeps_known)


@torch.no_grad()
def fill_rows(weight: torch.Tensor, have: int, token_ids: Sequence[int], keeps_known: bool = False) -> None:
    """Set the rows of tokens, and those behind the first `have`, to the mean of all others, in place.

    keeps_known: those behind the first `have` alone.
    """
    new = torch.tensor(sorted({*token_ids, *range(have, len(weight))}), device=weight.device)
    known = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
    known[new] = False
    filled = new[new >= have] if keeps_known else new
    if len(filled):
        weight[filled] = weight[known].float().mean(0).to(weight.dtype)


def embeddings(model: nn.Module) -> list[Any]:
    """Return the embeddings and, where it has weights of its own, the head."""
    whole: Any = model
    first, head = whole.get_input_embeddings(), whole.get_output_embeddings()
    return [first] if head.weight is first.weight else [first, head]


def indices_for_peft(model: nn.Module, token_ids: Sequence[int]) -> dict[str, list[int]] | None:
    """Return PEFT's `trainable_token_indices`; it keeps a tied head like its embeddings by itself."""
    if not token_ids:
        return None
    return {name: list(token_ids) for name in ("embed_tokens", "lm_head")[: len(embeddings(model))]}


def token_ids_of(settings: Mapping[str, Any]) -> list[int]:
    """Return the ids of the tokens whose rows an adapter has."""
    named = settings.get("trainable_token_indices") or []
    lists = named.values() if isinstance(named, dict) else [named]
    return sorted({each for ids in lists for each in ids})
