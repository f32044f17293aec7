"""Cross-entropy on the labelled positions alone: about 97 % of a row is video, which needs no logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from data.tokens.encoding import IGNORE_INDEX

POSITIONS, NUM_LABELLED = "positions", "num_labelled"  # by which a batch says what `Located` has found
CHUNK_SIZE = 512  # positions: 62 MiB of float32 logits with a vocabulary of 32,000


def labelled_positions(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where logits are needed, and what they should predict.

    labels: (B, T) long, not shifted, -100 where nothing is trained.
    Returns positions (N,) long, for the model's `logits_to_keep`, and targets (B, N) long: the label after
    each position, -100 in the samples that have none there.

    For a packed row (B = 1) the positions are exactly the labelled ones. For a padded batch they are the
    union over its samples: a few logits too many, but an index shared by the batch means the same to every
    transformers 5, where a mask for each sample is understood by the newest alone.
    """
    following = labels[:, 1:]
    positions = (following != IGNORE_INDEX).any(dim=0).nonzero().squeeze(-1)
    return positions, following[:, positions]


@dataclass(frozen=True)
class Located:
    """A collator whose batches say where logits are needed, (N,) long, and how many tokens have a label.

    Workers find out. Of labels on a GPU both would have to be waited for, with nothing to compute meanwhile.
    """

    collate: Callable[..., dict[str, Any]]

    def __call__(self, batch: Any) -> dict[str, Any]:
        made = self.collate(batch)
        positions, targets = labelled_positions(made["labels"])
        return {**made, POSITIONS: positions, NUM_LABELLED: int((targets != IGNORE_INDEX).sum())}


def positions_and_targets(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the labels out of a batch; returns what `labelled_positions` does, without waiting for a device where the
    batch says its positions."""
    labels, positions = batch.pop("labels"), batch.pop(POSITIONS, None)
    return labelled_positions(labels) if positions is None else (positions, labels[:, 1:][:, positions])


def token_loss(
    logits: torch.Tensor, targets: torch.Tensor, num_items: int | torch.Tensor, chunk_size: int = CHUNK_SIZE
) -> torch.Tensor:
    """Return the sum of the cross-entropy over the labelled tokens, in float32, divided by `num_items`.

    logits: (B, N, V) in any float dtype; targets: (B, N) long, -100 is left out. num_items: labelled tokens
    of the whole optimizer step, so that the gradients of its micro-batches add up to that of their mean over
    tokens; with none at all the loss is 0, and so is every gradient.

    Logits in half precision are widened to float32 `chunk_size` positions at a time, again in the backward pass:
    nothing larger than (chunk_size, V) is made here. In mixed precision Accelerate has widened all that it is given,
    which are those of the labelled positions: (N, V), about 10 MB for 80 labels of a vocabulary of 32,064.
    """
    chunks = zip(logits.flatten(0, 1).split(chunk_size), targets.flatten().split(chunk_size), strict=True)
    total = sum(checkpoint(_summed, *chunk, use_reentrant=False) for chunk in chunks)
    return total / torch.as_tensor(num_items, device=logits.device).clamp(min=1)


def _summed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits.float(), targets, ignore_index=IGNORE_INDEX, reduction="sum")
