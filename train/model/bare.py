"""A model that has names and shapes, and no weights: it takes no memory."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, VideoLlavaForConditionalGeneration

from train.model.token_rows import num_rows


def bare_model(config: PreTrainedConfig, token_ids: Sequence[int] = ()) -> VideoLlavaForConditionalGeneration:
    """Return the model of a config, on torch's `meta` device, with rows for new tokens."""
    config = copy.deepcopy(config)
    text: Any = config.get_text_config()
    if token_ids:
        text.vocab_size = num_rows(text.vocab_size, token_ids)
    with torch.device("meta"):
        model = VideoLlavaForConditionalGeneration(config)  # pyrefly: ignore[bad-argument-type]  `load_config` looked
    model.tie_weights()
    return model.requires_grad_(False).eval()


def give_buffers(model: nn.Module, device: torch.device) -> None:
    """Give a bare model the constants that no checkpoint has: ids of positions, frequencies of rotary embeddings.

    They follow from the config alone, so that a module made anew of the same class has them.
    """
    for module in model.modules():
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            made: Any = type(module)(module.config)  # pyrefly: ignore[bad-argument-count]
            for name, buffer in made.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
